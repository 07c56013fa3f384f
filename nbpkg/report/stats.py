"""Correlations, vectorised over leading axes.

scipy.stats takes longer to import than many chapters' smoke runs, so it is imported where it is needed.
"""

import numpy as np

from nbpkg.report.first_stats import Interval, bootstrap_interval, paired_bootstrap, t_interval, wilcoxon

# What chapters of the first edition find here.
__all__ = ["Interval", "bootstrap_interval", "paired_bootstrap", "t_interval", "wilcoxon"]
__all__ += ["kendall_tau_b", "pearson", "rankdata", "spearman"]


def rankdata(values) -> np.ndarray:
    """Ranks 1..n along the last axis, ties by average: (..., n) -> (..., n) float64; nan makes a row nan."""
    import scipy.stats

    values = np.asarray(values)
    if values.ndim == 0:
        raise ValueError("rankdata needs at least one axis")
    return scipy.stats.rankdata(values, axis=-1)


def _pair(a, b) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape[-1:] != b.shape[-1:] or a.ndim == 0:
        raise ValueError(f"last axes differ: {a.shape} and {b.shape}")
    return a, b


def pearson(a, b) -> np.ndarray | float:
    """Pearson's correlation along the last axis, leading axes broadcast; (..., n), (..., n) -> (...).

    nan where an input is constant, holds nan, or n < 2: a constant has no correlation, and saying 0 would
    flatter it.
    """
    a, b = _pair(a, b)
    if a.shape[-1] < 2:
        return np.full(np.broadcast_shapes(a.shape[:-1], b.shape[:-1]), np.nan)[()]
    a_constant, b_constant = np.ptp(a, axis=-1) == 0, np.ptp(b, axis=-1) == 0
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        a = a / np.sqrt(np.sum(a * a, axis=-1, keepdims=True))
        b = b / np.sqrt(np.sum(b * b, axis=-1, keepdims=True))
        result = np.clip(np.einsum("...i,...i->...", a, b), -1.0, 1.0)
    return np.where(a_constant | b_constant, np.nan, result)[()]


def spearman(a, b) -> np.ndarray | float:
    """Spearman's rank correlation along the last axis, ties by average rank; (..., n), (..., n) -> (...).

    Leading axes broadcast, and each input is ranked before it is broadcast, so one truth against many
    predictions is ranked once. nan where an input is constant, holds nan, or n < 2.
    """
    return pearson(rankdata(a), rankdata(b))


def kendall_tau_b(a, b) -> np.ndarray | float:
    """Kendall's tau-b along the last axis, broadcast and nan as `pearson` is; (..., n), (..., n) -> (...)."""
    from scipy.stats import kendalltau

    def tau(a, b):
        return kendalltau(a, b, variant="b").statistic if len(a) > 1 else np.nan

    return np.vectorize(tau, otypes=[float], signature="(n),(n)->()")(*_pair(a, b))[()]
