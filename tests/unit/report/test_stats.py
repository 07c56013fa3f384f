"""Statistics against scipy and brute force."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nbpkg.report import first_stats, stats

# Few distinct values, so that ties are common.
TIED = arrays(
    np.float64, st.tuples(st.integers(1, 3), st.integers(2, 12)), elements=st.integers(-2, 3).map(float)
)


@settings(max_examples=60, deadline=None)
@given(TIED)
def test_rankdata_equals_scipy(values):
    np.testing.assert_array_equal(stats.rankdata(values), scipy.stats.rankdata(values, axis=-1))


def test_rankdata_of_other_inputs():
    assert stats.rankdata(np.array([3, 1, 1], dtype=np.int32)).tolist() == [3, 1.5, 1.5]
    assert stats.rankdata([True, False]).tolist() == [2, 1]
    assert stats.rankdata(np.zeros((2, 0))).shape == (2, 0)
    assert stats.rankdata([[1.0, np.nan], [2.0, 1.0]]).tolist()[1] == [2, 1]
    assert np.isnan(stats.rankdata([[1.0, np.nan], [2.0, 1.0]])[0]).all()
    assert stats.rankdata([-np.inf, np.inf, 0.0, -0.0]).tolist() == [1, 4, 2.5, 2.5]
    with pytest.raises(ValueError):
        stats.rankdata(3.0)


def brute_tau_b(a, b):
    agree = ties_a = ties_b = pairs = 0
    for i in range(len(a)):
        for j in range(i):
            x, y = np.sign(a[i] - a[j]), np.sign(b[i] - b[j])
            agree, ties_a, ties_b, pairs = agree + x * y, ties_a + (x == 0), ties_b + (y == 0), pairs + 1
    scale = np.sqrt(float(pairs - ties_a) * float(pairs - ties_b))
    return agree / scale if scale else np.nan


@settings(max_examples=60, deadline=None)
@given(TIED, st.integers(0, 2**16))
def test_rank_correlations_equal_their_oracles(a, seed):
    b = np.random.default_rng(seed).integers(0, 4, size=a.shape).astype(float)
    rho, tau = stats.spearman(a, b), stats.kendall_tau_b(a, b)
    for row in range(len(a)):
        if len(set(a[row])) == 1 or len(set(b[row])) == 1:
            assert np.isnan(rho[row]) and np.isnan(tau[row])
        else:
            assert rho[row] == pytest.approx(scipy.stats.spearmanr(a[row], b[row]).statistic, abs=1e-12)
            assert tau[row] == pytest.approx(brute_tau_b(a[row], b[row]), abs=1e-12)


@pytest.mark.parametrize("correlation", [stats.spearman, stats.kendall_tau_b, stats.pearson])
def test_correlations_broadcast_and_return_a_float_for_vectors(correlation):
    rng = np.random.default_rng(0)
    truth, guesses = rng.normal(size=30), rng.normal(size=(4, 2, 30))
    batched = correlation(truth, guesses)
    assert batched.shape == (4, 2)
    one_by_one = [[correlation(truth, guess) for guess in row] for row in guesses]
    np.testing.assert_allclose(batched, one_by_one, atol=1e-12)
    assert isinstance(correlation(truth, guesses[0, 0]), float)
    assert correlation(truth, truth) == pytest.approx(1) and correlation(truth, -truth) == pytest.approx(-1)
    with pytest.raises(ValueError, match="last axes"):
        correlation(truth, guesses[..., :-1])


@pytest.mark.parametrize("correlation", [stats.spearman, stats.kendall_tau_b, stats.pearson])
@pytest.mark.parametrize("a", [[1.0, 1.0, 1.0], [1.0, np.nan, 2.0]])
def test_what_has_no_correlation_is_nan(correlation, a):
    assert np.isnan(correlation(a, [1.0, 2.0, 3.0])) and np.isnan(correlation([1.0, 2.0, 3.0], a))
    assert np.isnan(correlation([1.0], [2.0]))


def test_a_constant_that_a_mean_cannot_hold_exactly_is_still_constant():
    assert np.isnan(stats.pearson(np.full(7, 0.1), np.arange(7.0)))


def test_spearman_is_fast_on_batches():
    import time

    rng = np.random.default_rng(0)
    truth, guesses = rng.normal(size=(20, 1, 800)), rng.normal(size=(20, 50, 800))
    started = time.perf_counter()
    rho = stats.spearman(truth, guesses)
    assert time.perf_counter() - started < 5
    assert rho[3, 7] == pytest.approx(scipy.stats.spearmanr(truth[3, 0], guesses[3, 7]).statistic)


def test_t_interval_equals_scipy():
    values = np.random.default_rng(1).normal(size=(5, 4))
    mean, low, high = stats.t_interval(values, axis=0)
    for column in range(4):
        sample = values[:, column]
        expected = scipy.stats.t.interval(0.95, 4, sample.mean(), scipy.stats.sem(sample))
        np.testing.assert_allclose((low[column], high[column]), expected)
        assert mean[column] == pytest.approx(sample.mean())
    np.testing.assert_allclose(stats.t_interval(values.T), stats.t_interval(values, axis=0))
    assert stats.t_interval([2.0, 2.0, 2.0]) == (2.0, 2.0, 2.0)
    mean, low, high = stats.t_interval([3.0])
    assert mean == 3.0 and np.isnan(low) and np.isnan(high)
    with pytest.raises(ValueError):
        stats.t_interval([])


def test_t_interval_covers_the_truth_as_often_as_it_says():
    samples = np.random.default_rng(2).normal(size=(4000, 3))
    _, low, high = stats.t_interval(samples)
    assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(0.95, abs=0.015)


def test_bootstrap_equals_the_exact_distribution_of_a_tiny_sample():
    # Two values: the resampled mean is 0, 1/2, 1 with probability 1/4, 1/2, 1/4.
    assert stats.bootstrap_interval([0.0, 1.0], seed=0) == (0.5, 0.0, 1.0)
    means = first_stats._resampled_means([np.array([0.0, 1.0])], seed=0, n=20_000)
    values, counts = np.unique(means, return_counts=True)
    assert values.tolist() == [0, 0.5, 1]
    np.testing.assert_allclose(counts / 20_000, [0.25, 0.5, 0.25], atol=0.015)


def test_bootstrap_equals_scipy_on_a_larger_sample():
    values = np.random.default_rng(3).exponential(size=60)
    mean, low, high = stats.bootstrap_interval(values, seed=1)
    other = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=10_000, rng=5
    ).confidence_interval
    assert mean == pytest.approx(values.mean())
    np.testing.assert_allclose((low, high), other, atol=0.02)
    assert stats.bootstrap_interval(values, seed=1) == (mean, low, high)
    assert stats.bootstrap_interval(values, seed=2) != (mean, low, high)
    assert np.isnan(stats.bootstrap_interval([1.0], seed=0).low)
    with pytest.raises(ValueError):
        stats.bootstrap_interval([], seed=0)


def test_clusters_are_resampled_before_their_members():
    # All the variance lies between clusters: to ignore them would make the interval far too narrow.
    rng = np.random.default_rng(4)
    labels = np.repeat(np.arange(8), 50)
    values = rng.normal(size=8)[labels] + 0.01 * rng.normal(size=400)
    plain = stats.bootstrap_interval(values, seed=0, n=2000)
    clustered = stats.bootstrap_interval(values, seed=0, n=2000, clusters=labels)
    assert clustered.high - clustered.low > 4 * (plain.high - plain.low)
    centres = [values[labels == label].mean() for label in range(8)]
    between = stats.bootstrap_interval(centres, seed=0, n=2000)
    assert clustered.high - clustered.low == pytest.approx(between.high - between.low, rel=0.1)


def test_unequal_clusters_keep_only_their_own_members():
    groups = [np.array([5.0]), np.array([1.0, 1.0, 1.0])]
    means = first_stats._resampled_means(groups, seed=0, n=4000)
    # Drawn twice each or one of each: (5+5)/2, 1, (5+1+1+1)/4. Padding would bring zeros in.
    assert np.unique(means).tolist() == [1, 2, 5]
    with pytest.raises(ValueError, match="clusters"):
        stats.paired_bootstrap([1.0, 2.0], [0.0, 0.0], clusters=[0])


def test_the_order_of_memory_chunks_changes_nothing_but_the_draws(monkeypatch):
    values = np.arange(1000.0)
    whole = stats.bootstrap_interval(values, seed=0, n=2000)
    wide = stats.bootstrap_interval(np.repeat(values, 10), seed=0, n=2000)  # many chunks
    assert wide.high - wide.low == pytest.approx((whole.high - whole.low) / np.sqrt(10), rel=0.1)


def test_paired_bootstrap_finds_a_difference_and_only_a_difference():
    rng = np.random.default_rng(5)
    a = rng.normal(size=(4, 30))
    better = stats.paired_bootstrap(a + 0.5 + 0.1 * rng.normal(size=a.shape), a)
    assert better.low > 0 and better.p < 0.001 and better.n == 120
    assert better.difference == pytest.approx(0.5, abs=0.05)
    assert stats.paired_bootstrap(a, a).p == 1.0
    with pytest.raises(ValueError, match="shape"):
        stats.paired_bootstrap(a, a[0])


def test_paired_bootstrap_is_antisymmetric():
    rng = np.random.default_rng(6)
    a, b, seeds = rng.normal(size=40), rng.normal(size=40), np.repeat(np.arange(4), 10)
    there, back = stats.paired_bootstrap(a, b, seeds, n=4000), stats.paired_bootstrap(b, a, seeds, n=4000)
    assert there.difference == -back.difference and there.p == back.p
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-12)


def test_p_values_under_no_difference_are_uniform_enough():
    rng = np.random.default_rng(7)
    ps = np.array(
        [stats.paired_bootstrap(rng.normal(size=50), np.zeros(50), n=400, seed=i).p for i in range(400)]
    )
    assert np.mean(ps < 0.1) == pytest.approx(0.1, abs=0.05)
    assert np.mean(ps < 0.5) == pytest.approx(0.5, abs=0.09)


def test_p_agrees_with_the_interval():
    rng = np.random.default_rng(8)
    for shift in (0.0, 0.2, 0.35, 0.5):
        result = stats.paired_bootstrap(rng.normal(size=40) + shift, np.zeros(40))
        assert (result.p < 0.049) <= (result.low > 0 or result.high < 0)
        assert (result.p > 0.052) <= (result.low <= 0 <= result.high)


def test_wilcoxon_equals_scipy():
    rng = np.random.default_rng(9)
    a, b = rng.normal(size=25) + 0.3, rng.normal(size=25)
    assert stats.wilcoxon(a, b) == pytest.approx(scipy.stats.wilcoxon(a, b).pvalue)
    assert stats.wilcoxon(a, a) == 1.0


def test_importing_the_module_does_not_import_scipy():
    import subprocess
    import sys

    code = "import sys, nbpkg.report.stats; assert 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
