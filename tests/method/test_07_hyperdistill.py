"""Chapter 07's method cells against oracles: autograd through the loop, finite differences, closed forms."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.autograd import grad

from nbpkg import chapters

GAMMAS = (0.0, 0.3, 0.9, 0.999)
CASES = [("first layer", 0.2, 0.0), ("log rates", 0.2, 0.0)]


@pytest.fixture(scope="module")
def ch():
    return chapters.load("07_hyperdistill")


def clusters(ch, case=CASES[0], learners=(3, 4), T=6):
    return ch.Clusters(case, learners, T=T, width=5, dtype=torch.float64)


def seen(ch, p, plan, t=6, memory=None):
    """The moment after step t of a trajectory with lam held still."""
    path = ch.roll(p.step, p.w, p.lam, p.batches[:t])
    alpha, first = ch.slopes(p.valid, path[-1], p.lam)
    orders = torch.rand(len(p.batches), 50, generator=torch.Generator().manual_seed(t)).argsort(1)
    m = ch.Moment(p.step, t, alpha, path[-2], path[-1], p.lam, p.batches, plan, orders=orders, path=path)
    m.memory = {} if memory is None else memory
    return m, first


def jacobians(p, w, lam, batch):
    """A and B of the first learner's step, by one row at a time."""
    w, lam = w.detach().requires_grad_(), lam.detach().requires_grad_()
    new = p.step(w, 0.0, lam, batch)[0][0]
    rows = [grad(new[i], (w, lam), retain_graph=True) for i in range(len(new))]
    return torch.stack([a[0] for a, _ in rows]), torch.stack([b[0] for _, b in rows])


# ------------------------------------------------------------------ exact hypergradients


@pytest.mark.parametrize("case", CASES)
def test_reverse_mode_checkpoints_and_the_loop_agree(ch, case):
    p = clusters(ch, case)
    m, first = seen(ch, p, ch.Plan())
    truth = ch.unrolled(p, p.w, p.lam)
    assert torch.allclose(first + ch.METHODS["exact"](m), truth, atol=1e-12)
    assert torch.allclose(ch.checkpointed(p, p.w, p.lam, 4), truth, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_the_loop_against_finite_differences(ch, case):
    p = clusters(ch, case)
    direction = torch.randn(p.lam.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shifted = []
    for sign in (1, -1):
        lam = p.lam + sign * 1e-5 * direction
        shifted.append(p.valid(ch.roll(p.step, p.w, lam, p.batches)[-1], lam))
    numeric = (shifted[0] - shifted[1]) / 2e-5
    assert torch.isclose((ch.unrolled(p, p.w, p.lam) * direction).sum(), numeric, rtol=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_forward_mode_gives_the_jacobian(ch, case):
    p = clusters(ch, case, learners=(3,), T=4)
    m, _ = seen(ch, p, ch.Plan(), t=4)
    assert torch.allclose(m.alpha @ ch.forward(p, p.w, p.lam).T, ch.METHODS["exact"](m), atol=1e-12)


def test_velocity_is_a_constant_of_the_differentiated_step(ch):
    """With momentum the products are those of plain descent at the same point, and the weights are not."""
    train = lambda w, lam, batch: ((w - lam) ** 4).sum()  # noqa: E731
    w, lam = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.1]])
    moved = []
    for momentum in (0.0, 0.9):
        step = ch.sgd(train, 0.01, momentum)
        path = ch.roll(step, w, lam, range(2))
        moved.append(path[-1])
        slope = 4 * (w - lam) ** 3
        assert torch.allclose(path[1], w - 0.01 * slope)
        by_w, by_lam = ch.products(step, torch.ones(1, 2), w, lam, None)
        curve = 0.01 * 12 * (w - lam) ** 2
        assert torch.allclose(by_w, 1 - curve) and torch.allclose(by_lam, curve)
    second = 4 * (path[1] - lam) ** 3
    assert torch.allclose(moved[1], path[1] - 0.01 * (0.9 * slope + second))
    assert not torch.allclose(*moved)


