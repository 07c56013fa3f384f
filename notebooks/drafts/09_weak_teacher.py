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
# # A weak teacher: can a small language model help a larger one?
#
# ## In short
#
# A large *student* is pre-trained on hidden words and, at the same places, on the *soft labels* of a smaller model that is already trained: its *weak teacher* {cite:p}`lee2023weakteacher`.
# The paper says that a moderately weak teacher helps and a very weak one harms, that a large weight of the soft labels is better early and worse late, and that the teacher's own weights are a bad start.
#
# ![Diagram: one masked row goes to a large student and to a small frozen teacher; the student's probabilities are compared with the hidden word, the hard loss, and with the teacher's probabilities, the soft loss with weight w; gradients reach the student alone.](../book/_assets/dwt-method.svg)
#
# <!-- held -->
# <!-- /held -->
#
# | | |
# |---|---|
# | You need | PyTorch, cross-entropy, the idea of a masked language model |
# | To read | 25 minutes |
# | To run | `smoke`: under a minute, offline; `standard`: about an hour on two CPU cores, resumable, or minutes on a GPU |
# | Data | a generated language; from `standard` on also [WikiText-2, novels and GLUE](../book/data.md) |
#
# The cells below show the settings of `smoke`; what is printed is of `standard`, which the run card at the end describes.
#
# After this chapter you can train a language model with the soft labels of another, compute from teacher and data alone to which loss such a student tends, and say what a fair comparison with a student without a teacher costs.

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
import warnings
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import NamedTuple

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
from nbpkg.data.tokens import MASK, Tokenizer
from nbpkg.nets import distil
from nbpkg.nets.bert import BertConfig, bert, precision
from nbpkg.nets.bert_train import Recipe, held_out_losses, log_probabilities, pretrain
from nbpkg.nets.downstream import FineTuning, agreement, glue_scores, pooled
from nbpkg.nets.together import Together
from nbpkg.report import plots
from nbpkg.session import Session

# %% tags=["hide-input"]
s = Session("09_weak_teacher", profile=PROFILE, seeds=SEEDS, device=DEVICE)
plots.theme()
warnings.filterwarnings("ignore", message="There is a performance drop")  # attention by seed
CONFIG = {  # sizes of the generated language's models, by profile
    "language": s.choose(
        smoke=Language(classes=2, nouns=3, verbs=3, adjectives=2),
        standard=Language(classes=4, nouns=5, verbs=8, adjectives=4),
    ),
    "steps": s.choose(smoke=24, standard=1200),
    "batch": s.choose(smoke=4, standard=16),  # rows a step
    "deep batch": s.choose(smoke=4, standard=32),
    "small": (2, 32),  # layers and width of a student
    "deep": (4, 64),
    "teachers": {"small": ["1x32", "1x24", "1x12"], "deep": ["2x64", "1x64", "1x32"]},
    "rate": s.choose(smoke=0.02, standard=0.01),  # the largest learning rate, for all
    "held": s.choose(smoke=40, standard=3000),  # rows held out
    "few": s.choose(smoke=10, standard=500),  # of these, at looks before the end
    "exact": s.choose(smoke=4, standard=200),  # of these, with exact answers
    # How many of SEEDS a comparison uses; "grid": the arms that claims are about.
    "seeds": {"grid": 12, "all arms": 5, "twenty": 5, "deep": 5, "rates": 3, "english": 4},
    "tasks": 2,  # of these, for fine-tuning
}
# %% tags=["hide-input"]
ENGLISH_CONFIG = {  # of English; at smoke another generated language stands in for it
    "name": "English",
    "student": s.choose(smoke=(2, 16), standard=(4, 64), paper=(6, 256)),
    "teachers": s.choose(  # from the least weak to the weakest
        smoke=["2x12", "1x16", "1x8"],
        standard=["2x64", "1x64", "1x32"],
        paper=["4x256", "2x256", "1x256"],
    ),
    "steps": s.choose(smoke=24, standard=1250, paper=2400),
    "batch": s.choose(smoke=4, standard=64, paper=512),
    "lr": s.choose(smoke=0.02, standard=0.02, paper=0.01),
    "vocabulary": s.choose(smoke=CONFIG["language"].size, standard=2048, paper=8192),
    "language": s.choose(smoke=replace(CONFIG["language"], modifier=0.2), standard=None),
    "length": s.choose(smoke=16, standard=32, paper=128),
    "held": s.choose(smoke=40, standard=6000),
    "few": s.choose(smoke=10, standard=1000),
    "head": s.choose(smoke=8, standard=32, paper=64),
    "fast": s.choose(smoke=False, standard=False, paper=True),
    "tasks": s.choose(
        smoke=[],
        standard=["SST-2"],
        paper=["CoLA", "SST-2", "MRPC", "STS-B", "RTE", "QNLI"],
    ),
    "tuning": s.choose(
        smoke=FineTuning(),
        standard=FineTuning(2, 32, 1e-3, 64, limit=10_000),
        paper=FineTuning(3, 128, 3e-4, 128),
    ),
}

# %% [markdown]
# ## The question, and a trivial answer
#
# You have trained a small language model, and now you train a larger one on the same kind of text.
# Is the small model of any use?
# Usually knowledge goes the other way: in *distillation* a small student learns from the outputs of a large teacher {cite:p}`hinton2015distilling`.
# Here the teacher is the weaker one.
# Its soft labels, the probabilities of every word, are there from the first step on, while the student knows nothing yet.
# But they are wrong in places, and they stay wrong.
#
# In vision even very bad teachers were found to help, as a kind of label smoothing {cite:p}`yuan2020tfkd`; for language models a small model's outputs sped up the pre-training of a larger one {cite:p}`qin2022inheritance`.
# The paper asks what decides between help and harm.
# Each of its numbers comes from one training; its measure is the mean score of fine-tuning on the tasks of GLUE, 79.89 for the student alone.
#
# | teacher, of the student's size | teacher's score | student's score |
# |--:|--:|--:|
# | 0.78 | -2.23 | +1.44 |
# | 0.57 | -13.44 | -1.37 |
# | 0.46 | -26.02 | -2.76 |
#
# The trivial answer is to have no teacher, and to spend on more steps what the teacher costs.
# A step with a teacher costs about a sixth more, and training the teacher costs about half of the student's training again.
# So **quality** is the student's loss on held-out rows, beside that of *alone*, a student with the same first weights, text and masks and no teacher, and beside *alone, 1/6 longer*.
#
# *Masked-language modelling* hides words of a row and asks for them {cite:p}`devlin2019bert`.
# On held-out rows 15 % of the places are asked for; in training 30 %, which teaches faster.
# Of these, 80 % show `[MASK]`, 10 % a random word and 10 % the word itself.
# The loss is the mean of $-\log p(y)$ in nats, where $y$ is the word that stood there.
#
# Most models here learn a *generated* language, whose subjects and verbs agree in number across what stands between them.
# Its grammar is a finite machine, so Bayes' rule gives the exact probabilities $p^*$ of every hidden word: no model can have a lower expected loss than $p^*$.

# %% tags=["nbval-check-output"]
LANGUAGE = CONFIG["language"]


def trivial():
    """Losses in nats of what knows frequencies alone, and of Bayes' rule, on a few rows."""
    trial = held_out(LANGUAGE.rows(60, 12, seed=7), LANGUAGE.size)
    exact = Posterior(LANGUAGE)(trial)[np.arange(len(trial.targets)), trial.targets]
    counts = np.bincount(LANGUAGE.corpus(20_000, seed=8), minlength=LANGUAGE.size) / 20_000
    return -np.log(counts[trial.targets]).mean(), -np.log(exact).mean()


