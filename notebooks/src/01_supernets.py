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
# # Supernets: does weight sharing rank architectures?
#
# *This chapter is of the first edition: [Errata](../book/errata.md) lists what is known to be wrong or undecided in it.*
#
# **The claim in one sentence.**
# One network that contains all architectures of a space, trained once, tells which of them are good, because every architecture can be scored with the weights that it inherits {cite:p}`cha2022supernet`.
#
# | | |
# |---|---|
# | You need | PyTorch, convolutions and batch norm, rank correlation ([chapter 00](00_foundations.ipynb)) |
# | To read | 45 minutes |
# | To run | `smoke`: under a minute, offline; `standard`: about 80 minutes on two CPU cores, 2 GB of memory |
# | Data | `smoke`: digits and the benchmark that this project trained on them, shipped with it; `standard`: these, measured latencies, CIFAR-10, CIFAR-100, the table of NAS-Bench-201 and the scores of two published supernets ([data](../book/data.md)) |
#
# The paper is a survey: it orders the field.
# Our account of its order rests on the abstracts of its two versions; we had no access to its body.
# The experiments below are ours, on methods that it covers, and so are the sentences that are tested.
# The published outputs come from a `standard` run; the [run card](#run-card) at the end says from which one.

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
import itertools
import math
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from pyarrow import parquet
from torch import nn
from torch.nn import functional as F

from nbpkg import data as files
from nbpkg.report import plots, ranking, stats, verdicts
from nbpkg.data import images as pictures
from nbpkg.data import latency
from nbpkg.data import nb201
from nbpkg.nb201 import costs, digits, space
from nbpkg.session import Session
from nbpkg.report.stats import kendall_tau_b
from nbpkg.zoo.tasks import Task

# %%
s = Session("01_supernets", profile=PROFILE, seeds=SEEDS, device=DEVICE)
plots.theme()
OPS = space.all_ops()
DEAD = space.is_dead(OPS)


def key(text):
    """A name as metrics spell it."""
    return text.lower().replace(",", "").replace(" ", "-")


# %% [markdown]
# Three aims.
# After this chapter you can
#
# 1. place a method of supernet training on the survey's two axes, and say which problem it answers;
# 2. write a supernet, eight ways of training it, and a scorer for all 15,625 cells;
# 3. judge a claim about weight sharing: by tau among good cells, by the number of passes, by seeds, and by what counting convolutions does for free.
#
# The survey divides the field by two questions.
# *Spatial* optimisation asks how the weights of the supernet and of its subnets are learned; *temporal* optimisation asks how architectures are then selected from it.
# Its first version named three problems instead: what data to train on, why shared weights rank poorly, and how to serve many devices.
# These are the rows of the figure; its columns, and the placement of methods, are ours.
# A filled marker is implemented below, and the table says which problem each method answers.

# %% tags=["hide-input"]
SURVEY = [
    # name, column of the map, problem, implemented here, one sentence
    ("SPOS", "paths", "ranking", True, "trains one uniformly drawn path a step"),
    ("FairNAS", "paths", "ranking", True, "trains every operation once in every step"),
    ("GreedyNAS", "paths", "ranking", True, "trains only the more promising of the paths it draws"),
    ("AttentiveNAS", "paths", "ranking", False, "draws paths near the best or the worst of each cost"),
    ("Few-shot NAS", "weights", "ranking", True, "splits the supernet so that fewer paths share weights"),
    ("GM-NAS", "weights", "ranking", True, "splits where operations pull shared weights apart"),
    ("K-shot NAS", "weights", "ranking", False, "mixes a few copies of each weight by a code of the path"),
    ("DARTS", "relaxation", "ranking", True, "weights all operations at once and learns the weights"),
    ("GDAS", "relaxation", "ranking", True, "samples one operation by a trick that keeps a gradient"),
    ("BigNAS", "targets", "data", True, "lets the largest subnet teach the others in the same step"),
    ("AlphaNet", "targets", "data", False, "distils with a divergence that resists over-confidence"),
    ("RSPS", "selection", "ranking", False, "ranks random paths by shared weights"),
    ("Evolution", "selection", "transfer", True, "breeds paths by their scores under a limit on cost"),
    ("OFA", "selection", "transfer", False, "serves many devices from one supernet with predictors"),
    ("Progressive shrinking", "shrinking", "transfer", False, "opens smaller sizes of the network step by step"),
    ("Angle-based search", "shrinking", "ranking", False, "drops operations whose weights turn least"),
]  # fmt: skip
COLUMNS = {
    "paths": "which path\nis trained", "weights": "how weights\nare shared", "relaxation": "relaxed\nchoices",
    "targets": "what it is\ntrained on", "selection": "how a path\nis chosen", "shrinking": "how the space\nshrinks",
}  # fmt: skip
PROBLEMS = {"ranking": "poor ranking", "data": "data and targets", "transfer": "many deployments"}
s.say(
    "| method | axis | the problem it answers | in one sentence |\n|---|---|---|---|\n"
    + "\n".join(
        f"| {'**' + name + '**' if here else name} | {'spatial' if list(COLUMNS).index(col) < 4 else 'temporal'}: {COLUMNS[col].replace(chr(10), ' ')} | {PROBLEMS[problem]} | {text} |"
        for name, col, problem, here, text in SURVEY
    )
    + "\n\nBold: implemented in this chapter."
)

# %% mystnb={"figure": {"caption": "The survey's two axes. Spatial optimisation on the left, temporal on the right of the line; rows are the three problems. Filled dots are implemented in this chapter.", "name": "fig-supernets-map"}, "image": {"alt": "A map with six columns and three rows. Four columns left of a vertical line belong to spatial optimisation: which path is trained, how weights are shared, relaxed choices, what it is trained on. Two columns right of it belong to temporal optimisation: how a path is chosen, how the space shrinks. Rows are poor ranking, data and targets, many deployments. Sixteen methods stand in it, most of them in the row of poor ranking."}} tags=["hide-input"]
fig, ax = plots.figure(width=7.8, height=3.9)
taken = {}
for name, col, problem, here, _ in SURVEY:
    x, row = list(COLUMNS).index(col), list(PROBLEMS).index(problem)
    y = row - 0.3 + 0.2 * taken.setdefault((x, row), 0)
    taken[x, row] += 1
    ax.plot(x - 0.38, y, "o", color=plots.PALETTE[0], fillstyle="full" if here else "none", ms=6)
    ax.text(x - 0.3, y, name.replace("Progressive ", "Progr. "), va="center", fontsize=8)
ax.axvline(3.5, color=plots.PALETTE[1], lw=1)
ax.set_xticks(range(6), COLUMNS.values(), fontsize=8)
ax.set_yticks(range(3), PROBLEMS.values())
ax.set(xlim=(-0.55, 5.6), ylim=(2.6, -0.6))
ax.set_title("spatial", loc="left")
ax.set_title("temporal", loc="right")
ax.grid(False)
plots.finish(fig)


# %% [markdown]
# ## The question, and what a trivial answer gives
#
# A cell of NAS-Bench-201 {cite:p}`dong2020nasbench201` has four nodes and six edges; each edge carries one of five operations (`none`, skip, 1x1 or 3x3 convolution, 3x3 average pooling), and a network stacks copies of one cell in three stages.
# That makes 15,625 cells, and its authors trained them all.
# A supernet promises their *order* for the price of a few trainings.
# Order is measured by Kendall's tau-b {cite:p}`kendall1938`: the share of pairs of cells in the right order minus that in the wrong one, ties set apart.
#
# One number is not enough.
# A few hundred cells are *dead*, with no way from input to output, and many more are poor; whoever puts these last has a fair tau without knowing anything about good cells.
# So tau is also taken among the live cells, among the good ones, and within the best tenth.
# *Good* means above 90 % on CIFAR-10 and above the median on the digits: about the better half.
#
# And it has to be compared with something.
# Counting convolutions needs no training, no images and no GPU.

# %% tags=["method"]
def regions(truth, dead, good):
    """Masks of the cells within which order is asked for; `good`: the least accuracy of a good cell."""
    top = truth >= -np.partition(-truth, len(truth) // 10 - 1)[len(truth) // 10 - 1]
    return {"all": np.ones(len(truth), bool), "live": ~dead, "good": truth > good, "top": top}


def quality(score, truth, where):
    """Tau-b in each region; percent of the predicted top 1, 5, 10 % that belong there; regret in points."""
    found = {f"tau-{name}": kendall_tau_b(score[mask], truth[mask]) for name, mask in where.items()}
    for share in (0.01, 0.05, 0.1):
        precise = ranking.precision_at_top(score, truth, fraction=share)
        found[f"precision-{round(100 * share)}"] = 100 * precise
    for k in (1, 10, 100):
        found[f"regret-{k}"] = ranking.top_k_regret(score, truth, min(k, len(truth)))
    return {name: float(value) for name, value in found.items()}


# %% tags=["hide-input"]
BENCH = digits.load()
TRUTHS = {"digits": BENCH.test.mean(0)}
if not s.smoke:
    TABLE = nb201.load()
    TRUTHS = {"cifar10": TABLE.accuracy("cifar10", "test")} | TRUTHS
GOOD = {"cifar10": 90.0, "digits": float(np.median(TRUTHS["digits"]))}
WHERE = {name: regions(truth, DEAD, GOOD[name]) for name, truth in TRUTHS.items()}
COUNTS = {
    "FLOPs": costs.costs(OPS)[1].astype(float),
    "parameters": costs.costs(OPS)[0].astype(float),
    "conv count": 9.0 * (OPS == 3).sum(1) + (OPS == 2).sum(1),
    "FLOPs, live edges": costs.costs(OPS, live_only=True)[1].astype(float),
}
PUBLISHED = {}
if not s.smoke:
    columns = parquet.read_table(files.path("nb201/published_supernets.parquet"))
    order = np.argsort(columns["index"].to_numpy())
    for column in ("oneshot", "fewshot"):
        values = columns[column].to_numpy()[order]
        PUBLISHED[f"published {column[:-4]}-shot"] = values[TABLE.benchmark_index]
TITLES = {"cifar10": "CIFAR-10", "digits": "digits"}


def row(name, found):
    return f"| {name} | " + " | ".join(
        f"{found[k]:.3f}" if k.startswith("tau") else f"{found[k]:.2f}" if k.startswith("reg") else f"{found[k]:.0f} %"
        for k in SHOWN
    ) + " |"  # fmt: skip


SHOWN = ("tau-all", "tau-live", "tau-good", "tau-top", "precision-10", "regret-1", "regret-10", "regret-100")
HEAD = "| score | tau, all | live | good | best tenth | P@10 % | regret@1 | @10 | @100 |\n|---|---|---|---|---|---|---|---|---|\n"
for world, truth in TRUTHS.items():
    lines = []
    for name, values in (COUNTS | (PUBLISHED if world == "cifar10" else {})).items():
        found = quality(values, truth, WHERE[world])
        if name in COUNTS:  # they tie a great deal: the mean over random orders of what ties
            rng, span = np.random.default_rng(0), 0.5 * np.diff(np.unique(values)).min()
            drawn = [quality(values + rng.uniform(0, span, len(values)), truth, {}) for _ in range(20)]
            found |= {k: np.mean([d[k] for d in drawn]) for k in drawn[0]}
        for k, v in found.items():
            s.metric(f"{k}/{world}/{key(name)}/all-cells", v, low=v, high=v, n=len(OPS))
        lines.append(row(name, found))
    s.say(
        f"**{TITLES[world]}**: {WHERE[world]['live'].sum():,} live cells, {WHERE[world]['good'].sum():,} good ones (above {GOOD[world]:.1f} %); regret in points of accuracy.\n\n"
        + HEAD + "\n".join(lines)
    )  # fmt: skip

# %% [markdown]
# FLOPs, parameters and the weighted count of convolutions order the cells alike: they are one baseline under three names.
# On CIFAR-10 it is a strong one; on the digits, where small cells do as well as large ones, it says little.
# The published supernets (those of the few-shot NAS authors {cite:p}`zhao2021fewshot`, in the rows of a `standard` run) were trained on a GPU for hundreds of epochs.
# Read their rows from left to right before you go on.
# Where cells tie in a count, precision and regret are means over random orders of the ties.
#
# ## By hand: two architectures, one weight
#
# Why should shared weights rank wrongly?
# Take networks with a single weight $w$ and outputs $g_i w$, where the constant $g_i$ is the architecture.
# The target is 1, and architecture $i$ has an error floor $e_i$ that no weight removes, so that
#
# $$
# \mathcal{L}_i(w) = e_i + (g_i w - 1)^2 .
# $$ (eq-supernets-toy)
#
# Trained alone, each reaches $w = 1/g_i$ and loss $e_i$: the order of the $e_i$ is the truth.
# A supernet minimises the mean over all architectures at once, and its best weight is $w^* = \sum_i g_i / \sum_i g_i^2$.
# What it says of $i$ is $e_i + (g_i w^* - 1)^2$: the truth, plus how far $i$ is from the compromise.

# %% tags=["nbval-check-output"]
g, e = np.array([1.0, 1.1, 1.2, 0.4]), np.array([0.30, 0.25, 0.20, 0.10])
shared = lambda g, e: e + (g * g.sum() / (g**2).sum() - 1) ** 2
loss = lambda w: (e + (g * w - 1) ** 2).mean()
assert min(loss(w) for w in np.linspace(0, 2, 2001)) >= loss(g.sum() / (g**2).sum()) - 1e-9
in_two = np.concatenate([shared(g[:3], e[:3]), shared(g[3:], e[3:])])
print("truth            ", e, "best:", e.argmin())
print(
    "one supernet     ",
    shared(g, e).round(3),
    "best:",
    shared(g, e).argmin(),
    f"tau {kendall_tau_b(shared(g, e), e):.2f}",
)
print("split in two     ", in_two.round(3), "best:", in_two.argmin(), f"tau {kendall_tau_b(in_two, e):.2f}")

# %% [markdown]
# The best architecture is unlike the others, so the compromise is made at its expense, and it comes out last.
# Splitting the supernet mends it; the price is that each part sees fewer examples.
# Everything that follows is about this trade.

# %% [markdown]
# ## The method
#
# | symbol | in code | shape | meaning |
# |---|---|---|---|
# | $a$ | `ops` | (6,) | an architecture: one operation index for each edge of the cell |
# | $W$ | `net` | | all weights of the supernet, of which $a$ uses $W(a)$ |
# | $\mathcal{A}$ | `allowed` | six tuples | the operations that each edge may carry; all five at first |
# | $\alpha$ | `alpha` | (6, 5) | architecture parameters of the differentiable methods |
# | $s(a)$ | `score` | (cells,) | what the supernet says of an architecture: its loss on validation images, the lower the better |
# | $P$ | `passes` | | the budget: forward and backward passes of one batch through one path |
#
# ### One network that holds all
#
# On every edge of every cell the supernet keeps one convolution of each kind; skips and poolings hold no weights, and `none` is nothing at all.
# Choosing one operation an edge selects a *path*, which is an ordinary network.
# Stem, reductions and head serve every path.
#
# The batch norms have no scale and shift of their own, as is usual for supernets, and during training they use the statistics of the batch.
# Which statistics they use when a path is *scored* is a question of its own, below.
# Edges that lie on no way from input to output are left out.

# %% tags=["method"]
NONE, SKIP, CONV1, CONV3, POOL = range(5)


def pool(x):
    """3x3 means, borders not counted, as a depthwise convolution: on a CPU faster than `avg_pool2d`."""
    counted = F.avg_pool2d(torch.ones_like(x[:1, :1]), 3, 1, 1)  # the share of the window inside
    kernel = x.new_full((x.shape[1], 1, 3, 3), 1 / 9)
    return F.conv2d(x, kernel, padding=1, groups=x.shape[1]) / counted


def conv_norm(c_in, c_out, kernel, stride=1):
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out, affine=False))