@pytest.mark.parametrize("case", CASES)
def test_products_are_rows_times_jacobians(ch, case):
    p = clusters(ch, case)
    alpha = torch.randn(p.w.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    A, B = jacobians(p, p.w, p.lam, p.batches[0])
    by_w, by_lam = ch.products(p.step, alpha, p.w, p.lam, p.batches[0])
    assert torch.allclose(by_w[0], alpha[0] @ A) and torch.allclose(by_lam[0], alpha[0] @ B)
    assert torch.equal(ch.mixed(p.step, alpha, p.w, p.lam, p.batches[0]), by_lam)


def test_learners_do_not_touch_each_other(ch):
    both, alone = clusters(ch), clusters(ch, learners=(4,))
    assert torch.allclose(ch.unrolled(both, both.w, both.lam)[1:], ch.unrolled(alone, alone.w, alone.lam))


# ------------------------------------------------------------------ implicit


def test_neumann_is_the_truncated_series(ch):
    p = clusters(ch)
    m, _ = seen(ch, p, ch.Plan(terms=3))
    A, B = jacobians(p, m.after, p.lam, p.batches[5])
    wanted = sum(m.alpha[0] @ torch.linalg.matrix_power(A, k) @ B for k in range(4))
    assert torch.allclose(ch.METHODS["Neumann"](m)[0], wanted)
    zero = replace(m.plan, terms=0)
    m.plan = zero
    one = ch.mixed(p.step, m.alpha, m.after, p.lam, p.batches[5])
    assert torch.allclose(ch.METHODS["Neumann"](m), one)


def test_conjugate_gradients_solve_the_damped_system(ch):
    """On a quadratic, with as many terms as weights, the solution is exact; each row its own."""
    g = torch.Generator().manual_seed(2)
    root = torch.randn(2, 4, 4, generator=g, dtype=torch.float64)
    H = root @ root.transpose(1, 2)
    cross = torch.randn(2, 4, 3, generator=g, dtype=torch.float64)

    def train(w, lam, batch):
        bent = 0.5 * w[:, None] @ H @ w[..., None] + w[:, None] @ cross @ lam[..., None]
        return bent.sum()

    w, alpha = (torch.randn(2, 4, generator=g, dtype=torch.float64) for _ in range(2))
    lam = torch.zeros(2, 3, dtype=torch.float64)
    found = ch.implicit(ch.sgd(train, 0.05), alpha, w, lam, None, 6, damping=0.01)
    for i in range(2):
        x = torch.linalg.solve(0.05 * H[i] + 0.01 * torch.eye(4, dtype=torch.float64), alpha[i])
        assert torch.allclose(found[i], -0.05 * x @ cross[i])


# ------------------------------------------------------------------ HyperDistill


@pytest.mark.parametrize("gamma", GAMMAS)
def test_both_recursions_are_weighted_means(ch, gamma):
    path = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    forwards, backwards = path[0], path[7]
    for t in range(1, 9):
        share = torch.tensor([gamma ** (t - i) for i in range(1, t + 1)], dtype=torch.float64)
        assert ch.geometric(gamma, t) == pytest.approx(share.sum().item())
        share = (share / share.sum())[:, None]
        forwards = torch.lerp(path[t - 1], forwards, ch.keep_forwards(gamma, t))
        backwards = torch.lerp(path[8 - t], backwards, ch.keep_backwards(gamma, t))
        assert torch.allclose(forwards, (share * path[:t]).sum(0))
        assert torch.allclose(backwards, (share * path[8 - t :]).sum(0))
    if gamma:
        assert ch.keep_backwards(gamma, 5) * gamma == pytest.approx(ch.keep_forwards(gamma, 5))


def test_distilled_batch_keeps_its_size_and_mixes(ch):
    old, new, w = torch.zeros(3, 40), torch.ones(3, 40), torch.zeros(3, 2)
    order = torch.rand(40, generator=torch.Generator().manual_seed(0)).argsort()
    for keep, stays in ((0.0, 0), (0.26, 10), (0.5, 20), (1.0, 40)):
        batch = ch.distil((w, old), w, new, keep, order)[1]
        assert ((batch == 0).sum(1) == stays).all()
    assert torch.equal(ch.distil((w, old), w, new, 0.5, order, mixing=False)[1], new)


def test_gamma_zero_is_one_step(ch):
    p = clusters(ch)
    m, _ = seen(ch, p, ch.Plan(gamma=0.0))
    assert torch.equal(ch.METHODS["HyperDistill"](m), ch.METHODS["1-step"](m))


def test_hyperdistill_is_its_length_times_the_product_at_the_mean(ch):
    p, gamma, memory = clusters(ch), 0.8, {}
    for t in range(1, 7):
        m, _ = seen(ch, p, ch.Plan(gamma=gamma, mixing=False), t, memory)
        m.theta = torch.tensor([0.5, 2.0], dtype=torch.float64)
        term = ch.METHODS["HyperDistill"](m)
    share = torch.tensor([gamma ** (6 - i) for i in range(1, 7)], dtype=torch.float64)
    star = sum(c * w for c, w in zip(share / share.sum(), m.path[:-1], strict=True))
    v = ch.mixed(p.step, m.alpha, star, p.lam, p.batches[5])
    assert torch.allclose(term, m.theta[:, None] * share.sum() * v)
    m.plan = replace(m.plan, fitted=False)
    unit = ch.METHODS["HyperDistill"](m)
    assert torch.allclose(unit.norm(dim=1), torch.ones(2, dtype=torch.float64))


def test_fit_walks_drmads_line(ch):
    p, plan = clusters(ch), ch.Plan(gamma=0.8, mixing=False)
    m, _ = seen(ch, p, plan)
    at = ch.straight(m.path[0], m.path[-1], 6)
    rows = list(ch.walk_back(p.step, m.alpha, at, p.lam, p.batches, m.orders, plan))
    for s in (1, 3, 6):  # by brute force: the sum over the last s steps, and the mean of that horizon
        total = ch.reverse(p.step, m.alpha, lambda t, s=s: at(6 - s + t), p.lam, p.batches[6 - s :])
        share = [0.8 ** (s - i) for i in range(1, s + 1)]
        star = sum(c * at(6 - s + i) for i, c in enumerate(share)) / sum(share)
        v = ch.mixed(p.step, m.alpha, star, p.lam, p.batches[6 - s])
        assert torch.allclose(rows[s - 1][0], v.norm(dim=1) * sum(share))
        assert torch.allclose(rows[s - 1][1], (v * total).sum(1) / v.norm(dim=1))
    x, y = map(torch.stack, zip(*rows, strict=True))
    theta = ch.fit_length(p.step, m.alpha, at, p.lam, p.batches, m.orders, plan)
    wanted = (x * y).sum(0) / (x * x).sum(0)
    assert torch.allclose(theta, torch.where(wanted > 0, wanted.clamp(max=10), 1.0))


def toy(ch, curvature=2.0, T=12):
    """One weight of a quadratic: everything has a closed form, A = 1 - 0.1 k."""
    train = lambda w, lam, batch: 0.5 * curvature * ((w - lam) ** 2).sum()  # noqa: E731
    step, lam = ch.sgd(train, 0.1), torch.full((1, 1), 0.5, dtype=torch.float64)
    return step, lam, ch.roll(step, lam + 2.5, lam, range(T))


def test_in_the_toy_theta_is_one_and_one_product_is_the_sum(ch):
    step, lam, path = toy(ch)
    alpha, A = torch.full_like(lam, -0.7), 0.8
    batches, orders = torch.zeros(12, 4, dtype=torch.long), torch.arange(4).expand(12, -1)
    at = ch.straight(path[0], path[-1], 12)
    theta = ch.fit_length(step, alpha, at, lam, batches, orders, ch.Plan(gamma=A))
    assert torch.allclose(theta, torch.ones_like(theta))
    exact = alpha * (1 - A**12)
    assert torch.allclose(ch.reverse(step, alpha, path.__getitem__, lam, batches), exact)
    short = ch.geometric(A, 12) * ch.mixed(step, alpha, path[3], lam, None)
    assert torch.allclose(short, exact)


def test_a_senseless_length_is_replaced(ch, monkeypatch):
    x, y = torch.ones(3), torch.tensor([-1.0, 25.0, float("nan")])
    monkeypatch.setitem(ch.fit_length.__globals__, "walk_back", lambda *a: iter([(x, y)]))
    assert torch.equal(ch.fit_length(*[None] * 7), torch.tensor([1.0, 10.0, 1.0]))


# ------------------------------------------------------------------ ours


def run_carried(ch, p, T, plan):
    """The last second-order part of ours on a trajectory with lam held still, and the slopes on the way."""
    memory, slopes = {}, []
    for t in range(1, T + 1):
        m, _ = seen(ch, p, plan, t, memory)
        slopes.append(m.alpha)
        term = ch.METHODS["carried"](m)
    return term, slopes, m


def test_warm_start_by_brute_force(ch):
    p = clusters(ch)
    term, slopes, m = run_carried(ch, p, 4, ch.Plan(corrected=False, rho=0.7))
    u = 0.0
    for t in range(4):
        A, B = jacobians(p, m.path[t], p.lam, p.batches[t])
        u = slopes[t][0] + 0.7 * u
        last, u = u @ B, u @ A
    assert torch.allclose(term[0], last)


def test_corrected_by_brute_force(ch):
    p, plan = clusters(ch), ch.Plan(rho=0.9, fade=0.6)
    term, slopes, m = run_carried(ch, p, 4, plan)
    q = old = None
    for t in range(1, 5):
        new = slopes[t - 1][0]
        if q is None:
            q = torch.zeros_like(new)
        else:
            q = q + min(max((q @ old / (old @ old)).item(), 0), t - 1) * (new - old)
        share = torch.tensor([0.6 ** (t - i) for i in range(1, t + 1)], dtype=torch.float64)
        star = sum(c * w for c, w in zip(share / share.sum(), m.path[:t], strict=True))
        A, B = jacobians(p, star, p.lam, p.batches[t - 1])
        u = new + 0.9 * q
        last, q, old = u @ B, u @ A, new
    assert torch.allclose(term[0], last)


def test_exchange_replaces_all_of_an_old_slope_and_keeps_the_rest(ch):
    old, new = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 2.0, 0.0]])
    q = 3 * old + torch.tensor([[0.0, 0.0, 5.0]])
    assert torch.allclose(ch.exchange(q, old, new, 9), torch.tensor([[0.0, 6.0, 5.0]]))
    assert torch.allclose(ch.exchange(q, old, new, 3), torch.tensor([[1.0, 4.0, 5.0]]))  # at most t - 1
    assert torch.equal(ch.exchange(-q, old, new, 9), -q)
    assert torch.isfinite(ch.exchange(q, 0 * old, new, 9)).all()


