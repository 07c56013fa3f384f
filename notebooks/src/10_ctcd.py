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
# *This chapter is of the first edition: [Errata](../book/errata.md) lists what is known to be wrong or undecided in it.*
#
# **The claim in one sentence.**
# Train a large and a small language model together from nothing, each learning from the text and from the other's predictions; the small one then helps the large one, the better large one helps the small one in return, and the small one ends above a large one that was trained alone {cite:p}`lee2023ctcd`.
#
# | | |
# |---|---|
# | You need | PyTorch, cross-entropy, what a masked language model is; [a weak teacher](09_weak_teacher.ipynb) helps but is not needed |
# | To read | 40 minutes |
# | To run | `smoke`: half a minute, offline; `standard`: a little more than an hour on a free CPU core; 2 GB of memory |
# | Data | `smoke`: a generated language; `standard`: the same, and [WikiText-2, the novels and GLUE](../book/data.md) for one section |
#
# **What this chapter is.**
# It is a study *inspired by* CTCD, and not a reproduction of its experiments.
# Of the paper, only title and abstract could be obtained; its body, its tables and its appendix could not.
# All equations below are therefore *reconstructed*, from the abstract, from the sister paper by the same authors {cite:p}`lee2023weakteacher`, and from what is common in mutual learning; the only number of the paper that stands here is the one in its abstract.
#
# The published outputs below come from a `standard` run; the [run card](#run-card) at the end says from which one.

# %% tags=["install", "hide-input"]
try:
    import nbpkg
except ImportError:
    REPOSITORY = ""
    if not REPOSITORY:
        raise SystemExit(
            "nbpkg is missing: set REPOSITORY to the address of this book's repository and run again"
        ) from None
    import subprocess
    import sys

    subprocess.run([sys.executable, "-m", "pip", "install", "-q", f"nbpkg @ git+{REPOSITORY}"], check=True)

# %% tags=["parameters"]
PROFILE = "smoke"  # smoke | standard | paper
SEEDS = [0]  # training seeds
DEVICE = "auto"  # auto | cpu | cuda

# %% tags=["imports"]
import copy
import math
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from nbpkg.report import plots, stats, verdicts
from nbpkg.data import glue, text, tokens
from nbpkg.data.synthetic.first_language import Language
from nbpkg.data.masking import Masked, generator, held_out
from nbpkg.data.synthetic.posterior import Posterior
from nbpkg.nets import first_bert
from nbpkg.nets.bert import Bert, BertConfig, bert, precision
from nbpkg.nets.bert_train import linear_warmup_decay
from nbpkg.nets.downstream import FineTuning, sentences
from nbpkg.nets.first_bert import Batches, clip_and_step, features, fine_tune, optimiser, probe, ramp
from nbpkg.seeding import seeded
from nbpkg.session import Session

# %%
s = Session("10_ctcd", profile=PROFILE, seeds=SEEDS, device=DEVICE)
plots.theme()

# %% [markdown]
# Three aims.
# After this chapter you can
#
# 1. write one training step in which two networks are student and teacher at the same time, and prove that no gradient crosses between them;
# 2. choose the baseline that each claim about co-training needs, and tell a teacher's knowledge from smoothing, from averaging and from more computation;
# 3. report how much of a gap is closed, with an interval, whatever comes of the headline claim.

# %% [markdown]
# ## The question
#
# *Knowledge distillation* trains a small network, the *student*, on the outputs of a large one, the *teacher* {cite:p}`hinton2015distilling`.
# The teacher is trained first and then held fixed; the student usually ends below it.
# CTCD asks for more.
# Both networks start from random weights and are trained at once, on the same text; each is the other's teacher.
# The abstract makes these claims:
#
# - **K1**: what the small model tells the large one makes the *large* one better than if it had been trained alone;
# - **K2**: the better large one then makes the *small* one better than distillation in one direction does;
# - **K3**: the small model ends above the large model that was trained alone, by 1.66 points of GLUE (a collection of language tasks) on average;
# - **K4**: it can stand in for one-way distillation inside other recipes for small models, such as another architecture or more data made from what there is, and adds to them.
#
# Two things make one careful.
# A small model is a *weak* teacher: why should its mistakes help?
# The sister paper's answer is that soft labels keep a large model from being too sure of the text that it sees again and again; if that is so, then plain *label smoothing* should do as well.
# And an independent replication, which fine-tuned public models together instead of training them from nothing, found, by its author's own summary (its text could not be had), that CTCD did no better than ordinary distillation, and that what effect there was lay on the side of the large model.
# So K1 is the half of which one expects most, and it should show where text is repeated.
#
# ### A language whose best answers are known
#
# A masked language model reads a sentence in which some words are hidden, and gives a probability to every word for each hidden place.
# Its *hard loss* is the mean of $-\log p(\text{the word that stood there})$, in nats.
# English is too rich for models that train in half a minute, so most of this chapter uses a generated language: nouns have classes that decide which verbs are likely, subjects agree with their verbs across whatever stands between, and words have Zipf's frequencies.
# Since its grammar is known, so is the best possible answer at any single hidden place, exactly.

# %%
NORM = "post"
LANGUAGE = Language(**s.choose(smoke=dict(classes=2, nouns=2, verbs=2, adjectives=2), standard=dict(nouns=5, verbs=8, adjectives=4, modifier=0.8)))  # fmt: skip
LENGTH = s.choose(smoke=16, standard=32)
example = LANGUAGE.sentences(3, seed=4)
for one in example:
    print(" ".join(one.words))
one = example[0]
best = LANGUAGE.grammar.cloze(one.words, one.verb)
guesses = sorted(best.items(), key=lambda pair: -pair[1])[:4]
print(f"\n{' '.join(one.words[: one.verb])} [MASK] {' '.join(one.words[one.verb + 1 :])}")
print("best guesses:", ", ".join(f"{word} {p:.2f}" for word, p in guesses))
s.say(
    f"The language has {len(LANGUAGE.grammar.words)} words; a text of it has an entropy of {LANGUAGE.entropy_rate:.2f} nats a word, "
    f"and a sentence has {LANGUAGE.grammar.expected_words:.1f} words on average."
)


# %% [markdown]
# ## The method
#
# ### Two losses for each model
#
# Let $z_\ell$ and $z_s$ be the logits of the large and the small model at a hidden place, and $y$ the word that stood there.
# With a *temperature* $\tau$, which flattens a distribution when it is above 1, $p^\tau = \operatorname{softmax}(z / \tau)$.
# Each model has a hard loss and a *soft loss*, the Kullback-Leibler divergence of its own distribution from the other's (reconstructed):
#
# $$
# \begin{aligned}
# H_\ell &= -\log p_\ell(y), & S_\ell &= \operatorname{KL}\bigl(\operatorname{sg}[p_s^\tau] \,\Vert\, p_\ell^\tau\bigr) , \\
# H_s &= -\log p_s(y), & S_s &= \operatorname{KL}\bigl(\operatorname{sg}[p_\ell^\tau] \,\Vert\, p_s^\tau\bigr) ,
# \end{aligned}
# $$ (eq-ctcd-losses)
#
# all as means over the hidden places of a batch.
# $\operatorname{sg}$ is the *stop-gradient*: what is inside counts as a constant.
# Each model minimises
#
# $$
# L_\ell = H_\ell + \lambda_{s \to \ell}\, \tau^2 S_\ell , \qquad
# L_s = H_s + \lambda_{\ell \to s}\, \tau^2 S_s .
# $$ (eq-ctcd-total)
#
# The *soft weights* $\lambda$ are one for each direction.
# The gradient of a soft loss shrinks about as $1 / \tau^2$ when the temperature rises; the factor $\tau^2$ undoes that, so that a change of temperature is no hidden change of weight.
#
# | symbol | in the code | shape |
# |---|---|---|
# | $z_\ell, z_s$ | `z[0]`, `z[1]` | (places, vocabulary) |
# | $y$ | `targets` | (places,) |
# | $\lambda_{s \to \ell}, \lambda_{\ell \to s}$ | `weights` | two numbers |
# | $\tau$ | `tau` | a number |
# | what a model is told | `told` | logits (places, vocabulary), or None: the other's |

# %% tags=["method"]
def soft_loss(own, told, tau=1.0, stop=True):
    """S of equation (eq-ctcd-losses): mean of KL(softmax(told / tau) || softmax(own / tau)); (n, v) twice -> ().

    stop: told counts as a constant.
    """
    log_p = F.log_softmax(own / tau, -1)
    log_q = F.log_softmax((told.detach() if stop else told) / tau, -1)
    return (log_q.exp() * (log_q - log_p)).sum(-1).mean()


def pair_losses(z, targets, weights, tau=1.0, told=(None, None), stop=True):
    """(L_large, L_small) of equation (eq-ctcd-total) from both logits, (n, v) each, and targets (n,).

    weights: (small to large, large to small). told: logits that a model learns from in place of the other's.
    A weight of 0 leaves exactly the hard loss.
    """
    if stop and all(weights) and told[0] is told[1] is None:  # the usual case, each softmax made once
        hard_l, soft_l, hard_s, soft_s = first_bert.mutual_losses(*z, targets, tau)
        return hard_l + weights[0] * tau**2 * soft_l, hard_s + weights[1] * tau**2 * soft_s
    found = []
    for own, other, weight, labels in zip(z, z[::-1], weights, told, strict=True):
        loss = None if own is None else F.cross_entropy(own, targets)
        if weight:
            loss = loss + weight * tau**2 * soft_loss(own, other if labels is None else labels, tau, stop)
        found.append(loss)
    return tuple(found)


# %% [markdown]
# The first branch calls a function of the helper package that computes the four parts from one softmax of each model and has their gradients in closed form; the second says the same slowly.
#
# ### By hand
#
# Three words, one hidden place, temperature 1.
# The large model says $(0.7, 0.2, 0.1)$, the small one $(0.5, 0.25, 0.25)$, and the word was the first.
# Then $H_\ell = -\log 0.7 = 0.357$ and $H_s = -\log 0.5 = 0.693$.
# What the large model is told costs it $S_\ell = 0.5 \log \tfrac{0.5}{0.7} + 0.25 \log \tfrac{0.25}{0.2} + 0.25 \log \tfrac{0.25}{0.1} = 0.117$, and the other way round $S_s = 0.7 \log \tfrac{0.7}{0.5} + 0.2 \log \tfrac{0.2}{0.25} + 0.1 \log \tfrac{0.1}{0.25} = 0.099$.
# The divergence is not symmetric.
#
# The gradient with respect to the large model's logits is $(p_\ell - e_y) + \lambda (p_\ell - p_s)$, with $e_y$ the vector that is 1 at the word and 0 elsewhere: with $\lambda = 1$ it is $(-0.3, 0.2, 0.1) + (0.2, -0.05, -0.15) = (-0.1, 0.15, -0.05)$.
# The hard part pulls the first word up by 0.3; the doubts of the small model take two thirds of that back.
# So a weak teacher works as a brake on certainty, place by place.

# %% tags=["nbval-check-output"]
toy_large = torch.tensor([[0.7, 0.2, 0.1]]).log().requires_grad_()
toy_small = torch.tensor([[0.5, 0.25, 0.25]]).log().requires_grad_()
first_word = torch.tensor([0])
hard_parts = pair_losses((toy_large, toy_small), first_word, (0.0, 0.0))
both_parts = pair_losses((toy_large, toy_small), first_word, (1.0, 1.0))
print("hard:", [round(x.item(), 3) for x in hard_parts])
print("soft:", [round((x - h).item(), 3) for x, h in zip(both_parts, hard_parts, strict=True)])
sum(both_parts).backward()
print("gradient of the large model's logits:", [round(x, 3) for x in toy_large.grad[0].tolist()])
assert torch.allclose(toy_large.grad[0], torch.tensor([-0.1, 0.15, -0.05]), atol=1e-6)
assert [round((x - h).item(), 3) for x, h in zip(both_parts, hard_parts, strict=True)] == [0.117, 0.099]

# %% [markdown]
# ### One cross-entropy in disguise
#
# At temperature 1 the sum of hard and soft loss is a single cross-entropy against a mixture of the true word and the other's opinion, up to a constant:
#
# $$
# H_\ell + \lambda S_\ell = -\sum_v \bigl(e_y + \lambda\, p_s\bigr)_v \log p_\ell(v) \; - \; \lambda\, \mathcal{H}(p_s) ,
# $$ (eq-ctcd-mixture)
#
# where $\mathcal{H}$ is the entropy.
# Divided by $1 + \lambda$, the target is $\tfrac{1}{1+\lambda} e_y + \tfrac{\lambda}{1+\lambda} p_s$.
# Plain *label smoothing* has the uniform distribution in place of $p_s$.
# So the small model is a label smoother that knows the sentence, and this is why one of the baselines below is a smoother that does not.

# %%
g = torch.Generator().manual_seed(0)
z_large, z_small = (2 * torch.randn(6, 9, generator=g) for _ in range(2))
y = torch.randint(0, 9, (6,), generator=g)
p_small = z_small.softmax(-1)
mixture = F.one_hot(y, 9) + 0.7 * p_small
crossed = -(mixture * z_large.log_softmax(-1)).sum(-1).mean()
entropy_small = -(p_small * p_small.log()).sum(-1).mean()
told_loss = pair_losses((z_large, z_small), y, (0.7, 1.0))[0]
assert torch.isclose(told_loss, crossed - 0.7 * entropy_small, atol=1e-5)


# %% [markdown]
# ### The joint step
#
# One masked batch goes through both models; logits are made only where words are hidden; both losses are added and go backward in one sweep.
# Because of the stop-gradient the two parts of the sum meet in no weight.
# Two details keep the models apart in the step as well.
# *Clipping*, which shortens gradients that are too long, is done for each model by itself: clipped together, a spike in the large model's gradient would shorten the small one's step.
# And each model has its own optimiser (with Adam one for both would do the same, since it treats every weight alone).

# %% tags=["method"]
def joint_step(models, adams, x, weights, tau=1.0, factor=1.0, told=(None, None), stop=True):
    """One step on one batch: both read the other's present logits, then both move. Returns the logits.

    adams: an optimiser of each model, None for one that is frozen (or absent: model None). factor: of the
    learning rate.
    """
    z = []
    for model, adam in zip(models, adams, strict=True):
        if model is None:
            z.append(None)
            continue
        with torch.set_grad_enabled(adam is not None), precision(x.inputs.device):
            z.append(model(x.inputs, x.positions))
        z[-1] = z[-1].float()
    weights = [0.0 if adam is None else w for w, adam in zip(weights, adams, strict=True)]
    losses = pair_losses(z, x.targets, weights, tau, told, stop)
    sum(loss for loss, adam in zip(losses, adams, strict=True) if adam is not None).backward()
    for model, adam in zip(models, adams, strict=True):
        if adam is not None:
            clip_and_step(model, adam, factor)
    return z


