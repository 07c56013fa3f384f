"""Chapter 03's method cells against oracles: plain code, closed forms, finite differences, brute force."""

import itertools

import numpy as np
import pytest
import torch

from nbpkg import chapters
from nbpkg.data import latency
from nbpkg.nb201 import space as cells
from nbpkg.report.stats import spearman


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


def double(theta):
    return {name: value.double() for name, value in theta.items()}


def test_shared_states_equal_the_plain_graph_network(ch):
    generator = torch.Generator().manual_seed(0)
    theta = [double(ch.init_predictor("cell", generator)) for _ in range(3)]  # other weights for every task
    ops = cells.all_ops()
    index = torch.randint(len(ops), (3, 40), generator=generator)
    graphs = ch.CellGraphs(ops)
    for name in ("shared", "self_loops", "own", "gather"):
        setattr(graphs, name, getattr(graphs, name).double())
    stacked = {name: torch.stack([t[name] for t in theta]) for name in theta[0]}
    fast = ch.encode_cells(stacked, graphs(index))
    slow = torch.stack([ch.encode_plainly(t, ops[i].astype(int)) for t, i in zip(theta, index, strict=True)])
    assert torch.allclose(fast, slow, rtol=1e-12, atol=1e-14)


def test_adjacency_is_the_papers(ch):
    feeds = {0: {1, 2, 4}, 1: {3, 5}, 2: {6}, 3: {6}, 4: {7}, 5: {7}, 6: {7}, 7: set()}
    expected = np.eye(9)
    for source, targets in feeds.items():
        for target in {*targets, 8}:
            expected[target, source] = 1
    assert np.array_equal(ch.ADJACENCY, expected)


def test_chain_encoding_by_hand(ch):
    table = ch.Chains(np.array([[0, 3, 4, 7, 8] + [8] * 17])).table.reshape(22, 6)
    hand = [[1, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 1], [0, 1, 1, 0, 0, 0], [0, 1, 0, 0, 0, 1], [0] * 6]
    assert table[:5].tolist() == hand and not table[5:].any()


@pytest.mark.parametrize("kind, size", [("cell", 123_001), ("chain", 115_201)])
def test_sizes_are_the_papers(ch, kind, size):
    assert sum(v.numel() for v in ch.init_predictor(kind, torch.Generator()).values()) == size


def test_modulator_is_neutral_at_zero_and_exact_elsewhere(ch):
    generator = torch.Generator().manual_seed(1)
    theta = ch.stacked(ch.init_predictor("cell", generator), 2)
    same = ch.modulate(theta, torch.zeros(2, ch.Z))
    assert all(torch.equal(same[name], theta[name].expand_as(same[name])) for name in theta)
    z = torch.randn(2, ch.Z, generator=generator)
    bent = ch.modulate(theta, z)
    assert torch.allclose(bent["V4"][1, :, 7], theta["V4"][1, :, 7] * (1 + 0.01 * z[1, 200 + 7]))
    assert torch.allclose(bent["V5"][1, 7, 0], theta["V5"][1, 7, 0] * (1 + 0.01 * z[1, 400 + 7]))
    assert torch.allclose(bent["v5"][0], theta["v5"][0] + 0.01 * z[0, 602])
    assert torch.equal(bent["W1"], theta["W1"])


def test_kl_against_torch(ch):
    generator = torch.Generator().manual_seed(0)
    mean, deviation = (
        torch.randn(4, ch.Z, generator=generator),
        torch.rand(4, ch.Z, generator=generator) + 0.1,
    )
    normal = torch.distributions.Normal
    oracle = torch.distributions.kl_divergence(normal(mean, deviation), normal(0.0, 1.0)).sum(-1)
    assert torch.allclose(ch.kl_to_normal(mean, deviation), oracle, rtol=1e-5)


def chain_tasks(ch, tasks=3, k=6):
    generator = torch.Generator().manual_seed(3)
    theta = double(ch.init_predictor("chain", generator))
    alpha = {
        name: torch.rand(value.shape, generator=generator).double() * 0.02 for name, value in theta.items()
    }
    batch = torch.randint(0, 2, (tasks, k, 132), generator=generator).double()
    h, y = (
        torch.rand(tasks, 10, generator=generator).double(),
        torch.rand(tasks, k, generator=generator).double(),
    )
    return theta, alpha, batch, h, y


def test_batched_adaptation_equals_one_task_at_a_time(ch):
    theta, alpha, batch, h, y = chain_tasks(ch)
    together = ch.adapt(ch.stacked(theta, 3), alpha, batch, h, y, ch.encode_chains, steps=2)
    for t in range(3):
        one = {name: value.clone().requires_grad_() for name, value in theta.items()}
        for _ in range(2):
            stack = {name: value[None] for name, value in one.items()}
            loss = (
                (ch.predict(stack, batch[t : t + 1], h[t : t + 1], ch.encode_chains) - y[t]).square().mean()
            )
            slopes = torch.autograd.grad(loss, list(one.values()))
            one = {
                n: (v - alpha[n] * g).detach().requires_grad_()
                for (n, v), g in zip(one.items(), slopes, strict=True)
            }
        assert all(torch.allclose(together[name][t], one[name], rtol=1e-10, atol=1e-12) for name in one)


