"""The torch module: shapes, what dead edges change, and the module against a plain recomputation."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nbpkg.errors import NbpkgError
from nbpkg.nb201 import space
from nbpkg.nb201.network import Cell, Network, network


def restless(net: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms with scales and variances as after training; shifts and means stay at zero."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return net.eval()


def shift(net: nn.Module, edges: set[str]) -> None:
    """Give the batch norms of these edges ("start-end"), in every cell, a shift and a mean."""
    generator = torch.Generator().manual_seed(1)
    for cell in net.modules():
        if isinstance(cell, Cell):
            for name in edges & set(cell.edges):
                for module in cell.edges[name].modules():
                    if isinstance(module, nn.BatchNorm2d):
                        module.bias.data.normal_(generator=generator)
                        module.running_mean.normal_(generator=generator)


def without_dead_edges(full: Network, ops) -> Network:
    """The network that leaves dead edges out, with the weights of the one that has them."""
    lean = network(ops, full.C, full.N).eval()
    state = full.state_dict()
    lean.load_state_dict({name: state[name] for name in lean.state_dict()})
    return lean


def some_cells():
    """Random cells, half of them with dead edges, and a cell without any path."""
    ops = space.random(400, seed=11)
    dead = (ops != space.NONE) & ~space.live_edges(ops)
    return [*ops[dead.any(1)][:6], *ops[~dead.any(1)][:6], np.array([1, 3, 4, 0, 0, 0])]


@pytest.mark.parametrize("cell", some_cells(), ids=lambda ops: "".join(map(str, ops)))
def test_outputs_are_the_same_with_and_without_dead_edges(cell):
    full = restless(network(cell, C=4, N=2, keep_dead=True))
    # Shifts anywhere but behind a node that the input does not reach, where they alone would make an output.
    reached = {0}
    for op, (start, end) in zip(cell, space.EDGES, strict=True):
        if op != space.NONE and start in reached:
            reached.add(end)
    shift(full, {f"{start}-{end}" for start, end in space.EDGES if start in reached})
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = full(images), without_dead_edges(full, cell)(images)
    assert expected.shape == (3, 10)
    assert torch.allclose(expected, found, atol=1e-5)


def test_a_convolution_of_nothing_is_the_one_thing_that_skipping_changes():
    cell = [0, 0, 0, 1, 3, 0]  # node 1 receives nothing and feeds a convolution into the output
    full = restless(network(cell, C=4, N=1, keep_dead=True))
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(full(images), without_dead_edges(full, cell)(images), atol=1e-6)
        shift(full, {"1-3"})
        assert not torch.allclose(full(images), without_dead_edges(full, cell)(images), atol=1e-3)


@pytest.mark.parametrize("ops", space.random(8, seed=5), ids=lambda ops: "".join(map(str, ops)))
def test_a_cell_is_the_sum_over_its_edges(ops):
    """Nodes recomputed with functional calls from the cell's own weights, every edge included."""
    cell = restless(Cell(ops, 5, keep_dead=True))
    x = torch.randn(2, 5, 6, 6, generator=torch.Generator().manual_seed(2))
    ones = torch.ones(1, 1, 3, 3)

    def apply(op, module, value):
        if op == 0:
            return torch.zeros_like(value)
        if op == 1:
            return value
        if op == 4:  # a mean over the pixels that are there
            flat = value.reshape(-1, 1, *value.shape[2:])
            inside = F.conv2d(torch.ones_like(flat), ones, padding=1)
            return (F.conv2d(flat, ones, padding=1) / inside).reshape(value.shape)
        _, conv, norm = module
        y = F.conv2d(value.clamp(min=0), conv.weight, padding=conv.kernel_size[0] // 2)
        y = (y - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + norm.eps).sqrt()
        return y * norm.weight[:, None, None] + norm.bias[:, None, None]

    nodes = [x]
    for end in (1, 2, 3):
        terms = [
            apply(ops[k], cell.edges[f"{a}-{b}"], nodes[a])
            for k, (a, b) in enumerate(space.EDGES)
            if b == end
        ]
        nodes.append(torch.stack(terms).sum(0))
    with torch.no_grad():
        assert torch.allclose(cell(x), nodes[3], atol=1e-5)


def test_dead_edges_are_not_allocated():
    net = network([3, 3, 3, 0, 0, 0], C=4, N=1)
    assert not any(len(cell.edges) for cell in net.modules() if isinstance(cell, Cell))
    assert (
        sum(len(cell.edges) for cell in network([3] * 6, C=4, N=2).modules() if isinstance(cell, Cell)) == 36
    )


def test_dead_edges_set_to_none_give_the_same_network():
    cell = np.array([0, 3, 3, 2, 4, 0])
    pruned = np.where(space.live_edges(cell), cell, 0)
    assert not np.array_equal(cell, pruned)
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        first, second = (network(c, C=4, N=1, seed=3).eval()(images) for c in (cell, pruned))
    assert torch.equal(first, second)


@pytest.mark.parametrize(("size", "classes"), [(8, 2), (32, 10), (64, 5)])
def test_shapes_follow_the_arguments(size, classes):
    net = network([2, 1, 4, 3, 0, 1], C=8, N=1, num_classes=classes)
    images = torch.randn(2, 3, size, size)
    assert net(images).shape == (2, classes)
    assert net.features(images).shape == (2, 32)
    halves = [
        tuple(block(torch.randn(1, c, 8, 8)).shape) for block, c in ((net.body[1], 8), (net.body[3], 16))
    ]
    assert halves == [(1, 16, 4, 4), (1, 32, 4, 4)]


def test_the_seed_decides_the_weights_and_nothing_else_is_touched():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (network([3] * 6, C=4, N=1, seed=s).state_dict() for s in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_every_parameter_learns():
    net = network([3, 2, 4, 1, 3, 2], C=4, N=1)
    net(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_a_copy_is_independent():
    net = network([3] * 6, C=4, N=1)
    other = copy.deepcopy(net)
    other.classifier.bias.data += 1
    assert not torch.equal(net.classifier.bias, other.classifier.bias)


@pytest.mark.parametrize("arguments", [{"C": 0}, {"N": 0}, {"num_classes": 0}])
def test_sizes_below_one_are_refused(arguments):
    with pytest.raises(NbpkgError, match="at least 1"):
        Network([1] * 6, **arguments)


def test_more_than_one_cell_is_refused():
    with pytest.raises(NbpkgError, match="one cell"):
        Network([[1] * 6, [2] * 6])
