"""Building blocks of `nbpkg.nets` on a GPU: the numbers of the CPU, and few waits."""

import fakecuda
import pytest
import torch
from torch import nn

from nbpkg import paths
from nbpkg.nb201 import space
from nbpkg.nets import cellgraphs
from nbpkg.nets.dag import GraphEncoder
from nbpkg.nets.together import Together
from nbpkg.seeding import seeded


def waits(call):
    """How often the host waits for the device during a call."""
    counted = []
    for run in (lambda: None, call):
        fakecuda.start(paths.root())
        run()
        fakecuda.stop()
        counted.append(sum(tally.waits for tally in fakecuda.report()[0].values()))
    return counted[1] - counted[0]


def test_the_graph_encoder_agrees_and_waits_twice_a_pass():
    with seeded(0):
        encoder = GraphEncoder(hidden=16, code=5)
    types, adjacency = cellgraphs.types_of(space.random(40, 0)), cellgraphs.topology()
    with torch.no_grad():
        want = encoder(types, adjacency)
        encoder, types, adjacency = (value.to("cuda") for value in (encoder, types, adjacency))
        torch.testing.assert_close(encoder(types, adjacency).cpu(), want, rtol=1e-4, atol=1e-5)
        assert waits(lambda: encoder(types, adjacency)) == 2


@pytest.mark.parametrize("shared", [True, False])
def test_networks_together_agree_and_do_not_wait(shared):
    with seeded(0):
        nets = [nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 2)) for _ in range(3)]
    x = torch.ones(4, 3) if shared else torch.ones(3, 4, 3)
    found = {}
    for device in ("cpu", "cuda"):
        together = Together(nets, device)
        adam = torch.optim.Adam(together.parameters(), 0.01)
        inputs = x.to(device)

        def step(together=together, adam=adam, inputs=inputs):
            adam.zero_grad()
            together(inputs, shared=shared).square().sum().backward()
            adam.step()

        step()
        assert device == "cpu" or waits(step) == 0
        if device == "cpu":
            step()
        found[device] = together.states()
    torch.testing.assert_close(found["cuda"], found["cpu"], rtol=1e-4, atol=1e-5)