def test_with_the_current_slope_ours_is_exact_in_the_toy(ch):
    """One weight: the exchange turns every old slope into the new one, so the sum is the exact one."""
    step, lam, path = toy(ch)
    memory, plan = {}, ch.Plan(rho=1.0, fade=0.0)
    for t in range(1, 13):
        alpha = torch.full_like(lam, 1.3 - 0.1 * t)
        m = ch.Moment(step, t, alpha, path[t - 1], path[t], lam, range(12), plan, memory=memory)
        term = ch.METHODS["carried"](m)
    assert torch.allclose(term, alpha * (1 - 0.8**12))
    memory, plan = {}, replace(plan, corrected=False)  # without it, the old ones stay
    for t in range(1, 13):
        alpha = torch.full_like(lam, 1.3 - 0.1 * t)
        m = ch.Moment(step, t, alpha, path[t - 1], path[t], lam, range(12), plan, memory=memory)
        stale = ch.METHODS["carried"](m)
    wanted = sum((1.3 - 0.1 * t) * 0.8 ** (12 - t) * 0.2 for t in range(1, 13))
    assert torch.allclose(stale, torch.full_like(lam, wanted))


# ------------------------------------------------------------------ meta-training


def test_who_moves_when(ch):
    plan = ch.Plan(T=10, last=3)
    steps = lambda method: [t for t in range(1, 11) if ch.moves(method, t, plan)]  # noqa: E731
    for method in ("FO", "1-step", "HyperDistill", "carried", "exact"):
        assert steps(method) == list(range(1, 11))
    assert steps("exact, once") == [10] and steps("frozen") == []
    assert steps("Neumann") == steps("implicit") == [8, 9, 10]


