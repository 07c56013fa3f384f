"""Chapter 00's method cells against oracles: plain loops, closed forms, brute force, known noise."""

import itertools

import numpy as np
import pytest

from nbpkg import chapters
from nbpkg.nb201 import space
from nbpkg.report import ranking
from nbpkg.report.stats import kendall_tau_b


@pytest.fixture(scope="module")
def ch():
    return chapters.load("00_foundations")


@pytest.fixture(scope="module")
def near():
    return space.index(space.neighbours(space.all_ops()))


@pytest.fixture(scope="module")
def bench():
    """Accuracies that grow with operations on live edges, with noise of known size."""
    rng = np.random.default_rng(0)
    ops = space.all_ops()
    live = np.where(space.live_edges(ops), ops, 0)
    worth = np.array([0.0, 1.0, 2.0, 4.0, 0.5])
    truth = 60 + worth[live].sum(1) + 0.3 * live[:, 0] * live[:, 5]
    return truth + rng.normal(0, 0.5, len(ops)), truth + rng.normal(0, 0.5, len(ops))


# ---------------------------------------------------------------- cells and rankings


def test_drawing_lists_edges_but_not_none(ch):
    cell = space.encode("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|none~2|")
    assert ch.drawing(cell) == [(0, 1, "3x3", False), (1, 2, "skip", False), (0, 3, "pool", True)]
    assert all(len(ch.drawing(ops)) == (ops > 0).sum() for ops in space.random(50, seed=0))


def test_jackknife_of_a_mean_is_the_t_interval(ch):
    from scipy.stats import t

    values = np.random.default_rng(0).normal(size=20)
    value, low, high = ch.jackknife(lambda keep: values[keep].mean(), np.arange(20))
    expected = t.interval(0.95, 19, values.mean(), values.std(ddof=1) / np.sqrt(20))
    assert value == pytest.approx(values.mean()) and (low, high) == pytest.approx(expected)


def test_jackknife_leaves_a_group_out_as_a_whole(ch):
    groups = np.repeat(np.arange(40), 3)
    seen = []
    ch.jackknife(lambda keep: seen.append(keep) or 0.0, groups)
    assert len(seen) == 21 and seen[0].all()
    for keep in seen[1:]:
        assert not set(groups[keep]) & set(groups[~keep]) and (~keep).any()
    assert (np.sum([~keep for keep in seen[1:]], 0) == 1).all()


@pytest.mark.parametrize("n", [10, 99, 1000])
def test_top_tenth(ch, n):
    values = np.random.default_rng(n).permutation(n).astype(float)
    mask = ch.top_tenth(values)
    assert mask.sum() == n // 10 and values[mask].min() > values[~mask].max()
    assert ch.top_tenth(np.ones(50)).all()


# ---------------------------------------------------------------- ridge


def test_indicators_by_hand(ch):
    cell = np.array([[3, 0, 2, 0, 0, 4]])  # 0-1 3x3, 1-2 1x1, 2-3 pool: one path, all live
    hot = ch.indicators(cell).reshape(6, 5)
    assert hot.argmax(1).tolist() == [3, 0, 2, 0, 0, 4] and (hot.sum(1) == 1).all()
    dead = np.array([[3, 0, 0, 1, 0, 4]])  # only 0-3 is live
    assert ch.indicators(dead).reshape(6, 5).argmax(1).tolist() == [0, 0, 0, 1, 0, 0]
    assert ch.indicators(dead, live=False).reshape(6, 5).argmax(1).tolist() == dead[0].tolist()


def test_pairs_are_the_products(ch):
    ops = space.random(5, seed=3)
    x = ch.indicators(ops, pairs=True)
    assert x.shape == (5, 30 + 15 * 25) and (x[:, 30:].sum(1) == 15).all()
    hot = x[:, :30].reshape(5, 6, 5)
    pairs = [(i, j) for i in range(6) for j in range(i)]
    for p, (i, j) in enumerate(pairs):
        block = x[:, 30 + 25 * p : 55 + 25 * p].reshape(5, 5, 5)
        assert np.array_equal(block, hot[:, i, :, None] * hot[:, j, None, :])


@pytest.mark.parametrize("d", [4, 40])  # more rows than features, and fewer
def test_ridge_against_scikit_learn(ch, d):
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(d)
    x, picks = rng.normal(size=(60, d)), np.stack([rng.permutation(60)[:20] for _ in range(3)])
    target = rng.normal(size=(3, 20))
    found = ch.ridge(x, picks, target, penalty=0.7)
    for run in range(3):
        fit = Ridge(alpha=0.7).fit(x[picks[run]], target[run])
        assert np.allclose(found[run], fit.predict(x) - target[run].mean(), atol=1e-8)


