"""Ready-made rules that turn metrics into a verdict; a chapter passes them to `Session.claim`.

A rule is a function from {name: Metric} to (verdict, note). The rules about one metric ask where its 95 %
interval lies against the region that the claim asserts:

| metric | verdict |
|---|---|
| the whole interval lies in the region | reproduced |
| the value lies in it, the interval reaches out of it | partly |
| the value lies outside, the interval reaches into the region | not reproduced |
| the whole interval lies outside | contradicted |
| no interval (a single seed), the value lies in the region | partly |
| no interval, the value lies outside | not reproduced |

So one run alone can neither settle a claim nor refute it. A number that has no chance in it (a count, a
closed form) is given the interval low = high = value by the chapter.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from nbpkg.errors import NbpkgError
from nbpkg.report.first_stats import PairedResult
from nbpkg.report.record import CONTRADICTED, NOT_REPRODUCED, NOT_TESTED, PARTLY, REPRODUCED, Metric, number

Rule = Callable[[Mapping[str, Metric]], tuple[str, str]]


def _judge(metric: Metric, inside: Callable[[float], bool], region: str) -> tuple[str, str]:
    if metric.low is None or metric.high is None:
        verdict = PARTLY if inside(metric.value) else NOT_REPRODUCED
        return verdict, f"{number(metric.value)} against {region}; one run, no interval"
    note = f"{number(metric.value)} [{number(metric.low)}, {number(metric.high)}] against {region}"
    low, high = inside(metric.low), inside(metric.high)
    if inside(metric.value):
        return (REPRODUCED if low and high else PARTLY), note
    return (NOT_REPRODUCED if low or high else CONTRADICTED), note


def at_least(name: str, threshold: float) -> Rule:
    """The claim: metric `name` >= threshold."""
    return lambda metrics: _judge(metrics[name], lambda x: x >= threshold, f"at least {number(threshold)}")


def at_most(name: str, threshold: float) -> Rule:
    """The claim: metric `name` <= threshold."""
    return lambda metrics: _judge(metrics[name], lambda x: x <= threshold, f"at most {number(threshold)}")


def greater(name: str, than: float = 0.0) -> Rule:
    """The claim: metric `name`, as a rule a paired difference, is strictly greater than `than`."""
    return lambda metrics: _judge(metrics[name], lambda x: x > than, f"more than {number(than)}")


def smaller(name: str, than: float = 0.0) -> Rule:
    """The claim: metric `name`, as a rule a paired difference, is strictly smaller than `than`."""
    return lambda metrics: _judge(metrics[name], lambda x: x < than, f"less than {number(than)}")


def within(name: str, target: float, tolerance: float) -> Rule:
    """The claim: metric `name` equals `target` up to `tolerance`, both ends included."""
    if tolerance < 0:
        raise ValueError("tolerance must not be negative")
    region = f"{number(target)} ± {number(tolerance)}"

    def rule(metrics):
        metric = metrics[name]
        verdict, note = _judge(metric, lambda x: abs(x - target) <= tolerance, region)
        # An interval wider than the band has both ends outside and may still cover it.
        if verdict == CONTRADICTED and metric.low <= target <= metric.high:
            verdict = NOT_REPRODUCED
        return verdict, note

    return rule


def _combined(rules: tuple[Rule, ...], decide: Callable[[list[str]], str]) -> Rule:
    def rule(metrics):
        if not rules:
            raise ValueError("no rules to combine")
        results = [part(metrics) for part in rules]
        results = [(result, "") if isinstance(result, str) else result for result in results]
        note = "; ".join(note for _, note in results if note)
        return decide([verdict for verdict, _ in results]), note

    return rule


def all_of(*rules: Rule) -> Rule:
    """Every part must hold: the weakest part's verdict (reproduced > partly > not reproduced > contradicted).

    A part that was not tested caps the whole at partly; when none was tested, neither was the whole.
    """

    def weakest(verdicts):
        # A part that was not tested counts as partly.
        tested = [PARTLY if verdict == NOT_TESTED else verdict for verdict in verdicts]
        order = (REPRODUCED, PARTLY, NOT_REPRODUCED, CONTRADICTED)
        return NOT_TESTED if set(verdicts) == {NOT_TESTED} else max(tested, key=order.index)

    return _combined(rules, weakest)


def one_run(rule: Rule) -> Rule:
    """`rule` for metrics of a single trained network, whose intervals speak of draws from it alone.

    They say nothing of other trainings, so the rule sees no intervals: partly or not reproduced.
    """

    return lambda metrics: rule({name: replace(m, low=None, high=None) for name, m in metrics.items()})


def each_of(*rules: Rule) -> Rule:
    """A claim about several cases, of which some may fail: reproduced (contradicted) when all cases are, not
    reproduced when no case is reproduced or partly so, not tested when no case was tested, partly otherwise.
    """

    def shared(verdicts):
        if len(set(verdicts)) == 1:
            return verdicts[0]
        return PARTLY if {REPRODUCED, PARTLY} & set(verdicts) else NOT_REPRODUCED

    return _combined(rules, shared)


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