# %% tags=["method"]
class Supernet(nn.Module):
    """Every cell's network in one; widths C, 2C, 4C, one cell a stage. Images (batch, 3, h, w) -> logits."""

    def __init__(self, C, num_classes, seed):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            edge = lambda c: nn.ModuleDict({"2": conv_norm(c, c, 1), "3": conv_norm(c, c, 3)})
            half = lambda c: nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(c, 2 * c, 1, bias=False))
            down = lambda c: nn.ModuleList([conv_norm(c, 2 * c, 3, 2), conv_norm(2 * c, 2 * c, 3), half(c)])
            self.stem = conv_norm(3, C, 3)
            self.edges = nn.ModuleList(nn.ModuleList(edge(c) for _ in range(6)) for c in (C, 2 * C, 4 * C))
            self.down = nn.ModuleList(down(c) for c in (C, 2 * C))
            self.last = nn.BatchNorm2d(4 * C, affine=False)
            self.head = nn.Linear(4 * C, num_classes)
        self.to(memory_format=torch.channels_last)

    def shared(self):
        """Weights that every path uses."""
        return [p for part in (self.stem, self.down, self.head) for p in part.parameters()]

    def operation(self, op, x, stage, edge):
        if op == SKIP:
            return x
        return pool(x) if op == POOL else self.edges[stage][edge][str(op)](F.relu(x))

    def run(self, images, cell):
        x = self.stem(images)
        for stage in range(3):
            if stage:
                first, second, shortcut = self.down[stage - 1]
                x = shortcut(x) + second(F.relu(first(F.relu(x))))
            x = cell(x, stage)
        return self.head(F.relu(self.last(x)).mean((2, 3)))

    def forward(self, images, ops):
        """Logits of the path `ops`, six integers."""
        live = [(e, *space.EDGES[e], int(ops[e])) for e in np.flatnonzero(space.live_edges(ops))]

        def cell(x, stage):
            nodes = {0: x}
            for edge, start, end, op in live:
                y = self.operation(op, nodes[start], stage, edge)
                nodes[end] = nodes[end] + y if end in nodes else y
            return nodes.get(3, x * 0.0)

        return self.run(images, cell)

    def mixed(self, images, weights):
        """Logits when each edge carries the sum of its operations, weighted by `weights` (6, 5); zeros are not run."""

        def cell(x, stage):
            nodes = [x, x * 0.0, x * 0.0, x * 0.0]
            for edge, (start, end) in enumerate(space.EDGES):
                for op in range(1, 5):
                    if float(weights[edge, op].detach()) != 0:
                        y = self.operation(op, nodes[start], stage, edge)
                        nodes[end] = nodes[end] + weights[edge, op] * y
            return nodes[3]

        return self.run(images, cell)


# %% [markdown]
# A path of the supernet computes what the network of the cell would compute with the same weights; the chapter's tests compare it with `nbpkg.nb201.network`.
# A one-hot mixture is the path itself:

# %%
small = Supernet(4, 10, seed=0)
batch = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
one_hot = torch.eye(5)[torch.tensor([3, 1, 2, 4, 0, 3])]
assert torch.allclose(small(batch, [3, 1, 2, 4, 0, 3]), small.mixed(batch, one_hot), atol=1e-5)


# %% [markdown]
# ### What it is trained on
#
# A `World` is a task together with the size of the supernet and the way in which it is trained.
# Validation images are divided once: some score paths, some serve the methods that look at validation images while they train, and none does both.
# Otherwise a method would be judged by the images that it was steered with.
# Digits that stand still are too easy to tell networks apart, so validation digits are displaced once, as in the benchmark.

# %% tags=["method"]
@dataclass(frozen=True)
class World:
    """pad, flip: augmentation of training images. shift: pixels by which validation images are displaced, once."""

    task: Task
    C: int
    batch: int
    lr: float = 0.05
    pad: int = 1
    flip: bool = True
    shift: int = 0
    n_score: int = 128
    n_filter: int = 64


class Data:
    """The images of a world on a device: float32, scaled by the training images' mean and deviation."""

    def __init__(self, world, device):
        cut, self.world, self.device = world.task.data(), world, device
        mean, std = (v[:, None, None] for v in (cut.mean, cut.std))
        lay = lambda x: ((x / 255 - mean) / std).to(device).contiguous(memory_format=torch.channels_last)
        self.x, self.y = lay(cut.x_train), cut.y_train.to(device)
        self.test_x, self.test_y = lay(cut.x_test), cut.y_test.to(device)
        order = torch.randperm(len(cut.y_valid), generator=torch.Generator().manual_seed(0))
        moved = pictures.augment(cut.x_valid, world.shift, False, torch.Generator().manual_seed(1))
        sizes = [world.n_score, world.n_filter, len(order) - world.n_score - world.n_filter]
        self.score_x, self.filter_x, self.steer_x = lay(moved[order]).split(sizes)
        self.score_y, self.filter_y, self.steer_y = cut.y_valid[order].to(device).split(sizes)

    def batch(self, generator, steer=False):
        """Images and labels drawn at random with replacement, augmented: from the training images, or to steer by."""
        x, y = (self.steer_x, self.steer_y) if steer else (self.x, self.y)
        rows = torch.randint(len(y), (self.world.batch,), generator=generator).to(self.device)
        images = pictures.augment(x[rows], self.world.pad, self.world.flip, generator)
        return images.contiguous(memory_format=torch.channels_last), y[rows]


# %% [markdown]
# ### One loop for all methods
#
# A method of supernet training is a *rule*: it gets a batch, runs backward passes, and says how many it ran.
# Optimiser, schedule, clipping and augmentation are the same for all, and so is the budget $P$ of passes; methods that train in phases start both anew in each.
# A weight that no path of a step used has no gradient in that step; it is left alone, momentum included.

# %% tags=["method"]
def train(net, rule, passes, data, seed):
    """Trains `net` in place for `passes` passes: SGD with Nesterov momentum, the rate falling by a cosine."""
    world = data.world
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    optimiser = torch.optim.SGD(net.parameters(), world.lr, 0.9, nesterov=True, weight_decay=1e-4)
    done = 0
    while done < passes:
        share = done / passes
        optimiser.param_groups[0]["lr"] = world.lr * (0.51 + 0.49 * math.cos(math.pi * share))
        optimiser.zero_grad()
        images, labels = data.batch(generator)
        done += rule(net, images, labels, rng, share)
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
    return net


# %% [markdown]
# #### Single path, uniform
#
# SPOS {cite:p}`guo2020spos` draws a path uniformly in every step and trains it alone,
#
# $$
# \min_W \; \mathbb{E}_{a \sim U(\mathcal{A})} \; \mathcal{L}\bigl(\mathcal{N}(a, W(a))\bigr),
# $$ (eq-supernets-spos)
#
# so that no operation is preferred while the weights are learned: training and search are two separate things.

# %% tags=["method"]
ALL = (tuple(range(5)),) * 6


def draw(allowed, rng):
    """A cell with each edge's operation drawn uniformly from `allowed`: int64 (6,)."""
    return np.array([choices[rng.integers(len(choices))] for choices in allowed])


def backward(net, images, labels, ops):
    """One pass of equation (eq-supernets-spos)."""
    F.cross_entropy(net(images, ops), labels).backward()


def single_path(allowed=ALL):
    """The rule of SPOS, over the cells that `allowed` permits."""

    def rule(net, images, labels, rng, share):
        backward(net, images, labels, draw(allowed, rng))
        return 1

    return rule


# %% [markdown]
# #### Strict fairness
#
# Uniform draws are equal on average only: after $n$ steps an operation was drawn $n/5$ times, give or take $\sqrt{4n/25}$.
# FairNAS {cite:p}`chu2021fairnas` asks that every operation be drawn equally often *at every step*.
# It draws a permutation $\pi_e$ of the operations for each edge, and path $k$ takes the $k$-th operation everywhere,
#
# $$
# a_k = \bigl(\pi_1(k), \dots, \pi_6(k)\bigr), \quad k = 1, \dots, 5, \qquad
# W \leftarrow W - \eta \sum_{k=1}^{5} \nabla_W \mathcal{L}\bigl(\mathcal{N}(a_k, W(a_k))\bigr).
# $$ (eq-supernets-fairness)
#
# All five see the same batch.
# The weights that every path shares would receive five gradients for an operation's one; we divide theirs by five, since the paper does not say.
# One step costs five passes, so at equal budgets fairness makes a fifth of the steps.

# %% tags=["method"]
def strict_fairness(net, images, labels, rng, share):
    """Equation (eq-supernets-fairness): five paths in which every operation of every edge occurs once."""
    orders = rng.permuted(np.tile(np.arange(5), (6, 1)), axis=1)
    for ops in orders.T:
        backward(net, images, labels, ops)
    for p in net.shared():
        p.grad /= 5
    return 5


# %% [markdown]
# #### Greedy filtering
#
# Most of the space is not worth training.
# GreedyNAS {cite:p}`you2020greedynas` draws ten paths, measures their loss on a few validation images, and trains the better five,
#
# $$
# \{a_1, \dots, a_5\} = \operatorname*{arg\,top5}_{a \in \{a_1, \dots, a_{10}\}} \; -\mathcal{L}_{\text{filter}}\bigl(\mathcal{N}(a, W(a))\bigr).
# $$ (eq-supernets-greedy)
#
# The trained ones enter a pool of the best that were seen; with a probability that rises from 0 to 0.8 a path is drawn from the pool and not from the space.
# Measuring costs no backward pass but some time, which the budget leaves out; the table of gains reports that time.

# %% tags=["method"]
class GreedyFilter:
    """Equation (eq-supernets-greedy) with the candidate pool; paths are handed to the loop one at a time."""

    def __init__(self, data, candidates=10, keep=5, capacity=1000):
        self.data, self.candidates, self.keep, self.capacity = data, candidates, keep, capacity
        self.pool, self.queue = {}, []

    def choose(self, net, rng, share):
        cells = [
            list(self.pool)[rng.integers(len(self.pool))]
            if self.pool and rng.random() < 0.8 * share
            else tuple(draw(ALL, rng).tolist())
            for _ in range(self.candidates)
        ]
        with torch.no_grad():
            found = {c: F.cross_entropy(net(self.data.filter_x, c), self.data.filter_y).item() for c in cells}
        best = sorted(found, key=found.get)[: self.keep]
        self.pool |= {cell: found[cell] for cell in best}
        self.pool = dict(sorted(self.pool.items(), key=lambda item: item[1])[: self.capacity])
        return best

    def __call__(self, net, images, labels, rng, share):
        self.queue = self.queue or self.choose(net, rng, share)
        backward(net, images, labels, self.queue.pop())
        return 1


# %% [markdown]
# #### Sandwich rule with in-place distillation
#
# BigNAS {cite:p}`yu2020bignas` trains the largest network on the labels and lets it teach, in the same step, the smallest and two random ones,
#
# $$
# \mathcal{L} = \operatorname{CE}\bigl(y, p_{\max}\bigr) + \sum_{a \in \{\min, r_1, r_2\}} \operatorname{KL}\bigl(\operatorname{sg}[p_{\max}] \,\|\, p_a\bigr),
# $$ (eq-supernets-sandwich)
#
# where $p_a$ are the class probabilities of path $a$ and $\operatorname{sg}$ stops the gradient.
# In BigNAS sizes are nested, here they are not: our largest cell has a 3x3 convolution on every edge, our smallest a single skip.
# That is an adaptation, not the method as published: our teacher, the costliest cell, is trained in every step, which may favour cells like it.
# The gradients of the four passes are summed, as published.

# %% tags=["method"]
LARGEST, SMALLEST = (CONV3,) * 6, (NONE, NONE, NONE, SKIP, NONE, NONE)


def sandwich(net, images, labels, rng, share):
    """Equation (eq-supernets-sandwich)."""
    logits = net(images, LARGEST)
    F.cross_entropy(logits, labels).backward()
    soft = logits.detach().softmax(-1)
    for ops in (SMALLEST, draw(ALL, rng), draw(ALL, rng)):
        F.kl_div(net(images, ops).log_softmax(-1), soft, reduction="batchmean").backward()
    return 4