def test_second_order_gradient_against_finite_differences(ch):
    theta, alpha, batch, h, y = chain_tasks(ch, tasks=2)

    def outer(theta, alpha, second_order=True):
        adapted = ch.adapt(ch.stacked(theta, 2), alpha, batch, h, y, ch.encode_chains, 2, second_order)
        return (ch.predict(adapted, batch, h, ch.encode_chains) - y.flip(1)).square().mean()

    leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
    rates = {name: value.clone().requires_grad_() for name, value in alpha.items()}
    outer(leaves, rates).backward()
    generator = torch.Generator().manual_seed(4)
    for values, gradients in ((theta, leaves), (alpha, rates)):
        direction = {n: torch.randn(v.shape, generator=generator).double() for n, v in values.items()}
        step, shifted = 1e-7, []  # so small that hardly any relu changes sides
        for sign in (1, -1):
            moved = {n: v + sign * step * direction[n] for n, v in values.items()}
            shifted.append(
                outer(*((moved, alpha) if values is theta else (theta, moved)), second_order=False)
            )
        numeric = (shifted[0] - shifted[1]).item() / (2 * step)
        exact = sum((gradients[n].grad * direction[n]).sum() for n in values).item()
        assert numeric == pytest.approx(exact, rel=1e-4)


def test_first_order_keeps_no_graph_and_agrees_in_value(ch):
    theta, alpha, batch, h, y = chain_tasks(ch)
    plain = ch.adapt(ch.stacked(theta, 3), alpha, batch, h, y, ch.encode_chains, 2)
    leaves = {n: v.expand(3, *v.shape).clone().requires_grad_() for n, v in theta.items()}
    full = ch.adapt(leaves, alpha, batch, h, y, ch.encode_chains, 2, second_order=True)
    assert all(v.grad_fn is None for v in plain.values())
    assert all(torch.allclose(plain[name], full[name]) for name in plain)


def test_order_of_measurements_and_of_queries_does_not_matter(ch, toy):
    generator = torch.Generator().manual_seed(0)
    theta, phi = ch.init_predictor("cell", generator), ch.init_modulator(generator)
    model = {"theta": theta, "phi": phi, "alpha": {n: torch.full_like(v, 0.01) for n, v in theta.items()}}
    pools, graphs = toy.pools(toy.test), ch.CellGraphs(toy.ops)
    h, support, y, query = ch.tensors(
        "cpu", pools.embedding, pools.support[:, :10], pools.support_y[:, :10], pools.query
    )
    one = ch.few_shot(model, graphs, ch.encode_cells, h, support, y, query)
    two = ch.few_shot(model, graphs, ch.encode_cells, h, support.flip(1), y.flip(1), query.flip(1)).flip(1)
    assert torch.allclose(one, two, rtol=1e-4, atol=1e-6)


def test_meta_training_learns_and_repeats_itself(ch, toy):
    run = lambda: ch.meta_train(0, toy, episodes=30, rate=3e-3, every=10)  # noqa: E731
    first, second = run(), run()
    assert np.array_equal(first["curve"], second["curve"])
    assert all(torch.equal(first["theta"][n], second["theta"][n]) for n in first["theta"])
    assert first["episode"] == first["curve"][first["curve"][:, 2].argmax(), 0]
    assert first["curve"][:, 2].max() > 0.6


def test_maml_keeps_its_step_size_and_lacks_the_rest(ch, toy):
    model = ch.meta_train(0, toy, 4, 1e-3, 2, embedding=False, modulated=False, learned_steps=False)
    assert (
        all((v == 1e-3).all() for v in model["alpha"].values())
        and not model["phi"]
        and "U1" not in model["theta"]
    )
    assert any((v != 1e-3).any() for v in ch.meta_train(0, toy, 4, 1e-3, 2)["alpha"].values())


def test_ridge_closed_forms(ch, toy):
    rng = np.random.default_rng(0)
    features, w = rng.standard_normal((60, 4)), rng.standard_normal(4)
    y = features @ w + 3
    measured, query = np.arange(10)[None], np.arange(10, 60)[None]
    assert np.allclose(ch.ridge(features, measured, y[measured], query, 1e-10), y[query])
    flat = ch.ridge(features, measured, y[measured], query, 1e12)
    assert np.allclose(flat, y[measured].mean(), atol=1e-6)
    towards = ch.ridge(
        features, measured, y[measured], query, 1e12, prior=5 * w
    )  # the prior's scale is fitted
    assert np.allclose(towards, y[query], atol=1e-6)


