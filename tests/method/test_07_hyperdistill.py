"""Chapter 07's method cells against oracles: autograd through the unroll, closed forms, brute force."""

import math

import numpy as np
import pytest
import torch
from torch.func import grad

from nbpkg import chapters


@pytest.fixture(scope="module")
def ch():
    return chapters.load("07_hyperdistill")


def problem(ch, kind="first layer", copies=2, T=6, **more):
    return ch.Clusters(kind, 0.2, copies, seed=3, T=T, width=5, dtype=torch.float64, **more)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def unrolled(ch, p, step, w, valid):
    return grad(lambda lam: valid(ch.roll(step, w, lam, p.episode.batches)[-1], lam).sum())(p.lam)


@pytest.mark.parametrize(
    ("kind", "carried"), [("first layer", False), ("log rates", False), ("first layer", True)]
)
def test_reverse_mode_is_autograd_through_the_loop(ch, kind, carried):
    p = problem(ch, kind, momentum=0.9 if carried else 0.0, carried=carried)
    path = p.path()
    alpha, direct = grad(p.valid, (0, 1))(path[-1], p.lam)
    got = direct + ch.reverse(p.step, alpha, path.__getitem__, p.lam, p.episode.batches)
    assert (got - unrolled(ch, p, p.step, p.w, p.valid)).abs().max() < 1e-12


def test_forward_mode_gives_the_same_jacobian(ch):
    p = problem(ch, copies=1, T=4)
    path = p.path()
    row = lambda w, lam, batch: p.step(w[None], lam[None], batch)[0]  # noqa: E731
    jacobian = ch.forward(row, p.w[0], p.lam[0], p.episode.batches)
    last = lambda lam: ch.roll(row, p.w[0], lam, p.episode.batches)[-1]  # noqa: E731
    assert (jacobian - torch.func.jacrev(last)(p.lam[0])).abs().max() < 1e-12
    alpha = grad(p.valid)(path[-1], p.lam)
    by_reverse = ch.reverse(p.step, alpha, path.__getitem__, p.lam, p.episode.batches)
    assert (alpha @ jacobian - by_reverse).abs().max() < 1e-12


def test_products_are_jacobians(ch):
    p = problem(ch, copies=1)
    alpha, batch = torch.randn(p.w.shape, generator=rng(), dtype=torch.float64), p.episode.batches[0]
    A, B = torch.func.jacrev(lambda w, lam: p.step(w[None], lam[None], batch)[0], (0, 1))(p.w[0], p.lam[0])
    by_w, by_lam = ch.products(p.step, alpha, p.w, p.lam, batch)
    assert (by_w[0] - alpha[0] @ A).abs().max() < 1e-12 and (by_lam[0] - alpha[0] @ B).abs().max() < 1e-12
    assert torch.allclose(ch.mixed(p.step, alpha, p.w, p.lam, batch), by_lam, rtol=0, atol=1e-14)


def test_neumann_is_the_truncated_series(ch):
    p = problem(ch, copies=1)
    alpha, batch = torch.randn(p.w.shape, generator=rng(), dtype=torch.float64), p.episode.batches[0]
    A, B = torch.func.jacrev(lambda w, lam: p.step(w[None], lam[None], batch)[0], (0, 1))(p.w[0], p.lam[0])
    for terms in (0, 3):
        wanted = sum(alpha[0] @ torch.linalg.matrix_power(A, k) @ B for k in range(terms + 1))
        assert (ch.neumann(p.step, alpha, p.w, p.lam, batch, terms)[0] - wanted).abs().max() < 1e-12


def test_drmad_is_exact_where_the_path_is_a_line(ch):
    line = [torch.full((1, 3), 1.0 + 0.5 * t, dtype=torch.float64) for t in range(5)]
    at = ch.straight(line[0], line[-1], 4)
    assert all(torch.allclose(at(t), line[t], rtol=0, atol=1e-14) for t in range(5))


def test_rows_are_independent_problems(ch):
    p = problem(ch, copies=3)
    alpha = torch.randn(p.w.shape, generator=rng(), dtype=torch.float64)
    whole = ch.products(p.step, alpha, p.w, p.lam, p.episode.batches[0])
    other = p.w.clone()
    other[1:] += 1.0
    changed = ch.products(p.step, alpha, other, p.lam, p.episode.batches[0])
    for a, b in zip(whole, changed, strict=True):
        assert torch.allclose(a[0], b[0], rtol=0, atol=1e-14) and not torch.allclose(a[1], b[1])


# ------------------------------------------------------------------ the recursions

