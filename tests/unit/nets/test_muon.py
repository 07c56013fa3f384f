"""Muon against torch's own, where it has one, and against a singular value decomposition."""

import pytest
import torch

from nbpkg.nets.muon import Muon, orthogonal

pytestmark = pytest.mark.usefixtures("one_thread")


def matrices(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 32), (3, 2, 8, 16)])
def test_singular_vectors_stay_and_values_come_near_one(shape):
    x = matrices(*shape)
    found = orthogonal(100 * x)
    values = torch.linalg.svdvals(found)
    assert found.shape == x.shape and values.min() > 0.6 and values.max() < 1.25
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    inside = u.mT @ found @ v.mT
    torch.testing.assert_close(inside, torch.diag_embed(inside.diagonal(dim1=-2, dim2=-1)), atol=1e-3, rtol=0)
    assert (inside.diagonal(dim1=-2, dim2=-1) > 0).all()


def test_no_gradient_makes_no_step_and_no_error():
    assert not orthogonal(torch.zeros(4, 6)).any()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_steps_are_those_of_torch():
    ours, theirs = (
        [torch.nn.Parameter(matrices(*s, seed=i)) for i, s in enumerate(SHAPES)] for _ in range(2)
    )
    one = Muon(ours, 0.03)
    other = torch.optim.Muon(theirs, 0.03, adjust_lr_fn="match_rms_adamw")  # its iteration is in bfloat16
    for step in range(6):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = matrices(*a.shape, seed=10 * step + a.shape[0])
            b.grad = a.grad.clone()
        before = [p.detach().clone() for p in ours]
        one.step()
        other.step()
        for a, b, start in zip(ours, theirs, before, strict=True):
            apart = (a - b).norm() / (a - start).norm()
            assert apart < 0.03 * (step + 1)


SHAPES = [(12, 12), (36, 12), (12, 36), (12, 12), (36, 12)]


def test_matrices_of_one_shape_and_leading_dimensions_do_not_mix():
    alone = [torch.nn.Parameter(matrices(6, 10, seed=i)) for i in range(4)]
    pairs = [torch.nn.Parameter(torch.stack([alone[i].detach(), alone[i + 1].detach()])) for i in (0, 2)]
    steps = [Muon([p], 0.1) for p in alone] + [Muon(pairs, 0.1)]
    for step in range(3):
        for i, p in enumerate(alone):
            p.grad = matrices(6, 10, seed=100 + 4 * step + i)
        for j, p in enumerate(pairs):
            p.grad = torch.stack([alone[2 * j].grad, alone[2 * j + 1].grad])
        for one in steps:
            one.step()
    for j, p in enumerate(pairs):
        torch.testing.assert_close(p.detach(), torch.stack([alone[2 * j], alone[2 * j + 1]]).detach())


def test_without_gradients_weights_decay():
    p = torch.nn.Parameter(torch.ones(4, 4))
    p.grad = torch.zeros(4, 4)
    Muon([p], 0.5, decay=0.1).step()
    torch.testing.assert_close(p.detach(), torch.full((4, 4), 0.95))
