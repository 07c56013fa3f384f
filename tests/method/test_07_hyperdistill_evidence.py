"""The method cells of chapter 07's evidence against oracles: each task alone, unrolled loops, counts."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from nbpkg import chapters

KINDS = ("ANIL", "WarpGrad", "MetaWeightNet", "plain")


@pytest.fixture(scope="module")
def ev():
    return chapters.load("07_hyperdistill_evidence")


@pytest.fixture(scope="module")
def pool():
    g = torch.Generator().manual_seed(0)
    return torch.randn(5, 12, 8, 8, 3, generator=g, dtype=torch.float64)


def setting(ev, kind="ANIL", **changes):
    small = {"side": 8, "width": 3, "ways": 3, "shots": 5, "judged": 4, "batch": 6, "rate": 0.1}
    return ev.Setting(kind=kind, **small | changes)


def problem(ev, pool, kind="ANIL", learners=(3, 4), T=4, **changes):
    """A small problem with a start of its own for every task, in double precision."""
    how, plan = setting(ev, kind, **changes), ev.hd.Plan(T=T, tasks=2)
    p = ev.Pictures(how, pool, ev.hd.generators(learners), plan)
    w, lam = (rows.double() for rows in ev.start(how, ev.hd.generators(learners, 1), "cpu"))
    bend = torch.linspace(0.5, 1.5, plan.tasks, dtype=torch.float64)
    return p, w[:, None] * bend[:, None], lam


# ------------------------------------------------------------------ networks


def standardised(x, dims):
    return (x - x.mean(dims, keepdim=True)) / (x.var(dims, correction=0, keepdim=True) + 1e-5).sqrt()


def one_task(how, w, lam, x):
    """The answers of one task's network, by a layer at a time; x (n, 3, side, side)."""
    arrays = lambda row, shapes: [  # noqa: E731
        part.view(shape)
        for part, shape in zip(row.split([torch.Size(s).numel() for s in shapes]), shapes, strict=True)
    ]
    n, side, sizes = how.width, how.side, []
    for k, stride in how.layers:
        side = len(range(0, side + 2 * (k == 3) - k + 1, stride))
        sizes.append(side)
    lower = [(n, c, k, k) for c, (k, _) in zip((3, n, n), how.layers, strict=True)]
    top = [(n * side**2, n), (n, how.ways), (how.ways,)]
    if how.kind == "ANIL":
        kernels, top = arrays(lam, lower), arrays(w, top)
    else:
        *kernels, a, b, c = arrays(w, lower + top)
        top = [a, b, c]
    for i, (k, stride) in enumerate(how.layers):
        x = standardised(F.conv2d(x, kernels[i], stride=stride, padding=int(k == 3)), (0, 2, 3)).relu()
        assert x.shape[-1] == sizes[i]
        if how.kind == "WarpGrad":
            x = standardised(F.conv2d(x, arrays(lam, [(n, n, 3, 3)] * 3)[i], padding=1), (0, 2, 3))
    return standardised(x.flatten(1) @ top[0], (0,)).relu() @ top[1] + top[2]


@pytest.mark.parametrize("layers", [((4, 4), (3, 2), (3, 1)), ((3, 2), (3, 2), (3, 1))])
@pytest.mark.parametrize("kind", KINDS)
def test_all_tasks_at_once_are_each_task_alone(ev, pool, kind, layers):
    p, w, lam = problem(ev, pool, kind, layers=layers)
    out = ev.logits(p.how, w, lam, p.x_val)
    assert out.shape == (2, 2, 12, 3)
    for i in range(2):
        for j in range(2):
            x = p.x_val.unflatten(1, (2, 2, 3))[:, i, j]
            assert torch.allclose(out[i, j], one_task(p.how, w[i, j], lam[i], x))


def test_images_are_those_of_the_pool(ev, pool):
    p, *_ = problem(ev, pool)
    places, labels = p.batches[1]
    x = p.take(places).unflatten(1, (2, 2, 3))
    assert x.shape == (6, 2, 2, 3, 8, 8) and labels.shape == (2, 2, 6)
    for i, j, k in ((0, 0, 0), (1, 0, 3), (0, 1, 5), (1, 1, 2)):
        c, image = divmod(int(places[i, j, k]), 12)
        assert torch.equal(x[k, i, j], pool[c, image].permute(2, 0, 1))


