"""Chapter 08's method cells against oracles: plain layers, full autograd, brute force, closed forms."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn
from torch.nn import functional as F

from nbpkg import chapters
from nbpkg.report.stats import spearman
from nbpkg.zoo.students import TEACHER, Students, draw, losses, start


@pytest.fixture(scope="module")
def ch():
    return chapters.load("08_dass")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def worn(classes=5):
    g, state = rng(3), {k: v.double() for k, v in start(classes, 0).items()}
    moves = {k: 0.3 * torch.rand(v.shape, generator=g, dtype=torch.float64) for k, v in state.items()}
    return {k: v + moves[k] * ("_" in k) for k, v in state.items()}


def toy(tasks=3, n=4, C=4, d=5):
    def draw_(*shape):
        return torch.randn(*shape, generator=rng(sum(shape)), dtype=torch.float64)

    return {
        "code": draw_(tasks, d), "teacher": draw_(tasks, C, 8, 8), "support": draw_(tasks),
        "codes": draw_(tasks, n, d), "own": draw_(tasks, n, C, 8, 8), "labels": draw_(tasks, n),
    }  # fmt: skip


def weights(ch, tasks=3, parts="STA", alpha=0.02):
    made = [ch.init_predictor(rng(seed), 4, 5, parts, hidden=6) for seed in range(tasks)]
    phi = {k: torch.stack([m[k] for m in made]).double().requires_grad_() for k in made[0]}
    g = rng(9)
    step = {k: (alpha * torch.rand(v.shape, generator=g)).double().requires_grad_() for k, v in phi.items()}
    return phi, step


def one(values, i):
    return {k: v[i : i + 1] for k, v in values.items()}


# ------------------------------------------------------------------------ students


def test_the_student_of_full_size_is_the_teacher_and_masks_are_remapping(ch):
    """The specification's first two acceptance tests, by a network written without masks."""
    state, x = worn(), torch.randn(2, 3, 16, 16, generator=rng(1), dtype=torch.float64)
    whole = Students([TEACHER], ch.remap(state, TEACHER)).eval()
    torch.testing.assert_close(whole(x), Students([TEACHER], state).eval()(x), rtol=0, atol=0)
    chosen = draw(6, 5)
    together = Students(chosen, state).eval().map(x)
    for number, student in enumerate(chosen):
        torch.testing.assert_close(together[:, number], plain_map(ch.remap(state, student), student, x))


def plain_map(w, student, x):
    """The last activations of a small network with weights w, block by block."""

    def unit(name, x, stride):
        y = F.conv2d(x, w[name], None, stride, 1)
        return F.batch_norm(y, *w[f"{name}_seen"], *w[f"{name}_norm"])

    h = torch.relu(unit("stem", x, 2))
    for block, eighths in enumerate(student):
        if eighths:
            stride = 2 if block in (3, 6) else 1
            y = unit(f"b{block}", torch.relu(unit(f"a{block}", h, stride)), 1)
            h = F.max_pool2d(h, 2) if stride == 2 else h
            h = torch.cat([h, h.new_zeros(len(h), max(0, y.shape[1] - h.shape[1]), *h.shape[2:])], 1)
            h = torch.relu(y + h[:, : y.shape[1]])
    return h


def test_remapped_weights_are_those_that_a_stack_computes_with(ch):
    state = worn()
    for student in draw(10, 1):
        small, net = ch.remap(state, student), Students([student], state).state_dict()
        assert small.keys() == net.keys()
        assert all(torch.equal(small[k], net[k]) for k in small)
    assert all(torch.equal(v, state[k]) for k, v in ch.remap(state, TEACHER).items())


