"""MetaD2A's cells: sets drawn afresh, twins, reductions, training and search, against oracles."""

import numpy as np
import pytest
import torch

from nbpkg import chapters
from nbpkg.nb201 import space
from nbpkg.nets import cellgraphs
from nbpkg.nets.metad2a import Generator, Predictor

FUNCTION = space.function_class(space.all_ops())
SIZES = {"inputs": 6, "width": 8, "hidden": 12}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def md():
    return chapters.load("02_metad2a")


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------ sets and twins


def test_sets_hold_different_images_of_the_right_class_and_task(md):
    tasks, classes, images = 4, 3, 7
    bank = torch.arange(tasks * classes * images).view(tasks, classes, images, 1).float()
    rows = torch.tensor([2, 0, 2])
    sets = md.draw_sets(bank, rows, 5, draws())
    assert sets.shape == (3, classes, 5, 1)
    for row, one in zip(rows, sets, strict=True):
        for label in range(classes):
            values = one[label].flatten().tolist()
            assert len(set(values)) == 5 and set(values) <= set(bank[row, label].flatten().tolist())
    assert not torch.equal(sets[0], sets[2])  # drawn anew, though the task is the same
    assert md.draw_sets(bank, rows, 50, draws()).shape[2] == images  # all there are


def test_every_image_is_drawn_equally_often(md):
    bank = torch.arange(5).view(1, 1, 5, 1).float()
    many = md.draw_sets(bank, torch.zeros(20_000, dtype=torch.long), 2, draws()).flatten().long()
    np.testing.assert_allclose(torch.bincount(many) / 20_000, 0.4, atol=0.02)


def test_twins_compute_the_same_function_and_all_are_equally_likely(md):
    twins = md.Twins(FUNCTION)
    cells = torch.arange(space.N_CELLS)
    assert (FUNCTION[twins(cells, draws()).numpy()] == FUNCTION).all()
    label = np.bincount(FUNCTION[~space.is_dead(space.all_ops())]).argmax()  # the largest class that lives
    members = np.flatnonzero(label == FUNCTION)
    found = twins(torch.full((400 * len(members),), int(members[0])), draws()).numpy()
    assert set(found) == set(members)
    np.testing.assert_allclose(np.unique(found, return_counts=True)[1], 400, rtol=0.35)


def test_graphs_of_cells_come_back(md):
    cells = np.arange(0, space.N_CELLS, 7)
    assert (space.index(cellgraphs.ops_of(md.graphs_of(cells))) == cells).all()
    assert md.graphs_of(cells.reshape(-1, 1)).shape == (len(cells), 1, 8)


# ------------------------------------------------------------------ regression and reduction


def test_pair_features_are_products_of_one_hot_operations(md):
    cells = np.random.default_rng(0).integers(space.N_CELLS, size=40)
    found, ops = md.pair_features(cells), space.ops_of(cells)
    assert found.shape == (40, 30 + 15 * 25)
    assert (found[:, :30].sum(1) == 6).all() and (found[:, 30:].sum(1) == 15).all()
    for cell in range(3):
        wanted = []
        for i in range(6):
            for j in range(i):
                block = np.zeros((5, 5))
                block[ops[cell, i], ops[cell, j]] = 1
                wanted.append(block.ravel())
        np.testing.assert_array_equal(found[cell, 30:], np.concatenate(wanted))


def test_the_image_free_score_is_a_ridge_regression_blind_to_the_level_of_a_task(md):
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(1)
    cells = rng.integers(space.N_CELLS, size=(20, 8))
    accuracy = rng.normal(50, 5, (20, 8))
    features = md.function_features(FUNCTION)
    weights = md.image_free(features[cells], accuracy, 3.0)
    x, y = features[cells.ravel()], (accuracy - accuracy.mean(1, keepdims=True)).ravel()
    np.testing.assert_allclose(weights, Ridge(3.0, fit_intercept=False).fit(x, y).coef_, atol=1e-8)
    raised = accuracy + rng.normal(0, 30, (20, 1))
    np.testing.assert_allclose(weights, md.image_free(features[cells], raised, 3.0), atol=1e-8)


def test_the_reduction_whitens_and_keeps_the_largest_directions(md):
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(4, 50, 10)) * np.linspace(3, 0.1, 10) + 5, dtype=torch.float32)
    reduction = md.fit_reduction(x, 4)
    reduced = md.reduce(x, reduction).reshape(-1, 4).double()
    assert abs(reduced.mean(0)).max() < 1e-4
    torch.testing.assert_close(reduced.T @ reduced / len(reduced), torch.eye(4).double(), atol=1e-3, rtol=0)
    flat = x.reshape(-1, 10).double()
    value = torch.linalg.eigvalsh(torch.cov(flat.T, correction=0)).flip(0)
    kept = torch.linalg.lstsq(reduced, flat - flat.mean(0)).solution.square().sum()
    torch.testing.assert_close(kept, value[:4].sum(), rtol=1e-3, atol=0)


