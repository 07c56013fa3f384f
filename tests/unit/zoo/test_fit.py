"""The training loop: stacked or alone, in any order, every network becomes the same."""

import copy

import numpy as np
import pytest
import torch

from nbpkg.errors import NbpkgError
from nbpkg.nb201.network import network
from nbpkg.seeding import rng
from nbpkg.zoo.fit import Recipe, fit
from nbpkg.zoo.tasks import Task

CELLS = ([3, 1, 2, 4, 3, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0], [2, 3, 0, 1, 3, 3])
RECIPE = Recipe(epochs=2, batch=20, pad=1, flip=True)


def task(seed: int = 0, **changed):
    sizes = {"n_train": 25, "n_valid": 5, "n_test": 10, "resolution": 8} | changed
    return Task("toy", "digits", (0, 1, 2), seed=seed, **sizes).data()


def jobs():
    """Networks, data and seeds of four jobs on two tasks; two of them draw the same images."""
    nets = [network(ops, C=4, N=1, num_classes=3, seed=i) for i, ops in enumerate(CELLS)]
    return nets, [task(0), task(0), task(1), task(1)], [5, 6, 5, 7]


def close(one, other):
    np.testing.assert_allclose(one.curve, other.curve, rtol=2e-3)
    assert one.valid == pytest.approx(other.valid, abs=7) and one.test == pytest.approx(other.test, abs=4)
    np.testing.assert_allclose(
        [one.valid_loss, one.test_loss], [other.valid_loss, other.test_loss], rtol=2e-2
    )


def test_side_by_side_and_alone_every_network_becomes_the_same():
    nets, data, seeds = jobs()
    alone = copy.deepcopy(nets)
    together = fit(nets, data, seeds, RECIPE, "cpu")
    for g, net in enumerate(alone):
        close(fit([net], data[g : g + 1], seeds[g : g + 1], RECIPE, "cpu")[0], together[g])
        for name, value in net.state_dict().items():
            if "num_batches" not in name:
                torch.testing.assert_close(nets[g].state_dict()[name], value, rtol=2e-2, atol=2e-3)


def test_order_does_not_matter_and_repeating_gives_the_same_bits():
    nets, data, seeds = jobs()
    again, turned = copy.deepcopy(nets), copy.deepcopy(nets)
    first = fit(nets, data, seeds, RECIPE, "cpu")
    second = fit(again, data, seeds, RECIPE, "cpu")
    assert all(torch.equal(a.curve, b.curve) and a.test == b.test for a, b in zip(first, second, strict=True))
    order = [2, 0, 3, 1]
    moved = ([values[i] for i in order] for values in (turned, data, seeds))
    third = fit(*moved, RECIPE, "cpu")
    for i, found in zip(order, third, strict=True):
        close(found, first[i])


def test_networks_learn_and_dead_ones_do_not():
    data = task(n_train=100)
    nets = [network(ops, C=4, N=1, num_classes=3, seed=0) for ops in CELLS]
    live, _, dead, _ = fit(nets, [data] * 4, [0] * 4, Recipe(epochs=4, batch=25), "cpu")
    assert live.test > 90 and live.curve[-1] < live.curve[0] / 2
    assert dead.test < 50 and 1.0 < dead.test_loss < 1.25


def test_one_step_is_torchs_own():
    data = task()
    net = network(CELLS[0], C=4, N=1, num_classes=3, seed=0)
    reference = copy.deepcopy(net)
    fit([net], [data], [3], Recipe(epochs=1, batch=75, lr=0.05, weight_decay=0.5), "cpu")
    order = torch.randperm(75, generator=rng(3, "order"))
    x = ((data.x_train / 255 - data.mean[:, None, None]) / data.std[:, None, None])[order]
    optimiser = torch.optim.SGD(reference.parameters(), 0.05, 0.9, weight_decay=0.5, nesterov=True)
    torch.nn.functional.cross_entropy(reference(x), data.y_train[order]).backward()
    optimiser.step()
    for name, value in reference.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_without_validation_images_there_is_no_validation_accuracy():
    net = network(CELLS[1], C=4, N=1, num_classes=3)
    found = fit([net], [task(n_valid=0)], [0], Recipe(epochs=1), "cpu")[0]
    assert np.isnan(found.valid) and 0 <= found.test <= 100


def test_what_does_not_fit_together_is_refused():
    nets, data, seeds = jobs()
    with pytest.raises(NbpkgError, match="4 networks, 3 tasks"):
        fit(nets, data[:3], seeds, RECIPE, "cpu")
    with pytest.raises(NbpkgError, match="one resolution"):
        fit(nets, [*data[:3], task(resolution=16)], seeds, RECIPE, "cpu")
    for wrong in ({"epochs": 0}, {"batch": 0}, {"lr": 0.0}, {"momentum": 1.0}, {"pad": -1}):
        with pytest.raises(NbpkgError):
            Recipe(**wrong)
