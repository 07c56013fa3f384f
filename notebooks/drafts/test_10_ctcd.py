"""Chapter 10's method cells against oracles: sums written out, autograd, roots, training loops by hand."""

import math
import types

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch.nn import functional as F

from nbpkg import chapters
from nbpkg.data.masking import Batches, Masked, held_out, side_by_side
from nbpkg.data.synthetic.language import Language
from nbpkg.data.tokens import CLS, MASK
from nbpkg.nets.bert import BertConfig, bert
from nbpkg.nets.bert_train import Recipe, held_out_losses, linear_warmup_decay, pretrain
from nbpkg.nets.downstream import agreement
from nbpkg.nets.muon import Muon
from nbpkg.nets.together import Together

pytestmark = pytest.mark.usefixtures("one_thread")

LANGUAGE = Language(classes=2, nouns=2, verbs=2, adjectives=2)
V, LENGTH, STEPS = LANGUAGE.size, 12, 4
RECIPE = Recipe(STEPS, 4, 0.01)
SIZES = {"large": (2, 16), "small": (1, 16), "narrow": (1, 8)}
BED = dict(
    language=LANGUAGE, vocabulary=V, numbers=LANGUAGE.verb_numbers, heads=2, sizes=SIZES, length=LENGTH,
    held=LANGUAGE.rows(40, LENGTH, seed=10_000), recipe=RECIPE, device="cpu",
    passes={"fresh": 1, "twenty": 2, "scarce": 4},
)  # fmt: skip


@pytest.fixture(scope="module")
def ch():
    return chapters.load("10_ctcd")


@pytest.fixture(scope="module")
def more(ch):
    """The method, and the chapter's folded functions beside it: texts, networks, training, groups."""
    module = types.ModuleType("ctcd")
    vars(module).update(vars(ch))
    names = ("spliced", "networks", "learner", "train", "run")
    for cell in chapters.cells("10_ctcd"):
        if cell.kind == "code" and any(f"def {name}(" in cell.source for name in names):
            exec(compile(cell.source, "<chapter 10>", "exec"), vars(module))
    return module


def logits(n=7, v=11, seed=0):
    g = torch.Generator().manual_seed(seed)
    z = [2 * torch.randn(n, v, generator=g, dtype=torch.float64) for _ in range(2)]
    return [x.requires_grad_() for x in z], torch.randint(0, v, (n,), generator=g)


def written_out(z, w, tau=1.0):
    """Mean over places of KL(softmax(w / tau) || softmax(z / tau)), number by number."""
    total = 0.0
    for a, b in zip(z.tolist(), w.tolist(), strict=True):
        p, q = ([math.exp(x / tau) for x in row] for row in (a, b))
        p, q = ([x / sum(row) for x in row] for row in (p, q))
        total += sum(y * (math.log(y) - math.log(x)) for x, y in zip(p, q, strict=True))
    return total / len(z)


def entropy(p):
    return torch.special.entr(p.double()).sum(-1)


# ------------------------------------------------------------------------ losses


@pytest.mark.parametrize("tau", [1.0, 2.0, 5.0])
def test_both_losses_are_the_sums_written_out(ch, tau):
    (a, b), y = logits()
    assert ch.soft_loss(a, b, tau).item() == pytest.approx(written_out(a, b, tau), rel=1e-12)
    assert ch.soft_loss(a, a + 3.0, tau).item() == pytest.approx(0, abs=1e-12)
    found = ch.pair_losses([a, b], y, (0.3, 1.7), tau)
    for loss, own, other, weight in zip(found, (a, b), (b, a), (0.3, 1.7), strict=True):
        hard = -sum(math.log(row.detach().softmax(0)[i]) for row, i in zip(own, y, strict=True)) / len(y)
        assert loss.item() == pytest.approx(hard + weight * tau**2 * written_out(own, other, tau), rel=1e-9)
    assert ch.soft_loss(a, b).item() == ch.soft_loss(a, b, 1.0).item()
    assert ch.pair_losses([a, b], y, (1, 1))[0].item() == ch.pair_losses([a, b], y, (1, 1), 1.0)[0].item()


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_no_gradient_crosses(ch, tau):
    z, y = logits()
    losses = ch.pair_losses(z, y, (1.0, 1.0), tau)
    for i in range(2):
        crossed = torch.autograd.grad(losses[i], z[1 - i], retain_graph=True, allow_unused=True)[0]
        assert crossed is None
    both = torch.autograd.grad(sum(losses), z)
    for i, (own, other) in enumerate(zip(z, z[::-1], strict=True)):
        pull = own.softmax(-1) - F.one_hot(y, own.shape[-1])
        pull = pull + tau * ((own / tau).softmax(-1) - (other / tau).softmax(-1))
        torch.testing.assert_close(both[i], (pull / len(y)).detach())