def alternate_step(models, adams, x, weights, tau=1.0, factor=1.0):
    """The order of deep mutual learning: the large model moves first, the small one reads it after that."""
    for turn in range(2):
        frozen = [adam if i == turn else None for i, adam in enumerate(adams)]
        joint_step(models, frozen, x, weights, tau, factor)


# %% [markdown]
# A test of the first order: with both weights at 0 the joint step *is* two independent steps, bit for bit, and with the weight from small to large at 0 the large model does not notice that it has a student.

# %%
toy_sizes = dict(vocabulary=LANGUAGE.size, width=16, heads=2, length=LENGTH, norm=NORM, std=0.1)
toy_rows = LANGUAGE.rows(16, LENGTH, seed=5)


def after_three_steps(pair, weights):
    models = [bert(BertConfig(layers=n, **toy_sizes), i) if i in pair else None for i, n in enumerate((3, 1))]
    adams = [None if model is None else optimiser(model, 1e-2) for model in models]
    for x in Batches(toy_rows, LANGUAGE.size, 8, seed=0).steps(3):
        joint_step(models, adams, x, weights)
    return [None if m is None else torch.cat([p.flatten() for p in m.parameters()]) for m in models]


alone = [after_three_steps([i], (0.0, 0.0))[i] for i in range(2)]
unconnected, one_way, both_ways = (after_three_steps([0, 1], w) for w in ((0.0, 0.0), (0.0, 1.0), (1.0, 1.0)))
assert torch.equal(unconnected[0], alone[0]) and torch.equal(unconnected[1], alone[1])
assert torch.equal(one_way[0], alone[0]) and not torch.equal(one_way[1], alone[1])
print(
    f"moved by its student: {(both_ways[0] - alone[0]).norm():.3f}, by its teacher: {(one_way[1] - alone[1]).norm():.3f}"
)


# %% [markdown]
# ### Whom to listen to instead
#
# If the large model gains, is it because of what the small one *knows*?
# Three other teachers for the large model separate the possibilities.
#
# - *Matched smoothing*: the true word and, for all others alike, a rest that is chosen such that the labels have the same entropy as the small model's had at that point of its training. It is as unsure as the small model, and knows nothing.
# - *Shuffled labels*: the small model's own distributions, but each hidden place is told what was said at another place of the batch with the same true word. They know which words are alike, and not the sentence.
# - *Averages*: the large model's own weights, averaged exponentially over past steps. No second model is needed.

# %% tags=["method"]
def smoothed(targets, vocabulary, entropy):
    """Log-probabilities (n, v): a share 1 - e for the target, e spread over the others, with this entropy in nats."""
    rest = vocabulary - 1
    entropy_of = lambda e: -(1 - e) * math.log(1 - e) - e * math.log(e / rest)
    low, high = 1e-9, rest / vocabulary  # the entropy rises between them
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if entropy_of(middle) < entropy else (low, middle)
    log_p = torch.full((len(targets), vocabulary), math.log(low / rest), device=targets.device)
    return log_p.scatter_(1, targets[:, None], math.log(1 - low))


def shuffled(targets, rng):
    """A permutation of places (n,) that moves each to a place with the same target, by chance."""
    noise = torch.rand(len(targets), generator=rng)
    by_chance, by_target = (torch.argsort(noise), torch.argsort(targets.cpu(), stable=True))
    mixed = by_chance[torch.argsort(targets.cpu()[by_chance], stable=True)]  # both are sorted by target
    return torch.empty_like(mixed).scatter_(0, by_target, mixed)


@torch.no_grad()
def follow(average, model, decay):
    """average <- decay * average + (1 - decay) * model, weight by weight."""
    for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(weight, 1 - decay)


def word_noise(x, rate, vocabulary, rng):
    """The batch with some of its words replaced at random: data augmentation. Hidden places stay as they are."""
    free = x.inputs >= len(tokens.SPECIAL)
    free.view(-1)[x.positions] = False
    hit = (torch.rand(x.inputs.shape, generator=rng) < rate) & free
    drawn = torch.randint(len(tokens.SPECIAL), vocabulary, x.inputs.shape, generator=rng)
    return Masked(torch.where(hit, drawn, x.inputs), x.positions, x.targets)


# %% [markdown]
# ### Looking at both
#
# During training we look at both models on held-out text under fixed masks: the hard loss, on which every comparison rests, and the entropy of what each model says, which is what the other is told.
# At the end more held-out sequences are used.
# The *excess loss* is the divergence of a model's answer from the best possible one, place by place; it is 0 for a perfect model, and the luck of the words that stood there is not in it.
# Always the last step's weights are judged; nothing is selected on held-out text.

# %% tags=["method"]
@torch.no_grad()
def answers(model, x, device="cpu", part=250):
    """Log-probabilities (n, v) of a model in evaluation mode at the hidden places of a bench."""
    found = []
    for low in range(0, len(x), part):
        some = x.rows(low, min(low + part, len(x))).to(device)
        with precision(device):
            found.append(model.eval()(some.inputs, some.positions).float().log_softmax(-1))
    model.train()
    return torch.cat(found).cpu()


def told_by(log_p, targets):
    """Hard loss and mean entropy in nats, and accuracy in percent, of log-probabilities (n, v)."""
    hard = F.nll_loss(log_p.double(), targets).item()
    entropy = -(log_p.double().exp() * log_p.double()).sum(-1).mean().item()
    return hard, entropy, 100 * (log_p.argmax(-1) == targets).double().mean().item()


def reliability(log_p, targets, bins=10):
    """For each bin of confidence: how many places, the sum of confidences, the number right; (3, bins)."""
    top, guess = log_p.double().exp().max(-1)
    place = (top * bins).long().clamp(max=bins - 1)
    rows = [torch.ones_like(top), top, (guess == targets).double()]
    return torch.stack(
        [torch.zeros(bins, dtype=torch.float64).index_add_(0, place, row) for row in rows]
    ).numpy()


# %% [markdown]
# ### The training loop
#
# An *arm* is one way of training, run with several seeds.
# Every arm of this chapter is one call of the next function; what differs is its arguments.
# A weight may change during training: it is given as points (progress, value), with straight lines between.
# Both models see the same batches in the same order, and for a given seed so do all arms; a model of a given size starts from the same weights in all of them.
# There is no dropout, so no question arises whether a teacher should have it while it teaches.

# %% tags=["method"]
ALWAYS, NEVER = ((0, 1.0),), ((0, 0.0),)


def co_train(
    seed, sizes, rows, bench, steps, lr, batch, to_large=ALWAYS, to_small=ALWAYS, tau=1.0, told="partner", stop=True,
    alternate=False, frozen=None, entropies=None, decay=0.99, noise=0.0, looks=8, device="cpu",
):  # fmt: skip
    """Trains a large and a small model on the same batches, and looks at both.

    sizes: BertConfig of the large and the small model, None for one that is absent. rows: text (n, length).
    bench: held-out "rows", of which "quick" are looked at during training. to_large, to_small: points of the soft weights. told: who teaches the large
    model: "partner", "shuffled", "smoothed" (with `entropies` over training) or "average". frozen: state dicts
    of (large, small), None for a model that learns. noise: share of words replaced.
    """
    models = [None if size is None else bert(size, 2 * seed + i).to(device) for i, size in enumerate(sizes)]
    frozen = frozen or (None, None)
    for model, state in zip(models, frozen, strict=True):
        if state is not None:
            model.load_state_dict(state)
    adams = [None if m is None or state is not None else optimiser(m, lr) for m, state in zip(models, frozen, strict=True)]  # fmt: skip
    size = next(size for size in sizes if size is not None)
    batches, schedule = Batches(rows, size.vocabulary, batch, seed), (ramp(*to_large), ramp(*to_small))
    average = copy.deepcopy(models[0]) if told == "average" else None
    rng = generator(seed, f"ctcd/{told}/{noise}")
    stops = {round(steps * (k + 1) / looks) - 1 for k in range(looks)}
    seen = {"step": [], "hard": [], "entropy": []}
    quick = held_out(bench["rows"][: bench["quick"]], size.vocabulary)
    for step in range(steps):
        x = batches(step)
        x = (word_noise(x, noise, size.vocabulary, rng) if noise else x).to(device)
        weights, factor = [value(step / steps) for value in schedule], linear_warmup_decay(step, steps)
        labels = None
        if told == "smoothed":
            entropy = np.interp(step / steps, np.linspace(0, 1, len(entropies)), entropies)
            labels = smoothed(x.targets, size.vocabulary, entropy)
        elif told == "average":
            with torch.no_grad(), precision(device):
                labels = average(x.inputs, x.positions).float()
        elif told == "shuffled":
            with torch.no_grad(), precision(device):
                labels = models[1](x.inputs, x.positions).float()[shuffled(x.targets, rng)]
        if alternate:
            alternate_step(models, adams, x, weights, tau, factor)
        else:
            joint_step(models, adams, x, weights, tau, factor, (labels, None), stop)
        if average is not None:
            follow(average, models[0], decay)
        if step in stops:
            looked = [(np.nan,) * 3 if m is None else told_by(answers(m, quick, device), quick.targets) for m in models]  # fmt: skip
            seen["step"].append(step + 1)
            seen["hard"].append([one[0] for one in looked])
            seen["entropy"].append([one[1] for one in looked])
    found = {name: np.array(values) for name, values in seen.items()} | look_closely(
        models, bench["rows"], device
    )
    states = [{} if m is None else {k: v.cpu() for k, v in m.state_dict().items()} for m in models]
    return found | {"states": states}


def look_closely(models, rows, device="cpu"):
    """Of each model on all held-out rows: hard loss "final" in nats, "accuracy" in percent, "reliability"."""
    found = {"final": [], "accuracy": [], "reliability": []}
    for model in models:
        values = (np.nan, np.nan, np.full((3, 10), np.nan))
        if model is not None:
            x = held_out(rows, model.config.vocabulary)
            log_p = answers(model, x, device)
            hard, _, accuracy = told_by(log_p, x.targets)
            values = (hard, accuracy, reliability(log_p, x.targets))
        for name, value in zip(found, values, strict=True):
            found[name].append(value)
    return {name: np.array(values) for name, values in found.items()}


