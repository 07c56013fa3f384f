"""Chapter 04's method cells against oracles: closed forms, finite differences, brute force."""

import math

import numpy as np
import pytest
import torch

from nbpkg import chapters
from nbpkg.nb201 import space
from nbpkg.nets import cellgraphs
from nbpkg.seeding import seeded


@pytest.fixture(scope="module")
def ch():
    return chapters.load("04_diffusionnag")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def noisy_states(ch, n, level, seed=0, dtype=torch.float32):
    x0 = ch.states(space.random(n, seed, distinct=False))
    return (x0 + level * torch.randn(x0.shape, generator=rng(seed))).to(dtype)


# ------------------------------------------------------------------ cells as matrices


def test_every_cell_is_read_back(ch):
    x = ch.states(space.all_ops())
    assert x.shape == (space.N_CELLS, 8, 7) and set(x.unique().tolist()) == {-1.0, 1.0}
    for rule in ("threshold", "largest"):
        assert np.array_equal(ch.read(x, rule), np.arange(space.N_CELLS))
    assert len(np.unique(ch.read(x))) == space.N_CELLS
    # Row 1 + e holds the operation on edge e in the order of the string.
    assert torch.equal(x[:, 1:-1, 2:].argmax(-1), torch.as_tensor(space.all_ops()).long())


def test_what_is_no_cell_is_refused(ch):
    good = ch.states(space.random(1, 0))
    none, two, inner, last = (good.clone() for _ in range(4))
    none[0, 3] = -1.0  # no type
    two[0, 3] = -1.0
    two[0, 3, 3:5] = 1.0  # two types
    inner[0, 2] = good[0, 0]  # an input inside
    last[0, 7] = good[0, 3]  # no output
    for bad in (none, two, inner, last):
        assert ch.read(bad)[0] == -1
    assert ch.read(inner, "largest")[0] == -1 and ch.read(last, "largest")[0] == -1
    weak = good.clone()
    weak[0, 3] = -0.5 + 0.1 * good[0, 3]  # below the threshold, and still the largest
    assert ch.read(weak)[0] == -1 and ch.read(weak, "largest")[0] == ch.read(good)[0]


def test_the_wiring_is_that_of_the_string(ch):
    line = cellgraphs.topology("line")
    for u, (_, head) in enumerate(space.EDGES):
        for v, (tail, _) in enumerate(space.EDGES):
            assert bool(line[1 + u, 1 + v]) == (head == tail)
    # The public code's adjacency is the same graph with rows 3 and 4 exchanged.
    swap = [0, 1, 2, 4, 3, 5, 6, 7]
    assert torch.equal(ch.authors_graph()[swap][:, swap], line) and not torch.equal(ch.authors_graph(), line)


# ------------------------------------------------------------------ masks and networks


def test_closure_by_brute_force(ch):
    line, closure = cellgraphs.topology("line"), ch.mask_of("closure")
    for start in range(8):
        found, ahead = {start}, [start]
        while ahead:
            new = set(line[ahead.pop()].nonzero()[:, 0].tolist()) - found
            found |= new
            ahead += list(new)
        assert closure[start].nonzero()[:, 0].tolist() == sorted(found)


@pytest.mark.parametrize("kind", ["closure", "raw", "all", "authors"])
def test_a_row_moves_only_who_may_see_it(ch, kind):
    with seeded(1):
        net = ch.ScoreNet(kind).double().eval()
    x = noisy_states(ch, 1, 1.0, dtype=torch.float64)
    before, mask = net(x, 1.0)[0], ch.mask_of(kind)
    step = mask.clone()
    step[~mask.any(1)] = True  # who may attend to nothing attends to all
    reach = torch.linalg.matrix_power(torch.eye(8) + step.float(), 4) > 0  # four blocks
    for j in range(8):
        other = x.clone()
        other[0, j] += torch.linspace(0.1, 0.7, 7, dtype=torch.float64)
        moved = (net(other, 1.0)[0] - before).abs().amax(1) > 0
        assert not (moved & ~reach[:, j]).any() and moved[j]


def test_without_positions_the_network_is_blind_to_order(ch):
    with seeded(0):
        net, with_places = ch.ScoreNet("all", positions=False).double(), ch.ScoreNet("all").double()
    x, order = noisy_states(ch, 2, 0.5, dtype=torch.float64), torch.randperm(8, generator=rng())
    assert torch.allclose(net(x[:, order], 0.5), net(x, 0.5)[:, order], atol=1e-12)
    assert not torch.allclose(with_places(x[:, order], 0.5), with_places(x, 0.5)[:, order], atol=1e-3)