def test_source_mix_finds_a_mixture(ch):
    tables = np.random.default_rng(0).random((50, 4))
    truth = tables @ np.array([0.2, 0.0, 0.7, 0.0]) + 0.3
    measured, query = np.arange(12)[None], np.arange(12, 50)[None]
    assert spearman(ch.source_mix(tables, measured, truth[measured], query), truth[query])[
        0
    ] == pytest.approx(1)


def test_evidence_ridge_against_a_loop_over_the_grid(ch):
    rng = np.random.default_rng(0)
    blocks = [rng.standard_normal((40, 3)), rng.standard_normal((40, 2))]
    measured, query, y = np.arange(8), np.arange(8, 40), rng.standard_normal(8)
    fast = ch.evidence_ridge([b[measured] for b in blocks], y, [b[query] for b in blocks])
    target, weights, means = (y - y.mean()) / y.std(), [], []
    for w, noise in zip(*ch.weight_grid(2), strict=True):
        kernel = sum(v * b @ b.T for v, b in zip(w, blocks, strict=True)) + 100.0
        C = kernel[np.ix_(measured, measured)] + noise * np.eye(8)
        weights.append(np.exp(-0.5 * target @ np.linalg.solve(C, target) - 0.5 * np.linalg.slogdet(C)[1]))
        means.append((kernel - 100.0)[np.ix_(query, measured)] @ np.linalg.solve(C, target))
    assert np.allclose(fast, np.average(means, axis=0, weights=weights), atol=1e-8)


def test_evidence_ridge_prefers_the_block_that_explains(ch):
    rng = np.random.default_rng(1)
    good, noise = rng.standard_normal((300, 2)), rng.standard_normal((300, 2))
    y = good @ np.array([1.0, -2.0])
    measured, query = np.arange(10), np.arange(10, 300)
    guess = ch.evidence_ridge([good[measured], noise[measured]], y[measured], [good[query], noise[query]])
    assert spearman(guess, y[query]) > 0.99


def test_measured_sets_hold_the_references_and_nothing_twice(ch, toy):
    sets = ch.measured_sets(toy, n_devices=2, draws=5, extra=20, seed=0)
    assert sets.shape == (2, 5, 30) and (sets[..., :10] == toy.reference).all()
    assert all(len(set(row)) == 30 for row in sets.reshape(-1, 30))
    assert sets.max() < toy.n_support
    assert not np.array_equal(sets, ch.measured_sets(toy, 2, 5, 20, seed=1))
    assert not np.array_equal(sets[0, 0], sets[1, 0]) and not np.array_equal(sets[0, 0], sets[0, 1])


def test_leave_one_out_ridge_against_leaving_out(ch):
    rng = np.random.default_rng(0)
    blocks = [rng.standard_normal((40, 3)), rng.standard_normal((40, 2))]
    measured, query, y = np.arange(8), np.arange(8, 40), rng.standard_normal(8)
    fast = ch.leave_one_out_ridge([b[measured] for b in blocks], y, [b[query] for b in blocks], (0.1, 1.0))
    target, best = (y - y.mean()) / y.std(), (np.inf, None)
    for block, penalty in itertools.product(blocks, (0.1, 1.0)):

        def fit(train, test, block=block, penalty=penalty):
            kernel = block @ block.T + 100.0
            C = kernel[np.ix_(train, train)] + penalty * np.eye(len(train))
            return kernel[np.ix_(test, train)] @ np.linalg.solve(C, target[train])

        errors = [(fit(np.delete(measured, i), [i])[0] - target[i]) ** 2 for i in measured]
        best = min(best, (np.mean(errors), fit(measured, query)), key=lambda pair: pair[0])
    assert spearman(fast, best[1]) == pytest.approx(1) and np.corrcoef(fast, best[1])[0, 1] > 1 - 1e-9


def test_search_by_brute_force(ch):
    rng = np.random.default_rng(0)
    predicted, score, limits = rng.random((3, 30)), rng.random(30), np.sort(rng.random((3, 4)), 1)
    limits[:, 0] = -1  # nothing fits: the fastest is taken
    chosen = ch.constrained_search(predicted, score, limits)
    for i, j in itertools.product(range(3), range(4)):
        fits = [c for c in range(30) if predicted[i, c] <= limits[i, j]]
        assert chosen[i, j] == (max(fits, key=lambda c: score[c]) if fits else predicted[i].argmin())


def test_milliseconds_by_a_line(ch):
    guess = np.random.default_rng(0).random((2, 12))
    ms = 4 + 3 * guess[:, :10]
    assert np.allclose(ch.to_milliseconds(guess[:, :10], ms, guess), 4 + 3 * guess)
