"""How good a ranking is where it matters: at its top, along a search, and against chance.

Arrays are vectorised over leading axes. Where predictions tie, the earlier position counts as the better one,
so that every measure is a function of its arguments alone.
"""

import numpy as np

from nbpkg.errors import NbpkgError
from nbpkg.report.stats import PairedResult


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


def paired_permutation_test(a, b, n: int = 10_000, seed: int = 0) -> PairedResult:
    """Is the mean of a - b different from zero? Two-sided test by flipping the signs of the differences.

    All 2**pairs sign patterns are enumerated when they are at most n; else n random ones are drawn, and the
    observed one is counted with them, so that p is never 0. The interval's ends are nan: the test gives none.
    a, b: equal shapes, taken flat. Raises NbpkgError when shapes differ, nothing is given or a value is not
    finite.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.size == 0:
        raise NbpkgError(f"pairs need equal shapes and at least one pair, got {a.shape} and {b.shape}")
    difference = (a - b).ravel()
    if not np.isfinite(difference).all():
        raise NbpkgError("a pair holds a value that is not finite")
    pairs = difference.size
    observed = abs(difference.sum())
    # Sums that equal the observed one but for rounding count as equal.
    limit = observed - 1e-12 * np.abs(difference).sum()
    if pairs < 60 and 2**pairs <= n:
        signs = 1.0 - 2.0 * (np.arange(2**pairs)[:, None] >> np.arange(pairs) & 1)
        p = float(np.mean(np.abs(signs @ difference) >= limit))
    else:
        rng = np.random.default_rng(seed)
        hits, chunk = 0, max(1, 4_000_000 // pairs)  # bounds the working memory at some 30 MB
        for start in range(0, n, chunk):
            flips = rng.integers(0, 2, (min(chunk, n - start), pairs), dtype=np.int8)
            hits += int(np.sum(np.abs((1 - 2 * flips) @ difference) >= limit))
        p = (hits + 1) / (n + 1)
    return PairedResult(float(difference.mean()), float("nan"), float("nan"), p, pairs)
