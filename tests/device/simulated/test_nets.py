"""Building blocks of `nbpkg.nets` on a GPU: the numbers of the CPU, and few waits."""

import fakecuda
import numpy as np
import pytest
import torch
from torch import nn

from nbpkg import paths
from nbpkg.data.masking import BLOCK, held_out
from nbpkg.nb201 import space
from nbpkg.nets import cellgraphs
from nbpkg.nets.bert import BertConfig, bert
from nbpkg.nets.bert_train import Recipe, held_out_losses, pretrain
from nbpkg.nets.dag import GraphEncoder
from nbpkg.nets.distil import losses
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


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_pretraining_agrees_stays_on_the_device_and_waits_once_a_block(seeds):
    rows = np.random.default_rng(0).integers(5, 40, (64, 16))
    config = BertConfig(40, 2, 16, 2, 16, norm="pre", std=0.1, positions="rotary")
    held, found = held_out(rows, 40), {}

    def models(device, layers=2):
        return Together([bert(BertConfig(**(vars(config) | {"layers": layers})), i) for i in seeds], device)

    def run(device, steps):
        student, partner = models(device), models(device, 1)

        def co_training(logits, batch, progress):
            pairs = zip(logits, logits[::-1], strict=True)
            return sum(sum(losses(own, batch.targets.flatten(), other)) for own, other in pairs)

        pretrain([student, partner], [rows] * len(seeds), seeds, Recipe(steps, 8, 0.01), co_training)
        return student

    for device in ("cpu", "cuda"):
        found[device] = held_out_losses(run(device, 6), held)
    torch.testing.assert_close(found["cuda"], found["cpu"], rtol=1e-2, atol=1e-2)
    few, many = (waits(lambda steps=steps: run("cuda", steps)) for steps in (2, BLOCK))
    assert many == few, "a step waits"
    assert waits(lambda: run("cuda", BLOCK + 1)) - many <= 3  # a block's rows, places and words

    fakecuda.start(paths.root())
    held_out_losses(run("cuda", BLOCK), held)
    fakecuda.stop()
    spent = fakecuda.Tally()
    for tally in fakecuda.report()[0].values():
        spent += tally
    assert spent.device_ops > 1_000 and spent.share > 0.95


def test_pretraining_with_a_teacher_in_half_precision_agrees():
    rows = np.random.default_rng(0).integers(5, 40, (64, 16))
    config = BertConfig(40, 2, 16, 2, 16, norm="pre", std=0.1, positions="rotary")
    found = {}
    for device, fast in (("cpu", False), ("cuda", True)):
        student, teacher = (Together([bert(config, i) for i in (a, a + 1)], device) for a in (0, 2))

        def taught(logits, batch, progress, teacher=teacher):
            with torch.no_grad():
                labels = teacher(batch.inputs, batch.positions)
            return sum(losses(logits[0], batch.targets.flatten(), labels.flatten(0, 1)))

        pretrain([student], [rows] * 2, (0, 1), Recipe(6, 8, 0.01, fast=fast), taught)
        found[device] = held_out_losses(student, held_out(rows, 40)).mean(1)
    torch.testing.assert_close(found["cuda"], found["cpu"], rtol=0.03, atol=0.03)