def test_waves_network_is_the_papers(ch):
    draws = ch.generators([5, 6])
    phi, lam = ch.start_waves(draws, "cpu")
    problem = ch.Waves(*ch.draw_waves(draws, (3,), 14, "cpu"), 2)
    assert phi.shape == (2, 101) and lam.shape == (2, 20400)
    assert problem.x.shape == (2, 3, 10) and problem.y_val.shape == (2, 3, 4)
    w = torch.randn(2, 3, 101, generator=draws[0])
    out = problem.predict(w, lam, problem.x)
    W1, b1, W2, b2, W3, b3 = lam[1].split(ch.SIZES)
    h = torch.relu(problem.x[1, 2][:, None] * W1 + b1)
    h = torch.relu(torch.relu(h @ W2.view(100, 100) + b2) @ W3.view(100, 100) + b3)
    assert torch.allclose(out[1, 2], h @ w[1, 2, :100] + w[1, 2, 100], atol=1e-5)


def test_waves_are_waves_and_learners_draw_alone(ch):
    x, y = ch.draw_waves(ch.generators([5, 6]), (400, 2), 40, "cpu")
    basis = torch.stack([torch.sin(x), torch.cos(x)], -1)
    fit = torch.linalg.lstsq(basis.double(), y[..., None].double()).solution
    assert torch.allclose(basis.double() @ fit, y[..., None].double(), atol=1e-4)
    size, phase = fit[..., 0].norm(dim=-1), torch.atan2(fit[..., 1, 0], fit[..., 0, 0])
    assert 0.09 < size.min() < 0.2 and 4.9 < size.max() < 5.01 and size.mean() == pytest.approx(2.55, abs=0.2)
    assert phase.min() > -0.01 and phase.max() < 3.16 and x.min() >= -5 and x.max() <= 5
    assert torch.equal(ch.draw_waves(ch.generators([6]), (400, 2), 40, "cpu")[1][0], y[1])