print(*(LANGUAGE.decode(row[1:]) for row in LANGUAGE.rows(2, 18, seed=5)), sep="\n")
print("frequencies alone: {:.2f} nats; best possible: {:.2f} nats".format(*trivial()))

# %% [markdown]
# ## By hand: help early, harm late
#
# One place, three words, and the right answer is $p^* = (\tfrac12, \tfrac12, 0)$.
# A weak teacher says $p_T = (\tfrac25, \tfrac25, \tfrac15)$.
# The student minimises its hard loss plus $w$ times its divergence from the teacher.
# Both are cross-entropies, up to constants, so in expectation it is drawn to their mixture, with $w = 1$ to
#
# $$
# \tfrac12 \bigl( p^* + p_T \bigr) = \bigl( \tfrac{9}{20}, \tfrac{9}{20}, \tfrac{1}{10} \bigr) .
# $$
#
# There it loses $\log \tfrac{10}{9} \approx 0.105$ nats more than the right answer, however long it trains: that is the harm.
#
# The help is in the noise.
# A hard label is a word drawn at random, and its gradient by the logits is $p_S - e_y$, where $e_y$ has a one at the word $y$.
# A soft label always pulls the same way, by $p_S - p_T$.
# In the mean of both, the noise of the hard labels is $1 + w$ times smaller: less variance, more bias.
# We let many students learn this one place.

# %% tags=["nbval-check-output"]


def toy(weight, size=2.5, steps=200, students=1000):
    """Mean excess loss (steps,) of students with free logits; weight: by progress."""
    best, weak = np.array([0.5, 0.5, 1e-12]), np.array([0.4, 0.4, 0.2])
    rng, z, out = np.random.default_rng(0), np.zeros((students, 3)), []
    for step in range(steps):
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        out.append((best * np.log(best / p)).sum(1).mean())
        w = weight(step / steps)
        drawn = np.eye(3)[(rng.random(students) < 0.5).astype(int)]
        z -= size * (1 - step / steps) * (p - drawn + w * (p - weak)) / (1 + w)
    return np.array(out)


TOY = {
    "alone": toy(lambda t: 0),
    "alone, small steps": toy(lambda t: 0, size=0.5),
    "weight 1": toy(lambda t: 1),
    "weight 4": toy(lambda t: 4),
    "weight 4 to 0": toy(lambda t: max(0, 4 * (1 - 2 * t))),
}
for name, curve in TOY.items():
    print(f"{name:>18}: excess {curve[9]:.2f} after ten steps, {curve[-1]:.3f} at the end")

# %% [markdown]
# With the same steps, *alone* is worst at first and best in the end, together with the weight that is taken back.
# But small steps lower the noise as well and cost nothing: against an untuned learning rate any teacher looks good.
#
# ## The method
#
# ### Models
#
# All models are encoders of the BERT kind at a small size, named by layers x width.
# They have layer norms before each block, rotary positions, and Muon for the matrices {cite:p}`devlin2019bert`: with BERT's own recipe, trainings of minutes end before agreement is learned.
# A `Bed` holds what the models of one comparison share.


# %% tags=["method"]
@dataclass(frozen=True)
class Bed:
    """What the models of a comparison share; teachers: layers, width, share of the steps."""

    name: str
    student: tuple
    teachers: dict
    steps: int
    batch: int
    lr: float
    vocabulary: int
    language: Language | None = None  # None: English
    length: int = 32  # tokens a row
    passes: int = 1  # over the training rows
    held: int = 100  # rows held out
    few: int = 20  # of these, at looks before the end
    exact: int = 1  # of these, those whose exact answers are known
    head: int = 8  # features of a head of attention
    fast: bool = False
    tasks: list = field(default_factory=list)
    tuning: FineTuning = field(default_factory=FineTuning)


