"""Chapter 09's method cells against oracles: sums written out, closed forms, and trainings step by step."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nbpkg import chapters
from nbpkg.data.masking import Batches
from nbpkg.data.synthetic.language import Language
from nbpkg.data.tokens import MASK
from nbpkg.nets import distil
from nbpkg.nets.bert_train import Recipe, clip, linear_warmup_decay, optimisers, take_step
from nbpkg.nets.together import Together

pytestmark = pytest.mark.usefixtures("one_thread")
LANGUAGE = Language(classes=2, nouns=2, verbs=2, adjectives=2)
ALONE = ("none", "0", "random")


@pytest.fixture(scope="module")
def ch():
    return chapters.load("09_weak_teacher")


@pytest.fixture(scope="module")
def bed(ch):
    sizes = {"2x8": (2, 8, 1.0), "1x16": (1, 16, 1.0), "stopped": (2, 16, 0.25)}
    return ch.Bed("test", (2, 16), sizes, 12, 4, 0.02, LANGUAGE.size, LANGUAGE, 12, held=20, few=6, exact=3)


@pytest.fixture(scope="module")
def teachers(ch, bed):
    return ch.train_teachers(bed, [0, 1], "cpu")


def logits(n=7, v=9, seed=0):
    z, t = 2 * torch.randn(2, n, v, generator=torch.Generator().manual_seed(seed)).double()
    return z.requires_grad_(), torch.arange(n) * 4 % v, t.requires_grad_()


# ------------------------------------------------------------------------ losses


def test_losses_are_the_sums_written_out(ch):
    z, y, t = logits()
    hard = soft = 0.0
    for row, word, said in zip(z.tolist(), y.tolist(), t.tolist(), strict=True):
        p, q = ([math.exp(x) / sum(map(math.exp, r)) for x in r] for r in (row, said))
        hard -= math.log(p[word]) / len(y)
        soft += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True)) / len(y)
    assert [x.item() for x in ch.hard_and_soft(z, y, t)] == pytest.approx([hard, soft])
    for ours, packages in zip(ch.hard_and_soft(z, y, t), distil.losses(z, y, t), strict=True):
        assert ours.item() == pytest.approx(packages.item(), rel=1e-5)


def test_losses_keep_leading_dimensions_apart(ch):
    some = [logits(seed=i) for i in range(3)]
    z, y, t = (torch.stack(parts) for parts in zip(*some, strict=True))
    for both, alone in zip(zip(*ch.hard_and_soft(z, y, t), strict=True), some, strict=True):
        torch.testing.assert_close(torch.stack(both), torch.stack(ch.hard_and_soft(*alone)))


def test_the_direction_is_from_the_teacher_and_no_gradient_reaches_it(ch):
    z, y, t = logits()
    soft = ch.hard_and_soft(z, y, t)[1]
    right, wrong = (
        F.kl_div(b.log_softmax(-1), a.softmax(-1), reduction="batchmean").item() for a, b in ((t, z), (z, t))
    )
    assert soft.item() == pytest.approx(right) and soft.item() != pytest.approx(wrong)
    sum(ch.hard_and_soft(z, y, t)).backward()
    assert t.grad is None and z.grad is not None


def test_the_loss_is_a_cross_entropy_with_the_mixture(ch):
    z, y, t = logits()
    hard, soft = ch.hard_and_soft(z, y, t)
    q = t.detach().softmax(-1)
    entropy = -(q * q.log()).sum(-1).mean()
    for w in (0.25, 1.0, 4.0):
        mixed = (F.one_hot(y, 9) + w * q) / (1 + w)
        cross = -(mixed * z.log_softmax(-1)).sum(-1).mean()
        assert ((hard + w * (soft + entropy)) / (1 + w)).item() == pytest.approx(cross.item())


def test_schedules(ch):
    due = {"0": [0, 0, 0, 0], "1": [1, 1, 1, 1], "4": [4, 4, 4, 4], "4 to 1": [4, 3.25, 2.5, 1]}
    due["4 to 0"] = [4, 2, 0, 0]
    assert {k: [ch.weight(k, t) for t in (0, 0.25, 0.5, 1)] for k in ch.SCHEDULES} == due


# ------------------------------------------------------------------------ starts


@pytest.mark.parametrize(("few", "many", "due"), [(4, 6, [0, 1, 2, 3, 3, 3]), (1, 2, [0, 0]), (2, 2, [0, 1])])
def test_remapping_is_the_papers_rule(ch, bed, few, many, due):
    teacher, names = ch.network(bed, few, 16, 3), ch.network(bed, many, 16, 4).state_dict()
    state, found = teacher.state_dict(), ch.remap(teacher.state_dict(), names)
    assert found.keys() == names.keys()
    for name, value in found.items():
        kind, *rest = name.split(".", 2)
        source = f"layers.{due[int(rest[0])]}.{rest[1]}" if kind == "layers" else name
        assert torch.equal(value, state[source])


def test_students_begin_by_their_seed_or_from_their_own_teacher(ch, bed, teachers):
    fresh = ch.begin(bed, ("2x8", "1", "random"), 5, 1, teachers).state_dict()
    assert all(torch.equal(v, fresh[k]) for k, v in ch.network(bed, 2, 16, 5).state_dict().items())
    started = ch.begin(bed, ("1x16", "1", "remapped"), 5, 1, teachers).state_dict()
    assert torch.equal(started["tokens.weight"], teachers["1x16"][1]["tokens.weight"])


# ------------------------------------------------------------------------ training


def by_hand(ch, bed, arm, seed, at, teachers):
    """One student trained by itself, each loss with an index of steps."""
    nets = Together([ch.begin(bed, arm, seed, at, teachers)], "cpu")
    rows = ch.texts(bed, [seed]).train[0]
    batches, update = Batches(rows, bed.vocabulary, bed.batch, seed, 0.3), optimisers(nets, bed.lr)
    block = batches.block(0)
    voice = None
    if arm[0] != "none":
        voice = ch.network(bed, *bed.teachers[arm[0]][:2])
        voice.load_state_dict(teachers[arm[0]][at])
    for step in range(bed.steps):
        z = nets(block.inputs[step][None], block.positions[step][None])[0]
        loss = F.cross_entropy(z, block.targets[step])
        if voice is not None:
            with torch.no_grad():
                t = voice(block.inputs[step], block.positions[step])
            w = ch.weight(arm[1], step / (bed.steps - 1))
            loss = loss + w * F.kl_div(z.log_softmax(-1), t.softmax(-1), reduction="batchmean")
        loss.backward()
        clip(nets)
        for one in update:
            take_step(one, linear_warmup_decay(step, bed.steps))
    return nets.states()[0]


def test_students_side_by_side_are_students_alone(ch, bed, teachers):
    """Every arm and seed has its own teacher, weight and text, whoever is trained beside it."""
    arms = [ALONE, ("2x8", "4 to 1", "random"), ("1x16", "1", "remapped"), ("2x8", "4 to 0", "random")]
    material = ch.texts(bed, [0, 1])
    nets, looks = ch.teach(bed, arms, [0, 1], teachers, "cpu", material)
    states = nets.states()
    for number, (arm, seed) in enumerate((arm, seed) for arm in arms for seed in (0, 1)):
        due = by_hand(ch, bed, arm, seed, seed, teachers)
        for name, value in due.items():
            torch.testing.assert_close(states[number][name], value, rtol=1e-3, atol=1e-4)
    assert len(looks) == ch.LOOKS + 1 == len(ch.marks(bed))
    few, every = (len(part.targets) for part in (material.held.rows(0, 6), material.held))
    assert looks[0].shape == (8, few) and looks[-1].shape == (8, every)


def test_a_weight_of_nothing_is_no_teacher(ch, bed, teachers):
    arms, material = [ALONE, ("2x8", "0", "random")], ch.texts(bed, [1])
    states = ch.teach(bed, arms, [1], {"2x8": teachers["2x8"][1:]}, "cpu", material)[0].states()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=1e-5)


def test_teachers_are_trained_away_from_students_and_stopped_ones_shortly(ch, bed, teachers):
    assert set(teachers) == set(bed.teachers) and all(len(states) == 2 for states in teachers.values())
    shortly = ch.replace(bed, steps=3)
    nets = Together([ch.network(bed, 2, 16, ch.AWAY)], "cpu")
    rows = ch.texts(bed, [0]).train
    ch.pretrain([nets], rows, [ch.AWAY], Recipe(shortly.steps, bed.batch, bed.lr))
    for name, value in nets.states()[0].items():
        torch.testing.assert_close(teachers["stopped"][0][name], value, rtol=1e-3, atol=1e-4)


def test_twenty_passes_have_a_twentieth_of_the_rows(ch, bed):
    once, often = (ch.texts(ch.replace(bed, steps=100, passes=n), [0]).train[0] for n in (1, 20))
    assert len(once) == 400 and len(often) == 20 and np.array_equal(once[:20], often)


def test_hidden_verbs_are_balanced_and_stand_where_it_says(ch):
    rows = np.random.default_rng(0).integers(5, 12, (80, 10)).astype(np.uint16)
    found = ch.hidden_verbs(rows, np.array([[5, 6], [7, 8]]), most=30)
    places = found.positions % 10
    assert (found.inputs.flatten()[found.positions] == MASK).all() and (places >= 0).all()
    assert ((found.inputs == MASK).sum(1) == 1).all()
    for one, other in ((5, 6), (7, 8)):
        assert 0 < (found.targets == one).sum() == (found.targets == other).sum() <= 30
    whole = found.inputs.flatten().index_put((found.positions,), found.targets).view(-1, 10)
    assert all(any(torch.equal(row, torch.as_tensor(r.astype(np.int64))) for r in rows) for row in whole)


# ------------------------------------------------------------------------ the floor


def answers(seed=1, n=4, v=6):
    return (2 * torch.randn(2, n, v, generator=torch.Generator().manual_seed(seed))).double().softmax(-1)


def test_the_mixture_is_the_minimum_of_the_expected_loss(ch):
    best, p = answers(n=1)
    for w in (0.5, 1.0, 4.0):
        free = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
        exact = {"tolerance_grad": 1e-12, "tolerance_change": 1e-15, "line_search_fn": "strong_wolfe"}
        lbfgs = torch.optim.LBFGS([free], max_iter=200, **exact)

        def closure(free=free, w=w, lbfgs=lbfgs):
            lbfgs.zero_grad()
            loss = -((best + w * p) * free.log_softmax(-1)).sum()
            loss.backward()
            return loss

        lbfgs.step(closure)
        least = ch.excess(best, free.detach().softmax(-1))
        assert ch.floor(best, p, w).item() == pytest.approx(least.item(), abs=1e-6)


def test_the_floor_rises_from_nothing_to_the_teachers_excess_below_its_bound(ch):
    best, p = answers()
    own, ws = ch.excess(best, p), (0.0, 0.25, 1.0, 4.0, 64.0)
    found = [ch.floor(best, p, w).item() for w in ws]
    assert found[0] == pytest.approx(0, abs=1e-12) and found == sorted(found)
    assert ch.floor(best, p, 1e9).item() == pytest.approx(own.item(), rel=1e-6)
    assert all(x <= w / (1 + w) * own + 1e-12 for x, w in zip(found, ws, strict=True))


def test_excess_is_the_divergence_and_knows_impossible_words(ch):
    best, p = answers()
    assert ch.excess(best, p).item() == pytest.approx(F.kl_div(p.log(), best, reduction="batchmean").item())
    toy = torch.tensor([[[0.5, 0.5, 0.0]], [[0.4, 0.4, 0.2]]], dtype=torch.float64)
    assert ch.floor(*toy, 1.0).item() == pytest.approx(math.log(10 / 9))
    assert ch.excess(best.expand(3, 4, 6), p.expand(3, 4, 6)).shape == (3,)
