"""Chapter 03's method cells against oracles: plain code, closed forms, finite differences, brute force."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch

from nbpkg import chapters
from nbpkg.data import latency
from nbpkg.data.latency import unit_scale
from nbpkg.nb201 import space as cells
from nbpkg.nets.latency_encoders import ADJACENCY, CellGraphs, encode_cells, encode_vectors, encoder
from nbpkg.report.stats import spearman

PLAN = {"rate": 1e-3, "every": 10, "queries": 60}
HELP = ("embedding", "modulator", "steps")


@pytest.fixture(scope="module")
def ch():
    return chapters.load("03_help")


@pytest.fixture(scope="module")
def toy():
    """Cells on four devices: positive price lists with a little noise."""
    rng = np.random.default_rng(0)
    ops = cells.random(300, seed=2).astype(np.int64)
    counts = cells.counts(ops)
    tables = {d: counts @ rng.random(5) + 1 + 0.05 * rng.random(300) for d in "abcd"}
    flops = counts @ np.array([0.0, 0, 1, 9, 0])
    return latency.LatencySpace(
        "toy", "cell", ops, 5, tables, np.arange(10), ("a", "b", "c"), ("c",), ("d",), 200, 100, flops, flops
    )


def double(values):
    return {name: value.double() for name, value in values.items()}


def stack(parts):
    return {name: torch.stack([p[name] for p in parts]) for name in parts[0]}


def chain_tasks(ch, tasks=3, k=6):
    g = torch.Generator().manual_seed(3)
    theta = double(ch.init_predictor("chain", g))
    alpha = {n: torch.rand(v.shape, generator=g).double() * 0.02 for n, v in theta.items()}
    batch = torch.randint(0, 2, (tasks, k, 132), generator=g).double()
    h, y = (torch.rand(tasks, n, generator=g).double() for n in (10, k))
    return theta, alpha, (batch, h, y)


def test_embedding_by_hand(ch):
    assert np.allclose(ch.embed(np.array([[2.0, 6, 4], [1, 1, 3]])), [[0, 1, 0.5], [0, 0, 1]])


def test_shared_states_equal_the_plain_graph_network(ch):
    g = torch.Generator().manual_seed(0)
    theta = [double(ch.init_predictor("cell", g)) for _ in range(3)]  # other weights for every task
    ops = cells.all_ops()
    index = torch.randint(len(ops), (3, 40), generator=g)
    graphs = CellGraphs(ops)
    for name in ("shared", "self_loops", "own", "gather"):
        setattr(graphs, name, getattr(graphs, name).double())
    slow = [ch.encode_plainly(t, ops[i].astype(int)) for t, i in zip(theta, index, strict=True)]
    assert torch.allclose(encode_cells(stack(theta), graphs(index)), torch.stack(slow), rtol=1e-12)


def test_adjacency_is_the_papers():
    feeds = {0: {1, 2, 4}, 1: {3, 5}, 2: {6}, 3: {6}, 4: {7}, 5: {7}, 6: {7}, 7: set()}
    expected = np.eye(9)
    for source, targets in feeds.items():
        for target in {*targets, 8}:
            expected[target, source] = 1
    assert np.array_equal(ADJACENCY, expected)


@pytest.mark.parametrize("kind, size", [("cell", 123_001), ("chain", 115_201), ("ofa", 116_501)])
def test_sizes_are_the_papers(ch, kind, size):
    g = torch.Generator()
    assert sum(v.numel() for v in ch.init_predictor(kind, g).values()) == size
    assert ch.init_predictor(kind, g, embedding=False)["V4"].shape == (100, 100)  # the authors' narrow head


def test_head_against_one_network_a_task(ch):
    theta, _, (batch, h, _) = chain_tasks(ch)
    out = ch.predict(ch.per_task(stack([theta]), 3), batch, h, encode_vectors)
    r = torch.relu
    for t in range(3):
        g = r(r(batch[t] @ theta["W1"] + theta["b1"]) @ theta["W2"] + theta["b2"])
        u = r(r(h[t] @ theta["U1"] + theta["c1"]) @ theta["U2"] + theta["c2"]).expand(len(g), -1)
        x = r(torch.cat([g, u], 1) @ torch.cat([theta["V3"], theta["V3u"]]) + theta["v3"])
        x = r(x @ theta["V4"] + theta["v4"]) @ theta["V5"] + theta["v5"]
        assert torch.allclose(out[t], x[:, 0])


def test_modulator_is_neutral_at_zero_and_scales_inputs(ch):
    g = torch.Generator().manual_seed(1)
    theta = ch.per_task(stack([ch.init_predictor("cell", g)]), 2)
    same = ch.modulate(theta, torch.zeros(2, ch.Z))
    assert all(torch.equal(same[name], theta[name]) for name in theta)
    z = torch.randn(2, ch.Z, generator=g)
    bent = ch.modulate(theta, z)
    for name, row, at in (("V3", 7, 7), ("V3u", 7, 107), ("V4", 9, 209), ("V5", 5, 405)):
        assert torch.allclose(bent[name][1, row], theta[name][1, row] * (1 + 0.01 * z[1, at]))
    for i, name in enumerate(("v3", "v4", "v5")):
        assert torch.allclose(bent[name][0], theta[name][0] + 0.01 * z[0, 600 + i])
    assert torch.equal(bent["W1"], theta["W1"])


def test_posterior_and_kl_against_torch(ch):
    g = torch.Generator().manual_seed(0)
    phi = ch.per_task(stack([ch.init_modulator(g)]), 4)
    h = torch.rand(4, 10, generator=g)
    mean, deviation = ch.posterior(phi, h)
    raw = torch.relu(h @ phi["P1"][0] + phi["p1"][0]) @ phi["P2"][0] + phi["p2"][0]
    assert torch.allclose(mean, raw[:, : ch.Z], atol=1e-6) and (deviation > 0).all()
    assert torch.allclose(torch.log(torch.expm1(deviation)), raw[:, ch.Z :], atol=1e-4)
    normal = torch.distributions.Normal
    oracle = torch.distributions.kl_divergence(normal(mean, deviation), normal(0.0, 1.0)).sum(-1)
    assert torch.allclose(ch.kl_to_normal(mean, deviation), oracle, rtol=1e-5)


def test_batched_adaptation_equals_one_task_at_a_time(ch):
    theta, alpha, task = chain_tasks(ch)
    rates = ch.per_task(stack([alpha]), 3)
    together = ch.adapt(ch.per_task(stack([theta]), 3), rates, task, encode_vectors, steps=2)
    batch, h, y = task
    for t in range(3):
        one = {name: value.clone().requires_grad_() for name, value in theta.items()}
        for _ in range(2):
            out = ch.predict(
                {n: v[None] for n, v in one.items()}, batch[t : t + 1], h[t : t + 1], encode_vectors
            )
            slopes = torch.autograd.grad((out - y[t]).square().mean(), list(one.values()))
            one = {
                n: (v - alpha[n] * g).detach().requires_grad_()
                for (n, v), g in zip(one.items(), slopes, strict=True)
            }
        assert all(torch.allclose(together[name][t], one[name], rtol=1e-10, atol=1e-12) for name in one)


def test_second_order_gradient_against_finite_differences(ch):
    theta, alpha, (batch, h, y) = chain_tasks(ch, tasks=2)

    def outer(theta, alpha, second_order=True):
        start, rates = (ch.per_task({n: v[None] for n, v in d.items()}, 2) for d in (theta, alpha))
        adapted = ch.adapt(start, rates, (batch, h, y), encode_vectors, 2, second_order)
        return (ch.predict(adapted, batch, h, encode_vectors) - y.flip(1)).square().mean()

    leaves, rates = ({n: v.clone().requires_grad_() for n, v in d.items()} for d in (theta, alpha))
    outer(leaves, rates).backward()
    g = torch.Generator().manual_seed(4)
    for values, gradients in ((theta, leaves), (alpha, rates)):
        direction = {n: torch.randn(v.shape, generator=g).double() for n, v in values.items()}
        step, shifted = 1e-7, []  # so small that hardly any relu changes sides
        for sign in (1, -1):
            moved = {n: v + sign * step * direction[n] for n, v in values.items()}
            shifted.append(outer(*((moved, alpha) if values is theta else (theta, moved)), False))
        numeric = (shifted[0] - shifted[1]).item() / (2 * step)
        exact = sum((gradients[n].grad * direction[n]).sum() for n in values).item()
        assert numeric == pytest.approx(exact, rel=1e-4)


def test_episode_loss_by_hand(ch, toy):
    """Equation (eq-help-outer): the mean query error after adaptation, and the KL terms."""
    model, encoding = ch.init_model([0, 1], "cell", HELP, "cpu"), encoder(toy)
    model = {part: {n: v.requires_grad_() for n, v in d.items()} for part, d in model.items()}
    tasks = next(ch.Episodes(toy, ch.generators_of([0, 1]), 50, "cpu").draw(1))
    index, y, h, noise = tasks
    assert index.shape == (4, 60) and h.shape == (4, 10)  # two seeds, two of three devices each
    total = 0.0
    for t in range(4):
        of = lambda part, seed=t // 2: {n: v[seed][None] for n, v in model[part].items()}  # noqa: E731
        mean, deviation = ch.posterior(of("phi"), h[t : t + 1])
        theta = ch.modulate(of("theta"), mean + deviation * noise[t])
        support = encoding[0](index[t : t + 1, :10]), h[t : t + 1], y[t : t + 1, :10]
        theta = ch.adapt(theta, of("alpha"), support, encoding[1])
        out = ch.predict(theta, encoding[0](index[t : t + 1, 10:]), h[t : t + 1], encoding[1])
        total += (out - y[t, 10:]).square().mean() / 2 + 0.1 * ch.kl_to_normal(mean, deviation).sum()
    assert torch.allclose(ch.episode_loss(model, *encoding, tasks), total, rtol=1e-5)


def test_episodes_draw_from_the_pools_and_nothing_twice(ch, toy):
    episodes, pools = ch.Episodes(toy, ch.generators_of([5]), 50, "cpu"), toy.pools(toy.train)
    for index, y, h, _ in episodes.draw(3):
        for i, labels, embedding in zip(index, y, h, strict=True):
            assert len(set(i.tolist())) == 60
            device = int(np.abs(pools.embedding - embedding.numpy()).sum(1).argmin())
            at = [np.flatnonzero(pools.support[device] == j)[0] for j in i.tolist()]
            assert np.allclose(pools.support_y[device][at], labels.numpy(), atol=1e-6)


def test_seeds_train_together_as_they_do_alone(ch, toy):
    run = lambda seeds: ch.meta_train(seeds, toy, HELP, 20, PLAN)  # noqa: E731
    both = run([0, 1])
    for place, seed in enumerate((0, 1)):
        alone = run([seed])
        assert torch.allclose(both["theta"]["V4"][place], alone["theta"]["V4"][0], atol=1e-5)
        assert np.allclose(both["curve"][:, place], alone["curve"][:, 0], atol=2e-3)
    assert not torch.allclose(both["theta"]["V4"][0], both["theta"]["V4"][1])


def test_meta_training_learns_and_keeps_its_best(ch, toy):
    model, pools = ch.meta_train([0], toy, HELP, 60, PLAN), toy.pools(toy.valid)
    curve = model["curve"][:, 0]
    assert curve.max() > 0.4 > curve[0] + 0.2
    best = 10 * (int(curve.argmax()) + 1)
    picks = ch.draw(pools, 5, 10, [best], 3)
    again = ch.help_published(model, toy, pools, encoder(toy), picks)
    assert again.shape == (1, 1, 5) and again.mean() == pytest.approx(curve.max(), abs=1e-6)


def test_maml_keeps_its_step_size_and_lacks_the_rest(ch, toy):
    model = ch.meta_train([0], toy, (), 10, PLAN)
    assert not model["phi"] and "U1" not in model["theta"]
    assert all((v == 1e-3).all() for v in model["alpha"].values())
    assert any((v != 1e-3).any() for v in ch.meta_train([0], toy, ("steps",), 10, PLAN)["alpha"].values())


def test_few_shot_does_not_depend_on_order_or_company(ch, toy):
    model, encoding = ch.init_model([0], "cell", HELP, "cpu"), encoder(toy)
    g = torch.Generator().manual_seed(0)
    h, y = torch.rand(40, 10, generator=g), torch.rand(40, 10, generator=g)
    index = torch.rand(40, 200, generator=g).argsort(1)
    some, query = index[:, :10], index[:, 10:40]
    out = ch.few_shot(model, encoding, h, some, y, query)
    shuffled = ch.few_shot(model, encoding, h[7:8], some[7:8].flip(1), y[7:8].flip(1), query[7:8].flip(1))
    assert torch.allclose(out[7:8], shuffled.flip(1), atol=1e-5) and out.shape == (40, 30)


def test_denoising_finds_a_price_list(ch, toy):
    clean = toy.relabel(latency={d: cells.counts(toy.ops) @ np.arange(1.0, 6) + 1 for d in "abcd"})
    tables = ch.source_tables(clean)
    noisy = tables + 0.1 * np.random.default_rng(0).standard_normal(tables.shape)
    rank = lambda t: spearman(t[200:, 0], tables[200:, 0])  # noqa: E731
    assert np.allclose(ch.denoise(clean, tables, 1e-6)[200:], tables[200:], atol=0.15)
    assert rank(ch.denoise(clean, noisy)) > rank(noisy)


def test_ridge_closed_form(ch, toy):
    features, rng = toy.counts(), np.random.default_rng(1)
    measured, query = rng.permutation(300)[None, :8], rng.permutation(300)[None, :20]
    y = rng.random((1, 8))
    x = features[measured[0]]
    w = (
        np.linalg.inv((x - x.mean(0)).T @ (x - x.mean(0)) + 0.3 * np.eye(5))
        @ (x - x.mean(0)).T
        @ (y[0] - y.mean())
    )
    expected = y.mean() + (features[query[0]] - x.mean(0)) @ w
    assert np.allclose(ch.ridge(features, measured, y, query, 0.3)[0], expected)


def test_source_mix_and_nearest_find_their_source(ch):
    rng = np.random.default_rng(2)
    tables, measured, query = rng.random((60, 3)), np.arange(10)[None], np.arange(10, 60)[None]
    mixture = tables @ np.array([0.5, 0.0, 2.0]) + 0.3
    assert np.allclose(ch.source_mix(tables, measured, mixture[measured], query), mixture[query], atol=1e-8)
    copy = 3 * tables[:, 1] - 1
    assert np.allclose(ch.nearest_device(tables, measured, copy[measured], query)[0], copy[10:])
    # A device that no source resembles: the least unlike one, never turned round.
    against = ch.nearest_device(tables[:, :1], measured, -tables[measured, 0], query)
    assert spearman(against[0], tables[10:, 0]) == pytest.approx(1)


def test_left_out_error_by_refitting(ch):
    """The error of each measurement by a ridge fitted to the other nine with plain linear algebra."""
    rng = np.random.default_rng(3)
    features, measured, y = rng.standard_normal((40, 4)), rng.permutation(40)[None, :10], rng.random((1, 10))
    errors = []
    for i in range(10):
        rest = np.delete(measured[0], i)
        x, due = features[rest], np.delete(y[0], i)
        centred = x - x.mean(0)
        w = np.linalg.solve(centred.T @ centred + 0.1 * np.eye(4), centred.T @ (due - due.mean()))
        errors.append(due.mean() + (features[measured[0, i]] - x.mean(0)) @ w - y[0, i])
    found = ch.left_out_error(partial(ch.ridge, features), measured, y)
    assert found.shape == (1,) and found[0] == pytest.approx(np.square(errors).mean())


def test_vote_weighs_by_squared_errors(ch):
    """Voters of known error: weights fall with its square, tasks are apart, the floor evens them out."""

    def wrong(by):
        return lambda measured, y, query: np.broadcast_to(by[: len(y), None], query.shape) + 0.0

    by = np.array([[0.3, 0.1], [0.1, 0.2]])  # voter, task; the truth is 0 everywhere
    zeros = np.zeros((2, 10))
    guess, weights = ch.vote([wrong(e) for e in by], zeros, zeros, np.zeros((2, 7)), floor=0.01)
    raw = (by**2 + 0.01) ** -2
    assert np.allclose(weights, raw / raw.sum(0)) and guess.shape == (2, 7)
    assert np.allclose(guess, (weights * by).sum(0)[:, None])


def test_vote_recognises_a_copy_and_a_price_list(ch, toy):
    voters, query = ch.voters_of(toy), toy.pools(toy.test).query
    assert list(voters) == [
        "ridge on counts", "ridge on costs", "nearest device, denoised", "source mix, denoised"
    ]  # fmt: skip
    for truth in (toy.latency["a"], cells.counts(toy.ops) @ np.array([1.0, 9, 1, 2, 5])):
        y = unit_scale(truth[toy.reference][None])
        guess, weights = ch.vote(voters.values(), toy.reference[None], y, query)
        assert spearman(guess[0], truth[query[0]]) > 0.9 and np.allclose(weights.sum(0), 1)
        trusted = list(voters)[weights[:, 0].argmax()]
        assert trusted.endswith("denoised") == (truth is toy.latency["a"])


def test_features_of_the_ridges_have_unit_length(ch):
    x = ch.unit_length(np.random.default_rng(0).random((30, 3)) * [1, 50, 3] + 7, 20)
    assert np.allclose(x[:20].mean(0), 0) and (x[:20] ** 2).sum(1).mean() == pytest.approx(1)


def test_search_by_brute_force(ch):
    rng = np.random.default_rng(5)
    ms, score, limits = rng.random((3, 40)), rng.random(40), np.sort(rng.random((3, 4)), 1)
    limits[0, 0] = -1.0  # nothing fits: the fastest
    found = ch.constrained_search(ms, score, limits)
    for d, i in itertools.product(range(3), range(4)):
        fits = np.flatnonzero(ms[d] <= limits[d, i])
        assert found[d, i] == (fits[score[fits].argmax()] if len(fits) else ms[d].argmin())


def test_limits_lie_between_distinct_latencies(ch):
    ms = np.repeat([1.0, 2.0, 4.0, 7.0], 25)
    limits = ch.limits_between(ms)
    assert len(limits) == 9 and set(limits) <= {1.5, 3.0, 5.5} and (np.diff(limits) >= 0).all()


def test_milliseconds_by_a_line(ch):
    guess = np.array([[0.1, 0.4, 0.9]])
    assert np.allclose(ch.to_milliseconds(guess, 3 + 20 * guess, np.array([[0.5]])), 13)
