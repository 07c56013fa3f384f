"""Stacked networks compute, learn and give back exactly what the networks do one by one."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from nbpkg.errors import NbpkgError
from nbpkg.nb201 import space
from nbpkg.nb201.network import network
from nbpkg.zoo.stack import MixedCell, stack, unstack

CLASSES = 3


def cells(n: int, seed: int = 0) -> np.ndarray:
    """n random cells, a dead one and one of skips among them."""
    ops = space.ops_of(np.random.default_rng(seed).choice(space.N_CELLS, n, replace=False))
    ops[0], ops[1] = 0, 1
    return ops


def networks(n: int = 6, seed: int = 0) -> list[nn.Module]:
    # Float64: what remains of a difference is then a mistake, not rounding.
    return [
        network(ops, C=4, N=1, num_classes=CLASSES, seed=i).double() for i, ops in enumerate(cells(n, seed))
    ]


def images(n: int, batch: int = 5) -> torch.Tensor:
    """One batch for each network, (n, batch, 3, 8, 8)."""
    return torch.randn(n, batch, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def side_by_side(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(0, 1).flatten(1, 2)


class Plain(nn.Module):
    """Convolution with bias, pooling and two linear layers, as the tiny networks have."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(36, 7), nn.ReLU(), nn.Linear(7, CLASSES, bias=False))

    def forward(self, x):
        return self.head(self.body(x))


def plain(n: int) -> list[nn.Module]:
    torch.manual_seed(0)
    return [Plain().double() for _ in range(n)]


@pytest.mark.parametrize("make", [networks, plain])
@pytest.mark.parametrize("training", [True, False])
def test_a_stack_computes_what_its_networks_compute(make, training):
    nets, x = make(6), images(6)
    stacked = stack(nets).train(training)
    expected = torch.stack([net.train(training)(batch) for net, batch in zip(nets, x, strict=True)], 1)
    found = stacked(side_by_side(x)).view(5, 6, CLASSES)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [networks, plain])
def test_trained_together_they_become_what_each_becomes_alone(make):
    alone, x = make(6), images(6)
    y = torch.randint(CLASSES, (5, 6), generator=torch.Generator().manual_seed(2))
    nets = copy.deepcopy(alone)
    stacked = stack(nets)
    together = torch.optim.SGD(stacked.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2, nesterov=True)
    for _ in range(4):
        together.zero_grad()
        logits = stacked(side_by_side(x)).view(5, 6, CLASSES)
        # A sum over networks: none sees another's loss.
        (nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum") / 5).backward()
        together.step()
    unstack(stacked)
    for g, net in enumerate(alone):
        single = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2, nesterov=True)
        for _ in range(4):
            single.zero_grad()
            nn.functional.cross_entropy(net(x[g]), y[:, g]).backward()
            single.step()
        found = nets[g].state_dict()
        for name, want in net.state_dict().items():
            if "num_batches" not in name:
                got = found[name]
                torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10, msg=f"network {g}, {name}")


def test_stacking_leaves_the_networks_as_they_are():
    nets = networks()
    before = copy.deepcopy([net.state_dict() for net in nets])
    stacked = stack(nets)
    with torch.no_grad():
        for parameter in stacked.parameters():
            parameter.add_(1.0)
    stacked(side_by_side(images(6)))
    for old, net in zip(before, nets, strict=True):
        assert all(torch.equal(value, net.state_dict()[name]) for name, value in old.items())


def test_unstack_is_the_inverse_of_stack():
    nets = networks()
    others, stacked = copy.deepcopy(nets), stack(nets)
    for net in nets:
        for parameter in net.parameters():
            nn.init.constant_(parameter, 7.0)
    unstack(stacked)
    for net, other in zip(nets, others, strict=True):
        for (name, got), want in zip(net.state_dict().items(), other.state_dict().values(), strict=True):
            assert torch.equal(want, got), name


def test_the_number_of_grouped_operations_does_not_grow_with_the_number_of_cells():
    few, many = (MixedCell([net.body[0] for net in networks(n)]) for n in (8, 64))
    # Three nodes send, by two convolutions, a pooling and a skip at most.
    assert len(few.keys) <= len(many.keys) <= 12


def test_a_network_does_not_depend_on_its_neighbours():
    nets, x = networks(), images(6)
    order = [3, 0, 5, 1, 4, 2]
    first = stack(nets)(side_by_side(x)).view(5, 6, CLASSES)
    second = stack([nets[i] for i in order])(side_by_side(x[order])).view(5, 6, CLASSES)
    torch.testing.assert_close(first[:, order], second, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("modules", "problem"),
    [
        ([], "no network"),
        ([nn.Linear(2, 2), nn.Conv2d(2, 2, 1)], "different shape"),
        ([nn.Linear(2, 2), nn.Linear(3, 2)], "different shape"),
        ([network([1] * 6, C=4, N=1), network([1] * 6, C=8, N=1)], "different shape"),
        ([network([1] * 6, C=4, N=1), network([1] * 6, C=4, N=2)], "different shape"),
        ([nn.LayerNorm(3), nn.LayerNorm(3)], "LayerNorm"),
        ([nn.BatchNorm2d(3, affine=False)], "batch norms"),
        ([nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")], "padding_mode"),
    ],
)
def test_what_cannot_be_stacked_is_named(modules, problem):
    with pytest.raises(NbpkgError, match=problem):
        stack(modules)