def test_tau_squared_keeps_the_size_of_soft_gradients(ch):
    norms = []
    for tau in (1.0, 8.0, 32.0):
        z, y = logits()
        soft, hard = (ch.pair_losses(z, y, (w, 0.0), tau)[0] for w in (1.0, 0.0))
        norms.append(torch.autograd.grad(soft - hard, z[0])[0].norm().item())
    assert max(norms[1:]) < 1.1 * min(norms[1:]) and 0.1 < norms[2] / norms[0] < 10


@pytest.mark.parametrize("weight", [0.3, 1.0, 4.0])
def test_hard_and_soft_are_one_cross_entropy_against_a_mixture(ch, weight):
    z, y = logits()
    for i in range(2):
        p = z[1 - i].softmax(-1).detach()
        crossed = -((F.one_hot(y, p.shape[-1]) + weight * p) * z[i].log_softmax(-1)).sum(-1).mean()
        due = crossed - weight * entropy(p).mean()
        found = ch.pair_losses(z, y, (weight, weight))[i]
        torch.testing.assert_close(found, due)
        # Up to the factor 1 + weight it is the loss of a label that is a distribution.
        torch.testing.assert_close(torch.autograd.grad(found, z[i])[0], torch.autograd.grad(due, z[i])[0])


# ------------------------------------------------------------------------ whom to listen to instead


@pytest.mark.parametrize("v", [3, 9, 40])
def test_smoothed_labels_solve_for_the_entropy_of_each_place(ch, v):
    g = torch.Generator().manual_seed(v)
    z = torch.randn(10, v, generator=g) * torch.tensor([0.3, 1, 2, 4, 6] * 2)[:, None]
    targets = torch.randint(0, v, (2, 5), generator=g)  # two seeds
    p = ch.smoothed(z, targets).exp().double()
    torch.testing.assert_close(p.sum(-1), torch.ones(10).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy(p), entropy(z.double().softmax(-1)), atol=2e-5, rtol=1e-4)
    for row, true, wanted in zip(p, targets.flatten(), entropy(z.double().softmax(-1)).tolist(), strict=True):

        def excess(rest, wanted=wanted):
            q = np.array([1 - rest] + [rest / (v - 1)] * (v - 1))
            return -(q * np.log(q)).sum() - wanted

        rest = brentq(excess, 1e-12, 1 - 1 / v, xtol=1e-13)
        due = torch.full((v,), rest / (v - 1), dtype=torch.float64)
        due[true] = 1 - rest
        torch.testing.assert_close(row, due, atol=2e-4, rtol=1e-3)
        assert row.argmax() == true


def test_smoothed_labels_at_the_ends_are_finite(ch):
    z, y = torch.zeros(2, 5), torch.tensor([[1, 3]])
    z[0, 2] = 200.0  # sure of a wrong word: the label is sure of the true one
    log_p = ch.smoothed(z, y)
    assert log_p.isfinite().all() and log_p[0].exp()[1] > 0.9999
    torch.testing.assert_close(log_p[1].exp(), torch.full((5,), 0.2), atol=1e-3, rtol=0)


