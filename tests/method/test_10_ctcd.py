"""Chapter 10's method cells against oracles: bit-for-bit equality, brute force, closed forms."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nbpkg import chapters
from nbpkg.data.masking import held_out
from nbpkg.data.synthetic.first_language import Language
from nbpkg.data.tokens import SPECIAL
from nbpkg.nets.bert import BertConfig, bert
from nbpkg.nets.bert_train import linear_warmup_decay
from nbpkg.nets.first_bert import Batches, optimiser

LANGUAGE = Language(classes=2, nouns=2, verbs=2, adjectives=2)
V, LENGTH = LANGUAGE.size, 12
SIZES = tuple(BertConfig(V, layers, 16, 2, LENGTH, norm="pre", std=0.1) for layers in (2, 1))
ROWS = LANGUAGE.rows(24, LENGTH, seed=1)
HOW = dict(rows=ROWS, steps=5, lr=3e-3, batch=8, looks=2)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def ch():
    torch.set_num_threads(1)
    return chapters.load("10_ctcd")


@pytest.fixture(scope="module")
def bench():
    return {"rows": LANGUAGE.rows(30, LENGTH, seed=2), "quick": 20}


def logits(n=7, v=11, seed=0):
    rng = torch.Generator().manual_seed(seed)
    a, b = (2 * torch.randn(n, v, generator=rng, dtype=torch.float64) for _ in range(2))
    return (a.requires_grad_(), b.requires_grad_()), torch.randint(0, v, (n,), generator=rng)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ------------------------------------------------------------------------ losses


@pytest.mark.parametrize("tau", [1.0, 2.0, 4.0])
def test_the_soft_loss_is_the_sum_written_out(ch, tau):
    (a, b), _ = logits()
    total = 0.0
    for z, w in zip(a.tolist(), b.tolist(), strict=True):
        p, q = ([math.exp(x / tau) for x in row] for row in (z, w))
        p, q = ([x / sum(row) for x in row] for row in (p, q))
        total += sum(y * (math.log(y) - math.log(x)) for x, y in zip(p, q, strict=True))
    assert ch.soft_loss(a, b, tau).item() == pytest.approx(total / len(a), rel=1e-12)
    assert ch.soft_loss(a, a + 3.0, tau).item() == pytest.approx(0, abs=1e-12)  # alike up to a constant


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_both_branches_of_the_pair_loss_agree(ch, tau):
    z, y = logits()
    fast = ch.pair_losses(z, y, (0.5, 2.0), tau)
    slow = [F.cross_entropy(own, y) + w * tau**2 * ch.soft_loss(own, other, tau)
            for own, other, w in ((z[0], z[1], 0.5), (z[1], z[0], 2.0))]  # fmt: skip
    for one, other in zip(fast, slow, strict=True):
        assert one.item() == pytest.approx(other.item(), rel=1e-5)
    for one, other in zip(torch.autograd.grad(sum(fast), z), torch.autograd.grad(sum(slow), z), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    # Labels given explicitly go the slow way and say the same.
    told = ch.pair_losses(z, y, (0.5, 2.0), tau, told=(z[1].detach(), None))
    assert told[0].item() == pytest.approx(slow[0].item(), rel=1e-6)


def test_the_mixture_identity_at_temperature_one(ch):
    (a, b), y = logits()
    for weight in (0.3, 1.0, 4.0):
        q = b.softmax(-1).detach()
        target = F.one_hot(y, a.shape[1]) + weight * q
        wanted = -(target * a.log_softmax(-1)).sum(-1).mean() + weight * (q * q.log()).sum(-1).mean()
        assert ch.pair_losses((a, b), y, (weight, 0.0))[0].item() == pytest.approx(wanted.item(), rel=1e-10)


def test_the_gradient_of_one_model_does_not_see_the_weight_of_the_other(ch):
    def gradient_of_large(small_weight, stop):
        (a, b), y = logits()
        return torch.autograd.grad(sum(ch.pair_losses((a, b), y, (1.0, small_weight), stop=stop)), a)[0]

    for stop, alike in ((True, True), (False, False)):
        one, other = gradient_of_large(0.5, stop), gradient_of_large(4.0, stop)
        assert torch.equal(one, other) == alike


def test_without_the_stop_gradient_the_teacher_gets_the_closed_form(ch):
    # d KL(q || p) / d w = q (log q - log p - KL) for q = softmax(w): finite differences would say the same.
    (a, b), y = logits()
    losses = ch.pair_losses((a, b), y, (0.0, 1.0), stop=False)
    soft = losses[1] - F.cross_entropy(b, y)
    found = torch.autograd.grad(soft, a)[0]
    p, q = b.softmax(-1), a.softmax(-1)
    apart = q.log() - p.log()
    wanted = q * (apart - (q * apart).sum(-1, keepdim=True)) / len(a)
    torch.testing.assert_close(found, wanted)


def test_tau_squared_keeps_the_size_of_soft_gradients(ch):
    norms = []
    for tau in (8.0, 16.0, 32.0):
        (a, b), y = logits()
        told = (b.detach(), None)
        with_soft, without = (ch.pair_losses((a, b), y, (w, 0.0), tau, told)[0] for w in (1.0, 0.0))
        norms.append(torch.autograd.grad(with_soft - without, a)[0].norm().item())
    assert max(norms) < 1.25 * min(norms)


# ------------------------------------------------------------------------ the joint step


def test_weights_of_zero_are_two_independent_trainings_bit_for_bit(ch, bench):
    never = dict(to_large=ch.NEVER, to_small=ch.NEVER)
    joint = ch.co_train(3, SIZES, bench=bench, **HOW, **never)
    for i in range(2):
        sizes = [size if i == k else None for k, size in enumerate(SIZES)]
        alone = ch.co_train(3, sizes, bench=bench, **HOW, **never)
        assert same(alone["states"][i], joint["states"][i]) and alone["states"][1 - i] == {}
        assert np.array_equal(alone["hard"][:, i], joint["hard"][:, i]) and np.isnan(alone["final"][1 - i])
    # And they are what a plain loop over batches gives.
    model = bert(SIZES[0], 6)
    adam = optimiser(model, HOW["lr"])
    for step, x in enumerate(Batches(ROWS, V, 8, 3).steps(5)):
        F.cross_entropy(model(x.inputs, x.positions), x.targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in adam.param_groups:
            group["lr"] = HOW["lr"] * linear_warmup_decay(step, 5)
        adam.step()
        adam.zero_grad()
    assert same(model.state_dict(), joint["states"][0])


def test_a_teacher_that_is_told_nothing_does_not_notice_its_student(ch, bench):
    one_way = ch.co_train(3, SIZES, bench=bench, to_large=ch.NEVER, **HOW)
    alone = ch.co_train(3, SIZES, bench=bench, to_large=ch.NEVER, to_small=ch.NEVER, **HOW)
    (large, small), (lone_large, lone_small) = one_way["states"], alone["states"]
    assert same(large, lone_large) and not same(small, lone_small)


def test_models_that_are_equal_stay_equal_and_tell_each_other_nothing(ch):
    models = [bert(SIZES[1], 5) for _ in range(2)]
    adams = [optimiser(model, 1e-2) for model in models]
    alone = copy.deepcopy(models[0])
    adam = optimiser(alone, 1e-2)
    for x in Batches(ROWS, V, 8, 0).steps(3):
        z = ch.joint_step(models, adams, x, (1.0, 1.0))
        ch.joint_step([alone, None], [adam, None], x, (0.0, 0.0))
        assert torch.equal(*z) and ch.soft_loss(*z).item() == pytest.approx(0, abs=1e-7)
    assert same(models[0].state_dict(), models[1].state_dict())
    with torch.no_grad():  # and as alone, but for rounding
        found, wanted = (model(x.inputs, x.positions) for model in (models[0], alone))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-2)


def test_a_frozen_partner_is_ordinary_distillation(ch, bench):
    teacher = bert(SIZES[0], 40)
    found = ch.co_train(3, SIZES, bench=bench, frozen=(teacher.state_dict(), None), **HOW)
    assert same(found["states"][0], teacher.state_dict())
    student = bert(SIZES[1], 7)
    adam = optimiser(student, HOW["lr"])
    for step, x in enumerate(Batches(ROWS, V, 8, 3).steps(5)):
        with torch.no_grad():
            q = teacher(x.inputs, x.positions).softmax(-1)
        log_p = student(x.inputs, x.positions).log_softmax(-1)
        mixed = F.one_hot(x.targets, V) + q
        (-(mixed * log_p).sum(-1).mean()).backward()
        ch.clip_and_step(student, adam, linear_warmup_decay(step, 5))
    again = bert(SIZES[1])
    again.load_state_dict(found["states"][1])
    with torch.no_grad():  # equal but for rounding
        outputs = [model(x.inputs, x.positions) for model in (student, again)]
    torch.testing.assert_close(*outputs, rtol=1e-3, atol=3e-3)


def test_clipping_is_for_each_model_alone(ch):
    def small_after(large_scale, together):
        models = [bert(size, i) for i, size in enumerate(SIZES)]
        adams = [torch.optim.SGD(model.parameters(), 0.1) for model in models]
        x = Batches(ROWS, V, 8, 0)(0)
        losses = ch.pair_losses([model(x.inputs, x.positions) for model in models], x.targets, (0.0, 0.0))
        (large_scale * losses[0] + losses[1]).backward()
        if together:  # what the chapter does not do
            torch.nn.utils.clip_grad_norm_([p for model in models for p in model.parameters()], 1.0)
        for model, adam in zip(models, adams, strict=True):
            ch.clip_and_step(model, adam, 1.0, clip=math.inf if together else 1.0)
        return models[1].state_dict()

    assert same(small_after(1.0, False), small_after(100.0, False))
    assert not same(small_after(1.0, True), small_after(100.0, True))


def test_alternating_lets_the_small_model_read_the_large_one_after_its_step(ch):
    models = [bert(size, i) for i, size in enumerate(SIZES)]
    twins = copy.deepcopy(models)
    adams = [[optimiser(model, 1e-2) for model in pair] for pair in (models, twins)]
    x = Batches(ROWS, V, 8, 0)(0)
    ch.alternate_step(models, adams[0], x, (1.0, 1.0))
    with torch.no_grad():
        first = twins[1](x.inputs, x.positions)
    ch.joint_step(twins, [adams[1][0], None], x, (1.0, 0.0), told=(first, None))
    with torch.no_grad():
        second = twins[0](x.inputs, x.positions)
    ch.joint_step(twins, [None, adams[1][1]], x, (0.0, 1.0), told=(None, second))
    for model, twin in zip(models, twins, strict=True):
        assert same(model.state_dict(), twin.state_dict())


def test_a_weight_that_is_switched_off_is_off(ch, bench):
    off = ((0, 1.0), (0.0, 0.0))
    found = ch.co_train(3, SIZES, bench=bench, to_large=off, **HOW)
    never = ch.co_train(3, SIZES, bench=bench, to_large=ch.NEVER, **HOW)
    assert same(found["states"][0], never["states"][0])


# ------------------------------------------------------------------------ controls


def test_smoothed_labels_have_the_entropy_that_was_asked_for(ch):
    y = torch.tensor([3, 0, 8])
    for entropy in (0.05, 0.7, 1.9):
        p = ch.smoothed(y, 9, entropy).double().exp()
        torch.testing.assert_close(p.sum(-1), torch.ones(3, dtype=torch.float64), rtol=1e-6, atol=1e-6)
        assert torch.equal(p.argmax(-1), y)
        assert -(p * p.log()).sum(-1).mean().item() == pytest.approx(entropy, abs=1e-5)
    assert ch.smoothed(y, 9, 5.0).exp().sub(1 / 9).abs().max() < 1e-6  # more than can be: uniform


def test_shuffled_labels_keep_the_target_and_do_move(ch):
    y = torch.randint(0, 5, (60,), generator=torch.Generator().manual_seed(0))
    order = ch.shuffled(y, torch.Generator().manual_seed(1))
    assert sorted(order.tolist()) == list(range(60)) and torch.equal(y[order], y)
    assert (order != torch.arange(60)).float().mean() > 0.7
    alone = ch.shuffled(torch.arange(9), torch.Generator().manual_seed(1))
    assert alone.tolist() == list(range(9))  # nobody to change places with


def test_the_average_follows_its_model(ch):
    model, average = bert(SIZES[1], 0), bert(SIZES[1], 1)
    start = [p.clone() for p in average.parameters()]
    for _ in range(3):
        ch.follow(average, model, 0.9)
    for mean, begun, weight in zip(average.parameters(), start, model.parameters(), strict=True):
        torch.testing.assert_close(mean, 0.9**3 * begun + (1 - 0.9**3) * weight, rtol=1e-4, atol=1e-6)


def test_controls_train_the_large_model_alone(ch, bench):
    one = (SIZES[0], None)
    plain = ch.co_train(3, one, bench=bench, to_large=ch.NEVER, **HOW)
    for how in (dict(told="average"), dict(told="smoothed", entropies=np.array([2.0, 1.0]))):
        found = ch.co_train(3, one, bench=bench, **how, **HOW)
        assert not same(found["states"][0], plain["states"][0]) and np.isfinite(found["final"][0])
    mixed = ch.co_train(3, SIZES, bench=bench, told="shuffled", **HOW)
    assert np.isfinite(mixed["final"]).all()


def test_word_noise_leaves_hidden_places_and_special_tokens(ch):
    x = Batches(ROWS, V, 8, 0)(0)
    noisy = ch.word_noise(x, 0.5, V, torch.Generator().manual_seed(0))
    changed = noisy.inputs != x.inputs
    assert changed.any() and not changed.flatten()[x.positions].any()
    assert not changed[x.inputs < len(SPECIAL)].any() and (noisy.inputs[changed] >= len(SPECIAL)).all()
    assert 0.25 < changed.float().mean() < 0.5


# ------------------------------------------------------------------------ measuring


def test_the_bench_measures_what_it_says(ch, bench):
    model = bert(SIZES[0], 1)
    found = ch.look_closely([model, None], bench["rows"])
    x = held_out(bench["rows"], V)
    with torch.no_grad():
        z = model(x.inputs, x.positions)
    assert found["final"][0] == pytest.approx(F.cross_entropy(z, x.targets).item(), rel=1e-5)
    count, confidence, right = found["reliability"][0]
    assert count.sum() == len(x.targets) and np.isnan(found["final"][1])
    assert right.sum() / count.sum() == pytest.approx(found["accuracy"][0] / 100)
    assert (confidence <= count).all()
    # The excess over the best answers: KL written out, and no less than 0.
    best = ch.best_answers(None, LANGUAGE, bench["rows"], 10)
    log_p = z[: len(best)].double().log_softmax(-1).numpy()
    wanted = np.mean([sum(b * (math.log(b) - a) for a, b in zip(*pair, strict=True) if b > 0)
                      for pair in zip(log_p, best, strict=True)])  # fmt: skip
    excess = ch.excess_of(0, SIZES, [model.state_dict(), {}], bench["rows"], best)
    assert excess[0] == pytest.approx(wanted, rel=1e-5) and wanted > 0 and np.isnan(excess[1])


def test_the_share_of_a_gap_on_hand_made_numbers(ch):
    low, high = [1.0, 1.2, 0.8], [3.0, 3.2, 2.8]
    found = ch.gap_closed(low, high, [2.0, 2.2, 1.8])
    assert found == pytest.approx((0.5, 0.5, 0.5))
    assert ch.gap_closed(low, high, low).mean == 0 and ch.gap_closed(low, high, high).mean == pytest.approx(1)
    # Losses fall where accuracies rise: the share is the same.
    falling = ch.gap_closed(*([-x for x in row] for row in (low, high, [2.0, 2.2, 1.8])))
    assert falling == pytest.approx((0.5, 0.5, 0.5))
    unknown = ch.gap_closed([0.0, 1.0], [1.0, 0.0], [1.0, 1.0])
    assert (unknown.low, unknown.high) == (-math.inf, math.inf)


def test_the_ends_of_a_share_are_where_a_t_test_begins_to_reject(ch):
    from scipy.stats import ttest_1samp

    low, high, ours = np.random.default_rng(0).normal([[0.0], [1.0], [0.6]], 0.1, (3, 6))
    found = ch.gap_closed(low, high, ours)
    assert found.low < found.mean < found.high
    for end in (found.low, found.high):
        assert ttest_1samp((ours - low) - end * (high - low), 0).pvalue == pytest.approx(0.05, abs=1e-9)
    # With a gap that is the same for all seeds it is the ordinary t interval.
    wanted = ch.stats.t_interval((ours - low) / 2)
    assert ch.gap_closed(low, low + 2, ours) == pytest.approx(tuple(wanted))


def test_operations_are_counted_as_the_configuration_says(ch):
    large, small = SIZES
    f, g = large.flops(8, 16, LENGTH), small.flops(8, 16, LENGTH)
    assert ch.training_flops(SIZES, 10, 8, 16, LENGTH) == 10 * 3 * (f + g)
    assert ch.training_flops((large, None), 10, 8, 16, LENGTH, reads=(1, 0)) == 10 * 4 * f
    assert ch.training_flops(SIZES, 1, 8, 16, LENGTH, frozen=(True, False)) == f + 3 * g


def test_questions_are_about_the_verb(ch):
    made = ch.questions(LANGUAGE, 40, 20, seed=0)
    words = np.array(LANGUAGE.vocabulary)
    for row in range(len(made["ids"])):
        good, bad = words[made["good"][row]], words[made["bad"][row]]
        assert good.removesuffix("s") == bad.removesuffix("s") and good != bad
        there = words[made["ids"][row, made["place"][row]]]
        assert there == (good if made["label"][row] else bad)
        assert words[made["hidden"][row, made["place"][row]]] == "[MASK]"
    assert 0.3 < made["label"].mean() < 0.7


def test_digits_are_learned_and_paired(ch):
    how = dict(labelled=120, widths=(32, 8), steps=250)
    one, again, other = (ch.digits(0, weight=w, **how) for w in (0.0, 0.0, 1.0))
    assert one == again and one != other and one[0] > 70
