"""Soft labels against sums written out, constants that get no gradient, weights carried between models."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from nbpkg.errors import NbpkgError
from nbpkg.nets.bert import BertConfig, bert
from nbpkg.nets.distil import init_from, losses

SMALL = dict(vocabulary=37, width=16, heads=2, length=10)


pytestmark = pytest.mark.usefixtures("one_thread")


def logits(n=6, v=9, seed=0, dtype=torch.float32):
    rng = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(n, v, generator=rng, dtype=dtype) for _ in range(2))
    return student.requires_grad_(), torch.randint(0, v, (n,), generator=rng), teacher.requires_grad_()


def number(x):
    return x.detach().item()


def soft_loss(student, teacher, temperature=1.0):
    """The soft loss by torch's own divergence, whose gradient is autograd's."""
    log_p, log_q = (F.log_softmax(z / temperature, -1) for z in (student, teacher.detach()))
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def brute_force(student, teacher, temperature):
    """KL(teacher || student) at a temperature, place by place and token by token, in Python's numbers."""
    total = 0.0
    for z, w in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = ([math.exp(x / temperature) for x in row] for row in (z, w))
        p, q = ([x / sum(row) for x in row] for row in (p, q))
        total += sum(b * (math.log(b) - math.log(a)) for a, b in zip(p, q, strict=True))
    return total / len(student)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0, 0.5])
def test_the_soft_loss_is_the_sum_written_out(temperature):
    student, targets, teacher = logits()
    expected = brute_force(student, teacher, temperature)
    assert number(soft_loss(student, teacher, temperature)) == pytest.approx(expected, rel=1e-5)
    hard, soft = losses(student, targets, teacher, temperature)
    assert number(soft) == pytest.approx(expected, rel=1e-5)
    assert number(hard) == pytest.approx(number(F.cross_entropy(student, targets)), rel=1e-6)


def test_gradients_of_the_fused_losses_are_autograds_and_finite_differences():
    for a, b in ((1.0, 1.0), (1.0, 4.0), (1.0, 0.0), (0.0, 1.0)):
        student, targets, teacher = logits()
        hard, soft = losses(student, targets, teacher)
        (a * hard + b * soft).backward()
        twin = student.detach().clone().requires_grad_()
        (a * F.cross_entropy(twin, targets) + b * soft_loss(twin, teacher)).backward()
        torch.testing.assert_close(student.grad, twin.grad, rtol=1e-5, atol=1e-7)
        assert teacher.grad is None


def test_the_mixture_identity_at_temperature_one():
    # a H + b S = cross-entropy against (a onehot + b q), less b times the teacher's entropy.
    student, targets, teacher = logits()
    hard, soft = losses(student, targets, teacher)
    q = teacher.softmax(-1).detach()
    mixed = 1.0 * F.one_hot(targets, 9) + 4.0 * q
    entropy = -(q * q.log()).sum(-1).mean()
    expected = -(mixed * student.log_softmax(-1)).sum(-1).mean() - 4.0 * entropy
    torch.testing.assert_close(hard + 4.0 * soft, expected)


def test_equal_logits_cost_nothing_and_different_ones_do():
    student, targets, teacher = logits()
    for temperature in (1.0, 2.0):
        _, soft = losses(student, targets, student, temperature)
        assert number(soft) == pytest.approx(0, abs=1e-6)
        assert number(losses(student, targets, teacher, temperature)[1]) > 0.1
    # A constant added to all logits of a place changes nothing.
    torch.testing.assert_close(
        losses(student, targets, teacher + 5.0)[1], losses(student, targets, teacher)[1]
    )


def test_far_apart_logits_stay_finite():
    student, targets, teacher = logits()
    hard, soft = losses(60 * student, targets, 60 * teacher)
    (hard + soft).backward()
    assert number(soft) == pytest.approx(number(soft_loss(60 * student, teacher * 60)), rel=1e-4)
    assert torch.isfinite(student.grad).all()


def test_the_teacher_gets_no_gradient_at_any_temperature():
    for temperature in (1.0, 2.0):
        student, targets, teacher = logits()
        sum(losses(student, targets, teacher, temperature)).backward()
        assert student.grad is not None and teacher.grad is None


def test_half_precision_logits_are_compared_in_single():
    student, targets, teacher = logits()
    hard, soft = losses(student.bfloat16(), targets, teacher.bfloat16())
    assert hard.dtype == soft.dtype == torch.float32
    assert number(soft) == pytest.approx(number(soft_loss(student, teacher)), rel=0.05)


def test_logits_that_do_not_fit_are_refused():
    student, targets, teacher = logits()
    for s, t, tau in ((student, teacher[:3], 1), (student[None], teacher[None], 1), (student, teacher, 0)):
        with pytest.raises(NbpkgError):
            losses(s, targets, t, tau)


# ------------------------------------------------------------------ carrying weights


@pytest.mark.parametrize("kind", [dict(), dict(norm="pre", positions="rotary")])
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_a_model_starts_with_the_layers_of_another_one_and_deeper_ones_with_its_last(kind, layers):
    source = bert(BertConfig(layers=2, **(SMALL | kind)), 5)
    before = {k: v.clone() for k, v in source.state_dict().items()}
    made = init_from(source, layers)
    assert made.config == replace(source.config, layers=layers)
    for name, value in made.state_dict().items():
        if name.startswith("layers."):
            number, rest = name.removeprefix("layers.").split(".", 1)
            assert torch.equal(value, before[f"layers.{min(int(number), 1)}.{rest}"])
        else:
            assert torch.equal(value, before[name])
    # Nothing is shared: training one does not move the other.
    with torch.no_grad():
        made.tokens.weight.zero_()
    assert all(torch.equal(before[k], v) for k, v in source.state_dict().items())