def test_levels_may_differ_within_a_batch(ch):
    with seeded(0):
        net, guide = ch.ScoreNet(), ch.Guide(5)
    x, levels, code = (
        noisy_states(ch, 3, 1.0),
        torch.tensor([0.1, 1.0, 5.0]),
        torch.randn(3, 56, generator=rng()),
    )
    for i, level in enumerate(levels.tolist()):
        assert torch.allclose(net(x, levels)[i], net(x[i : i + 1], level)[0], rtol=1e-4, atol=1e-4)
        assert torch.allclose(
            guide(x, levels, code)[i], guide(x[i : i + 1], level, code[i : i + 1])[0], atol=1e-5
        )


def test_slope_of_the_guide_by_finite_differences(ch):
    with seeded(0):
        guide = ch.Guide(5).double().eval()
    x, code = (
        noisy_states(ch, 4, 0.7, dtype=torch.float64),
        torch.randn(1, 56, generator=rng(), dtype=torch.float64),
    )
    f = lambda x, level: guide(x, level, code)  # noqa: E731
    slope = ch.guided(lambda x, level: torch.zeros_like(x), f, 1.0)(x, 0.7)
    for row, column in ((0, 0), (2, 3), (5, 6), (7, 1)):
        bump = torch.zeros_like(x)
        bump[:, row, column] = 1e-6
        numeric = (f(x + bump, 0.7) - f(x - bump, 0.7)) / 2e-6
        assert torch.allclose(slope[:, row, column], numeric, atol=1e-7)


def test_the_graph_layer_as_written(ch):
    with seeded(0):
        guide = ch.Guide(5, width=6, layers=1).double().eval()
    x = noisy_states(ch, 2, 0.5, dtype=torch.float64)
    scale = lambda m: m / m.sum(1, keepdim=True)  # noqa: E731
    once = scale(cellgraphs.topology("line").double() + torch.eye(8))
    w1, w2 = guide.layers[0].weight.T.split(6, 1)
    h = x / math.sqrt(1.25)
    wanted = 0.5 * (torch.relu(scale(once) @ h @ w1) + torch.relu(scale(once.T) @ h @ w2))
    both = guide.layers[0](h).unflatten(-1, (2, -1)).permute(2, 0, 1, 3)
    assert torch.allclose(torch.relu(guide.ways[:, None] @ both).mean(0), wanted, atol=1e-6)


# ------------------------------------------------------------------ noise, losses, averages


def test_noise_schedule(ch):
    assert math.isclose(ch.sigma(0), 0.1) and math.isclose(ch.sigma(1), 5.0)
    assert math.isclose(ch.SPAN, 2 * math.log(50))
    x0 = ch.states(space.random(4000, 0, distinct=False))
    x, level, z = ch.noisy(x0, rng())
    assert torch.allclose(x, x0 + level[:, None, None] * z) and level.min() >= 0.1 and level.max() <= 5.0
    # t is uniform, so the logarithm of the level is.
    share = (level < math.sqrt(0.1 * 5.0)).float().mean().item()
    assert abs(share - 0.5) < 0.03
    assert torch.allclose(ch.noisy(x0, rng(), quiet=True)[1], torch.tensor(ch.sigma(ch.EPS)))


def test_the_exact_score_has_the_least_loss(ch):
    x0 = ch.states(space.random(6000, 1, distinct=False))
    loss = lambda score: ch.score_loss(score, x0, rng(2)).mean().item()  # noqa: E731
    exact = loss(ch.row_score)
    for factor in (0.97, 1.03):
        assert loss(lambda x, level: factor * ch.row_score(x, level)) > exact  # noqa: B023
    # Analytic minimum: E|z|² - σ² E|s|², per entry, by the orthogonality of the posterior mean.
    x, level, _ = ch.noisy(x0, rng(2))
    analytic = 1 - (level[:, None, None] * ch.row_score(x, level)).square().mean().item()
    assert abs(exact - analytic) < 0.02