# %% tags=["method"]
def network(bed, layers, width, seed=0):
    """A masked language model of so many layers and this width, without dropout."""
    longest, std = max(bed.length, bed.tuning.length), 0.5 / width**0.5
    heads = max(1, width // bed.head)
    sizes = BertConfig(bed.vocabulary, layers, width, heads, longest, "pre", std, "rotary")
    return bert(sizes, seed)


# %% [markdown]
# ### Two losses at the same places
#
# Let the student give the probabilities $p_S$ and the teacher $p_T$ at the $n$ places that are asked for, in the same masked rows.
# The *hard* loss is the cross-entropy with the words $y_i$ that stood there, the *soft* loss the divergence of the student from the teacher:
#
# $$
# \mathcal{L}_{\text{hard}} = - \frac{1}{n} \sum_{i=1}^{n} \log p_S(y_i), \qquad
# \mathcal{L}_{\text{soft}} = \frac{1}{n} \sum_{i=1}^{n} \sum_{c} p_T(c) \log \frac{p_T(c)}{p_S(c)} .
# $$ (eq-dwt-losses)
#
# Both are means over the *same* places: a mean that also divides by the vocabulary, which is the default of `F.kl_div`, would make the soft loss almost vanish.
# The teacher is frozen: no gradient reaches it.


# %% tags=["method"]
def hard_and_soft(z, y, t):
    """Equation (eq-dwt-losses): logits z, teacher's t (..., n, v), words (..., n): (...)."""
    log_p, log_q = z.log_softmax(-1), t.detach().log_softmax(-1)
    hard = -log_p.gather(-1, y[..., None])[..., 0].mean(-1)
    return hard, (log_q.exp() * (log_q - log_p)).sum(-1).mean(-1)


# %%
g = torch.Generator().manual_seed(0)
Z, T = 2 * torch.randn(2, 6, 9, generator=g)  # logits of a student and of a teacher
Y = torch.randint(0, 9, (6,), generator=g)
assert all(map(torch.isclose, hard_and_soft(Z, Y, T), distil.losses(Z, Y, T)))

# %% [markdown]
# ### The student's loss, and its schedules
#
# $$
# \mathcal{L} = \mathcal{L}_{\text{hard}} + w(t)\, \mathcal{L}_{\text{soft}}
# $$ (eq-dwt-loss)
#
# The paper has $w = 1$ (*normal*) and $w = 4$ (*strong*), constant over the progress $t$ from 0 to 1.
# It recommends a weight that falls, such as from 4 to 1, and did not run it.
# A second schedule falls from 4 to 0 by half of the training, so that the teacher is stopped there; that one is *ours*.

# %% tags=["method"]
SCHEDULES = {  # first and last weight, and the progress by which the last one is reached
    "0": (0, 0, 1), "1": (1, 1, 1), "4": (4, 4, 1), "4 to 1": (4, 1, 1), "4 to 0": (4, 0, 0.5),
}  # fmt: skip


def weight(schedule, progress):
    """The soft weight w of equation (eq-dwt-loss) at a progress from 0 to 1."""
    first, last, by = SCHEDULES[schedule]
    return first + (last - first) * min(1.0, progress / by)


# %% tags=["nbval-check-output"]
for name in SCHEDULES:
    print(f"{name:>6}:", [weight(name, t) for t in (0, 0.25, 0.5, 1)])

# %% [markdown]
# ### Starting from the teacher's weights
#
# The paper's *parameter remapping* copies the teacher layer by layer; the student's surplus layers all start from the teacher's last one.
# We copy embeddings and output layer, too, which the paper's text does not mention.
# It needs a teacher of the student's width.


# %% tags=["method"]
def remap(state, names):
    """Weights for a student's parameters `names`; surplus layers: the teacher's last one."""
    last = max(int(name.split(".")[1]) for name in state if name.startswith("layers."))

    def source(name):
        kind, *rest = name.split(".", 2)
        return f"{kind}.{min(int(rest[0]), last)}.{rest[1]}" if kind == "layers" else name

    return {name: state[source(name)] for name in names}


def begin(bed, arm, seed, at, teachers):
    """A student before its first step; at: the place of its seed in `teachers`."""
    student, (teacher, _, start) = network(bed, *bed.student, seed), arm
    if start == "remapped":
        student.load_state_dict(remap(teachers[teacher][at], student.state_dict()))
    return student


# %%
EXAMPLE = Bed("example", (6, 8), {"4x8": (4, 8, 1)}, 1, 1, 0.1, 20)


def remapping_is_the_packages(bed):
    """Whether a remapped student is what the package makes of the same teacher."""
    teacher = network(bed, 4, 8, seed=1)
    student = begin(bed, ("4x8", "1", "remapped"), 0, 0, {"4x8": [teacher.state_dict()]})
    due = distil.init_from(teacher, 6).state_dict()
    return all(torch.equal(value, due[name]) for name, value in student.state_dict().items())


assert remapping_is_the_packages(EXAMPLE)
print(
    "layers 1 to 6 of a student start from teacher layers",
    *remap(
        {f"layers.{i}.x": i + 1 for i in range(4)}, [f"layers.{i}.x" for i in range(6)]
    ).values(),
)

# %% [markdown]
# ### Training
#
# An *arm* is a teacher, a schedule and a start.
# Students of all arms and seeds are trained side by side: they see the same rows under the same masks, and a teacher's forward pass is made once for all its students.


# %% tags=["method"]
def speakers(bed, teachers, device):
    """The frozen teachers by name, the seeds of each side by side."""
    out = {}
    for name, states in teachers.items():
        nets = [network(bed, *bed.teachers[name][:2]) for _ in states]
        for net, state in zip(nets, states, strict=True):
            net.load_state_dict(state)
        out[name] = Together(nets, device)
    return out


def soft_loss(bed, arms, voices, device):
    """Equation (eq-dwt-loss) for `pretrain`: the mean over the students, arms by seeds."""
    scale = range(bed.steps)
    ws = [[weight(arm[1], k / max(1, bed.steps - 1)) for arm in arms] for k in scale]
    ws = torch.tensor(ws, device=device)

    def loss(logits, batch, progress):
        z = logits[0].unflatten(0, (len(batch.inputs), -1))  # (students, n, vocabulary)
        t, w = answers(arms, voices, batch, z), ws[round(progress * (bed.steps - 1))]
        hard, soft = hard_and_soft(z, batch.targets, t)
        return (
            hard.unflatten(0, (len(arms), -1)) + w[:, None] * soft.view(len(arms), -1)
        ).mean()

    return loss


# %% tags=["method"]
def answers(arms, voices, batch, z):
    """Logits of each student's teacher, shaped like z; zeros for a student alone."""
    seeds = len(z) // len(arms)  # the arms of a seed read the same text
    with torch.no_grad():
        said = {k: v(batch.inputs[:seeds], batch.positions[:seeds]) for k, v in voices.items()}
        said["none"] = torch.zeros_like(z[:seeds])
        return torch.cat([said[arm[0]].float() for arm in arms])


def teach(bed, arms, seeds, teachers, device, material):
    """Trains the students (arms by seeds); returns them and the places' losses at looks."""
    begun = [
        begin(bed, arm, seed, i, teachers) for arm in arms for i, seed in enumerate(seeds)
    ]
    nets, held = Together(begun, device), material.held
    few, loss = (
        held.rows(0, bed.few),
        soft_loss(bed, arms, speakers(bed, teachers, device), device),
    )
    look = lambda step: held_out_losses(nets, held if step == bed.steps else few).numpy()
    recipe = Recipe(bed.steps, bed.batch, bed.lr, fast=bed.fast)
    all_seeds, rows = list(seeds) * len(arms), material.train * len(arms)
    return nets, pretrain([nets], rows, all_seeds, recipe, loss, look, marks(bed))


# %% tags=["method"]
LOOKS = 12  # at every twelfth of a training


def marks(bed):
    """The steps before which the students are looked at, and the last."""
    return [round(bed.steps * k / LOOKS) for k in range(LOOKS + 1)]


AWAY = 500  # from a student's seed to those of its teachers


def train_teachers(bed, seeds, device, english=None):
    """The weights of every teacher, {name: [a state a seed]}: another order of rows."""
    rows, away, out = texts(bed, seeds, english).train, [AWAY + seed for seed in seeds], {}
    for name, (layers, width, share) in bed.teachers.items():
        nets = Together([network(bed, layers, width, seed) for seed in away], device)
        steps = max(1, round(share * bed.steps))
        pretrain([nets], rows, away, Recipe(steps, bed.batch, bed.lr, fast=bed.fast))
        out[name] = nets.states()
    return out


# %% tags=["method", "hide-input"]
class Material(NamedTuple):
    """Training rows of each seed, held-out rows and hidden verbs, numbers of the tokens."""

    train: list
    held: Masked
    verbs: Masked
    numbers: np.ndarray
    plain: np.ndarray  # held-out rows without masks


def texts(bed, seeds, english=None):
    """The material of a bed; english: the prepared corpus, or None."""
    if english is None:
        language, count = bed.language, -(-bed.steps * bed.batch // bed.passes)
        train = [language.rows(count, bed.length, seed) for seed in seeds]
        plain = language.rows(bed.held, bed.length, 10**6)
        held = held_out(plain, bed.vocabulary)
        return Material(train, held, held, language.verb_numbers, plain)
    plain, numbers = english["held"][: bed.held], np.zeros(bed.vocabulary, int)
    numbers[english["pairs"]] = (1, 2)
    verbs = hidden_verbs(english["held"], english["pairs"])
    held, train = held_out(plain, bed.vocabulary), [english["train"]] * len(seeds)
    return Material(train, held, verbs, numbers, plain)


def hidden_verbs(rows, pairs, most=300):
    """Rows with one verb hidden, as many singular as plural ones of each pair (1 and 2)."""
    found = []
    for pair in pairs:
        at = [np.argwhere(rows == token)[:most] for token in pair]
        found += [one[: min(map(len, at))] for one in at]
    row, place = torch.as_tensor(np.concatenate(found).T)
    ids, n = torch.as_tensor(rows[row.numpy()].astype(np.int64)), torch.arange(len(row))
    targets = ids[n, place]
    ids[n, place] = MASK
    return Masked(ids, n * ids.shape[1] + place, targets)


# %% [markdown]
# ### Where a student is drawn to
#
# Now what only a known language allows.
# In expectation over the hidden word, equation [](#eq-dwt-loss) with a constant weight is
#
# $$
# \mathbb{E}[\mathcal{L}] = (1 + w) \operatorname{KL}\bigl( m_w \,\|\, p_S \bigr) + \text{const}, \qquad
# m_w = \frac{p^* + w\, p_T}{1 + w} ,
# $$ (eq-dwt-mixture)
#
# so its minimum lies at the *mixture* $m_w$.
# A student that reaches it has the excess loss
#
# $$
# \operatorname{floor}(w) = \mathbb{E}\bigl[ \operatorname{KL}( p^* \,\|\, m_w ) \bigr] \le \frac{w}{1 + w}\, \mathbb{E}\bigl[ \operatorname{KL}( p^* \,\|\, p_T ) \bigr] ,
# $$ (eq-dwt-floor)
#
# which rises with $w$ to the teacher's own excess; the bound holds because the divergence is convex.
# A weight that ends at zero, with time left, has no floor.


# %% tags=["method"]
def excess(best, p):
    """Mean over places of KL(best || p) in nats; best, p: (..., n, v) -> (...)."""
    ratio = best.clamp_min(1e-300).log() - p.clamp_min(1e-300).log()
    return (best * ratio).sum(-1).mean(-1)


def floor(best, p, w):
    """Equation (eq-dwt-floor): the excess loss to which students of the teacher p tend."""
    return excess(best, (best + w * p) / (1 + w))


# %%
by_hand = torch.tensor([[[0.5, 0.5, 0.0]], [[0.4, 0.4, 0.2]]], dtype=torch.float64)
assert torch.isclose(floor(*by_hand, 1.0), torch.tensor(10 / 9, dtype=torch.float64).log())
assert floor(*by_hand, 0.0) == 0 and floor(*by_hand, 1.0) <= excess(*by_hand) / 2

# %% [markdown]
# ## The texts, looked at
#
# **Generated.** In one pass no row is seen twice.
# The paper makes twenty passes over its corpus; a bed of its own does so over a twentieth of the text.
# *The verdicts are about one pass*, but for the one that names twenty.
#
# **English.** WikiText-2 and novels, in pieces of words; two novels and some articles are held out.
# Students see a part of the corpus once.
# At profile `paper` the models are larger, and they make about twenty passes.
#
# Teachers learn from the text of their students, in another order, as in the paper.
# Each seed has its own weights, teachers and students, and in the generated language its own text; held-out rows are the same for all.
#
# Beside the loss, *agreement* asks what was learned: of the probability that goes to verbs at a hidden verb, the percentage in the right number.
# In English it is asked of *was/were, is/are, has/have*, equally many of either number, so that 50 is chance.


# %% tags=["hide-input"]
def sizes(*names):
    """Teachers by name, trained for as many steps as the student."""
    return {name: (*map(int, name.split("x")), 1.0) for name in names}


SMALL_TEACHERS, DEEP_TEACHERS = CONFIG["teachers"]["small"], CONFIG["teachers"]["deep"]
WEAK, WEAKER, WEAKEST = SMALL_TEACHERS
STOPPED = "stopped"  # a teacher of the student's size, trained for a fifth of the steps
SMALL = Bed(
    "2x32", CONFIG["small"], sizes(*SMALL_TEACHERS), CONFIG["steps"], CONFIG["batch"],
    CONFIG["rate"], LANGUAGE.size, LANGUAGE, held=CONFIG["held"], few=CONFIG["few"],
    exact=CONFIG["exact"],
)  # fmt: skip
BEDS = {
    "grid": replace(SMALL, teachers=SMALL.teachers | {STOPPED: (*SMALL.student, 0.2)}),
    "twenty": replace(SMALL, passes=20),
    "deep": replace(
        SMALL, name="4x64", student=CONFIG["deep"], teachers=sizes(*DEEP_TEACHERS),
        batch=CONFIG["deep batch"],
    ),
    "english": Bed(**ENGLISH_CONFIG | {"teachers": sizes(*ENGLISH_CONFIG["teachers"])}),
}  # fmt: skip


# %% tags=["hide-input"]
def prepared():
    """English as rows of tokens, with the tokens of singular and plural verbs."""
    if BEDS["english"].language:  # a generated one stands in for it
        return None
    found, bed = text.corpus(), BEDS["english"]
    train, held, tokenizer = text.rows(found, bed.vocabulary, bed.length)
    for name in (*found.sets, "text-glue"):
        s.data_used(name)
    pairs = [tokenizer.encode([verbs])[0] for verbs in ("was were", "is are", "has have")]
    out = {"train": train, "held": held, "pairs": np.stack(pairs).astype(int)}
    return out | {"tokenizer": tokenizer.to_json()}


CORPUS = prepared()


# %% [markdown]
# ## Training
#
# The grid crosses three teachers with four schedules.
# A fourth teacher has the student's own size but is *stopped* after a fifth of the steps, which separates quality from size.
# Two students start remapped from the one-layer teacher of their width, with and without its soft labels.
# Two students alone go on for a sixth, and for a half, of the steps more.
# Arms that a claim is about have more seeds than the others.


# %% tags=["hide-input"]
def arms_of(teachers, schedules="1"):
    """Arms from random weights; schedules: names, with commas between."""
    return [(who, w, "random") for who in teachers for w in schedules.split(",")]


ALONE = ("none", "0", "random")
START = [(WEAK, "1", "remapped"), (WEAK, "0", "remapped")]
CLAIMED = [ALONE, *arms_of([WEAK], "1,4,4 to 1,4 to 0"), *arms_of([WEAKER, WEAKEST]), *START]
MORE = [*arms_of([WEAKER, WEAKEST], "4,4 to 1,4 to 0"), *arms_of([STOPPED])]
ARMS = {
    "grid": CLAIMED,
    "twenty": [ALONE, *arms_of(SMALL_TEACHERS)],
    "deep": [ALONE, *arms_of(DEEP_TEACHERS, "1,4")],
    "english": [ALONE, *arms_of(BEDS["english"].teachers)],
}


def calls_of(name):
    """For every group of seeds what `student_rows` needs, with the teachers trained."""
    bed, seeds, device = BEDS[name], s.seeds[: CONFIG["seeds"][name]], s.device.type
    english, count = CORPUS if name == "english" else None, CONFIG["seeds"]["all arms"]
    together = device == "cuda" and name != "english"  # small ones: all seeds on a GPU
    parts = [seeds[:count], seeds[count:]] if together else [[seed] for seed in seeds]
    each = [
        dict(bed=bed, seeds=part, device=device, english=english) for part in parts if part
    ]
    workers = s.choose(smoke=1, standard=2)
    made = s.memo_each(f"teachers {name}", train_teachers, each, workers)
    for call, teachers in zip(each, made, strict=True):
        few = name == "grid" and call["seeds"][0] in seeds[:count]
        call |= {"teachers": teachers, "arms": ARMS[name] + MORE * few}
        if call["seeds"][0] not in seeds[: CONFIG["tasks"]]:
            call["bed"] = replace(bed, tasks=[])
    return each


# %% tags=["hide-input"]
def student_rows(bed, arms, seeds, teachers, device, english=None, extra="0"):
    """A row a student and look, and one a teacher; extra: the share of further steps."""
    bed = replace(bed, steps=round(bed.steps * (1 + Fraction(extra))))
    material = texts(bed, seeds, english)
    nets, looks = teach(bed, arms, seeds, teachers, device, material)
    students = named(bed, arms, seeds, "student")
    rows = [
        row | {"look": k, "loss": loss}
        for k, losses in enumerate(looks[:-1])
        for row, loss in zip(students, losses.mean(1), strict=True)
    ]
    rows += ended(bed, students, nets, looks[-1], material, english)
    voices = speakers(bed, teachers, device)
    if bed.name == "English":
        fresh = Together([network(bed, *bed.student, seed) for seed in seeds], device)
        voices = {"none": fresh} | voices
    for name, nets in voices.items():
        kind = "untrained" if name == "none" else "teacher"
        losses = held_out_losses(nets, material.held).numpy()
        who = named(bed, [(name, "none", "random")], seeds, kind)
        rows += ended(bed, who, nets, losses, material, english)
    same = {"bed": bed.name, "passes": bed.passes, "lr": f"{bed.lr:g}", "extra": extra}
    return [same | row for row in rows]


def named(bed, arms, seeds, kind):
    """The columns that name a network, arms by seeds; grade: 1 is the least weak teacher."""
    grade = {name: i for i, name in enumerate(["none", *bed.teachers])}
    return [
        {
            "kind": kind,
            "teacher": who,
            "grade": grade[who],
            "weight": w,
            "start": start,
            "seed": i,
        }
        for who, w, start in arms
        for i in seeds
    ]


# %% tags=["hide-input"]
def ended(bed, who, nets, losses, material, english):
    """Rows of networks at the end, and what they guess at one place where English asks."""
    exact = bed.exact * losses.shape[1] // bed.held
    columns = {"loss": losses.mean(1), "first": losses[:, :exact].mean(1)}
    columns["agreement"] = agreement(nets, material.verbs, material.numbers)
    if bed.name == "English" and who[0]["kind"] != "teacher":
        columns |= downstream(bed, who, nets, material.plain, english)
    lines = zip(*columns.values(), strict=True)
    rows = [
        a | {"look": LOOKS} | dict(zip(columns, b, strict=True))
        for a, b in zip(who, lines, strict=True)
    ]
    return rows + (guesses(who, nets, material.verbs) if bed.name == "English" else [])


def downstream(bed, who, nets, plain, english):
    """Percent of word orders told apart, and fine-tuned copies' scores on the bed's tasks."""
    models, seeds = [network(bed, *bed.student) for _ in who], [row["seed"] for row in who]
    for model, state in zip(models, nets.states(), strict=True):
        model.load_state_dict(state)
    out = {"order": [order_accuracy(model.to(nets.device), plain) for model in models]}
    for task in bed.tasks:
        tokenizer = Tokenizer.from_json(english["tokenizer"])
        scores = glue_scores(models, tokenizer, task, bed.tuning, seeds, nets.device)
        out[task] = [score[task] for score in scores]
    return out


# %% tags=["hide-input"]
@torch.no_grad()
def order_accuracy(model, plain, ridge=1.0):
    """Percent of held-out rows of which a linear probe knows if two neighbours are swapped."""
    rng, ids = np.random.default_rng(0), plain.astype(np.int64)
    at, swapped = rng.integers(1, ids.shape[1] - 1, len(ids)), np.arange(len(ids)) % 2
    for row, place in enumerate(at):
        if swapped[row]:
            ids[row, [place, place + 1]] = ids[row, [place + 1, place]]
    device = next(model.parameters()).device
    x = torch.cat([pooled(model, part.to(device)) for part in torch.as_tensor(ids).split(256)])
    x, y = (
        F.layer_norm(x, x.shape[1:]).double(),
        2.0 * torch.as_tensor(swapped, device=device) - 1,
    )
    x, half = torch.cat([x, torch.ones_like(x[:, :1])], 1), len(ids) // 2
    gram = x[:half].T @ x[:half] + ridge * torch.eye(x.shape[1], device=device).double()
    found = x[half:] @ torch.linalg.solve(gram, x[:half].T @ y[:half].double())
    return 100 * ((found > 0) == (y[half:] > 0)).double().mean().item()


def guesses(who, nets, verbs, index=400, most=5):
    """The likeliest tokens of the first seed's networks at one hidden verb, a row each."""
    one = verbs.rows(index % len(verbs), index % len(verbs) + 1)
    log_p = next(log_probabilities(nets, one))[0][:, 0].exp()
    top = log_p.topk(most)
    return [
        row | {"kind": "guess", "look": LOOKS, "token": int(token), "p": float(p)}
        for i, row in enumerate(who)
        if row["seed"] == who[0]["seed"]
        for token, p in zip(top.indices[i].tolist(), top.values[i].tolist(), strict=True)
    ]


# %% tags=["hide-input"]
CALLS = {name: calls_of(name) for name in BEDS}
each = [call for name in ("grid", "twenty", "deep") for call in CALLS[name]]
each += [
    call | {"teachers": {}, "arms": [ALONE], "extra": extra}
    for call in CALLS["grid"]
    for extra in ("1/6", "1/2")
]
students = s.frame("students", student_rows, each)
english = s.frame("english", student_rows, CALLS["english"])

# %% tags=["hide-input"]
RATES = {  # a half of the learning rate, and twice
    f"{share * SMALL.lr:g}": replace(BEDS["grid"], lr=share * SMALL.lr) for share in (0.5, 2)
}
few = [
    call for call in CALLS["grid"] if call["seeds"][0] in s.seeds[: CONFIG["seeds"]["rates"]]
]
each = [
    call
    | {"bed": bed, "arms": [ALONE, *arms_of([WEAK], "1,4"), *arms_of([WEAKEST])]}
    | {"teachers": {name: call["teachers"][name] for name in (WEAK, WEAKEST)}}
    for bed in RATES.values()
    for call in few
]
rates = s.frame("rates", student_rows, each)


# %% [markdown]
# ## Who is weak?
#
# Only a teacher that is worse than the student alone is weak in what matters here.
# The figure shows by how much each teacher's loss lies above that of the student alone; a claim about a teacher is *not tested* where the interval does not lie above zero.

# %% tags=["hide-input"]
KEYS = ["bed", "passes", "lr", "seed", "look"]
both = pd.concat([students, english], ignore_index=True)
both["text"] = both.bed + both.passes.map({1: "", 20: ", twenty passes"})


def against_alone(frame, value="loss"):
    """Column `more`: a network's value minus that of the student alone of its seed."""
    frame = frame[frame.kind.isin(["student", "teacher"]) & frame[value].notna()]
    alone = frame.query("teacher == 'none' and extra == '0'").set_index(KEYS)[value]
    base = alone.rename("alone")
    assert base.index.is_unique
    ends = frame.query("extra != '0'")  # longer ones are compared at their ends
    frame = frame[(frame.extra == "0") | frame.index.isin(ends[ends.look == LOOKS].index)]
    out = frame.join(base, on=KEYS)
    return out.assign(more=out[value] - out.alone, percent=100 * (out[value] / out.alone - 1))


def pm(values, digits=3):
    """A mean, with its sign, and half of its 95 % interval over seeds."""
    values = np.asarray(values, float)
    half = np.ptp(report.t_ends(values)) / 2
    return f"{values.mean():+.{digits}f}" + (f" ± {half:.{digits}f}" if half > 0 else "")


effects = against_alone(both)
ends = effects[effects.look == LOOKS]


# %% mystnb={"figure": {"caption": "How far each teacher's held-out loss lies above that of the student alone, in percent of the latter: a dot a seed, a line for the mean. At 0, the student alone.", "name": "fig-dwt-weak"}, "image": {"alt": "Three panels of dots, for the small and the deeper students of the generated language and for English; each row is a teacher by layers and width, and its dots lie to the right of zero by as many percent as it is behind the student alone."}} tags=["hide-input"]
def weak_figure():
    """A panel a bed, a row a teacher, a dot a seed."""
    some = ends[(ends.kind == "teacher") & (ends.passes == 1)]
    beds = list(dict.fromkeys(some.bed))
    fig, axes = plots.figure(1, len(beds), width=7.4, height=2.4)
    for ax, name in zip(axes, beds, strict=True):
        part = some[some.bed == name]
        sns.stripplot(
            part, x="percent", y="teacher", ax=ax, color=plots.PALETTE[0], jitter=0.1
        )
        mean = part.groupby("teacher", sort=False).percent.mean()
        ax.vlines(
            mean, np.arange(len(mean)) - 0.3, np.arange(len(mean)) + 0.3, plots.INK, lw=2
        )
        ax.axvline(0, color=plots.MUTED, lw=1)
        ax.set(title=f"student {name}", xlabel="behind alone (%)", ylabel="")
    return fig


plots.finish(weak_figure())


# %% tags=["hide-input"]
def level_words():
    """What the students alone know, in a sentence each."""
    alone = both.query("kind == 'student' and teacher == 'none' and extra == '0'")
    alone = alone[(alone.look == LOOKS) & (alone.passes == 1)]
    levels = alone.groupby("bed", sort=False)[["loss", "agreement"]].mean()
    for name, row in levels.iterrows():
        above = FREQUENCIES[name == "English"] - row.loss
        yield (
            f"The student {name} alone has a loss of {row.loss:.2f} nats, {above:.2f} below "
            f"frequencies, and puts {row.agreement:.0f} % of its verbs in the right number."
        )


def frequency_loss(call):
    """Loss of the frequencies of the training text on held-out rows, in nats."""
    found = texts(call["bed"], call["seeds"][:1], call["english"])
    counts = np.bincount(found.train[0].ravel(), minlength=call["bed"].vocabulary)
    counts = np.maximum(np.where(np.arange(len(counts)) < 5, 0, counts), 0.5)
    return -np.log(counts / counts.sum())[found.held.targets].mean()


FREQUENCIES = [frequency_loss(CALLS[name][0]) for name in ("grid", "english")]
s.say("\n".join(level_words()))

# %% [markdown]
# ## Does a moderately weak teacher help, and a very weak one harm?
#
# Each row is a teacher, with its size as a share of the student's parameters, and how far it is *behind* the student alone.
# *Weight 1* is what its soft labels change in the student's loss at the end: below zero they help.
# *Paper* is the change of the mean GLUE score, where above zero helps, under the paper's teacher of the same rank.
# Neither sizes nor distances carry over, since a point of GLUE is no percent of loss: what can be compared is where, as teachers get weaker, help turns to harm.

# %% tags=["hide-input"]
PAPER = dict(enumerate(["+1.44", "-1.37", "-2.76"]))  # from the least weak teacher on


def size_of(bed, name):
    """A teacher's parameters as a share of the student's."""
    count = lambda *shape: sum(p.numel() for p in network(bed, *shape).parameters())
    return count(*bed.teachers[name][:2]) / count(*bed.student)


def paper_table():
    """By bed and teacher: size, distance and effect at weight 1, beside the paper's."""
    rows = []
    for name in ("grid", "deep", "english"):
        bed = BEDS[name]
        some = ends[(ends.bed == bed.name) & (ends.passes == 1)]
        for rank, who in enumerate(bed.teachers):
            own, size = some[some.teacher == who], size_of(bed, who)
            taught = own.query("weight == '1' and start == 'random'").more
            behind = f"{own[own.kind == 'teacher'].percent.mean():.0f} %"
            row = bed.name, who, f"{size:.2f}", behind, pm(taught), PAPER.get(rank, "–")
            rows.append(row)
    columns = ["student", "teacher", "size", "behind", "weight 1 (nats)", "paper"]
    return pd.DataFrame(rows, columns=columns)


s.say(paper_table().to_markdown(index=False, disable_numparse=True))

# %% [markdown]
# ## Which weight, and which schedule?
#
# Rows are teachers of the student 2x32, columns the soft weight; each cell is the loss at the end minus that of *alone*, in nats.
# The stopped teacher has weight 1 only.


# %% tags=["hide-input"]
def cells(frame, rows, columns, value="more"):
    """A table of means ± half of their intervals over seeds."""
    by = frame.groupby([rows, columns], sort=False)[value].apply(pm).unstack(sort=False)
    return by.fillna("–").to_markdown(disable_numparse=True)


grid = effects.query("bed == '2x32' and passes == 1 and kind == 'student' and extra == '0'")
grid = grid[(grid.start == "random") & (grid.teacher != "none")]
s.say(cells(grid[grid.look == LOOKS], "teacher", "weight"))


# %% mystnb={"figure": {"caption": "Held-out loss on the way minus that of the student alone at the same step, means over seeds with bands of 95 %: below zero the teacher helps. A panel a teacher, a line a schedule; all end with a learning rate of zero.", "name": "fig-dwt-curves"}, "image": {"alt": "Three panels of curves against the share of the steps, one for each teacher from the least to the most weak; each has four lines, for weights 1, 4, 4 to 1 and 4 to 0, which begin below zero where the teacher helps early, and end where the table says."}} tags=["hide-input"]
def curve_figure():
    """A panel a teacher, a line a schedule: loss minus alone's against the share of steps."""
    fig, axes = plots.figure(1, 3, width=7.4, height=2.8, sharey=True)
    for ax, name in zip(axes, SMALL_TEACHERS, strict=True):
        part = grid[(grid.teacher == name) & (grid.look > 0)].assign(share=grid.look / LOOKS)
        sns.lineplot(
            part, x="share", y="more", hue="weight", style="weight", ax=ax,
            errorbar=report.t_ends, palette=plots.PALETTE[:4], legend=ax is axes[-1],
        )  # fmt: skip
        ax.axhline(0, color=plots.MUTED, lw=1)
        ax.set(title=f"teacher {name}", xlabel="share of the steps")
    axes[0].set_ylabel("loss minus alone's (nats)")
    return fig


plots.finish(curve_figure())


# %% tags=["hide-input"]
def crossing(ahead, other):
    """The share of the training after which the curve `ahead` (looks,) stays above `other`."""
    gap = np.asarray(ahead, float) - np.asarray(other, float)
    below = np.flatnonzero(gap <= 0)
    if not len(below) or below[-1] == len(gap) - 1:
        return 0.0 if not len(below) else np.nan
    i = below[-1]
    return (i + gap[i] / (gap[i] - gap[i + 1])) / (len(gap) - 1)


def crossing_words():
    """When the strong weight falls behind the normal one, and each behind no teacher."""
    mean = grid.groupby(["teacher", "weight", "look"]).more.mean()
    when = lambda x: "never" if np.isnan(x) else f"from {100 * x:.0f} % of the steps on"
    for name in SMALL_TEACHERS:
        strong, normal = (mean.xs((name, w)).to_numpy() for w in "41")
        yield (
            f"- Teacher {name}: weight 4 stays behind weight 1 "
            f"{when(crossing(strong, normal))}, "
            f"behind no teacher {when(crossing(strong, 0 * strong))}."
        )


s.say("\n".join(crossing_words()))

# %% [markdown]
# ### Ours: stop the teacher at half
#
# The floor of equation [](#eq-dwt-floor) belongs to the weight at the end.
# So *ours* takes what a strong weight gives early and lets the student be alone afterwards: *4 to 0*.
# A fair rival is no teacher and a sixth more steps, which costs about as much.
#
# ### Twenty passes, larger students, other learning rates
#
# With few rows that come again and again, soft labels may also keep a student from learning rows by heart.
# The first table has weight 1 in one pass and in twenty, and both weights for the student 4x64.
# The second has three learning rates: is the teacher's effect one of an untuned rate?


# %% tags=["hide-input"]
def grade_table():
    """Effects of the generated language's teachers, by student, passes and weight."""
    grades = {1: "least weak", 2: "weaker", 3: "weakest"}
    some = ends.query("kind == 'student' and start == 'random' and extra == '0' and grade > 0")
    some = some[some.weight.isin(["1", "4"]) & (some.bed != "English") & (some.grade < 4)]
    some = some.sort_values("grade", kind="stable")
    named = some.assign(students=some.text + ", weight " + some.weight)
    return cells(named.assign(teacher=some.grade.map(grades)), "students", "teacher")


s.say(grade_table())


# %% tags=["hide-input"]
def rate_table():
    """Losses at three learning rates, alone and taught, and best against best."""
    centre = students.query("bed == '2x32' and passes == 1 and start == 'random'")
    known = set(rates.teacher + rates.weight)
    centre = centre[(centre.teacher + centre.weight).isin(known) & (centre.extra == "0")]
    all_ = pd.concat([centre[centre.seed.isin(rates.seed)], rates])
    all_ = all_.query("kind == 'student'")
    all_ = all_[all_.look == LOOKS].assign(rate=lambda x: x.lr.astype(float))
    all_["student"] = all_.teacher + ", weight " + all_.weight
    table = (
        all_.groupby(["student", "rate"], sort=False).loss.mean().unstack().sort_index(axis=1)
    )
    table.columns = [f"rate {rate:g}" for rate in table]
    return table.rename(index={"none, weight 0": "alone"})


def rate_words(table):
    """Taught against alone, each at the rate that is best for it."""
    best = table.min(axis=1)
    for name in (WEAK, WEAKEST):
        more = best[f"{name}, weight 1"] - best["alone"]
        yield f"Each at its best rate: weight 1 of {name} minus alone is {more:+.3f} nats."


s.say(rate_table().to_markdown(floatfmt=".3f"))
s.say("\n".join(rate_words(rate_table())))

# %% [markdown]
# ## The start
#
# A remapped student has the teacher's training behind it.
# The paper compares it with a random start at the same weight; a fair rival without soft labels is *alone* for as many more steps as the teacher cost, about a half.
# Each cell is the loss minus that of *alone*: early, after a sixth of the steps, and at the end.

# %% tags=["hide-input"]
START_NAMES = {
    (WEAK, "1", "random"): "random, weight 1",
    (WEAK, "1", "remapped"): "remapped, weight 1",
    (WEAK, "0", "remapped"): "remapped, no soft labels",
    (WEAK, "4 to 0", "random"): f"ours: {WEAK}, 4 to 0",
}


def start_table():
    """Effects early and at the end, by start and by further steps."""
    some = effects.query("bed == '2x32' and passes == 1 and kind == 'student'")
    arm = pd.Series(zip(some.teacher, some.weight, some.start, strict=True), some.index)
    longer = (some.teacher == "none") & (some.extra != "0")
    names = arm.map(START_NAMES).where(~longer, "alone, " + some.extra + " longer")
    some = some.assign(student=names, when=some.look.map({2: "early", LOOKS: "end"}))
    some = some.dropna(subset=["student", "when"])
    return cells(some, "student", "when")


s.say(start_table())

# %% [markdown]
# ## More than a loss: agreement, word order, sentiment
#
# *Order* is a linear probe on the mean of a model's last states: are two neighbouring words of a row swapped, or none?
# SST-2 is the sentiment task of GLUE, fine-tuned on 10,000 of its examples; a student that was never pre-trained shows what the labels alone give.
# The other tasks of GLUE need longer pre-training, so they are left to profile `paper`.


# %% tags=["hide-input"]
def downstream_table():
    """English students: means of what they are good for, in percent."""
    some = english[
        english.kind.isin(["student", "untrained"]) & (english.look == LOOKS)
    ].copy()
    some["student"] = "weight " + some.weight + " of " + some.teacher
    some.loc[some.teacher == "none", "student"] = "alone"
    some.loc[some.kind == "untrained", "student"] = "never trained"
    columns = ["loss", "agreement", "order", *BEDS["english"].tasks]
    return some.groupby("student", sort=False)[columns].mean()


s.say(downstream_table().to_markdown(floatfmt=["", ".2f", *[".1f"] * 9]))

# %% [markdown]
# ### One sentence
#
# One hidden verb of a held-out text, and the likeliest words by the least weak teacher, the weakest, and the student alone.


# %% tags=["hide-input"]
def sentence():
    """A row with a hidden verb, and the likeliest tokens of three models."""
    call = CALLS["english"][0]
    verbs = texts(replace(call["bed"], steps=1), call["seeds"][:1], call["english"]).verbs
    ids = verbs.rows(400 % len(verbs), 400 % len(verbs) + 1)
    words = Tokenizer.from_json(CORPUS["tokenizer"]).decode if CORPUS else LANGUAGE.decode
    row, hidden = words(ids.inputs[0].tolist()[1:]), words(ids.targets[:1].tolist())
    yield f"> {row}\n\nHidden: *{hidden}*.\n"
    some = english[(english.kind == "guess") & (english.seed == english.seed.iloc[0])]
    names = [*BEDS["english"].teachers]
    for name, weight_ in ((names[0], "none"), (names[-1], "none"), ("none", "0")):
        top = some[(some.teacher == name) & (some.weight == weight_)]
        said = [f"{words([t])} {100 * p:.0f} %" for t, p in zip(top.token, top.p, strict=True)]
        who = "student alone" if name == "none" else f"teacher {name}"
        yield f"- {who}: {', '.join(said)}"


s.say("\n".join(sentence()))

# %% [markdown]
# ## The floor
#
# The floor is a theory of the minimum: it uses the teacher's probabilities, the exact answer and the weight, and nothing of the student.
# It bounds from below the loss of a student that has learned its lesson to perfection.
# A student that is still far above it is held by something else, and one that cannot copy its teacher's errors may lie below it.

# %% tags=["hide-input"]
WEIGHTS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


def exact_answers(bed, seed=None):
    """Exact probabilities (places, vocabulary) at the first held-out rows, and their loss."""
    held = first_rows(bed)
    p = Posterior(bed.language)(held)
    return {"p": p, "loss": float(-np.log(p[np.arange(len(p)), held.targets]).mean())}


def first_rows(bed):
    """The held-out rows whose exact answers are known."""
    return texts(replace(bed, steps=1), [0]).held.rows(0, bed.exact)


def floor_rows(bed, seeds, teachers, exact, device):
    """The floor of every teacher at every weight, and the teacher's own excess."""
    held, best, rows = first_rows(bed), torch.as_tensor(exact), []
    for name, voice in speakers(bed, teachers, device).items():
        parts = [log_p.double().exp().cpu() for log_p, _ in log_probabilities(voice, held)]
        p = torch.cat(parts, 1)  # (seeds, places, vocabulary)
        found = {w: floor(best, p, w) for w in WEIGHTS} | {np.inf: excess(best, p)}
        for w, values in found.items():
            rows += [
                {"teacher": name, "seed": seed, "w": w, "floor": float(value)}
                for seed, value in zip(seeds, values, strict=True)
            ]
    return rows


EXACT = s.memo(
    "exact", exact_answers, seed=None, bed=SMALL, on_cpu="sums over states, in NumPy"
)
each = [
    {k: call[k] for k in ("seeds", "teachers", "device")}
    | {"bed": BEDS["grid"], "exact": EXACT["p"]}
    for call in CALLS["grid"]
]
floors = s.frame("floors", floor_rows, each)


# %% mystnb={"figure": {"caption": "Lines: the floor of each teacher against the soft weight, means over seeds; it tends to the teacher's own excess. Markers: the excess loss of its students at weights 1 and 4. The floor bounds a perfect student from below; it does not predict one that is still far above it, as the distance of the markers shows.", "name": "fig-dwt-floor"}, "image": {"alt": "Rising lines of the floor against the weight on logarithmic axes, one for each teacher, the weakest on top, with markers of students at weights 1 and 4 above their lines, and a horizontal line for the student alone."}} tags=["hide-input"]
def floor_figure():
    """Floors as lines, students at the end as markers."""
    fig, ax = plots.figure(width=5.6, height=3.2)
    some = students.query(
        "bed == '2x32' and passes == 1 and kind == 'student' and extra == '0'"
    )
    some = some[(some.look == LOOKS) & (some.start == "random")]
    some = some.assign(excess=some["first"] - EXACT["loss"])
    for i, name in enumerate(SMALL_TEACHERS):
        mean = floors[floors.teacher == name].groupby("w").floor.mean()
        label = f"teacher {name}, own excess {mean[np.inf]:.2f}"
        ax.plot(mean.index[:-1], mean[:-1], color=plots.PALETTE[i], label=label)
        taught = some[(some.teacher == name) & some.weight.isin(["1", "4"])]
        taught = taught.groupby("weight").excess.mean()
        ax.plot(
            [int(w) for w in taught.index], taught, plots.MARKERS[i], color=plots.PALETTE[i]
        )
    alone = some[some.teacher == "none"].excess.mean()
    ax.axhline(alone, color=plots.MUTED, lw=1, label="student alone")
    ax.set(xscale="log", yscale="log", xlabel="soft weight", ylabel="excess loss (nats)")
    ax.legend(fontsize=8)
    return fig


plots.finish(floor_figure())

# %% [markdown]
# ## The claims
#
# They were written down before the run, the paper's and our own alike: *reproduced* means that the sentence in the first column held.
# All are about held-out loss in nats, a minus b on the same seeds.
#
# - *Reproduced* and *contradicted*: the interval lies on one side of zero, and the mean is beyond the smallest effect that matters.
# - *No effect*: the whole interval lies within the smallest effect of zero.
# - *Undecided*: none of these.
# - *Not tested*: the teacher is not certain to be weak, or the reason is named.
#
# The smallest effect is 0.01 nats.
# The intervals are widened so that all claims of one question (does it work at all, is it better than rivals, does what is new matter) err together at most once in twenty (Holm).
# Which rows a claim compares stands in `notebooks/claims/09_weak_teacher.toml`.

# %% tags=["hide-input"]
verdicts = s.claims()

# %% [markdown]
# ## Where it breaks
#
# **Which measure.**
# The paper judges by GLUE after fine-tuning, this book by the pre-training loss.
# A teacher could harm one and help the other.
#
# **How long.**
# A teacher's help shows early and its harm late, so a run that ends early finds that teachers help.
# Where a student learns in sudden steps, such as agreement here, a teacher may also change *when* it does, and a mean over seeds then mixes two kinds of students.
#
# **What is equal.**
# Equal steps favour the student with a teacher, whose steps cost more, and whose teacher had to be trained.
#
# ## Deviations

# %% tags=["hide-input"]
s.deviations_table()

# %% [markdown]
# ## Exercises
#
# ### Exercise 1 (★☆☆): the right mean
#
# Write the soft loss of equation [](#eq-dwt-losses) with `F.kl_div`.
# By which factor would it be too small with `reduction="mean"`?


# %% tags=["exercise"]
def my_soft(z, t):
    """The soft loss of logits (n, v) of a student and its teacher, ()."""
    return None  # your code


def check_my_soft(function):
    for seed in range(3):
        z, t = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(seed))
        out = function(z, t)
        assert torch.is_tensor(out) and out.shape == (), "give one number, as a tensor"
        due = hard_and_soft(z, torch.zeros(6, dtype=int), t)[1]
        assert torch.isclose(out, due), f"seed {seed}: this is not the soft loss"
    return "Exercise 1: correct; 'mean' divides by the vocabulary as well"


if my_soft(Z, T) is not None:
    print(check_my_soft(my_soft))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def my_soft_solution(z, t):
    return F.kl_div(z.log_softmax(1), t.softmax(1), reduction="batchmean")


print(check_my_soft(my_soft_solution))


# %% [markdown]
# ### Exercise 2 (★☆☆): the gradient
#
# Write the gradient of equation [](#eq-dwt-loss) by the student's logits.
# How does its length grow with the weight, and why does Muon, whose steps have one size, not mind?


# %% tags=["exercise"]
def mixed_gradient(z, y, t, w):
    """d loss / d z for logits z, t (n, v), words y (n,) and a weight w: (n, v)."""
    return None  # your code


def check_mixed_gradient(function):
    for seed, w in enumerate((0.0, 1.0, 4.0)):
        z, t = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(seed))
        y, leaf = (torch.arange(5) * (seed + 2)) % 7, z.clone().requires_grad_()
        hard, soft = hard_and_soft(leaf, y, t)
        (due,) = torch.autograd.grad(hard + w * soft, leaf)
        out = function(z, y, t, w)
        assert np.shape(out) == due.shape, "give a number for each logit"
        assert torch.allclose(out, due, atol=1e-6), f"w = {w}: not autograd's gradient"
    return "Exercise 2: correct; it is 1 + w times the student minus a mixture"


