"""Small networks: counted, seeded, and fit to be stacked."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbpkg.errors import NbpkgError
from nbpkg.nets import tinycnn
from nbpkg.zoo.specs import TinySpec
from nbpkg.zoo.stack import stack


def count(net) -> int:
    return sum(p.numel() for p in net.parameters())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.tuples(*[st.integers(1, 9)] * 3), st.integers(1, 9))
def test_tiny_networks_hold_what_their_description_says(classes, widths, hidden):
    net = tinycnn.tinycnn(classes, widths, hidden)
    assert count(net) == TinySpec(widths, hidden).params(classes)
    assert net(torch.zeros(2, 3, 12, 12)).shape == (2, classes)


def test_the_tiny_network_is_tiny():
    assert 2000 < TinySpec().params(10) < 3000


def test_weights_come_from_the_seed_and_nothing_else():
    state = torch.get_rng_state()
    one, again, other = tinycnn.tinycnn(seed=1), tinycnn.tinycnn(seed=1), tinycnn.tinycnn(seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    weights = [torch.cat([p.flatten() for p in net.parameters()]) for net in (one, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_they_can_be_stacked():
    nets = [tinycnn.tinycnn(num_classes=4, seed=seed).double() for seed in range(3)]
    x = torch.randn(5, 3, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.stack([net(x[:, g]) for g, net in enumerate(nets)], 1)
    torch.testing.assert_close(stack(nets)(x.flatten(1, 2)).view(5, 3, 4), expected)


def test_sizes_that_make_no_network_are_refused():
    with pytest.raises(NbpkgError, match="make no network"):
        tinycnn.tinycnn(widths=(1, 2, 0))