def test_average_of_a_constant_is_the_constant(ch):
    net = torch.nn.Linear(3, 2)
    average = ch.Average(net)
    for _ in range(50):
        average.update()
    assert all(torch.allclose(average.weights[n], p) for n, p in net.named_parameters())
    old = average.weights["weight"].clone()
    with torch.no_grad():
        net.weight += 1
    average.update()  # 51st update: decay min(0.995, 51 / 60)
    assert torch.allclose(average.weights["weight"], old + (1 - 51 / 60), atol=1e-6)


def test_training_lowers_the_loss_and_keeps_the_best(ch):
    piece = ch.train_score(0, space.random(100, 0), 60, batch=64, rate=5e-3)
    assert piece["losses"][-10:].mean() < 0.7 * piece["losses"][:10].mean()
    net = torch.nn.Linear(1, 1)
    values = iter([3.0, 1.0, 2.0, 5.0])
    seen = []
    judge = lambda weights: (seen.append(weights["weight"].clone()), next(values))[1]  # noqa: E731
    best, _, judged = ch.descend(net, lambda: net(torch.ones(1, 1)).square().sum(), 40, 0.1, judge, every=10)
    assert torch.equal(best["weight"], seen[1]) and judged[:, 1].tolist() == [3.0, 1.0, 2.0, 5.0]


# ------------------------------------------------------------------ closed forms


def test_exact_score_is_the_gradient_of_the_log_density(ch):
    ops, logs = space.random(40, 0), torch.randn(40, generator=rng())
    law, centres = ch.Law(ops, logs), ch.states(ops).double()
    for level in (0.3, 1.0, 4.0):
        x = noisy_states(ch, 5, level, 3, torch.float64).requires_grad_()
        distance = (x[:, None] - centres).square().sum((2, 3))
        density = torch.logsumexp(logs.double() - distance / (2 * level**2), 1)
        (wanted,) = torch.autograd.grad(density.sum(), x)
        got = law.score(x.detach().float(), level).double()
        assert torch.allclose(got, wanted, rtol=1e-3, atol=1e-3 / level**2)


def test_the_uniform_law_factorises(ch):
    law = ch.Law(space.all_ops())
    for level in (0.1, 0.5, 3.0):
        x = noisy_states(ch, 6, level)
        assert torch.allclose(ch.row_score(x, level), law.score(x, level), rtol=1e-3, atol=2e-3 / level**2)


def test_perfect_guide_by_finite_differences(ch):
    ops, f = space.random(60, 1), np.random.default_rng(0).normal(size=60)
    law = ch.Law(ops)
    law.hot, law.logs = law.hot.double(), law.logs.double()
    x = noisy_states(ch, 3, 1.2, dtype=torch.float64)
    # mean_guided works in float32; compare the slope that it adds.
    slope = ch.mean_guided(ch.Law(ops), f, 2.0)(x.float(), 1.2) - ch.Law(ops).score(x.float(), 1.2)
    for row, column in ((1, 2), (3, 6), (6, 4)):
        bump = torch.zeros_like(x)
        bump[:, row, column] = 1e-4
        mean = lambda x: law.posterior(x, 1.2) @ torch.as_tensor(f)  # noqa: E731
        numeric = 2.0 * (mean(x + bump) - mean(x - bump)) / 2e-4
        assert torch.allclose(slope[:, row, column].double(), numeric, atol=1e-4)
    assert slope[:, 0].abs().max() == slope[:, :, :2].abs().max() == 0  # what is certain has no slope


def test_exact_guidance_is_the_slope_of_the_log_mean_exponential(ch):
    ops, f, k = space.random(60, 1), np.random.default_rng(0).normal(size=60), 1.7
    law, aim = ch.Law(ops), ch.tilted(ops, f, k)
    x = noisy_states(ch, 3, 0.9).requires_grad_()
    value = (law.posterior(x, 0.9) @ torch.as_tensor(np.exp(k * f)).float()).log().sum()
    (slope,) = torch.autograd.grad(value, x)
    x = x.detach()
    assert torch.allclose(aim.score(x, 0.9), law.score(x, 0.9) + slope, atol=1e-4)
    assert np.allclose(aim.p, np.exp(k * f) / np.exp(k * f).sum(), rtol=1e-4)
    weak = ch.mean_guided(law, f, 1e-3)(x, 0.9) - ch.tilted(ops, f, 1e-3).score(x, 0.9)
    assert weak.abs().max() < 1e-4  # both agree to first order


# ------------------------------------------------------------------ sampling