def test_the_loss_is_the_zoos_and_its_closed_form(ch):
    z, t = torch.randn(2, 6, 4, generator=rng(), dtype=torch.float64)
    y = torch.arange(6) % 4
    assert torch.isclose(ch.kd_loss(z, y, t, kappa=1.0), F.cross_entropy(z, y))
    soft = (t / 6).softmax(-1)
    assert torch.isclose(ch.kd_loss(t, y, t, kappa=0.0), -36 * (soft * soft.log()).sum(-1).mean())
    assert torch.isclose(ch.kd_loss(z, y, t), losses(z[:, None], F.one_hot(y, 4).double(), soft)[0])


def test_codes_are_one_to_one(ch):
    students = draw(200, 2)
    codes = ch.code(students)
    assert codes.shape == (200, 9 * 5 + 9) and len(codes.unique(dim=0)) == 200
    assert torch.equal(codes[:, -9:].sum(1), torch.full((200,), 3.0))
    assert torch.equal(codes[:, :-9].sum(1).long(), (torch.tensor(students) > 0).sum(1))
    widths, depths = (torch.zeros(9, 5), torch.zeros(3, 3))
    widths[[0, 3, 4, 6], [1, 4, 0, 2]], depths[[0, 1, 2], [0, 1, 0]] = 1, 1
    due = torch.cat([widths.flatten(), depths.flatten()])
    assert torch.equal(ch.code([(5, 0, 0, 8, 4, 0, 6, 0, 0)])[0], due)


# ------------------------------------------------------------------------ predictor


def test_the_predictor_against_plain_layers_one_task_at_a_time(ch):
    phi, _ = weights(ch)
    task = toy()
    out = ch.predict(phi, task["codes"], task["own"], task["teacher"])
    for i in range(3):
        p = {k: v[i].detach() for k, v in phi.items()}

        def encoded(who, x, p=p):
            for layer in "12":
                conv = nn.Conv2d(*reversed(p[who + layer].shape[:2]), 3, 2, 1, bias=False).double()
                conv.weight.data = p[who + layer]
                x = torch.relu(conv(x))
            return x.mean((2, 3))

        a = task["codes"][i] @ p["A"] + p["a"]
        t = encoded("T", task["teacher"][i][None]).expand(4, -1)
        x = torch.cat([encoded("S", task["own"][i]), t, a], -1)
        x = torch.tanh(x @ p["H"] + p["h"]) @ p["O"] + p["o"]
        torch.testing.assert_close(out[i], x[:, 0])


def test_sizes_and_scale_are_the_authors(ch):
    made = ch.init_predictor(rng(), 256, 181)
    assert sum(v.numel() for v in made.values()) == 1_228_289
    conv, linear = nn.Conv2d(256, 128, 3), nn.Linear(181, 64)
    assert abs(made["S1"].abs().max() / conv.weight.abs().max() - 1) < 0.01
    assert abs(made["A"].abs().max() / linear.weight.abs().max() - 1) < 0.01


@pytest.mark.parametrize("parts", ["A", "SA", "TA", "STA"])
def test_gradients_of_an_episode_are_those_of_the_chain_rule(ch, parts):
    """By q - H (alpha q) and -g q, with the Hessian's product from finite differences of the slopes."""
    phi, alpha = weights(ch, parts=parts)
    task = toy()
    losses = ch.episode(phi, alpha, task)
    found = torch.autograd.grad(losses.sum(), [*phi.values(), *alpha.values()])
    slope = ch.slopes(phi, task)
    moved = {k: v.detach().requires_grad_() for k, v in ch.adapt(phi, alpha, slope).items()}
    y = ch.predict(moved, task["codes"], task["own"], task["teacher"])
    errors = (y - task["labels"]).square().mean(-1)
    torch.testing.assert_close(losses, errors)
    q = torch.autograd.grad(errors.sum(), list(moved.values()))
    ends = []
    for sign in (1, -1):
        pairs = zip(phi.items(), alpha.values(), q, strict=True)
        near = {k: (v + sign * 1e-5 * a * p).detach().requires_grad_() for (k, v), a, p in pairs}
        ends.append(ch.slopes(near, task))
    for i, (g, at) in enumerate(zip(slope, q, strict=True)):
        product = (ends[0][i] - ends[1][i]) / 2e-5
        torch.testing.assert_close(found[i], at - product, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found[len(phi) + i], -g * at, rtol=1e-9, atol=1e-12)


