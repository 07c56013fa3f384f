"""Where the centre of repeated values lies: estimates, with intervals and p-values that agree."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

LEVEL = 0.95  # of every interval
#: The tests that a claim may choose, in words. The second is for heavy tails, the third for symmetric ones.
TESTS = {"t": "t", "sign": "median, sign test", "rank": "Hodges-Lehmann, signed ranks"}


@dataclass(frozen=True)
class Location:
    """The centre of `values`, (n,): a mean, a median, or the median of pairwise means, by `test`."""

    values: np.ndarray
    test: str = "t"

    @property
    def spreads(self) -> bool:
        """Whether the values differ at all: equal repetitions say nothing of others."""
        return len(self.values) > 1 and np.ptp(self.values) > 1e-9 * np.abs(self.values).max()

    @property
    def estimate(self) -> float:
        return float(self.values.mean() if self.test == "t" else np.median(self._pool[0]))

    @cached_property
    def _pool(self) -> tuple[np.ndarray, np.ndarray]:
        """What a rank test orders, sorted; P(at most k of it lie below the centre), k = 0 to its size."""
        from scipy.stats import binom

        pool, n = self.values, len(self.values)
        law = binom.pmf(np.arange(n + 1), n, 0.5)
        if self.test == "rank":  # Walsh averages; the law of signed ranks by convolution
            pool, law = np.add(*self.values[np.array(np.triu_indices(n))]) / 2, np.ones(1)
            for rank in range(1, n + 1):
                law = np.convolve(law, np.bincount([0, rank]) / 2)
        return np.sort(pool), np.minimum(np.cumsum(law), 1.0)

    def tail(self, value: float, sign: int) -> float:
        """The one-sided p-value against a centre at `value`: for one above it (sign 1) or below it (-1)."""
        if self.test == "t":
            from scipy.stats import ttest_1samp

            side = "greater" if sign > 0 else "less"
            return float(ttest_1samp(self.values, value, alternative=side).pvalue)
        pool, below = self._pool
        return float(below[np.sum(sign * pool <= sign * value)])

    def interval(self, alpha: float) -> tuple[float, float]:
        """The two-sided interval at error rate `alpha`; infinite where so few values allow none."""
        if self.test == "t":
            from scipy.stats import ttest_1samp

            return tuple(map(float, ttest_1samp(self.values, 0.0).confidence_interval(1 - alpha)))
        pool, below = self._pool
        k = int(np.searchsorted(below, alpha / 2, side="right"))
        return (float(pool[k - 1]), float(pool[-k])) if k else (-np.inf, np.inf)
