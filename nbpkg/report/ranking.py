"""How good a ranking is where it matters: at its top, along a search, and against chance.

Arrays are vectorised over leading axes. Where predictions tie, the earlier position counts as the better one,
so that every measure is a function of its arguments alone.
"""

import numpy as np

from nbpkg.errors import NbpkgError
from nbpkg.report.verdicts import paired_permutation_test

__all__ = [
    "expected_best", "incumbents", "paired_permutation_test", "precision_at_top", "regret_curve", "top",
    "top_k_regret",
]  # fmt: skip


def _pair(prediction, truth) -> tuple[np.ndarray, np.ndarray]:
    prediction, truth = np.asarray(prediction, np.float64), np.asarray(truth, np.float64)
    if prediction.ndim == 0 or truth.ndim == 0 or prediction.shape[-1] != truth.shape[-1]:
        raise NbpkgError(f"last axes differ: {prediction.shape} and {truth.shape}")
    if not (np.isfinite(prediction).all() and np.isfinite(truth).all()):
        raise NbpkgError("predictions and truths must be finite: leave out what was not measured")
    return np.broadcast_arrays(prediction, truth)


def _count(n: int, k: int | None, fraction: float | None) -> int:
    if (k is None) == (fraction is None):
        raise NbpkgError("give either k or fraction")
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise NbpkgError(f"fraction must be above 0 and at most 1, got {fraction}")
        # The small term keeps 0.1 * 30 at 3 where floating point makes it 3.0000000000000004.
        k = max(1, int(np.ceil(fraction * n - 1e-9)))
    if not 1 <= k <= n:
        raise NbpkgError(f"k must be from 1 to {n}, the number of candidates, got {k}")
    return k


def top(values, k: int | None = None, fraction: float | None = None) -> np.ndarray:
    """Positions of the k largest values along the last axis, best first: int64 (..., n) -> (..., k).

    `fraction` instead of k takes that share of the n values, rounded up. Of equal values the earlier position
    comes first. Raises NbpkgError unless exactly one of the two is given and in range.
    """
    values = np.asarray(values, np.float64)
    k = _count(values.shape[-1], k, fraction)
    return np.argsort(-values, axis=-1, kind="stable")[..., :k]


def precision_at_top(prediction, truth, k: int | None = None, fraction: float | None = None):
    """Share of the predicted top k that belongs to the true top k: (..., n), (..., n) -> (...).

    A candidate whose truth equals that of the k-th best belongs to the true top as well. Expected by chance:
    k/n without ties. Raises NbpkgError for shapes that differ, values that are not finite and k out of range.
    """
    prediction, truth = _pair(prediction, truth)
    k = _count(truth.shape[-1], k, fraction)
    least = -np.partition(-truth, k - 1, axis=-1)[..., k - 1 : k]
    chosen = np.take_along_axis(truth, top(prediction, k), axis=-1)
    return (chosen >= least).mean(axis=-1)[()]


def top_k_regret(prediction, truth, k: int = 1):
    """The best truth of all minus the best truth among the predicted top k: (..., n), (..., n) -> (...).

    In the unit of `truth`; 0 when the top k hold an optimum. Raises NbpkgError as `precision_at_top` does.
    """
    prediction, truth = _pair(prediction, truth)
    chosen = np.take_along_axis(truth, top(prediction, _count(truth.shape[-1], k, None)), axis=-1)
    return (truth.max(axis=-1) - chosen.max(axis=-1))[()]


def incumbents(valid) -> np.ndarray:
    """Position of the best so far at each step, of equals the first: (..., steps) -> int64 (..., steps)."""
    valid = np.asarray(valid, np.float64)
    if valid.ndim == 0 or not np.isfinite(valid).all():
        raise NbpkgError("the values of a search must be finite, along at least one axis of steps")
    best = np.maximum.accumulate(valid, axis=-1)
    new = np.diff(best, axis=-1, prepend=-np.inf) > 0
    return np.maximum.accumulate(np.where(new, np.arange(valid.shape[-1]), 0), axis=-1)


def regret_curve(valid, test, optimum: float) -> np.ndarray:
    """Test regret of the incumbent at each step: optimum minus the test value of the best by validation.

    valid, test: values of the candidates in order of evaluation, (..., steps) each, in one unit. optimum: the
    best test value of the space. The curve may rise: what validation prefers need not be better on test.
    Raises NbpkgError for shapes that differ or values that are not finite.
    """
    valid, test = _pair(valid, test)
    return optimum - np.take_along_axis(test, incumbents(valid), axis=-1)


def expected_best(values, steps: int) -> np.ndarray:
    """Expected maximum of the first 1..steps draws without replacement from finite `values`: (steps,).

    Closed form: of n values in ascending order, the i-th (from 1) is the best of m draws with probability
    C(i-1, m-1) / C(n, m). It is what random search reaches on average when it sees the values themselves.
    """
    values = np.sort(np.asarray(values, np.float64).ravel())
    n = len(values)
    if not 1 <= steps <= n:
        raise NbpkgError(f"steps must be from 1 to {n}, the number of values, got {steps}")
    # P(best of m <= i-th) = C(i, m) / C(n, m), from m to m + 1 by the factor (i - m) / (n - m).
    below = np.arange(1, n + 1) / n
    result = np.empty(steps)
    for m in range(1, steps + 1):
        result[m - 1] = values @ np.diff(below, prepend=0.0)
        if m < steps:
            below = below * np.maximum(np.arange(1, n + 1) - m, 0) / (n - m)
    return result