def test_first_order_leaves_the_hessian_out_and_tasks_do_not_mix(ch):
    phi, alpha = weights(ch)
    task = toy()
    losses = ch.episode(phi, alpha, task, second_order=False)
    found = torch.autograd.grad(losses.sum(), [*phi.values(), *alpha.values()])
    slope = ch.slopes(phi, task)
    moved = {k: v.detach().requires_grad_() for k, v in ch.adapt(phi, alpha, slope).items()}
    y = ch.predict(moved, task["codes"], task["own"], task["teacher"])
    q = torch.autograd.grad((y - task["labels"]).square().mean(-1).sum(), list(moved.values()))
    for i, (g, at) in enumerate(zip(slope, q, strict=True)):
        torch.testing.assert_close(found[i], at)
        torch.testing.assert_close(found[len(phi) + i], -g * at)
    for i in range(3):
        mine = {k: v.detach().clone().requires_grad_() for k, v in one(phi, i).items()}
        alone = ch.episode(mine, one(alpha, i), one(task, i), second_order=False)
        torch.testing.assert_close(alone, losses[i : i + 1])
        for at, k in enumerate(phi):
            (due,) = torch.autograd.grad(alone.sum(), mine[k], retain_graph=True)
            torch.testing.assert_close(due[0], found[at][i])


def test_no_step_changes_nothing(ch):
    phi, alpha = weights(ch, alpha=0.0)
    moved = ch.adapt(phi, alpha, ch.slopes(phi, toy()))
    assert all(torch.equal(moved[k], phi[k]) for k in phi)


