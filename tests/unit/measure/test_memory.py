"""The tally of tensors that are alive."""

import pytest
import torch
from torch.func import grad, vmap

from nbpkg.measure.memory import PeakTensors


def test_the_peak_is_what_is_alive_together():
    with PeakTensors() as tally:
        a = torch.zeros(1000)
        b = torch.ones(500)
        del a
        c = torch.ones(250)
    assert tally.peak == 6000 and tally.alive == 3000 and tally.peak_mb == pytest.approx(0.006)
    del b, c
    assert tally.alive == 0


def test_views_and_tensors_from_outside_do_not_count():
    outside = torch.zeros(1000)
    with PeakTensors() as tally:
        view = outside.view(10, 100)[3]
        view.add_(1)
        made = torch.zeros(10)
        part = made[2:4]
    assert tally.peak == 40 and len(part) == 2


def test_what_autograd_keeps_counts_until_the_graph_goes():
    w = torch.ones(1000, requires_grad=True)
    with PeakTensors() as tally:
        x = w
        for _ in range(5):
            x = torch.sin(x)
        kept = tally.alive
        (g,) = torch.autograd.grad(x.sum(), w)
        del x
    assert kept == 5 * 4000 and tally.alive == g.nbytes


def test_it_counts_under_the_transforms():
    def peak(steps):
        def f(w):
            for _ in range(steps):
                w = torch.sin(w)
            return w.sum()

        with PeakTensors() as tally:
            vmap(grad(f))(torch.ones(8, 100))
        return tally.peak

    assert 10 * 3200 <= peak(20) - peak(10) <= 40 * 3200  # a few arrays for each step
