"""Soft labels against sums written out, constants that get no gradient, weights carried between models."""

import math

import pytest
import torch
from torch.nn import functional as F

from nbpkg.errors import NbpkgError
from nbpkg.nets.bert import BertConfig, bert
from nbpkg.nets.distil import init_from, layer_map, losses

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


def test_layers_are_mapped_by_rule():
    assert layer_map(4, 6) == [0, 1, 2, 3, 3, 3] and layer_map(1, 3) == [0, 0, 0]
    assert layer_map(4, 6, "first") == [0, 1, 2, 3, None, None]
    assert layer_map(6, 2, "last") == [0, 1]
    for wrong in ((0, 2, "last"), (2, 2, "middle")):
        with pytest.raises(NbpkgError):
            layer_map(*wrong)


def weights(model):
    return model.state_dict()


def test_a_deeper_model_starts_with_the_layers_of_the_shallow_one():
    source = bert(BertConfig(layers=2, **SMALL), 5)
    before = {k: v.clone() for k, v in weights(source).items()}
    grown = init_from(source, BertConfig(layers=4, **SMALL))
    for name, value in weights(grown).items():
        if name.startswith("layers."):
            number, rest = name.removeprefix("layers.").split(".", 1)
            assert torch.equal(value, before[f"layers.{min(int(number), 1)}.{rest}"])
        else:
            assert torch.equal(value, before[name])
    assert all(torch.equal(before[k], v) for k, v in weights(source).items())
    # Nothing is shared: training one does not move the other.
    with torch.no_grad():
        grown.tokens.weight.zero_()
    assert torch.equal(before["tokens.weight"], source.tokens.weight)


def test_without_layers_the_rest_is_carried_and_layers_are_as_drawn():
    source, config = bert(BertConfig(layers=2, **SMALL), 5), BertConfig(layers=3, **SMALL)
    fresh = weights(bert(config, 7))
    for name, value in weights(init_from(source, config, 7, layers=None)).items():
        drawn = name.startswith("layers.")
        assert torch.equal(value, fresh[name] if drawn else weights(source)[name]), name


def test_growth_can_preserve_the_function():
    source = bert(BertConfig(layers=2, norm="pre", **SMALL), 5)
    grown = init_from(source, BertConfig(layers=5, norm="pre", **SMALL), layers="first", extra="zero")
    ids, places = torch.randint(5, 37, (3, 10)), torch.arange(30)
    torch.testing.assert_close(grown(ids, places), source(ids, places))
    assert grown.layers[4].up.weight.std() > 0


def test_widths_share_their_first_features_and_heads():
    source = bert(BertConfig(layers=2, **SMALL), 5)
    config = BertConfig(37, 2, 24, 3, 12)
    wide, fresh = init_from(source, config, 7), bert(config, 7)
    assert torch.equal(wide.tokens.weight[:, :16], source.tokens.weight)
    assert torch.equal(wide.tokens.weight[:, 16:], fresh.tokens.weight[:, 16:])
    assert torch.equal(wide.position_embedding.weight[:10, :16], source.position_embedding.weight)
    for part in range(3):  # query, key, value
        to, of = wide.layers[1].qkv.weight[24 * part :], source.layers[1].qkv.weight[16 * part :]
        assert torch.equal(to[:16, :16], of[:16])
    back = init_from(wide, source.config, 0)
    assert all(torch.equal(v, weights(source)[k]) for k, v in weights(back).items())


def test_models_that_cannot_share_weights_are_refused():
    source = bert(BertConfig(layers=2, **SMALL))
    other = dict(SMALL, layers=2)
    for config in (
        BertConfig(**(other | {"vocabulary": 38})),
        BertConfig(**(other | {"norm": "pre"})),
        BertConfig(**(other | {"heads": 4})),
    ):
        with pytest.raises(NbpkgError):
            init_from(source, config)
    with pytest.raises(NbpkgError, match="'random' or 'zero'"):
        init_from(source, source.config, extra="none")