def test_labels_are_standardised_within_the_task(ch):
    labels, support = torch.rand(3, 20, generator=rng()) * 50, torch.tensor([60.0, 70.0, 80.0])
    z, level = ch.standardise(labels, support)
    torch.testing.assert_close(z.mean(-1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(-1), torch.ones(3))
    due = [((s - row.mean()) / row.std()).item() for row, s in zip(labels, support, strict=True)]
    torch.testing.assert_close(level, torch.full((3,), sum(due) / 3))
    same = ch.standardise(3 * labels + 7, 3 * support + 7)
    torch.testing.assert_close(same[0], z, atol=1e-4, rtol=1e-4)


def test_the_gradient_by_step_sizes_is_that_of_finite_differences(ch):
    phi, alpha = weights(ch, tasks=1)
    task = one(toy(), 0)
    by_alpha = dict(
        zip(alpha, torch.autograd.grad(ch.episode(phi, alpha, task).sum(), list(alpha.values())), strict=True)
    )

    def loss(steps):
        moved = ch.adapt(phi, steps, ch.slopes(phi, task))
        y = ch.predict(moved, task["codes"], task["own"], task["teacher"])
        return (y - task["labels"]).square().mean().item()

    for name in phi:
        ends = []
        for sign in (1, -1):
            steps = {k: v.detach().clone() for k, v in alpha.items()}
            steps[name].view(-1)[1 % steps[name].numel()] += sign * 1e-5
            ends.append(loss(steps))
        slope = by_alpha[name].reshape(-1)[1 % alpha[name].numel()].item()
        assert np.isclose((ends[0] - ends[1]) / 2e-5, slope, rtol=1e-4, atol=1e-9)


def test_the_order_of_students_changes_no_prediction(ch):
    phi, _ = weights(ch)
    task, order = toy(), torch.tensor([2, 0, 3, 1])
    y = ch.predict(phi, task["codes"], task["own"], task["teacher"])
    again = ch.predict(phi, task["codes"][:, order], task["own"][:, order], task["teacher"])
    torch.testing.assert_close(again, y[:, order])
    alone = ch.predict(phi, task["codes"][:, :1], task["own"][:, :1], task["teacher"])
    torch.testing.assert_close(alone, y[:, :1])


# ------------------------------------------------------------------------ training

PLAN = {"rate": 1e-2, "step": 0.01, "every": 2, "queries": 3}


def bank(tasks, n, seed=0):
    g = rng(seed)
    made = {"code": torch.randn(tasks, 5, generator=g), "teacher": torch.randn(tasks, 4, 2, 2, generator=g)}
    made |= {"support": torch.randn(tasks, generator=g), "codes": torch.randn(tasks, n, 5, generator=g)}
    made |= {"own": torch.randn(tasks, n, 4, 2, 2, generator=g)}
    return made | {"labels": made["codes"].sum(-1)}


def plainly(ch, seed, train, episodes, plan):
    """One seed by torch's Adam and autograd through both levels, a task at a time."""
    model = ch.init_model([seed], train, "STA", plan["step"])
    phi, alpha = (
        {k: v[0].detach().clone().requires_grad_() for k, v in model[part].items()}
        for part in ("phi", "alpha")
    )
    learned = [*phi.values(), *(alpha.values() if plan["step"] else ())]
    optimiser, g = torch.optim.Adam(learned, plan["rate"]), rng(seed)
    picks = [
        row
        for _ in range(0, episodes, plan["every"])
        for row in torch.rand(plan["every"], *train["labels"].shape, generator=g).argsort(-1)
    ]
    for pick in picks[:episodes]:
        loss = 0
        for i in range(len(train["labels"])):
            some = pick[i, : plan["queries"]]
            t = {k: v[i : i + 1] for k, v in train.items()}
            row = {k: v[None] for k, v in phi.items()}
            y = ch.predict(row, t["code"][:, None], t["teacher"][:, None], t["teacher"])[:, 0]
            s = torch.autograd.grad((y - t["support"]).square().sum(), list(row.values()), create_graph=True)
            moved = {k: v - alpha[k][None] * g_ for (k, v), g_ in zip(row.items(), s, strict=True)}
            y = ch.predict(moved, t["codes"][:, some], t["own"][:, some], t["teacher"])
            loss = loss + (y - t["labels"][:, some]).square().mean() / len(train["labels"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return phi, alpha


@pytest.mark.parametrize("step", [0.01, 0.0])
def test_meta_training_of_two_seeds_is_that_of_each_alone(ch, step):
    train, valid, plan = bank(2, 6), bank(2, 5, 1), PLAN | {"step": step}
    made = ch.meta_train([3, 4], train, valid, "STA", 2, plan)
    for at, seed in enumerate((3, 4)):
        phi, alpha = plainly(ch, seed, train, 2, plan)
        for part, due in (("phi", phi), ("alpha", alpha)):
            for k, v in due.items():
                torch.testing.assert_close(made[part][k][at], v.detach(), rtol=2e-4, atol=2e-5)
    assert made["curve"].shape == (1, 2)


def test_the_look_that_ranks_validation_best_is_kept(ch):
    train, valid = bank(2, 6), bank(2, 5, 1)
    made = ch.meta_train([0, 1, 2], train, valid, "SA", 12, PLAN)
    assert made["curve"].shape == (6, 3) and np.ptp(made["curve"], 0).min() > 0
    guess = ch.predictions({p: made[p] for p in ("phi", "alpha")}, valid).numpy()
    score = spearman(guess, valid["labels"].numpy()).mean(1)
    np.testing.assert_allclose(score, made["curve"].max(0))


def test_equal_scores_rank_nothing_and_are_not_kept(ch):
    model = {"phi": ch.init_model([0], bank(2, 6), "STA", 0.01)["phi"], "alpha": {}}
    valid, first = bank(2, 5, 1), {k: v.detach().clone() for k, v in model["phi"].items()}
    model["alpha"] = {k: torch.zeros_like(v) for k, v in first.items()}
    best = ch.Best(model, valid)
    best.look(model)
    for value in model["phi"].values():
        value.detach().zero_()
    best.look(model)
    assert best.curve[1] == -1 and all(torch.equal(best.kept["phi"][k], v) for k, v in first.items())


def test_predictions_adapt_each_task_to_its_teacher(ch):
    some = bank(3, 5)
    model = ch.init_model([0, 1], some, "STA", 0.05)
    found = ch.predictions(model, some)
    for seed in range(2):
        for i in range(3):
            t = {k: v[i : i + 1] for k, v in some.items()}
            phi = {k: v[seed : seed + 1].detach().requires_grad_() for k, v in model["phi"].items()}
            alpha = {k: v[seed : seed + 1] for k, v in model["alpha"].items()}
            moved = ch.adapt(phi, alpha, ch.slopes(phi, t))
            y = ch.predict(moved, t["codes"], t["own"], t["teacher"])
            torch.testing.assert_close(found[seed, i], y[0].detach())


# ------------------------------------------------------------------------ rivals


def test_ridge_is_sklearns_on_centred_tasks(ch):
    g = np.random.default_rng(0)
    x, y, new = g.standard_normal((3, 20, 4)), g.standard_normal((3, 20)), g.standard_normal((7, 4))
    centred = (x - x.mean(1, keepdims=True)).reshape(-1, 4)
    scale = centred.std(0)
    model = Ridge(2.0, fit_intercept=False).fit(centred / scale, (y - y.mean(1, keepdims=True)).ravel())
    np.testing.assert_allclose(ch.ridge(x, y, new, 2.0), model.predict(new / scale), rtol=1e-6)


def test_ridges_read_shape_costs_and_mean_maps(ch):
    g = np.random.default_rng(0)
    some = {"codes": g.random((2, 3, 5)), "own": g.random((2, 3, 4, 2, 2)).astype(np.float32)}
    some |= {"weights": g.random((2, 3)) + 1, "products": g.random((2, 3)) + 1}
    x = ch.features(some, ("shape", "map"))
    assert x.shape == (2, 3, 5 + 2 + 4)
    np.testing.assert_array_equal(x[..., :7], ch.features(some, ("shape",)))
    np.testing.assert_allclose(np.exp(x[1, 2, 5:7]), [some["weights"][1, 2], some["products"][1, 2]])
    np.testing.assert_allclose(x[1, 2, 7:], some["own"][1, 2].reshape(4, 4).mean(1), rtol=1e-6)


def test_scores_are_added_without_a_weight(ch):
    g = np.random.default_rng(0)
    a, b = g.standard_normal((2, 3, 20))
    by_hand = [(u - u.mean()) / u.std() + (v - v.mean()) / v.std() for u, v in zip(a, b, strict=True)]
    np.testing.assert_allclose(ch.added(a, b), by_hand)
    np.testing.assert_allclose(ch.added(5 * a + 3, 0.1 * b - 2), ch.added(a, b), rtol=1e-6)


def test_likeness_is_the_cosine_of_flat_maps(ch):
    g = np.random.default_rng(0)
    own, above = g.random((2, 5, 3, 2, 2)), g.random((2, 3, 2, 2))
    found = ch.likeness(own, above)
    due = F.cosine_similarity(torch.tensor(own).flatten(2), torch.tensor(above).flatten(1)[:, None], dim=-1)
    np.testing.assert_allclose(found, due, rtol=1e-10)
    np.testing.assert_allclose(ch.likeness(7 * own, 0.1 * above), found, rtol=1e-9)  # sizes do not matter
    np.testing.assert_allclose(ch.likeness(above[:, None], above), 1, rtol=1e-9)
    assert np.isfinite(ch.likeness(0 * own, above)).all()
