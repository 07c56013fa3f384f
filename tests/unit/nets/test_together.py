"""Networks trained side by side come out as if each had been alone."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nbpkg.nets.bert import BertConfig, bert
from nbpkg.nets.together import Together
from nbpkg.seeding import seeded


def mlp(seed):
    with seeded(seed):
        return nn.Sequential(nn.Linear(3, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 2)).double()


def data(count):
    g = torch.Generator().manual_seed(0)
    return torch.randn(count, 20, 3, generator=g).double(), torch.randn(count, 20, 2, generator=g).double()


@pytest.mark.parametrize("make", [
    lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=0.01),
    lambda parameters: torch.optim.AdamW(parameters, 0.01),
])  # fmt: skip
def test_each_is_trained_as_if_it_were_alone(make):
    nets, (x, y) = [mlp(seed) for seed in range(3)], data(3)
    kept = copy.deepcopy(nets[0].state_dict())
    together = Together(nets, "cpu")
    optimiser = make(together.parameters())
    for _ in range(20):
        loss = F.mse_loss(together(x), y, reduction="none").flatten(1).mean(1)
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
    assert all(torch.equal(value, kept[name]) for name, value in nets[0].state_dict().items())
    for i, state in enumerate(together.states()):
        alone = make(nets[i].parameters())
        for _ in range(20):
            alone.zero_grad()
            F.mse_loss(nets[i](x[i]), y[i]).backward()
            alone.step()
        torch.testing.assert_close(state, dict(nets[i].state_dict()))


def test_shared_inputs_and_a_transformer():
    nets = [bert(BertConfig(vocabulary=30, layers=1, width=16, heads=2), seed).eval() for seed in (0, 1)]
    ids = torch.randint(5, 30, (4, 8), generator=torch.Generator().manual_seed(0))
    places = torch.arange(4) * 8
    with torch.no_grad():
        found = Together(nets, "cpu")(ids, places, shared=True)
        for net, mine in zip(nets, found, strict=True):
            torch.testing.assert_close(mine, net(ids, places), rtol=1e-4, atol=1e-5)


def test_dropout_differs_between_networks():
    net = nn.Sequential(nn.Dropout(0.5))
    net.weight = nn.Parameter(torch.zeros(1))
    together = Together([net.train(), net.train()], "cpu")
    first, second = together(torch.ones(1000), shared=True)
    assert not torch.equal(first, second)