# %% [markdown]
# #### Few-shot: several supernets
#
# The weights of an operation are pulled in different directions by the paths that use it.
# Few-shot NAS {cite:p}`zhao2021fewshot` lets fewer paths share: it trains one supernet, chooses an edge, and continues with five copies, one for each operation on that edge.
# A cell is scored by the copy that contains it, so a supernet becomes a *family* of pairs of a set of cells and a network.

# %% tags=["method"]
def split(allowed, edge, groups):
    """The sets of cells that come of dividing one edge's operations into `groups`."""
    return [(*allowed[:edge], tuple(group), *allowed[edge + 1 :]) for group in groups]


def grow(family, passes, data, seed):
    """Trains a copy of every member's network on the member's own cells, for `passes` each."""
    return [
        (allowed, train(copy.deepcopy(net), single_path(allowed), passes, data, seed + 1 + k))
        for k, (allowed, net) in enumerate(family)
    ]


# %% [markdown]
# #### Splitting where gradients disagree
#
# Few-shot NAS splits a random edge.
# GM-NAS {cite:p}`hu2022gmnas` asks which operations want the *shared* weights to go the same way.
# For an edge $e$ and a batch, let $g_{e,o}$ be the gradient of the loss with respect to all weights outside of $e$ when $e$ carries $o$ and the other edges what was drawn; then
#
# $$
# D_e(o, o') = 1 - \cos\bigl(g_{e,o},\, g_{e,o'}\bigr)
# $$ (eq-supernets-matching)
#
# averaged over batches.
# The operations of $e$ are divided into two groups such that the distances within groups are least, and the edge is split whose groups are farthest apart.
# This is done twice, which gives four supernets.

# %% tags=["method"]
def gradient_distances(net, allowed, edge, batches, data, seed):
    """Equation (eq-supernets-matching), mean over batches: (operations, operations)."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    own = {p for stage in net.edges for p in stage[edge].parameters()}
    others = [p for p in net.parameters() if p not in own]
    total = 0
    for _ in range(batches):
        images, labels = data.batch(generator)
        ops, gradients = draw(allowed, rng), []
        for op in allowed[edge]:
            ops[edge] = op
            loss = F.cross_entropy(net(images, ops), labels)
            found = torch.autograd.grad(loss, others, materialize_grads=True)
            gradients.append(F.normalize(torch.cat([g.flatten() for g in found]), dim=0))
        total = total + 1 - torch.stack(gradients) @ torch.stack(gradients).T
    return (total / batches).cpu().numpy()


def best_cut(distances):
    """The division of n operations into two groups, neither of one alone where n > 3: (cut, one, other)."""
    n, least = len(distances), 1 if len(distances) <= 3 else 2
    sides = [c for k in range(least, n // 2 + 1) for c in itertools.combinations(range(n), k)]
    across = lambda side: distances[np.ix_(side, [i for i in range(n) if i not in side])].sum()
    side = max(sides, key=across)
    return across(side), side, tuple(i for i in range(n) if i not in side)


def split_by_gradients(member, batches, data, seed):
    """Two members of one, by equation (eq-supernets-matching); returns them and the edge that was split."""
    allowed, net = member
    cuts = {}
    for edge in [e for e in range(6) if len(allowed[e]) == 5]:
        cuts[edge] = best_cut(gradient_distances(net, allowed, edge, batches, data, seed))
    edge = max(cuts, key=lambda e: cuts[e][0])
    groups = [[allowed[edge][i] for i in side] for side in cuts[edge][1:]]
    return [(part, net) for part in split(allowed, edge, groups)], edge


# %% [markdown]
# #### For contrast: architecture parameters
#
# DARTS {cite:p}`liu2019darts` does not sample.
# Every edge carries all operations at once, weighted by a softmax of parameters $\alpha$ that are trained on validation images while the weights are trained on training images,
#
# $$
# \begin{aligned}
# \bar o_e(x) &= \sum_{o} \frac{\exp \alpha_{e,o}}{\sum_{o'} \exp \alpha_{e,o'}}\, o(x), \\
# \alpha &\leftarrow \alpha - \eta_\alpha \nabla_\alpha \mathcal{L}_{\text{val}}(W, \alpha) \quad \text{(first order)}.
# \end{aligned}
# $$ (eq-supernets-darts)
#
# GDAS {cite:p}`dong2019gdas` puts in the place of the softmax a one-hot sample by the Gumbel trick {cite:p}`jang2017gumbel`: with $G_{e,o}$ independent Gumbel noise and a temperature $\tau$ that falls from 10 to 0.1,
#
# $$
# \begin{aligned}
# h_e &= \operatorname{one\_hot}\Bigl(\arg\max_o \,(\log \operatorname{softmax}(\alpha_e)_o + G_{e,o})\Bigr), \\
# \nabla h_e &:= \nabla \operatorname{softmax}\bigl((\log \operatorname{softmax}(\alpha_e) + G_e)/\tau\bigr).
# \end{aligned}
# $$ (eq-supernets-gdas)
#
# Both end with the strongest operation on each edge other than `none`; the parameters also *rank* cells, by $\sum_e \log \operatorname{softmax}(\alpha_e)_{a_e}$.
# In the tables of all methods their weights are scored like every other supernet's; the ranking by $\alpha$ stands in a table of its own.

# %% tags=["method"]
class ArchitectureParameters:
    """Equations (eq-supernets-darts) and, with `hard`, (eq-supernets-gdas): two passes a step."""

    def __init__(self, data, seed, hard=False, lr=3e-3):
        self.data, self.hard, self.history = data, hard, []
        self.generator = torch.Generator().manual_seed(10_000 + seed)
        self.alpha = (1e-3 * torch.randn(6, 5, generator=self.generator)).to(data.device).requires_grad_()
        self.optimiser = torch.optim.Adam([self.alpha], lr, betas=(0.5, 0.999), weight_decay=1e-3)

    def weights(self, share):
        log_p = self.alpha.log_softmax(-1)
        if not self.hard:
            return log_p.exp()
        uniform = torch.rand(6, 5, generator=self.generator).clamp(1e-6, 1 - 1e-6).to(log_p.device)
        noisy = log_p - (-uniform.log()).log()
        soft = (noisy / (10 - 9.9 * share)).softmax(-1)
        hard = F.one_hot(noisy.argmax(-1), 5).to(soft.dtype)
        return hard + soft - soft.detach()

    def __call__(self, net, images, labels, rng, share):
        steer_x, steer_y = self.data.batch(self.generator, steer=True)
        loss = F.cross_entropy(net.mixed(steer_x, self.weights(share)), steer_y)
        # Where every edge drew `none`, nothing depends on alpha: a gradient of zeros.
        (self.alpha.grad,) = torch.autograd.grad(loss, self.alpha, allow_unused=True, materialize_grads=True)
        self.optimiser.step()
        F.cross_entropy(net.mixed(images, self.weights(share).detach()), labels).backward()
        self.history.append(self.alpha.detach().softmax(-1).cpu().numpy())
        return 2


# %% [markdown]
# A straight-through weight is zero or one up to rounding, so `hard + soft - soft` must give an exact zero where nothing is to be run:

# %%
some = torch.randn(1000, 5, generator=torch.Generator().manual_seed(0)).softmax(-1)
pick = F.one_hot(some.argmax(-1), 5).to(some.dtype)
assert (((pick + some) - some)[pick == 0] == 0).all()


# %% [markdown]
# ### Scoring all cells
#
# A path is scored by its loss on the scoring images, with the statistics of those very images in its batch norms.
# The loss is finer than the accuracy: with a few hundred images very many cells would tie.
# Three facts make it cheap to score all 15,625 cells, and none changes a score by more than rounding.
#
# - Dead edges do not count: 9,445 different cells remain.
# - In the first stage cells share prefixes. Node 1 has four values worth computing and node 2 about a hundred; only their sums at node 3 differ from cell to cell.
# - In later stages every cell has an input of its own, but cells that differ in their last edge only run their other five edges as one batch. Batch norm then needs each cell's own statistics.

# %% tags=["method"]
def per_cell(x, layer, eps=1e-5):
    """A layer's convolution, if any, and batch norm by each cell's own statistics: (cells, images, h, w, c) -> same kind."""
    if layer is not None:
        x = layer(x.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).unflatten(0, x.shape[:2])
    flat = x.flatten(1, 3)
    mean = flat.mean(1, keepdim=True)
    scale = ((flat * flat).mean(1, keepdim=True) - mean * mean + eps).rsqrt()
    return torch.addcmul(-mean * scale, flat, scale).view(x.shape)


def per_cell_operation(net, op, x, stage, edge):
    if op == SKIP:
        return x
    if op == POOL:
        return pool(x.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).reshape(x.shape)
    return per_cell(F.relu(x), net.edges[stage][edge][str(op)][0])


def added(*terms):
    """The sum of those that are not None; None without any."""
    there = [term for term in terms if term is not None]
    return sum(there[1:], start=there[0]) if there else None


# %% tags=["method"]
def first_stage(net, x, ops):
    """Yields (rows, outputs (rows, images, h, w, c)) for groups of sorted cells that share their first five edges."""
    known, zero = {}, torch.zeros_like(x)

    def apply(op, node, edge, name):
        if op == NONE or node is None:
            return None
        if (name, edge, op) not in known:
            known[name, edge, op] = per_cell_operation(net, op, node[None], 0, edge)[0]
        return known[name, edge, op]

    starts = np.flatnonzero((ops[1:, :5] != ops[:-1, :5]).any(1)) + 1
    for rows in np.split(np.arange(len(ops)), starts):
        a, b, c, d, e, _ = ops[rows[0]].tolist()
        for stale in [key for key in known if key[0][:4] == "two " and key[0] != f"two {a}{b}{c}"]:
            del known[stale]
        one = apply(a, x, 0, "in")
        two = added(apply(b, x, 1, "in"), apply(c, one, 2, f"one {a}"))
        common = added(apply(d, x, 3, "in"), apply(e, one, 4, f"one {a}"))
        ends = [added(common, apply(op, two, 5, f"two {a}{b}{c}")) for op in ops[rows, 5].tolist()]
        yield rows, torch.stack([zero if end is None else end for end in ends])


def later_stage(net, x, common, last, stage):
    """Cells that differ in their last edge, each on its own input: (cells, images, h, w, c) -> same shape."""
    first, second, shortcut = net.down[stage - 1]
    down = per_cell(F.relu(per_cell(F.relu(x), first[0])), second[0])
    x = down + shortcut(x.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).unflatten(0, x.shape[:2])
    nodes = [x, None, None, None]
    for edge, ((start, end), op) in enumerate(zip(space.EDGES[:5], common, strict=True)):
        if op != NONE:
            nodes[end] = added(nodes[end], per_cell_operation(net, op, nodes[start], stage, edge))
    ends = [
        torch.zeros_like(x[:1]) if op == NONE else per_cell_operation(net, op, nodes[2][k : k + 1], stage, 5)
        for k, op in enumerate(last)
    ]
    return added(nodes[3], torch.cat(ends))


# %% tags=["method"]
@torch.no_grad()
def score(net, images, labels, cells):
    """Mean cross-entropy and accuracy in percent of every cell (m, 6) with the supernet's weights: (2, m)."""
    live = np.where(space.live_edges(cells), cells, NONE)
    ops, back = np.unique(live, axis=0, return_inverse=True)
    result = torch.zeros(2, len(ops))
    x = per_cell(images.permute(0, 2, 3, 1)[None], net.stem[0])[0]
    for rows, nodes in first_stage(net, x, ops):
        for stage in (1, 2):
            nodes = later_stage(net, nodes, ops[rows[0], :5].tolist(), ops[rows, 5].tolist(), stage)
        logits = net.head(F.relu(per_cell(nodes, None)).mean((2, 3)))
        loss = F.cross_entropy(logits.transpose(1, 2), labels.expand(len(rows), -1), reduction="none")
        result[0, rows] = loss.mean(1).cpu()
        result[1, rows] = 100 * (logits.argmax(-1) == labels).float().mean(1).cpu()
    return result[:, back.ravel()].numpy()


def score_family(family, data, cells):
    """`score` where each cell is scored by the member that contains it."""
    result = np.full((2, len(cells)), np.nan)
    for allowed, net in family:
        mine = np.all([np.isin(cells[:, e], allowed[e]) for e in range(6)], axis=0)
        result[:, mine] = score(net, data.score_x, data.score_y, cells[mine])
    return result


# %% [markdown]
# Against the plain loop, one path after another:

# %%
cells = space.random(40, seed=1)
labels = torch.arange(8) % 10
small.train()
with torch.no_grad():
    plainly = np.array([F.cross_entropy(small(batch, ops), labels).item() for ops in cells])
assert np.abs(score(small, batch, labels, cells)[0] - plainly).max() < 1e-4


# %% [markdown]
# ### Whose statistics?
#
# A batch norm may also use running means and variances, collected during training.
# In a supernet these are collected from *all* paths and need fit none.
# Recalibration {cite:p}`guo2020spos` forgets them and collects new ones with the path to be scored, on some training batches.
# Using the scoring batch's own statistics, as above, is the cheapest recalibration of all: it needs no further image.

# %% tags=["method"]
@torch.no_grad()
def loss_with(net, ops, statistics, images, labels, batches=()):
    """The path's loss with "batch", "running" or "recalibrated" statistics, the last from `batches` of images."""
    net = copy.deepcopy(net)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    if statistics == "recalibrated":
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
        net.train()
        for x in batches:
            net(x, ops)
    net.train(statistics == "batch")
    return F.cross_entropy(net(images, ops), labels).item()


# %% [markdown]
# ### Searching with the scores
#
# Where a space is too large to be enumerated, evolution looks for the best score {cite:p}`guo2020spos`: of 50 cells the ten best are kept, and make 25 children by crossover and 25 by drawing each edge anew with probability 0.1, twenty times over.
# Here both can be done, and compared.