def test_losses_are_means_of_a_task_summed_to_train_and_averaged_to_judge(ev, pool):
    p, w, lam = problem(ev, pool)
    losses = lambda x, y: torch.tensor(  # noqa: E731
        [
            [
                F.cross_entropy(one_task(p.how, w[i, j], lam[i], x.unflatten(1, (2, 2, 3))[:, i, j]), y[i, j])
                for j in (0, 1)
            ]
            for i in (0, 1)
        ]
    )
    x, y = p.take(p.batches[2][0]), p.batches[2][1]
    assert torch.isclose(p.train(w, lam, p.batches[2]), losses(x, y).sum().double())
    assert torch.isclose(p.valid(w, lam), losses(p.x_val, p.y_val).mean(1).sum().double())


def test_start_has_the_variance_of_relu_networks(ev):
    how = setting(ev, "MetaWeightNet", width=64)
    w, lam = ev.start(how, ev.hd.generators(range(3)), "cpu")
    assert torch.equal(ev.start(how, ev.hd.generators([1]), "cpu")[0][0], w[1])
    kernels = ev.cut(w[:, None], ev.shapes(how)[0])
    for kernel, fan in zip(kernels, (48, 64 * 9, 64 * 9, 64, 64), strict=False):
        assert kernel.std() == pytest.approx((2 / fan) ** 0.5, rel=0.15)
    first, c, second, d = ev.cut(lam[:, None], ev.shapes(how)[1])
    assert first.std() == pytest.approx(2**0.5, rel=0.15) and second.std() == pytest.approx(0.1, rel=0.15)
    assert not any(bias.any() for bias in (kernels[-1], c, d))


# ------------------------------------------------------------------ what the chapter's methods need


@pytest.mark.parametrize("kind", KINDS[:3])
def test_reverse_mode_is_the_unrolled_loop(ev, pool, kind):
    p, w, lam = problem(ev, pool, kind, noise=0.4)
    path = ev.hd.roll(p.step, w, lam, p.batches)
    alpha, first = ev.hd.slopes(p.valid, path[-1], lam)
    found = first + ev.hd.reverse(p.step, alpha, path.__getitem__, lam, p.batches)
    assert torch.allclose(found, ev.hd.unrolled(p, w, lam), rtol=1e-6, atol=1e-11)
    assert bool(first.any()) is (kind != "MetaWeightNet")


def test_every_rule_sees_the_same_path_and_the_last_step(ev, pool):
    """exact by the unrolled loop, 1-step by one product, HyperDistill as the chapter fits and distils."""
    p, w, lam = problem(ev, pool)
    plan = ev.hd.Plan(T=4, tasks=2, gamma=0.9)
    orders = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)).argsort(1)
    rules = {"exact": ("exact", {}), "1-step": ("1-step", {}), "HD": ("HyperDistill", {})}
    rules |= {"newest": ("HyperDistill", {"mixing": False}), "none": ("HyperDistill", {"gamma": 0.0})}
    first, found = ev.hypergradients(p, w, lam, plan, orders, rules)
    assert list(found) == list(rules)
    assert torch.allclose(first + found["exact"], ev.hd.unrolled(p, w, lam), rtol=1e-6, atol=1e-11)
    path = ev.hd.roll(p.step, w, lam, p.batches)
    alpha = ev.hd.slopes(p.valid, path[-1], lam)[0]
    assert torch.equal(found["1-step"], ev.hd.mixed(p.step, alpha, path[-2], lam, p.batches[-1]))
    for name in ("HD", "newest", "none"):
        own = replace(plan, **rules[name][1])
        star = path[0], p.batches[0]
        for t in range(1, 5):
            keep = ev.hd.keep_forwards(own.gamma, t)
            star = ev.hd.distil(star, path[t - 1], p.batches[t - 1], keep, orders[t - 1], own.mixing)
        theta = ev.hd.refit(p, w, lam, orders, own)
        due = ev.hd.mixed(p.step, alpha, star[0], lam, star[1])
        due = theta[:, None] * ev.hd.geometric(own.gamma, 4) * due
        assert torch.allclose(found[name], due)
    assert not torch.allclose(found["HD"], found["newest"])