GAMMAS = (0.0, 0.3, 0.9, 0.999, 1.0)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_forward_recursion_is_the_weighted_mean(ch, gamma):
    path = torch.randn(9, 4, generator=rng(), dtype=torch.float64)
    star = torch.full((4,), math.nan, dtype=torch.float64)
    for t in range(1, 10):
        keep = ch.keep_forwards(gamma, t)
        star = path[t - 1] if t == 1 else torch.lerp(path[t - 1], star, keep)
        share = torch.tensor([gamma ** (t - i) for i in range(1, t + 1)], dtype=torch.float64)
        assert (star - (share[:, None] * path[:t]).sum(0) / share.sum()).abs().max() < 1e-12
        assert 0 <= keep < 1 and math.isclose(ch.geometric(gamma, t), share.sum().item(), rel_tol=1e-12)
    assert ch.keep_forwards(gamma, 1) == 0  # w*_1 = w_0


@pytest.mark.parametrize("gamma", GAMMAS)
def test_backward_recursion_gives_the_oldest_least(ch, gamma):
    path = torch.randn(8, 4, generator=rng(), dtype=torch.float64)  # w_0 .. w_7, T = 8
    star = path[7]
    for s in range(1, 9):
        star = torch.lerp(path[8 - s], star, ch.keep_backwards(gamma, s))
        # The horizon of the last s steps: (eq-hd-mean) started at w_{T-s}.
        share = torch.tensor([gamma ** (s - i) for i in range(1, s + 1)], dtype=torch.float64)
        wanted = (share[:, None] * path[8 - s :]).sum(0) / share.sum()
        assert (star - wanted).abs().max() < 1e-12


def test_the_two_shares_differ(ch):
    forwards = [ch.keep_forwards(0.9, t) for t in range(2, 20)]
    backwards = [ch.keep_backwards(0.9, t) for t in range(2, 20)]
    assert all(b > f for f, b in zip(forwards, backwards, strict=True))
    assert ch.keep_backwards(0.0, 1) == 0 and ch.keep_backwards(0.0, 5) == 1  # no division by zero
    # (p_s of the walk is p_t of the loop divided by gamma)
    assert np.allclose(np.array(forwards) / 0.9, backwards)


def test_distilled_batch_keeps_its_size_and_mixes(ch):
    old, new = torch.zeros(3, 40, dtype=torch.long), torch.ones(3, 40, dtype=torch.long)
    w = torch.zeros(3, 2)
    for keep, kept in ((0.0, 0), (0.26, 10), (0.5, 20), (1.0, 40)):
        _, mixed = ch.distil(w, old, w, new, keep, rng())
        assert mixed.shape == new.shape and ((mixed == 0).sum(1) == kept).all()
    assert torch.equal(ch.distil(w, old, w, new, 0.5, rng(), mixing=False)[1], new)
    _, first = ch.distil(w, old, w, new, 0.5, rng(0))
    _, second = ch.distil(w, old, w, new, 0.5, rng(1))
    assert not torch.equal(first, second)  # other places each time


# ------------------------------------------------------------------ HyperDistill


def moment(ch, p, path, star, length, terms=5):
    alpha = grad(p.valid)(path[-1], p.lam)
    length = torch.as_tensor(length, dtype=torch.float64)
    return ch.Moment(p.step, alpha, path[-2], path[-1], p.lam, p.episode.batches, star, length, path, terms)


def distilled(ch, p, path, gamma):
    star = path[0], p.episode.batches[0]
    for t, batch in enumerate(p.episode.batches, 1):
        star = ch.distil(*star, path[t - 1], batch, ch.keep_forwards(gamma, t), rng())
    return star


def test_gamma_zero_is_one_step(ch):
    p = problem(ch)
    path = p.path()
    m = moment(ch, p, path, distilled(ch, p, path, 0.0), ch.geometric(0.0, 6))
    assert torch.equal(ch.METHODS["HyperDistill"](m), ch.METHODS["1-step"](m))


def test_the_distilled_weight_never_sees_the_newest_one(ch):
    p = problem(ch)
    path = p.path()
    star = distilled(ch, p, path, 0.9)[0]
    moved = [*path[:-1], path[-1] + 100.0]
    assert torch.equal(distilled(ch, p, moved, 0.9)[0], star)