@pytest.mark.parametrize("n", [1, 6, 40])
def test_shuffled_moves_within_equal_words_of_one_seed(ch, n):
    g = torch.Generator().manual_seed(n)
    targets = torch.randint(0, 7, (2, n), generator=g)
    y, z = targets.flatten(), torch.arange(2.0 * n)[:, None].expand(-1, 7)  # a row is its number
    source = ch.shuffled(z, targets)
    assert source.shape == z.shape and all(torch.equal(source[:, 0], column) for column in source.T)
    source = source[:, 0].long()
    assert sorted(source.tolist()) == list(range(2 * n))
    assert torch.equal(y[source], y) and torch.equal(source // n, torch.arange(2 * n) // n)
    twice = torch.stack([(targets[i // n] == y[i]).sum() > 1 for i in range(2 * n)])
    assert torch.equal(source != torch.arange(2 * n), twice)


@pytest.mark.parametrize("word", [0, 6])
def test_shuffled_takes_the_next_place_and_the_first_after_the_last(ch, word):
    targets = torch.tensor([[word, 3, word, word, 3], [word, 3, 3, word, 5]])
    source = ch.shuffled(torch.arange(10.0)[:, None].expand(-1, 7), targets)[:, 0]
    assert source.tolist() == [2, 4, 3, 0, 1, 8, 7, 6, 5, 9]
    alike = ch.shuffled(torch.arange(4.0)[:, None].expand(-1, 7), torch.full((1, 4), word))[:, 0]
    assert alike.tolist() == [1, 2, 3, 0]


# ------------------------------------------------------------------------ arms


def one_batch(n=6, seeds=2, v=11):
    """Logits of two models, their batch, and two frozen networks that answer by a table of their own."""
    g = torch.Generator().manual_seed(3)
    z = [torch.randn(seeds * n, v, generator=g).requires_grad_() for _ in range(2)]
    tables = [torch.randn(seeds, n, v, generator=g).requires_grad_() for _ in range(2)]
    batch = Masked(torch.zeros(seeds, 4), torch.zeros(seeds, n), torch.randint(0, 4, (seeds, n), generator=g))
    return z, batch, tables, [lambda inputs, positions, t=t: t * 1.0 for t in tables]


def test_the_loss_of_arms_is_their_sum_and_indexes_reach_frozen_teachers(ch):
    z, batch, tables, frozen = one_batch()
    y = batch.targets.flatten()
    hard = sum(F.cross_entropy(own, y) for own in z)
    alone = [(None, "own", 1.0, 1.0)] * 2
    torch.testing.assert_close(ch.arm_loss(alone)(z, batch, 0.5), hard)
    known = [*z, *(t.flatten(0, 1) for t in tables)]
    for labels, make in {"own": lambda z, y: z, "smoothed": ch.smoothed, "shuffled": ch.shuffled}.items():
        for teacher in range(4):
            for at in range(2):
                learners = [*alone]
                learners[at] = (teacher, labels, 0.7, 1.0)
                due = hard + 0.7 * ch.soft_loss(z[at], make(known[teacher].detach(), batch.targets))
                found = ch.arm_loss(learners, frozen)(z, batch, 1.0)
                torch.testing.assert_close(found, due)
    total = ch.arm_loss([(2, "own", 1.0, 1.0), (3, "own", 1.0, 1.0)], frozen)(z, batch, 0.0)
    assert torch.autograd.grad(total, tables, allow_unused=True) == (None, None)


@pytest.mark.parametrize("labels", ["own", "smoothed", "shuffled"])
def test_teachers_of_an_arm_receive_no_gradient(ch, labels):
    z, batch, *_ = one_batch()
    total = ch.arm_loss([(1, labels, 1.0, 1.0), (None, "own", 1.0, 1.0)])(z, batch, 0.0)
    (found,) = torch.autograd.grad(total, z[1])
    (due,) = torch.autograd.grad(F.cross_entropy(z[1], batch.targets.flatten()), z[1])
    torch.testing.assert_close(found, due)


def test_no_graph_is_kept_of_what_teachers_say(ch, monkeypatch):
    z, batch, tables, _ = one_batch()
    seen = []

    def frozen(inputs, positions):
        seen.append(torch.is_grad_enabled())
        return tables[0] * 1.0

    monkeypatch.setitem(ch.LABELS, "own", lambda given, y: seen.append(given.requires_grad) or given)
    ch.arm_loss([(1, "own", 1.0, 1.0), (2, "own", 1.0, 1.0)], [frozen])(z, batch, 0.0)
    assert seen == [False] * 3


@pytest.mark.parametrize("until", [0.0, 0.5, 1.0])
def test_a_teacher_is_heard_until_its_time(ch, until):
    z, batch, *_ = one_batch()
    learners = [(1, "own", 1.0, until), (None, "own", 1.0, 1.0)]
    hard = sum(F.cross_entropy(own, batch.targets.flatten()) for own in z)
    for progress in (0.0, 0.25, 0.5, 0.51, 1.0):
        heard = ch.arm_loss(learners)(z, batch, progress) - hard
        assert (heard.item() > 0.01) == (progress <= until)


def fit(ch, learners, sizes, seeds=(5,), known=()):
    """Models of the sizes after a few steps, and the networks that only answered."""
    models = [Together([bert(config(*size), i) for i in seeds], "cpu") for size in sizes]
    texts = [LANGUAGE.rows(16, LENGTH, seed) for seed in seeds]
    pretrain(models, texts, seeds, RECIPE, ch.arm_loss(learners, known))
    return [nets.states() for nets in models]


def config(layers, width):
    return BertConfig(V, layers, width, 2, LENGTH, "pre", 0.5 / width**0.5, "rotary")


def same(a, b):
    return all(
        one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
        for one, other in zip(a, b, strict=True)
    )


def near(a, b):
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        for k in one:
            torch.testing.assert_close(one[k], other[k], rtol=2e-3, atol=2e-4)


OFF = (None, "own", 1.0, 1.0)


def test_arms_that_listen_to_no_one_are_models_alone_bit_for_bit(ch):
    large, small = SIZES["large"], SIZES["small"]
    alone = [fit(ch, [OFF], [size])[0] for size in (large, small)]
    together = fit(ch, [OFF, OFF], [large, small])
    one_way = fit(ch, [OFF, (0, "own", 1.0, 1.0)], [large, small])
    both = fit(ch, [(1, "own", 1.0, 1.0), (0, "own", 1.0, 1.0)], [large, small])
    assert same(together[0], alone[0]) and same(together[1], alone[1])
    assert same(one_way[0], alone[0]) and not same(one_way[1], alone[1])
    assert not same(both[0], alone[0]) and not same(both[1], one_way[1])
    never = fit(ch, [(1, "own", 1.0, -1.0), OFF], [large, small])
    assert same(never[0], alone[0])
    half = fit(ch, [(1, "own", 1.0, 0.5), (0, "own", 1.0, 1.0)], [large, small])
    assert not same(half[0], both[0]) and not same(half[0], alone[0])


def by_hand(seed, sizes, weights):
    """Co-training of one seed with plain modules: mixtures as targets, norms clipped model by model."""
    nets = [bert(config(*size), seed) for size in sizes]
    update = []
    for net in nets:
        named = dict(net.named_parameters())
        matrices = [p for k, p in named.items() if p.dim() == 2 and k != "tokens.weight"]
        free = [p for p in named.values() if p.dim() == 1]
        groups = [
            dict(params=[named["tokens.weight"]], weight_decay=0.01),
            dict(params=free, weight_decay=0.0),
        ]
        stacked = [torch.nn.Parameter(p.detach()[None].clone()) for p in matrices]
        update.append((torch.optim.AdamW(groups, RECIPE.lr), Muon(stacked, RECIPE.lr), matrices, stacked))
    batches = Batches(LANGUAGE.rows(16, LENGTH, seed), V, RECIPE.batch, seed, RECIPE.rate)
    for step, x in enumerate(side_by_side([batches], STEPS, "cpu")):
        z, y = [net(x.inputs[0], x.positions[0]) for net in nets], x.targets[0]
        for own, other, weight in zip(z, z[::-1], weights, strict=True):
            target = F.one_hot(y, V) + weight * other.softmax(-1).detach()
            (-(target * own.log_softmax(-1)).sum(-1).mean()).backward(retain_graph=True)
        for net, (adam, muon, matrices, stacked) in zip(nets, update, strict=True):
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            for p, q in zip(matrices, stacked, strict=True):
                q.grad = p.grad[None].clone()
            for one in (adam, muon):
                for group in one.param_groups:
                    group["lr"] = RECIPE.lr * linear_warmup_decay(step, STEPS)
                one.step()
            with torch.no_grad():
                for p, q in zip(matrices, stacked, strict=True):
                    p.copy_(q[0])
            net.zero_grad()
    return [[net.state_dict()] for net in nets]


def test_co_training_is_a_plain_loop_over_mixtures(ch):
    sizes = [SIZES["large"], SIZES["small"]]
    made = fit(ch, [(1, "own", 0.6, 1.0), (0, "own", 1.3, 1.0)], sizes)
    for found, due in zip(made, by_hand(5, sizes, (0.6, 1.3)), strict=True):
        near(found, due)


def test_frozen_teachers_do_not_change(ch):
    frozen = Together([bert(config(*SIZES["large"]), 40)], "cpu")
    before = frozen.states()
    taught = fit(ch, [(1, "own", 1.0, 1.0)], [SIZES["small"]], known=[frozen])
    assert same(frozen.states(), before) and all(p.grad is None for p in frozen.parameters())
    assert not same(taught[0], fit(ch, [OFF], [SIZES["small"]])[0])


# ------------------------------------------------------------------------ texts and networks


def sentences(row, stop):
    """Sentences of a row after its first token, the last one too where it is cut."""
    parts = np.split(row[1:], np.flatnonzero(row[1:] == stop) + 1)
    return [tuple(part.tolist()) for part in parts if len(part)]


def test_spliced_rows_are_whole_sentences_of_the_text(more):
    (stop,) = LANGUAGE.encode([["."]])[0]
    rows = LANGUAGE.rows(20, 24, seed=3)
    whole = {s for row in rows for s in sentences(row, stop) if s[-1] == stop}
    made = more.spliced(rows, 300, stop, seed=1)
    assert made.shape == (300, 24) and made.dtype == rows.dtype and (made[:, 0] == CLS).all()
    for row in made:
        *inside, last = sentences(row, stop)
        assert all(s in whole for s in inside) and any(s[: len(last)] == last for s in whole)
    seen = {s for row in made for s in sentences(row, stop)}
    assert {s for s in whole if len(s) <= 23} <= seen  # each is drawn, short ones and long ones
    assert len(np.unique(made, axis=0)) > 250
    assert np.array_equal(made, more.spliced(rows, 300, stop, seed=1))
    assert not np.array_equal(made, more.spliced(rows, 300, stop, seed=2))


def test_texts_have_the_passes_that_they_are_named_for(more):
    bed = BED | {"recipe": Recipe(100, 4), "passes": {"fresh": 1, "twenty": 20, "scarce": 50}}
    for kind, count in {"fresh": 400, "twenty": 20, "scarce": 8}.items():
        rows = more.text_of(kind, 7, bed)
        assert np.array_equal(rows, LANGUAGE.rows(count, LENGTH, 7))
    assert len(more.text_of("scarce", 7, bed | {"recipe": Recipe(10, 4)})) == 4  # a batch at least
    (stop,) = LANGUAGE.encode([["."]])[0]
    made = more.text_of("augmented", 7, bed)
    assert np.array_equal(made, more.spliced(more.text_of("twenty", 7, bed), 400, stop, 7))
    given = LANGUAGE.rows(5, LENGTH, 1)
    assert more.text_of("English", 7, bed | {"language": None, "rows": given}) is given


def test_one_verb_is_hidden_in_each_row_that_has_one(more):
    numbers = LANGUAGE.verb_numbers
    rows = np.concatenate([LANGUAGE.rows(50, 20, seed=2), np.full((2, 20), LANGUAGE.encode([["the"]])[0][0])])
    hidden = more.verbs_hidden(rows, numbers)
    kept = [row for row in rows if numbers[row].any()]
    assert len(kept) == len(hidden) == len(hidden.positions) == len(hidden.targets) < len(rows)
    for i, row in enumerate(kept):
        (at,) = np.flatnonzero(hidden.inputs[i].numpy() != row)
        assert hidden.inputs[i, at] == MASK and hidden.positions[i] == 20 * i + at
        assert hidden.targets[i] == row[at] and numbers[row[at]] > 0 and not numbers[row[at + 1 :]].any()


def test_dropout_is_off_where_no_gradient_is_asked_for(more):
    plain = more.networks("large", [1, 2], BED)
    wet = more.networks("large", [1, 2], BED, dropout=True)
    x = held_out(BED["held"][:8], V)
    with torch.no_grad():
        due, found, again = (nets(x.inputs, x.positions, shared=True) for nets in (plain, wet, wet))
    assert torch.equal(found, due) and torch.equal(again, due)
    with more.seeded(0):
        moved, once_more = (wet(x.inputs, x.positions, shared=True) for _ in range(2))
        assert torch.equal(plain(x.inputs, x.positions, shared=True).detach(), due)
    assert not torch.equal(moved, once_more) and not torch.equal(moved, due)
    layer = more.DropoutLayer(config(1, 64))
    with more.seeded(0):
        for block in (lambda v: layer.attend(v, None), layer.feed):
            v = torch.randn(4, 12, 64)
            out = block(v)
            gone = (out == 0).float().mean().item()
            assert 0.05 < gone < 0.16
            with torch.no_grad():
                torch.testing.assert_close(out[out != 0].detach(), (block(v) / 0.9)[out.detach() != 0])


def test_networks_have_the_sizes_and_weights_that_are_given(more):
    for model, (layers, width) in SIZES.items():
        nets = more.networks(model, [3, 9], BED)
        assert same(nets.states(), [bert(config(layers, width), i).state_dict() for i in (3, 9)])
    given = [bert(config(*SIZES["small"]), i).state_dict() for i in (20, 21)]
    assert same(more.networks("small", [3, 9], BED, given).states(), given)


# ------------------------------------------------------------------------ training


def test_two_seeds_at_once_are_each_alone(more):
    learners = more.GROUPS["CTCD"]
    both = more.train([3, 4], learners, "twenty", BED, (0.5, 1.0))
    rows = []
    for at, seed in enumerate((3, 4)):
        alone = more.train([seed], learners, "twenty", BED, (0.5, 1.0))
        near([model[at] for model in both["states"]], [model[0] for model in alone["states"]])
        rows += alone["rows"]

    def ordered(found):
        return sorted(found, key=lambda row: row[:5])

    assert len(rows) == 8
    for a, b in zip(ordered(both["rows"]), ordered(rows), strict=True):
        assert a[:5] == b[:5] and a[5:] == pytest.approx(b[5:], rel=2e-3)


def test_rows_of_a_training_say_what_its_models_are(more):
    made = more.train([3], more.GROUPS["CTCD"], "scarce", BED, (0.5, 1.0))
    names = [(row[:5]) for row in made["rows"]]
    assert names == [("scarce", "CTCD", m, share, 3) for share in (0.5, 1.0) for m in ("large", "small")]
    masked = held_out(BED["held"], V)
    for row, model, states in zip(made["rows"][2:], ("large", "small"), made["states"], strict=True):
        nets = more.networks(model, [3], BED, states)
        losses = held_out_losses(nets, masked)[0]
        few = len(losses) // 10
        verbs = more.verbs_hidden(BED["held"], BED["numbers"])
        due = (losses[few:].mean(), losses[:few].mean(), agreement(nets, verbs, BED["numbers"])[0])
        assert row[5:] == pytest.approx([float(x) for x in due], rel=1e-5)


def test_groups_are_the_arms_that_they_are_named_for(more):
    alone = more.train([3], more.GROUPS["alone, narrow"], "fresh", BED, (1.0,))
    both = more.train([3], more.GROUPS["CTCD"], "fresh", BED, (1.0,))
    parts = more.train([3], more.GROUPS["alone"], "fresh", BED, (1.0,))
    for a, b in zip(alone["states"], parts["states"], strict=False):
        assert same(a, b)
    assert not same(both["states"][0], alone["states"][0])
    again = more.train([3], more.GROUPS["smoothed"], "fresh", BED, (1.0,))
    assert same(again["states"][1], alone["states"][1])  # the teacher learns alone
    for group in more.GROUPS.values():
        for at, one in enumerate(group):
            assert one["teacher"] is None or (one["teacher"] != at and one["teacher"] <= len(group))


def test_a_known_teacher_only_answers(more):
    learners = more.GROUPS["frozen"]
    teachers = [bert(config(*SIZES["large"]), i).state_dict() for i in (70, 71)]
    made = more.train([3, 4], learners, "fresh", BED, (1.0,), ("large", teachers))
    due = [Together([bert(config(*SIZES["small"]), i)], "cpu") for i in (3, 4)]
    for at, (nets, state) in enumerate(zip(due, teachers, strict=True)):
        frozen = bert(config(*SIZES["large"]), 0)
        frozen.load_state_dict(state)

        def loss(z, batch, progress, frozen=frozen):
            with torch.no_grad():
                q = frozen(batch.inputs[0], batch.positions[0]).softmax(-1)
            y = batch.targets[0]
            return -((F.one_hot(y, V) + q) * z[0].log_softmax(-1)).sum(-1).mean()

        pretrain([nets], [LANGUAGE.rows(16, LENGTH, 3 + at)], [3 + at], RECIPE, loss)
        near([made["states"][0][at]], nets.states())


def test_ways_change_what_they_are_named_for(more, monkeypatch):
    seen = []

    def record(models, texts, seeds, recipe, loss, look, at):
        seen.append((recipe, [len(x) for x in texts], at))

    monkeypatch.setattr(more, "pretrain", record)
    for way in ("plain", "longer", "decay", "dropout"):
        more.train([3], more.GROUPS["decay"], "fresh", BED, (0.5, 1.0), way=way)
    plain, longer, decay, dropout = seen
    assert plain == dropout == (RECIPE, [16], {2, 4})
    assert longer == (Recipe(8, 4, 0.01), [32], {4, 8})
    assert decay == (Recipe(4, 4, 0.01, decay=3.0), [16], {2, 4})


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_run_gives_each_seed_its_own_teacher(more, device, monkeypatch):
    """`run` with a session that trains nothing: weights are named by group, model and seed."""
    calls, groups = [], {id(group): name for name, group in more.GROUPS.items()}

    def memo_each(name, function, asked, workers):
        assert function is more.train
        calls.extend(asked)
        made = []
        for one in asked:
            seeds, name = one["seeds"], f"{groups[id(one['learners'])]}, {one['kind']}"
            states = [[f"{name}, {at}, {i}" for i in seeds] for at in range(len(one["learners"]))]
            made.append({"rows": [(name, i) for i in seeds], "states": states})
        return made

    session = types.SimpleNamespace(device=torch.device(device), memo_each=memo_each)
    english, looks = BED | {"language": None}, {"twenty": (0.1, 1.0)}
    more_names = dict(s=session, LOOKS=looks, WORKERS=1, ROWS=[], FOUND={}, BED=BED, ENGLISH=english)
    more_names["SHORT"] = RECIPE
    for name, value in more_names.items():
        monkeypatch.setattr(more, name, value, raising=False)
    more.run([("alone, narrow", "fresh", [3, 4], None), ("longer", "twenty", [3], None)])
    more.run([("reversed", "fresh", [4, 3], ("small", 1)), ("CTCD", "English", [3], None)])
    assert more.FOUND["alone, narrow", "fresh", 4][1] == "alone, narrow, fresh, 1, 4"
    assert more.FOUND["CTCD", "English", 3] == ["CTCD, English, 0, 3", "CTCD, English, 1, 3"]
    assert len(more.ROWS) == 6
    for call in calls:
        group = groups[id(call["learners"])]
        assert call["way"] == ("longer" if group == "longer" else "plain")
        assert call["bed"] is (english if group == "CTCD" else BED)
        assert call["looks"] == ((0.1, 1.0) if call["kind"] == "twenty" else (0.5, 1.0))
        assert (len(call["seeds"]) == 1) or device == "cuda"
        assert ("known" in call) == (group == "reversed")
        if group == "reversed":
            assert call["known"] == ("small", [f"alone, narrow, fresh, 1, {i}" for i in call["seeds"]])