def excess_of(seed, sizes, states, rows, best, device="cpu"):
    """KL(best answer || answer) of each model in nats, mean over the first places of a bench, (models,).

    best: probabilities (places, vocabulary).
    """
    best, found = torch.as_tensor(best), []
    for size, state in zip(sizes, states, strict=True):
        if not state:
            found.append(np.nan)
            continue
        model = bert(size).to(device)
        model.load_state_dict(state)
        x = held_out(rows, size.vocabulary)
        x = x.rows(0, len(best) * len(x) // len(x.targets))
        log_p = answers(model, x, device).double()
        found.append((torch.xlogy(best, best) - best * log_p).sum(-1).mean().item())
    return np.array(found)


# %% tags=["method"]
def training_flops(sizes, steps, batch, predicted, length, reads=None, frozen=None):
    """Floating-point operations of a run, in closed form: forward and twice as much backward for what learns.

    predicted: hidden places in a batch. reads: further forward passes of each model in a step. frozen: whether
    each is.
    """
    total = 0
    none = [0] * len(sizes)
    for size, extra, still in zip(sizes, reads or none, frozen or none, strict=True):
        if size is not None:
            total += (extra + (1 if still else 3)) * size.flops(batch, predicted, length)
    return steps * total


def make_text(seed, language, count, length):
    """Sequences int (count, length) of the language."""
    return language.rows(count, length, seed)


def best_answers(seed, language, rows, first):
    """What the best possible model says at the hidden places of the first rows of a bench: (places, vocabulary)."""
    return Posterior(language)(held_out(rows, language.size).rows(0, first))


def gap_closed(low, high, ours, level=0.95):
    """(ours - low) / (high - low), of means over seeds, each (seeds,), with Fieller's interval.

    It holds every share r for which the mean of (ours - low) - r (high - low) is not told apart from 0 by a t test
    over seeds; infinite where the gap itself is not told apart from 0.
    """
    low, high, ours = (np.asarray(x, float) for x in (low, high, ours))
    pair = np.stack([ours - low, high - low])
    won, gap = pair.mean(1)
    share = won / gap if gap else np.inf
    if len(low) == 1:
        return stats.Interval(share, np.nan, np.nan)
    from scipy.special import stdtrit

    (vw, c), (_, vg) = stdtrit(len(low) - 1, 0.5 + level / 2) ** 2 * np.cov(pair) / len(low)
    a, half, rest = gap**2 - vg, won * gap - c, won**2 - vw  # a r^2 - 2 half r + rest <= 0
    if a <= 0:
        return stats.Interval(share, -np.inf, np.inf)
    root = math.sqrt(max(half**2 - a * rest, 0.0))
    return stats.Interval(share, (half - root) / a, (half + root) / a)


def digits(seed, labelled, widths, steps, weight, tau=1.0, batch=32, lr=2e-3):
    """Mutual learning on a supervised task: test accuracies in percent (wide, narrow) on scikit-learn's digits."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 8 - 1, dtype=torch.float32), torch.tensor(labels)
    rng = generator(seed, "digits")
    order = torch.randperm(len(x), generator=rng)
    train, test = order[:labelled], order[len(order) // 2 :]
    models = []
    for number, width in enumerate(widths):
        with seeded(2 * seed + number):
            models.append(nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)))  # fmt: skip
    adams = [optimiser(model, lr) for model in models]
    for step in range(steps):
        rows = train[torch.randint(labelled, (batch,), generator=rng)]
        sum(pair_losses([model(x[rows]) for model in models], y[rows], (weight, weight), tau)).backward()
        for model, adam in zip(models, adams, strict=True):
            clip_and_step(model, adam, linear_warmup_decay(step, steps))
    with torch.no_grad():
        return [100 * (model(x[test]).argmax(-1) == y[test]).double().mean().item() for model in models]


# %% tags=["method"]
def questions(language, count, length, seed):
    """Sentences for probes: ids (n, length), whether their verb has the right number, and its place.

    Also, for agreement, the same sentences put right, with the verb hidden: ids, place, right and wrong form,
    whether a noun of the other number stands between. Sentences that are too long are passed over.
    """
    kept = [x for x in language.acceptability_set(2 * count, seed) if len(x.words) <= length - 2][:count]
    right = [x if x.grammatical else language.ungrammatical(x) for x in kept]
    ids = tokens.padded(language.encode([x.words for x in kept]), length=length)
    hidden = tokens.padded(language.encode([x.words for x in right]), length=length)
    place = np.array([1 + x.verb for x in kept])
    rows = np.arange(len(kept))
    good = hidden[rows, place]
    bad = tokens.padded(language.encode([language.ungrammatical(x).words for x in right]), length=length)[
        rows, place
    ]
    hidden[rows, place] = tokens.MASK
    return {
        "ids": ids, "label": np.array([int(x.grammatical) for x in kept]), "place": place, "hidden": hidden,
        "good": good, "bad": bad, "attracted": np.array([x.attractors > 0 for x in kept]),
    }  # fmt: skip


@torch.no_grad()
def examined(seed, size, state, train, test, device="cpu"):
    """What a model is good for, in percent: a linear probe for right and wrong verbs (states averaged, and at
    the verb), and the share of hidden verbs of which the right form is likelier (all, across an attractor)."""
    model = bert(size).to(device).eval()
    model.load_state_dict(state)
    found = {}
    for name, at in (("probe", None), ("probe-verb", "place")):
        x, x_test = (features(model, part["ids"], None if at is None else part[at]) for part in (train, test))  # fmt: skip
        found[name] = probe(x, train["label"], x_test, test["label"], 0.1)
    ids = torch.as_tensor(test["hidden"])
    states = model.hidden(ids.to(device), (ids != tokens.PAD).to(device))
    logits = model.logits(states[torch.arange(len(ids)), torch.as_tensor(test["place"])]).float().cpu()
    rows = torch.arange(len(ids))
    right = (logits[rows, torch.as_tensor(test["good"])] > logits[rows, torch.as_tensor(test["bad"])]).numpy()
    return found | {"agreement": 100 * right.mean(), "attracted": 100 * right[test["attracted"]].mean()}


def tuned(seed, size, state, task, recipe, device="cpu"):
    """Score in percent on a task of a copy of a model, fine-tuned; state: None for random weights.

    task: arrays "ids", "labels", "ids_dev", "labels_dev", and the "name" of a task of GLUE, or "judged" (accuracy).
    """
    model = bert(size, seed)
    if state is not None:
        model.load_state_dict(state)
    said = fine_tune(model.to(device), task["ids"], task["labels"], task["ids_dev"], recipe, seed)
    return scored(task, said)


def scored(task, said):
    """Predictions (n,) of a task's development set as a score in percent."""
    if task["name"] == "judged":
        return 100 * float((said == task["labels_dev"]).mean())
    return glue.score(task["name"], said, task["labels_dev"])[task["name"]]


# %% [markdown]
# ## The experiments
#
# ### Two models, four amounts of text
#
# The large and the small model have the same width and differ in their number of layers; both are encoders of the BERT kind, trained with the same learning rate and the same number of steps.
# What differs between the experiments is how much text there is.
# *Fresh*: every sequence is seen once.
# *Ample*: a corpus that is seen some sixteen times; the sister paper has twenty passes over its corpus.
# *Repeated*: a small corpus, seen again and again, such that the large model can begin to learn it by heart.
# *Scarce*: half of that, seen twice as often; models alone over-fit it, so that soft labels may have something to prevent.
# For a given seed every arm starts from the same weights and sees the same text in the same order under the same masks, so that arms are compared in pairs; another seed has other weights and another text of the language.

# %%
STEPS, BATCH, LR = s.choose(smoke=(24, 16, 4e-3), standard=(1_200, 32, 4e-3))
COUNT = s.choose(smoke=48, standard=256)  # sequences of the repeated corpus
SIZE = dict(vocabulary=LANGUAGE.size, length=LENGTH, norm=NORM, heads=2, **s.choose(smoke=dict(width=16, std=0.15), standard=dict(width=32, std=0.06)))  # fmt: skip
LARGE, SMALL = (BertConfig(layers=n, **SIZE) for n in s.choose(smoke=(3, 1), standard=(4, 1)))
FEW = s.seeds[:3]  # of what does not decide
SEEN = {"scarce": COUNT // 2, "repeated": COUNT, "fresh": STEPS * BATCH}  # sequences of each corpus
SEEN = dict(sorted({**SEEN, "ample": s.choose(smoke=96, standard=2_400)}.items(), key=lambda pair: pair[1]))
OF = {regime: s.seeds if regime in ("scarce", "repeated") else FEW for regime in SEEN}  # seeds of each
with s.section("text"):
    TEXT = {
        regime: {
            seed: s.memo("text", make_text, seed=seed + 1_000 * (regime == "fresh"), language=LANGUAGE, count=count, length=LENGTH)
            for seed in OF[regime]
        }
        for regime, count in SEEN.items()
    }
    BENCH = {
        "rows": LANGUAGE.rows(s.choose(smoke=60, standard=10_000), LENGTH, seed=10_000),
        "quick": s.choose(smoke=60, standard=400),
    }
    held = held_out(BENCH["rows"], LANGUAGE.size)
    first = s.choose(smoke=30, standard=2_000)  # where the best answers are worked out
    BEST = s.memo("best answers", best_answers, seed=None, language=LANGUAGE, rows=BENCH["rows"], first=first)
SIZES, ALL = {}, {}  # {(regime, arm): {seed: what co_train returns}}


def train(arm, seeds, regime, each=None, text=None, **how):
    """Trains an arm with each seed, or takes it from the cache; each: further arguments of a seed; text: the
    regime whose text is used (regime)."""
    calls = [
        {"seed": seed, "sizes": (LARGE, SMALL), "rows": TEXT[text or regime][seed] if (text or regime) in TEXT else None, "bench": BENCH, "steps": STEPS, "lr": LR, "batch": BATCH,
         "device": str(s.device.type), **how, **(each(seed) if each else {})}
        for seed in seeds
    ]  # fmt: skip
    with s.section(regime):
        made = s.memo_each("train", co_train, calls, label=f"{regime}: {arm}")
    ALL[regime, arm] = dict(zip(seeds, made, strict=True))
    SIZES[regime, arm] = how.get("sizes", (LARGE, SMALL))


predicted = len(held_out(BENCH["rows"][:BATCH], LANGUAGE.size).positions)
flops = lambda *sizes, steps=STEPS, **how: training_flops(sizes, steps, BATCH, predicted, LENGTH, **how)
for name, size in (("large", LARGE), ("small", SMALL)):
    print(
        f"{name}: {size.layers} layers of width {size.width}, {size.parameters():,} weights, {flops(size) / 1e9:.1f} GFLOP to train"
    )
for regime, count in SEEN.items():
    print(f"{regime} text: {count:,} sequences, {count * LENGTH:,} tokens, {STEPS * BATCH / count:.0f} passes in {STEPS:,} steps")

# %% [markdown]
# Before any model is trained, three marks on the scale: guessing every word alike, knowing only how frequent words are, and knowing the grammar.

# %%
counts = np.bincount(TEXT["fresh"][FEW[0]].ravel(), minlength=LANGUAGE.size)[5:] + 1.0
frequency = torch.full((LANGUAGE.size,), 1e-30, dtype=torch.float64)
frequency[5:] = torch.as_tensor(counts / counts.sum())
best = torch.as_tensor(BEST)
entropy = torch.special.entr(best).sum(-1)
OPTIMUM, UNIFORM = entropy.mean().item(), math.log(LANGUAGE.size - 5)
UNIGRAM = -frequency.log()[held.targets].mean().item()
UNIGRAM_EXCESS = -(best * frequency.log()).sum(-1).mean().item() - OPTIMUM
for name, value in {"trivial/uniform": UNIFORM, "trivial/unigram": UNIGRAM, "trivial/unigram-excess": UNIGRAM_EXCESS, "optimum": OPTIMUM}.items():  # fmt: skip
    s.metric(name, value, unit="nats")
s.say(
    f"Held-out hard loss: {UNIFORM:.2f} nats for guessing, {UNIGRAM:.2f} for frequencies, {OPTIMUM:.2f} for the best possible answers. "
    f"Frequencies have an excess of {UNIGRAM_EXCESS:.2f} nats over these."
)

# %% [markdown]
# ### The arms
#
# | arm | the large model is told by | the small model is told by | what it is for |
# |---|---|---|---|
# | alone | nobody | nobody | the stand-alone models; one joint run with both weights 0 |
# | frozen teacher | – | the trained large model of *alone* | ordinary distillation; its teacher is older |
# | one way | nobody | the large model as it trains | CTCD without the way back |
# | reversed | the trained small model of *alone* | – | a weak teacher |
# | CTCD | the small model as it trains | the large model as it trains | the method |
# | smoothing | a smoother of the same entropy | – | is K1 smoothing? |
# | smoothing, same share | a smoother that gives the true word as much as the small model does | – | is K1 smoothing that brakes as hard? |
# | smoothing by 0.1 | the uniform distribution, with a ninth of the weight | – | is K1 ordinary label smoothing? |
# | two large, two small | another large (small) model | another small model | deep mutual learning {cite:p}`zhang2018dml` |
# | shuffled | the small model at another place with the same word | the large model | is K1 knowing which words are alike? |
# | average | an average of its own weights (decay 0.99) | – | is K1 averaging? |
#
# Matched smoothers are two because a small model that is unsure gives the true word less than a smoother of the same entropy does, and so takes more of the certainty away.
# All have soft weights of 1 and temperature 1 unless it is said otherwise, and all take the same number of steps.
# Steps are what the paper seems to hold equal; a joint step costs the sum of two, so stand-alone models with as many *operations* as a joint run are trained, too.

# %%
ARMS = {"alone": dict(to_large=NEVER, to_small=NEVER), "one way": dict(to_large=NEVER), "CTCD": {}}
for regime, seeds in OF.items():
    for arm, how in ARMS.items():
        train(arm, seeds, regime, **how)
    rounding = 0.0 if s.device.type == "cpu" else 1e-3  # a GPU does not add in a fixed order
    for seed in seeds:  # with the weight from small to large at 0 nothing reaches the large model
        one, other = (ALL[regime, arm][seed]["states"][0] for arm in ("alone", "one way"))
        assert all(torch.allclose(value, other[name], rounding, rounding) for name, value in one.items())

# %%
JOINT = flops(LARGE, SMALL)
MORE = [round(STEPS * JOINT / flops(size)) for size in (LARGE, SMALL)]


def doubts(regime):
    """The mean entropy of the small model's answers in a joint run, from the beginning (uniform) to the end."""
    made = ALL[regime, "CTCD"]
    return lambda seed: {"entropies": np.concatenate([[UNIFORM], made[seed]["entropy"][:, 1]])}


def shares(regime):
    """Entropies of smoothers that give the true word what the small model gives it (its geometric mean)."""
    made, rest = ALL[regime, "CTCD"], LANGUAGE.size - 1

    def entropies(seed):
        off = 1 - np.exp(-made[seed]["hard"][:, 1])
        return {"entropies": np.concatenate([[UNIFORM], -(1 - off) * np.log(1 - off) - off * np.log(off / rest)])}

    return entropies


lone = lambda regime, i: lambda seed: {"frozen": [ALL[regime, "alone"][seed]["states"][j] if j == i else None for j in range(2)]}  # fmt: skip
for regime in ("scarce", "repeated"):
    train("smoothing", s.seeds, regime, doubts(regime), sizes=(LARGE, None), told="smoothed")
# Label smoothing by a tenth: 1/9 of the uniform distribution beside the true word.
train("smoothing by 0.1", FEW, "scarce", sizes=(LARGE, None), told="smoothed", to_large=((0, 1 / 9),), entropies=np.full(9, 10.0))  # fmt: skip
train("smoothing, same share", s.seeds, "scarce", shares("scarce"), sizes=(LARGE, None), told="smoothed")
train("average", FEW, "scarce", sizes=(LARGE, None), told="average")
train("large, same FLOPs", FEW, "scarce", sizes=(LARGE, None), to_large=NEVER, steps=MORE[0])
train("shuffled", FEW, "scarce", told="shuffled")
train("reversed", FEW, "scarce", lone("scarce", 1))
train("two large", FEW, "scarce", sizes=(LARGE, LARGE))
train("frozen teacher", FEW, "repeated", lone("repeated", 0))
train("two small", FEW, "repeated", sizes=(SMALL, SMALL))
train("small, same FLOPs", FEW, "repeated", sizes=(None, SMALL), to_small=NEVER, steps=MORE[1])

# %% [markdown]
# Shuffled labels are shuffled only where the same true word stands at another hidden place of the batch.

# %%
kept, rng = [], generator(0, "how many stay")
for x in Batches(TEXT["scarce"][s.seeds[0]], LANGUAGE.size, BATCH, 0).steps(20):
    kept.append((shuffled(x.targets, rng) == torch.arange(len(x.targets))).double().mean().item())
s.metric("shuffled/kept", 100 * np.mean(kept), unit="%")
print(f"{np.mean(kept):.0%} of the places keep their own label")

# %% [markdown]
# Then data augmentation, and the ablations, of which each changes one thing; they use the scarce text, where K1 was found (`s-l`: weight from small to large, `l-s`: the other way).

# %%
NOISE, BASE = 0.1, "scarce"
for arm in ARMS:
    train(arm, FEW, "augmented", text=BASE, noise=NOISE, **ARMS[arm])
GRID = {"s-l": (0.5, 4.0), "l-s": (0.0, 4.0), "tau": (2.0, 4.0)}
ablate = lambda arm, **how: train(arm, FEW, "ablations", text=BASE, **how)
for value in GRID["tau"]:
    ablate(f"tau {value:g}", tau=value)
for value in GRID["s-l"]:
    ablate(f"s-l {value:g}", to_large=((0, value),))
for value in GRID["l-s"]:
    ablate(f"l-s {value:g}", to_small=((0, value),))
other = BertConfig(layers=2, **SIZE)
ablate("small of 2", sizes=(LARGE, other))
ablate("small of 2, alone", sizes=(None, other), to_small=NEVER)
ablate("no stop-gradient", stop=False)
ablate("off after half", to_large=((0, 1), (0.5, 1), (0.5, 0)))
ablate("warm-up of weights", to_large=((0, 0), (0.25, 1)), to_small=((0, 0), (0.25, 1)))
ablate("alternating", alternate=True)
for arm in ("alone", "CTCD"):
    ablate(f"{arm}, half the steps", steps=STEPS // 2, **ARMS[arm])

# %% [markdown]
# ## What came out
#
# ### Losses
#
# Held-out hard loss in nats, mean over seeds with 95 % intervals; these are wide because seeds differ in text and start, which paired differences, below, do not feel.

# %% tags=["hide-input"]
ID = lambda name: name.replace(", ", "-").replace(" ", "-").lower()
WHO = ("large", "small")


def final(arm, who, regime, key="final"):
    """{seed: number} of the large (0) or small (1) model of an arm."""
    made = ALL[regime, arm]
    if key == "excess":
        calls = [
            {
                "seed": seed,
                "sizes": SIZES[regime, arm],
                "states": one["states"],
                "rows": BENCH["rows"],
                "best": BEST,
                "device": s.device.type,
            }
            for seed, one in made.items()
        ]
        return {
            seed: float(values[who])
            for seed, values in zip(
                made, s.memo_each("excess", excess_of, calls, label="excess"), strict=True
            )
        }
    return {seed: float(one[key][who]) for seed, one in made.items()}


def gain(name, worse, better, unit="nats"):
    """Records worse - better, paired by seed: above 0 where the second has the lower loss."""
    return s.metric(name, {seed: worse[seed] - better[seed] for seed in worse if seed in better}, unit=unit)


def shown(metric, digits=3, sign=False):
    """A metric with its interval, for a table."""
    form = f"{{:{'+' if sign else ''}.{digits}f}}"
    text = form.format(metric.value)
    return text if metric.low is None else f"{text} [{form.format(metric.low)}, {form.format(metric.high)}]"


def table(header, rows):
    s.say(
        f"| {' | '.join(header)} |\n|{'---|' * len(header)}\n"
        + "\n".join(f"| {' | '.join(row)} |" for row in rows)
    )


EACH = {
    "alone": (0, 1), "one way": (0, 1), "CTCD": (0, 1), "smoothing": (0,), "smoothing, same share": (0,), "smoothing by 0.1": (0,), "average": (0,), "shuffled": (0, 1), "reversed": (0,), "two large": (0,),
    "large, same FLOPs": (0,), "frozen teacher": (1,), "two small": (1,), "small, same FLOPs": (1,),
}  # fmt: skip
for regime in SEEN:
    rows = []
    for arm, who in EACH.items():
        if (regime, arm) in ALL:
            cells = ["–", "–"]
            for i in who:
                metric = s.metric(f"loss/{regime}/{ID(arm)}/{WHO[i]}", final(arm, i, regime), unit="nats")
                cells[i] = shown(metric)
            rows.append([arm, *cells])
    table([f"{regime} text", "large", "small"], rows)

# %% tags=["hide-input"]
CONTRASTS = {
    "K1": ("K1: large model: CTCD against alone", "alone", 0, "CTCD", 0),
    "K2": ("K2: small model: CTCD against one way", "one way", 1, "CTCD", 1),
    "K3": ("K3: small of CTCD against large alone", "alone", 0, "CTCD", 1),
    "small": ("small model: CTCD against alone", "alone", 1, "CTCD", 1),
    "one-way": ("small model: one way against alone", "alone", 1, "one way", 1),
    "one-way-k3": ("small of one way against large alone", "alone", 0, "one way", 1),
    "frozen": ("small model: CTCD against frozen teacher", "frozen teacher", 1, "CTCD", 1),
    "size": ("alone: large against small", "alone", 1, "alone", 0),
}  # fmt: skip
RIVALS = {
    "smoothing": ("smoother, same entropy", "smoothing"), "same-share": ("smoother, same share", "smoothing, same share"), "light": ("label smoothing by 0.1", "smoothing by 0.1"), "average": ("its own average", "average"), "shuffled": ("shuffled labels", "shuffled"),
    "reversed": ("a trained small model", "reversed"), "two-large": ("another large model", "two large"),
    "same-flops": ("more steps alone", "large, same FLOPs"),
}  # fmt: skip


def contrasts(regime):
    """Records the gains of a regime, from the arms that it has; their labels."""
    found = {}
    for id, (label, worse, i, better, j) in CONTRASTS.items():
        if (regime, worse) in ALL and (regime, better) in ALL:
            name = f"gain/{regime}/{ID(id)}"
            gain(name, final(worse, i, regime), final(better, j, regime))
            gain(f"{name}/excess", final(worse, i, regime, "excess"), final(better, j, regime, "excess"))
            found[name] = label
    return found


for regime in SEEN:
    contrasts(regime)
for regime in ("scarce", "repeated"):
    for id, (_, arm) in RIVALS.items():
        if (regime, arm) in ALL:
            gain(f"against/{regime}/{id}", final(arm, 0, regime), final("CTCD", 0, regime))
            gain(f"rival/{regime}/{id}", final("alone", 0, regime), final(arm, 0, regime))
    # Training alone, stopped where the held-out loss was lowest of all looks; CTCD at its end; on the smaller bench.
    stopped = {seed: float(made["hard"][:, 0].min()) for seed, made in ALL[regime, "alone"].items()}
    ended = {seed: float(made["hard"][-1, 0]) for seed, made in ALL[regime, "CTCD"].items()}
    gain(f"against/{regime}/stopped", stopped, ended)
    gain(f"rival/{regime}/stopped", {seed: float(made["hard"][-1, 0]) for seed, made in ALL[regime, "alone"].items()}, stopped)
gain("against/repeated/small-same-flops", final("small, same FLOPs", 1, "repeated"), final("CTCD", 1, "repeated"))
gain("against/repeated/two-small", final("two small", 1, "repeated"), final("CTCD", 1, "repeated"))
metrics = lambda: s.record().metrics
M = metrics()
for ending, label in (("", "gain in loss (nats)"), ("/excess", "gain in excess loss (nats)")):
    rows = []
    for id, (said, *_) in CONTRASTS.items():
        if ending and id not in ("K1", "K2", "K3", "size"):
            continue
        names = [f"gain/{regime}/{ID(id)}{ending}" for regime in SEEN]
        rows.append([said, *(shown(M[name], 3, True) if name in M else "–" for name in names)])
    table([label, *SEEN], rows)

# %% mystnb={"figure": {"caption": "Contrasts in nats of held-out loss, above 0 where the claim holds; orange squares: K1 to K3. Small marks are seeds (five in the upper panels, three in the lower ones), large ones means with 95 % intervals. Scales differ between panels.", "name": "fig-ctcd-contrasts"}, "image": {"alt": "Four panels, one for each amount of text, with a row for each contrast and a dashed line at 0. On scarce text the large model gains clearly and the small model of CTCD is above the large one alone. On the other three texts the small model of CTCD lies clearly left of the line, below the large model alone; the gain of the large model is at the line on repeated text and left of it on ample and fresh text, and the gain over one way is near the line, on ample text to its right."}} tags=["hide-input"]
fig, axes = plots.figure(2, 2, width=8.4, height=6.0, sharey=True)
for ax, regime in zip(axes.ravel(), SEEN, strict=True):
    shown_ids = [id for id in CONTRASTS if f"gain/scarce/{ID(id)}" in M]
    for row, id in enumerate(shown_ids):
        m = M[f"gain/{regime}/{ID(id)}"]
        decisive = id in ("K1", "K2", "K3")
        colour = plots.PALETTE[1] if decisive else plots.PALETTE[0]
        values = list((m.per_seed or {0: m.value}).values())
        ax.plot(values, [row + 0.18] * len(values), ls="none", marker="|", ms=7, color=colour)
        error = None if m.low is None else [[m.value - m.low], [m.high - m.value]]
        ax.errorbar(
            [m.value],
            [row],
            xerr=error,
            capsize=3,
            marker="s" if decisive else "o",
            color=colour,
            ls="none",
            ms=6,
        )
    ax.axvline(0, color=plots.MUTED, lw=1, ls="--")
    ax.set(title=f"{regime} text", xlabel="gain (nats)")
    if ax is axes[0, 0]:
        ax.set_yticks(range(len(shown_ids)), [CONTRASTS[id][0] for id in shown_ids])
        ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
plots.finish(fig)

# %% mystnb={"figure": {"caption": "Held-out loss of both models against steps: (a) on scarce text, where the large model alone over-fits, (b) on ample text; on the part of the held-out text that is looked at during training, so that ends differ a little from the tables. Solid: large models, with 95 % intervals over seeds (scarce: five, shuffled and ample: three); dashed: small models, means only, and on scarce text one small model alone never left its plateau. With one way, the large model is the one alone.", "name": "fig-ctcd-curves"}, "image": {"alt": "Two panels of falling curves. On scarce text the large model alone falls first, turns at half of the steps and rises to the end, while the large models of CTCD and of shuffled labels, the lowest, fall and stay low, as do the small models of CTCD and of one way; the small model alone ends highest. On ample text all curves fall to the end; the large model alone starts late and ends lowest, the large model of CTCD ends above it, and the small models end highest, close together."}} tags=["hide-input"]
fig, axes = plots.figure(1, 2, width=8.4, height=3.8)
curve_of = lambda arm, i, regime: np.stack([made["hard"][:, i] for made in ALL[regime, arm].values()])
steps_at = ALL[BASE, "alone"][s.seeds[0]]["step"]
looks_of = {"alone": "random", "one way": "gcn", "CTCD": "ctcd", "shuffled": "ours"}
for ax, regime in zip(axes, ("scarce", "ample"), strict=True):
    for arm, name in looks_of.items():
        if (regime, arm) not in ALL:
            continue
        how = plots.style(name)
        for i in range(2) if arm != "one way" else (1,):
            found = curve_of(arm, i, regime)
            mean, low, high = stats.t_interval(found, axis=0)
            line = "-" if i == 0 else "--"
            ax.plot(steps_at, mean, color=how.colour, marker=how.marker, ls=line, ms=4, label=f"{arm}, {WHO[i]}")
            if i == 0 and len(found) > 1:
                ax.fill_between(steps_at, low, high, color=how.colour, alpha=0.15, lw=0)
    ax.axhline(OPTIMUM, color=plots.INK, lw=1, ls=":")
    ax.set(xlabel="steps", ylabel="held-out loss (nats)", title=f"{regime} text (dotted: best possible)")
    ax.legend(fontsize=7)
plots.letter(axes)
plots.finish(fig)


# %% tags=["hide-input"]
def word(name):
    """What an interval says about a difference."""
    m = M[name]
    if m.low is None:
        return f"{m.value:+.3f} (one run)"
    side = "above 0" if m.low > 0 else "below 0" if m.high < 0 else "not told apart from 0"
    return f"{m.value:+.3f} [{m.low:+.3f}, {m.high:+.3f}], {side}"


def holm(ps):
    """Holm's adjustment of p-values, in their order."""
    order, out, worst = np.argsort(ps), np.zeros(len(ps)), 0.0
    for rank, k in enumerate(order):
        worst = max(worst, min(1.0, (len(ps) - rank) * ps[k]))
        out[k] = worst
    return out


lines = []
for regime in SEEN:
    said = "; ".join(f"{id} {word(f'gain/{regime}/{id.lower()}')}" for id in ("K1", "K2", "K3"))
    lines.append(f"- *{regime.capitalize()} text*: {said}.")
    lines[-1] += f" The large model alone against the small one alone: {word(f'gain/{regime}/size')}."
if len(s.seeds) > 2:
    from scipy.stats import ttest_1samp

    tests = [list(M[f"gain/repeated/{id}"].per_seed.values()) for id in ("k1", "k2", "k3")]
    p_values = holm(np.array([ttest_1samp(values, 0).pvalue for values in tests]))
    lines.append("The three contrasts on repeated text were decided on beforehand; their p-values, two-sided and adjusted for being three (Holm; that of K3 is of a difference on the wrong side): " + ", ".join(f"{p:.2g}" for p in p_values) + ".")
    less = [stats.t_interval(values[1:]) for values in tests]
    lines.append("Without seed 0, on which pilots ran, they are " + ", ".join(f"{m:+.3f} [{a:+.3f}, {b:+.3f}]" for m, a, b in less) + ".")



def crossing(i):
    """For each seed the look from which CTCD's loss stays below the loss alone, as a step; None for never."""
    found = []
    for seed in s.seeds:
        below = ALL[BASE, "CTCD"][seed]["hard"][:, i] < ALL[BASE, "alone"][seed]["hard"][:, i]
        first = len(below) - int(np.argmin(below[::-1])) if not below.all() else 0
        found.append(int(steps_at[first]) if first < len(below) else None)
    return found


for i, who in enumerate(WHO):
    at = crossing(i)
    told = ", ".join("never" if step is None else f"{step:,}" for step in at)
    lines.append(f"On {BASE} text CTCD's {who} model is below the one alone for good from step (seed by seed): {told}.")
stuck = sum(x >= UNIGRAM for x in final("alone", 1, BASE).values())
lines.append(f"On {BASE} text the small model alone ends no better than frequencies in {stuck} of {len(s.seeds)} seeds.")


def on_training_text(regime, arm, text):
    """Mean loss of an arm's large model on the text that it was trained on, over the seeds, under new masks."""
    found = []
    for seed, made in ALL[regime, arm].items():
        model = bert(LARGE).to(s.device)
        model.load_state_dict(made["states"][0])
        x = held_out(TEXT[text][seed], LANGUAGE.size, seed=1)
        found.append(told_by(answers(model, x, s.device), x.targets)[0])
    return float(np.mean(found))


values = {arm: on_training_text(regime, arm, BASE) for regime, arm in ((BASE, "alone"), (BASE, "CTCD"), ("ablations", "off after half"))}
for arm, value in values.items():
    s.metric(f"training-text/{ID(arm)}", value, unit="nats")
lines.append("Loss of the large model on its own scarce text: " + ", ".join(f"{arm} {value:.2f}" for arm, value in values.items()) + ".")
apart = np.array(list(M[f"gain/{BASE}/small"].per_seed.values())) if len(s.seeds) > 1 else np.zeros(1)
if len(apart) > 2:
    mean, low, high = stats.t_interval(np.sort(apart)[:-1])
    lines.append(f"There CTCD's small model is better than the one alone in {(apart > 0).sum()} of {len(apart)} seeds; without the seed of the largest gain the mean is {mean:+.3f} [{low:+.3f}, {high:+.3f}].")
    size = np.array(list(M[f"gain/{BASE}/size"].per_seed.values()))
    lines.append(f"The large model alone is better than the small one alone in {(size > 0).sum()} of {len(size)} seeds.")
s.say("\n".join(line if line.startswith("- ") else f"- {line}" for line in lines))

# %% [markdown]
# In the published run the answer depends on how much text there is.
#
# *K1.*
# On scarce text the large model alone over-fits: its held-out loss falls, turns and rises again, while its loss on its own text ends far below (see the lines above).
# What the small model tells it stops that, and K1 is large, in every seed.
# On repeated text, where the question had been decided on beforehand, K1 is not told apart from zero.
# With ample text it is *below* zero: a weak teacher holds the large model back; on fresh text the mean is below zero too, with an interval that is wide.
#
# *K2.*
# Only with ample text is the small model of CTCD better than that of one-way distillation.
# But there the large model is *worse* for listening, so a better teacher cannot be the reason; the abstract's chain, from a better large model to a better small one, is not what happens.
# One-way distillation makes the small model worse than alone there, and CTCD brings it back to where it is alone, not above.
# This is one of four texts, with three seeds and no correction for looking four times; on scarce text the first link of the chain holds, and K2 does not.
#
# *K3.*
# Wherever the large model alone is better than the small one alone, the small model of CTCD stays below the large one: on three texts, with every interval below zero.
# On scarce text it is above, but so is the small model of one-way distillation, and there the large model alone is not shown to be better than the small one, so that K3 has no premise.
# Against a small model *alone* no interval says that CTCD is better, on any text.
# On scarce text that hangs on one seed: all five are on CTCD's side, one of them by a small model alone that never left the plateau of frequencies, which makes the interval very wide.
# Distillation in either form got that seed off the plateau.
#
# ### The share of the gap
#
# K3 asks for more than a gain: the small model should pass the large one.
# The *share of the stand-alone gap* says how far it comes: 0 where it is as good as a small model alone, 1 where it is as good as a large model alone, more where it passes it.

# %% tags=["hide-input"]
SHARES = {
    f"{regime}/{ID(arm)}{'-excess' if key == 'excess' else ''}": (arm, regime, key)
    for regime in SEEN if (gap := M[f"gain/{regime}/size"]).low is None or gap.low > 0  # where there is a gap
    for arm in ("frozen teacher", "one way", "CTCD") if (regime, arm) in ALL
    for key in ("final", "excess")
}  # fmt: skip
SHARE = {}
for name, (arm, regime, key) in SHARES.items():
    seeds = list(ALL[regime, arm])
    low, high, ours = (
        [final(a, i, regime, key)[seed] for seed in seeds] for a, i in (("alone", 1), ("alone", 0), (arm, 1))
    )
    SHARE[name] = gap_closed(low, high, ours)
    mean, low, high = SHARE[name]
    ends = dict(low=low, high=high) if np.isfinite([low, high]).all() else {}
    if np.isfinite(mean):
        s.metric(f"share/{ID(name)}", mean, n=len(seeds) if ends else 1, **ends)
as_text = lambda x: (
    f"{x[0]:.2f} [{x[1]:.2f}, {x[2]:.2f}]" if np.isfinite(x).all() else f"{x[0]:.2f} (no interval)"
)
table(["small model of", "text", "share of the gap"], [[arm + (", excess loss" if key == "excess" else ""), regime, as_text(SHARE[name])] for name, (arm, regime, key) in SHARES.items()])  # fmt: skip

# %% tags=["hide-input"]
for regime in SEEN:
    curves = np.stack([made["hard"] for made in ALL[regime, "alone"].values()]).mean(0)
    late = [f"{step:,}" for step, (large, small) in zip(steps_at, curves, strict=True) if large > small]
    print(f"{regime} text: alone, the large model is behind the small one at steps {', '.join(late) or 'none'}")

# %% mystnb={"figure": {"caption": "Share of the gap between the small and the large stand-alone model that a small model closes, with Fieller intervals over seeds (repeated: five, frozen teacher, ample and fresh: three). Dashed: the large model trained alone.", "name": "fig-ctcd-gap"}, "image": {"alt": "Horizontal bars with long error bars. On repeated text three bars reach to between a quarter and a half, with intervals from far below zero to about two thirds; on ample and fresh text all bars point below zero. No interval reaches the dashed line at 1."}} tags=["hide-input"]
fig, ax = plots.figure(width=6.6, height=3.0)
names = [name for name, (_, _, key) in SHARES.items() if key == "final"]
for row, name in enumerate(names):
    mean, low, high = SHARE[name]
    arm = SHARES[name][0]
    how = plots.style({"CTCD": "ctcd", "one way": "gcn", "frozen teacher": "nearest"}[arm])
    ax.barh(
        row,
        mean,
        color=how.colour,
        height=0.6,
        alpha=0.85,
        hatch="" if arm == "CTCD" else "//",
        edgecolor="white",
    )
    if np.isfinite([low, high]).all():
        ax.errorbar([mean], [row], xerr=[[mean - low], [high - mean]], color=plots.INK, capsize=3)
ax.axvline(1, color=plots.INK, ls="--", lw=1)
ax.axvline(0, color=plots.MUTED, lw=1)
ax.set_yticks(range(len(names)), [f"{SHARES[n][0]}, {SHARES[n][1]}" for n in names])
ax.invert_yaxis()
ax.set(xlabel="share of the stand-alone gap closed")
ax.grid(axis="y", visible=False)
plots.finish(fig)

# %% [markdown]
# In the published run there is a gap on repeated, ample and fresh text.
# On repeated text CTCD and one-way distillation both close a little less than half of it, with intervals that reach below zero.
# With more text they close nothing, and one-way distillation with ample text makes the small model worse than it is alone.
# The line above the figure suggests why, with ample and fresh text: the large model alone is, at some looks in the first half, behind a small model alone, so that a student is then told by something worse than it could have become by itself.
# That this is the cause, or has to do with K2 there, was not tested.
#
# A share above 1 is what K3 asks for; no interval reaches it.
#
# ### Is it the small model's knowledge?
#
# The large model's gain over being alone, under each of its possible teachers; and what CTCD has over each of them.

# %% tags=["hide-input"]
for regime in ("scarce", "repeated"):
    rows = [["CTCD", shown(M[f"gain/{regime}/k1"], 3, True), "–"]]
    for id, label in {**{id: label for id, (label, _) in RIVALS.items()}, "stopped": "nobody, but stopped at its best"}.items():
        if f"rival/{regime}/{id}" in M:
            rows.append([label, *(shown(M[f"{what}/{regime}/{id}"], 3, True) for what in ("rival", "against"))])
    table([f"{regime} text: told by", "gain over alone", "CTCD has more"], rows)

# %% mystnb={"figure": {"caption": "(a) Entropy of the answers of both models on held-out text during training: what the other is told. (b) Reliability at the end: how often the likeliest word is right, by the probability given to it; all seeds together.", "name": "fig-ctcd-calibration"}, "image": {"alt": "Left: four falling curves of entropy; the large model alone falls fastest and lowest, the two of CTCD stay close together above it, the small model alone ends highest. Right: reliability; the large model alone runs far below the diagonal, the other three stay near to it."}} tags=["hide-input"]
fig, axes = plots.figure(1, 2, width=8.2, height=3.4)
for arm, name in {"alone": "random", "CTCD": "ctcd"}.items():
    how = plots.style(name)
    for i in range(2):
        line = "-" if i == 0 else "--"
        entropy = np.stack([made["entropy"][:, i] for made in ALL[BASE, arm].values()]).mean(0)
        axes[0].plot(
            steps_at, entropy, color=how.colour, marker=how.marker, ls=line, ms=4, label=f"{arm}, {WHO[i]}"
        )
        count, confidence, right = np.sum(
            [made["reliability"][i] for made in ALL[BASE, arm].values()], 0
        )
        there = count > 0.01 * count.sum()
        axes[1].plot(
            confidence[there] / count[there],
            right[there] / count[there],
            color=how.colour,
            marker=how.marker,
            ls=line,
            ms=4,
        )
        gaps = [
            100
            * np.abs(made["reliability"][i][1] - made["reliability"][i][2]).sum()
            / made["reliability"][i][0].sum()
            for made in ALL[BASE, arm].values()
        ]
        s.metric(
            f"calibration/{arm.lower()}/{WHO[i]}",
            dict(zip(ALL[BASE, arm], gaps, strict=True)),
            unit="%",
        )
axes[1].plot([0, 1], [0, 1], color=plots.MUTED, lw=1, ls=":")
axes[0].set(xlabel="steps", ylabel="entropy (nats)", title="entropy of the answers")
axes[1].set(xlabel="confidence", ylabel="share right", title="reliability")
axes[0].legend(fontsize=7)
plots.letter(axes)
plots.finish(fig)

# %% tags=["hide-input"]
M = metrics()
calibrated = {w: [M[f"calibration/{arm}/{w}"] for arm in ("alone", "ctcd")] for w in WHO}
s.say(
    "Calibration error (the mean gap between confidence and share right over ten bins of confidence, in points), alone and with CTCD: "
    + "; ".join(f"{who} model {shown(pair[0], 1)} and {shown(pair[1], 1)}" for who, pair in calibrated.items())
    + "."
)

# %% [markdown]
# In the published run, on scarce text, neither of the smoothers that are matched to the small model helps the large one, and its own average does not, either.
# (More steps alone do harm; but here they are more passes over the same text, so that says little about computation.)
# Ordinary label smoothing by 0.1 changes nothing that three seeds could show.
# No interval tells CTCD from a small model that was trained before, or from another large model, with three seeds each.
# And the small model's answers *shuffled* among places with the same true word are better than CTCD itself, though a third of the places keep their own.
# So the answer to this very sentence is not needed.
# What is left in shuffled labels is which words are alike, and noise; which of them does it was not separated.
#
# Most of K1 can also be had with nothing but held-out text to stop by: the model alone, stopped at its best look, has most of the gain, and no interval tells CTCD from it.
# (It is stopped by the text that judges it, so it is flattered.)
#
# On repeated text the smoother hurts, and there was no K1 to explain.
#
# The large model alone is far too sure of itself; with CTCD its confidence is nearer to its share of right answers.
#
# ## Ablations
#
# Three seeds each; one thing is changed at a time.

# %% tags=["hide-input"]
n_few = len(FEW)
few = lambda values: {seed: values[seed] for seed in FEW}


def ablation(arm, i, base="CTCD"):
    """The loss of an arm's model, and what it has more than CTCD's: records both."""
    regime = "ablations" if ("ablations", arm) in ALL else BASE
    s.metric(f"ablation/{ID(arm)}/{WHO[i]}", few(final(arm, i, regime)), unit="nats")
    return gain(
        f"ablation/{ID(arm)}/{WHO[i]}/minus-{ID(base)}", few(final(arm, i, regime)), few(final(base, i, BASE))
    )


OTHERS = {
    "off after half": "s to l off after half", "warm-up of weights": "both weights warmed up", "no stop-gradient": "no stop-gradient",
    "alternating": "alternating steps",
}  # fmt: skip
OTHERS |= {f"{kind} {value:g}": f"{label} {value:g}" for kind, label in (("s-l", "weight s to l"), ("l-s", "weight l to s"), ("tau", "temperature")) for value in GRID[kind]}  # fmt: skip
OTHERS["small of 2"] = "two small layers"
s.say("Loss minus that of CTCD on the same text, in nats: above 0 is worse (s: small, l: large).")
table(
    ["changed", "large", "small"],
    [[label, *(shown(ablation(arm, i), 3, True) for i in range(2))] for arm, label in OTHERS.items()],
)

# %% mystnb={"figure": {"caption": "Held-out loss against (a) the weight of what the small model tells the large one, (b) the other direction, (c) the temperature, (d) the depth of the small model, all on scarce text; mean and 95 % interval over three seeds. Grey: the same models alone, the large one solid, the small one dashed or dotted. Weights and temperatures are not drawn to scale.", "name": "fig-ctcd-ablations"}, "image": {"alt": "Four panels of loss with error bars. The large model falls steeply as the weight from small to large goes from 0 to 1 and no further at 4; the weight the other way, the temperature and a second layer in the small model change it little. The small model varies within wide error bars."}} tags=["hide-input"]
fig, axes = plots.figure(2, 2, width=8.2, height=6.0)
DEPTHS = (1, 2)
LINES = {
    "weight, small to large": [(0.0, "one way"), *((v, f"s-l {v:g}") for v in GRID["s-l"]), (1.0, "CTCD")],
    "weight, large to small": [*((v, f"l-s {v:g}") for v in GRID["l-s"]), (1.0, "CTCD")],
    "temperature": [(1.0, "CTCD"), *((v, f"tau {v:g}") for v in GRID["tau"])],
    "layers of the small model": [(n, "CTCD" if n == SMALL.layers else f"small of {n}") for n in DEPTHS],
}
for ax, (label, points) in zip(axes.ravel(), LINES.items(), strict=True):
    points = sorted(points)
    for i in range(2):
        how = plots.style("ctcd" if i == 0 else "mix")
        values = []
        for _, arm in points:
            regime = "ablations" if ("ablations", arm) in ALL else BASE
            values.append(list(few(final(arm, i, regime)).values()))
        mean, low, high = stats.t_interval(np.array(values), axis=-1)
        at = np.arange(len(points)) + 0.08 * i
        error = None if n_few == 1 else [mean - low, high - mean]
        ax.errorbar(
            at,
            mean,
            yerr=error,
            color=how.colour,
            marker=how.marker,
            ls="-" if i == 0 else "--",
            capsize=3,
            label=WHO[i],
        )
        if "layers" in label and i:
            lone = [
                np.mean(
                    list(
                        few(
                            final("alone", 1, BASE)
                            if n == SMALL.layers
                            else final(f"small of {n}, alone", 1, "ablations")
                        ).values()
                    )
                )
                for n in DEPTHS
            ]
            ax.plot(at, lone, color=plots.MUTED, ls=":", marker="x", label="small, alone")
        else:
            ax.axhline(
                np.mean(list(few(final("alone", i, BASE)).values())),
                color=plots.MUTED,
                lw=1,
                ls="-" if i == 0 else "--",
            )
    ax.set_xticks(range(len(points)), [f"{value:g}" for value, _ in points])
    ax.set(xlabel=label, ylabel="held-out loss (nats)")
    if ax is axes[1, 1]:
        ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(-0.1, -0.2), ncols=3)
plots.letter(axes.ravel())
plots.finish(fig)

# %% tags=["hide-input"]
SWEEP = dict(sorted(SEEN.items(), key=lambda pair: pair[1]))
rows = []
for regime, count in SWEEP.items():
    pair = [few(final(arm, i, regime)) for arm in ("alone", "CTCD") for i in range(2)]
    for i in range(2):
        s.metric(f"corpus/{count}/alone/{WHO[i]}", pair[i], unit="nats")
        gain(f"corpus/{count}/gain/{WHO[i]}", pair[i], pair[2 + i])
    gain(f"corpus/{count}/k3", pair[0], pair[3])
    M = metrics()
    rows.append((f"{count:,}", f"{STEPS * BATCH / count:.0f}", count))
M = metrics()
table(
    ["sequences", "passes", "large alone", "small alone"],
    [[count, passes, *(shown(M[f"corpus/{n}/alone/{w}"]) for w in WHO)] for count, passes, n in rows],
)
table(
    ["sequences", "CTCD's gain, large", "gain, small", "K3"],
    [[count, *(shown(M[f"corpus/{n}/{key}"], 3, True) for key in ("gain/large", "gain/small", "k3"))] for count, _, n in rows],
)
half = [few(final(f"{arm}, half the steps", i, "ablations")) for arm in ("alone", "CTCD") for i in range(2)]
table(["steps", "CTCD's gain, large", "gain, small"], [
    [f"{STEPS // 2:,}", *(shown(gain(f"steps/half/{WHO[i]}", half[i], half[2 + i]), 3, True) for i in range(2))],
    [f"{STEPS:,}", *(shown(M[f"corpus/{SEEN[BASE]}/gain/{w}"], 3, True) for w in WHO)],
])  # fmt: skip

# %% mystnb={"figure": {"caption": "What CTCD brings to either model over being trained alone, and how far its small model is above (or below) the large one alone, against the size of the corpus, at the same number of steps; mean and 95 % interval over three seeds.", "name": "fig-ctcd-corpus"}, "image": {"alt": "Three curves of gain against the number of sequences, on a logarithmic axis. All fall: the large model from a large gain on the smallest corpus to about zero on the next and below zero on the larger ones; the contrast of the small model with the large one alone from above zero to clearly below; the small model stays near zero but for the smallest corpus."}} tags=["hide-input"]
fig, ax = plots.figure(width=6.6, height=3.4)
for key, label, name in (("gain/large", "large model: CTCD against alone", "ctcd"), ("gain/small", "small model: CTCD against alone", "mix"), ("k3", "small of CTCD against large alone", "ridge")):  # fmt: skip
    how, found = plots.style(name), [M[f"corpus/{count}/{key}"] for count in SWEEP.values()]
    error = (
        None
        if found[0].low is None
        else [[m.value - m.low for m in found], [m.high - m.value for m in found]]
    )
    at = np.array(list(SWEEP.values())) * {"gain/large": 0.95, "gain/small": 1.0, "k3": 1.05}[key]
    ax.errorbar(
        at,
        [m.value for m in found],
        yerr=error,
        color=how.colour,
        marker=how.marker,
        ls=how.line,
        capsize=3,
        label=label,
    )
ax.axhline(0, color=plots.MUTED, lw=1, ls="--")
ax.set_xscale("log")
ax.set_xticks(list(SWEEP.values()), [f"{count:,}" for count in SWEEP.values()])
ax.minorticks_off()
ax.set(xlabel="sequences in the corpus", ylabel="gain (nats)")
ax.legend(fontsize=7)
plots.finish(fig)

# %% [markdown]
# In the published run, on scarce text:
#
# - the more the large model is told, up to a weight of 1, the lower its loss; a weight of 4 brings no more that could be shown;
# - even a small model that is told *nothing* (weight 0 the other way) does the large one about as much good: K1 needs no teaching in both directions; nor does a weight of 4 that way do harm;
# - temperature, a warm-up of the weights, alternating steps and a second layer make no difference that three seeds could show;
# - switched off after half of the steps, most of K1 is lost: the large model then over-fits after all;
# - without the stop-gradient the large model is *better*. The soft loss of the small model then pulls the large one towards it as well, which may be one more brake.
#
# Over corpora the gain falls from large to below zero, as the over-fitting goes.
# And CTCD needs time: with half the steps, its large model is worse than alone even on scarce text; [the curves](#fig-ctcd-curves) show it leaving its plateau later.
#
# ### With data augmentation
#
# K4 says that CTCD adds to other techniques.
# Here the other technique is noise in the words that are given: a tenth of them is replaced at random in each batch.
# Three questions: does noise help a model alone, does CTCD in place of what was there add to it (the large model was alone, the small one had one-way distillation), and does noise add to CTCD?

# %% tags=["hide-input"]
augmented = {arm: [final(arm, i, "augmented") for i in range(2)] for arm in ARMS}
rows = []
for i, who in enumerate(WHO):
    plain = {arm: few(final(arm, i, BASE)) for arm in ARMS}
    for arm in ARMS:
        s.metric(f"loss/augmented/{ID(arm)}/{who}", augmented[arm][i], unit="nats")
    before = "alone" if i == 0 else "one way"  # what CTCD takes the place of
    found = [
        gain(f"augmented/noise-alone/{who}", plain["alone"], augmented["alone"][i]),
        gain(f"augmented/ctcd-adds/{who}", augmented[before][i], augmented["CTCD"][i]),
        gain(f"augmented/over-ctcd/{who}", plain["CTCD"], augmented["CTCD"][i]),
    ]
    rows.append([f"{who} (in place of {before})", *(shown(metric, 3, True) for metric in found)])
table(["model", "noise, alone", "CTCD adds to noise", "noise adds to CTCD"], rows)

# %% [markdown]
# In the published run noise helps the large model alone, CTCD adds to that, and noise adds nothing certain to CTCD, as if both were brakes on the same fault.
# For the small model noise brings nothing that could be told apart from zero, so what CTCD adds to it there is no test of K4.
#
# ## What it costs
#
# Operations (a GFLOP is a billion of them) in closed form, and beside them measured seconds.
# A joint step cannot be cheaper than its two models; it should not be much dearer.
# Steps of both kinds take turns, so that a busy machine slows all alike; each ratio is of medians in a block of repetitions.

# %% tags=["hide-input"]
READS = {
    "alone": ((LARGE, SMALL), {}), "one way": ((LARGE, SMALL), {}), "CTCD": ((LARGE, SMALL), {}),
    "frozen teacher": ((LARGE, SMALL), {"frozen": (True, False)}), "reversed": ((LARGE, SMALL), {"frozen": (False, True)}),
    "smoothing": ((LARGE,), {}), "smoothing, same share": ((LARGE,), {}), "smoothing by 0.1": ((LARGE,), {}), "average": ((LARGE,), {"reads": (1,)}), "shuffled": ((LARGE, SMALL), {"reads": (0, 1)}),
    "two large": ((LARGE, LARGE), {}), "two small": ((SMALL, SMALL), {}),
    "large, same FLOPs": ((LARGE,), {"steps": MORE[0]}), "small, same FLOPs": ((SMALL,), {"steps": MORE[1]}),
}  # fmt: skip
WORK = {arm: flops(*sizes, **how) / 1e9 for arm, (sizes, how) in READS.items()}
LONE = {"large alone": flops(LARGE) / 1e9, "small alone": flops(SMALL) / 1e9}
for name, value in {**WORK, **LONE}.items():
    s.metric(f"flops/{ID(name)}", value, low=value, high=value, unit="GFLOP")


def timed_steps(sizes, batch, blocks, repeats):
    """Seconds of a joint step over the sum of the stand-alone ones, (blocks,), at temperatures 1 and 2."""
    rows = np.random.default_rng(0).integers(5, sizes[0].vocabulary, (4 * batch, sizes[0].length))
    x = Batches(rows, sizes[0].vocabulary, batch, 0)(0).to(s.device)
    models = [bert(size, i).to(s.device) for i, size in enumerate(sizes)]
    adams = [optimiser(model, 1e-4) for model in models]
    ways = {
        "large": lambda: joint_step([models[0], None], [adams[0], None], x, (0.0, 0.0)),
        "small": lambda: joint_step([None, models[1]], [None, adams[1]], x, (0.0, 0.0)),
        1: lambda: joint_step(models, adams, x, (1.0, 1.0), 1.0),
        2: lambda: joint_step(models, adams, x, (1.0, 1.0), 2.0),
    }
    found = {1: [], 2: []}
    for block in range(blocks + 1):
        spent = {name: [] for name in ways}
        for _ in range(repeats):
            for name, step in ways.items():
                begun = time.process_time() if s.device.type == "cpu" else time.perf_counter()
                step()
                if s.device.type == "cuda":
                    torch.cuda.synchronize()
                spent[name].append(
                    (time.process_time() if s.device.type == "cpu" else time.perf_counter()) - begun
                )
        middle = {name: float(np.median(values)) for name, values in spent.items()}
        if block:  # the first warms up
            for tau in found:
                found[tau].append(middle[tau] / (middle["large"] + middle["small"]))
    return found


BIG = [BertConfig(s.choose(smoke=200, standard=4_096), layers, s.choose(smoke=16, standard=128), 2, s.choose(smoke=16, standard=64)) for layers in (6, 2)]  # fmt: skip
rows = []
with s.section("speed"):
    for label, sizes, batch in (
        ("this chapter's pair", (LARGE, SMALL), BATCH),
        ("6 and 2 layers of width 128, 4,096 words", BIG, s.choose(smoke=4, standard=16)),
    ):
        for tau, ratios in timed_steps(
            sizes, batch, s.choose(smoke=2, standard=14), s.choose(smoke=2, standard=5)
        ).items():
            mean, low, high = stats.t_interval(ratios)
            name = f"speed/{'pair' if sizes[0] is LARGE else 'big'}/tau-{tau}"
            s.metric(name, mean, low=low, high=high, n=len(ratios))
            rows.append([label, f"{tau}", shown(M[name] if name in M else metrics()[name], 2)])
table(["models", "temperature", "joint step / sum of two"], rows)

# %% mystnb={"figure": {"caption": "Held-out loss against the operations that a run took, both models counted: (a) large models on scarce text, (b) small models on repeated text, where CTCD and one way lie on one another. Star and dashed line: the model alone. One way is left out of (a), where it is the model alone.", "name": "fig-ctcd-cost"}, "image": {"alt": "Two scatter plots. Left, the large model on scarce text: arms that are told by another model lie far below the dashed line of the model alone; matched smoothers, average and more steps lie on it or above. Right, the small model on repeated text: the distilled arms and two small models lie together a little below the line; the model alone with as many operations as a joint run lies far above."}} tags=["hide-input"]
fig, axes = plots.figure(1, 2, width=8.2, height=3.6)
looks_all = ["ctcd", "gcn", "ridge", "nearest", "mix", "ours", "meta-sgd", "maml", "random", "flops", "params"]
for i, (ax, regime) in enumerate(zip(axes, ("scarce", "repeated"), strict=True)):
    there = [arm for arm, who in EACH.items() if i in who and arm not in ("alone", "one way")[: 2 - i] and (regime, arm) in ALL]
    for arm, name in zip(sorted(there, key=lambda arm: arm != "CTCD"), looks_all, strict=False):
        how = plots.style(name)
        mean = M[f"loss/{regime}/{ID(arm)}/{WHO[i]}"].value
        ax.plot(WORK[arm], mean, color=how.colour, marker=how.marker, ls="none", ms=8, label=arm)
    mean = M[f"loss/{regime}/alone/{WHO[i]}"].value
    ax.plot(LONE[f"{WHO[i]} alone"], mean, color=plots.INK, marker="*", ms=11, ls="none", label="alone")
    ax.axhline(mean, color=plots.MUTED, lw=1, ls="--")
    ax.set(xlabel="operations of the run (GFLOP)", ylabel="held-out loss (nats)", title=f"{WHO[i]} model, {regime} text")
    ax.legend(fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
plots.letter(axes)
plots.finish(fig)

# %% [markdown]
# A joint step of this chapter's pair costs as much as its two halves; at the larger size it is dearer, and the interval tells by how much.
# What counts is not the step but the run: in operations, CTCD costs the sum of both models, and a large model alone costs only its own.
# On scarce text more operations alone are more passes, and do harm; that CTCD beats them there says little.
# The operations of smoothers leave out the joint run from which their entropies were taken, and those of frozen teachers leave out their own training.

# %% [markdown]
# ## Downstream
#
# ### Questions about the generated language
#
# A lower loss is worth something if the model is better *for* something.
# Two linear probes (logistic regression on frozen states) must tell sentences whose main verb has the wrong number: from the mean of the states over the sentence, and from the state at the verb.
# And without any training: of a hidden main verb, is the right form likelier than the wrong one?
# In the hardest sentences a noun of the other number stands between subject and verb.
# Models with random weights show what a probe can do with words alone.

# %% tags=["hide-input"]
ASKED = [questions(LANGUAGE, s.choose(smoke=60, standard=1_200), LENGTH, seed) for seed in (20_000, 20_001)]
EXAMINED = {
    "large alone": ("alone", 0), "large, CTCD": ("CTCD", 0), "small alone": ("alone", 1), "small, one way": ("one way", 1),
    "small, CTCD": ("CTCD", 1), "large, random weights": (None, 0), "small, random weights": (None, 1),
}  # fmt: skip
ABLE = {}
with s.section("probes"):
    for label, (arm, i) in EXAMINED.items():
        size = (LARGE, SMALL)[i]
        states = {
            seed: ALL[BASE, arm][seed]["states"][i] if arm else bert(size, 2 * seed + i).state_dict()
            for seed in s.seeds
        }
        calls = [
            {"seed": seed, "size": size, "state": states[seed], "train": ASKED[0], "test": ASKED[1], "device": s.device.type}
            for seed in s.seeds
        ]
        ABLE[label] = s.memo_each("examined", examined, calls, label=label)
KINDS = {
    "probe": "probe, mean",
    "probe-verb": "probe, verb",
    "agreement": "agreement",
    "attracted": "... across",
}
rows = []
for label, found in ABLE.items():
    for kind in KINDS:
        s.metric(
            f"probe/{ID(label)}/{kind}",
            {seed: one[kind] for seed, one in zip(s.seeds, found, strict=True)},
            unit="%",
        )
    rows.append([label, *(shown(metrics()[f"probe/{ID(label)}/{kind}"], 1) for kind in KINDS)])
table(["model (%)", *KINDS.values()], rows)
of = lambda label, kind: {seed: one[kind] for seed, one in zip(s.seeds, ABLE[label], strict=True)}
COMPARED = {
    "k1": ("large alone", "large, CTCD", "large, random weights"),
    "k2": ("small, one way", "small, CTCD", "small, random weights"),
    "k3": ("large alone", "small, CTCD", "large, random weights"),
}
for id, (worse, better, nothing) in COMPARED.items():
    for kind in KINDS:
        gain(f"probe-gain/{id}/{kind}", of(better, kind), of(worse, kind), "points")
        gain(f"probe-premise/{id}/{kind}", of(worse, kind), of(nothing, kind), "points")
s.metric("probe/questions-across", int(ASKED[1]["attracted"].sum()), unit="questions")
print(f"{len(ASKED[1]['label'])} questions, {ASKED[1]['attracted'].sum()} of them across a noun of the other number")

# %% tags=["hide-input"]
VERBS = np.zeros((2, LANGUAGE.size))
for row, number in zip(VERBS, ("sg", "pl"), strict=True):
    forms = [word for kind in ("goes", "sees") for _, (word,) in LANGUAGE.grammar.rules[f"{kind}/{number}/0"]]
    row[[LANGUAGE.vocabulary.index(word) for word in forms]] = 1
judged = held.rows(0, first)


def right_number(p):
    """Of the probability that answers (places, vocabulary) give to verbs where a verb is hidden: % in its number."""
    mass, mine = np.asarray(p) @ VERBS.T, VERBS[:, judged.targets.numpy()].T
    there = mine.any(1)
    return 100 * float(((mass * mine).sum(1)[there] / mass.sum(1)[there]).mean())


s.metric("number/best", right_number(BEST), unit="%")
rows = [["best possible", "–", f"{right_number(BEST):.1f}"]]
for regime in ("scarce", "fresh"):
    for arm in ("alone", "CTCD"):
        for i in range(2):
            found = {}
            for seed in FEW:
                model = bert(SIZES[regime, arm][i]).to(s.device)
                model.load_state_dict(ALL[regime, arm][seed]["states"][i])
                found[seed] = right_number(answers(model, judged, s.device).exp())
            metric = s.metric(f"number/{regime}/{ID(arm)}/{WHO[i]}", found, unit="%")
            rows.append([f"{WHO[i]}, {arm}", regime, shown(metric, 1)])
table(["hidden verbs", "text", "right number (%)"], rows)

# %% [markdown]
# In the published run no probe and no question finds anything: all models are where random weights are.
# (They are asked of models of scarce text.)
# The last table, on hidden verbs of the held-out text, shows the same with a yardstick: the best possible answers nearly always know a hidden verb's number, and these models give it half of the probability, even after fresh text.
# So K1 and K2 cannot be tested by these questions.
#
# ### English, and three tasks of GLUE
#
# The paper's claims are about GLUE, after training on a great deal of English.
# Here is the same, as far as it can be had in minutes: WikiText-2 and the novels, a vocabulary of pieces of words, a large model of three layers and a small one of one, fresh text; then each is fine-tuned on a part of three tasks (CoLA: is a sentence acceptable? MRPC: do two sentences say the same? RTE: does one follow from the other?).
# The published run read the articles of WikiText-2's training text in another order than the one in which the package reads them now.
# Constant answers and models with random weights, fine-tuned in the same way, are the trivial baselines.
# At `smoke` the generated language stands in, with right and wrong verbs as the task.

# %%
ENGLISH = s.choose(
    smoke=dict(steps=10, batch=16, width=16, length=LENGTH, limit=40, layers=(2, 1), epochs=1),
    standard=dict(steps=400, batch=32, width=64, length=64, limit=600, layers=(3, 1), epochs=3),
)


def english():
    """(rows of text, held-out rows, vocabulary, tasks): of English, at smoke of the generated language."""
    length, limit = ENGLISH["length"], ENGLISH["limit"]
    if s.smoke:
        parts = [questions(LANGUAGE, 2 * limit, length, seed) for seed in (3, 4)]
        task = {
            "name": "judged",
            "ids": parts[0]["ids"],
            "labels": parts[0]["label"],
            "ids_dev": parts[1]["ids"],
            "labels_dev": parts[1]["label"],
        }
        rows = [
            LANGUAGE.rows(count, length, seed)
            for count, seed in ((ENGLISH["steps"] * ENGLISH["batch"], 5), (60, 6))
        ]
        return *rows, LANGUAGE.size, {"judged": task}
    corpus = text.corpus()
    for name in (*corpus.sets, "text-glue"):
        s.data_used(name)
    tokenizer = tokens.bpe([paragraph for document in corpus.train for paragraph in document], 1_024)
    rows = [tokens.pack(tokens.encode_documents(part, tokenizer), length) for part in (corpus.train, corpus.valid)]
    tasks = {}
    for name in ("CoLA", "MRPC", "RTE"):
        splits = [glue.read(name, split) for split in ("train", "dev")]
        ids = [sentences(split, tokenizer, length) for split in splits]
        tasks[name] = {
            "name": name,
            "ids": ids[0],
            "labels": splits[0].labels,
            "ids_dev": ids[1],
            "labels_dev": splits[1].labels,
        }
    kept = np.random.default_rng(0).permutation(len(rows[1]))[:1_000]
    return rows[0], rows[1][kept], tokenizer.size, tasks


with s.section("English"):
    E_ROWS, E_HELD, E_SIZE, E_TASKS = english()
E_LARGE, E_SMALL = (
    BertConfig(E_SIZE, layers, ENGLISH["width"], 2, ENGLISH["length"], norm=NORM, std=0.06)
    for layers in ENGLISH["layers"]
)
E_BENCH = {"rows": E_HELD, "quick": min(200, len(E_HELD))}
drawn = {
    seed: np.random.default_rng(seed).permutation(len(E_ROWS))[: ENGLISH["steps"] * ENGLISH["batch"]]
    for seed in FEW
}
for arm, how in ARMS.items():
    train(
        arm, FEW, "English", each=lambda seed: {"rows": E_ROWS[drawn[seed]]}, sizes=(E_LARGE, E_SMALL), bench=E_BENCH,
        steps=ENGLISH["steps"], batch=ENGLISH["batch"], lr=3e-3, **how,
    )  # fmt: skip

# %%
RECIPE = FineTuning(epochs=ENGLISH["epochs"], limit=ENGLISH["limit"], length=ENGLISH["length"], lr=1e-3)
SCORES = {}  # (model, task): {seed: score}
with s.section("fine-tuning"):
    for label, (arm, i) in EXAMINED.items():
        size = (E_LARGE, E_SMALL)[i]
        for name, task in E_TASKS.items():
            calls = [
                {"seed": seed, "size": size, "state": ALL["English", arm][seed]["states"][i] if arm else None, "task": task, "recipe": RECIPE, "device": s.device.type}
                for seed in FEW
            ]  # fmt: skip
            SCORES[label, name] = dict(
                zip(FEW, s.memo_each("tuned", tuned, calls, label=f"{name}: {label}"), strict=True)
            )

# %% tags=["hide-input"]
commonest = np.bincount(E_ROWS[drawn[FEW[0]]].ravel().astype(np.int64), minlength=E_SIZE)[5:] + 1.0
e_held = held_out(E_HELD, E_SIZE)
E_UNIGRAM = float(-np.log(commonest / commonest.sum())[e_held.targets.numpy() - 5].mean())
s.metric("english/unigram", E_UNIGRAM, unit="nats")
rows = [["frequencies alone", f"{E_UNIGRAM:.3f}", f"{E_UNIGRAM:.3f}"]]
for arm in ("alone", "one way", "CTCD"):
    for i in range(2):
        s.metric(f"english/loss/{ID(arm)}/{WHO[i]}", final(arm, i, "English"), unit="nats")
    rows.append([arm, *(shown(metrics()[f"english/loss/{ID(arm)}/{w}"]) for w in WHO)])
table(["English, held-out loss (nats)", "large", "small"], rows)
e_final = lambda arm, i: final(arm, i, "English")
gain("english/gain/k1", e_final("alone", 0), e_final("CTCD", 0))
gain("english/gain/k2", e_final("one way", 1), e_final("CTCD", 1))
gain("english/gain/k3", e_final("alone", 0), e_final("CTCD", 1))
gain("english/gain/size", e_final("alone", 1), e_final("alone", 0))
mean_score = lambda label: {
    seed: float(np.mean([SCORES[label, name][seed] for name in E_TASKS])) for seed in FEW
}
rows = []
for label in EXAMINED:
    s.metric(f"glue/{ID(label)}", mean_score(label), unit="points")
    rows.append(
        [
            label,
            *(f"{np.mean(list(SCORES[label, name].values())):.1f}" for name in E_TASKS),
            shown(metrics()[f"glue/{ID(label)}"], 1),
        ]
    )
majority = [
    scored(task, np.full(len(task["labels_dev"]), np.bincount(task["labels"]).argmax()))
    for task in E_TASKS.values()
]
s.metric("glue/constant", float(np.mean(majority)), unit="points")
rows.append(["constant answer", *(f"{value:.1f}" for value in majority), f"{np.mean(majority):.1f}"])
floor = {who: {seed: max(value, float(np.mean(majority))) for seed, value in mean_score(f"{who}, random weights").items()} for who in WHO}  # fmt: skip
for id, (worse, better, nothing) in COMPARED.items():
    a, b, least = mean_score(better), mean_score(worse), floor[nothing.split(",")[0]]
    s.metric(f"glue-gain/{id}", {x: a[x] - b[x] for x in FEW}, unit="points", paper=1.66 if id == "k3" else None)
    s.metric(f"glue-premise/{id}", {x: b[x] - least[x] for x in FEW}, unit="points")
s.say("CoLA: Matthews correlation times 100; MRPC: mean of accuracy and F1; RTE (at `smoke` judged sentences): accuracy in percent.")
table(["fine-tuned (points)", *E_TASKS, "mean"], rows)

# %% [markdown]
# In the published run both models have left the frequencies of tokens behind, and not by much.
# The large model alone is not told apart from the small one alone (its mean is behind), so no gap is shown that a small model could close; what the small model says makes the large one worse, as with ample text above.
# None of the fine-tuned models is better than random weights or than the commonest answer, on average over the three tasks.
# So the verdicts on GLUE are *not tested*, whatever the differences: pre-training at this budget stands long before the place where the paper's claims live.
#
# ### Mutual learning on a supervised proxy
#
# *This is not CTCD.*
# There is no pre-training and no language here: two small classifiers of scikit-learn's digits, a wide and a narrow one, learn few labelled images together with the very same losses.
# Mutual learning was first shown on tasks of this kind, though with deep networks on large sets of images; here it is cheap enough to be run by everybody, and a check that the losses can do something.

# %% tags=["hide-input"]
PROXY = dict(
    labelled=s.choose(smoke=100, standard=200), widths=(128, 12), steps=s.choose(smoke=60, standard=600)
)
with s.section("proxy"):
    calls = [{"seed": seed, "weight": weight, **PROXY} for weight in (0.0, 1.0) for seed in s.seeds]
    told = np.array(s.memo_each("digits", digits, calls, label="digits")).reshape(2, len(s.seeds), 2)
rows = []
for i, who in enumerate(("wide", "narrow")):
    for weight, label in enumerate(("alone", "together")):
        s.metric(f"proxy/{label}/{who}", told[weight, :, i], unit="%")
    s.metric(f"proxy/gain/{who}", told[1, :, i] - told[0, :, i], unit="points")
    M = metrics()
    rows.append(
        [
            who,
            shown(M[f"proxy/alone/{who}"], 1),
            shown(M[f"proxy/together/{who}"], 1),
            shown(M[f"proxy/gain/{who}"], 2, True),
        ]
    )
table(["network (%)", "alone", "together", "gain (points)"], rows)

# %% [markdown]
# In the published run the wide network gets slightly worse by learning together with the narrow one, and the narrow one does not gain to speak of.
# Here too a weak partner holds the strong one back where nothing has to be prevented.

# %% [markdown]
# ## The claims
#
# Each claim is judged by a 95 % interval of a paired difference over seeds.
# K1 to K4 are the paper's; that CTCD's small model is better than alone, the controls, the stop-gradient, noise for the large model, the two ends of the corpora, the proxy and the speed are this chapter's own questions.
# K3 says something only where the large model, alone, is better than the small one; where it is not, its verdict is *not tested*.
# A claim about GLUE or about probes can only be judged where training has taught something that is asked for: if the model to beat is not better than one with random weights, treated alike (and for GLUE, than constant answers), the verdict is *not tested*, too.
#
# *First edition:* verdicts by the first edition's rules; see [Errata](../book/errata.md).

# %% tags=["hide-input"]
by_seed = lambda name: metrics()[name].per_seed
trend = [by_seed(f"corpus/{SEEN[regime]}/gain/large") for regime in ("scarce", "fresh")]
gain("corpus/trend", *trend)


def claim(id, statement, names, rule=None, where="above 0", but=""):
    """A claim that every metric is above 0 by its t interval over paired seeds, unless a rule says otherwise."""
    names = [names] if isinstance(names, str) else list(names)
    counts = sorted({metrics()[name].n for name in names})
    test = f"{where}, t interval over {' or '.join(map(str, counts))} paired seeds{but}"
    s.claim(id, statement, metrics=names, test=test, rule=rule or verdicts.all_of(*map(verdicts.greater, names)))


def given(name, premise, why):
    """The metric is above 0, asked only where the premise is above 0 beyond doubt."""

    def rule(found):
        floor = found[premise]
        if floor.low is None or floor.low <= 0:
            return "not tested", why
        return verdicts.greater(name)(found)

    return rule


for regime in SEEN:
    name = lambda id, regime=regime: f"gain/{regime}/{id}"
    where = f"{regime} text"
    claim(f"k1-{regime}", f"K1, {where}: what the small model says makes the large one better than alone", name("k1"))
    claim(f"k2-{regime}", f"K2, {where}: the way back makes the small model better than one-way distillation", name("k2"))
    rule = given(name("k3"), name("size"), "alone, the large model is not shown to be better than the small one")
    claim(f"k3-{regime}", f"K3, {where}: the small model of CTCD is better than the large model alone", [name("k3"), name("size")], rule, but=", if alone the large model is better")
    claim(f"small-{regime}", f"{where.capitalize()}: the small model of CTCD is better than alone", name("small"))
claim("ordinary", "Repeated text: CTCD's small model is better than ordinary distillation from a trained teacher", "gain/repeated/frozen")
claim("overfit", "K1 is larger on the smallest corpus than on fresh text", "corpus/trend")
CONTROLS = {
    "smoothing": ("is more than smoothing, by 0.1 or matched to the small model by entropy or share of the true word", ["smoothing", "same-share", "light"]),
    "average": ("is more than learning from an average of itself", ["average"]),
    "shuffled": ("needs the small model's answer to this very sentence", ["shuffled"]),
    "reversed": ("needs a small model that learns too, and not a trained one", ["reversed"]),
    "two-large": ("is more than another large model brings", ["two-large"]),
    "same-flops": ("is more than as many operations alone bring (here they are more passes, which harm)", ["same-flops"]),
    "stopped": ("is more than stopping early, or half the steps, bring", ["stopped", "half"]),
}
gain("against/scarce/half", final("alone, half the steps", 0, "ablations"), few(final("CTCD", 0, "scarce")))
for id, (said, ids) in CONTROLS.items():
    claim(f"control-{id}", f"K1, scarce text, {said}", ["gain/scarce/k1", *(f"against/scarce/{x}" for x in ids)], where="K1 and difference above 0")
names = ["gain/repeated/small", "against/repeated/small-same-flops"]
claim("flops-small", "Repeated text (more steps are more passes): CTCD is better for the small model than as many operations alone", names)
names = ["augmented/ctcd-adds/small", "augmented/noise-alone/small"]
claim("k4", "K4: in place of one-way distillation, CTCD adds to data augmentation for the small model", names, given(*names, "noise does not help alone"), but=", if noise helps alone")
names = ["augmented/ctcd-adds/large", "augmented/noise-alone/large"]
claim("k4-large", "Scarce text with noise: CTCD adds to it for the large model", names, given(*names, "noise does not help alone"), but=", if noise helps alone")
claim("k1-half", "K1, scarce text, half the steps", "steps/half/large")
claim("stop-gradient", "Without the stop-gradient both models are worse", [f"ablation/no-stop-gradient/{who}/minus-ctcd" for who in WHO])
for id in ("k1", "k2"):
    names = [f"probe-{what}/{id}/{kind}" for kind in KINDS for what in ("gain", "premise")]
    rules = [given(f"probe-gain/{id}/{kind}", f"probe-premise/{id}/{kind}", f"{KINDS[kind]}: no better than random weights") for kind in KINDS]
    claim(f"probes-{id}", f"{id.upper()} in questions about the language", names, verdicts.each_of(*rules), but=", for questions in which the model to beat is above random weights")
claim("k1-english", "K1, English, held-out loss", "english/gain/k1")
claim("k2-english", "K2, English, held-out loss", "english/gain/k2")
rule = given("english/gain/k3", "english/gain/size", "alone, the large model is not shown to be better than the small one")
claim("k3-english", "K3, English, held-out loss", ["english/gain/k3", "english/gain/size"], rule, but=", if alone the large model is better")
for id in ("k1", "k2", "k3"):
    names = [f"glue-gain/{id}", f"glue-premise/{id}"]
    rule = given(*names, "the model to beat is not above random weights and constant answers")
    if id == "k3":
        names, size = [*names, "english/gain/size"], given(names[0], "english/gain/size", "alone, the large model is not better")
        rule = lambda found, first=rule, second=size: first(found) if first(found)[0] == "not tested" else second(found)
    claim(f"glue-{id}", f"{id.upper()} on tasks of GLUE", names, rule, but=", if pre-training brought something")
claim("proxy", "Proxy, not CTCD: mutual learning helps both of two small classifiers", ["proxy/gain/wide", "proxy/gain/narrow"])
names = [f"speed/{pair}/tau-{tau}" for pair in ("pair", "big") for tau in (1, 2)]
rule = verdicts.all_of(*(verdicts.at_most(name, 1.15) for name in names))
s.claim("speed", "A joint step costs at most 1.15 times its two stand-alone steps", metrics=names, test="at most 1.15 at both sizes and temperatures, t intervals over blocks of repetitions", rule=rule)
s.claims_table()

# %% [markdown]
# Many intervals at 95 % stand here, without a correction for their number; single verdicts can be luck.
# A seed changes the text, the order, the masks and the weights to begin with; language, sizes, learning rate, held-out text and questions are the same for all, so the luck of these is in no interval.
# The last claim is about our code and not about the paper.
#
# Of the three contrasts that were decided on beforehand, on repeated text, K1 and K2 have means hardly above zero, and K3 is contradicted.
# K1 is reproduced on scarce text, which was taken up after K1 had not been found on repeated text; there it is contradicted with half the steps, and so it is on ample text and in English.
# That a claim is *partly* reproduced means that its mean is on the right side and its interval is not, even where that mean is a hundredth of a nat, as for K1 and K2 on repeated text and K2 on fresh text.
#
# ## Deviations

# %% tags=["hide-input"]
s.deviation("The paper's body, tables and appendix could not be obtained: losses, schedule, stop-gradient and the pair of sizes are reconstructed from the abstract, the sister paper and common practice.", "unknown; the chapter is a study inspired by the paper")  # fmt: skip
s.deviation(f"A generated language of {len(LANGUAGE.grammar.words)} words and models of {LARGE.layers} and {SMALL.layers} layers of width {SIZE['width']}; the paper pre-trains on books and Wikipedia, with models that are, by a replication's guess, of 6 and 4 layers of width 768.", "claims are tested at a small scale only, for one language and one pair of sizes")  # fmt: skip
s.deviation(f"Four amounts of text, of {', '.join(f'{count:,}' for count in SEEN.values())} sequences, each for {STEPS:,} steps of {BATCH}: up to {STEPS * BATCH // COUNT * 2} passes.", "the smallest ones over-fit far more than a large corpus would; may favour K1")  # fmt: skip
s.deviation("The scarce text was planned as a control with three seeds and no one-way arm. It got five seeds, the one-way arm and most controls, and became the text of ablations and augmentation, after K1, K2 and K3 had been seen on repeated text, where K1 was not told apart from 0. The ample text and the second smoother were added by a reader's advice before the scarce controls were seen, label smoothing by 0.1 by a second reader's when all results were.", "scarce text is the place where K1 is largest, chosen for that; the decisions made beforehand are those on repeated text")  # fmt: skip
s.deviation("Language, sizes, norm, learning rate, steps and the size of the corpora were chosen by the authors of this book on held-out losses of models trained alone, with seed 0, which is also one of the seeds here, before any co-training was run.", "favours no arm; held-out text of the pilots was other text")  # fmt: skip
s.deviation(f"One learning rate ({LR:g}) for both sizes, no dropout, clipping at 1, soft weights of 1 and temperature 1.", "none of them is tuned for CTCD or against it")  # fmt: skip
s.deviation("The last step's weights are judged in every arm; early stopping is a control of its own, chosen on held-out text and so flattered.", "a large model alone that over-fits looks bad, which may favour K1")  # fmt: skip
s.deviation(f"Fresh and ample text, augmentation, most controls and all ablations have {len(FEW)} seeds; soft weights are tried at 0, 0.5, 1 and 4 from small to large and 0, 1 and 4 the other way, one at a time and not crossed; small models of 1 and 2 layers; half the steps, and not twice; no map of both weights. A frozen teacher is tried on repeated text only, and its step is not timed.", "wide intervals; interactions of the two weights are not seen")  # fmt: skip
s.deviation("Run on one core of a CPU only; a GPU with half precision was not at hand.", "speed there is not known")  # fmt: skip
s.deviation("The smoothers follow the small model's answers on held-out text at eight points of its training, from uniform at the start, and spread the rest evenly; on its training text the small model is surer. Of ordinary label smoothing one strength is tried.", "the controls are matched on average, not place by place")  # fmt: skip
s.deviation("Of the arm that learns from its own average the learning model is judged, as in all arms, and not the average.", "the average itself may be better")  # fmt: skip
s.deviation(f"English is WikiText-2 and the novels, {ENGLISH['steps']} steps of {ENGLISH['batch']} by {ENGLISH['length']} tokens; {ENGLISH['limit']} training examples of three small tasks of GLUE, whose scores are of different kinds; SST-2, STS-B and QNLI are left out for time; one recipe of fine-tuning for all.", "pre-training has hardly begun; GLUE says little")  # fmt: skip
s.deviation("K4 is tried with one kind of data augmentation on the generated language, and with no other published recipe.", "a narrow test")  # fmt: skip
s.deviations_table()


# %% [markdown]
# What was decided when stands in deviations 4 and 5.
# The premises of K3, K4, GLUE and probes, the rule that a claim about K1's reason needs K1 itself, the interval of the share and the adjusted p-values were put in after a first reading of the code by somebody else, when the losses of *alone*, *one way* and *CTCD* on scarce and repeated text had been seen.
#
# Not measured: initialising from a pre-trained large model, more than two models, dropout while teaching, larger vocabularies.
#
# ## Exercises
#
# Each exercise has a check that you can run, and a solution.
#
# ### Exercise 1 (★☆☆): the whole gradient
#
# Write the gradient of $L_\ell$ of equation [](#eq-ctcd-total) with respect to the large model's logits, for any weight and temperature.

# %% tags=["exercise"]
def gradient(own, told, targets, weight, tau):
    """d L / d own (n, v), for logits own and told (n, v) and targets (n,)."""
    return None  # your code


def check_gradient(function):
    g = torch.Generator().manual_seed(0)
    own, told = torch.randn(2, 5, 7, generator=g, dtype=torch.float64).unbind()
    targets = torch.arange(5)
    for weight, tau in ((0.0, 1.0), (1.0, 1.0), (0.5, 3.0)):
        z = own.clone().requires_grad_()
        wanted = torch.autograd.grad(pair_losses((z, told), targets, (weight, 0.0), tau)[0], z)[0]
        assert torch.allclose(function(own, told, targets, weight, tau), wanted)
    return "Exercise 1: correct"


if gradient(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), 1.0, 1.0) is not None:
    print(check_gradient(gradient))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def gradient_solution(own, told, targets, weight, tau):
    hard = own.softmax(-1) - F.one_hot(targets, own.shape[1])
    soft = (own / tau).softmax(-1) - (told / tau).softmax(-1)
    return (hard + weight * tau * soft) / len(own)


print(check_gradient(gradient_solution))


# %% [markdown]
# ### Exercise 2 (★☆☆): how much is a weight?
#
# By equation [](#eq-ctcd-mixture), a weight $\lambda$ at temperature 1 trains on labels that give the true word $\tfrac{1}{1+\lambda} + \tfrac{\lambda}{1+\lambda} p_s(y)$.
# A small model gives the true word the probability $p$.
# Which weight makes the label's probability of the true word equal to a wanted value $q$, with $p < q \le 1$?

# %% tags=["exercise"]
def weight_for(p, q):
    """The soft weight that gives the true word the label q when the other model says p."""
    return None  # your code


def check_weight(function):
    for p, q in ((0.0, 0.9), (0.2, 0.6), (0.5, 1.0)):
        weight = function(p, q)
        assert abs((1 + weight * p) / (1 + weight) - q) < 1e-9 and weight >= 0
    return f"Exercise 2: correct; ordinary smoothing by 0.1 is like a weight of {function(0.0, 0.9):.2f} on a model that knows nothing"


if weight_for(0.2, 0.6) is not None:
    print(check_weight(weight_for))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def weight_for_solution(p, q):
    return (1 - q) / (q - p)


print(check_weight(weight_for_solution))


# %% [markdown]
# ### Exercise 3 (★★☆): clipped together
#
# Suppose that both models were clipped as one, to a joint norm of 1.
# By which factor does the small model's gradient shrink, beyond what clipping alone would do to it, when the two gradients have the norms $a$ (large) and $b$ (small)?

# %% tags=["exercise"]
def coupling(a, b):
    """Norm of the small model's gradient after joint clipping, over its norm after clipping alone."""
    return None  # your code


def check_coupling(function):
    for a, b in ((0.1, 0.2), (5.0, 0.5), (3.0, 4.0)):
        small, large = (torch.full((1,), x, requires_grad=True) for x in (b, a))
        small.grad, large.grad = torch.tensor([b]), torch.tensor([a])
        nn.utils.clip_grad_norm_([small, large], 1.0)
        assert abs(small.grad.item() / min(b, 1.0) - function(a, b)) < 1e-4
    return (
        f"Exercise 3: correct; a spike of 100 leaves the small model {function(100.0, 0.5):.3f} of its step"
    )


if coupling(1.0, 1.0) is not None:
    print(check_coupling(coupling))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def coupling_solution(a, b):
    return b * min(1.0, 1 / math.hypot(a, b)) / min(b, 1.0)


print(check_coupling(coupling_solution))


# %% [markdown]
# ### Exercise 4 (★★☆): a share without its luckiest seed
#
# A share of a gap is a ratio of means, and one seed can carry it.
# Compute the share with each seed left out in turn.

# %% tags=["exercise"]
def leave_one_out(low, high, ours):
    """Shares (seeds,) of the gap, each without one seed; all three are arrays (seeds,)."""
    return None  # your code


def check_leave_one_out(function):
    low, high, ours = np.array([1.0, 2.0, 3.0]), np.array([3.0, 4.0, 7.0]), np.array([2.0, 3.0, 3.0])
    assert np.allclose(function(low, high, ours), [1 / 6, 1 / 6, 1 / 2])
    if len(s.seeds) == 1:
        return "Exercise 4: correct"
    mine = [np.array(list(final(arm, i, "repeated").values())) for arm, i in (("alone", 1), ("alone", 0), ("CTCD", 1))]
    shares = function(*mine)
    return f"Exercise 4: correct; without one seed, the share of CTCD on repeated text is from {shares.min():.2f} to {shares.max():.2f}"


if leave_one_out(np.zeros(3), np.ones(3), np.ones(3)) is not None:
    print(check_leave_one_out(leave_one_out))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def leave_one_out_solution(low, high, ours):
    rest = lambda x: x.sum() - x
    return rest(ours - low) / rest(high - low)


print(check_leave_one_out(leave_one_out_solution))


# %% [markdown]
# ### Exercise 5 (★★★): three of them
#
# Let any number of models teach each other: each is told the mean of the *probabilities* of all others, at temperature 1.
# For two models this must be the pair of this chapter.

# %% tags=["exercise"]
def community(z, targets, weight=1.0):
    """The loss of each model, a list, from a list of logits (n, v) and targets (n,)."""
    return None  # your code


def check_community(function):
    g = torch.Generator().manual_seed(0)
    z = [torch.randn(6, 5, generator=g).requires_grad_() for _ in range(3)]
    y = torch.arange(6) % 5
    for one, other in zip(function(z[:2], y, 0.5), pair_losses(z[:2], y, (0.5, 0.5)), strict=True):
        assert torch.isclose(one, other, atol=1e-5)
    assert torch.autograd.grad(function(z, y)[0], z[1], allow_unused=True)[0] in (None,)
    same_ = [z[0].detach()] * 3
    assert torch.isclose(function(same_, y)[2], F.cross_entropy(z[0], y), atol=1e-5)
    return "Exercise 5: correct"


if community([torch.zeros(1, 2)] * 2, torch.zeros(1, dtype=torch.long)) is not None:
    print(check_community(community))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def community_solution(z, targets, weight=1.0):
    told = [
        torch.stack([x.detach().softmax(-1) for j, x in enumerate(z) if j != i]).mean(0).log()
        for i in range(len(z))
    ]
    return [
        F.cross_entropy(own, targets) + weight * soft_loss(own, other)
        for own, other in zip(z, told, strict=True)
    ]


print(check_community(community_solution))

# %% [markdown]
# ## Check yourself
#
# 1. Both losses are added and go backward in one sweep. Why does the large model's gradient not depend on the small model's soft weight?
#
# <details><summary>Answer</summary>
#
# What a model is told is behind a stop-gradient, so $L_s$ has no derivative with respect to the large model's weights.
# The sum of two functions without common variables has the gradients of each.
#
# </details>
#
# 2. Why is K2 measured against one-way distillation from the *co-trained* large model, and not against a large model that was trained first?
#
# <details><summary>Answer</summary>
#
# A trained teacher is older than one that is still learning: two things would differ at once.
# With the weight from small to large at 0, all but the way back is the same.
#
# </details>
#
# 3. The large model gains with CTCD. What must be shown before one may say that it learned from the small model's knowledge?
#
# <details><summary>Answer</summary>
#
# That it does not gain as much from smoothing, from labels of other sentences with the same true word, from an average of itself, from stopping early, and from the operations that the small model cost.
#
# </details>
#
# 4. Why would one expect K1 where text is repeated often, and not where it is fresh?
#
# <details><summary>Answer</summary>
#
# On repeated text the true words can be learned by heart, and soft labels take certainty away place by place.
# On fresh text there is nothing to learn by heart, and the doubts of a weak teacher have nothing to correct.
#
# </details>
#
# 5. Of a gap of 0.1 nats a share of 0.9 is closed, with an interval from 0.7 to 1.1. Is K3 shown?
#
# <details><summary>Answer</summary>
#
# No.
# K3 asks that the share be above 1; the interval allows it and does not show it.
#
# </details>
#
# ## Summary
#
# A joint step is easy to write and little dearer than its two halves, and nothing but opinions passes between the models.
# On this small bed CTCD is a brake.
# Where the large model alone over-fits a scarce text, what the small one says prevents it, if only training goes on long enough: with half the steps the large model is worse for it.
# With ample text it holds the large model back.
# The brake is not smoothing, by a tenth or matched to the small model, nor is it what the small model thinks of the sentence: its labels of other places with the same true word do at least as well, and so does stopping in time, if there is held-out text to stop by.
# The small model gains little that one-way distillation does not give it, and where the large model alone is better than the small one alone, the small model of CTCD stays below it.
# Models, text and training are far smaller here than in any published pre-training, so this says where to look, and not what the paper should have found.
#
# The verdicts of this run:

# %% tags=["hide-input"]
s.claims_by_verdict()

# %% [markdown]
# Further reading: {cite:t}`hinton2015distilling` for distillation, {cite:t}`zhang2018dml` for deep mutual learning, {cite:t}`lee2023weakteacher` for the sister paper, which the [chapter before](09_weak_teacher.ipynb) studies.
#
# ## Run card

# %%
s.finish()
s.run_card()