# ------------------------------------------------------------------ training


def toy(seed, tasks, cells):
    """Tasks whose images say which operation is worth most: accuracy = how often it occurs."""
    rng = np.random.default_rng(seed)
    taste = np.arange(tasks) % 2
    bank = torch.tensor(rng.normal(0, 0.3, (tasks, 3, 6, 6)), dtype=torch.float32)
    bank[..., 0] += torch.tensor(2.0 * taste - 1)[:, None, None]
    numbers = rng.integers(space.N_CELLS, size=(tasks, cells))
    ops = space.ops_of(numbers)
    y = (ops == np.where(taste, 3, 4)[:, None, None]).sum(-1).astype(np.float32)
    return taste, bank, numbers, (y - y.mean()) / y.std()


def toy_data(cells=16):
    taste, bank, numbers, y = toy(0, 80, cells)
    _, valid_bank, valid_numbers, valid_y = toy(1, 8, cells)

    def best(number, value):
        return np.take_along_axis(number, np.argsort(-value, axis=1)[:, :2], 1)

    t = torch.from_numpy
    return taste, {
        "function": np.arange(space.N_CELLS), "bank": bank, "valid_bank": valid_bank,
        "good": t(best(numbers, y)), "valid_good": t(best(valid_numbers, valid_y)),
        "cells": t(numbers), "valid_cells": t(valid_numbers), "y": t(y), "valid_y": t(valid_y),
    }  # fmt: skip


PLAN = {"steps": 60, "batch": 24, "tasks": 8, "images": 4, "rate": 1e-2, "every": 20}


def test_the_predictor_learns_which_task_wants_which_cell(md):
    taste, data = toy_data()
    form = {"inputs": 6, "width": 16, "hidden": 24, "head": 32, "standardise": True}
    run = md.train_predictor(0, data, PLAN | {"steps": 300, "rate": 3e-3}, form)
    assert run["history"][:, 2].min() < 0.4  # a constant: 1; a score blind to the task: about 0.6
    model = Predictor(**form)
    model.load_state_dict(run["state"])
    cells = space.index(np.array([[3] * 6, [4] * 6]))
    rows = torch.zeros(4, dtype=torch.long)
    for kind in (0, 1):
        bank = data["bank"][int(np.flatnonzero(taste == kind)[0])][None]
        conv, pool = md.scores_of(model.eval(), md.draw_sets(bank, rows, 4, draws()), cells)
        assert (conv > pool) == bool(kind)


def test_training_keeps_the_best_step_and_repeats_itself(md):
    _, data = toy_data()
    first, again = (md.train_predictor(3, data, PLAN, SIZES | {"head": 16}) for _ in range(2))
    assert all(
        torch.equal(a, b) for a, b in zip(first["state"].values(), again["state"].values(), strict=True)
    )
    np.testing.assert_array_equal(first["history"], again["history"])
    steps = iter([3.0, 1.0, 2.0])
    weights = []

    def judge(model):
        weights.append(model.weight.detach().clone())
        return next(steps)

    model = torch.nn.Linear(2, 1)
    run = md.trained(model, lambda net: net.weight.square().sum(), judge, 3, 0.1, 1)
    assert torch.equal(run["state"]["weight"], weights[1]) and run["history"][:, 2].tolist() == [
        3.0,
        1.0,
        2.0,
    ]


def test_the_generator_learns_good_cells_and_a_blind_one_sees_nothing(md):
    _, data = toy_data()
    plan = PLAN | {"steps": 150}
    run = md.train_generator(0, data, plan, SIZES)
    assert run["history"][-1, 1] < 11  # 6 ln 5 = 9.66 for uniform cells, and the edges
    swapped = data | {"bank": data["bank"].flip(0), "valid_bank": data["valid_bank"] + 1}
    blind = [md.train_generator(0, d, PLAN, SIZES, blind=True)["history"] for d in (data, swapped)]
    np.testing.assert_array_equal(blind[0], blind[1])
    seeing = md.train_generator(0, swapped, plan, SIZES)["history"]
    assert not np.allclose(run["history"][:, 2], seeing[:, 2])


def test_the_generator_is_taught_by_the_best_quarter_and_the_predictor_by_all(md):
    rng = np.random.default_rng(0)
    everything = np.tile(np.arange(90), (3, 1))
    cells = {role: rng.permuted(everything, axis=1)[:, :12] for role in ("train", "valid")}
    quality = {role: rng.standard_normal((3, 12)) for role in cells}
    data = md.training_data(cells, quality, {role: torch.zeros(3, 2, 4, 6) for role in cells})
    for role, good in (("train", "good"), ("valid", "valid_good")):
        for row in range(3):
            best = cells[role][row][np.argsort(-quality[role][row])[:3]]
            assert set(data[good][row].tolist()) == set(best.tolist())
    assert torch.equal(data["cells"], torch.from_numpy(cells["train"]))
    assert abs(data["y"].mean()) < 1e-6 and data["y"].flatten().argmax() == quality["train"].argmax()


