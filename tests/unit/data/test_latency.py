"""Latency spaces: splits, pools, scaling and costs."""

import numpy as np
import pytest
import torch
from public import needs

from nbpkg.data import fbnet, latency
from nbpkg.errors import NbpkgError
from nbpkg.nb201 import space


@pytest.fixture(scope="module")
def toy():
    """200 cells on three devices whose latencies are known: a price list, its double, and noise."""
    rng = np.random.default_rng(0)
    ops = space.random(200, seed=1).astype(np.int64)
    price = ops.sum(1) + rng.random(200) / 100
    tables = {"a": price, "b": 2 * price, "c": rng.random(200) + 1}
    cost = np.arange(200.0)
    return latency.LatencySpace(
        "toy", "cell", ops, 5, tables, np.arange(10), ("a",), ("b",), ("c",), 100, 100, cost, cost
    )


def test_pools_drop_a_tenth_at_each_end_and_share_nothing(toy):
    pools = toy.pools(("a", "c"))
    assert pools.support.shape == pools.query.shape == (2, 80)
    for row, device in enumerate(("a", "c")):
        ms = toy.latency[device]
        for index, start in ((pools.support[row], 0), (pools.query[row], 100)):
            assert len(set(index)) == 80 and index.min() >= start and index.max() < start + 100
            dropped = np.setdiff1d(np.arange(start, start + 100), index)
            assert (ms[dropped] <= ms[index].min()).sum() == (ms[dropped] >= ms[index].max()).sum() == 10
    assert not set(pools.support.ravel()) & set(pools.query.ravel())


def test_labels_span_their_range_and_undo_to_milliseconds(toy):
    pools = toy.pools(("a", "b", "c"))
    assert np.allclose(pools.support_y.min(1), 0.05) and np.allclose(pools.support_y.max(1), 0.95)
    for row, device in enumerate(pools.devices):
        ms = pools.low[row] + (pools.query_y[row] - 0.05) / 0.9 * (pools.high[row] - pools.low[row])
        assert np.allclose(ms, toy.latency[device][pools.query[row]])


def test_embedding_sees_taste_and_not_speed(toy):
    pools = toy.pools(("a", "b", "c"))
    assert np.allclose(pools.embedding[0], pools.embedding[1])
    assert not np.allclose(pools.embedding[0], pools.embedding[2])
    assert np.allclose(pools.embedding.min(1), 0) and np.allclose(pools.embedding.max(1), 1)


def test_equal_latencies_scale_to_zero_without_a_warning():
    assert np.array_equal(latency.unit_scale(np.full((2, 3), 7.0)), np.zeros((2, 3)))


def test_counts_agree_with_the_cell_space(toy):
    assert np.array_equal(toy.counts(), space.counts(toy.ops))
    live = toy.cost_features()
    assert (live <= toy.counts()[:, 1:]).all() and (live.sum(1) == space.live_edges(toy.ops).sum(1)).all()


def test_unknown_names_say_what_there_is(toy):
    with pytest.raises(NbpkgError, match="nb201, fbnet, ofa, embedded"):
        latency.load("hat")
    with pytest.raises(NbpkgError, match="no device 'd'"):
        toy.pools(("d",))


def fbnet_network(choices):
    """The network as torch modules, to count by: an oracle for `fbnet.costs`."""
    c_in, layers, position = fbnet.STEM, [torch.nn.Conv2d(3, fbnet.STEM, 3, padding=1, bias=False)], 0
    for depth, c_out, first in zip(fbnet.LAYERS, fbnet.CHANNELS, fbnet.STRIDES, strict=True):
        for layer in range(depth):
            stride, choice = (first if layer == 0 else 1), choices[position]
            if choice < fbnet.SKIP:
                kernel, expansion, groups = fbnet.BLOCKS[choice]
                middle = c_in * expansion
                layers += [
                    torch.nn.Conv2d(c_in, middle, 1, groups=groups, bias=False),
                    torch.nn.Conv2d(middle, middle, kernel, stride, kernel // 2, groups=middle, bias=False),
                    torch.nn.Conv2d(middle, c_out, 1, groups=groups, bias=False),
                ]
            elif stride > 1 or c_in != c_out:
                layers.append(torch.nn.Conv2d(c_in, c_out, 1, stride, bias=False))
            c_in, position = c_out, position + 1
    layers += [
        torch.nn.Conv2d(c_in, fbnet.HEADER, 1, bias=False),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
    ]
    return torch.nn.Sequential(*layers, torch.nn.Linear(fbnet.HEADER, fbnet.CLASSES, bias=False))


def test_fbnet_costs_equal_real_modules():
    rng = np.random.default_rng(0)
    ops = np.concatenate([np.full((1, 22), fbnet.SKIP), rng.integers(0, 9, (4, 22))])
    params, flops = fbnet.costs(ops)
    for row, choices in enumerate(ops):
        net, counted = fbnet_network(choices), []
        for module in net:
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(
                    lambda m, _, out, c=counted: c.append(m.weight[0].numel() * out[0].numel())
                )
        with torch.no_grad():
            net(torch.zeros(1, 3, fbnet.RESOLUTION, fbnet.RESOLUTION))
        assert params[row] == sum(p.numel() for p in net.parameters())
        assert flops[row] == sum(counted) + fbnet.HEADER * fbnet.CLASSES


def test_embedded_space_needs_no_download(monkeypatch):
    monkeypatch.delenv("NBPKG_DATA", raising=False)
    loaded = latency.load("embedded")
    assert len(loaded) >= 600 and len(loaded.latency) >= 6
    names = [*loaded.train, *loaded.valid, *loaded.test]
    assert len(set(names)) == len(names) == len(loaded.latency)
    assert loaded.reference.max() < loaded.n_support < len(loaded)


@needs("help-nasbench201", "help-fbnet")
def test_public_spaces_have_the_authors_sizes():
    nb201, chains = latency.load("nb201"), latency.load("fbnet")
    assert nb201.pools(nb201.test).support.shape == (6, 720) and chains.pools(chains.test).support.shape == (
        3,
        3200,
    )
    assert nb201.pools(nb201.test).query.shape == (6, 800) and chains.pools(chains.test).query.shape == (
        3,
        800,
    )
    assert list(nb201.reference) == [11982, 431, 55, 9, 14451, 8636, 9881, 13479, 6196, 1462]
    assert [len(np.unique(nb201.latency[d])) for d in ("fpga", "eyeriss", "pixel2")] == [84, 38, 42]
    for loaded in (nb201, chains):
        names = [*loaded.train, *loaded.valid, *loaded.test, *loaded.others]
        assert len(set(names)) == len(names) == len(loaded.latency)