def test_a_step_without_score_adds_the_right_variance(ch):
    zero, x = lambda x, level: torch.zeros_like(x), torch.zeros(4000, 8, 7)
    mean, moved = ch.euler(zero, x, 0.4, 100, rng())
    assert mean.abs().max() == 0
    assert math.isclose(moved.var().item(), ch.SPAN * ch.sigma(0.4) ** 2 / 100, rel_tol=0.02)


def test_langevin_norms_are_each_samples_own(ch):
    x = noisy_states(ch, 4, 1.0)
    alone = ch.langevin(ch.row_score, x[:2], 1.0, rng())
    # The first two of four, with the same noise, whatever the others are.
    noise = torch.randn(x.shape, generator=rng())
    s = ch.row_score(x, 1.0)
    norm = lambda v: v.flatten(1).norm(dim=1)[:, None, None]  # noqa: E731
    epsilon = 2 * (0.16 * norm(noise) / norm(s)) ** 2
    wanted = x + epsilon * s + (2 * epsilon).sqrt() * noise
    assert torch.allclose(ch.langevin(ch.row_score, x, 1.0, rng()), wanted, atol=1e-6) and alone.shape == (
        2,
        8,
        7,
    )


@pytest.mark.parametrize("corrector", [False, True])
def test_twenty_steps_of_the_exact_score_suffice(ch, corrector):
    index = ch.read(ch.sample(ch.row_score, 1500, 20, 0, corrector))
    assert (index >= 0).mean() > 0.998
    share = np.stack([(space.ops_of(index[index >= 0]) == o).mean(0) for o in range(5)])
    assert np.abs(share - 0.2).max() < 0.05  # five deviations of a fair draw


def test_no_guidance_is_bit_for_bit_the_unconditional_walk(ch):
    with seeded(0):
        guide = ch.Guide(5).eval().requires_grad_(False)
    f = lambda x, level: guide(x, level, torch.ones(1, 56))  # noqa: E731
    for corrector in (False, True):
        free = ch.sample(ch.row_score, 16, 10, 3, corrector)
        assert torch.equal(ch.sample(ch.guided(ch.row_score, f, 0.0), 16, 10, 3, corrector), free)
    assert not torch.equal(ch.sample(ch.row_score, 16, 10, 4), free)


def test_more_guidance_gives_more_of_what_is_asked(ch):
    """On a known predictor: the expected number of 3x3 convolutions under the row-wise posterior."""

    def count(x, level):
        return (2 / level**2 * x[:, 1:-1, 2:]).softmax(-1)[..., 3].sum(1)

    means, distinct = [], []
    for k in (0.0, 0.5, 1.0, 2.0):
        index = ch.read(ch.sample(ch.guided(ch.row_score, count, k), 400, 20, 0))
        index = index[index >= 0]
        means.append((space.ops_of(index) == 3).sum(1).mean())
        distinct.append(len(np.unique(index)))
    assert means == sorted(means) and means[-1] > means[0] + 1.5 and distinct[-1] < distinct[0]
    # The law tilted by 3x3 convolutions is a product: each edge has one with e^k / (e^k + 4).
    scales, f = (0.0, 0.5, 1.0, 2.0), (space.all_ops() == 3).sum(1)
    exact = [6 * math.exp(k) / (math.exp(k) + 4) for k in scales]
    aim = [float(ch.tilted(space.all_ops(), f, k).p @ f) for k in scales]
    assert np.allclose(exact, aim, rtol=1e-4) and abs(means[1] - exact[1]) < 0.2


def test_exact_guidance_reaches_the_tilted_law(ch):
    f = (space.all_ops() == 3).sum(1).astype(float)
    aim = ch.tilted(space.all_ops(), f, 2.0)
    index = ch.read(ch.sample(aim.score, 150, 150, 0))
    assert abs(f[index[index >= 0]].mean() - aim.p @ f) < 0.35  # three deviations of a fair mean
    assert abs(f[aim.draw(4000, 0)].mean() - aim.p @ f) < 0.1


# ------------------------------------------------------------------ search and rivals


def test_rounds_go_on_until_enough_cells_are_there(ch):
    zero = lambda x, level: x.sum((1, 2)) * 0.0  # noqa: E731
    found, rounds = ch.propose(ch.row_score, zero, 1.0, 20, 0, n=4, wanted=9, rounds=20)
    assert len(found) >= 9 and len(np.unique(found)) == len(found) and 3 <= rounds <= 6
    assert ch.distinct(np.array([5, -1, 3, 5, 3, 1])).tolist() == [5, 3, 1]