# ------------------------------------------------------------------ drawing and searching


@pytest.fixture(scope="module")
def taught(md):
    _, data = toy_data()
    generator, predictor = Generator(**SIZES), Predictor(**SIZES, head=16)
    generator.load_state_dict(md.train_generator(0, data, PLAN | {"steps": 150}, SIZES)["state"])
    predictor.load_state_dict(md.train_predictor(0, data, PLAN, SIZES | {"head": 16})["state"])
    return generator.eval(), predictor.eval(), data


def test_a_search_returns_distinct_cells_best_first(md, taught):
    generator, predictor, data = taught
    cells, score, drawn = md.search(generator, predictor, data["bank"][0], 60, 4, draws(5))
    assert len(set(cells.tolist())) == 60 and (np.diff(score) <= 0).all()
    assert set(cells.tolist()) == set(space.index(drawn.ops).tolist())
    again = md.search(generator, predictor, data["bank"][0], 60, 4, draws(5))
    np.testing.assert_array_equal(cells, again[0])


def test_scores_do_not_depend_on_what_else_is_scored(md, taught):
    _, predictor, data = taught
    sets = md.draw_sets(data["bank"], torch.zeros(3, dtype=torch.long), 4, draws())
    cells = np.array([5, 17, 9_000, 15_624])
    together = md.scores_of(predictor, sets, cells)
    np.testing.assert_allclose(
        together, [md.scores_of(predictor, sets, np.array([c]))[0] for c in cells], atol=1e-5
    )
    alone = [md.scores_of(predictor, one[None], cells) for one in sets]
    assert not np.allclose(alone[0], alone[1])  # other images, other scores


def test_drawn_cells_follow_the_likelihood(md, taught):
    """Operations of the second vertex, given the first, against the decoder's own probabilities."""
    generator, _, data = taught
    sets = data["bank"][:1, :, :4]
    cells = md.sample_cells(generator, sets, 20_000, draws(1))
    share = np.bincount(space.ops_of(cells)[:, 0], minlength=5) / len(cells)
    with torch.no_grad():
        z = generator.latent(generator.sets(sets))[1]
        start = generator.graphs.cell.step(
            generator.graphs.cell.table()[[0]], generator.graphs.enter(z).tanh()
        )
        wanted = generator.graphs.type_head(start).softmax(-1)[0, 2:]
    np.testing.assert_allclose(share, wanted / wanted.sum(), atol=0.03)
    assert len(cells) <= 20_000


def test_features_of_a_function_are_the_mean_of_its_cells(md):
    features, own = md.function_features(FUNCTION), md.pair_features(np.arange(space.N_CELLS))
    for label in (0, 17, 400, int(FUNCTION.max())):
        members = np.flatnonzero(label == FUNCTION)
        wanted = np.broadcast_to(own[members].mean(0), (len(members), own.shape[1]))
        np.testing.assert_allclose(features[members], wanted)
    np.testing.assert_allclose(features.mean(0), own.mean(0))


def test_planted_qualities_follow_the_images_and_nothing_else(md):
    bank = {role: torch.randn(n, 2, 5, 3, generator=draws(n)) for role, n in (("train", 30), ("test", 8))}
    cells = {
        role: np.random.default_rng(0).integers(space.N_CELLS, size=(len(x), 12)) for role, x in bank.items()
    }
    score = np.random.default_rng(1).normal(size=space.N_CELLS)
    none = md.plant(bank, cells, score, 0.0, 0.0, seed=0)
    for role, numbers in cells.items():
        np.testing.assert_array_equal(none[role], score[numbers])
    own = md.plant(bank, cells, 0 * score, 1.0, 0.0, seed=0)["test"]
    ops = space.ops_of(cells["test"])
    liking = (ops == 3).sum(-1) - (ops == 4).sum(-1)
    centre = bank["train"][..., 0].mean((1, 2)).mean().item()
    for t in range(8):
        slope = np.polyfit(liking[t], own[t], 1)[0]
        assert (slope > 0) == (bank["test"][t, ..., 0].mean().item() > centre)
        spread = own[t] - own[t].mean()
        np.testing.assert_allclose(spread, slope * (liking[t] - liking[t].mean()), atol=1e-6)
    noise = md.plant(bank, cells, 0 * score, 0.0, 2.0, seed=3)["train"]
    np.testing.assert_allclose(noise.std(), 2.0, rtol=0.15)