def test_methods_say_what_they_are(ch):
    p = problem(ch)
    path = p.path()
    m = moment(ch, p, path, distilled(ch, p, path, 0.9), 2.5)
    v = ch.mixed(p.step, m.alpha, m.star[0], p.lam, m.star[1])
    one = ch.METHODS["1-step"](m)
    assert torch.allclose(ch.METHODS["HyperDistill"](m), 2.5 * v)
    assert torch.allclose(ch.METHODS["length only"](m).norm(dim=-1), 2.5 * v.norm(dim=-1))
    assert torch.allclose(ch.cosine(ch.METHODS["length only"](m), one), torch.ones(2, dtype=torch.float64))
    assert torch.allclose(ch.METHODS["direction only"](m), v / v.norm(dim=-1, keepdim=True))
    assert not ch.METHODS["FO"](m).any()
    direct = grad(p.valid, 1)(path[-1], p.lam)
    wanted = unrolled(ch, p, p.step, p.w, p.valid)
    assert (direct + ch.METHODS["exact"](m) - wanted).abs().max() < 1e-12


def test_in_the_toy_the_fit_finds_theta_one(ch):
    """Curvature k: A = 1 - eta k is a number, so gamma = A makes equation (eq-hd-gamma) exact and theta 1."""
    eta, k = 0.1, 2.0
    train = lambda w, lam, batch: 0.5 * k * (w - lam).square().sum()  # noqa: E731
    step, lam = ch.sgd(train, eta), torch.full((1, 1), 0.5, dtype=torch.float64)
    batches = torch.zeros(12, 1, 4, dtype=torch.long)
    path = ch.roll(step, torch.full((1, 1), 3.0, dtype=torch.float64), lam, batches)
    alpha = torch.full((1, 1), -0.7, dtype=torch.float64)
    theta, x, y = ch.fit_length(step, alpha, path[0], path[-1], lam, batches, 1 - eta * k, rng())
    assert torch.allclose(theta, torch.ones(1, dtype=torch.float64)) and torch.allclose(x, y)
    exact = ch.reverse(step, alpha, path.__getitem__, lam, batches)
    assert torch.allclose(exact, alpha * (1 - (1 - eta * k) ** 12))
    star = distilled_from(ch, path, batches, 1 - eta * k)
    short = ch.geometric(1 - eta * k, 12) * ch.mixed(step, alpha, star, lam, batches[0])
    assert torch.allclose(short, exact)


def distilled_from(ch, path, batches, gamma):
    star = path[0], batches[0]
    for t, batch in enumerate(batches, 1):
        star = ch.distil(*star, path[t - 1], batch, ch.keep_forwards(gamma, t), rng())
    return star[0]


def test_fit_length_walks_drmads_line(ch):
    p = problem(ch, copies=1)
    path, gamma, batches = p.path(), 0.8, p.episode.batches
    alpha = grad(p.valid)(path[-1], p.lam)
    ends = p.step, alpha, path[0], path[-1], p.lam, batches
    theta, x, y = ch.fit_length(*ends, gamma, rng(), mixing=False)
    at = ch.straight(path[0], path[-1], 6)
    for s in (1, 3, 6):
        # Brute force: the sum over the last s steps, and the mean weight of that horizon.
        total = ch.reverse(p.step, alpha, lambda t, s=s: at(6 - s + t), p.lam, batches[6 - s :])
        share = [gamma ** (s - i) for i in range(1, s + 1)]
        star = sum(c * at(6 - s + i) for i, c in enumerate(share)) / sum(share)
        v = ch.mixed(p.step, alpha, star, p.lam, batches[6 - s])  # mixing=False: the batch that came last
        assert torch.allclose(x[s - 1], v.norm(dim=-1) * sum(share))
        assert torch.allclose(y[s - 1], (v * total).sum(-1) / v.norm(dim=-1))
    assert torch.allclose(theta, (x * y).sum(0) / (x * x).sum(0))


def test_a_senseless_length_is_refused(ch):
    before = torch.full((4,), 0.4)
    fitted = torch.tensor([math.nan, -1.0, 25.0, 0.7])
    assert torch.allclose(ch.accept(fitted, before), torch.tensor([0.4, 0.4, 10.0, 0.7]))


# ------------------------------------------------------------------ meta-training


def test_who_moves_when(ch):
    steps = lambda method: [t for t in range(1, 11) if ch.moves(method, t, 10, 3)]  # noqa: E731
    assert steps("FO") == steps("HyperDistill") == steps("1-step") == list(range(1, 11))
    assert steps("exact") == steps("DrMAD") == [10] and steps("Neumann") == [8, 9, 10]
    assert steps("frozen") == []


def test_heavy_ball_by_hand(ch):
    train = lambda w, lam, batch: (2.0 * w).sum()  # noqa: E731
    run = ch.heavy_ball(train, rate=0.1, momentum=0.5)
    state = torch.tensor([1.0, 0.0])
    state = run(run(state, None, None), None, None)
    assert torch.allclose(state, torch.tensor([1.0 - 0.2 - 0.3, 3.0]))