def test_factorised_and_autoregressive_laws_are_normalised(ch):
    ops = space.random(300, 0)
    histograms = ch.Factorised(ops)
    assert math.isclose(np.exp(-histograms.nats(space.all_ops())).sum(), 1.0, rel_tol=1e-6)
    with seeded(0):
        net = ch.Autoregressive().eval()
    everything = torch.as_tensor(space.all_ops()).long()
    with torch.no_grad():
        total = sum(torch.exp(-net.nats(part)).sum() for part in everything.split(4096))
    assert math.isclose(total.item(), 1.0, rel_tol=1e-4)
    drawn = net.draw(2000, 0)
    with torch.no_grad():
        first = net(torch.zeros(1, 6, dtype=torch.long))[0, 0].softmax(-1).numpy()
    assert np.abs(np.bincount(drawn[:, 0], minlength=5) / 2000 - first).max() < 0.05
    assert (
        np.abs((histograms.draw(4000, 0)[:, 2, None] == np.arange(5)).mean(0) - histograms.p[2]).max() < 0.04
    )


def test_swapped_gives_the_weights_back(ch):
    net = torch.nn.Linear(2, 1)
    before = net.weight.detach().clone()
    with ch.swapped(net, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}):
        assert net(torch.ones(1, 2)).item() == 2.0
    assert torch.equal(net.weight, before)


def meta(tasks=4, cells=3):
    index = torch.as_tensor(np.random.default_rng(0).integers(0, space.N_CELLS, (tasks, cells)))
    y = torch.arange(tasks * cells, dtype=torch.float32).reshape(tasks, cells)
    sets = torch.arange(tasks, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(tasks, 3, 6, 2)
    return {role: {"sets": sets, "index": index, "y": y} for role in ("train", "valid")}


def test_a_batch_keeps_cells_with_their_task(ch):
    data = meta()
    sets, x0, y = ch.meta_batch(data, "train", rng(), 3, 4)
    assert sets.shape == (3, 3, 4, 2) and x0.shape == (9, 8, 7)
    for task in range(3):
        number = int(sets[task, 0, 0, 0])
        assert torch.equal(y[3 * task : 3 * task + 3], data["train"]["y"][number])
        assert np.array_equal(ch.read(x0[3 * task : 3 * task + 3]), data["train"]["index"][number].numpy())


def test_the_surrogate_is_a_gaussian_process(ch):
    seen, values = np.array([0, 77, 4000, 15624]), np.array([1.0, 3.0, 2.0, 5.0])
    got = ch.bound(seen, values, noise=1e-6)
    z = (values - values.mean()) / values.std()
    assert np.allclose(got[seen], z, atol=0.01)  # what was seen is known
    ops = space.all_ops()
    K = 0.75 ** (ops[seen][:, None] != ops[seen]).sum(-1)
    k = 0.75 ** (ops[9][None] != ops[seen]).sum(-1)
    mean = k @ np.linalg.solve(K, z)
    assert math.isclose(got[9], mean + math.sqrt(1 - k @ np.linalg.solve(K, k)), rel_tol=1e-3)


@pytest.mark.parametrize("kind", ["random", "mutation", "guided", "all"])
def test_proposals_are_cells(ch, kind):
    seen = np.arange(12)
    acquisition = (space.all_ops() == 3).sum(1).astype(float)
    pool = ch.candidates(kind, acquisition, seen, np.arange(12.0), 40, 0)
    assert pool.min() >= 0 and pool.max() < space.N_CELLS
    if kind == "mutation":
        near = (space.ops_of(pool)[:, None] != space.ops_of(seen[2:])).sum(-1).min(1)
        assert (near <= 1).all()
    if kind == "guided":
        assert acquisition[pool].mean() > acquisition.mean() + 1.5


def test_optimisation_never_looks_twice(ch):
    valid = (space.all_ops() == 3).sum(1) + 0.01 * np.random.default_rng(0).normal(size=space.N_CELLS)
    for kind in ("random", "all"):
        order = ch.optimise(0, kind, valid, 30)
        assert len(order) == 30 == len(np.unique(order))
    assert valid[ch.optimise(0, "all", valid, 40)].max() > 4.5