if mixed_gradient(Z, Y, T, 1.0) is not None:
    print(check_mixed_gradient(mixed_gradient))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def mixed_gradient_solution(z, y, t, w):
    p = z.softmax(1)
    return (p - F.one_hot(y, z.shape[1]) + w * (p - t.softmax(1))) / len(y)


print(check_mixed_gradient(mixed_gradient_solution))


# %% [markdown]
# ### Exercise 3 (★★☆): how large may the weight be?
#
# Find the largest weight whose floor stays below a given loss, by bisection between 0 and `top`; the floor rises with the weight.


# %% tags=["exercise"]
def largest_weight(best, p, allowed, top):
    """The weight at which the floor is `allowed`; `top` if it is lower even there."""
    return None  # your code


def check_largest_weight(function):
    for seed, share in enumerate((0.1, 0.5, 0.7)):
        g = torch.Generator().manual_seed(seed)
        best, p = (2 * torch.randn(2, 4, 6, generator=g).double()).softmax(-1)
        for top in (50.0, 80.0):
            allowed = float(share * floor(best, p, top))
            w = function(best, p, allowed, top)
            assert w is not None and 0 < float(w) < top, "give a weight between 0 and top"
            assert abs(float(floor(best, p, float(w))) / allowed - 1) < 1e-3, (
                f"the floor of weight {float(w):.3f} is not the one allowed"
            )
            assert function(best, p, 100.0, top) == top, "a lower floor at top gives top"
    return "Exercise 3: correct"


