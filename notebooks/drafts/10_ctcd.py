# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # CTCD: a large and a small language model that teach each other
#
# ## In short
#
# CTCD {cite:p}`lee2023ctcd` trains a large and a small language model together from nothing, on the same masked text.
# Each learns from the text and from the other's predictions.
#
# ![Diagram: one masked batch goes through a large and a small model; each has a hard loss against the hidden words and a soft loss against the other's predictions, and a stop-gradient stands on both arrows between them.](../book/_assets/ctcd-method.svg)
#
# <!-- held -->
# <!-- /held -->
#
# | | |
# |---|---|
# | You need | PyTorch, cross-entropy, knowledge distillation |
# | To read | 25 minutes |
# | To run | `smoke`: under a minute, offline; `standard`: resumable, on two CPU cores or a GPU |
# | Data | a generated language; for one section [WikiText-2 and the novels](../book/data.md) |
#
# The cells below show the settings of `smoke`; what is printed is of `standard`, which the run card at the end describes.
#
# After this chapter you can write a training step in which two networks are teacher and student at once, prove that no gradient crosses between them, and choose the comparison that each claim about co-training needs.

# %% tags=["install", "hide-input"]
try:
    import nbpkg
except ImportError:
    REPOSITORY = ""
    if not REPOSITORY:
        raise SystemExit(
            "nbpkg is missing: set REPOSITORY to the address of this book's repository"
        ) from None
    import subprocess
    import sys

    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", f"nbpkg @ git+{REPOSITORY}"], check=True
    )

# %% tags=["parameters"]
PROFILE = "smoke"  # smoke | standard | paper
SEEDS = [0]  # training seeds
DEVICE = "auto"  # auto | cpu | cuda

# %% tags=["imports", "hide-input"]
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from torch.nn import functional as F

from nbpkg import report
from nbpkg.data import text
from nbpkg.data.masking import Masked, held_out
from nbpkg.data.synthetic.language import Language
from nbpkg.data.synthetic.posterior import Posterior
from nbpkg.data.tokens import CLS, MASK, Tokenizer
from nbpkg.nets.bert import BertConfig, Layer, bert
from nbpkg.nets.bert_train import Recipe, held_out_losses, pretrain
from nbpkg.nets.downstream import FineTuning, agreement, glue_scores
from nbpkg.nets.together import Together
from nbpkg.report import plots
from nbpkg.seeding import seeded
from nbpkg.session import Session

