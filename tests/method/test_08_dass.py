"""Chapter 08's method cells against oracles: brute force, finite differences, closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nbpkg import chapters


@pytest.fixture(scope="module")
def ch():
    torch.set_num_threads(1)  # as the chapter has it: for small tensors more are slower
    return chapters.load("08_dass")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def worn_teacher(ch, classes=5, dtype=torch.float32):
    """A teacher whose norms have statistics and weights as after training."""
    net, g = ch.network(ch.TEACHER, classes, 3), rng(1)
    with torch.no_grad():
        for name, value in [*net.named_parameters(), *net.named_buffers()]:
            if "norm" in name and value.is_floating_point():
                value.add_(torch.rand(value.shape, generator=g) * 0.5)
    return net.to(dtype)


def some_archs(ch, n=30, seed=0):
    return ch.random_archs(n, np.random.default_rng(seed))


# ------------------------------------------------------------------------ the space


def test_students_are_different_and_keep_to_the_rules(ch):
    archs = some_archs(ch, 200)
    more = ch.random_archs(50, np.random.default_rng(1), archs)
    assert len({tuple(a) for a in [*archs.tolist(), *more.tolist()]}) == 250
    for arch in archs.reshape(len(archs), 3, 3):
        for stage in arch:
            depth = (stage > 0).sum()
            assert depth >= 1 and (stage[:depth] > 0).all() and (stage[depth:] == 0).all()
            assert stage[:depth].min() >= ch.NARROW and stage.max() <= ch.FULL
        assert arch[-1][arch[-1] > 0][-1] == ch.FULL


def test_the_code_is_one_to_one(ch):
    archs = some_archs(ch, 300)
    codes = ch.code(archs)
    assert codes.shape == (300, 9 * (ch.FULL - ch.NARROW + 1) + 9)
    assert len(codes.unique(dim=0)) == 300
    assert torch.equal(codes[:, -9:].sum(1), torch.full((300,), 3.0))  # a depth for each stage
    assert (codes[:, :-9].sum(1).numpy() == (archs > 0).sum(1)).all()


def test_costs_are_those_of_the_network(ch):
    counted = []

    def count(module, args, out):
        counted.append(out[0].numel() * module.weight[0].numel())

    for arch in [*some_archs(ch, 6), np.array(ch.TEACHER)]:
        net = ch.network(arch, 7)
        for module in net.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                module.register_forward_hook(count)
        counted.clear()
        net(torch.zeros(1, 3, 16, 16))
        weights, macs = ch.costs([arch], 7, 16)[:, 0]
        assert weights == sum(p.numel() for p in net.parameters()) and macs == sum(counted)


# ------------------------------------------------------------------------ remapping


@pytest.mark.parametrize("how", ["first", "last", "uniform"])
def test_the_full_student_is_the_teacher(ch, how):
    teacher, x = worn_teacher(ch), torch.randn(4, 3, 16, 16, generator=rng())
    student = ch.remap(teacher, ch.network(ch.TEACHER, 5, 9), how)
    assert torch.equal(student(x), teacher(x))


def test_remapping_copies_the_entries_that_it_says(ch):
    teacher, arch = worn_teacher(ch), np.array([5, 3, 0, 8, 2, 4, 6, 8, 0])
    student = ch.remap(teacher, ch.network(arch, 5))
    mine, theirs = student.stages[1][1].conv1.weight, teacher.stages[1][1].conv1.weight
    assert torch.equal(mine, theirs[:4, :16])  # two eighths of 16 channels after a block at full width
    mine, theirs = student.stages[1][0].conv1.weight, teacher.stages[1][0].conv1.weight
    assert torch.equal(mine, theirs[:16, :3])
    assert torch.equal(student.stages[2][1].norm2.running_var, teacher.stages[2][1].norm2.running_var)
    assert len(student.stages[0]) == 2 and torch.equal(student.head.weight, teacher.head.weight)
    assert ch.kept(3, 8, "last").tolist() == [5, 6, 7] and ch.kept(4, 8, "uniform").tolist() == [0, 2, 4, 6]


def test_masked_teacher_equals_remapped_students(ch):
    teacher, archs = worn_teacher(ch, dtype=torch.float64), some_archs(ch, 25)
    noise = torch.randn(1, 3, 16, 16, generator=rng(), dtype=torch.float64)
    wanted = [ch.remap(teacher, ch.network(a, 5).double()).map(noise) for a in archs]
    torch.testing.assert_close(
        ch.masked_maps(teacher, archs, noise), torch.cat(wanted).detach(), atol=1e-9, rtol=1e-9
    )
    single = worn_teacher(ch)
    maps = ch.masked_maps(single, archs, noise.float())
    wanted = torch.cat([ch.remap(single, ch.network(a, 5)).map(noise.float()) for a in archs]).detach()
    assert ((maps - wanted).abs() <= 1e-5 * wanted.abs().max()).all()


# ------------------------------------------------------------------------ distillation


def test_the_loss_is_its_closed_form(ch):
    z, t = torch.randn(2, 6, 4, generator=rng(), dtype=torch.float64).unbind()
    y = torch.arange(6) % 4
    torch.testing.assert_close(ch.kd_loss(z, y, t, 1.0, 1.0), F.cross_entropy(z, y))
    p, q = (t / 6).softmax(-1), (z / 6).softmax(-1)
    soft, hard = -(p * q.log()).sum(1).mean(), -z.log_softmax(-1)[range(6), y].mean()
    torch.testing.assert_close(ch.kd_loss(z, y, t), 0.5 * 36 * soft + 0.5 * hard)


def test_views_are_shifted_and_mirrored_images(ch):
    x = torch.arange(2 * 3 * 16.0).view(2, 3, 4, 4)
    padded = F.pad(x, (1, 1, 1, 1))
    for mirror in (False, True):
        for epoch in ch.views(x, 4, 0, mirror, pad=1):
            for image, source in zip(epoch, padded, strict=True):
                cuts = [source[:, i : i + 4, j : j + 4] for i, j in itertools.product(range(3), repeat=2)]
                cuts += [c.flip(-1) for c in cuts] if mirror else []
                assert any(torch.equal(image, c) for c in cuts)


def test_support_and_judged_images_are_disjoint_and_all(ch):
    task = ch.collect("smoke").tasks[0]
    data = task.data()
    (x, y), (more_x, more_y) = ch.held_out(data, 4)
    assert torch.equal(y.bincount(), torch.full((task.num_classes,), 4))
    assert len(x) + len(more_x) == len(data.y_valid) + len(data.y_test) and len(more_x) == len(more_y)
    rows = {row.numpy().tobytes() for row in x}
    judged = ch.scaled(data, "valid")[0][[10 * label + 4 for label in range(task.num_classes)]]
    assert len(rows & {row.numpy().tobytes() for row in judged}) == 0


def test_training_is_a_function_of_its_seed_and_learns(ch):
    task, recipe = ch.collect("smoke").tasks[0], {"epochs": 3, "rate": 0.1, "batch": 20}
    teacher = ch.train_teacher(0, task, 8, 0.05, 20)
    assert 0 <= teacher["support"] <= 100 and teacher["judged"] > 40
    archs = some_archs(ch, 2)
    both = [ch.train_students(1, task, teacher["state"], archs, **recipe) for _ in range(2)]
    assert (both[0] == both[1]).all()
    alone = ch.train_students(1, task, teacher["state"], archs[:1], **recipe)
    assert alone[0] == both[0][0]  # beside others or not


def test_calls_cover_every_student_once(ch):
    tasks, archs = ["a", "b"], np.arange(2 * 25 * 9).reshape(2, 25, 9)
    calls = ch.database_calls(
        tasks, ["s", "t"], archs, {"epochs": 1}, [(25, "first", True, 0), (7, "random", False, 1)]
    )
    first = [c for c in calls if c["soft"]]
    assert (np.concatenate([c["archs"] for c in first]).reshape(archs.shape) == archs).all()
    assert sum(len(c["archs"]) for c in calls) == 2 * 32 and {c["seed"] for c in calls} == {0, 1}


def test_shared_students_are_the_same_in_all_tasks_and_others_in_one(ch):
    archs = ch.choose_archs(4, 5, 6)
    assert archs.shape == (4, 11, 9) and (archs[:, :5] == archs[:1, :5]).all()
    assert len({tuple(a) for a in archs.reshape(-1, 9).tolist()}) == 5 + 4 * 6


# ------------------------------------------------------------------------ the predictor


def toy_bank(tasks=2, n=4, C=4, d=6, side=4, seed=0):
    g = rng(seed)

    def draw(*shape):
        return torch.randn(tasks, *shape, generator=g, dtype=torch.float64)

    return {
        "code_s": draw(d), "label_s": draw(), "codes": draw(n, d), "labels": draw(n),
        "raw_s": draw(C, side, side), "raw": draw(n, C, side, side),
    }  # fmt: skip


def cut(ch, b):
    out = {k: v for k, v in b.items() if not k.startswith("raw")}
    out |= {"map_s": ch.patches(b["raw_s"]), "maps": ch.patches(b["raw"])}
    return out | {"map_t": out["map_s"]}


def double(p):
    return {k: v.double() for k, v in p.items()}


@pytest.mark.parametrize("side", [1, 2, 3, 4, 8])
def test_patches_and_a_product_are_the_convolution(ch, side):
    maps, p = torch.randn(3, 4, side, side, generator=rng()), ch.init_predictor(0, 4, 6)
    wanted = F.relu(F.conv2d(maps, p["S.conv1"], stride=2, padding=1))
    wanted = F.relu(F.conv2d(wanted, p["S.conv2"], stride=2, padding=1)).mean((2, 3))
    torch.testing.assert_close(ch.encode(p, "S", ch.patches(maps)), wanted, atol=1e-5, rtol=1e-4)


def test_published_sizes_give_the_published_number_of_weights(ch):
    p = ch.init_predictor(0, 256, 181)
    assert sum(v.numel() for v in p.values()) == 1_228_289


def test_parts_read_what_they_say(ch):
    b = cut(ch, toy_bank())
    for parts in ("STA", "SA", "TA", "A", "S"):
        p = double(ch.init_predictor(0, 4, 6, parts))
        base = ch.predict(p, b["codes"][0], b["maps"][0], b["map_t"][0])
        for number, letter in enumerate("AST"):
            changed = [b["codes"][0], b["maps"][0], b["map_t"][0]]
            changed[number] = (b["codes"], b["maps"], b["map_t"])[number][1]
            assert torch.equal(ch.predict(p, *changed), base) == (letter not in parts)


def test_order_of_candidates_changes_nothing(ch):
    p, b = double(ch.init_predictor(0, 4, 6)), cut(ch, toy_bank(n=9))
    order = torch.randperm(9, generator=rng())
    alpha = {k: torch.full_like(v, 0.01) for k, v in p.items()}
    moved = b | {k: b[k][:, order] for k in ("codes", "maps", "labels")}
    torch.testing.assert_close(ch.predict_tasks(p, alpha, moved), ch.predict_tasks(p, alpha, b)[:, order])
    one = b | {k: b[k][:, :1] for k in ("codes", "maps", "labels")}
    torch.testing.assert_close(ch.predict_tasks(p, alpha, one), ch.predict_tasks(p, alpha, b)[:, :1])


def test_a_step_of_zero_changes_nothing_and_a_small_one_lowers_the_support_error(ch):
    p, b = double(ch.init_predictor(0, 4, 6)), cut(ch, toy_bank())
    nil = {k: torch.zeros_like(v) for k, v in p.items()}
    torch.testing.assert_close(
        ch.predict_tasks(p, nil, b), ch.predict_tasks(p, nil, b, False), rtol=0, atol=1e-14
    )
    support = b | {
        "codes": b["code_s"][:, None],
        "maps": b["map_s"][:, None],
        "labels": b["label_s"][:, None],
    }
    small = {k: torch.full_like(v, 1e-3) for k, v in p.items()}
    assert (ch.query_losses(p, small, support) < ch.query_losses(p, small, support, False)).all()


def test_second_order_gradients_match_finite_differences(ch):
    p, b = double(ch.init_predictor(0, 4, 6)), cut(ch, toy_bank())
    alpha = {k: torch.full_like(v, 0.05) for k, v in p.items()}

    def loss(p, alpha):
        return ch.query_losses(p, alpha, b).mean()

    leaves = [{k: v.clone().requires_grad_() for k, v in part.items()} for part in (p, alpha)]
    loss(*leaves).backward()
    g, h = rng(5), 1e-5
    for k in p:
        way = torch.randn(p[k].shape, generator=g, dtype=torch.float64)
        for part, leaf in enumerate(leaves):
            up, down = ([dict(p), dict(alpha)] for _ in range(2))
            up[part][k], down[part][k] = up[part][k] + h * way, down[part][k] - h * way
            numeric = (loss(*up) - loss(*down)) / (2 * h)
            assert math.isclose(
                float((leaf[k].grad * way).sum()), float(numeric), rel_tol=1e-4, abs_tol=1e-8
            ), k


def test_tasks_adapted_together_are_tasks_adapted_alone(ch):
    p, b = double(ch.init_predictor(0, 4, 6)), cut(ch, toy_bank(3))
    alpha = {k: torch.full_like(v, 0.05) for k, v in p.items()}
    for k in range(3):
        mine = {name: v[k] for name, v in b.items()}
        alone = ch.predict(ch.adapt(p, alpha, mine), mine["codes"], mine["maps"], mine["map_t"])
        torch.testing.assert_close(ch.predict_tasks(p, alpha, b)[k], alone)


def test_meta_training_learns_and_keeps_the_best_check(ch):
    b = {k: v.float() for k, v in cut(ch, toy_bank(3, 12)).items()}
    b["labels"] = b["codes"][..., 0] + b["label_s"][:, None]
    made = ch.meta_train(0, b, b, "STA", True, 60, 8, rate=1e-2)
    assert made["losses"][-10:].mean() < 0.7 * made["losses"][:10].mean() and len(made["checks"]) == 3
    told = ch.predict_tasks(made["p"], made["alpha"], b).numpy()
    rho = ch.stats.spearman(told, b["labels"].numpy())
    assert abs(np.mean(rho) - made["checks"].max()) < 1e-6


def test_queries_are_different_students_with_their_own_labels(ch):
    numbers = torch.arange(20.0).view(2, 10)
    bank = {"labels": numbers, "codes": numbers[..., None], "maps": torch.zeros(2, 10, 1, 9)}
    drawn = ch.draw_queries(bank, 6, rng())
    assert torch.equal(drawn["labels"], drawn["codes"][..., 0]) and drawn["maps"].shape == (2, 6, 1, 9)
    for row, low in zip(drawn["labels"].tolist(), (0, 10), strict=True):
        assert len(set(row)) == 6 and all(low <= v < low + 10 for v in row)


# ------------------------------------------------------------------------ rivals and maps


def test_maps_agree_between_masks_and_modules(ch):
    task = ch.collect("smoke").tasks[0]
    state, archs = worn_teacher(ch, task.num_classes).state_dict(), some_archs(ch, 4)[None]
    first = ch.maps_of(0, [task], [state], archs, "first")
    full = ch.maps_of(0, [task], [state], np.array([[ch.TEACHER]]), "last")
    torch.testing.assert_close(first["teachers"][0], full["own"][0, 0], atol=1e-5, rtol=1e-5)
    assert first["own"].shape == (1, 4, 32, 2, 2) and (first["own"] >= 0).all()


def test_proxies_agree_with_brute_force(ch):
    net = ch.remap(worn_teacher(ch, 3), ch.network([8, 0, 0, 8, 0, 0, 8, 0, 0], 3))
    x, y = torch.randn(6, 3, 8, 8, generator=rng()), torch.arange(6) % 3
    net.zero_grad()
    F.cross_entropy(net(x), y).backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in net.parameters()))
    assert math.isclose(ch.grad_norm(net, x, y), norm, rel_tol=1e-5)
    h, bits = F.relu(net.norm(net.stem(x))), []
    for stage in net.stages:
        for block in stage:
            h = block(h)
            bits.append(h.flatten(1) > 0)
    bits = torch.cat(bits, 1)
    K = torch.tensor([[float((a == b).sum()) for b in bits] for a in bits], dtype=torch.float64)
    assert math.isclose(ch.naswot(net, x), float(torch.logdet(K)), rel_tol=1e-6)
    # Twice all weights of one convolution: twice the flow through it, so that SynFlow rises.
    before = ch.synflow(net, 8)
    with torch.no_grad():
        net.stem.weight.mul_(2)
    assert math.isclose(ch.synflow(net, 8), before + math.log(2), rel_tol=0.2)
    assert all((p.grad is not None) for p in net.parameters())  # the network itself was left alone


def test_ridge_finds_a_linear_order_whatever_the_level_of_a_task(ch):
    g = np.random.default_rng(0)
    x, w = g.normal(size=(4, 50, 3)), np.array([1.0, -2.0, 0.5])
    y = x @ w + np.array([[10.0], [-5.0], [0.0], [70.0]])
    new = g.normal(size=(2, 20, 3))
    told = ch.ridge(x, y, new, penalty=1e-6)
    np.testing.assert_allclose(told - told.mean(), new @ w - (new @ w).mean(), atol=1e-3)


def test_set_predictor_does_not_know_the_order_of_images_and_classes(ch):
    torch.manual_seed(0)
    net, sets, codes = ch.SetPredictor(5, 6), torch.randn(2, 3, 4, 5, generator=rng()), torch.randn(2, 7, 6)
    told = net(sets, codes)
    assert told.shape == (2, 7)
    torch.testing.assert_close(net(sets.flip(1, 2), codes), told, atol=1e-5, rtol=1e-4)
    drawn = ch.draw_sets(sets, 2, rng())
    assert drawn.shape == (2, 3, 2, 5)
    assert all((drawn[0, 1, 0] == image).all(-1).any() for image in [sets[0, 1]])
