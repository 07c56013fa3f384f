"""Measures of rankings and searches against brute force, closed forms and scipy."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from nbpkg.errors import NbpkgError
from nbpkg.report import ranking

small = st.lists(st.integers(-5, 5), min_size=2, max_size=9)


@given(st.data(), small)
def test_precision_and_regret_by_brute_force(data, truth):
    prediction = data.draw(st.lists(st.integers(-5, 5), min_size=len(truth), max_size=len(truth)))
    k = data.draw(st.integers(1, len(truth)))
    chosen = sorted(range(len(truth)), key=lambda i: (-prediction[i], i))[:k]
    least = sorted(truth, reverse=True)[k - 1]
    share = sum(truth[i] >= least for i in chosen) / k
    assert ranking.top(prediction, k).tolist() == chosen
    assert ranking.precision_at_top(prediction, truth, k) == pytest.approx(share)
    assert ranking.top_k_regret(prediction, truth, k) == max(truth) - max(truth[i] for i in chosen)


@given(small, st.integers(1, 9))
def test_a_perfect_ranking_is_perfect_and_monotone_maps_change_nothing(truth, k):
    k = min(k, len(truth))
    assert ranking.precision_at_top(truth, truth, k) == 1
    assert ranking.top_k_regret(truth, truth, k) == 0
    other = np.roll(truth, 1)
    assert ranking.precision_at_top(np.exp(other), truth, k) == ranking.precision_at_top(other, truth, k)


def test_by_chance_the_precision_is_k_over_n():
    rng = np.random.default_rng(0)
    truth = rng.permutation(40)
    found = ranking.precision_at_top(rng.random((4000, 40)), truth, 8)
    assert found.shape == (4000,)
    assert found.mean() == pytest.approx(0.2, abs=4 * found.std() / 4000**0.5)


def test_a_fraction_is_rounded_up_and_not_by_floating_point():
    assert ranking.top(np.arange(30), fraction=0.1).tolist() == [29, 28, 27]
    assert ranking.top(np.arange(31), fraction=0.1).tolist() == [30, 29, 28, 27]


@given(small)
def test_incumbents_and_regret_by_brute_force(valid):
    test = [(7 * value + 3 * i) % 11 for i, value in enumerate(valid)]
    best = [max(range(step + 1), key=lambda i: (valid[i], -i)) for step in range(len(valid))]
    assert ranking.incumbents(valid).tolist() == best
    assert ranking.regret_curve(valid, test, 11.0).tolist() == [11 - test[i] for i in best]
    # Runs stand in rows.
    both = ranking.regret_curve([valid, valid[::-1]], [test, test[::-1]], 11.0)
    assert both[0].tolist() == [11 - test[i] for i in best]
    assert both[1].tolist() == ranking.regret_curve(valid[::-1], test[::-1], 11.0).tolist()


def test_chosen_by_the_values_themselves_regret_never_rises():
    values = np.random.default_rng(0).random((50, 30))
    curve = ranking.regret_curve(values, values, 1.0)
    assert (np.diff(curve, axis=-1) <= 0).all()
    np.testing.assert_allclose(curve, 1 - np.maximum.accumulate(values, axis=-1))


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=6))
def test_expected_best_by_enumerating_all_orders(values):
    orders = np.array(list(itertools.permutations(values)), float)
    expected = np.maximum.accumulate(orders, axis=1).mean(axis=0)
    np.testing.assert_allclose(ranking.expected_best(values, len(values)), expected, atol=1e-12)


def test_expected_best_of_a_large_space_stays_finite_and_ends_at_the_optimum():
    values = np.random.default_rng(0).random(15_625)
    curve = ranking.expected_best(values, 500)
    assert (np.diff(curve) > 0).all()
    assert curve[0] == pytest.approx(values.mean())
    assert ranking.expected_best(values[:300], 300)[-1] == pytest.approx(values[:300].max())


def differences(n, shift=0.3):
    rng = np.random.default_rng(n)
    return rng.normal(shift, 1, n), rng.normal(0, 1, n)


def test_the_permutation_test_is_scipys_when_exact():
    a, b = differences(9)
    found = ranking.paired_permutation_test(a, b)
    known = scipy_stats.permutation_test(
        (a, b), lambda x, y, axis: (x - y).mean(axis), permutation_type="samples", n_resamples=np.inf,
        vectorized=True,
    )  # fmt: skip
    assert found.p == pytest.approx(known.pvalue)
    assert found.difference == pytest.approx((a - b).mean())
    assert found.n == 9


def test_the_permutation_test_approximates_the_exact_one():
    a, b = differences(12)
    exact = ranking.paired_permutation_test(a, b, n=2**12)
    drawn = ranking.paired_permutation_test(a, b, n=2**12 - 1)
    assert exact.p != drawn.p
    assert drawn.p == pytest.approx(exact.p, abs=5 * (exact.p * (1 - exact.p) / 4095) ** 0.5)


@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=1, max_size=8))
def test_the_permutation_test_is_symmetric_and_never_zero(pairs):
    a, b = np.array(pairs, float).T
    one, other = ranking.paired_permutation_test(a, b), ranking.paired_permutation_test(b, a)
    assert one.p == other.p
    assert 2.0 ** (1 - len(pairs)) <= one.p or np.any(a == b) or one.p == 1
    assert 0 < one.p <= 1
    assert ranking.paired_permutation_test(a, a).p == 1


def test_many_pairs_that_all_agree_reach_the_smallest_p():
    assert ranking.paired_permutation_test(np.ones(200), np.zeros(200), n=999).p == 1 / 1000


@pytest.mark.parametrize(
    "call",
    [
        lambda: ranking.top([1, 2], k=3),
        lambda: ranking.top([1, 2]),
        lambda: ranking.top([1, 2], k=1, fraction=0.5),
        lambda: ranking.top([1, 2], fraction=0.0),
        lambda: ranking.precision_at_top([1, 2], [1, 2, 3], k=1),
        lambda: ranking.top_k_regret([1, np.nan], [1, 2], k=1),
        lambda: ranking.regret_curve([1, np.inf], [1, 2], 3),
        lambda: ranking.expected_best([1, 2], 3),
        lambda: ranking.paired_permutation_test([1, 2], [1]),
        lambda: ranking.paired_permutation_test([], []),
        lambda: ranking.paired_permutation_test([np.nan], [1]),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(NbpkgError):
        call()
