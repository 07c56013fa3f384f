"""Chapter 09's method cells against oracles: sums written out, closed forms, hand-made curves."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nbpkg import chapters
from nbpkg.data.synthetic.first_language import Language
from nbpkg.nets.first_bert import ramp

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def ch():
    return chapters.load("09_weak_teacher")


@pytest.fixture(scope="module")
def bed(ch):
    language = Language(classes=2, nouns=2, verbs=2, adjectives=2)
    sizes = dict(length=12, width=16, batch=16, few=30, many=60, points=4, layers=3)
    return ch.Bed(language, language.size, 160, 12, **sizes)


@pytest.fixture(scope="module")
def teachers(ch, bed):
    torch.set_num_threads(1)
    made = ch.train(
        100, bed, {"deep": ch.Lesson(layers=2), "narrow": ch.Lesson(layers=1, width=8)}, keep=True
    )
    sizes = {"deep": (2, 0), "narrow": (1, 8)}
    return {k: {"layers": n, "width": w, "state": made[k]["state"]} for k, (n, w) in sizes.items()}, made


def logits(n=7, v=9, seed=0):
    g = torch.Generator().manual_seed(seed)
    z, w = (2 * torch.randn(n, v, generator=g, dtype=torch.float64) for _ in range(2))
    return z.requires_grad_(), torch.randint(0, v, (n,), generator=g), w.requires_grad_()


# ------------------------------------------------------------------------ losses


@pytest.mark.parametrize("tau", [1.0, 2.0, 4.0])
def test_losses_are_the_sums_written_out(ch, tau):
    z, y, w = logits()
    soft = hard = 0.0
    for row, target, told in zip(z.tolist(), y.tolist(), w.tolist(), strict=True):
        p, q = ([math.exp(x / tau) for x in r] for r in (row, told))
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        soft += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True)) / len(y)
        plain = [math.exp(x) for x in row]
        hard -= math.log(plain[target] / sum(plain)) / len(y)
    found = ch.hard_and_soft(z, y, w, tau)
    assert [x.item() for x in found] == pytest.approx([hard, soft])
    for squared, unit in itertools.product((False, True), repeat=2):
        lesson = ch.Lesson(4.0, tau=tau, squared=squared, unit=unit)
        wanted = (hard + 4 * soft * (tau**2 if squared else 1)) / (5 if unit else 1)
        assert ch.lesson_loss(lesson, 4.0, z.float(), y, w.float()).item() == pytest.approx(wanted, rel=1e-5)


def test_the_teacher_gets_no_gradient(ch):
    for tau in (1.0, 2.0):
        z, y, w = logits()
        sum(ch.hard_and_soft(z, y, w, tau)).backward()
        ch.lesson_loss(ch.Lesson(1.0, tau=tau), 1.0, z, y, w).backward()
        assert z.grad is not None and w.grad is None


def test_at_temperature_one_the_loss_is_that_of_the_mixture(ch):
    z, y, w = logits()
    q = w.softmax(-1).detach()
    for weight in (0.25, 1.0, 4.0):
        mixed = ch.mixture(F.one_hot(y, 9).double(), q, weight)
        cross = -(mixed * z.log_softmax(-1)).sum(-1).mean()
        hard, soft = ch.hard_and_soft(z, y, w)
        entropy = -(q * q.log()).sum(-1).mean()
        assert ((hard + weight * soft + weight * entropy) / (1 + weight)).item() == pytest.approx(
            cross.item()
        )


def test_no_soft_weight_is_the_hard_loss_bit_by_bit(ch):
    z, y, w = (x.float() if x.is_floating_point() else x for x in logits())
    assert torch.equal(ch.lesson_loss(ch.Lesson(0.0), 0.0, z, y, w), F.cross_entropy(z, y))
    smooth = ch.lesson_loss(ch.Lesson(smooth=0.2), 0.0, z, y, None)
    target = 0.8 * F.one_hot(y, 9) + 0.2 / 9
    assert smooth.item() == pytest.approx(-(target * z.log_softmax(-1)).sum(-1).mean().item(), rel=1e-5)


def test_schedules(ch):
    assert ch.Lesson(4.0).weight(0.3) == 4.0
    down, off = ch.Lesson(((0, 4), (1, 1))), ch.Lesson(((0, 1), (0.5, 1), (0.5, 0)))
    assert [down.weight(x) for x in (0, 0.5, 1)] == [4, 2.5, 1]
    assert [off.weight(x) for x in (0, 0.49, 0.5, 1)] == [1, 1, 0, 0] and ramp((0, 4), (1, 1))(0.5) == 2.5


def test_shuffled_labels_stay_with_their_word(ch):
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 6, (200,), generator=g)
    order = ch.trade(y, g)
    assert torch.equal(y[order], y) and sorted(order.tolist()) == list(range(200))
    assert (order != torch.arange(200)).float().mean() > 0.8
    told = torch.randn(200, 4, generator=g)
    for word in range(6):  # what the students are told about a word, all in all, is the same
        torch.testing.assert_close(told[order][y == word].sum(0), told[y == word].sum(0))


# ------------------------------------------------------------------------ the floor


def test_the_mixture_is_the_minimum_of_the_expected_loss(ch):
    g = torch.Generator().manual_seed(1)
    best, told = (torch.randn(1, 5, generator=g, dtype=torch.float64).softmax(-1) for _ in range(2))

    def expected(p, weight):  # of eq-dwt-loss over words drawn from `best`
        hard = -(best * p.log()).sum()
        return (hard + weight * (told * (told / p).log()).sum()).item()

    for weight in (0.25, 1.0, 4.0):
        mine = ch.mixture(best, told, weight)
        lowest = expected(mine, weight)
        others = torch.rand(4_000, 5, generator=g, dtype=torch.float64)
        assert min(expected(p[None] / p.sum(), weight) for p in others[:1_000]) > lowest
        for i, j in itertools.permutations(range(5), 2):  # and it is flat there
            moved = mine.clone()
            moved[0, i] += 1e-4
            moved[0, j] -= 1e-4
            assert 0 < expected(moved, weight) - lowest < 1e-5


def test_the_floor_by_hand_and_at_its_ends(ch):
    best, told = torch.tensor([[0.5, 0.5, 0.0]]).double(), torch.tensor([[0.25, 0.25, 0.5]]).double()
    # mixture at weight 1: 3/8, 3/8, 1/4, so KL = log(4/3).
    assert ch.floor(best, told, 1.0) == pytest.approx(math.log(4 / 3))
    assert ch.floor(best, told, 0.0) == pytest.approx(0) and ch.floor(best, best, 4.0) == pytest.approx(0)
    assert ch.floor(best, told, 1e9) == pytest.approx(ch.excess(best, told)) == pytest.approx(math.log(2))
    floors = [ch.floor(best, told, a) for a in (0, 0.25, 1, 4, 16)]
    assert floors == sorted(floors)
    for a, value in zip((0.25, 1, 4, 16), floors[1:], strict=True):  # convexity
        assert value <= a / (1 + a) * ch.excess(best, told)


def test_a_student_of_free_logits_ends_at_the_floor(ch):
    g = torch.Generator().manual_seed(2)
    best = torch.tensor([[0.6, 0.3, 0.1]]).double()
    told = torch.tensor([[0.2, 0.2, 0.6]]).double()
    z = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([z], 0.02)
    for _ in range(1_500):
        y = torch.multinomial(best[0], 256, replacement=True, generator=g)
        hard, soft = ch.hard_and_soft(z.expand(256, 3), y, told.log().expand(256, 3))
        adam.zero_grad()
        (hard + soft).backward()
        adam.step()
    assert ch.excess(best, z.softmax(-1).detach()) == pytest.approx(ch.floor(best, told, 1.0), abs=0.02)


# ------------------------------------------------------------------------ curves


def test_crossings_of_hand_made_curves(ch):
    steps = [0, 10, 20, 30]
    assert ch.crossing(steps, [1, 1, 3, 4], [2, 2, 2, 2]) == 15
    assert ch.crossing(steps, [3, 1, 3, 4], [2, 2, 2, 2]) == 15  # the last one counts
    assert ch.crossing(steps, [3, 3, 3, 3], [2, 2, 2, 2]) == 0
    assert math.isnan(ch.crossing(steps, [3, 3, 3, 1], [2, 2, 2, 2]))
    assert math.isnan(ch.crossing(steps, [2, 2, 2, 2], [2, 2, 2, 2]))
    assert ch.crossing(steps, [1, 1, 1, 5], [2, 2, 2, 2]) == pytest.approx(22.5)


def test_marks_begin_at_nothing_and_end_at_the_end(ch, bed):
    at = ch.marks(ch.replace(bed, steps=1_000, points=20))
    assert at[0] == 0 and at[-1] == 1_000 and len(at) == 21
    assert (np.diff(np.diff(at)) >= -1).all()


# ------------------------------------------------------------------------ training


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def test_weight_zero_beside_others_is_training_alone_bit_by_bit(ch, bed, teachers):
    good = teachers[0]["deep"]
    many = {"none": ch.Lesson(), "one": ch.Lesson(1.0), "off": ch.Lesson(((0, 1), (0, 0), (1, 0)))}
    beside = ch.train(0, bed, many, good)
    alone = ch.train(0, bed, {"x": ch.Lesson()})
    assert same(beside["none"]["state"], alone["x"]["state"])
    assert same(beside["off"]["state"], alone["x"]["state"])
    assert not same(beside["one"]["state"], alone["x"]["state"])
    assert beside["none"]["hard"] == alone["x"]["hard"]
    again = ch.train(0, bed, {"one": ch.Lesson(1.0)}, good)
    assert same(again["one"]["state"], beside["one"]["state"])  # and no student sees another


def test_the_loop_is_the_plain_one(ch, bed, teachers):
    good = teachers[0]["deep"]
    small = ch.replace(bed, steps=3)
    found = ch.train(0, small, {"one": ch.Lesson(4.0)}, good)["one"]["state"]
    model, teacher = ch.network(bed, seed=0), ch.trained(bed, good)
    rows, _, _ = ch.texts(small)
    adam = ch.optimiser(model, bed.lr)
    for step in range(3):
        batch = ch.Batches(rows, bed.vocabulary, bed.batch, 0, bed.rate)(step)  # any batch from seed and step
        told = teacher(batch.inputs, batch.positions).detach()
        hard, soft = ch.hard_and_soft(model(batch.inputs, batch.positions), batch.targets, told)
        (hard + 4 * soft).backward()
        ch.clip_and_step(model, adam, ch.linear_warmup_decay(step, 3))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found[name], value, atol=2e-4, rtol=2e-3)
    assert all(
        torch.equal(a, b) for a, b in zip(teacher.state_dict().values(), good["state"].values(), strict=True)
    )


def test_what_is_kept_and_judged(ch, bed, teachers):
    made = teachers[1]["deep"]
    assert len(made["kept"]) == len(made["curve"]) == len(ch.marks(bed)) and same(
        made["kept"][-1], made["state"]
    )
    rows, held, best = ch.texts(bed)
    model = ch.trained(bed, teachers[0]["deep"])
    sampled, expected = ch.judge(bed, model, held, best)
    few = held.rows(0, bed.few)
    p = model(few.inputs, few.positions).softmax(-1).double()
    entropy = -(best * best.clamp_min(1e-300).log()).sum(-1).mean().item()
    assert expected == pytest.approx(entropy + ch.excess(best, p), rel=1e-5)
    assert sampled == pytest.approx(F.nll_loss(p.log(), few.targets).item(), rel=1e-5)
    assert made["curve"][-1, 1:] == pytest.approx([sampled, expected], rel=1e-6)
    assert len(rows) == bed.rows and (rows[:, 0] == 2).all()


# ------------------------------------------------------------------------ how students begin


def test_the_papers_rule_of_remapping(ch, bed, teachers):
    deep = ch.trained(bed, teachers[0]["deep"])
    start = ch.begin(bed, ch.Lesson(start="remapped"), 5, teachers[0]["deep"])
    assert ch.layer_map(4, 6) == [0, 1, 2, 3, 3, 3] and len(start.layers) == 3
    for i, j in enumerate((0, 1, 1)):
        assert same(start.layers[i].state_dict(), deep.layers[j].state_dict())
    assert torch.equal(start.tokens.weight, deep.tokens.weight) and torch.equal(start.bias, deep.bias)
    part = ch.begin(bed, ch.Lesson(start="embeddings"), 5, teachers[0]["deep"])
    fresh = ch.network(bed, seed=5)
    assert torch.equal(part.tokens.weight, deep.tokens.weight)
    assert same(part.layers.state_dict(), fresh.layers.state_dict())
    assert same(ch.begin(bed, ch.Lesson(), 5, None).state_dict(), fresh.state_dict())


def test_a_grown_student_begins_as_its_teacher(ch, bed, teachers):
    deep, (_, held, _) = ch.trained(bed, teachers[0]["deep"]), ch.texts(bed)
    grown = ch.begin(bed, ch.Lesson(start="grown"), 5, teachers[0]["deep"])
    torch.testing.assert_close(ch.answers(grown, held), ch.answers(deep, held), atol=1e-4, rtol=1e-4)
    loss = F.cross_entropy(ch.answers(deep, held), held.targets)
    assert math.isfinite(loss.item())
    F.cross_entropy(grown(held.inputs, held.positions), held.targets).backward()
    assert grown.layers[-1].down.weight.grad.abs().max() > 0  # the new layer can learn


def test_a_teacher_without_layers_says_the_same_everywhere(ch, bed):
    _, held, _ = ch.texts(bed)
    said = ch.speaker(
        bed, {"layers": 0, "width": 0, "state": {"logits": torch.arange(bed.vocabulary).float()}}
    )(held)
    assert said.shape == (len(held.targets), bed.vocabulary) and (said == said[0]).all()


# ------------------------------------------------------------------------ controls and probes


@pytest.mark.parametrize("amount", [0.05, 0.3, 0.8])
def test_smoothing_is_found_from_its_entropy(ch, amount):
    p = amount / 12 + (1 - amount) * np.eye(12)[0]
    assert ch.smoothing(-(p * np.log(p)).sum(), 12) == pytest.approx(amount, abs=1e-6)
    assert ch.smoothing(0.0, 12) == pytest.approx(0, abs=1e-6)


def test_probes_ask_about_the_verb(ch, bed):
    language = bed.corpus
    sentences = [x for x in language.sentences(60) if len(x.words) < bed.length - 1]
    rows = ch.framed(language, sentences, bed.length)
    assert rows.shape == (len(sentences), bed.length) and (rows[:, 0] == 2).all() and (rows[:, 1:] >= 5).all()
    for row, x in zip(rows, sentences, strict=True):
        assert language.vocabulary[row[x.verb + 1]] == x.words[x.verb]
    found = ch.probes(0, bed, dict(ch.network(bed).state_dict()), 8)
    assert set(found) == {"agreement", "grammaticality"} and all(0 <= v <= 100 for v in found.values())


def test_grammaticality_stands_in_for_glue(ch, bed):
    recipe = ch.FineTuning(1, 32, 1e-3, bed.length)
    score = ch.fine_tuned(0, bed, 0, 0, dict(ch.network(bed).state_dict()), "grammaticality", recipe)
    assert 0 <= score <= 100


# ------------------------------------------------------------------------ further closed forms


def test_mass_on_impossible_words_costs_linearly(ch):
    best = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for eps in (0.02, 0.2):
        told = torch.tensor([[1 - eps, eps]], dtype=torch.float64)
        for w in (0.25, 1.0, 4.0):
            assert ch.floor(best, told, w) == pytest.approx(-math.log(1 - w * eps / (1 + w)))
    # Among possible words it is quadratic: half the error, a quarter of the loss.
    best = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    told = torch.tensor([[0.52, 0.48]], dtype=torch.float64)
    assert ch.floor(best, told, 1.0) == pytest.approx(ch.excess(best, told) / 4, rel=0.01)


def test_label_smoothing_has_a_floor_too(ch):
    e, best = 0.2, torch.tensor([[0.7, 0.3, 0.0, 0.0]], dtype=torch.float64)
    smoothed = (1 - e) * best + e / 4
    uniform = torch.full_like(best, 0.25)
    assert ch.floor(best, uniform, e / (1 - e)) == pytest.approx(ch.excess(best, smoothed))


def test_gradients_at_a_temperature_are_finite_differences(ch):
    z, y, w = logits()
    lesson, h = ch.Lesson(2.0, tau=3.0, squared=True), 1e-6

    def loss(z):
        hard, soft = ch.hard_and_soft(z, y, w, lesson.tau)
        return hard + 2.0 * lesson.tau**2 * soft

    (gradient,) = torch.autograd.grad(loss(z), z)
    for i, j in ((0, 0), (3, 5), (6, 8)):
        step = torch.zeros_like(z)
        step[i, j] = h
        found = ((loss(z + step) - loss(z - step)) / (2 * h)).item()
        assert found == pytest.approx(gradient[i, j].item(), rel=1e-4)


def test_a_small_student_gets_the_first_layers(ch, bed, teachers):
    assert ch.layer_map(4, 2) == [0, 1]
    start = ch.begin(bed, ch.Lesson(layers=1, start="remapped"), 5, teachers[0]["deep"])
    deep = ch.trained(bed, teachers[0]["deep"])
    assert len(start.layers) == 1 and same(start.layers[0].state_dict(), deep.layers[0].state_dict())