def test_normal_scores_depend_on_ranks_alone(ch):
    values = np.array([[1.0, 5.0, 2.0, 2.0], [0.0, 9.0, 0.1, 0.1]])
    scores = ch.normal_scores(values)
    assert np.allclose(scores[0], scores[1]) and scores[0, 2] == scores[0, 3]
    assert np.allclose(ch.normal_scores(np.arange(9.0)).sum(), 0)


# ---------------------------------------------------------------- noise


def test_noise_is_found_and_depends_on_the_level(ch):
    rng = np.random.default_rng(0)
    level = np.repeat(rng.uniform(0, 10, 4000), 3)
    groups, sd = np.repeat(rng.permutation(4000), 3), np.where(level > 5, 0.2, 0.8)
    overall, centres, sds = ch.noise(level + sd * rng.normal(size=12000), groups)
    assert overall == pytest.approx(np.sqrt((0.2**2 + 0.8**2) / 2), rel=0.03)
    assert sds[:4] == pytest.approx(0.8, rel=0.06) and sds[-4:] == pytest.approx(0.2, rel=0.06)
    assert (np.diff(centres) > 0).all()


def test_noise_ignores_what_was_measured_once(ch):
    values, groups = np.array([1.0, 3.0, 100.0]), np.array([0, 0, 1])
    assert ch.noise(values, groups, levels=1)[0] == pytest.approx(np.sqrt(2))


def test_twins_are_different_measurements_of_one_group(ch):
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 30, 80)
    pairs = ch.twins(np.zeros(80), groups, rng)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert np.array_equal(groups[pairs[:, 0]], groups[pairs[:, 1]])
    assert sorted(groups[pairs[:, 0]]) == np.flatnonzero(np.bincount(groups) > 1).tolist()


@pytest.mark.parametrize("sd", [0.1, 0.5])
def test_the_ceiling_is_that_of_the_hidden_truth(ch, sd):
    rng = np.random.default_rng(1)
    truth = np.concatenate([rng.normal(0, 2, 6000), rng.uniform(1, 3, 4000)])
    first, second = truth + sd * rng.normal(size=(2, len(truth)))
    found = ch.ceilings(first, lambda level: np.full(np.shape(level), sd), rng, repeats=3)
    top = ch.top_tenth(first)
    for where, keep in (("all", slice(None)), ("top", top)):
        expected = [kendall_tau_b(x[keep], first[keep]) for x in (truth, second)]
        assert found[where].mean(0) == pytest.approx(expected, abs=0.035)


def test_unblurred_shares_add_to_one_and_are_narrower(ch):
    rng = np.random.default_rng(2)
    observed = rng.normal(0, 1, 5000) + rng.normal(0, 1, 5000)
    levels, shares, edges, blur = ch.unblur(observed, lambda level: np.ones_like(level))
    assert shares.sum() == pytest.approx(1) and (shares >= 0).all() and len(edges) == len(levels) + 1
    assert np.allclose(blur.sum(0), 1)
    assert shares @ levels**2 - (shares @ levels) ** 2 == pytest.approx(1, abs=0.15)


# ---------------------------------------------------------------- searches


def test_random_search_by_enumeration(ch):
    valid, test = np.array([3.0, 1.0, 4.0, 1.5, 9.0, 2.0]), np.array([7.0, 8.0, 2.0, 5.0, 6.0, 1.0])
    for m in (1, 2, 3, 6):
        held = [test[max(draw, key=valid.__getitem__)] for draw in itertools.combinations(range(6), m)]
        assert ch.random_exactly(valid, test, 6)[m - 1] == pytest.approx(np.mean(held))


def test_random_search_that_sees_the_truth_is_the_packages_closed_form(ch, bench):
    assert np.allclose(ch.random_exactly(bench[1], bench[1], 50), ranking.expected_best(bench[1], 50))


def test_random_orders_hold_nothing_twice_and_agree_with_the_exact_curve(ch, bench):
    valid, test = bench
    orders = ch.random_orders(3000, 40, len(valid), seed=0)
    assert all(len(set(row)) == 40 for row in orders[:200].tolist())
    curve = test.max() - ranking.regret_curve(valid[orders], test[orders], test.max())
    z = (curve.mean(0) - ch.random_exactly(valid, test, 40)) / (curve.std(0) / np.sqrt(3000))
    assert np.abs(z).max() < 4.5


def evolve_slowly(valid, start, steps, near, seed, sample):
    """The same draws, one run at a time, with a population that is a list."""
    rng, (runs, size) = np.random.default_rng(seed), start.shape
    history, populations = [list(row) for row in start], [list(row) for row in start]
    for _ in range(steps - size):
        draws, change = rng.integers(size, size=(runs, sample)), rng.integers(near.shape[1], size=runs)
        for run in range(runs):
            candidates = [populations[run][i] for i in draws[run]]
            child = int(near[max(candidates, key=lambda cell: valid[cell]), change[run]])
            populations[run] = [*populations[run][1:], child]  # the oldest dies
            history[run].append(child)
    return np.array(history)


