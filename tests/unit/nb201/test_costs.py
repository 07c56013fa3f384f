"""Parameters and FLOPs: against the modules themselves, a loop, and the public table."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nbpkg.errors import NbpkgError
from nbpkg.nb201 import space
from nbpkg.nb201.costs import costs
from nbpkg.nb201.network import network

TABLE = Path(os.environ.get("NBPKG_DATA", "")) / "nb201" / "nb201.parquet"


def counted(net: nn.Module, resolution: int) -> int:
    """Multiply-adds of one image, counted by hooks on every convolution and linear layer that runs."""
    total = 0

    def hook(module, _, output):
        nonlocal total
        if isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1] * module.in_channels // module.groups
            total += kernel * output[0].numel()
        else:
            total += module.in_features * module.out_features

    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(hook)
    with torch.no_grad():
        net.eval()(torch.zeros(1, 3, resolution, resolution))
    return total


@pytest.mark.parametrize("live_only", [False, True])
@pytest.mark.parametrize(
    ("C", "N", "classes", "resolution"), [(4, 1, 10, 8), (6, 2, 7, 16), (16, 1, 100, 32)]
)
def test_equal_to_what_the_module_holds_and_runs(C, N, classes, resolution, live_only):
    ops = space.random(6, seed=C)
    params, flops = costs(ops, C, N, classes, resolution, live_only)
    for row, cell in enumerate(ops):
        net = network(cell, C, N, classes, keep_dead=not live_only)
        assert params[row] == sum(p.numel() for p in net.parameters())
        assert flops[row] == counted(net, resolution)


def test_equal_to_a_loop_over_edges_at_the_benchmarks_size():
    ops = space.random(50, seed=3)
    for live_only in (False, True):
        params, flops = costs(ops, live_only=live_only)
        for row, cell in enumerate(ops):
            p, f = 73_306, 7_783_040  # the network whose cells are all `none`
            for edge, op in enumerate(cell):
                kernel = {2: 1, 3: 3}.get(int(op))
                if kernel and (not live_only or space.live_edges(cell)[edge]):
                    for width, side in ((16, 32), (32, 16), (64, 8)):
                        p += 5 * (kernel**2 * width**2 + 2 * width)
                        f += 5 * kernel**2 * width**2 * side**2
            assert (params[row], flops[row]) == (p, f)


def test_dead_edges_only_lower_the_costs():
    ops = space.all_ops()
    all_edges, live = costs(ops), costs(ops, live_only=True)
    for everything, part in zip(all_edges, live, strict=True):
        assert (part <= everything).all() and (part < everything).any()
        assert set(part[space.is_dead(ops)]) == {everything.min()}


def test_one_cell_gives_one_number():
    params, flops = costs([0] * 6)
    assert params.tolist() == [73_306] and flops.tolist() == [7_783_040]


@pytest.mark.parametrize("resolution", [0, -4, 30, 33])
def test_a_resolution_that_cannot_be_halved_twice_is_refused(resolution):
    with pytest.raises(NbpkgError, match="multiple of 4"):
        costs([1] * 6, resolution=resolution)


def test_malformed_cells_are_refused():
    with pytest.raises(NbpkgError, match="does not exist"):
        costs([1, 1, 1, 1, 1, 5])
    with pytest.raises(NbpkgError, match="shape"):
        costs(np.zeros((2, 3, 6), int))


@pytest.mark.skipif(not TABLE.is_file(), reason="needs nb201.parquet under NBPKG_DATA")
def test_equal_to_the_public_table_for_every_cell():
    import pandas

    table = pandas.read_parquet(TABLE, columns=["arch", "params_m", "flops_m"])
    params, flops = costs(space.encode(table.arch))
    assert len(table) == space.N_CELLS
    assert np.array_equal(np.round(table.params_m * 1e6).astype(int), params)
    assert np.array_equal(np.round(table.flops_m * 1e6).astype(int), flops)