def test_alpha_is_taken_at_the_new_weights(ch):
    """One episode with T = 1 against the update written by hand."""
    learner = ch.Sinusoids(2, tasks=3, T=1)
    phi, lam = learner.start(rng())
    episode = learner.episode(rng(1))
    plan = ch.Plan(episodes=1, rate=1.0, inner_rate=0.01, momentum=0.0)
    w = phi[:, None].expand(-1, 3, -1)
    for method, full in (("FO", False), ("1-step", True)):
        moved = lam.clone().requires_grad_()
        one = torch.optim.SGD([moved], 1.0)
        ch.one_episode(episode, w, moved, one, method, torch.ones(2), plan, rng())
        step = ch.sgd(episode.train, 0.01)
        new = step(w, lam, episode.batches[0])
        at_new = lambda lam, new=new: episode.valid(new, lam)  # noqa: E731
        through = lambda lam, step=step: episode.valid(step(w, lam, episode.batches[0]), lam)  # noqa: E731
        wanted = grad(through if full else at_new)(lam)
        assert torch.allclose(lam - moved.detach(), wanted, rtol=1e-3, atol=1e-6)


def test_copies_learn_alone(ch):
    """The first of two copies learns what it learns beside another second copy."""
    plan = dict(episodes=2, rate=1e-3, inner_rate=0.01, optimiser="adam", gamma=0.9)
    both = ch.train_sinusoid(0, "HyperDistill", 2, plan, 10)
    again = ch.train_sinusoid(0, "HyperDistill", 2, plan, 10)
    assert np.array_equal(both["test"], again["test"]) and both["test"].shape == (2,)


@pytest.mark.parametrize("kind", ["ANIL", "WarpGrad", "MetaWeightNet"])
def test_picture_tasks(ch, kind):
    pool = torch.randn(5, 12, 3, 8, 8, generator=rng())
    p = ch.Pictures(kind, pool, ways=3, width=4, T=2, batch=4, valid=4, tasks=2, shots=5, noise=0.4)
    phi, lam = p.start(rng())
    episode = p.episode(rng())
    assert episode.x.shape == (2, 15, 3, 8, 8) and episode.batches.shape == (2, 2, 4)
    assert (episode.y_val == torch.arange(3).repeat_interleave(5)).all()
    for row in range(2):  # no picture serves both sides of a task
        assert not (episode.x[row, :, None] == episode.x_val[row, None]).flatten(2).all(-1).any()
    alpha, first = grad(episode.valid, (0, 1))(phi.expand(2, -1), lam)
    assert alpha.shape == (2, len(phi)) and first.shape == lam.shape
    assert first.any() == (kind != "MetaWeightNet")  # validation does not weigh
    if kind == "MetaWeightNet":
        assert (episode.y != episode.y_val).any()
        weights = ch.weight_of(ch.unpack(lam, p.lam_shapes), torch.linspace(0, 9, 5))
        assert torch.allclose(weights, torch.full((5,), 0.55))
        assert ch.mixed(ch.sgd(episode.train, 0.1), alpha, phi.expand(2, -1), lam, episode.batches[0]).any()


def test_classes_are_disjoint(ch):
    pools = ch.class_pools("digits", 8)
    assert {role: len(pool) for role, pool in pools.items()} == {"train": 5, "valid": 2, "test": 3}
    flat = {role: {tuple(x.flatten().tolist()) for x in pool.flatten(0, 1)} for role, pool in pools.items()}
    assert not (flat["train"] & flat["test"] or flat["train"] & flat["valid"] or flat["valid"] & flat["test"])


def test_products_per_hypergradient(ch):
    """Calls of the step beyond the inner loop: one for HyperDistill at any horizon, T for reverse mode."""
    for T in (3, 6):
        count = lambda name, T=T: ch.cost(0, name, T, 4)["products"]  # noqa: E731
        assert count("FO") == 0 and count("1-step") == count("HyperDistill") == 1
        assert count("exact") == count("DrMAD") == T and count("Neumann") == 6


def test_reverse_mode_grows_with_the_horizon_and_the_others_do_not(ch):
    mb = lambda name, T: ch.cost(0, name, T, 64)["mb"]  # noqa: E731
    for name in ("FO", "1-step", "HyperDistill", "DrMAD"):
        assert mb(name, 24) <= 1.02 * mb(name, 6), name
    assert mb("exact", 24) > 1.2 * mb("exact", 6) and mb("unrolled", 24) > 2 * mb("unrolled", 6)