@pytest.mark.parametrize("kind", KINDS[:3])
def test_one_step_against_finite_differences(ev, pool, kind):
    """αA and αB of one step along a direction; kernels are smooth almost everywhere."""
    p, w, lam = problem(ev, pool, kind)
    g = torch.Generator().manual_seed(1)
    alpha, dw, dlam = (torch.randn(v.shape, generator=g, dtype=torch.float64) for v in (w, w, lam))
    by_w, by_lam = ev.hd.products(p.step, alpha, w, lam, p.batches[0])
    after = lambda by: p.step(*ev.hd.leaves(w + by * dw), 0.0, lam + by * dlam, p.batches[0])[0]  # noqa: E731
    if kind == "MetaWeightNet":  # weights are constants of the inner gradient: of w too
        after = lambda by: p.step(*ev.hd.leaves(w), 0.0, lam + by * dlam, p.batches[0])[0]  # noqa: E731
        dw = dw * 0
    numeric = ((after(1e-6) - after(-1e-6)) * alpha).sum() / 2e-6
    assert torch.isclose((by_w * dw).sum() + (by_lam * dlam).sum(), numeric, rtol=1e-5)


def test_learners_do_not_touch_each_other(ev, pool):
    both, w, lam = problem(ev, pool)
    alone, w1, lam1 = problem(ev, pool, learners=(4,))
    assert torch.equal(w[1:], w1) and torch.equal(both.batches[:, :, 1:], alone.batches)
    assert torch.allclose(ev.hd.unrolled(both, w, lam)[1:], ev.hd.unrolled(alone, w1, lam1))


def test_weights_lie_between_a_tenth_and_one_and_follow_the_loss_alone(ev):
    how = setting(ev, "MetaWeightNet")
    _, lam = ev.start(how, ev.hd.generators(range(2)), "cpu")
    losses = torch.linspace(0, 50, 12).view(2, 2, 3).requires_grad_()
    found = ev.weights(how, lam, losses)
    V1, c1, V2, c2 = lam[1, :200], lam[1, 200:400], lam[1, 400:600], lam[1, 600]
    due = 0.1 + 0.9 * torch.sigmoid(torch.relu(losses[1, 1, 2] * V1 + c1) @ V2 + c2)
    assert torch.isclose(found[1, 1, 2], due) and not found.requires_grad
    assert found.min() >= 0.1 and found.max() <= 1
    level = ev.weights(how, torch.zeros_like(lam), losses)
    assert torch.allclose(level, torch.tensor(0.55))


def test_metaweightnet_weighs_training_and_not_validation(ev, pool):
    p, w, lam = problem(ev, pool, "MetaWeightNet")
    still = torch.zeros_like(lam)  # all weights are 0.55
    plain = ev.Pictures(
        replace(p.how, kind="plain"), pool, ev.hd.generators((3, 4)), ev.hd.Plan(T=4, tasks=2)
    )
    none = torch.zeros(2, 1, dtype=torch.float64)
    assert torch.isclose(p.train(w, still, p.batches[0]), 0.55 * plain.train(w, none, plain.batches[0]))
    assert torch.isclose(p.valid(w, lam), plain.valid(w, none))


# ------------------------------------------------------------------ tasks