# %% tags=["method"]
def evolve(score_of, seed, population=50, generations=20, parents=10):
    """The cells that were evaluated, int64 (n,), and their losses; `score_of`: cells (m, 6) -> losses (m,)."""
    rng, seen = np.random.default_rng(seed), {}
    young = space.ops_of(rng.choice(space.N_CELLS, population, replace=False))
    for generation in range(generations + 1):
        fresh = np.array(sorted(set(space.index(young).tolist()) - set(seen)), np.int64)
        if len(fresh):
            seen |= dict(zip(fresh.tolist(), score_of(space.ops_of(fresh)).tolist(), strict=True))
        if generation == generations:
            return {"cells": np.array(list(seen)), "loss": np.array(list(seen.values()))}
        best = space.ops_of(np.array(sorted(seen, key=seen.get)[:parents]))
        mothers, fathers, others = best[rng.integers(parents, size=(3, population // 2))]
        crossed = np.where(rng.random(mothers.shape) < 0.5, mothers, fathers)
        changed = np.where(rng.random(others.shape) < 0.1, rng.integers(5, size=others.shape), others)
        young = np.concatenate([crossed, changed])


# %% [markdown]
# ### The methods as recipes
#
# Each recipe returns a family, or several where one training serves several questions.
# All that are compared at equal budgets spend $P$ passes *in total*: few-shot NAS, for one, half of them before the split and a tenth on each of the five copies.
# As published, it trains each copy for half as long as the first supernet, so 3.5 times the first supernet's passes in all; that is run as well, and compared with a single supernet that gets no less.

# %% tags=["method"]
def new(data, seed):
    return Supernet(data.world.C, data.world.task.num_classes, seed).to(data.device)


def plain(rule):
    """One supernet under one rule."""
    return lambda seed, passes, data: {"": [(ALL, train(new(data, seed), rule, passes, data, seed))]}


def greedy(seed, passes, data):
    return {"": [(ALL, train(new(data, seed), GreedyFilter(data), passes, data, seed))]}


def few_shot(seed, passes, data):
    base = train(new(data, seed), single_path(), passes // 2, data, seed)
    edge = seed // 500 % 6  # another one in every run
    copies = [(allowed, base) for allowed in split(ALL, edge, [(op,) for op in range(5)])]
    return {
        "": grow(copies, passes // 10, data, seed),
        "as published": grow(copies, passes // 4, data, seed),
        "before": [(ALL, base)],
    }


def gradient_matching(seed, passes, data):
    batches = max(1, passes // 1000)
    base = train(new(data, seed), single_path(), passes // 4, data, seed)
    two, first = split_by_gradients((ALL, base), batches, data, seed)
    two = grow(two, passes // 8, data, seed)
    halves = [split_by_gradients(member, batches, data, seed) for member in two]
    spent = 2 * (passes // 8) + passes // 4 + batches * (30 + 2 * 25)
    four = grow([m for members, _ in halves for m in members], max(1, (passes - spent) // 4), data, seed + 10)
    return {"": four, "before": [(ALL, base)], "edges": [first, *(edge for _, edge in halves)]}


def by_alpha(hard):
    def recipe(seed, passes, data):
        rule = ArchitectureParameters(data, seed, hard)
        net = train(new(data, seed), rule, passes, data, seed)
        return {"": [(ALL, net)], "history": np.array(rule.history)}

    return recipe


METHODS = {
    "single path": plain(single_path()),
    "strict fairness": plain(strict_fairness),
    "greedy filter": greedy,
    "sandwich": plain(sandwich),
    "few-shot": few_shot,
    "gradient matching": gradient_matching,
    "DARTS": by_alpha(hard=False),
    "GDAS": by_alpha(hard=True),
}


# %% tags=["method"]
def train_and_score(seed, method, passes, world, digest, cells, device, keep=False):
    """One training and the scores (2, m) of `cells`; `keep`: its weights as well. digest: of the images."""
    torch.set_num_threads(1)
    data = Data(world, torch.device(device))
    began = time.process_time()
    made = METHODS[method](seed, passes, data)
    result = {"seconds": time.process_time() - began}
    for name in ("history", "edges"):
        if name in made:
            result[name] = np.asarray(made.pop(name))
    began = time.process_time()
    result["scores"] = {name: score_family(family, data, cells) for name, family in made.items()}
    result["score_seconds"] = time.process_time() - began
    if keep:
        result["weights"] = dict(made[""][0][1].state_dict())
    return result


def stand_alone(seed, cell, passes, world, digest, device, batch=500):
    """A cell's network trained by itself in the same loop: {"loss", "accuracy" (percent)} on all test images."""
    torch.set_num_threads(1)
    data = Data(world, torch.device(device))
    ops = space.ops_of(cell)
    fixed = lambda net, images, labels, rng, share: backward(net, images, labels, ops) or 1
    net = train(new(data, seed), fixed, passes, data, seed)
    # Mixed first: batches of one class each would have the class in their statistics, where norms remove it.
    order = torch.randperm(len(data.test_y), generator=torch.Generator().manual_seed(0)).to(data.device)
    images, labels = data.test_x[order], data.test_y[order]
    with torch.no_grad():
        logits = torch.cat([net(x, ops) for x in images.split(batch)])
    right = (logits.argmax(-1) == labels).float().mean().item()
    return {"loss": F.cross_entropy(logits, labels).item(), "accuracy": 100 * right}


# %% [markdown]
# ## Data, and two truths
#
# The supernets are a small version of the benchmark's network: one cell a stage in place of five, half the width, images of half the side.
# That makes two questions out of one.
# *Does the supernet find cells that are good in the benchmark?*
# That is what a search wants, and the table answers it for all cells.
# *Does it rank the networks that it holds?*
# For that, cells are trained one by one at the supernet's own size, in the same loop.
#
# A second, much smaller world removes the doubt about size.
# For the digits the book's [embedded benchmark](00_foundations.ipynb) holds a value for every cell, from networks of exactly the supernet's size, each trained alone by a recipe of its own.

# %%
def digest(world):
    return world.task.key()


TEN = tuple(range(10))
DIGITS = World(
    Task("digits", "digits", TEN, n_train=90, n_valid=34, n_test=50, resolution=digits.RESOLUTION),
    C=digits.C, batch=50, pad=2, flip=False, shift=2, n_score=200,
)  # fmt: skip
CIFAR = World(
    Task("cifar10", "cifar10", TEN, n_train=2000, n_valid=500, n_test=400, resolution=16),
    C=8,
    batch=32,
    n_score=256,
)
CIFAR100 = World(
    Task("cifar100", "cifar100", tuple(range(100)), n_train=200, n_valid=50, n_test=50, resolution=16), C=8, batch=32,
    n_score=512,
)  # fmt: skip
OTHER_DIGITS = replace(DIGITS, task=replace(DIGITS.task, name="other digits", seed=1))

WORLDS = s.choose(smoke={"digits": DIGITS}, standard={"cifar10": CIFAR, "digits": DIGITS})
TARGET = s.choose(smoke=OTHER_DIGITS, standard=CIFAR100)
PASSES = {
    "digits": s.choose(smoke=60, standard=1000, paper=20_000),
    "cifar10": s.choose(smoke=0, standard=5000, paper=100_000),
}
MAIN = next(iter(WORLDS))
if MAIN == "cifar10":
    for name in (
        "image-cifar10",
        "image-cifar100",
        "nb201-joined",
        "published-supernets",
        "help-nasbench201",
    ):
        s.data_used(name)

# The same cells for every method: a random sample, and all of them for the single path.
SAMPLE = space.ops_of(np.sort(np.random.default_rng(7).choice(space.N_CELLS, 1500, replace=False)))
if s.smoke:  # few cells, whose latencies are embedded as well, and some dead ones
    SAMPLE = np.concatenate([latency.load("embedded").ops[:76], OPS[DEAD][::90]])
# The cells that are trained alone as well: random ones, two thirds of them good.
TEST = TRUTHS[MAIN]
if MAIN == "cifar10":
    rng = np.random.default_rng(11)
    ALONE = np.concatenate([
        rng.choice(np.flatnonzero(TEST > 90), 42, replace=False),
        rng.choice(np.flatnonzero((TEST <= 90) & ~DEAD), 22, replace=False),
    ])  # fmt: skip
else:
    ALONE = np.random.default_rng(11).choice(np.flatnonzero(~DEAD), 4, replace=False)
WORKERS = s.choose(smoke=1, standard=2) if s.device.type == "cpu" else 1
LONGER = s.choose(smoke=(0, 1), standard=(0, 1, 2, 4))  # lengths of the single path, in units of P
# Independent runs: those of the session's seeds, and on the cheap digits twice as many.
RUNS = {
    name: [1000 * seed + 500 * k for seed in s.seeds for k in range(1 if name == MAIN else 2)]
    for name in WORLDS
}

# %% mystnb={"figure": {"caption": "One training image of each class as the supernets see it, before augmentation, and the digits that score cells, displaced.", "name": "fig-supernets-images"}, "image": {"alt": "Rows of ten small pictures, one for each class. Photographs of CIFAR-10 at 16 by 16 pixels are blurred but mostly recognisable; digits at 8 by 8 pixels are coarse, in the last row shifted out of the centre by up to two pixels."}} tags=["hide-input"]
rows = []
for name, world in WORLDS.items():
    cut = world.task.data()
    rows.append((TITLES[name], torch.stack([cut.x_train[cut.y_train == c][0] for c in TEN])))
displaced = pictures.augment(cut.x_valid, DIGITS.shift, False, torch.Generator().manual_seed(1))
rows.append(("to score", torch.stack([displaced[cut.y_valid == c][0] for c in TEN])))
fig, axes = plots.figure(len(rows), 10, width=7.6, height=0.85 * len(rows))
for line, (name, examples) in zip(axes, rows, strict=True):
    for ax, picture in zip(line, examples, strict=True):
        ax.imshow(picture.permute(1, 2, 0), interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
    line[0].set_ylabel(name, fontsize=8)
plots.finish(fig)


# %% [markdown]
# ## Training
#
# Every method is trained on every world with every seed, with the same number $P$ of passes.

# %%
def calls(name):
    """The trainings of a world: every method with budget P, and longer ones of the single path."""
    world, P = WORLDS[name], PASSES[name]
    common = {"world": world, "digest": digest(world), "device": s.device.type}
    for run in RUNS[name]:
        for method in METHODS:
            for factor in LONGER if method == "single path" else (1,):
                cells = SAMPLE
                if method == "single path" and name == MAIN and not s.smoke and factor in (1, max(LONGER)):
                    cells = OPS if factor == 1 else np.concatenate([SAMPLE, OPS[ALONE]])
                yield {
                    "seed": run, "method": method, "passes": factor * P, "cells": cells,
                    "keep": method == "single path" and name == MAIN and factor == 1, **common,
                }  # fmt: skip


RESULTS = {}
for name in WORLDS:
    with s.section(f"supernets on {name}"):
        todo = list(calls(name))
        # The longest first, so that no process is left alone with one at the end.
        order = sorted(range(len(todo)), key=lambda i: -todo[i]["passes"])
        found = s.memo_each(
            "supernet", train_and_score, [todo[i] for i in order], WORKERS, f"supernets on {name}"
        )
        for i, result in zip(order, found, strict=True):
            which = todo[i]["method"], todo[i]["passes"] // PASSES[name], todo[i]["seed"]
            RESULTS[name, *which] = result

# %% [markdown]
# Then the cells that were drawn above are trained alone, in the same loop.

# %%
ALONE_SEEDS = s.choose(smoke=(0,), standard=(0, 1))
with s.section("stand-alone"):
    todo = [
        {"seed": seed, "cell": int(cell), "passes": s.choose(smoke=20, standard=500, paper=10_000),
         "world": WORLDS[MAIN], "digest": digest(WORLDS[MAIN]), "device": s.device.type}
        for seed in ALONE_SEEDS for cell in ALONE
    ]  # fmt: skip
    found = s.memo_each("alone", stand_alone, todo, WORKERS, "cells trained alone")
alone = np.array([r["accuracy"] for r in found]).reshape(len(ALONE_SEEDS), len(ALONE))
print(
    f"{len(ALONE)} cells alone: {alone.mean():.1f} % on average, {alone.min():.1f} % to {alone.max():.1f} %"
)

# %% [markdown]
# ## What came of it
#
# ### Every method at the same budget
#
# All scores are compared on the same random sample of cells.
# Mean and 95 % t-interval are over independent trainings.
# They share the images that score cells, so the intervals hold for these images.

# %% tags=["hide-input"]
AT = {name: space.index(SAMPLE) for name in WORLDS}
HERE = {
    name: {k: mask[AT[name]] for k, mask in regions(TRUTHS[name], DEAD, GOOD[name]).items()}
    for name in WORLDS
}
for name in WORLDS:  # the best tenth of the sample
    least = np.sort(TRUTHS[name][AT[name]])[-max(2, len(SAMPLE) // 10)]
    HERE[name]["top"] = TRUTHS[name][AT[name]] >= least


def scores_of(world, method, factor=1, part="", run=None):
    """Minus the losses of the sample's cells, (m,), or of every run, (runs, m)."""
    if run is None:
        return np.stack([scores_of(world, method, factor, part, r) for r in RUNS[world]])
    loss = RESULTS[world, method, factor, run]["scores"][part][0]
    return -(loss[AT[world]] if len(loss) == len(OPS) else loss[: len(SAMPLE)])


ROWS = {"untrained": ("single path", 0, "")} | {m: (m, 1, "") for m in METHODS}
ROWS |= {f"single path, {f} P": ("single path", f, "") for f in LONGER if f > 1}
ROWS |= {
    "single path, P/2": ("few-shot", 1, "before"),
    "single path, P/4": ("gradient matching", 1, "before"),
}
ROWS["few-shot, as published"] = ("few-shot", 1, "as published")
QUALITY = {
    (world, label): [quality(x, TRUTHS[world][AT[world]], HERE[world]) for x in scores_of(world, *which)]
    for world in WORLDS for label, which in ROWS.items()
}  # fmt: skip


def over_runs(values):
    """Mean and t-interval over runs; a single run has no interval."""
    values = np.asarray(values, float)
    if len(values) == 1:
        return {"value": values[0]}
    return dict(zip(("value", "low", "high"), stats.t_interval(values), strict=False)) | {"n": len(values)}


for world in WORLDS:
    lines = []
    for label in ROWS:
        found = QUALITY[world, label]
        for k in found[0]:
            s.metric(f"{k}/{world}/{key(label)}", **over_runs([f[k] for f in found]))
        lines.append(row(label, {k: np.mean([f[k] for f in found]) for k in found[0]}))
    for label in ("FLOPs", "FLOPs, live edges"):
        found = quality(COUNTS[label][AT[world]], TRUTHS[world][AT[world]], HERE[world])
        for k, v in found.items():
            s.metric(f"{k}/{world}/{key(label)}/sample", v, low=v, high=v, n=len(SAMPLE))
        lines.append(row(f"*{label}*", found))
    s.say(
        f"**{TITLES[world]}**, {len(SAMPLE):,} cells, mean of {len(RUNS[world])} training(s) with P = {PASSES[world]:,} passes:\n\n" + HEAD + "\n".join(lines)
    )  # fmt: skip

# %% mystnb={"figure": {"caption": "Kendall's tau of every method at equal passes, mean and 95 % interval over trainings. Left among all cells, right among good ones. The dotted line is what FLOPs reach.", "name": "fig-supernets-methods"}, "image": {"alt": "One row of two panels for each world. Each panel lists the methods from top to bottom with a point and a horizontal interval on an axis of Kendall's tau; a dotted vertical line marks FLOPs."}} tags=["hide-input"]
names = ["untrained", *METHODS, "few-shot, as published", *(label for label in ROWS if label.endswith(" P"))]
fig, axes = plots.figure(len(WORLDS), 2, width=7.8, height=3.4 * len(WORLDS), squeeze=False, sharey=True)
for line, world in zip(axes, WORLDS, strict=True):
    for ax, where in zip(line, ("all", "good"), strict=True):
        found = [over_runs([f[f"tau-{where}"] for f in QUALITY[world, n]]) for n in names]
        plots.intervals(
            ax,
            names,
            [f["value"] for f in found],
            [f.get("low") for f in found],
            [f.get("high") for f in found],
        )
        by_flops = kendall_tau_b(
            COUNTS["FLOPs"][AT[world]][HERE[world][where]], TRUTHS[world][AT[world]][HERE[world][where]]
        )
        ax.axvline(by_flops, **{k: v for k, v in plots.style("flops").line_kwargs().items() if k != "marker"})
        ax.set(title=f"{TITLES[world]}, {where} cells", xlabel="Kendall's tau")
plots.finish(fig)

# %% [markdown]
# In the published run the two worlds differ.
# On the digits every trained supernet has a higher mean tau than counting, among all and among good cells.
# On CIFAR-10 hardly any tau at $P$ passes can be told from zero, whatever the rule.
#
# Whether a rule *helps* is asked in pairs: the same seed, the same initial weights, the same number of passes, with and without it.

# %% tags=["hide-input"]
CONTRASTS = {m: (m, "single path") for m in METHODS if m != "single path"}
if max(LONGER) > 1:
    CONTRASTS["few-shot, as published"] = ("few-shot, as published", "single path, 2 P")
    CONTRASTS["four times the passes"] = ("single path, 4 P", "single path")
lines = []
for world in WORLDS:
    for label, (one, other) in CONTRASTS.items():
        entry = []
        for where in ("all", "good", "top"):
            gain = [
                a[f"tau-{where}"] - b[f"tau-{where}"]
                for a, b in zip(QUALITY[world, one], QUALITY[world, other], strict=True)
            ]
            m = s.metric(f"gain-{where}/{world}/{key(label)}", **over_runs(gain))
            entry.append(f"{m.value:+.3f}" + (f" [{m.low:+.3f}, {m.high:+.3f}]" if m.low is not None else ""))
        seconds = np.mean([RESULTS[world, ROWS[one][0], ROWS[one][1], r]["seconds"] for r in RUNS[world]])
        base = np.mean([RESULTS[world, ROWS[other][0], ROWS[other][1], r]["seconds"] for r in RUNS[world]])
        cost = s.metric(f"seconds/{world}/{key(label)}", seconds / base)
        note = "" if one.startswith("few-shot") else f"{cost.value:.1f}"
        lines.append(f"| {TITLES[world]} | {label} | {other} | " + " | ".join(entry) + f" | {note} |")
s.say(
    "Gain in tau over another supernet, paired over trainings:\n\n"
    "| world | method | against | all cells | good cells | best tenth | CPU time, times |\n|---|---|---|---|---|---|---|\n" + "\n".join(lines)
    + "\n\nThe two kinds of few-shot NAS share a first half, so their time is not told apart."
)  # fmt: skip

# %% tags=["hide-input"]
for world in WORLDS:
    x = QUALITY[world, "single path"]
    s.metric(
        f"trained-minus-untrained/{world}",
        **over_runs(
            [a["tau-all"] - b["tau-all"] for a, b in zip(x, QUALITY[world, "untrained"], strict=True)]
        ),
    )
    for where in ("all", "good"):
        mask = HERE[world][where]
        best_of = QUALITY[world, f"single path, {max(LONGER)} P" if max(LONGER) > 1 else "single path"]
        for count in ("FLOPs", "FLOPs, live edges"):
            counted = kendall_tau_b(COUNTS[count][AT[world]][mask], TRUTHS[world][AT[world]][mask])
            gain = [a[f"tau-{where}"] - counted for a in best_of]
            s.metric(f"supernet-minus-count-{where}/{world}/{key(count)}", **over_runs(gain))
for name, values in PUBLISHED.items():
    good = np.flatnonzero(WHERE["cifar10"]["good"])
    difference = lambda rows, values=values: (
        kendall_tau_b(values[rows], TRUTHS["cifar10"][rows])
        - kendall_tau_b(COUNTS["FLOPs"][rows], TRUTHS["cifar10"][rows])
    )
    # Cells of one function are one draw: their accuracies in the table are the same network's.
    classes = np.unique(space.unique_class(OPS[good]), return_inverse=True)[1]
    members = np.split(good[np.argsort(classes, kind="stable")], np.cumsum(np.bincount(classes))[:-1])
    rng = np.random.default_rng(0)
    drawn = [
        difference(np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))]))
        for _ in range(500)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    s.metric(f"published-minus-flops-good/{key(name)}", difference(good), low=low, high=high, n=len(good))

# %% [markdown]
# ### More passes
#
# The budget here is small; the published supernets were trained for many times as many passes.
# How does tau change with training?

# %% mystnb={"figure": {"caption": "Tau of the single path against the passes that it was trained for, mean and interval over trainings. At 0 it is untrained. Dotted, in the same colours: FLOPs.", "name": "fig-supernets-passes"}, "image": {"alt": "One panel for each world. Two curves, tau among all cells and among good cells, over passes from none to several times P, with bands; two dotted horizontal lines show FLOPs in the same two regions."}} tags=["hide-input"]
fig, axes = plots.figure(1, len(WORLDS), width=3.9 * len(WORLDS), height=3.2, squeeze=False)
LENGTHS = {"0": "untrained", "P/4": "single path, P/4", "P/2": "single path, P/2", "P": "single path"}
LENGTHS |= {f"{f}P": f"single path, {f} P" for f in LONGER if f > 1}
for ax, world in zip(axes[0], WORLDS, strict=True):
    for where, name in (("all", "help"), ("good", "mix")):
        found = [over_runs([f[f"tau-{where}"] for f in QUALITY[world, label]]) for label in LENGTHS.values()]
        x = np.arange(len(LENGTHS))
        low, high = ([f.get(end, f["value"]) for f in found] for end in ("low", "high"))
        plots.curve(ax, x, [f["value"] for f in found], low, high, name=name, label=f"{where} cells")
        mask = HERE[world][where]
        ax.axhline(
            kendall_tau_b(COUNTS["FLOPs"][AT[world]][mask], TRUTHS[world][AT[world]][mask]),
            color=plots.colour(name),
            ls=":",
        )
    ax.set_xticks(range(len(LENGTHS)), LENGTHS)
    ax.set(title=TITLES[world], xlabel=f"passes (P = {PASSES[world]:,})", ylabel="Kendall's tau")
axes[0, 0].legend(loc="lower right")
plots.finish(fig)

# %% [markdown]
# In the published run nothing else moves tau on CIFAR-10 as much: at first training does not improve the order at all, and only the longest training brings it near that of FLOPs over all cells; among good cells it stays below.
# So the rules are compared there where the single path has hardly begun to rank, and a rule that seems to do nothing may do more later; on the digits the comparison is made where ranking has set in.
#
# ### Do two supernets agree?
#
# If weight sharing measured the architectures, two trainings that differ in the seed would rank them alike.

# %% tags=["hide-input"]
lines = []
for world in WORLDS:
    for label in ("single path", *(n for n in ROWS if n.startswith("single path, ") and n.endswith(" P"))):
        x = scores_of(world, *ROWS[label])
        pairs = list(itertools.combinations(range(len(x)), 2))
        for where in ("all", "good"):
            mask = HERE[world][where]
            taus = [kendall_tau_b(x[i][mask], x[j][mask]) for i, j in pairs]
            if taus:
                s.metric(
                    f"seed-tau-{where}/{world}/{key(label)}",
                    np.mean(taus),
                    low=min(taus),
                    high=max(taus),
                    n=len(taus),
                )
                lines.append(
                    f"| {TITLES[world]} | {label} | {where} | {np.mean(taus):.3f} | {min(taus):.3f} to {max(taus):.3f} |"
                )
s.say(
    "Tau between the scores of two trainings, over pairs of seeds:\n\n| world | supernet | cells | mean | range |\n|---|---|---|---|---|\n" + "\n".join(lines)
    + "\n\nThe pairs share trainings, so their range is no confidence interval."
    if lines else "One seed: there is no pair to compare."
)  # fmt: skip


# %% [markdown]
# In the published run two supernets on CIFAR-10 agree with each other at $P$ passes, while neither agrees with the table.
# What they share is more than noise: a preference, perhaps for what learns fast in shared weights (untested).
#
# ### Dead, alive, good
#
# What does a supernet know for certain?
# Take every pair of a dead and a live cell, and ask how often the live one has the better score.

# %% tags=["hide-input"]
def separation(score, low, high):
    """Percent of pairs of a `low` and a `high` cell in which the latter scores better; ties count half."""
    if not low.any() or not high.any():
        return float("nan")
    ranks = stats.rankdata(score[low | high])[high[low | high]]
    n = high.sum()
    return 100 * (ranks.sum() - n * (n + 1) / 2) / (n * low.sum())


lines = []
for world in WORLDS:
    where = HERE[world]
    for label in ("untrained", "single path"):
        x = scores_of(world, *ROWS[label])
        pairs = {
            "dead-from-live": (~where["live"], where["live"]),
            "rest-from-top": (where["good"] & ~where["top"], where["top"]),
        }
        entry = []
        for name, (low, high) in pairs.items():
            values = [separation(v, low, high) for v in x]
            s.metric(f"{name}/{world}/{key(label)}", unit="%", **over_runs(values))
            entry.append(f"{np.mean(values):.1f} %")
        lines.append(f"| {TITLES[world]} | {label} | " + " | ".join(entry) + " |")
s.say(
    "Pairs in the right order; 50 % is chance:\n\n| world | supernet | a dead and a live cell | a good cell and one of the best tenth |\n|---|---|---|---|\n" + "\n".join(lines)
)  # fmt: skip


# %% [markdown]
# ### The networks that it holds
#
# The benchmark's networks are larger and were trained far longer.
# So the same question once more against cells trained alone at the supernet's own size.
# How far two seeds agree shows how noisy this second truth is; the other rows are compared with the mean of both.

# %% tags=["hide-input"]
def of_alone(loss):
    """The losses of the cells that were trained alone as well."""
    return loss[ALONE] if len(loss) == len(OPS) else loss[len(SAMPLE) :]


mean_alone = alone.mean(0)
LABELS = {"the other seed": None, "the benchmark": TRUTHS[MAIN][ALONE], "FLOPs": COUNTS["FLOPs"][ALONE]}
GROUPS = {"all": np.ones(len(ALONE), bool), "good": TRUTHS[MAIN][ALONE] > GOOD[MAIN]}
lines = []
for factor in {1, max(LONGER)} if not s.smoke else ():
    name = "single path" if factor == 1 else f"single path, {factor} P"
    LABELS[name] = -np.stack(
        [of_alone(RESULTS[MAIN, "single path", factor, r]["scores"][""][0]) for r in RUNS[MAIN]]
    )


def tau_with_alone(values, rows):
    """Tau with the cells' own training, mean over supernets; values None: of one seed with the other."""
    if values is None:
        return kendall_tau_b(alone[0][rows], alone[-1][rows])
    return np.mean([kendall_tau_b(v[rows], mean_alone[rows]) for v in np.atleast_2d(values)])


if not s.smoke:
    for label, values in LABELS.items():
        entry = []
        for where, mask in GROUPS.items():
            rows, rng = np.flatnonzero(mask), np.random.default_rng(0)
            drawn = [tau_with_alone(values, rng.choice(rows, len(rows))) for _ in range(1000)]
            low, high = np.quantile(drawn, [0.025, 0.975])
            m = s.metric(
                f"alone-tau-{where}/{key(label)}",
                tau_with_alone(values, rows),
                low=low,
                high=high,
                n=len(rows),
            )
            entry.append(f"{m.value:.3f} [{m.low:.3f}, {m.high:.3f}]")
        lines.append(f"| {label} | " + " | ".join(entry) + " |")
    longest, rng = LABELS[f"single path, {max(LONGER)} P"], np.random.default_rng(0)
    better = lambda rows: tau_with_alone(longest, rows) - tau_with_alone(LABELS["FLOPs"], rows)
    low, high = np.quantile([better(rng.choice(len(ALONE), len(ALONE))) for _ in range(1000)], [0.025, 0.975])
    s.metric("alone-supernet-minus-flops", better(np.arange(len(ALONE))), low=low, high=high, n=len(ALONE))
    s.say(
        f"Tau with the accuracy of cells trained alone, {PASSES[MAIN]:,} passes for the supernet, {todo[0]['passes']:,} for each cell; bootstrap over cells:\n\n"
        f"| what | all {len(ALONE)}, live and mostly good | the {GROUPS['good'].sum()} good ones |\n|---|---|---|\n"
        + "\n".join(lines)
    )
else:
    s.say("At profile `smoke` too few cells are trained alone to compare ranks.")

# %% mystnb={"figure": {"caption": "What the supernet says, against what training says. Left: all scored cells against the table. Right: the best tenth, magnified. Rank 1 is best.", "name": "fig-supernets-scatter"}, "image": {"alt": "Two scatter plots for one trained supernet. The horizontal axis is the true accuracy, the vertical axis the rank by the supernet's loss. Left all scored cells, right only the best tenth; the more the cloud rises from left to right, the better the supernet ranks."}} tags=["hide-input"]
shown = -RESULTS[MAIN, "single path", 1, RUNS[MAIN][0]]["scores"][""][0]
truth = TRUTHS[MAIN] if len(shown) == len(OPS) else TRUTHS[MAIN][AT[MAIN]]
place = stats.rankdata(-shown)
top = truth >= np.sort(truth)[-max(2, len(truth) // 10)]
fig, axes = plots.figure(1, 2, width=7.8, height=3.3)
plots.points(axes[0], truth, place, s=3)
plots.points(axes[1], truth[top], place[top], s=4, colour=plots.PALETTE[1])
for ax, title in zip(axes, ("all cells", "the best tenth"), strict=True):
    ax.set(title=title, xlabel=f"accuracy in the table, {TITLES[MAIN]} (%)", ylabel="rank by the supernet")
    ax.invert_yaxis()
plots.finish(fig)

# %% tags=["hide-input"]
lines = []
for world in WORLDS:
    truth = TRUTHS[world][AT[world]]
    by_accuracy = []
    for r in RUNS[world]:
        accuracy = RESULTS[world, "single path", 1, r]["scores"][""][1]
        by_accuracy.append(
            kendall_tau_b(
                accuracy[AT[world]] if len(accuracy) == len(OPS) else accuracy[: len(SAMPLE)], truth
            )
        )
    m = s.metric(f"tau-by-accuracy/{world}", **over_runs(by_accuracy))
    lines.append(
        f"On {TITLES[world]}, ranking by accuracy on the scoring images in place of the loss gives tau {m.value:.3f} among all cells."
    )
if not s.smoke:
    loss = np.mean([RESULTS[MAIN, "single path", 1, r]["scores"][""][0] for r in RUNS[MAIN]], 0)[~DEAD]
    function = np.unique(space.function_class(OPS[~DEAD]), return_inverse=True)[1]
    means = np.bincount(function, loss) / np.bincount(function)
    within = s.metric(
        "spellings/share-of-variance", 100 * (loss - means[function]).var() / loss.var(), unit="%"
    )
    lines.append(
        f"Cells that compute the same function with other spellings share their accuracy, but not their weights: {within.value:.0f} % of the variance of the scores lies between spellings of one function."
    )
s.say(" ".join(lines))


# %% [markdown]
# This is the kindest reading of weight sharing.
# In the published run the longest-trained supernets order these cells about as well as a second training of the cells does, and FLOPs order them hardly better than chance.
# Cells trained briefly at this size share only part of the benchmark's order; whether the supernet follows theirs more closely than the benchmark's, 64 cells do not tell.
#
# ### Whose statistics?
#
# The same weights, scored with three kinds of statistics in the batch norms.

# %% tags=["hide-input"]
def by_statistics(seed, weights, cells, batches, world, digest, device):
    """Losses of cells with each kind of statistics, (m,) each."""
    torch.set_num_threads(1)
    data, found = Data(world, torch.device(device)), {}
    net = new(data, 0)
    net.load_state_dict(weights)
    generator = torch.Generator().manual_seed(seed)
    images = [data.batch(generator)[0] for _ in range(batches)]
    for kind in ("batch", "recalibrated", "running"):
        found[kind] = np.array(
            [loss_with(net, ops, kind, data.score_x, data.score_y, images) for ops in cells]
        )
    return found


WEIGHTS = {run: RESULTS[MAIN, "single path", 1, run]["weights"] for run in RUNS[MAIN]}
alive = np.flatnonzero(~DEAD[space.index(SAMPLE)])
which = np.sort(np.random.default_rng(3).permutation(alive)[: s.choose(smoke=20, standard=300)])
some = SAMPLE[which]
common = {"world": WORLDS[MAIN], "digest": digest(WORLDS[MAIN]), "device": s.device.type}
with s.section("statistics"):
    found = s.memo_each(
        "statistics", by_statistics,
        [{"seed": r, "weights": w, "cells": some, "batches": s.choose(smoke=2, standard=20), **common} for r, w in WEIGHTS.items()],
        WORKERS, "batch norm statistics",
    )  # fmt: skip
truth = TRUTHS[MAIN][space.index(some)]
TAU_BY = {
    kind: np.array([kendall_tau_b(-f[kind], truth) for f in found])
    for kind in ("batch", "recalibrated", "running")
}
lines = []
for kind, taus in TAU_BY.items():
    s.metric(f"statistics/tau/{kind}", taus)
    loss = np.mean([f[kind].mean() for f in found])
    lines.append(f"| {kind} | {taus.mean():.3f} | {loss:.2f} |")
gain = s.metric("statistics/gain", TAU_BY["recalibrated"] - TAU_BY["running"])
s.metric("statistics/batch-minus-recalibrated", TAU_BY["batch"] - TAU_BY["recalibrated"])
same = [kendall_tau_b(f["batch"], f["recalibrated"]) for f in found]
s.metric("statistics/batch-agrees-with-recalibrated", same)
# The same cells under the other rules: how much does the rule change?
OTHERS = [m for m in METHODS if m not in ("single path", "DARTS", "GDAS")]
changes = [
    np.mean([
        abs(kendall_tau_b(scores_of(MAIN, m, run=r)[which], truth) - kendall_tau_b(scores_of(MAIN, "single path", run=r)[which], truth))
        for m in OTHERS
    ])
    for r in RUNS[MAIN]
]  # fmt: skip
s.metric("statistics/change-by-another-rule", changes)
s.metric("statistics/gain-minus-change-by-rule", TAU_BY["recalibrated"] - TAU_BY["running"] - changes)
s.say(
    f"{len(some)} live cells, single path, mean over trainings; tau with the table:\n\n| statistics | tau | mean loss (nats) |\n|---|---|---|\n"
    + "\n".join(lines)
    + f"\n\nScores with the batch's own statistics and recalibrated ones agree with tau {np.mean(same):.3f}. "
    f"For comparison: replacing the single path by another rule changes tau on these cells by {np.mean(changes):.3f} on average, up or down."
)  # fmt: skip


# %% [markdown]
# The published run contradicts the folklore at this stage of training: running statistics give the worst losses and the best order.
# A possible reason, untested: they fit paths whose activations are like the average path's, and a path that differs, because it has few convolutions, say, is punished for that.
# If so, the gain is a preference for ordinary cells and says little about a path's quality.
#
# ### Selecting: enumeration, evolution, speed

# %% tags=["hide-input"]
def searched(seed, weights, scores, world, digest, device, sizes):
    """Evolution by score: cells in order of evaluation; scores (15,625,) when all are known, else computed."""
    torch.set_num_threads(1)
    if scores is None:
        data = Data(world, torch.device(device))
        net = new(data, 0)
        net.load_state_dict(weights)
        score_of = lambda cells: score(net, data.score_x, data.score_y, cells)[0]
    else:
        score_of = lambda cells: scores[space.index(cells)]
    return evolve(score_of, seed, *sizes)


lines, REACHED = [], {}
with s.section("evolution"):
    for run in RUNS[MAIN]:
        known = RESULTS[MAIN, "single path", 1, run]["scores"][""][0]
        known = known if len(known) == len(OPS) else None
        REACHED[run] = s.memo(
            "evolution", searched, seed=run, weights=WEIGHTS[run], scores=known,
            sizes=s.choose(smoke=(10, 2, 4), standard=(50, 20, 10)), **common,
        )  # fmt: skip
TRUE = TRUTHS[MAIN]
chosen = {"evolution": [TRUE[int(found["cells"][np.argmin(found["loss"])])] for found in REACHED.values()]}
if known is not None:
    all_scores = {r: -RESULTS[MAIN, "single path", 1, r]["scores"][""][0] for r in RUNS[MAIN]}
    chosen["enumeration"] = [TRUE[x.argmax()] for x in all_scores.values()]
    chosen["enumeration, best of ten by table"] = [
        TRUE[ranking.top(x, 10)].max() for x in all_scores.values()
    ]
    better = [
        100 * np.mean(x > -found["loss"].min())
        for x, found in zip(all_scores.values(), REACHED.values(), strict=True)
    ]
    s.metric("search/percent-of-cells-with-better-score", better, unit="%")
live_flops = COUNTS["FLOPs, live edges"]
chosen["most FLOPs on live edges"] = [TRUE[live_flops == live_flops.max()].mean()] * len(RUNS[MAIN])
chosen["most FLOPs on live edges, best of ten by table"] = [
    np.mean(
        [
            TRUE[ranking.top(live_flops + np.random.default_rng(i).uniform(0, 1, len(OPS)), 10)].max()
            for i in range(200)
        ]
    )
] * len(RUNS[MAIN])
chosen["random, one cell"] = [TRUE.mean()] * len(RUNS[MAIN])
chosen["random, best of ten by table"] = [ranking.expected_best(TRUE, 10)[-1]] * len(RUNS[MAIN])
for name, values in chosen.items():
    m = s.metric(f"search/accuracy/{key(name)}", values, unit="%")
    lines.append(f"| {name} | {m.value:.2f} |")
evaluated = np.mean([len(found["cells"]) for found in REACHED.values()])
s.say(
    f"True accuracy in percent of what each way selects (the optimum has {TRUE.max():.2f}); evolution scored {evaluated:.0f} cells:\n\n| selection | accuracy |\n|---|---|\n" + "\n".join(lines)
)  # fmt: skip


# %% [markdown]
# In the published run ten random cells, with the table's help, beat the ten best-scored ones at $P$ passes.
#
# How fast is scoring?
# Three ways are timed on one thread: the usual procedure, in which each cell's statistics are recalibrated on some batches of training images before it is scored; a plain loop over cells that scores with the batch's own statistics; and `score`, which shares what cells have in common.

# %% tags=["hide-input"]
def speed(seed, weights, cells, all_cells, batches, world, digest, device):
    """Cells a second of three ways of scoring, best of three; `cells` are a random part of `all_cells`."""
    torch.set_num_threads(1)
    data = Data(world, torch.device(device))
    net = new(data, 0).train()
    net.load_state_dict(weights)
    images = [data.batch(torch.Generator().manual_seed(seed))[0] for _ in range(batches)]

    def loop():
        with torch.no_grad():
            for ops in cells:
                F.cross_entropy(net(data.score_x, ops), data.score_y).item()

    def usual():
        for ops in cells[: len(cells) // 4]:
            loss_with(net, ops, "recalibrated", data.score_x, data.score_y, images)

    def rate(run, n):
        spent = []
        for _ in range(3):
            began = time.process_time()
            run()
            spent.append(time.process_time() - began)
        return n / min(spent)

    shared = lambda: score(net, data.score_x, data.score_y, all_cells)
    return {
        "usual": rate(usual, len(cells) // 4),
        "loop": rate(loop, len(cells)),
        "shared": rate(shared, len(all_cells)),
    }


# Blocks of complete prefixes, as an enumeration has them: cells in order of their index.
block = np.concatenate(
    [OPS[start : start + 125] for start in range(0, len(OPS), s.choose(smoke=8000, standard=1250))]
)
part = block[np.random.default_rng(0).permutation(len(block))[:40]]
with s.section("speed"):
    rates = s.memo("speed", speed, seed=0, weights=WEIGHTS[RUNS[MAIN][0]], cells=part, all_cells=block,
                   batches=s.choose(smoke=2, standard=20), **common)  # fmt: skip
for name, value in rates.items():
    s.metric(f"speed/{name}", value, unit="cells/s")
s.metric("speed/shared-over-usual", rates["shared"] / rates["usual"])
s.metric("speed/shared-over-loop", rates["shared"] / rates["loop"])
s.say(
    f"| scoring | cells a second |\n|---|---|\n| recalibrating each cell | {rates['usual']:.1f} |\n| plain loop, the batch's statistics | {rates['loop']:.1f} |\n| `score`, sharing prefixes | {rates['shared']:.1f} |\n\n"
    f"`score` is {rates['shared'] / rates['loop']:.1f} times as fast as the loop that computes the same numbers, and {rates['shared'] / rates['usual']:.0f} times as fast as the usual procedure. "
    "What remains is arithmetic: in the later stages every cell has an input of its own."
)

# %% [markdown]
# ### Where architecture parameters drift
#
# DARTS is known to end in skip connections {cite:p}`zela2020robustdarts`; the authors of the benchmark found that it ends there on this space too {cite:p}`dong2020nasbench201`.

# %% mystnb={"figure": {"caption": "Share of each operation in the architecture parameters, mean over edges and trainings, against the passes. Upper row DARTS, lower row GDAS.", "name": "fig-supernets-darts"}, "image": {"alt": "A grid of panels, DARTS above and GDAS below, one column for each world. Five lines, one for each operation, start at one fifth and separate as training goes on."}} tags=["hide-input"]
fig, axes = plots.figure(
    2, len(WORLDS), width=3.9 * len(WORLDS), height=5.2, squeeze=False, sharex="col", sharey=True
)
for column, world in zip(axes.T, WORLDS, strict=True):
    for ax, method in zip(column, ("DARTS", "GDAS"), strict=True):
        history = np.mean([RESULTS[world, method, 1, r]["history"] for r in RUNS[world]], axis=(0, 2))
        for op, name in enumerate(space.OPS):
            every = max(1, len(history) // 40)
            ax.plot(
                2 * np.arange(len(history))[::every],
                history[::every, op],
                label=name,
                color=plots.PALETTE[op],
                ls=plots.LINES[op],
            )
        ax.set(title=f"{method}, {TITLES[world]}", ylabel="share")
    column[-1].set_xlabel("passes")
axes[1, -1].legend(fontsize=7, loc="lower left")
plots.finish(fig)

# %% tags=["hide-input"]
lines = []
for world in WORLDS:
    truth = TRUTHS[world]
    at_random = truth[(OPS != NONE).all(1)].mean()
    for method in ("DARTS", "GDAS"):
        last = np.stack([RESULTS[world, method, 1, r]["history"][-1] for r in RUNS[world]])
        final = last[:, :, 1:].argmax(-1) + 1
        drift = s.metric(
            f"skip-drift/{world}/{method.lower()}",
            **over_runs(100 * (last[:, :, SKIP].mean(1) - 0.2)),
            unit="points",
        )
        accuracy = truth[space.index(final)]
        s.metric(
            f"derived/{world}/{method.lower()}-minus-random", **over_runs(accuracy - at_random), unit="points"
        )
        paper = (
            {"DARTS": 54.30, "GDAS": 93.51}[method] if world == "cifar10" else None
        )  # Dong and Yang 2020, table 5
        s.metric(f"derived-accuracy/{world}/{method.lower()}", **over_runs(accuracy), unit="%", paper=paper)
        by_product = [np.log(p[np.arange(6), OPS]).sum(1) for p in last]
        tau = s.metric(
            f"alpha-tau/{world}/{method.lower()}", **over_runs([kendall_tau_b(x, truth) for x in by_product])
        )
        skips = (final == SKIP).sum(1)
        lines.append(
            f"| {TITLES[world]} | {method} | {20 + drift.value:.1f} % | {', '.join(map(str, skips))} | {accuracy.mean():.2f} | {at_random:.2f} | {'' if paper is None else f'{paper:.2f}'} | {tau.value:.3f} |"
        )
s.say(
    "Where the parameters end; the derived cell takes the strongest operation other than `none`:\n\n"
    "| world | method | share of skip | skips in the derived cells | their accuracy, % | a random cell without `none`, % | published, % | tau of all cells by the parameters |\n|---|---|---|---|---|---|---|---|\n" + "\n".join(lines)
)  # fmt: skip


# %% [markdown]
# In the published run DARTS has not collapsed when its budget ends: the share of skips grows on average, within chance, and the cells that it derives on CIFAR-10 are better than random ones.
# The collapse that others report comes after many times as many steps.
#
# ### Transfer: another data set, many budgets
#
# The survey's third problem is to serve many settings with one supernet.
# First another data set: the weights of the trained supernet are fine-tuned for an eighth of the passes, with a new head, and compared with training from scratch for as long, and for the whole budget.

# %% tags=["hide-input"]
def transferred(seed, weights, passes, world, digest, cells, device):
    """Scores (2, m) after training on another world, from `weights` (all but the head) or from scratch (None)."""
    torch.set_num_threads(1)
    data = Data(world, torch.device(device))
    net = new(data, seed)
    if weights is not None:
        net.load_state_dict({k: v for k, v in weights.items() if not k.startswith("head")}, strict=False)
    train(net, single_path(), passes, data, seed)
    return score_family([(ALL, net)], data, cells)


P = PASSES[MAIN]
WAYS = {
    "fine-tuned, P/8": (True, P // 8),
    "from scratch, P/8": (False, P // 8),
    "from scratch, P": (False, P),
}
todo = [
    {"seed": run, "weights": WEIGHTS[run] if warm else None, "passes": passes, "world": TARGET, "digest": digest(TARGET),
     "cells": SAMPLE, "device": s.device.type}
    for warm, passes in WAYS.values() for run in RUNS[MAIN]
]  # fmt: skip
with s.section("transfer"):
    found = s.memo_each("transfer", transferred, todo, WORKERS, "transfer")
ways = list(WAYS)
losses = {
    way: np.stack([x[0] for x in found[i * len(RUNS[MAIN]) :][: len(RUNS[MAIN])]])
    for i, way in enumerate(ways)
}
losses["not trained on it at all"] = -scores_of(MAIN, "single path")
NEXT = TABLE.accuracy("cifar100", "test") if not s.smoke else TRUTHS["digits"]
truth = NEXT[space.index(SAMPLE)]
where = regions(truth, DEAD[space.index(SAMPLE)], np.median(truth))
TRANSFER, lines = {}, []
for way, x in losses.items():
    TRANSFER[way] = {
        w: np.array([kendall_tau_b(-v[mask], truth[mask]) for v in x])
        for w, mask in where.items()
        if w != "live"
    }
    loss = f"{x.mean():.2f}" if way in WAYS else ""
    lines.append(
        f"| {way} | " + " | ".join(f"{t.mean():.3f}" for t in TRANSFER[way].values()) + f" | {loss} |"
    )
    for w, taus in TRANSFER[way].items():
        s.metric(f"transfer/tau-{w}/{key(way)}", taus)
flops = COUNTS["FLOPs"][space.index(SAMPLE)]
lines.append(
    "| *FLOPs* | "
    + " | ".join(f"{kendall_tau_b(flops[where[w]], truth[where[w]]):.3f}" for w in TRANSFER[way])
    + " | |"
)
s.metric("transfer/gain-over-scratch-as-long", TRANSFER[ways[0]]["all"] - TRANSFER[ways[1]]["all"])
s.metric("transfer/gain-over-scratch-in-full", TRANSFER[ways[0]]["all"] - TRANSFER[ways[2]]["all"])
s.say(
    f"Tau with the accuracies on {'CIFAR-100' if not s.smoke else 'digits'}:\n\n| the supernet | all cells | better half | best tenth | mean loss |\n|---|---|---|---|---|\n" + "\n".join(lines)
)  # fmt: skip

# %% [markdown]
# In the published run fine-tuning does better than starting anew for as long, but over all cells both order them worse than chance would, and worse than the supernet that never saw CIFAR-100; the whole budget from scratch does not rank them either.
#
# Then many budgets: for each limit on FLOPs, or on the latency of a device from [chapter 03](03_help.ipynb), the supernet's best cell under the limit is taken.
# The trivial rival takes the cell with the most FLOPs on live edges that the limit allows.

# %% mystnb={"figure": {"caption": "True accuracy of the cell selected under a limit: by the supernet (mean over trainings), by most FLOPs on live edges, at random (mean), and the best there is.", "name": "fig-supernets-budgets"}, "image": {"alt": "Three panels with a limit on the horizontal axis, FLOPs in the first, milliseconds on two devices in the others, and true accuracy on the vertical axis. Four curves rise with the limit: the oracle on top, most live FLOPs, the supernet, and the mean of the cells."}} tags=["hide-input"]
LATENCY = latency.load(s.choose(smoke="embedded", standard="nb201"))
at = space.index(LATENCY.ops)
devices = [LATENCY.test[0], LATENCY.test[-2]]
LIMITS = {"FLOPs (millions)": COUNTS["FLOPs"][at] / 1e6} | {
    f"latency on {d} (ms)": LATENCY.latency[d] for d in devices
}
scored = {r: np.full(len(OPS), -np.inf) for r in RUNS[MAIN]}
for r, x in scored.items():
    loss = RESULTS[MAIN, "single path", 1, r]["scores"][""][0]
    x[np.arange(len(OPS)) if len(loss) == len(OPS) else AT[MAIN]] = -loss
fig, axes = plots.figure(1, 3, width=7.8, height=3.0, sharey=True)
BUDGET = {}
for ax, (name, cost) in zip(axes, LIMITS.items(), strict=True):
    usable = np.isfinite(scored[RUNS[MAIN][0]][at])
    limits = np.quantile(cost[usable], np.linspace(0.1, 1, 10))
    true, under = TRUE[at], [usable & (cost <= limit) for limit in limits]
    curves = {
        "oracle": [true[u].max() for u in under],
        "FLOPs": [
            true[u][live_flops[at][u] == live_flops[at][u].max()].mean() for u in under
        ],  # ties: their mean
        "random": [true[u].mean() for u in under],
        "supernet": np.mean([[true[u][x[at][u].argmax()] for u in under] for x in scored.values()], 0),
    }
    BUDGET[name] = {
        r: np.mean([true[u][x[at][u].argmax()] for u in under]) - np.mean(curves["FLOPs"])
        for r, x in scored.items()
    }
    for label, values in curves.items():
        plots.curve(
            ax,
            limits,
            values,
            name="ours" if label == "supernet" else label,
            label="most live FLOPs" if label == "FLOPs" else label,
        )
    ax.set(xlabel=name)
axes[0].set_ylabel(f"accuracy, {TITLES[MAIN]} (%)")
axes[0].set_ylim(np.quantile(TRUE[~DEAD], 0.02), TRUE.max() + 1)
axes[-1].legend(fontsize=7)
plots.finish(fig)

# %% tags=["hide-input"]
lines = []
for name, difference in BUDGET.items():
    m = s.metric(
        f"budget/supernet-minus-flops/{key(name.split(' (')[0])}", list(difference.values()), unit="points"
    )
    lines.append(f"| {name} | {m.value:+.2f} |")
s.say(
    "Supernet minus most FLOPs, points of accuracy, mean over ten limits and the trainings:\n\n| limit | difference |\n|---|---|\n"
    + "\n".join(lines)
)


# %% [markdown]
# ## The claims
#
# A survey is not tested by numbers of its own.
# These are sentences of the field that it orders, sharpened until a rule can judge them.
# *Reproduced* needs the whole interval on the claimed side, *contradicted* the whole interval on the other; a claim about two worlds is judged on each.
#
# *First edition:* verdicts by the first edition's rules; see [Errata](../book/errata.md).

# %% tags=["hide-input"]
def claim(id, statement, test, rule, *names, combine=verdicts.each_of):
    s.claim(id, statement, metrics=names, test=test, rule=combine(*(rule(n) for n in names)))


above = lambda than=0.0: lambda name: verdicts.greater(name, than)
least = lambda than: lambda name: verdicts.at_least(name, than)
each = lambda pattern: [pattern.format(world) for world in WORLDS]
gain = lambda rule, where="all": each(f"gain-{where}/{{}}/{rule}")

claim(
    "dead",
    "A supernet tells dead cells from live ones",
    "at least 95 % of pairs in the right order",
    least(95.0),
    *each("dead-from-live/{}/single-path"),
)
claim(
    "good",
    "A supernet tells the best tenth from other good cells",
    "at least 75 % of pairs in the right order",
    least(75.0),
    *each("rest-from-top/{}/single-path"),
)
claim(
    "training",
    "A trained supernet ranks better than an untrained one",
    "paired gain in tau above 0",
    above(),
    *each("trained-minus-untrained/{}"),
)
for id, statement, name in (
    ("fairness", "Strict fairness raises tau at equal passes", "strict-fairness"),
    ("filter", "Greedy filtering raises tau at equal training passes", "greedy-filter"),
    ("few-shot", "Splitting one edge five ways raises tau at equal passes", "few-shot"),
    ("matching", "Splitting where gradients disagree raises tau at equal passes", "gradient-matching"),
    ("sandwich", "The sandwich rule with in-place distillation raises tau at equal passes", "sandwich"),
):
    claim(
        id,
        statement,
        "paired gain in tau over the single path above 0, t-interval over trainings",
        above(),
        *gain(name),
    )
if max(LONGER) > 1:
    claim(
        "few-shot-published",
        "With the published budget few-shot NAS beats a single supernet that gets no less",
        "paired gain in tau above 0, 1.75 P against 2 P",
        above(),
        *gain("few-shot-as-published"),
    )
    claim(
        "longer",
        "Four times the passes raise tau",
        "paired gain above 0",
        above(),
        *gain("four-times-the-passes"),
    )
counts = lambda where: [
    n for c in ("flops", "flops-live-edges") for n in each(f"supernet-minus-count-{where}/{{}}/{c}")
]
claim(
    "beats-counting",
    "A supernet ranks the space better than counting FLOPs",
    "at the longest training, tau minus that of FLOPs and of FLOPs on live edges above 0",
    above(),
    *counts("all"),
)
claim(
    "beats-counting-good",
    "A supernet ranks good cells better than counting FLOPs",
    "at the longest training, tau minus that of FLOPs and of FLOPs on live edges above 0",
    above(),
    *counts("good"),
)
if PUBLISHED:
    names = [f"published-minus-flops-good/{key(p)}" for p in PUBLISHED]
    claim(
        "published-beats-counting",
        "Published supernets rank good cells better than FLOPs",
        "tau minus that of FLOPs above 0, bootstrap over functions",
        above(),
        *names,
    )
if "alone-supernet-minus-flops" in s.record().metrics:
    claim(
        "own-networks",
        "A supernet ranks the networks that it holds, trained alone and briefly, better than FLOPs",
        "at the longest training, tau minus that of FLOPs above 0, bootstrap over cells",
        above(),
        "alone-supernet-minus-flops",
    )
if len(RUNS[MAIN]) > 1:
    claim(
        "seeds",
        "Two supernets that differ in the seed agree",
        "tau between them at least 0.5; range over (dependent) pairs",
        least(0.5),
        *each("seed-tau-all/{}/single-path"),
    )
claim(
    "skips",
    "DARTS drifts to skip connections",
    "share of skip minus one fifth above 0",
    above(),
    *each("skip-drift/{}/darts"),
)
claim(
    "darts-poor",
    "The cell that DARTS derives is worse than a random one without `none`",
    "difference below 0",
    lambda n: verdicts.smaller(n),
    *each("derived/{}/darts-minus-random"),
)
claim(
    "statistics",
    "Without recalibration the ranking is worse",
    "gain in tau over running statistics above 0",
    above(),
    "statistics/gain",
)
claim(
    "statistics-most",
    "Recalibration matters more than the rule of training",
    "its gain minus the mean change by another rule above 0, on the same cells",
    above(),
    "statistics/gain-minus-change-by-rule",
)
claim(
    "statistics-batch",
    "The scoring batch's own statistics rank like recalibrated ones",
    "tau between the two at least 0.9",
    least(0.9),
    "statistics/batch-agrees-with-recalibrated",
)
if "search/percent-of-cells-with-better-score" in s.record().metrics:
    claim(
        "evolution",
        "Evolution finds a cell among the best-scored tenth of a percent",
        "percent of cells with a better score at most 0.1",
        lambda n: verdicts.at_most(n, 0.1),
        "search/percent-of-cells-with-better-score",
    )
claim(
    "transfer",
    "Fine-tuning a supernet on new data beats training one from scratch for as long",
    "paired gain in tau above 0",
    above(),
    "transfer/gain-over-scratch-as-long",
)
claim(
    "budgets",
    "Under a limit on cost the supernet selects better than most FLOPs on live edges",
    "difference in accuracy above 0 for each kind of limit",
    above(),
    *[m for m in s.record().metrics if m.startswith("budget/")],
)
s.claims_table()

# %% [markdown]
# ## Where it breaks
#
# **What the budget allows.**
# The supernets here are narrow and saw few passes, and a low tau may be due to that.
# The published ones are a check on it: they were trained at length, and their rows stand in the first table and in the next.
#
# **What tau over all cells rewards.**
# The next table drops the dead cells, then the poorer half.
# A score that knows only what to avoid loses its tau on the way.

# %% tags=["hide-input"]
lines = []
for world in WORLDS:
    truth = TRUTHS[world]
    entries = dict(COUNTS.items())
    if world == "cifar10":
        entries |= PUBLISHED
    longest = scores_of(world, "single path", max(LONGER)).mean(0)
    for label, x in (entries | {f"single path, {max(LONGER)} P": longest}).items():
        t = truth if len(x) == len(OPS) else truth[AT[world]]
        dead = DEAD if len(x) == len(OPS) else DEAD[AT[world]]
        parts = [np.ones(len(t), bool), ~dead, *(t >= np.quantile(t, q) for q in (0.5, 0.8, 0.9))]
        lines.append(
            f"| {TITLES[world]} | {label} | "
            + " | ".join(f"{kendall_tau_b(x[m], t[m]):.3f}" for m in parts)
            + " |"
        )
s.say(
    "Tau within ever better parts; the supernet's losses are averaged over its trainings:\n\n| world | score | all | live | best half | fifth | tenth |\n|---|---|---|---|---|---|---|\n"
    + "\n".join(lines)
)

# %% [markdown]
# **What is equal at equal passes.**
# A pass of DARTS runs every operation, and greedy filtering runs forward passes that are not counted; the table of gains shows their time.
# Fairness makes a fifth of the steps.
# Another currency would shift the order.
#
# **How many trainings.**
# Supernets that differ only in the seed differ (see above), so a gain of a few hundredths needs many pairs; one training cannot show it.
#
# ## Deviations
#
# From the methods as published; the survey itself trains nothing.

# %% tags=["hide-input"]
s.deviation(
    f"One cell a stage, first width {WORLDS[MAIN].C}, images of {WORLDS[MAIN].task.resolution} pixels a side and {10 * WORLDS[MAIN].task.n_train:,} training images, drawn with replacement; the methods were published with wider networks on full images.",
    "less capacity, more interference between paths",
)
s.deviation(
    f"{PASSES[MAIN]:,} passes of {WORLDS[MAIN].batch} images in place of several hundred epochs.",
    "tau is lower; the curve over passes shows by how much",
)
s.deviation(
    "One schedule, clipping and augmentation for all methods; the learning rate was set for the single path in short trials with one seed, in which its loss and its tau were both looked at.",
    "no other method is at its own best; the single path may be flattered a little",
)
s.deviation(
    "FairNAS: gradients of shared weights are divided by five; a weight without a gradient is not moved by its momentum.",
    "about none on operations, smaller steps elsewhere",
)
s.deviation(
    f"GreedyNAS: the filter sees {WORLDS[MAIN].n_filter} images in place of a thousand, and training does not stop early when the pool settles.",
    "noisier filtering",
)
s.deviation(
    f"GM-NAS: {max(1, PASSES[MAIN] // 1000)} gradient batches before a split where the authors take 100, and copies keep their weights after the last split.",
    "a noisier choice of the edge, but no restart that a small budget could not afford",
)
s.deviation(
    "Sandwich rule: the largest cell is one path, since sizes are not nested here.",
    "the teacher shares only some weights with each student",
)
s.deviation(
    "DARTS and GDAS: the learning rate of the architecture parameters is ten times the published one, since there are that many fewer steps.",
    "parameters move about as far in all",
)
s.deviation(
    "GDAS: the gradient reaches an edge's parameters through the sampled operation only.",
    "as published up to terms that are zero in the forward pass",
)
s.deviation(
    f"Scores use {WORLDS[MAIN].n_score} images, and their statistics in the batch norms; a thousand and more are common.",
    "noisier scores, the same noise for all methods; the statistics are compared above",
)
s.deviation(
    "Few-shot NAS: every run splits another edge, and each run is one value; the mean over runs is a mean over edges as well.",
    "part of the spread between runs is between edges",
)
s.deviation(
    "K-shot NAS, and predictors fitted to supernet scores, are described but not run.",
    "none on what is measured",
)
s.deviations_table()


# %% [markdown]
# ## Exercises
#
# Each exercise has a check that you can run, and a solution.
#
# ### Exercise 1 (★☆☆): fair in every step
#
# Write the five paths of a step of strict fairness, equation [](#eq-supernets-fairness).

# %% tags=["exercise"]
def fair_paths(rng):
    """Five cells, int64 (5, 6), in which every operation occurs once on every edge."""
    return None  # your code


def check_fair(function):
    seen = [function(np.random.default_rng(seed)) for seed in range(20)]
    for cells in seen:
        assert cells.shape == (5, 6) and (np.sort(cells, axis=0) == np.arange(5)[:, None]).all()
    assert len({cells.tobytes() for cells in seen}) > 15, "edges must be permuted independently, at random"
    return "Exercise 1: correct"


if fair_paths(np.random.default_rng(0)) is not None:
    print(check_fair(fair_paths))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def fair_paths_solution(rng):
    return np.stack([rng.permutation(5) for _ in range(6)], axis=1)


print(check_fair(fair_paths_solution))


# %% [markdown]
# ### Exercise 2 (★☆☆): the compromise
#
# In the toy of equation [](#eq-supernets-toy), find the weight that a supernet of *weighted* paths learns, when path $i$ is drawn with probability $p_i$.

# %% tags=["exercise"]
def compromise(g, p):
    """The weight that minimises the expected loss of equation (eq-supernets-toy)."""
    return None  # your code


def check_compromise(function):
    g, p = np.array([1.0, 1.1, 1.2, 0.4]), np.array([0.1, 0.2, 0.3, 0.4])
    grid = np.linspace(0, 3, 30_001)
    assert abs(function(g, p) - grid[(p[:, None] * (g[:, None] * grid - 1) ** 2).sum(0).argmin()]) < 1e-3
    return "Exercise 2: correct"


if compromise(np.ones(2), np.full(2, 0.5)) is not None:
    print(check_compromise(compromise))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def compromise_solution(g, p):
    return (p * g).sum() / (p * g * g).sum()


print(check_compromise(compromise_solution))


# %% [markdown]
# ### Exercise 3 (★★☆): how much is just "dead last"?
#
# Build a score that knows dead cells and nothing else (0 for dead, 1 for live), and one that knows in addition the number of convolutions up to two.
# What tau do they reach on the table of the digits?

# %% tags=["exercise"]
def knows_little(ops, dead):
    """Scores (n,) of cells: 0 for dead ones, else one plus the number of convolutions, counted up to two."""
    return None  # your code


def check_little(function):
    x = function(OPS, DEAD)
    assert set(np.unique(x)) == {0, 1, 2, 3} and (x[DEAD] == 0).all() and (x[~DEAD] > 0).all()
    alive = 1.0 * ~DEAD
    taus = [kendall_tau_b(v, TRUTHS["digits"]) for v in (alive, x)]
    return (
        f"Exercise 3: correct. Dead or alive: tau {taus[0]:.3f}; with up to two convolutions: {taus[1]:.3f}"
    )


if knows_little(OPS, DEAD) is not None:
    print(check_little(knows_little))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def knows_little_solution(ops, dead):
    convolutions = ((ops == CONV1) | (ops == CONV3)).sum(1)
    return np.where(dead, 0, 1 + np.minimum(convolutions, 2))


print(check_little(knows_little_solution))


# %% [markdown]
# ### Exercise 4 (★★☆): a rule of your own
#
# Write a rule that trains, in every step, one path and its *mirror*: the path in which skips and 3x3 convolutions change places.
# It must run two passes and say so.

# %% tags=["exercise"]
def mirrored(net, images, labels, rng, share):
    """Backward passes of a random path and its mirror; returns the number of passes."""
    return None  # your code


def check_mirrored(function):
    net, seen = Supernet(4, 10, seed=1), []
    forward = net.forward
    net.forward = lambda images, ops: seen.append(tuple(int(o) for o in ops)) or forward(images, ops)
    assert function(net, batch, labels, np.random.default_rng(0), 0.0) == 2
    one, other = seen
    assert other == tuple({1: 3, 3: 1}.get(o, o) for o in one)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    return "Exercise 4: correct"


if mirrored(Supernet(4, 10, seed=1), batch, labels, np.random.default_rng(0), 0.0) is not None:
    print(check_mirrored(mirrored))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def mirrored_solution(net, images, labels, rng, share):
    ops = draw(ALL, rng)
    for path in (ops, np.array([0, 3, 2, 1, 4])[ops]):
        backward(net, images, labels, path)
    return 2


print(check_mirrored(mirrored_solution))


# %% [markdown]
# ### Exercise 5 (★★★): an ensemble of supernets
#
# If seeds disagree, average them.
# Combine the scores of several supernets by mean *rank*, so that none counts more because its losses are spread wider.

# %% tags=["exercise"]
def by_mean_rank(scores):
    """Scores (runs, cells), higher is better -> one score (cells,)."""
    return None  # your code


def check_ensemble(function):
    x = np.array([[1.0, 2.0, 3.0], [100.0, 300.0, 200.0], [1.0, 3.0, 2.0]])
    assert np.argsort(function(x)).tolist() == [0, 2, 1]
    assert np.argsort(function(x * np.array([[1.0], [1e6], [1.0]]))).tolist() == [0, 2, 1]
    world = list(WORLDS)[-1]
    x, truth = scores_of(world, "single path"), TRUTHS[world][AT[world]]
    alone = np.mean([kendall_tau_b(v, truth) for v in x])
    return f"Exercise 5: correct. On {TITLES[world]} {len(x)} supernets: tau {alone:.3f} each, {kendall_tau_b(function(x), truth):.3f} together"


if by_mean_rank(np.eye(2)) is not None:
    print(check_ensemble(by_mean_rank))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def by_mean_rank_solution(scores):
    return stats.rankdata(scores).mean(0)


print(check_ensemble(by_mean_rank_solution))

# %% [markdown]
# ## Check yourself
#
# 1. Why can a supernet have a fair tau over the whole space and be useless for finding the best cell?
#
# <details><summary>Answer</summary>
#
# Dead and poor cells make up many of the pairs, and they are easy to put last.
# The best cell is found among good ones, where the order may be no better than chance.
#
# </details>
#
# 2. In strict fairness, why is it not enough to draw five independent uniform paths for each step?
#
# <details><summary>Answer</summary>
#
# Independent draws repeat some operations of an edge and miss others in a step; permutations draw each exactly once.
# (On an edge that lies on no way to the output it still gets no gradient.)
#
# </details>
#
# 3. Few-shot NAS as published beats one supernet of its first phase. Why is that no evidence for splitting?
#
# <details><summary>Answer</summary>
#
# It used 3.5 times the passes.
# The comparison that tells is with one supernet that gets as many.
#
# </details>
#
# 4. Why do running statistics of a supernet not fit a path?
#
# <details><summary>Answer</summary>
#
# They are averages over all paths that were trained, and the activations of one path have other means and variances.
#
# </details>
#
# 5. Why is GreedyNAS not allowed to filter with the images that score the cells in the end?
#
# <details><summary>Answer</summary>
#
# Its weights would then be fitted to those images through the choice of paths, and its scores on them too good in a way that others' are not.
#
# </details>
#
# ## Summary
#
# A supernet is one network that holds all others; rules differ in which paths are trained, in what shares weights, and in what the targets are.
# Scoring with inherited weights is cheap, and sharing prefixes makes it cheaper.
# Whether the scores rank is an empirical question.
# In the published run dead cells are told from live ones with near certainty and, at $P$ passes, the best cells from other good ones no better than by chance.
# On CIFAR-10 passes matter more than rules, on the digits greedy filtering gains as much as four times the passes; no rule raises tau beyond chance in both worlds.
# A long-trained supernet orders the networks that it holds about as well as a second training of them does.
# The baseline to beat is a count of convolutions: on CIFAR-10 it beats all supernets here and both published ones among good cells, on the digits it loses to every trained one.
#
# **Reading.**
# The survey {cite:p}`cha2022supernet`; what weight sharing measures, early and sceptical {cite:p}`yu2020evaluating`; random search with weight sharing {cite:p}`li2020random`.
# [Chapter 02](../book/map.md) replaces shared weights by a predictor that has seen other tasks.

# %% [markdown]
# ## Run card

# %%
s.finish()
s.run_card()
