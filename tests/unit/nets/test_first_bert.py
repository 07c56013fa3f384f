"""What the first edition's language chapters use: losses in closed form against autograd, schedules."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nbpkg.data.masking import generator, mask
from nbpkg.errors import NbpkgError
from nbpkg.nets import distil
from nbpkg.nets.bert import BertConfig, bert
from nbpkg.nets.bert_train import linear_warmup_decay
from nbpkg.nets.downstream import FineTuning
from nbpkg.nets.first_bert import (
    Batches,
    clip_and_step,
    features,
    fine_tune,
    held_out_loss,
    losses,
    mutual_losses,
    optimiser,
    probe,
    ramp,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def logits(n=6, v=9, dtype=torch.float32):
    rng = torch.Generator().manual_seed(0)
    a, b = (3 * torch.randn(n, v, generator=rng, dtype=dtype) for _ in range(2))
    return a.requires_grad_(), torch.randint(0, v, (n,), generator=rng), b.requires_grad_()


def number(x):
    return x.detach().item()


def soft_loss(student, teacher, temperature=1.0):
    """The soft loss by torch's own divergence, whose gradient is autograd's."""
    log_p, log_q = (F.log_softmax(z / temperature, -1) for z in (student, teacher.detach()))
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_losses_in_closed_form_have_values_and_gradients_of_the_plain_ones(temperature):
    for a, b in ((1.0, 1.0), (1.0, 4.0), (0.0, 1.0)):
        found = []
        for way in (losses, distil.losses):
            student, targets, teacher = logits()
            hard, soft = way(student, targets, teacher, temperature)
            (a * hard + b * soft).backward()
            found.append((hard.detach(), soft.detach(), student.grad))
            assert teacher.grad is None
        torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)


def test_held_out_loss_is_the_plain_cross_entropy_in_parts(monkeypatch):
    rows = torch.randint(5, 37, (9, 10), generator=torch.Generator().manual_seed(0))
    model, x = bert(BertConfig(37, 2, 12, 3, 10)), mask(rows, 37, generator(0, "held"))
    expected = torch.nn.functional.cross_entropy(model(x.inputs, x.positions), x.targets, reduction="none")
    monkeypatch.setattr("nbpkg.nets.first_bert._EVALUATION_BATCH", 4)
    torch.testing.assert_close(held_out_loss(model, x).float(), expected.detach())


def test_a_schedule_goes_through_its_points():
    falling, switched = ramp((0, 4), (1, 1)), ramp((0, 1), (0.5, 1), (0.5, 0))
    assert [falling(x) for x in (0, 0.5, 1)] == [4, 2.5, 1]
    assert [switched(x) for x in (0, 0.49, 0.5, 1)] == [1, 1, 0, 0]
    assert ramp((0.2, 3), (0.4, 5))(0) == 3 and ramp((0.2, 3), (0.4, 5))(0.3) == pytest.approx(4)
    for points in ((), ((0.5, 1), (0, 1)), ((0, 1), (1.5, 1))):
        with pytest.raises(NbpkgError):
            ramp(*points)


# ------------------------------------------------------------------ two models at once


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_two_models_at_once_have_the_losses_and_gradients_of_each_alone(temperature):
    a, targets, b = logits(dtype=torch.float32)
    found = mutual_losses(a, b, targets, temperature)
    weights = (1.0, 0.7, 1.3, 0.4)
    sum(w * x for w, x in zip(weights, found, strict=True)).backward()
    twins = [x.detach().clone().requires_grad_() for x in (a, b)]
    wanted = [F.cross_entropy(twins[0], targets), soft_loss(*twins, temperature)]
    wanted += [F.cross_entropy(twins[1], targets), soft_loss(*twins[::-1], temperature)]
    for one, other in zip(found, wanted, strict=True):
        assert number(one) == pytest.approx(number(other), rel=1e-5)
    sum(w * x for w, x in zip(weights, wanted, strict=True)).backward()
    for one, other in zip((a, b), twins, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-7)


def test_one_models_losses_do_not_reach_the_other():
    for part in range(4):
        a, targets, b = logits()
        mutual_losses(a, b, targets, 2.0)[part].backward()
        other = (b if part < 2 else a).grad
        assert other is None or not other.any()


def test_far_apart_logits_of_two_models_stay_finite():
    a, targets, b = logits()
    found = mutual_losses(60 * a, 60 * b, targets)
    sum(found).backward()
    assert number(found[1]) == pytest.approx(number(soft_loss(60 * a, 60 * b)), rel=1e-4)
    assert torch.isfinite(a.grad).all() and torch.isfinite(b.grad).all()
    with pytest.raises(NbpkgError):
        mutual_losses(a, b[:2], targets)


# ------------------------------------------------------------------ batches, one step at a time

VOCABULARY = 60


def rows(n):
    return np.random.default_rng(0).integers(5, VOCABULARY, (n, 64))


def test_a_batch_depends_on_seed_and_step_only():
    sequences = rows(50)
    batches, again = (Batches(sequences, VOCABULARY, 8, seed=3) for _ in range(2))
    assert batches.per_pass == 6
    run = list(batches.steps(14))
    for step in (13, 2, 7):
        found = again(step)
        assert torch.equal(found.inputs, run[step].inputs) and torch.equal(found.targets, run[step].targets)
    assert torch.equal(next(again.steps(1, first=9)).inputs, run[9].inputs)
    other = Batches(sequences, VOCABULARY, 8, seed=4)(2)
    assert not torch.equal(other.inputs, run[2].inputs)


def test_a_pass_shows_every_sequence_once_and_the_next_in_another_order():
    sequences = np.repeat(np.arange(5, 53)[:, None], 64, 1)
    batches = Batches(sequences, VOCABULARY, 8)
    passes = [
        [int(i) for s in range(6) for i in batches(p * 6 + s).targets.view(8, 10)[:, 0]] for p in (0, 1)
    ]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(5, 53)) and passes[0] != passes[1]


def test_matrices_decay_and_biases_do_not():
    model = bert(BertConfig(37, 2, 12, 3, 10))
    decayed, free = optimiser(model).param_groups
    assert decayed["weight_decay"] == 0.01 and free["weight_decay"] == 0
    assert all(p.dim() > 1 for p in decayed["params"]) and all(p.dim() == 1 for p in free["params"])
    assert sum(map(len, (decayed["params"], free["params"]))) == len(list(model.parameters()))


def test_a_step_is_clipped_adam_at_the_scheduled_rate():
    model = torch.nn.Linear(3, 2)
    twin = torch.nn.Linear(3, 2)
    twin.load_state_dict(model.state_dict())
    adam, other = optimiser(model, 0.1), torch.optim.AdamW(twin.parameters(), 0.1, weight_decay=0)
    adam.param_groups[0]["weight_decay"] = 0
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    for step in range(3):
        (100 * model(x) ** 2).mean().backward()
        norm = clip_and_step(model, adam, linear_warmup_decay(step, 4, 0.5), clip=1.0)
        other.param_groups[0]["lr"] = 0.1 * (0.5, 1, 2 / 3)[step]
        (100 * twin(x) ** 2).mean().backward()
        expected = torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        other.step()
        other.zero_grad()
        assert norm > 1 and norm == pytest.approx(float(expected), rel=1e-5)
    torch.testing.assert_close(model.weight, twin.weight)


def test_fine_tuning_learns_repeats_and_leaves_the_model_alone():
    net, ids = bert(BertConfig(VOCABULARY, 1, 16, 2, 64)), rows(200)
    labels = (ids == ids[0, 1]).any(1).astype(np.int64)  # does the sentence hold this word?
    before = {k: v.clone() for k, v in net.state_dict().items()}
    recipe = FineTuning(epochs=2, lr=3e-3, limit=64)
    one, two = (fine_tune(net, ids, labels, ids[:50], recipe, seed=1) for _ in range(2))
    assert np.array_equal(one, two) and set(one) <= {0, 1}
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    numbers = fine_tune(net, ids, labels + 0.5, ids[:50], recipe)
    assert numbers.dtype == np.float64 and 0 < numbers.mean() < 2


def test_features_are_means_or_single_states():
    net, ids = bert(BertConfig(VOCABULARY, 1, 16, 2, 64)), rows(6)
    places = np.arange(6) * 3
    states = net.hidden(torch.as_tensor(ids)).detach()
    torch.testing.assert_close(torch.as_tensor(features(net, ids)), states.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.as_tensor(features(net, ids, places)), states[torch.arange(6), places])


def test_a_probe_reads_what_stands_there_and_nothing_else():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    x = rng.normal(size=(400, 5)) + labels[:, None]
    assert probe(x[:300], labels[:300], x[300:], labels[300:]) > 75
    noise = rng.permutation(labels)
    assert probe(x[:300], noise[:300], x[300:], noise[300:]) < 65
