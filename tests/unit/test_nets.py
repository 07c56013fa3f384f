"""Small networks: counted in closed form, seeded, and fit to be stacked."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbpkg.errors import NbpkgError
from nbpkg.nets import resnet, tinycnn
from nbpkg.zoo.stack import stack

stages = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 6)), min_size=1, max_size=4)


def count(net) -> int:
    return sum(p.numel() for p in net.parameters())


@settings(max_examples=25, deadline=None)
@given(stages, st.integers(1, 5))
def test_residual_networks_hold_what_the_formula_says(shape, classes):
    blocks, widths = zip(*shape, strict=True)
    net = resnet.resnet(blocks, widths, classes)
    assert count(net) == resnet.params(blocks, widths, classes)
    assert net(torch.zeros(2, 3, 16, 16)).shape == (2, classes)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.sampled_from([1, 3]), st.tuples(*[st.integers(1, 9)] * 3), st.integers(1, 9))
def test_tiny_networks_hold_what_the_formula_says(classes, channels, widths, hidden):
    net = tinycnn.tinycnn(classes, channels, widths, hidden)
    assert count(net) == tinycnn.params(classes, channels, widths, hidden)
    assert net(torch.zeros(2, channels, 12, 12)).shape == (2, classes)


def test_the_tiny_network_is_tiny():
    assert 2000 < tinycnn.params() < 3000


@pytest.mark.parametrize("make", [resnet.resnet, tinycnn.tinycnn])
def test_weights_come_from_the_seed_and_nothing_else(make):
    state = torch.get_rng_state()
    one, again, other = make(seed=1), make(seed=1), make(seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    weights = [torch.cat([p.flatten() for p in net.parameters()]) for net in (one, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("make", [resnet.resnet, tinycnn.tinycnn])
def test_they_can_be_stacked(make):
    nets = [make(num_classes=4, seed=seed).double() for seed in range(3)]
    x = torch.randn(5, 3, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.stack([net(x[:, g]) for g, net in enumerate(nets)], 1)
    torch.testing.assert_close(stack(nets)(x.flatten(1, 2)).view(5, 3, 4), expected)


def test_a_deeper_residual_network_without_its_convolutions_is_the_shallow_one():
    # A block whose second norm puts out zeros hands on its (non-negative) input.
    shallow, deep = resnet.resnet((1, 1), (4, 8)).eval(), resnet.resnet((1, 2), (4, 8), seed=1).eval()
    deep.load_state_dict(shallow.state_dict(), strict=False)
    with torch.no_grad():
        deep.body[2].second[1].weight.zero_()
        deep.body[2].second[1].bias.zero_()
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(deep(x), shallow(x))


def test_sizes_that_make_no_network_are_refused():
    for blocks, widths in (((), ()), ((1,), (4, 8)), ((0,), (4,)), ((1,), (0,))):
        with pytest.raises(NbpkgError, match="make no network"):
            resnet.resnet(blocks, widths)
    with pytest.raises(NbpkgError, match="make no network"):
        tinycnn.tinycnn(widths=(1, 2, 0))