def test_evolution_against_a_plain_loop(ch, bench, near):
    start = ch.random_orders(5, 7, len(bench[0]), seed=1)
    found = ch.evolve(bench[0], start, 60, near, seed=2, sample=3)
    assert np.array_equal(found, evolve_slowly(bench[0], start, 60, near, 2, 3))


def test_every_child_is_a_neighbour_of_one_of_the_population(ch, bench, near):
    order = ch.evolve(bench[0], ch.random_orders(4, 10, len(bench[0]), 0), 80, near, seed=0)
    assert order.shape == (4, 80)
    for row in order:
        for step in range(10, 80):
            assert np.isin(row[step], near[row[step - 10 : step]])


def test_local_search_evaluates_nothing_twice_and_only_neighbours_or_restarts(ch, bench, near):
    fresh = ch.random_orders(6, 250, len(bench[0]), seed=0)
    order = ch.climb(bench[0], fresh, near, seed=0)
    for run, row in enumerate(order):
        assert len(set(row.tolist())) == 250 and row[0] == fresh[run, 0]
        at, known = row[0], {int(row[0])}
        for cell in row[1:].tolist():
            open_ = [n for n in near[at].tolist() if n not in known]
            if open_:  # as long as a neighbour is new, one of them is next
                assert cell in open_
                at = cell if bench[0][cell] > bench[0][at] else at
            else:  # then the next new cell of the run's random order
                assert cell == next(c for c in fresh[run].tolist() if c not in known)
                at = cell
            known.add(cell)


def test_local_search_reaches_an_optimum_before_it_restarts(ch, bench, near):
    fresh = ch.random_orders(3, 120, len(bench[0]), seed=5)
    order = ch.climb(bench[0], fresh, near, seed=1)
    for run in range(3):
        restart = next(
            step for step in range(1, 120) if not np.isin(order[run, step], near[order[run, :step]])
        )
        best = order[run, :restart][bench[0][order[run, :restart]].argmax()]
        assert (bench[0][near[best]] <= bench[0][best]).all()


def test_ridge_search_evaluates_what_it_expects_most_of(ch, bench):
    x, fresh = ch.indicators(space.all_ops()), ch.random_orders(3, 120, len(bench[0]), seed=0)
    order = ch.ridge_search(bench[0], fresh, x, first=50, batch=25)
    assert np.array_equal(order[:, :50], fresh[:, :50]) and order.shape == (3, 120)
    for row in order:
        assert len(set(row.tolist())) == 120
        guess = ch.ridge(x, row[None, :50], ch.normal_scores(bench[0][row[None, :50]]))[0]
        guess[row[:50]] = -np.inf
        assert set(row[50:75]) <= set(np.flatnonzero(guess >= np.sort(guess)[-25]))
    assert ranking.regret_curve(bench[0][order], bench[0][order], bench[0].max())[:, -1].max() < 5


# ---------------------------------------------------------------- tasks and zoo


def test_task_distances_are_euclidean_in_standard_units(ch):
    means = np.random.default_rng(0).normal(size=(6, 9)) * 5 + 2
    z = (means - means.mean(0)) / means.std(0)
    expected = np.linalg.norm(z[:, None] - z[None], axis=-1)
    assert np.allclose(ch.task_distances(means), expected, atol=1e-6)


def test_scaling_recovers_points_of_a_plane(ch):
    points = np.random.default_rng(0).normal(size=(8, 2))
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    plane, kept = ch.scaling(distances)
    assert np.allclose(np.linalg.norm(plane[:, None] - plane[None], axis=-1), distances)
    assert kept == pytest.approx(1)


def test_agreement_and_best_on_average(ch):
    valid = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [1.0, 3.0, 2.0]])
    tau = ch.agreement(valid, valid)
    assert np.allclose(np.diag(tau), 1) and tau[0, 1] == -1 and tau[2, 0] == pytest.approx(1 / 3)
    assert ch.best_on_average(valid, np.array([True, False, False])) == 2
    assert ch.best_on_average(valid, np.array([False, True, False])) == 0
    # One task of huge differences does not outvote two: ranks are averaged, not accuracies.
    loud = np.array([[100.0, 0.0, 1.0], [1.0, 3.0, 2.0], [1.0, 3.0, 2.0]])
    assert ch.best_on_average(loud, np.ones(3, bool)) == 1


def test_mantel_sees_a_link_and_only_that(ch):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(14, 2))
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    linked, p = ch.mantel(distance, -distance + 0.1 * (distance + distance.T), n=199)
    assert linked == pytest.approx(1) and p == pytest.approx(1 / 200)
    chance = [ch.mantel(distance, (a + a.T), n=99)[1] for a in rng.normal(size=(40, 14, 14))]
    assert 0.3 < np.mean(chance) < 0.7
