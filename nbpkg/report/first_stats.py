"""Intervals and paired tests of chapters of the first edition, vectorised over leading axes.

Those of the second judge rows (`nbpkg.report.judging`). Chapters find these in `nbpkg.report.stats`; they go
with the last of the first.
"""

from typing import NamedTuple

import numpy as np

from nbpkg.report.location import LEVEL


class Interval(NamedTuple):
    """A mean with the ends of its confidence interval: floats, or arrays of the batch's shape."""

    mean: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray


class PairedResult(NamedTuple):
    """The mean of a - b, its interval, the two-sided p-value and the number of pairs."""

    difference: float
    low: float
    high: float
    p: float
    n: int


def t_interval(values, axis: int = -1) -> Interval:
    """Mean and Student's 95 % t confidence interval over `axis`, for independent repetitions such as training
    seeds.

    With a single value the ends are nan: one run says nothing about spread. Equal values give an interval of
    width zero.
    """
    from scipy.special import stdtrit

    values = np.asarray(values, dtype=np.float64)
    n = values.shape[axis]
    if n == 0:
        raise ValueError("no values")
    mean, half = values.mean(axis=axis), np.nan
    if n > 1:
        half = stdtrit(n - 1, 0.5 + LEVEL / 2) * values.std(axis=axis, ddof=1) / np.sqrt(n)
    return Interval(mean[()], (mean - half)[()], (mean + half)[()])


def _resampled_means(groups: list[np.ndarray], seed: int, n: int) -> np.ndarray:
    """Means of `n` resamples, (n,): groups are drawn with replacement, then members inside each of them."""
    rng = np.random.default_rng(seed)
    sizes = np.array([len(group) for group in groups])
    padded = np.array([np.pad(group, (0, sizes.max() - len(group))) for group in groups])
    means = np.empty(n)
    chunk = max(1, 4_000_000 // padded.size)  # bounds the working memory at some 100 MB
    for start in range(0, n, chunk):
        m = min(chunk, n - start)
        drawn = rng.integers(len(groups), size=(m, len(groups)))
        counts = sizes[drawn][..., None]
        member = (rng.random((m, len(groups), padded.shape[1])) * counts).astype(np.int64)
        inside = np.arange(padded.shape[1]) < counts
        picked = np.where(inside, padded[drawn[..., None], member], 0.0)
        means[start : start + m] = picked.sum(axis=(1, 2)) / counts.sum(axis=(1, 2))
    return means


def _floats(values) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0:
        raise ValueError("no values")
    return values


def _bootstrap(values: np.ndarray, clusters, seed: int, n: int) -> tuple[Interval, float]:
    """The mean of `values` with its percentile interval, and the two-sided p-value of a mean of zero."""
    values = values.reshape(-1)
    mean = float(values.mean())
    if values.size == 1:
        return Interval(mean, float("nan"), float("nan")), float("nan")
    labels = np.zeros(values.shape) if clusters is None else np.asarray(clusters).reshape(-1)
    if labels.shape != values.shape:
        raise ValueError(f"clusters have shape {labels.shape}, values {values.shape}")
    means = _resampled_means([values[labels == label] for label in np.unique(labels)], seed, n)
    low, high = np.quantile(means, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    tail = min(np.sum(means <= 0), np.sum(means >= 0))
    return Interval(mean, float(low), float(high)), float(min(1.0, 2 * (tail + 1) / (n + 1)))


def bootstrap_interval(values, seed: int, n: int = 10_000, clusters=None) -> Interval:
    """Mean of `values` (any shape, taken flat) with a 95 % percentile bootstrap interval from `n` resamples.

    clusters: labels of the same shape (for example the training seed of each value); they are resampled
    first, then the members inside. A single value gives nan ends. With fewer than about five clusters the
    interval is too narrow; report n of clusters with it.
    """
    return _bootstrap(_floats(values), clusters, seed, n)[0]


def paired_bootstrap(a, b, clusters=None, seed: int = 0, n: int = 10_000) -> PairedResult:
    """Is the mean of a - b different from zero? Bootstrap over pairs (any equal shapes, taken flat).

    clusters: labels of the same shape, for example seeds: resampled first, then the pairs inside
    (hierarchical), because pairs that share a trained network are not independent. p is two-sided, twice the
    smaller share of resampled means on either side of zero (the resamples exactly at zero count on both
    sides), so it agrees with the interval; its smallest value is 2 / (n + 1).
    """
    a, b = _floats(a), _floats(b)
    if a.shape != b.shape:
        raise ValueError(f"pairs differ in shape: {a.shape} and {b.shape}")
    interval, p = _bootstrap(a - b, clusters, seed, n)
    return PairedResult(*interval, p, a.size)


def wilcoxon(a, b) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test on the pairs; 1.0 when no pair differs."""
    import scipy.stats

    difference = (_floats(a) - _floats(b)).reshape(-1)
    return float(scipy.stats.wilcoxon(difference).pvalue) if np.any(difference) else 1.0