# %% tags=["hide-input"]
s = Session("10_ctcd", profile=PROFILE, seeds=SEEDS, device=DEVICE)
plots.theme()
SMALL_LANGUAGE = dict(classes=2, nouns=2, verbs=2, adjectives=2)
LANGUAGE = Language(
    **s.choose(smoke=SMALL_LANGUAGE, standard=dict(nouns=5, verbs=8, adjectives=4))
)
SIZES = {"large": (4, 64), "small": (2, 64), "narrow": (2, 32)}  # layers and width
SIZES = s.choose(smoke={"large": (2, 16), "small": (1, 16), "narrow": (1, 8)}, standard=SIZES)
HEADS, LENGTH = s.choose(smoke=(2, 16), standard=(2, 32))  # tokens in a row
RECIPE = s.choose(smoke=Recipe(24, 8, 0.01), standard=Recipe(1_600, 32, 0.01))
SHORT = replace(RECIPE, steps=RECIPE.steps // 2, lr=0.04)  # scarce text: best for large alone
PASSES = {"fresh": 1, "twenty": 20, "scarce": 150}  # over the text, in the steps of the recipe
HELD = s.choose(smoke=40, standard=2_000)  # rows on which models are judged
MOST = s.seeds[:3]  # of what no claim is about

# %% [markdown]
# ## The question, and a trivial answer
#
# *Knowledge distillation* trains a small network, the student, on the outputs of a large one, the teacher {cite:p}`hinton2015distilling`.
# The teacher is trained first and then held fixed, and the student usually ends below it.
# CTCD asks for more: both start from random weights, and each is the other's teacher.
# The abstract makes four claims.
#
# - **K1**: what the small model says makes the *large* one better than training alone does.
# - **K2**: the better large model then makes the *small* one better than distillation in one direction does.
# - **K3**: the small model ends above a large one that was trained alone; in the paper by 1.66 points of GLUE, a collection of language tasks.
# - **K4**: co-training can stand in for one-way distillation inside other recipes, such as another architecture or more data made from what there is, and adds to them.
#
# Of the paper only title and abstract could be had; its body and its tables could not.
# So the equations are *reconstructed*, from the abstract, from the sister paper by the same authors {cite:p}`lee2023weakteacher` and from the code of an independent replication.
# Another replication, which fine-tuned public models, found by its author's summary that co-training did no better than ordinary distillation.
#
# A masked language model reads a row of words of which some are hidden, and gives every word a probability at each hidden place.
# **Quality** is its *held-out loss*: the mean of $-\log p(\text{the word that stood there})$ over hidden places of text that no model trained on, in nats.
# A model that is pre-trained in a minute learns little English, so most of the chapter uses a generated language: nouns have classes that decide which verbs are likely, and subjects agree with their verbs in number across whatever stands between.
# Its grammar is known, and so is the best possible answer at every place.
#
# A trivial answer is to know how frequent words are.

# %% tags=["nbval-check-output"]
for row in LANGUAGE.rows(2, LENGTH, seed=4):
    print(LANGUAGE.decode(row[1:]))
BENCH = held_out(LANGUAGE.rows(HELD, LENGTH, seed=10_000), LANGUAGE.size)
COUNTS = np.bincount(LANGUAGE.corpus(20_000, seed=8), minlength=LANGUAGE.size)
FREQUENCIES = -np.log(COUNTS / COUNTS.sum() + 1e-9)[BENCH.targets].mean()
part = BENCH.rows(0, HELD // 10)
OPTIMUM = -np.log(Posterior(LANGUAGE)(part)[range(len(part.targets)), part.targets]).mean()
print(f"held-out loss: {FREQUENCIES:.2f} nats of frequencies, {OPTIMUM:.2f} at best")

# %% [markdown]
# ## By hand: what a doubting partner does to a step
#
# Three words, one hidden place; the word that stood there is the first.
# The large model says $(0.7, 0.2, 0.1)$, the small one $(0.5, 0.25, 0.25)$.
# The gradient of $-\log p(\text{first})$ by the large model's logits is its prediction less the truth, $(-0.3, 0.2, 0.1)$.
# If the large model must come near the small one too, the difference of the two predictions is added, $(0.2, -0.05, -0.15)$.
# Together that is $(-0.1, 0.15, -0.05)$: the doubts of the small model take back two thirds of the pull towards the true word.

# %% tags=["nbval-check-output"]
large, small = (torch.tensor([p]).log() for p in ([0.7, 0.2, 0.1], [0.5, 0.25, 0.25]))
large.requires_grad_()
F.cross_entropy(large, torch.tensor([0])).backward()
print("from the text:  ", [round(x, 2) for x in large.grad[0].tolist()])
print(
    "from the partner:",
    [round(x, 2) for x in (large.softmax(1) - small.softmax(1))[0].tolist()],
)

# %% [markdown]
# A partner is a brake on certainty, place by place.
# A brake helps a model that is too sure, as one is that has seen the same text again and again; where text is plentiful it may only slow it down.
# Which of the two happens has to be measured.
#
# ## The method
#
# ### Two losses for each model
#
# Let $z_\ell$ and $z_s$ be the logits of the large and the small model at a hidden place, and $y$ the word that stood there.
# With a *temperature* $\tau$, $p^\tau = \operatorname{softmax}(z / \tau)$.
# Each model has a hard loss, and a soft loss that measures how far it is from the other:
#
# $$
# \begin{aligned}
# H_\ell &= -\log p_\ell(y), & S_\ell &= \operatorname{KL}\bigl(\operatorname{sg}[p_s^\tau] \,\Vert\, p_\ell^\tau\bigr) , \\
# H_s &= -\log p_s(y), & S_s &= \operatorname{KL}\bigl(\operatorname{sg}[p_\ell^\tau] \,\Vert\, p_s^\tau\bigr) .
# \end{aligned}
# $$ (eq-ctcd-losses)
#
# All are means over the hidden places of a batch.
# $\operatorname{sg}$ is the *stop-gradient*: what stands inside counts as a constant.
# Each model minimises its own sum:
#
# $$
# L_\ell = H_\ell + \lambda_{s \to \ell}\, \tau^2 S_\ell , \qquad
# L_s = H_s + \lambda_{\ell \to s}\, \tau^2 S_s .
# $$ (eq-ctcd-total)
#
# The *soft weights* $\lambda$ are one for each direction; both are 1 below, and $\tau = 1$.
# The factor $\tau^2$ keeps the soft gradients as large as they are at $\tau = 1$, nearly.


# %% tags=["method"]
def soft_loss(own, other, tau=1.0):
    """S of equation (eq-ctcd-losses): logits (n, words) of a model and of its partner."""
    log_q = (other.detach() / tau).log_softmax(-1)
    log_p = (own / tau).log_softmax(-1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def pair_losses(z, y, weights, tau=1.0):
    """Equation (eq-ctcd-total): (L large, L small) of both logits and the words y (n,)."""
    hard = [F.cross_entropy(own, y) for own in z]
    soft = [tau**2 * soft_loss(own, other, tau) for own, other in zip(z, z[::-1], strict=True)]
    return [h + w * x for h, w, x in zip(hard, weights, soft, strict=True)]


# %%
z = [large.detach().requires_grad_(), small.clone().requires_grad_()]
own, other = pair_losses(z, torch.tensor([0]), (1.0, 1.0))
assert torch.autograd.grad(own, z[1], retain_graph=True, allow_unused=True)[0] is None
moved = torch.autograd.grad(own + other, z[0])[0]
assert torch.allclose(moved, torch.tensor([[-0.1, 0.15, -0.05]]), atol=1e-6)

# %% [markdown]
# The sum of both losses goes backward in one sweep, and its parts meet in no weight.
# The optimisers are apart, too, and gradients are clipped for each model by itself: clipped together, a spike in the large model's gradient would shorten the small one's step.
#
# ### A mixture in disguise
#
# At $\tau = 1$ hard and soft loss are one cross-entropy, against a mixture of the true word $e_y$ and the partner's opinion, less a constant:
#
# $$
# H_\ell + \lambda S_\ell = -\sum_v \bigl(e_y + \lambda\, p_s\bigr)_v \log p_\ell(v) \; - \; \lambda\, \mathcal{H}(p_s) ,
# $$ (eq-ctcd-mixture)
#
# with the entropy $\mathcal{H}$.
# *Label smoothing* has the uniform distribution in the place of $p_s$.
# So a partner is a label smoother that knows the sentence, and one question is whether a smoother that does not know it would do as well.

# %%
g = torch.Generator().manual_seed(0)
z = [2 * torch.randn(6, 9, generator=g) for _ in range(2)]
y = torch.randint(0, 9, (6,), generator=g)
p = z[1].softmax(-1)
mixture = F.one_hot(y, 9) + 0.7 * p
crossed = -(mixture * z[0].log_softmax(-1)).sum(-1).mean()
entropy = torch.special.entr(p).sum(-1).mean()
assert torch.isclose(pair_losses(z, y, (0.7, 1.0))[0], crossed - 0.7 * entropy, atol=1e-5)


# %% [markdown]
# ### Whom to listen to instead
#
# If the large model gains, is it because of what the small one *knows*?
# Two other teachers take that knowledge away.
#
# - *Smoothed*: the true word gets a probability, and all other words share the rest alike, such that the labels have the same entropy as the small model's at that place.
# - *Shuffled*: the small model's own distributions, but each place gets the one of another place of the batch with the same true word. They know which words are alike, and not the sentence.


# %% tags=["method"]
def smoothed(z, targets):
    """Log-probabilities that are as unsure as logits z (seeds * n, words), place by place."""
    words, entropy = z.shape[-1], torch.special.entr(z.softmax(-1)).sum(-1)
    low, high = torch.zeros_like(entropy), torch.full_like(entropy, 1 - 1 / words)
    for _ in range(30):  # halve the range of the rest that all but the true word share
        rest = (low + high) / 2
        spread = rest * math.log(words - 1) + torch.special.entr(
            torch.stack([rest, 1 - rest])
        ).sum(0)
        low, high = (
            torch.where(spread < entropy, rest, low),
            torch.where(spread < entropy, high, rest),
        )
    log_rest = (rest / (words - 1)).clamp_min(1e-12).log()[:, None].expand(-1, words)
    return log_rest.scatter(-1, targets.flatten()[:, None], (1 - rest).log()[:, None])


def shuffled(z, targets):
    """Logits, each place with those of the next one of its seed with the same true word."""
    seeds = torch.arange(len(targets), device=z.device)
    y = (targets + z.shape[-1] * seeds[:, None]).flatten()
    order = y.argsort(stable=True)
    kind = y[order]
    following = torch.arange(1, len(y) + 1, device=y.device) % len(y)
    first = torch.searchsorted(kind, kind)
    following = torch.where(kind[following] == kind, following, first)
    return z[torch.empty_like(order).scatter_(0, order, order[following])]


# %% [markdown]
# All arms below are one function: models side by side, each with the index of its teacher, or none.
# `frozen` are teachers that were trained before and only answer.

# %% tags=["method"]
LABELS = {"own": lambda z, targets: z, "smoothed": smoothed, "shuffled": shuffled}


def arm_loss(learners, frozen=()):
    """For `pretrain`: learners: (teacher, labels, soft weight, until when) of each."""

    def loss(z, batch, progress):
        y, total = batch.targets.flatten(), 0
        with torch.no_grad():
            known = [net(batch.inputs, batch.positions).flatten(0, 1) for net in frozen]
        for own, (teacher, labels, weight, until) in zip(z, learners, strict=True):
            total = total + F.cross_entropy(own, y)
            if teacher is not None and progress <= until:
                target = LABELS[labels]([*z, *known][teacher].detach(), batch.targets)
                total = total + weight * soft_loss(own, target)
        return total

    return loss


# %% [markdown]
# ## Data and models
#
# Large and small have four and two layers of one width, as the sister paper's pair of six and four layers; *narrow* has two layers of half the width.
# All are encoders of the BERT kind {cite:p}`devlin2019bert` with norms before each block, rotary positions and the optimiser Muon, which [the ground](09_weak_teacher.ipynb) of both chapters on language models explains.
#
# There are four texts of the generated language.
#
# - *Fresh*: no row is seen twice.
# - *Twenty*: a text that is seen twenty times, as in the sister paper.
# - *Augmented*: sentences of that text, put together in a new way for each row; data made from what there is.
# - *Scarce*: so little text that models learn it by heart.
#
# For a seed every arm begins with the same weights and sees the same text and masks, so that arms are compared in pairs.


# %% tags=["hide-input"]
def spliced(rows, count, stop, seed):
    """Rows (count, length) of whole sentences, drawn from rows and put together at random."""
    parts = (np.split(row[1:], np.flatnonzero(row[1:] == stop) + 1)[:-1] for row in rows)
    sentences = [sentence for row in parts for sentence in row]
    rng, found = np.random.default_rng(seed), np.full((count, rows.shape[1]), CLS, rows.dtype)
    for row in found:
        drawn = rng.integers(len(sentences), size=len(row) // 2)
        row[1:] = np.concatenate([sentences[i] for i in drawn])[: len(row) - 1]
    return found


def text_of(kind, seed, bed):
    """Rows to train on with a seed."""
    if bed["language"] is None:
        return bed["rows"]
    count, language = bed["recipe"].steps * bed["recipe"].batch, bed["language"]
    passes = bed["passes"].get(kind, bed["passes"]["twenty"])
    rows = language.rows(max(bed["recipe"].batch, count // passes), bed["length"], seed)
    if kind == "augmented":
        rows = spliced(rows, count, language.encode([["."]])[0][0], seed)
    return rows


def verbs_hidden(rows, numbers):
    """The rows that have a verb, with the last one hidden."""
    rows = torch.as_tensor(rows[(numbers[rows] > 0).any(1)].astype(np.int64))
    verbs = torch.as_tensor(numbers)[rows] > 0
    at = rows.shape[1] - 1 - verbs.flip(1).int().argmax(1)
    places = at + rows.shape[1] * torch.arange(len(rows))
    inputs = rows.flatten().index_fill(0, places, MASK).view_as(rows)
    return Masked(inputs, places, rows.flatten()[places])


# %% tags=["hide-input"]
class DropoutLayer(Layer):
    """A layer whose two blocks lose a tenth of their outputs while gradients are asked for."""

    def attend(self, x, mask, by=None):
        return F.dropout(super().attend(x, mask, by), 0.1, torch.is_grad_enabled())

    def feed(self, x):
        return F.dropout(super().feed(x), 0.1, torch.is_grad_enabled())


def networks(model, seeds, bed, states=None, dropout=False):
    """Networks of a size for the seeds, side by side; states: their weights."""
    layers, width = bed["sizes"][model]
    shape = [bed["vocabulary"], layers, width, bed["heads"], bed["length"]]
    shape = BertConfig(*shape, "pre", 0.5 / width**0.5, "rotary")
    nets = [bert(shape, seed) for seed in seeds]
    for net, state in zip(nets, states or [], strict=False):
        net.load_state_dict(state)
    for layer in (layer for net in nets for layer in net.layers if dropout):
        layer.__class__ = DropoutLayer
    return Together(nets, bed["device"])


# %% [markdown]
# ### The arms
#
# Each line is a group of models that are trained side by side on the same batches: the arm, the model, and the place of its teacher in the group.
# *One way* is CTCD without the way back: the small model learns from the large one as it trains, and the large one does not notice.
# Teachers of *frozen* and *reversed* are the trained models of *alone*.


# %%
def learner(arm, model, teacher=None, labels="own", until=1.0):
    return dict(arm=arm, model=model, teacher=teacher, labels=labels, until=until)


ALONE = [learner("alone", "large"), learner("alone", "small"), learner("one way", "small", 0)]
GROUPS = {
    "alone": ALONE,
    "alone, narrow": [*ALONE, learner("alone", "narrow"), learner("one way", "narrow", 0)],
    "CTCD": [learner("CTCD", "large", 1), learner("CTCD", "small", 0)],
    "CTCD, narrow": [learner("CTCD, narrow", "large", 1), learner("CTCD", "narrow", 0)],
    "half": [learner("half", "large", 1, until=0.5), learner("half", "small", 0)],
    "shuffled": [learner("shuffled", "large", 1, "shuffled"), learner("shuffled", "small", 0)],
    "smoothed": [learner("smoothed", "large", 1, "smoothed"), learner("again", "small")],
    "frozen": [learner("frozen", "small", 1)],
    "reversed": [learner("reversed", "large", 1)],
    "longer": [learner("alone, twice", "large"), learner("alone, twice", "small")],
    "dropout": [learner("dropout", "large")],
    "decay": [learner("decay", "large")],
}


# %% tags=["hide-input"]
def train(seeds, learners, kind, bed, looks, known=None, way="plain"):
    """Trains a group on a text, all seeds together: rows of looks, and the models' weights.

    looks: shares of the steps. known: a model's name and its weights for each seed, of a
    teacher that only answers. way: "longer" (twice the steps), "dropout" or "decay".
    """
    recipe = bed["recipe"]
    times, decay = (2 if way == "longer" else 1), (3.0 if way == "decay" else recipe.decay)
    recipe = replace(recipe, steps=times * recipe.steps, decay=decay)
    texts = [text_of(kind, seed, bed | {"recipe": recipe}) for seed in seeds]
    models = [networks(one["model"], seeds, bed, None, way == "dropout") for one in learners]
    frozen = [networks(known[0], seeds, bed, known[1])] if known else []
    how = [(one["teacher"], one["labels"], 1.0, one["until"]) for one in learners]
    held = held_out(bed["held"], bed["vocabulary"])
    valid, judged = held.rows(0, len(held) // 10), held.rows(len(held) // 10, len(held))
    verbs, rows = verbs_hidden(bed["held"], bed["numbers"]), []

    def look(step):
        for one, nets in zip(learners, models, strict=True):
            loss, early = (held_out_losses(nets, x).mean(1).tolist() for x in (judged, valid))
            right = agreement(nets, verbs, bed["numbers"]).tolist()
            for row in zip(seeds, loss, early, right, strict=True):
                rows.append((kind, one["arm"], one["model"], step / recipe.steps, *row))

    at = {round(share * recipe.steps) for share in looks}
    with seeded(seeds[0]):  # of dropout
        pretrain(models, texts, seeds, recipe, arm_loss(how, frozen), look, at)
    return {"rows": rows, "states": [nets.states() for nets in models]}


# %% tags=["hide-input"]
def run(plan):
    """`train` for each (group, text, seeds, teacher): seeds apart, or together on a GPU.

    teacher: None, or a model and its place in the group "alone, narrow", which must have run.
    """
    calls, names = [], []
    for group, kind, seeds, known in plan:
        way = (
            group.split(",")[0]
            if group.startswith(("longer", "dropout", "decay"))
            else "plain"
        )
        common = dict(learners=GROUPS[group], kind=kind, way=way)
        bed = {"English": ENGLISH, "scarce": BED | {"recipe": SHORT}}.get(kind, BED)
        common |= dict(bed=bed, looks=LOOKS.get(kind, (0.5, 1.0)))
        for part in [[seed] for seed in seeds] if s.device.type == "cpu" else [list(seeds)]:
            calls.append(common | dict(seeds=part))
            names.append((group, kind))
            if known:
                found = [FOUND["alone, narrow", "fresh", seed][known[1]] for seed in part]
                calls[-1]["known"] = (known[0], found)
    made = s.memo_each("train", train, calls, workers=WORKERS)
    for name, call, part in zip(names, calls, made, strict=True):
        ROWS.extend(part["rows"])
        for i, seed in enumerate(call["seeds"]):
            FOUND[*name, seed] = [states[i] for states in part["states"]]


# %% tags=["hide-input"]
LOOKS = {"twenty": (0.25, 0.5, 0.75, 1.0), "scarce": tuple((i + 1) / 8 for i in range(8))}
WORKERS = s.choose(smoke=1, standard=2)
ROWS, FOUND = [], {}
BED = dict(
    language=LANGUAGE, vocabulary=LANGUAGE.size, numbers=LANGUAGE.verb_numbers, heads=HEADS,
    held=LANGUAGE.rows(HELD, LENGTH, seed=10_000), sizes=SIZES, length=LENGTH, recipe=RECIPE,
    passes=PASSES, device=s.device.type,
)  # fmt: skip

# %% [markdown]
# *English* is WikiText-2 and a shelf of novels, cut into pieces of words by a vocabulary of 2,048; a part of the text is read once.
# At `smoke` more of the generated language stands in for it.

# %% tags=["hide-input"]
VERBS = [("was", "were"), ("is", "are"), ("has", "have")]  # singular and plural


def english_bed():
    """WikiText-2 and the novels, with larger models at `paper`; and the tokenizer."""
    corpus = text.corpus()
    for name in corpus.sets:
        s.data_used(name)
    length = s.choose(smoke=0, standard=LENGTH, paper=128)
    rows, held, tokenizer = text.rows(corpus, 2_048, length)
    numbers = np.zeros(tokenizer.size, np.int64)
    for pair in VERBS:
        for number, ids in enumerate(tokenizer.encode(pair)):
            numbers[ids[0]] = number + 1
    sizes = s.choose(smoke=None, standard=SIZES, paper={"large": (6, 256), "small": (4, 256)})
    paper = Recipe(6_000, 256, 0.01, fast=True)
    recipe = s.choose(smoke=None, standard=Recipe(2_000, 64, 0.01), paper=paper)
    rows = rows[: recipe.steps * recipe.batch]  # each is read once
    bed = dict(language=None, rows=rows, held=held[:HELD], vocabulary=tokenizer.size)
    bed |= dict(numbers=numbers, sizes=sizes, recipe=recipe, length=length)
    return BED | bed, tokenizer


ENGLISH, TOKENIZER = (BED, None) if s.smoke else english_bed()


# %%
ALL = [("alone, narrow", "fresh"), ("CTCD", "fresh"), ("CTCD, narrow", "fresh")]
ALL += [("alone", "twenty"), ("CTCD", "twenty"), ("half", "twenty")]
LITTLE = [(name, "scarce") for name in ("alone", "CTCD", "dropout")]
SOME = [("shuffled", "fresh"), ("smoothed", "fresh"), ("longer", "fresh"), ("decay", "scarce")]
run(
    [(name, "English", s.seeds[:3], None) for name in ("alone", "CTCD")]
    + [(*name, s.seeds, None) for name in ALL]
    + [(name, "augmented", s.seeds, None) for name in ("alone", "CTCD")]
    + [(*name, s.seeds[:5], None) for name in LITTLE]
    + [(*name, MOST, None) for name in SOME]
)
run([("frozen", "fresh", MOST, ("large", 0)), ("reversed", "fresh", MOST, ("small", 1))])


# %% tags=["hide-input"]
def as_columns(rows):
    """Rows of looks as columns of a frame."""
    names = ["text", "arm", "model", "share", "seed", "loss", "valid", "agreement"]
    return pd.DataFrame(rows, columns=names)


losses = s.frame("losses", as_columns, [{"rows": ROWS}], on_cpu="rows become columns")
last = losses[losses.share > 0.999]

# %% [markdown]
# ### A recipe that learns in minutes
#
# BERT's own recipe has norms after each sum, a learned vector for each position, and Adam for all weights.
# Ours has norms before each block, turns queries and keys by their positions (rotary positions), takes the optimiser Muon for matrices, and hides 30 % of the words in training where BERT hides 15 %.
# The figure has the large model, alone on fresh text, by both; agreement is the share of the probability of hidden verbs that is on verbs of the right number, and 50 % knows nothing of number.


# %% tags=["hide-input"]
def recipe_rows(seed, name, bed):
    """Ten looks at a large model alone by BERT's own recipe or by ours."""
    layers, width = bed["sizes"]["large"]
    shape = [bed["vocabulary"], layers, width, bed["heads"], bed["length"]]
    ours, recipe = ("pre", 0.5 / width**0.5, "rotary"), bed["recipe"]
    if name == "BERT's own":
        ours = ("post", 0.5 / width**0.5, "learned")
        recipe = replace(recipe, lr=4e-3, rate=0.15, optimiser="adamw")
    nets, rows = Together([bert(BertConfig(*shape, *ours), seed)], bed["device"]), []
    held, verbs = (
        held_out(bed["held"], bed["vocabulary"]), verbs_hidden(bed["held"], bed["numbers"])
    )  # fmt: skip

    def look(step):
        loss, right = (
            held_out_losses(nets, held).mean(),
            agreement(nets, verbs, bed["numbers"])[0],
        )
        rows.append({"step": step, "loss": float(loss), "agreement": float(right)})

    at = {round((i + 1) / 10 * recipe.steps) for i in range(10)}
    pretrain([nets], [text_of("fresh", seed, bed)], [seed], recipe, look=look, at=at)
    return rows


each = [
    dict(seed=i, name=n, bed=BED) for i in s.seeds[:2] for n in ("BERT's own", "this book's")
]
recipes = s.frame("recipes", recipe_rows, each)


# %% mystnb={"figure": {"caption": "The large model alone on fresh text by two recipes; a line for each of two seeds. Dotted: frequencies and the best possible answers (left), no knowledge of number (right).", "name": "fig-ctcd-recipes"}, "image": {"alt": "Two panels against steps. By this book's recipe the held-out loss falls far below that of BERT's own recipe, and agreement rises from one half to nearly nine tenths; by BERT's own recipe agreement stays near one half."}} tags=["hide-input"]
def recipe_figure():
    """Held-out loss and agreement against steps."""
    fig, axes = plots.figure(1, 2, height=2.8)
    for ax, value in zip(axes, ("loss", "agreement"), strict=True):
        sns.lineplot(
            recipes, x="step", y=value, hue="name", style="name", units="seed", estimator=None,
            ax=ax, legend=ax is axes[1],
        )  # fmt: skip
    for y, name in ((FREQUENCIES, "frequencies"), (OPTIMUM, "best possible")):
        axes[0].axhline(y, color=plots.MUTED, ls=":", zorder=0)
        axes[0].text(recipes.step.max(), y, name, ha="right", va="bottom", color=plots.MUTED)
    axes[1].axhline(50, color=plots.MUTED, ls=":", zorder=0)
    axes[0].set(xlabel="steps", ylabel="held-out loss (nats)")
    axes[1].set(xlabel="steps", ylabel="agreement (%)")
    axes[1].get_legend().set_title(None)
    return fig


plots.finish(recipe_figure())

# %% [markdown]
# ## What came out
#
# Held-out losses in nats at the end of training, as means over seeds; English has fewer seeds, and the first line says how many.
# *Small alone* less *large alone* is the gap that co-training would have to bridge for K3.

# %% tags=["hide-input"]
TEXTS = ["fresh", "twenty", "augmented", "scarce", "English"]
MAIN = [("large", "alone"), ("large", "CTCD")]
MAIN += [("small", "alone"), ("small", "one way"), ("small", "CTCD")]


def final_table():
    """Seeds, then mean losses of the main arms on every text."""
    means = last.pivot_table(index=["model", "arm"], columns="text", values="loss").loc[MAIN]
    means.index = [", ".join(pair) for pair in means.index]
    table = means[TEXTS].map("{:.3f}".format)
    seeds = last[last.arm == "CTCD"].groupby("text").seed.nunique()[TEXTS]
    return pd.concat([seeds.to_frame("seeds").T.astype(str), table])


s.say(final_table().to_markdown(disable_numparse=True, colalign=["left", *["right"] * 5]))


# %% tags=["hide-input"]
def known_words():
    """What models of the main arms know, against frequencies, in a sentence or two."""
    fresh, english = (
        last[(last.text == kind) & (last.arm == "alone")]
        .groupby("model")
        .mean(numeric_only=True)
        for kind in ("fresh", "English")
    )
    counts = np.bincount(ENGLISH["rows"].ravel() if TOKENIZER else [0, 1])
    below = -np.log((counts + 1) / (counts + 1).sum())
    masked = held_out(ENGLISH["held"], ENGLISH["vocabulary"])
    less = below[masked.targets].mean() - english.loss["large"] if TOKENIZER else 0.0
    lowest = last[last.text == "fresh"].agreement.min()
    return (
        f"On fresh text agreement is {fresh.agreement['large']:.0f} % for the large model "
        f"alone and {fresh.agreement['small']:.0f} % for the small one; the lowest of all "
        f"networks there has {lowest:.0f} %. On English the large model alone is {less:.1f} nats below "
        f"frequencies; of the probability of was and were, is and are, has and have, it gives "
        f"{english.agreement['large']:.0f} % to the right one."
    )


s.say(known_words())

# %% [markdown]
# Each network is compared with another of the same seed.
# In the figure a dot is a seed, and a line the mean with its 95 % interval, not widened for many comparisons; left of zero the first of the two named is better.

# %% tags=["hide-input"]
CONTRASTS = {
    "K1: large, CTCD - alone": (("large", "CTCD"), ("large", "alone")),
    "small, one way - alone": (("small", "one way"), ("small", "alone")),
    "small, CTCD - alone": (("small", "CTCD"), ("small", "alone")),
    "K2: small, CTCD - one way": (("small", "CTCD"), ("small", "one way")),
    "K3: small, CTCD - large alone": (("small", "CTCD"), ("large", "alone")),
}


def paired(kind, one, other, value="loss"):
    """Differences (seeds,) of two (model, arm) on a text, in the order of seeds."""
    some = last[last.text == kind].set_index(["model", "arm", "seed"])[value].sort_index()
    return (some.loc[one] - some.loc[other]).dropna()


def in_words(values):
    """A mean with its 95 % interval over seeds."""
    low, high = report.t_ends(values)
    return f"{np.mean(values):+.3f} [{low:+.3f}, {high:+.3f}]"


# %% mystnb={"figure": {"caption": "Paired differences of held-out loss on five texts, in nats: dots are seeds, lines means with 95 % intervals.", "name": "fig-ctcd-contrasts"}, "image": {"alt": "ALT"}} tags=["hide-input"]
def contrast_figure():
    """A panel a text, a row a contrast."""
    fig, axes = plots.figure(2, 3, width=7.2, height=4.6, sharey=True)
    axes[1, 2].set_visible(False)
    for ax, kind in zip(axes.flat, TEXTS, strict=False):
        for at, (one, other) in enumerate(CONTRASTS.values()):
            values = paired(kind, one, other).to_numpy()
            ax.plot(values, [at] * len(values), "o", ms=3, alpha=0.5, color=plots.PALETTE[0])
            ax.plot(report.t_ends(values), [at, at], lw=2, color=plots.PALETTE[1])
            ax.plot(values.mean(), at, "|", ms=9, color=plots.PALETTE[1])
        ax.axvline(0, color=plots.MUTED, lw=1, zorder=0)
        ax.set(title=kind, xlabel="nats")
        ax.locator_params(axis="x", nbins=4)
    axes[0, 0].set_yticks(range(len(CONTRASTS)), list(CONTRASTS))
    axes[0, 0].invert_yaxis()
    return fig


plots.finish(contrast_figure())

# %% [markdown]
# ### What does the large model listen to?
#
# Differences of held-out loss on fresh text from the same model alone, in nats, with 95 % intervals over the seeds that the arm has.
# In *smoothed* the small model learns alone beside the large one, and in *shuffled* it learns from it, as in CTCD.
# *Reversed* and *frozen* have a teacher that is trained already.
# A joint step costs as much as a step of both models, one and a half times that of the large model alone.
# So the last row has the large model alone for twice the steps, on twice as much text: that is what a little more computation buys.


# %% tags=["hide-input"]
def control_table():
    """Each arm on fresh text less the same model alone."""
    some = [("large", arm) for arm in ("CTCD", "smoothed", "shuffled", "reversed")]
    some += [("small", arm) for arm in ("one way", "frozen", "CTCD")]
    table = []
    for model, arm in some:
        values = paired("fresh", (model, arm), (model, "alone"))
        table.append((model, arm, len(values), in_words(values)))
    values = paired("fresh", ("large", "alone, twice"), ("large", "CTCD"))
    table.append(("large", "alone, twice the steps, less CTCD", len(values), in_words(values)))
    return pd.DataFrame(table, columns=["model", "arm", "seeds", "less the same model alone"])


s.say(control_table().to_markdown(index=False))

# %% [markdown]
# ### Little text
#
# On scarce text models learn the rows by heart, and the held-out loss rises again.
# There a brake has something to brake, and so have the common remedies: dropout (a tenth of what each block gives is set to zero), a decay of weights that is thirty times stronger, and early stopping, which takes the look with the best loss on rows set apart for that choice.

# %% mystnb={"figure": {"caption": "Held-out loss on scarce text against the share of training; a line is the mean over seeds, a band its 95 % interval.", "name": "fig-ctcd-scarce"}, "image": {"alt": "ALT"}} tags=["hide-input"]
SCARCE = [("large", "alone"), ("large", "CTCD"), ("large", "dropout"), ("small", "one way")]


def scarce_figure():
    """Held-out loss against the share of training."""
    some = losses[losses.text == "scarce"].assign(who=losses.model + ", " + losses.arm)
    order = [", ".join(pair) for pair in SCARCE]
    fig, ax = plots.figure(width=6.4, height=3.2)
    some, how = some[some.who.isin(order)], dict(hue="who", style="who", style_order=order)
    how |= dict(hue_order=order, errorbar=report.t_ends)
    sns.lineplot(some, x="share", y="loss", ax=ax, **how)
    ax.set(xlabel="share of the training", ylabel="held-out loss (nats)")
    ax.get_legend().set_title(None)
    return fig


plots.finish(scarce_figure())


# %% tags=["hide-input"]
def stopped(kind, model, arm):
    """Of each seed the loss at the look with the best loss on the rows for that choice."""
    some = losses[(losses.text == kind) & (losses.model == model) & (losses.arm == arm)]
    best = some.loc[some.groupby("seed").valid.idxmin()]
    return best.set_index("seed").loss


def scarce_table():
    """Losses on scarce text and on twenty passes, at the end and with early stopping."""
    arms = [*SCARCE, ("large", "decay"), ("small", "alone"), ("small", "CTCD")]
    rows = []
    for model, arm in arms:
        row = [f"{model}, {arm}"]
        for kind in ("scarce", "twenty"):
            early = stopped(kind, model, arm)
            end = last[(last.text == kind) & (last.model == model) & (last.arm == arm)].loss
            row += [f"{end.mean():.3f}", f"{early.mean():.3f}"] if len(end) else ["–", "–"]
        rows.append((*row, len(stopped("scarce", model, arm))))
    heads = [
        "model, arm",
        "scarce",
        "stopped early",
        "twenty",
        "stopped early ",
        "seeds, scarce",
    ]
    return pd.DataFrame(rows, columns=heads)


s.say(scarce_table().to_markdown(index=False, disable_numparse=True))

# %% [markdown]
# ### Other recipes: a narrower model, and made text
#
# K4 says that co-training can take the place of one-way distillation inside other recipes.
# Here the other architecture is *narrow*, and the other data are *augmented*.
# CTCD less one way, for the small model:


# %% tags=["hide-input"]
def recipe_words():
    """K4, and ours, as lines."""
    narrow = paired("fresh", ("narrow", "CTCD"), ("narrow", "one way"))
    made = paired("augmented", ("small", "CTCD"), ("small", "one way"))
    half = {
        kind: paired("twenty", ("large", "half"), ("large", kind))
        for kind in ("CTCD", "alone")
    }
    small = paired("twenty", ("small", "half"), ("small", "CTCD"))
    return (
        f"- narrow, fresh text: {in_words(narrow)}\n"
        f"- small, augmented text: {in_words(made)}\n\n"
        f"Ours, on twenty passes: large less CTCD {in_words(half['CTCD'])}, large less alone "
        f"{in_words(half['alone'])}, small less CTCD {in_words(small)}."
    )


# %% [markdown]
# ### Ours: listen first, then stop
#
# Early in training the partner knows things that a model does not; late it holds it back.
# So *ours* lets the large model learn from the small one in the first half of the steps only:
#
# $$
# \lambda_{s \to \ell}(t) = 1 \text{ for } t \le \tfrac12, \quad 0 \text{ after},
# $$ (eq-ctcd-ours)
#
# with $t$ the share of training that is done.
# It was chosen with pilots on fresh text in view, and is judged on twenty passes.

# %% tags=["hide-input"]
s.say(recipe_words())

# %% [markdown]
# ## The claims
#
# They were written down before the run: *reproduced* means that the sentence in the first column held.
# All compare held-out losses of networks of the same seed; the estimate is the mean of a minus b, in nats.
#
# - *Reproduced* and *contradicted*: the interval lies on one side of zero, and the mean is beyond the smallest effect that matters, 0.01 nats.
# - *No effect*: the whole interval lies within 0.01 nats of zero.
# - *Undecided*: none of these.
#
# Intervals are widened so that all claims of one question err together at most once in twenty (Holm).
# The unit is a seed, and so verdicts speak of other trainings and other text of these kinds.

# %% tags=["hide-input"]
verdicts = s.claims()


# %% tags=["hide-input"]
def glue_rows(which, model, arm, seeds, bed, vocabulary, states):
    """Mean scores on the development set of a task of GLUE, after fine-tuning; for `paper`."""
    layers, width = bed["sizes"][model]
    shape = [bed["vocabulary"], layers, width, bed["heads"], bed["length"]]
    config, tokenizer = BertConfig(*shape, "pre", 0.5 / width**0.5, "rotary"), vocabulary
    models = [bert(config, seed) for seed in seeds]
    for net, state in zip(models, states, strict=True):
        net.load_state_dict(state)
    tokenizer = Tokenizer.from_json(tokenizer)
    found = glue_scores(models, tokenizer, which, FineTuning(length=64), seeds, bed["device"])
    return [
        {"seed": seed, "score": np.mean(list(scores.values()))}
        for seed, scores in zip(seeds, found, strict=True)
    ]


if PROFILE == "paper":
    pick = lambda group, at: [FOUND[group, "English", seed][at] for seed in s.seeds[:3]]
    arms = [("large", "alone", pick("alone", 0)), ("small", "CTCD", pick("CTCD", 1))]
    common = dict(seeds=s.seeds[:3], bed=ENGLISH, vocabulary=TOKENIZER.to_json())
    s.frame(
        "glue", glue_rows,
        [
            common | dict(which=task, model=model, arm=arm, states=states)
            for task in ("SST-2", "CoLA", "STS-B", "MRPC", "RTE")
            for model, arm, states in arms
        ],
    )  # fmt: skip

# %% [markdown]
# ## Where it breaks
#
# **A trained teacher is another thing.**
# In CTCD the partner is as young as the model itself; *frozen* and *reversed* have teachers that know everything from the first step on, and [the chapter on weak teachers](09_weak_teacher.ipynb) is about these.
#
# **A joint step costs two.**
# At equal steps CTCD takes one and a half times the computation of the large model alone, and three times that of the small one.
#
# **Held-out loss is not GLUE.**
# The paper's headline is about fine-tuned models; models of this size are not moved in GLUE by minutes of pre-training, so that only the profile `paper` asks for it.
#
# **One rate for all.**
# The learning rate was chosen for models alone, on scarce text apart.
# An arm with soft labels has larger gradients, and might like another.
#
# ## Deviations

# %% tags=["hide-input"]
s.deviations_table()


# %% [markdown]
# ## Exercises
#
# ### Exercise 1 (★☆☆): the gradient of the soft loss
#
# Write the gradient of $\tau^2 S$ of equation [](#eq-ctcd-losses) by the model's own logits.
# At which temperature is it the difference of the two predictions?


# %% tags=["exercise"]
def soft_gradient(own, other, tau):
    """Derivative of tau ** 2 * soft_loss by the own logits (n, words)."""
    return None  # your code


def check_soft_gradient(function):
    for seed, tau in enumerate((1.0, 3.0, 20.0)):
        g = torch.Generator().manual_seed(seed)
        own, other = torch.randn(2, 5, 4, generator=g, dtype=torch.float64)
        own.requires_grad_()
        (due,) = torch.autograd.grad(tau**2 * soft_loss(own, other, tau), own)
        out = function(own.detach(), other, tau)
        assert np.shape(out) == due.shape, "give a number for each logit"
        assert torch.allclose(out, due), f"tau = {tau}: this is not autograd's gradient"
    return f"Exercise 1: correct; at a temperature of 20 its norm is still {due.norm():.2f}"


if soft_gradient(torch.zeros(2, 3), torch.ones(2, 3), 1.0) is not None:
    print(check_soft_gradient(soft_gradient))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def soft_gradient_solution(own, other, tau):
    return tau * ((own / tau).softmax(1) - (other / tau).softmax(1)) / len(own)


print(check_soft_gradient(soft_gradient_solution))


# %% [markdown]
# ### Exercise 2 (★★☆): without the stop-gradient
#
# Leave the stop-gradient out of equation [](#eq-ctcd-losses), at $\tau = 1$: now the partner, too, is moved by $S$.
# Write the gradient of $S$ by the partner's logits.
# Which partner gets none?


# %% tags=["exercise"]
def without_stop(own, other):
    """Derivative of the mean KL(p_other || p_own) by the partner's logits other (n, words)."""
    return None  # your code


def check_without_stop(function):
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        own, other = 2 * torch.randn(2, 5, 6, generator=g, dtype=torch.float64)
        other.requires_grad_()
        log_p, log_q = own.log_softmax(-1), other.log_softmax(-1)
        apart = F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
        (due,) = torch.autograd.grad(apart, other)
        out = function(own, other.detach())
        assert np.shape(out) == due.shape, "give a number for each logit"
        assert torch.allclose(out, due), f"seed {seed}: this is not autograd's gradient"
    return "Exercise 2: correct; the partner would be drawn to the model that it teaches"


if without_stop(torch.zeros(2, 3), torch.ones(2, 3)) is not None:
    print(check_without_stop(without_stop))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def without_stop_solution(own, other):
    q, apart = other.softmax(1), other.log_softmax(1) - own.log_softmax(1)
    return q * (apart - (q * apart).sum(1, keepdim=True)) / len(own)


print(check_without_stop(without_stop_solution))


# %% [markdown]
# ### Exercise 3 (★★★): how much of the gap is closed
#
# Given are losses of the same seeds: of the small and the large model, each trained alone, and of a small one that was taught.
# Write which share of the mean gap between small and large the teaching closes, and the 95 % t interval of what it gains over the small one alone, seed by seed.
# Why is the interval one of differences?


# %% tags=["exercise"]
def gap_closed(small, large, taught):
    """Losses (seeds,) of three models -> (share, low, high); `report.t_ends` gives ends."""
    return None  # your code


def check_gap_closed(function):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        common = rng.standard_normal(6)  # what a seed does to all its models
        means = np.array([[2.0], [1.9 - seed / 10], [1.96 - seed / 20]])
        small, large, taught = means + common + 0.01 * rng.standard_normal((3, 6))
        out = function(small, large, taught)
        assert np.shape(out) == (3,), "give three numbers"
        share = (np.mean(small) - np.mean(taught)) / (np.mean(small) - np.mean(large))
        assert np.isclose(out[0], share), f"the share is {share:.2f}, not {out[0]:.2f}"
        ends = report.t_ends(small - taught)
        assert np.allclose(out[1:], ends), "the ends are not those of gains, seed by seed"
    return "Exercise 3: correct; what a seed does to both models falls out of their difference"


if gap_closed(np.ones(3), np.zeros(3), np.ones(3)) is not None:
    print(check_gap_closed(gap_closed))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def gap_closed_solution(small, large, taught):
    gains = small - taught
    return gains.mean() / (small - large).mean(), *report.t_ends(gains)


print(check_gap_closed(gap_closed_solution))

# %% [markdown]
# ## Summary
#
# Two models that learn together are each other's label smoothers, and a stop-gradient keeps their losses apart.
# SUMMARY
# Before you credit a teacher's knowledge, compare with a teacher who has none, with the common remedies for learning by heart, and with the same computation spent on one model.
#
# ## Run card

# %%
s.finish()
s.run_card()