@pytest.mark.parametrize("method, through", [("FO", False), ("1-step", True)])
def test_slopes_are_taken_at_the_new_weights(ch, method, through):
    """One episode of one step against the update written by hand."""
    draws = ch.generators([1, 2])
    phi, lam = ch.start_waves(draws, "cpu")
    problem = ch.Waves(*ch.draw_waves(draws, (3,), 20, "cpu"), 1)
    w, moved = phi[:, None].expand(-1, 3, -1), lam.clone().requires_grad_()
    moment = partial(ch.Moment, plan=ch.Plan(T=1))
    last = ch.episode(problem, w, moved, torch.optim.SGD([moved], 1.0), method, moment)
    leaf = lam.clone().requires_grad_()
    new = problem.step(w.clone().requires_grad_(), 0.0, leaf, problem.batches[0])[0]
    assert torch.allclose(last, new)
    loss = problem.valid(new if through else new.detach(), leaf)
    assert torch.allclose(lam - moved.detach(), grad(loss, leaf)[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["HyperDistill", "carried", "exact, once", "implicit", "frozen"])
def test_learners_train_together_as_they_do_alone(ch, method):
    plan = ch.Plan(episodes=2, T=4, tasks=3, points=5)
    phi, lam = ch.meta_train(method, [7, 8], plan)
    one = ch.meta_train(method, [8], plan)
    assert torch.allclose(phi[1:], one[0], atol=1e-5) and torch.allclose(lam[1:], one[1], atol=1e-5)
    start = ch.start_waves(ch.generators([7, 8]), "cpu")[1]
    assert torch.equal(lam, start) == (method == "frozen")


def test_meta_training_learns(ch):
    plan = ch.Plan(episodes=4, points=20)
    errors = [
        ch.test_errors(*ch.meta_train(method, [3], plan), [3], 40, plan).item()
        for method in ("frozen", "HyperDistill")
    ]
    assert errors[1] < 0.7 * errors[0]