def test_tasks_have_their_own_classes_and_judge_on_other_images(ev, pool):
    how, plan = setting(ev), ev.hd.Plan(T=7, tasks=40)
    seen, others = ev.draw_tasks(how, pool, plan, ev.hd.generators([5]))
    (places, labels), (judged, answers) = seen[:, :, 0].transpose(0, 1), others[:, 0]
    assert places.shape == (7, 40, 6) and judged.shape == (40, 12)
    for j in range(40):
        classes = {}
        seen = [(int(p), int(y)) for p, y in zip(places[:, j].flatten(), labels[:, j].flatten(), strict=True)]
        others = list(zip(judged[j].tolist(), answers[j].tolist(), strict=True))
        for place, label in seen + others:
            assert classes.setdefault(label, place // 12) == place // 12
        assert len(set(classes.values())) == len(classes) == 3
        assert not {place for place, _ in seen} & set(judged[j].tolist())
        assert len(set(judged[j].tolist())) == 12
    assert all(len(set(row.tolist())) == 6 for row in places.flatten(0, 1))
    assert len(set(map(tuple, places[0].tolist()))) > 30  # tasks differ


def test_noise_draws_labels_anew_and_leaves_those_that_judge(ev, pool):
    plan, how = ev.hd.Plan(T=1, tasks=400), setting(ev, batch=15, noise=0.6)
    draw = lambda how: ev.draw_tasks(how, pool, plan, ev.hd.generators([5]))  # noqa: E731
    (seen,), judged = (part.squeeze(-3) for part in draw(how))
    by_class = lambda part: [  # noqa: E731  the share of labels that differ from the commonest of their class
        float((y != y.mode().values).double().mean()) for j in range(40) for c in range(5)
        if len(y := part[1][j][part[0][j] // 12 == c]) > 3
    ]  # fmt: skip
    assert sum(by_class(seen)) / len(by_class(seen)) == pytest.approx(0.35, abs=0.06)
    assert max(by_class(judged)) == 0
    clean = draw(replace(how, noise=0.0))[0][0, :, 0]
    assert (clean[1] != seen[1]).double().mean() == pytest.approx(0.6 * 2 / 3, abs=0.02)


def test_roles_share_no_class_and_training_is_standardised(ev):
    pools = ev.class_pools("digits", 8)
    assert [len(pools[role]) for role in ("train", "valid", "test")] == [5, 2, 3]
    train = pools["train"]
    assert train.shape[2:] == (8, 8, 3)
    assert train.mean().abs() < 1e-4 and train.std() == pytest.approx(1, abs=1e-3)
    means = torch.cat([pools[role].mean(1).flatten(1) for role in pools])
    assert torch.pdist(means).min() > 1  # ten different digits


# ------------------------------------------------------------------ training


def trained(ev, pool, rule, **changes):
    plan = ev.hd.Plan(**{"episodes": 3, "T": 4, "tasks": 2, "rate": 0.1, "every": 2} | changes)
    return list(ev.meta_train(rule, [3, 4], plan, setting(ev), pool.float()))


def test_frozen_moves_the_start_alone(ev, pool):
    found = trained(ev, pool, "frozen")
    phi, lam = ev.start(setting(ev), ev.hd.generators([3, 4]), "cpu")
    assert [e for e, *_ in found] == [0, 1, 2, 3]
    assert torch.equal(found[0][1], phi) and torch.equal(found[0][2], lam)
    assert torch.equal(found[-1][2], lam) and not torch.allclose(found[-1][1], phi)


@pytest.mark.parametrize("rule", ["FO", "1-step", "Neumann", "HyperDistill", "carried"])
def test_lam_moves_by_the_rule_and_ever_less(ev, pool, rule):
    """The first episode of FO by hand; the others move lam elsewhere."""
    plan = ev.hd.Plan(episodes=1, T=2, tasks=2, rate=0.1, last=2)
    _, (_, phi, lam) = ev.meta_train(rule, [3, 4], plan, setting(ev), pool.float())
    draws = ev.hd.generators([3, 4])
    w, due = ev.start(setting(ev), draws, "cpu")
    p, moved = ev.Pictures(setting(ev), pool.float(), draws, plan), 0.0
    w = w[:, None].expand(-1, 2, -1)
    path, velocity = [w], 0.0
    for batch in p.batches:
        w, velocity = (v.detach() for v in p.step(*ev.hd.leaves(path[-1]), velocity, due, batch))
        path.append(w)
        moved = 0.9 * moved + ev.hd.slopes(p.valid, w, due)[1]
        due = due - 0.1 * moved
    same = torch.allclose(lam, due, atol=1e-6)
    assert same is (rule == "FO") and not torch.equal(lam, due + 1)
    if rule == "FO":
        assert torch.allclose(phi, w.mean(1), atol=1e-6)


@pytest.mark.parametrize(("last", "T"), [(2, 5), (5, 5)])
def test_lam_moves_after_the_last_steps_only(ev, pool, last, T):
    """All steps as the last ones are the rule itself; fewer are its tail."""
    plan = ev.hd.Plan(episodes=1, T=T, tasks=2, rate=0.1, last=last)
    given = [3, 4], plan, setting(ev), pool.float()
    moved, whole = (list(ev.meta_train(rule, *given))[-1] for rule in ("FO, last", "FO"))
    assert torch.equal(moved[2], whole[2]) is (last == T)
    draws = ev.hd.generators([3, 4])
    w, due = ev.start(setting(ev), draws, "cpu")
    p, speed, velocity = ev.Pictures(setting(ev), pool.float(), draws, plan), 0.0, 0.0
    w = w[:, None].expand(-1, 2, -1)
    for t, batch in enumerate(p.batches, 1):
        w, velocity = (v.detach() for v in p.step(*ev.hd.leaves(w), velocity, due, batch))
        if t > T - last:
            speed = 0.9 * speed + ev.hd.slopes(p.valid, w, due)[1]
            due = due - 0.1 * speed
    torch.testing.assert_close(moved[2], due, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_the_whole_second_part_is_autograd_through_weights_and_velocity(ev, pool, kind):
    p, w, lam = problem(ev, pool, kind)
    (start,) = ev.hd.leaves(lam)
    at, velocity = w.clone().requires_grad_(), 0.0
    for batch in p.batches:
        (slope,) = torch.autograd.grad(p.train(at, start, batch), at, create_graph=True)
        velocity = 0.9 * velocity + slope
        at = at - p.how.rate * velocity
    due = torch.autograd.grad(p.valid(at, start), start)[0]
    path = ev.hd.roll(p.step, w, lam, p.batches)
    first = ev.hd.slopes(p.valid, path[-1], lam)[1]
    torch.testing.assert_close(first + ev.whole(p, w, lam), due, rtol=1e-6, atol=1e-11)


def test_the_rate_falls_to_zero(ev, pool, monkeypatch):
    rates = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self: (rates.append(self.param_groups[0]["lr"]), step(self))[1]
    )
    trained(ev, pool, "FO", episodes=4)
    assert rates[::4] == pytest.approx([0.1, 0.075, 0.05, 0.025])


def test_the_length_is_fitted_every_so_many_episodes(ev, pool, monkeypatch):
    fits, refit = [], ev.hd.refit
    monkeypatch.setattr(ev.hd, "refit", lambda *given: fits.append(refit(*given)) or fits[-1])
    trained(ev, pool, "HyperDistill", episodes=5)
    assert len(fits) == 3 and all(theta.shape == (2,) for theta in fits)


def test_accuracy_counts_right_answers_on_new_tasks(ev, pool):
    p, w, lam = problem(ev, pool)
    hits = [
        [
            (
                one_task(p.how, w[i, j], lam[i], p.x_val.unflatten(1, (2, 2, 3))[:, i, j]).argmax(1)
                == p.y_val[i, j]
            )
            for j in (0, 1)
        ]
        for i in (0, 1)
    ]
    due = torch.tensor([100 * torch.cat(row).double().mean() for row in hits])
    assert torch.allclose(p.accuracy(w, lam).double(), due.double(), atol=1e-4)


def test_a_test_adapts_first_and_takes_new_tasks_every_round(ev, pool):
    how, plan = setting(ev, judged=6), ev.hd.Plan(T=20, tasks=10)
    phi, lam = (rows.double() for rows in ev.start(how, ev.hd.generators([3, 4]), "cpu"))
    bright = pool + torch.arange(5.0, dtype=torch.float64)[:, None, None, None, None] * torch.tensor(
        [2.0, -4, 6]
    )
    found = ev.test_accuracy(phi, lam, [3, 4], plan, how, bright, 2)
    assert found.shape == (2,) and found.min() > 60  # chance is 33
    first = ev.test_accuracy(phi, lam, [3, 4], plan, how, bright, 1)
    again = ev.test_accuracy(phi[1:], lam[1:], [4], plan, how, bright, 1)
    assert not torch.equal(first, found) and torch.allclose(first[1:], again)


@pytest.mark.parametrize("size", [0.3, 1.0])
def test_learners_needed_is_the_least_number_whose_interval_is_narrow(ev, size):
    from scipy.stats import t

    gaps = torch.randn(10, generator=torch.Generator().manual_seed(0)).numpy()
    half = lambda n: t.ppf(0.975, n - 1) * gaps.std(ddof=1) / n**0.5  # noqa: E731
    n = ev.learners_needed(gaps, size)
    assert half(n) <= size < half(n - 1)