if largest_weight(*by_hand, 0.1, 50.0) is not None:
    print(check_largest_weight(largest_weight))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def largest_weight_solution(best, p, allowed, top):
    if floor(best, p, top) < allowed:
        return top
    low, high = 0.0, top
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if floor(best, p, middle) < allowed else (low, middle)
    return high


print(check_largest_weight(largest_weight_solution))


# %% [markdown]
# ### Exercise 4 (★★★): growth, another start
#
# Remapping copies the last layer into the surplus layers.
# *Growth* {cite:p}`chen2016net2net` lets them do nothing at first, so that the student begins exactly as its teacher.
# Layers here add to what they get: set the right weights to zero.


# %% tags=["exercise"]
def grown(state, names):
    """Weights for a student's parameters `names` that make it speak as its teacher does."""
    return None  # your code


def check_grown(function):
    for seed, (few, many) in enumerate(((1, 3), (2, 3), (2, 5))):
        bed = Bed("check", (many, 8), {}, 1, 1, 0.1, 20)
        teacher, student = network(bed, few, 8, seed), network(bed, many, 8, seed + 9)
        out = function(teacher.state_dict(), list(student.state_dict()))
        assert isinstance(out, dict) and set(out) == set(student.state_dict()), (
            "give a tensor for each of the student's names"
        )
        student.load_state_dict(out)
        ids, at = torch.arange(5, 17)[None], torch.arange(12)
        assert torch.allclose(student(ids, at), teacher(ids, at), atol=1e-5), (
            f"{many} layers from {few} do not speak as the teacher"
        )
        surplus = [v for k, v in out.items() if f"layers.{many - 1}.qkv.weight" in k]
        assert surplus[0].abs().sum() > 0, "leave the new layers something to learn from"
    return "Exercise 4: correct"


if grown(network(EXAMPLE, 1, 8).state_dict(), []) is not None:
    print(check_grown(grown))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def grown_solution(state, names):
    out = remap(state, names)
    for name in names:
        if name not in state and (".out." in name or ".down." in name):
            out[name] = torch.zeros_like(out[name])
    return out


print(check_grown(grown_solution))

# %% [markdown]
# ## Summary
#
# A weak teacher's soft labels are less noisy than hard labels, and biased.
# While noise and a slow start limit a student, they can help; a student that came to what it is drawn to would be left with the bias, which can be computed from the teacher and the exact answer.
# So say how far the teacher is behind, look at the whole curve, and compare with a student that has had as much computation and no teacher.
# A weight that is taken back in time keeps the early gain without the floor.
# What held of the paper's sentences stands at the top of this page.
#
# Further reading: {cite:t}`yuan2020tfkd` for teachers as label smoothing, {cite:t}`qin2022inheritance` for inheriting knowledge in pre-training, {cite:t}`furlanello2018` for students of the teacher's size.
#
# ## Run card

# %%
s.finish()
s.run_card()
