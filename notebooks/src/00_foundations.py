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
# # Foundations: a space of cells, its tables, its tasks
#
# *This chapter is of the first edition: [Errata](../book/errata.md) lists what is known to be wrong or undecided in it.*
#
# **The claim in one sentence.**
# Before any method of this book is judged, one has to know what counting, fifty trained networks and random search already achieve on its search space, and how far training noise lets anything agree with anything; this chapter measures all of it.
#
# | | |
# |---|---|
# | You need | convolutional networks, linear regression, a little probability |
# | To read | 30 minutes |
# | To run | `smoke`: under a minute, offline; `standard`: under a quarter of an hour on two CPU cores, 2 GB of memory |
# | Data | `smoke`: a benchmark of digits that this project trained, shipped with it; `standard`: in addition the tables of NAS-Bench-201 and six [image sets](../book/data.md) |
#
# This chapter has no paper of its own.
# What it tests is folklore: sentences that papers on architecture search lean on.
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
SEEDS = [0]  # seeds of draws: searches, samples of cells, weights of the zoo's networks
DEVICE = "auto"  # auto | cpu | cuda

# %% tags=["imports"]
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr, ndtri, stdtrit

from nbpkg.report import plots, ranking, stats, verdicts
from nbpkg.data import images
from nbpkg.data import nb201
from nbpkg.nb201 import costs, digits, space
from nbpkg.nb201.network import network
from nbpkg.session import Session
from nbpkg.report.stats import kendall_tau_b
from nbpkg.zoo import features, tasks
from nbpkg.zoo.fit import Recipe
from nbpkg.zoo.specs import CellNet
from nbpkg.zoo.train import TrainingJob, train

# %%
s = Session("00_foundations", profile=PROFILE, seeds=SEEDS, device=DEVICE)
plots.theme()
OPS = space.all_ops()  # (15625, 6): every cell there is
LIVE = space.live_edges(OPS)  # (15625, 6): edges on a path from input to output
DEAD, FUNCTION = space.is_dead(OPS), space.function_class(OPS)
FLOPS = costs.costs(OPS)[1]


# %% [markdown]
# The folded cell gathers what was measured: for each data set, validation and test accuracies of all cells, something cheaper, and repeated measurements of the same function.

# %% tags=["hide-input"]
@dataclass
class Bench:
    """What was measured on all cells for one data set; accuracies in percent, (15625,) each."""

    name: str
    valid: np.ndarray
    test: np.ndarray
    cheap: dict  # cheaper measurements of the same cells, larger is better
    values: np.ndarray  # repeated measurements of test accuracy, flat ...
    groups: np.ndarray  # ... and which of them are of the same function
    repeats: int  # so many of them make one entry of `test`


def embedded():
    d = digits.load()
    mean = {split: d.table.accuracy("digits", split, digits.EPOCHS) for split in ("valid", "test")}
    cheap = {"one seed": d.valid[0], "training loss": -d.train_loss[0]}
    once = np.setdiff1d(d.trained, np.flatnonzero(DEAD))  # classes share values: count each once
    groups = np.tile(FUNCTION[once], len(d.seeds))
    return Bench("digits", *mean.values(), cheap, d.test[:, once].ravel(), groups, len(d.seeds))


def published(name):
    valid, test = REAL.accuracy(name, "valid"), REAL.accuracy(name, "test")
    cheap = {"12 epochs": REAL.accuracy(name, "valid", 12)}
    return Bench(name, valid, test, cheap, test[~DEAD], FUNCTION[~DEAD], 1)


NAMES = s.choose(smoke=["digits"], standard=["cifar10", "cifar100", "imagenet16", "digits"])
if NAMES != ["digits"]:
    REAL = nb201.load()
    s.data_used("nb201-joined")
BENCHES = [embedded() if name == "digits" else published(name) for name in NAMES]
MAIN = BENCHES[0]

# %% [markdown]
# Three aims.
# After this chapter you can
#
# 1. encode a cell by hand, count its cost, and say which of the 15,625 cells are the same network;
# 2. judge a ranking: against counts, against the ceiling that training noise sets, and where it matters, among the good cells;
# 3. run and compare searches honestly: chosen by validation, reported by test, paired, over hundreds of runs, next to the exact curve of random search.
#
# The figure shows the object of half the book.
# A cell of NAS-Bench-201 {cite:p}`dong2020nasbench201` has four nodes and an edge between every two; each edge carries one of five operations, and a node is the sum of what arrives.

# %% tags=["method"]
SHORT = {"none": "none", "skip_connect": "skip", "nor_conv_1x1": "1x1", "nor_conv_3x3": "3x3"}
SHORT["avg_pool_3x3"] = "pool"


def drawing(ops):
    """Edges of a cell as (from, to, short name, on a live path); `none` is no edge."""
    return [
        (a, b, SHORT[space.OPS[op]], bool(live))
        for (a, b), op, live in zip(space.EDGES, ops, space.live_edges(ops), strict=True)
        if op != space.NONE
    ]


# %% mystnb={"figure": {"caption": "Four cells, from input (left) to output (right): the best by test accuracy, the worst that still passes something on, one without any path, and one drawn at random. Dotted edges lie on no path from input to output.", "name": "fig-foundations-cells"}, "image": {"alt": "Four graphs of four nodes in a row. The best cell has convolutions on most of its edges and a skip connection from input to output; the worst live cell has only poolings and skip connections on CIFAR-10; the dead cell has dotted edges only, because none of them completes a path; the random cell mixes operations."}} tags=["hide-input"]
EDGE_LOOK = {
    "3x3": (plots.PALETTE[1], "-"),
    "1x1": (plots.PALETTE[0], "-"),
    "pool": (plots.PALETTE[5], "-."),
    "skip": (plots.MUTED, "--"),
}
BEND = {(0, 2): -0.55, (1, 3): 0.55, (0, 3): -0.75}


def draw_cell(ax, ops, title):
    for a, b, name, live in drawing(ops):
        colour, line = EDGE_LOOK[name] if live else (plots.MUTED, ":")
        bend = BEND.get((a, b), 0.0)
        arrow = dict(arrowstyle="->", color=colour, linestyle=line, lw=1.8, shrinkA=8, shrinkB=8)
        arrow["connectionstyle"] = f"arc3,rad={bend}"
        ax.annotate("", (b, 0), (a, 0), arrowprops=arrow)
        height = -bend * (b - a) / 2 + (0.16 if bend == 0 else 0.0)
        ax.text((a + b) / 2, height, name, ha="center", va="center", fontsize=8, color=colour,
                bbox={"facecolor": plots.GROUND, "edgecolor": "none", "pad": 0.5})  # fmt: skip
    for node in range(4):
        ax.text(node, 0, str(node), ha="center", va="center", fontsize=8,
                bbox={"boxstyle": "circle", "facecolor": plots.GROUND, "edgecolor": plots.INK})  # fmt: skip
    ax.set(xlim=(-0.4, 3.4), ylim=(-0.85, 1.4), title=title)
    ax.axis("off")


worst = np.flatnonzero(~DEAD)[MAIN.test[~DEAD].argmin()]
broken = space.encode("|none~0|+|none~0|nor_conv_3x3~1|+|none~0|skip_connect~1|avg_pool_3x3~2|")
shown = {"best": OPS[MAIN.test.argmax()], "worst that is live": OPS[worst], "dead": broken}
shown["random"] = space.random(1, seed=0)[0]
fig, axes = plots.figure(2, 2, width=7.2, height=4.4)
for ax, (title, ops) in zip(axes.flat, shown.items(), strict=True):
    draw_cell(ax, ops, f"{title}: {MAIN.test[space.index(ops)]:.1f} % on {MAIN.name}")
plots.finish(fig)

# %% [markdown]
# ## The question, and what a trivial answer gives
#
# A search method proposes cells.
# To train one takes hours, so papers compare methods on a table in which every cell has been trained once and for all.
# On a table, though, a result is easily overrated: a method that only tells weak cells from sound ones already shows a high rank correlation.
# So the question of this chapter is: *what do answers give that use no learning, or next to none?*
# Every later chapter is measured against them.
#
# The tables are those of NAS-Bench-201 on CIFAR-10, CIFAR-100 {cite:p}`krizhevsky2009` and ImageNet16-120, trained for 200 epochs, and our own embedded benchmark: the same cells in a small network on scikit-learn's 8x8 digits, so that every reader can run every section offline.
# In each of them the *validation* accuracy is what a method may look at, and the *test* accuracy is what is reported.
# No method in this book chooses by test accuracy; it serves only to judge.
#
# The most trivial answer: more multiply-adds (FLOPs) are better.

# %% tags=["nbval-check-output"]
for bench in BENCHES:
    tau = kendall_tau_b(FLOPS, bench.test)
    pick = FLOPS.argmax()
    print(
        f"{bench.name:10} best test accuracy {bench.test.max():6.2f} %   Kendall's tau of FLOPs {tau:.3f}   "
        f"the most expensive cell {bench.test[pick]:6.2f} %"
    )

# %% [markdown]
# Keep these numbers in mind: they cost no training at all.
# A method that trains something has to beat them, and by more than its own spread.
#
# ## By hand: a cell with three operations
#
# Take a 3x3 convolution from node 0 to 1, a 1x1 convolution from 1 to 3, and a skip connection from 0 to 3.
# The benchmark names edges in the order 0-1, 0-2, 1-2, 0-3, 1-3, 2-3 and operations none, skip, 1x1, 3x3, pool as 0 to 4.
# So the cell is $(3, 0, 0, 1, 2, 0)$, and read as a number in base 5 its index is
#
# $$
# i = \sum_{k=1}^{6} o_k\, 5^{\,6-k} = 3 \cdot 3125 + 1 \cdot 25 + 2 \cdot 5 = 9410 .
# $$ (eq-foundations-index)
#
# The network stacks $N$ copies of the cell in each of three stages, of widths $C$, $2C$, $4C$ on maps of side $r$, $r/2$, $r/4$.
# A $k \times k$ convolution from $c$ to $c$ channels on $r^2$ pixels takes $k^2 c^2 r^2$ multiply-adds.
# From stage to stage the width doubles and the side halves, so that $c^2 r^2$ stays the same: a 1x1 convolution anywhere in the cell costs
#
# $$
# c_1 = 3 N C^2 r^2, \qquad \text{a 3x3 convolution } 9 c_1, \qquad c(a) = c_0 + c_1\,\bigl(n_{1\times1} + 9\, n_{3\times3}\bigr),
# $$ (eq-foundations-flops)
#
# with $c_0$ for stem, reductions and classifier, which no cell can change.
# At the benchmark's $C = 16$, $N = 5$, $r = 32$ that is $c_1 = 3 \cdot 5 \cdot 16^2 \cdot 32^2 = 3{,}932{,}160$, and our cell costs $c_0 + 10\, c_1$.

# %% tags=["nbval-check-output"]
hand = np.array([3, 0, 0, 1, 2, 0])
assert space.index(hand) == 3 * 3125 + 25 + 2 * 5 == 9410
assert space.decode(hand) == "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|nor_conv_1x1~1|none~2|"
c1, c0 = 3 * 5 * 16**2 * 32**2, costs.costs(np.zeros(6, int))[1][0]
assert costs.costs(hand)[1][0] == c0 + 10 * c1
print(
    f"index {space.index(hand)}, {costs.costs(hand)[1][0]:,} multiply-adds, of which {c0:,} outside of cells"
)


# %% [markdown]
# One consequence is easily missed.
# With six edges, the 1x1 convolutions together can never outweigh a single 3x3, so $n_{1\times1} + 9\, n_{3\times3}$ orders cells first by their 3x3 and then by their 1x1 convolutions.
# Parameters, with other weights, do the same.
# FLOPs, parameters and the plain count are therefore *one* ranking with few steps, and a paper that shows two of them as two baselines shows one.
#
# The tables at hand carry FLOPs from this same closed form, so comparing with them would prove nothing.
# Instead, real networks are built and what their layers do is counted.

# %%
def counted(ops):
    """Parameters and multiply-adds of the network as built, every layer counted while an image passes."""
    net, total = network(ops, C=16, N=5, keep_dead=True).eval(), [0]

    def count(module, inputs, out):
        area = out[0, 0].numel() if out.ndim == 4 else 1
        total[0] += module.weight.numel() * area

    for module in net.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(count)
    with torch.no_grad():
        net(torch.zeros(1, 3, 32, 32))
    return sum(p.numel() for p in net.parameters()), total[0]


some = space.random(s.choose(smoke=4, standard=30), seed=s.seeds[0])
built = np.array([counted(ops) for ops in some])
wrong = float(np.abs(built - np.stack(costs.costs(some), 1)).max())
s.metric("space/closed-form-error", wrong, low=wrong, high=wrong, n=len(some))
params = costs.costs(OPS)[0]
plain = (OPS == 2).sum(1) + 9 * (OPS == 3).sum(1)
orders_of = len(np.unique(stats.rankdata(np.stack([FLOPS, params, plain])), axis=0))
s.metric("space/rankings-by-cost", orders_of, low=orders_of, high=orders_of, n=len(OPS))
s.say(
    f"In {len(some)} networks, closed form and count differ by {wrong:.0f}. FLOPs take {len(np.unique(FLOPS))} values, "
    f"parameters {len(np.unique(params))}; FLOPs, parameters and the count give {orders_of} different ranking(s)."
)

# %% [markdown]
# ## The space, enumerated
#
# Of $5^6$ ways to write a cell many are the same network: a skip after a convolution is the convolution, an edge that leads nowhere is no edge.
# The benchmark gives each cell a string and counts cells of equal string once; two cells with different strings can still compute the same function, because the string keeps terms that are zero and brackets inside sums.
# These counts are exact, so no uncertainty is attached to them.

# %% tags=["nbval-check-output"]
counts_of = {
    "cells": len(OPS),
    "benchmark-classes": len(np.unique(space.unique_class(OPS))),
    "functions": len(np.unique(FUNCTION)),
    "dead": int(DEAD.sum()),
}
for name, value in counts_of.items():
    paper = {"cells": 15_625, "benchmark-classes": 6_466}.get(name)
    s.metric(f"space/{name}", value, low=value, high=value, n=len(OPS), paper=paper)
sizes = np.bincount(FUNCTION[~DEAD])
fewer = (LIVE.sum(1) < (OPS > 0).sum(1)).mean()
s.say(
    f"{counts_of['cells']:,} cells, {counts_of['benchmark-classes']:,} isomorphism classes of the benchmark, "
    f"{counts_of['functions']:,} functions; {counts_of['dead']} cells pass nothing on. "
    f"Of the live functions, {np.mean(sizes[sizes > 0] == 1):.0%} are written in one way only; the most popular has {sizes.max()} spellings. "
    f"In {fewer:.0%} of the cells some operation is wasted: it lies on no path."
)


# %% [markdown]
# ## How to judge a ranking
#
# | symbol | in code | shape | meaning |
# |---|---|---|---|
# | $a$, $o_k$ | `OPS[i]` | (6,) | a cell, its operations |
# | $\text{valid}$, $\text{test}$ | `bench.valid`, `bench.test` | (15625,) | accuracies in percent |
# | $\tau_b$ | `kendall_tau_b`, `taus` | | agreement of two rankings |
# | $x_a$, $t_a$ | `FEATURES[...]`, `normal_scores` | (15625, d), (k,) | what the ridge reads, what it fits |
# | $y_{gi}$ | `bench.values`, `bench.groups` | (n,) | repeated measurements of function $g$ |
# | $p_j$, $B$ | `p`, `blur` | (bins,), (bins, bins) | shares of true levels, the blur |
# | $R_m$ | `curves[...]` | (runs, steps) | regret after $m$ evaluations |
# | $v_T$, $d_{TT'}$ | `means`, `distances` | (tasks, features), (tasks, tasks) | a task, how far tasks are apart |
#
# **Kendall's tau** {cite:p}`kendall1938` counts pairs of cells.
# With $P$ pairs in the same order, $Q$ in opposite order, and $T_x$, $T_y$ pairs tied in only the one or only the other,
#
# $$
# \tau_b = \frac{P - Q}{\sqrt{(P + Q + T_x)\,(P + Q + T_y)}} .
# $$ (eq-foundations-tau)
#
# It is 1 for the same order, -1 for the opposite and about 0 for an unrelated one; a pair that only one side ties lowers its size, which is right, because a score with few values, such as FLOPs, leaves those pairs undecided.
#
# **Everywhere, and at the top.**
# The global tau is dominated by pairs of very different cells, which are easy to order.
# What a search needs is the order among good cells, so tau is also taken within the best tenth by test accuracy.
#
# **The interval.**
# All cells were trained, so there is no sampling of cells to speak of; but a tau that hangs on a few families of cells is fragile.
# The cells are divided at random into twenty groups, all spellings of a function together, and each group is left out once: the *jackknife*.
#
# $$
# \operatorname{se}^2 = \frac{G-1}{G} \sum_{g=1}^{G} \bigl(\theta_{-g} - \bar\theta\,\bigr)^2, \qquad G = 20,
# $$ (eq-foundations-jackknife)
#
# where $\theta_{-g}$ is the statistic without group $g$ and $\bar\theta$ the mean of these.
# The interval is the statistic plus and minus $\operatorname{se}$ times the 97.5 % quantile of the t distribution with $G - 1$ degrees of freedom.

# %% tags=["method"]
def jackknife(statistic, groups, n_groups=20, seed=0):
    """Equation (eq-foundations-jackknife): (value, low, high), 95 %; statistic of a bool mask of what stays."""
    labels, member = np.unique(groups, return_inverse=True)
    n_groups = min(n_groups, len(labels))
    fold = np.random.default_rng(seed).permutation(len(labels)) % n_groups
    value = statistic(np.ones(len(member), bool))
    left = np.array([statistic(fold[member] != g) for g in range(n_groups)])
    half = stdtrit(n_groups - 1, 0.975) * np.sqrt((n_groups - 1) * left.var())
    return float(value), float(value - half), float(value + half)


def top_tenth(test):
    """Mask of the best tenth, ties with the last of them included."""
    return test >= -np.partition(-test, len(test) // 10 - 1)[len(test) // 10 - 1]


def taus(score, test, groups):
    """Tau among all cells and among the best tenth, each as (value, low, high)."""
    top = top_tenth(test)
    everywhere = jackknife(lambda keep: kendall_tau_b(score[keep], test[keep]), groups)
    good = jackknife(lambda keep: kendall_tau_b(score[keep & top], test[keep & top]), groups)
    return {"all": everywhere, "top": good}


# %% [markdown]
# ## How far counting goes
#
# Four scores without any training: FLOPs; FLOPs of *live* edges only, which forgets convolutions that lie on no path; the number of paths from input to output; and as few poolings as possible.

# %%
PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))  # the four ways from node 0 to node 3, as positions in EDGES
COUNTS = {
    "FLOPs": FLOPS,
    "FLOPs, live edges": costs.costs(OPS, live_only=True)[1],
    "paths": np.sum([(OPS[:, list(path)] > 0).all(1) for path in PATHS], 0),
    "fewest poolings": -(OPS == 4).sum(1),
}

# %% mystnb={"figure": {"caption": "Test accuracy against FLOPs, every cell a dot. FLOPs take few values; the dots are spread a little sideways. The vertical axis leaves out the lowest accuracies. The shaded band is the best tenth.", "name": "fig-foundations-flops"}, "image": {"alt": "One scatter plot for each data set. Dots stand in columns, one for each number of 3x3 convolutions with a few steps inside; on the published data sets the columns rise with FLOPs, but their upper ends soon stop rising, and the best cells lie in several columns; on the digits the columns hardly rise at all."}} tags=["hide-input"]
rows = (len(BENCHES) + 1) // 2
fig, axes = plots.figure(rows, min(2, len(BENCHES)), width=7.6, height=2.8 * rows, squeeze=False)
for ax, bench in zip(axes.flat, BENCHES, strict=True):
    jitter = np.random.default_rng(0).uniform(-1.2, 1.2, len(OPS))
    plots.points(ax, FLOPS / 1e6 + jitter, bench.test, s=3)
    least = bench.test[top_tenth(bench.test)].min()
    ax.axhspan(least, bench.test.max(), color=plots.PALETTE[1], alpha=0.25, lw=0)
    low = np.quantile(bench.test[~DEAD], 0.02)
    ax.set(title=bench.name, xlabel="multiply-adds at C=16, N=5 (millions)", ylabel="test accuracy (%)")
    ax.set_ylim(low, bench.test.max() + 0.03 * (bench.test.max() - low))
plots.finish(fig)


# %% [markdown]
# ## A regression on fifty to two hundred cells
#
# The next step up is to train a few cells and to fit a line.
# With features $x_a$ of a cell and targets $t_a$, ridge regression {cite:p}`hoerl1970` is
#
# $$
# \hat w = \arg\min_w \sum_{a \in \text{trained}} \bigl(t_a - \bar t - (x_a - \bar x)^\top w\bigr)^2 + \lambda \lVert w \rVert^2, \qquad \lambda = 1 .
# $$ (eq-foundations-ridge)
#
# Two choices besides the features cost nothing.
# The targets are normal scores of *ranks*, $t_a = \Phi^{-1}\bigl((r_a - \tfrac12)/k\bigr)$, with $\Phi^{-1}$ the quantile function of the normal distribution and $r_a$ the rank of $a$ among the $k$ trained cells, 1 for the lowest validation accuracy: otherwise a few cells of very low accuracy dominate the fit.
# And a dead edge counts as `none`.
# Features are the five operation counts, thirty indicators of operation and edge, or the indicators together with their products for every two edges.

# %% tags=["method"]
def indicators(ops, live=True, pairs=False):
    """One-hot operations of the edges (n, 30), dead edges as `none`; with products of two edges (n, 405)."""
    ops = np.where(space.live_edges(ops), ops, space.NONE) if live else ops
    hot = (ops[..., None] == np.arange(5)).astype(float)
    if not pairs:
        return hot.reshape(len(ops), 30)
    products = [np.einsum("na,nb->nab", hot[:, i], hot[:, j]) for i in range(6) for j in range(i)]
    return np.concatenate([hot.reshape(len(ops), 30), *(p.reshape(len(ops), 25) for p in products)], 1)


def normal_scores(values):
    """Ranks along the last axis as quantiles of the normal distribution."""
    return ndtri((stats.rankdata(values) - 0.5) / values.shape[-1])


def ridge(x, trained, target, penalty=1.0):
    """Equation (eq-foundations-ridge) for many draws: trained, target (runs, k) -> predictions (runs, cells)."""
    rows = x[trained]
    mean = rows.mean(1, keepdims=True)
    rows = rows - mean
    target = target - target.mean(1, keepdims=True)
    if rows.shape[1] < rows.shape[2]:  # fewer cells than features: the same solution by the k x k system
        gram = rows @ rows.transpose(0, 2, 1) + penalty * np.eye(rows.shape[1])
        weights = np.einsum("rkd,rk->rd", rows, np.linalg.solve(gram, target[..., None])[..., 0])
    else:
        gram = rows.transpose(0, 2, 1) @ rows + penalty * np.eye(rows.shape[2])
        weights = np.linalg.solve(gram, np.einsum("rkd,rk->rd", rows, target)[..., None])[..., 0]
    return weights @ x.T - np.einsum("rd,rd->r", weights, mean[:, 0])[:, None]


# %%
FEATURES = {
    "counts": space.counts(OPS).astype(float),
    "live edges": indicators(OPS),
    "live pairs": indicators(OPS, pairs=True),
}
TRAINED = (50, 100, 200)
DRAWS = s.choose(smoke=5, standard=20)
fitted = {}  # (bench, features, trained) -> tau (draws, 2): everywhere, top tenth
with s.section("ridge"):
    for bench in BENCHES:
        top = top_tenth(bench.test)
        for k in TRAINED:
            rng = np.random.default_rng([s.seeds[0], k])
            picks = np.stack([rng.permutation(len(OPS))[:k] for _ in range(DRAWS * len(s.seeds))])
            targets = {
                "counts, raw target": bench.valid[picks],
                **dict.fromkeys(FEATURES, normal_scores(bench.valid[picks])),
            }
            for name, target in targets.items():
                guess = ridge(FEATURES[name.split(",")[0]], picks, target)
                both = [kendall_tau_b(g, bench.test[None])[0] for g in guess[:, None]]
                good = [kendall_tau_b(g[top], bench.test[top]) for g in guess]
                fitted[bench.name, name, k] = np.stack([both, good], 1)


# %% [markdown]
# Means over draws of the trained cells; the interval of a difference to FLOPs is a *bootstrap* over draws: the draws are drawn again with replacement ten thousand times, and the middle 95 % of the means are kept.

# %% tags=["hide-input"]
def key(name):
    return name.lower().replace(", ", "-").replace(" ", "-")


WHERE = ("all", "top")
score_taus = {}
with s.section("taus"):
    for bench in BENCHES:
        for name, score in COUNTS.items():
            score_taus[bench.name, name] = taus(score, bench.test, FUNCTION)
            for where, (value, low, high) in score_taus[bench.name, name].items():
                s.metric(f"tau/{bench.name}/{key(name)}/{where}", value, low=low, high=high, n=20)
        for (b, name, k), both in fitted.items():
            if b != bench.name:
                continue
            for column, where in enumerate(WHERE):
                mean, low, high = stats.bootstrap_interval(both[:, column], seed=0)
                s.metric(f"tau/{b}/ridge-{key(name)}-{k}/{where}", mean, low=low, high=high, n=len(both))
                gain = both[:, column] - score_taus[b, "FLOPs"][where][0]
                mean, low, high = stats.bootstrap_interval(gain, seed=0)
                s.metric(f"gain/{b}/ridge-{key(name)}-{k}/{where}", mean, low=low, high=high, n=len(both))
metrics = s.record().metrics
BARS = [*COUNTS, "ridge counts 100", "ridge live edges 50", "ridge live edges 100"]
BARS += ["ridge live pairs 100", "ridge live pairs 200"]

# %% mystnb={"figure": {"caption": "Kendall's tau with test accuracy, among all cells (filled) and within the best tenth (hollow). Above the line: no training; below: ridge on ranks after so many trained cells. Intervals: jackknife over functions above, bootstrap over draws below.", "name": "fig-foundations-taus"}, "image": {"alt": "One panel for each data set with a row for each score. Filled dots for all cells: on the published data sets paths and poolings between 0.2 and 0.4, FLOPs between 0.5 and 0.6, FLOPs of live edges somewhat higher, ridge on pairs of live edges highest, near 0.7; on the digits FLOPs near 0.1, paths near 0.3 and the ridges between 0.4 and 0.6. Hollow squares for the best tenth lie to the left of the dots, between 0 and 0.4."}} tags=["hide-input"]
fig, axes = plots.figure(rows, min(2, len(BENCHES)), width=8.2, height=3.3 * rows, squeeze=False, sharey=True)
for ax, bench in zip(axes.flat, BENCHES, strict=True):
    for where, shift, look in (("all", -0.14, "o"), ("top", 0.14, "s")):
        found = [
            metrics[f"tau/{bench.name}/{key(name)}/{where}".replace("ridge ", "ridge-")] for name in BARS
        ]
        colour = plots.PALETTE[0] if where == "all" else plots.PALETTE[1]
        bars = [[m.value - m.low for m in found], [m.high - m.value for m in found]]
        ax.errorbar([m.value for m in found], np.arange(len(BARS)) + shift, xerr=bars, color=colour, marker=look,
                    markerfacecolor=colour if where == "all" else plots.GROUND, linestyle="none", capsize=2,
                    label={"all": "all cells", "top": "best tenth"}[where])  # fmt: skip
    ax.axhline(len(COUNTS) - 0.5, color=plots.RULE, lw=1)
    ax.axvline(0, color=plots.MUTED, lw=0.8)
    ax.set(title=bench.name, xlabel="Kendall's tau", xlim=(-0.3, 1))
    ax.set_yticks(range(len(BARS)), BARS)
    ax.set_ylim(len(BARS) - 0.5, -0.5)
fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
plots.finish(fig)

# %% tags=["hide-input"]
lines = []
for bench in BENCHES:
    top = top_tenth(bench.test)
    for name in ("FLOPs", "FLOPs, live edges"):
        score = COUNTS[name].astype(float)
        share = ranking.precision_at_top(score, bench.test, fraction=0.1)
        regret = [ranking.top_k_regret(score, bench.test, k) for k in (1, 10, 100)]
        s.metric(f"top/{bench.name}/{key(name)}/share", 100 * share, unit="%")
        lines.append(
            f"| {bench.name} | {name} | {100 * share:.0f} % | "
            + " | ".join(f"{r:.2f}" for r in regret)
            + " |"
        )
s.say(
    "Share of a score's best tenth that is in the true best tenth (chance: a tenth), and the regret, in points of accuracy, of the best cell among its first 1, 10 and 100:\n\n"
    "| data set | score | share | regret at 1 | at 10 | at 100 |\n|---|---|---|---|---|---|\n"
    + "\n".join(lines)
)
for bench in BENCHES[:1]:
    raw = fitted[bench.name, "counts, raw target", 100].mean(0)
    ranks = fitted[bench.name, "counts", 100].mean(0)
    edges = fitted[bench.name, "live edges", 100].mean(0)
    s.say(
        f"What the free choices are worth on {bench.name}, 100 trained cells: counts with raw accuracies as targets {raw[0]:.3f}, with ranks {ranks[0]:.3f}, "
        f"live edges with ranks {edges[0]:.3f}; FLOPs alone had {score_taus[bench.name, 'FLOPs']['all'][0]:.3f}."
    )


# %% [markdown]
# ## Noise: how well could anything rank?
#
# Train the same cell twice and two accuracies come out.
# So the table itself is one draw, and no predictor can agree with it perfectly.
# The embedded benchmark has several training seeds to measure this with.
# The real table, which holds means over up to three seeds, has something nicer.
# It contains *the same function under different spellings*, each trained as if it were another cell: twins, whose accuracies differ by training noise alone.
# (Nearly alone: a spelling may carry dead convolutions, which change the count of parameters and the draw of initial weights, but not what the trained cell computes.)
#
# With $n_g$ measurements $y_{gi}$ of function $g$, the noise of one of them has the variance
#
# $$
# \hat\sigma^2 = \frac{\sum_g \sum_i (y_{gi} - \bar y_g)^2}{\sum_g (n_g - 1)},
# $$ (eq-foundations-noise)
#
# and because noise may depend on how good a cell is, it is taken in tenths of $\bar y_g$ as well.

# %% tags=["method"]
def noise(values, groups, levels=10):
    """Equation (eq-foundations-noise), in all and in `levels` bands of the mean: (sd, centres, sds)."""
    _, member = np.unique(groups, return_inverse=True)
    count = np.bincount(member)
    mean = np.bincount(member, values) / count
    squares = np.bincount(member, (values - mean[member]) ** 2)
    several = np.flatnonzero(count > 1)
    bands = np.array_split(several[np.argsort(mean[several], kind="stable")], levels)
    sd = lambda who: np.sqrt(squares[who].sum() / (count[who] - 1).sum())
    centres = np.array([np.average(mean[b], weights=count[b]) for b in bands])
    return sd(several), centres, np.array([sd(b) for b in bands])


def twins(values, groups, rng):
    """Two different measurements of every function that has several: (functions, 2) positions in `values`."""
    order = rng.permutation(len(values))
    order = order[np.argsort(groups[order], kind="stable")]
    first = np.flatnonzero(np.diff(groups[order], prepend=-1))
    first = first[np.diff(np.append(first, len(order))) > 1]
    return np.stack([order[first], order[first + 1]], 1)


# %% [markdown]
# What does the noise allow?
# If the true accuracies $\mu$ of all cells were known, a predictor that returns them would reach $\tau_b(\mu, \mu + \varepsilon)$ with the table $\mu + \varepsilon$, where $\varepsilon$ is the noise; a second table, with independent noise $\varepsilon'$, would reach $\tau_b(\mu + \varepsilon', \mu + \varepsilon)$.
# The true accuracies are unknown, but their distribution is not: it is what, blurred by the noise, gives the observed one.
# Undoing the blur by maximum likelihood has a classic iteration {cite:p}`richardson1972`: with observed shares $h_i$ of bins $i$ and $B_{ij}$ the probability that a cell of true level $j$ is seen in bin $i$, the shares $p_j$ of true levels become
#
# $$
# p_j \leftarrow p_j \sum_i B_{ij}\, \frac{h_i}{\sum_k B_{ik}\, p_k} .
# $$ (eq-foundations-unblur)

# %% tags=["method"]
def unblur(observed, sd_at, bins=600, rounds=40):
    """Equation (eq-foundations-unblur): (levels, their shares p, edges, blur); sd_at gives the noise at a level."""
    at = (1 - np.cos(np.linspace(0, np.pi, bins + 1))) / 2  # finer bins at both ends
    edges = np.quantile(observed, at) + np.linspace(-1e-9, 1e-9, bins + 1)  # ties make no empty bins
    levels = (edges[1:] + edges[:-1]) / 2
    outer = edges.copy()
    outer[0], outer[-1] = -np.inf, np.inf
    blur = np.diff(ndtr((outer[:, None] - levels) / sd_at(levels)), axis=0)
    h = np.histogram(observed, edges)[0] / len(observed)
    p = h + 1e-12
    for _ in range(rounds):
        p = p * (blur.T @ (h / np.maximum(blur @ p, 1e-300)))
    return levels, p / p.sum(), edges, blur


def ceilings(observed, sd_at, rng, repeats=5):
    """Simulated tau of the truth, and of a second table, with the table: {where: (repeats, 2)}."""
    levels, p, edges, _ = unblur(observed, sd_at)
    found = {"all": [], "top": []}
    for _ in range(repeats):
        bin_ = rng.choice(len(levels), len(observed), p=p)
        truth = edges[bin_] + rng.random(len(observed)) * (edges[bin_ + 1] - edges[bin_])
        first, second = truth + sd_at(truth) * rng.standard_normal((2, len(truth)))
        for where, keep in (("all", slice(None)), ("top", top_tenth(first))):
            found[where].append([kendall_tau_b(x[keep], first[keep]) for x in (truth, second)])
    return {where: np.array(v) for where, v in found.items()}


# %%
noises, ceiling, twin_taus = {}, {}, {}
with s.section("noise"):
    for bench in BENCHES:
        overall, centres, sds = noise(bench.values, bench.groups)
        noises[bench.name] = overall, centres, sds
        sd_at = lambda level, c=centres, d=sds, r=bench.repeats: np.interp(level, c, d) / np.sqrt(r)
        rng = np.random.default_rng(s.seeds)
        ceiling[bench.name] = ceilings(bench.test[~DEAD], sd_at, rng, s.choose(smoke=4, standard=8))
        direct, check = [], []
        for _ in range(s.choose(smoke=5, standard=20)):
            a, b = bench.values[twins(bench.values, bench.groups, rng)].T
            top = a >= bench.test[top_tenth(bench.test)].min()
            direct.append([kendall_tau_b(a, b), kendall_tau_b(a[top], b[top])])
        single = lambda level, c=centres, d=sds: np.interp(level, c, d)
        simulated = ceilings(a, single, rng, 3)["all"][:, 1].mean()
        twin_taus[bench.name] = np.array(direct), float(simulated), len(a), int(top.sum())

# %% tags=["hide-input"]
lines = []
for bench in BENCHES:
    name, (overall, centres, sds) = bench.name, noises[bench.name]
    direct, simulated, pairs, top_pairs = twin_taus[name]
    _, low, high = jackknife(lambda keep, b=bench: noise(b.values[keep], b.groups[keep])[0], bench.groups)
    s.metric(f"noise/{name}/sd", overall, low=low, high=high, n=pairs, unit="points")
    good = s.metric(f"noise/{name}/sd-best-level", sds[-1], unit="points")
    for column, where in enumerate(WHERE):
        truth = stats.t_interval(ceiling[name][where][:, 0])
        s.metric(f"ceiling/{name}/truth/{where}", truth.mean, low=truth.low, high=truth.high, n=len(ceiling[name][where]))  # fmt: skip
        s.metric(f"ceiling/{name}/second-table/{where}", ceiling[name][where][:, 1].mean())
        s.metric(f"ceiling/{name}/twins/{where}", direct[:, column].mean())
    s.metric(f"ceiling/{name}/twins-simulated", simulated)
    lines.append(
        f"| {name} | {overall:.2f} | {sds[-1]:.2f} | {direct[:, 0].mean():.3f} ({pairs} pairs) | {simulated:.3f} | "
        f"{ceiling[name]['all'][:, 0].mean():.3f} | {ceiling[name]['top'][:, 0].mean():.3f} |"
    )
s.say(
    "Noise of one measurement in points of test accuracy, over all levels and at the best; tau between twins, and what the simulation says for them; and the ceiling: "
    "tau of a predictor that knows every true accuracy, among live cells and among the table's best tenth.\n\n"
    "| data set | noise (SD) | at the best level | twins, measured | twins, simulated | ceiling, live cells | ceiling, best tenth |\n|---|---|---|---|---|---|---|\n"
    + "\n".join(lines)
)

# %% [markdown]
# Twins measured and twins simulated come by different routes, so their agreement checks the model of the noise.
# The last column is the one to remember: among the best tenth even perfect knowledge does not rank perfectly, and a published tau there must be read against this ceiling, not against 1.
#
# There is one exception.
# A measurement *of the very networks that were tested*, a validation accuracy or a training loss, may exceed the ceiling: it shares the luck of their training.
# It then tells how this training went, not only how good the cell is.
#
# ### The best cell was lucky
#
# The best entry of a table is good *and* lucky.
# The unblurred distribution says roughly how lucky: the mean of the true level given what was seen.
# Regret is measured from the table's best, luck included, as is usual: a search that looks up the table may reach that entry, but the same cell trained anew would fall short of it by about this much on average.

# %% tags=["hide-input"]
for bench in BENCHES:
    _, centres, sds = noises[bench.name]
    sd_at = lambda level, c=centres, d=sds, r=bench.repeats: np.interp(level, c, d) / np.sqrt(r)
    levels, p, _, _ = unblur(bench.test[~DEAD], sd_at)
    best = int(bench.test.argmax())
    density = p * np.exp(-0.5 * ((bench.test[best] - levels) / sd_at(levels)) ** 2) / sd_at(levels)
    luck = bench.test[best] - (density @ levels) / density.sum()
    paper = {"cifar10": 94.3733, "cifar100": 73.5133, "imagenet16": 47.3111}.get(bench.name)
    exact = float(bench.test[best])
    s.metric(f"optimum/{bench.name}", exact, low=exact, high=exact, n=len(OPS), unit="%", paper=paper)
    s.metric(f"optimum/{bench.name}/luck", luck, unit="points")
    spelled = np.sort(bench.test[np.isin(FUNCTION, FUNCTION[best])])[::-1]
    chosen = float(bench.test.max() - bench.test[bench.valid.argmax()])
    s.metric(f"optimum/{bench.name}/regret-of-validation", chosen, low=chosen, high=chosen, n=len(OPS), unit="points")  # fmt: skip
    s.say(
        f"**{bench.name}**: best {exact:.2f} %, of which about {luck:.2f} points are luck; spellings of the same function: "
        + ", ".join(f"{v:.2f}" for v in spelled[:6])
        + f". The best cell by *validation* accuracy is {chosen:.2f} points behind on test."
    )


# %% [markdown]
# ### Cheaper measurements, other data sets
#
# A *fidelity* is a cheaper measurement of the same thing.
# The table holds a training of 12 epochs for every cell, with a schedule of its own; the embedded benchmark has one seed in place of all, and the training loss, whose mean over the epochs is a fidelity that needs no validation images {cite:p}`ru2021tse`.
# And the accuracies of *another data set* are what transfer in this book lives on.
# Rows are what is known, columns what is asked for.

# %% tags=["hide-input"]
def gain_over_flops(score, test, keep):
    flops = COUNTS["FLOPs, live edges"][keep]
    return kendall_tau_b(score[keep], test[keep]) - kendall_tau_b(flops, test[keep])


sources = {f"{b.name}, {name}": (b.name, score) for b in BENCHES for name, score in b.cheap.items()}
sources |= {f"{b.name}, validation": (b.name, b.valid) for b in BENCHES}
lines = {where: [] for where in WHERE}
with s.section("taus"):
    for label, (_, score) in sources.items():
        entries = [taus(score, b.test, FUNCTION) for b in BENCHES]
        for where in WHERE:
            for b, entry in zip(BENCHES, entries, strict=True):
                value, low, high = entry[where]
                s.metric(f"known/{b.name}/{key(label)}/{where}", value, low=low, high=high, n=20)
            lines[where].append(f"| {label} | " + " | ".join(f"{e[where][0]:.3f}" for e in entries) + " |")
        for b in BENCHES:
            gain = jackknife(lambda keep, x=score, t=b.test: gain_over_flops(x, t, keep), FUNCTION)
            s.metric(f"known-minus-live-flops/{b.name}/{key(label)}", gain[0], low=gain[1], high=gain[2], n=20)  # fmt: skip
titles = {"all": "tau, all cells", "top": "tau, best tenth"}
for where in WHERE:
    baseline = " | ".join(f"{score_taus[b.name, 'FLOPs, live edges'][where][0]:.3f}" for b in BENCHES)
    limit = " | ".join(f"{ceiling[b.name][where][:, 0].mean():.3f}" for b in BENCHES)
    s.say(
        f"| {titles[where]} | "
        + " | ".join(f"{b.name}, test" for b in BENCHES)
        + " |\n"
        + "|---" * (len(BENCHES) + 1)
        + "|\n"
        + "\n".join(lines[where])
        + f"\n| *FLOPs, live edges* | {baseline} |\n| *ceiling by noise* | {limit} |"
    )

# %% tags=["hide-input"]
metrics = s.record().metrics
for b in BENCHES:
    first = next(iter(b.cheap))
    value = {label: metrics[f"known/{b.name}/{key(label)}/all"].value for label in sources}
    text = f"**{b.name}**: FLOPs of live edges {score_taus[b.name, 'FLOPs, live edges']['all'][0]:.3f}, "
    text += f"{first} {value[f'{b.name}, {first}']:.3f}"
    others = {o.name: value[f"{o.name}, validation"] for o in BENCHES if o is not b}
    if others:
        best = max(others, key=others.get)
        text += f", the full training on another data set up to {others[best]:.3f} ({best})"
    s.say(f"{text}, its own validation {value[f'{b.name}, validation']:.3f}.")

# %% mystnb={"figure": {"caption": "What stands between a ranking and 1: tau with test accuracy among all cells and among the best tenth. The ceiling is that of a predictor which knows every true accuracy, simulated for live cells; a measurement of the tested networks themselves can exceed it. A marker on the lower edge may lie below zero.", "name": "fig-foundations-ceilings"}, "image": {"alt": "One panel for all cells and one for the best tenth, five markers for each data set. On the published data sets, among all cells, FLOPs of live edges and the cheap measurement lie near 0.6, another data set between 0.8 and 0.9, and the own validation accuracy near the ceiling of about 0.94. On the digits FLOPs and another data set lie below 0.3, and the cheap measurement and the own validation above the ceiling of about 0.7. In the panel of the best tenth the ceiling is below 0.6, and the own validation exceeds it on all but CIFAR-10."}} tags=["hide-input"]
fig, axes = plots.figure(1, 2, width=8.0, height=3.6, sharey=True)
for ax, where in zip(axes, WHERE, strict=True):
    series = {"FLOPs, live edges": [], "cheap measurement": [], "best other data set": []}
    series |= {"own validation": [], "ceiling by noise": []}
    for b in BENCHES:
        series["FLOPs, live edges"].append(score_taus[b.name, "FLOPs, live edges"][where][0])
        series["ceiling by noise"].append(ceiling[b.name][where][:, 0].mean())
        value = lambda label, b=b, w=where: s.record().metrics[f"known/{b.name}/{key(label)}/{w}"].value
        series["cheap measurement"].append(value(f"{b.name}, {next(iter(b.cheap))}"))
        series["own validation"].append(value(f"{b.name}, validation"))
        others = [value(f"{o.name}, validation") for o in BENCHES if o is not b]
        series["best other data set"].append(max(others, default=np.nan))
    for i, (label, values) in enumerate(series.items()):
        how = plots.styles(["flops", "cheap", "mix", "nearest", "oracle"])
        look = list(how.values())[i]
        place = np.arange(len(BENCHES)) + 0.13 * (i - 2)
        ax.plot(place, values, color=look.colour, marker=look.marker, linestyle="none", markersize=8,
                markeredgewidth=2 if look.marker in "_x" else 1, label=label)  # fmt: skip
    ax.set_xticks(range(len(BENCHES)), [b.name for b in BENCHES])
    ax.set(title=titles[where].split(", ")[1], ylabel="Kendall's tau", ylim=(min(0, ax.get_ylim()[0]), 1.02))
    ax.grid(axis="x", visible=False)
axes[0].legend(loc="lower left", fontsize=8)
plots.finish(fig)


# %% [markdown]
# ## Searching the table
#
# A search evaluates cells one after another; an evaluation looks up a validation accuracy.
# After $m$ of them it holds the best by validation, and is judged by the test accuracy of that cell:
#
# $$
# R_m = \max_a \text{test}(a) - \text{test}\bigl(\arg\max_{a \in \{a_1, \dots, a_m\}} \text{valid}(a)\bigr),
# $$ (eq-foundations-regret)
#
# the *regret*, in points.
# It may rise: what validation prefers need not be better on test.
#
# ### Random search, exactly
#
# Random search is the baseline that many published methods failed to beat {cite:p}`li2020random`.
# For it no simulation is needed.
# Sort the $n$ cells by validation accuracy, ascending; the $i$-th is the best of $m$ draws without replacement with probability $\binom{i-1}{m-1} / \binom{n}{m}$, so
#
# $$
# \mathbb{E}\,\text{test}_m = \sum_{i=m}^{n} \frac{\binom{i-1}{m-1}}{\binom{n}{m}}\; \text{test}_{(i)} .
# $$ (eq-foundations-random)

# %% tags=["method"]
def random_exactly(valid, test, steps):
    """Equation (eq-foundations-random) for m = 1..steps: expected test value of what random search holds."""
    n = len(valid)
    ordered = test[np.argsort(valid, kind="stable")]
    below = np.arange(1, n + 1) / n  # P(best of m is at most the i-th) = C(i, m) / C(n, m)
    expected = np.empty(steps)
    for m in range(1, steps + 1):
        expected[m - 1] = ordered @ np.diff(below, prepend=0.0)
        below = below * np.maximum(np.arange(1, n + 1) - m, 0) / max(n - m, 1)
    return expected


def random_orders(runs, steps, n, seed):
    """Random search itself, many runs side by side: (runs, steps) different cells each."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.choice(n, steps, replace=False) for _ in range(runs)])


# %% [markdown]
# ### Regularised evolution
#
# {cite:t}`real2019` keep a population of the $P$ *youngest* cells.
# Each step draws $S$ of them, takes the best as parent, changes one of its edges, and the oldest is dropped.
# Because age alone decides which cell is dropped, the population at any time is simply the last $P$ cells evaluated: no data structure is needed, and all runs go side by side.
# $P = 10$, $S = 3$ are, as far as we know, the benchmark authors' settings; two larger ones are run as well, and the comparison below is with the one that has found the best *validation* accuracy after 100 evaluations, mean over runs.
#
# ### Local search
#
# {cite:t}`white2021local` go without a population.
# From a random cell, evaluate its neighbours, the 24 cells that differ on one edge, in random order; step to the first that is better; when none is left, start again elsewhere.
# We never evaluate a cell twice, and start again at the next new cell of the same run's random order.

# %% tags=["method"]
def evolve(valid, start, steps, near, seed, sample=3):
    """Regularised evolution: start (runs, P) -> cells in order of evaluation (runs, steps), repeats included."""
    rng, runs, size = np.random.default_rng(seed), len(start), start.shape[1]
    order = np.concatenate([start, np.empty((runs, steps - size), np.int64)], 1)
    row = np.arange(runs)
    for step in range(size, steps):
        young = order[:, step - size : step]  # the population: the last P
        drawn = young[row[:, None], rng.integers(size, size=(runs, sample))]
        parent = drawn[row, valid[drawn].argmax(1)]
        order[:, step] = near[parent, rng.integers(near.shape[1], size=runs)]
    return order


def climb(valid, fresh, near, seed):
    """Local search: fresh (runs, steps), each run's random cells -> cells in order of evaluation (runs, steps)."""
    rng, (runs, steps), row = np.random.default_rng(seed), fresh.shape, np.arange(len(fresh))
    known = np.zeros((runs, len(valid)), bool)
    order = np.empty((runs, steps), np.int64)
    at = np.full(runs, -1)  # -1: start somewhere
    for step in range(steps):
        new = ~known[row[:, None], near[at]]
        new[at < 0] = False
        stuck = ~new.any(1)
        neighbour = near[at, np.where(new, rng.random(new.shape), -1).argmax(1)]
        restart = fresh[row, (~known[row[:, None], fresh]).argmax(1)]
        cell = np.where(stuck, restart, neighbour)
        order[:, step], known[row, cell] = cell, True
        at = np.where(stuck | (valid[cell] > valid[at]), cell, at)
    return order


# %% [markdown]
# ### The ridge, as a search
#
# The regression above becomes a search in four lines: evaluate fifty random cells, fit, evaluate the twenty-five of which the fit expects most, fit again.
# It has no acquisition function and no uncertainty.
# A learned search should beat this, and local search too.

# %% tags=["method"]
def ridge_search(valid, fresh, x, first=50, batch=25):
    """Evaluate by predicted rank: fresh (runs, steps), each run's random cells -> order of evaluation (runs, steps)."""
    order, steps = fresh[:, :first], fresh.shape[1]
    while order.shape[1] < steps:
        guess = ridge(x, order, normal_scores(valid[order]))
        np.put_along_axis(guess, order, -np.inf, 1)
        k = min(batch, steps - order.shape[1])
        best = np.argpartition(-guess, k - 1, axis=1)[:, :k]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(guess, best, 1), axis=1), 1)
        order = np.concatenate([order, best], 1)
    return order


# %%
NEAR = space.index(space.neighbours(OPS))  # (15625, 24)
RUNS, STEPS = s.choose(smoke=100, standard=200), 300
SETTINGS = {f"evolution, P={p}, S={k}": (p, k) for p, k in ((10, 3), (30, 10), (100, 25))}
orders, curves, carried = {}, {}, {}
with s.section("searches"):
    for bench in BENCHES:
        found = {}
        for seed in s.seeds:
            fresh = random_orders(RUNS, STEPS, len(OPS), seed)
            runs = {
                name: evolve(bench.valid, fresh[:, :p], STEPS, NEAR, seed, k)
                for name, (p, k) in SETTINGS.items()
            }
            runs |= {"random": fresh, "local search": climb(bench.valid, fresh, NEAR, seed)}
            runs["ridge"] = ridge_search(bench.valid, fresh, FEATURES["live edges"])
            for name, order in runs.items():
                found.setdefault(name, []).append(order)
        found = {name: np.concatenate(parts) for name, parts in found.items()}
        best = max(SETTINGS, key=lambda name: bench.valid[found[name][:, :100]].max(1).mean())
        carried[bench.name], found["evolution"] = best, found[best]
        for name, order in found.items():
            orders[bench.name, name] = order
            curves[bench.name, name] = ranking.regret_curve(
                bench.valid[order], bench.test[order], bench.test.max()
            )
        visited = np.mean([len(np.unique(row)) for row in found["evolution"]])
        print(f"{bench.name:10} {best}, visits {visited:.0f} different cells in {STEPS} evaluations")

# %% mystnb={"figure": {"caption": "Regret on test of the best cell by validation, mean over runs with 95 % bands. The dotted line is the exact curve of random search; the dashed level marks the regret of the validation table's own best cell, where it is not zero. Curves near zero leave a panel at its lower edge.", "name": "fig-foundations-regret"}, "image": {"alt": "One panel for each data set, regret in points on a logarithmic axis against evaluations from 1 to 300. Random search lies on its dotted exact curve and is the slowest after the first tens of evaluations; local search leaves it first, evolution once its population is full; the ridge follows random search up to fifty and drops after its first fit. On ImageNet16 three lines fall below the dashed level, and the ridge rises back to it; on the digits none reaches it."}} tags=["hide-input"]
METHODS = plots.styles(["random", "evolution", "local search", "ridge"])
fig, axes = plots.figure(rows, min(2, len(BENCHES)), width=8.0, height=3.0 * rows, squeeze=False)
for ax, bench in zip(axes.flat, BENCHES, strict=True):
    exact = bench.test.max() - random_exactly(bench.valid, bench.test, STEPS)
    x = np.arange(1, STEPS + 1)
    for name, how in METHODS.items():
        mean, low, high = stats.t_interval(curves[bench.name, name], axis=0)
        ax.plot(
            x, mean, color=how.colour, linestyle=how.line, marker=how.marker, markevery=(20, 40), label=name
        )
        ax.fill_between(x, np.maximum(low, 1e-3), high, color=how.colour, alpha=0.15, lw=0)
    ax.plot(x, exact, color=plots.INK, lw=1, ls=":", label="random, exact")
    limit = bench.test.max() - bench.test[bench.valid.argmax()]
    if limit > 0:
        ax.axhline(limit, color=plots.INK, lw=0.8, ls="--", label="best of validation")
    ax.set(title=bench.name, xlabel="evaluations", ylabel="test regret (points)", yscale="log")
    ax.set_ylim(max(0.02, 0.8 * exact[-1] / 8), 12)
axes[0, 0].legend(fontsize=8)
plots.finish(fig)

# %% [markdown]
# **Paired.**
# Run number $r$ of every method starts from the same random cells, so methods are compared run by run, and luck with the start cancels.
# The interval is a bootstrap over runs; the *permutation test* asks how often flipping the signs of the differences at random gives a mean as large as the observed one.

# %% tags=["hide-input"]
BUDGETS = (50, 100, 200, 300)
PAIRS = [("evolution", "random"), ("local search", "random"), ("local search", "evolution")]
PAIRS += [("ridge", "evolution"), ("ridge", "local search")]
lines = []
for bench in BENCHES:
    for name in METHODS:
        for m in BUDGETS:
            mean, low, high = stats.bootstrap_interval(curves[bench.name, name][:, m - 1], seed=0)
            s.metric(f"regret/{bench.name}/{key(name)}/{m}", mean, low=low, high=high, n=RUNS * len(s.seeds), unit="points")  # fmt: skip
    for one, other in PAIRS:
        text = []
        for m in BUDGETS:
            a, b = curves[bench.name, one][:, m - 1], curves[bench.name, other][:, m - 1]
            r = stats.paired_bootstrap(a, b)
            p = ranking.paired_permutation_test(a, b).p
            s.metric(f"regret-difference/{bench.name}/{key(one)}-minus-{key(other)}/{m}", r.difference, low=r.low, high=r.high, n=r.n, unit="points")  # fmt: skip
            text.append(f"{r.difference:+.2f} [{r.low:+.2f}, {r.high:+.2f}]<br>p = {p:.4f}")
        lines.append(f"| {bench.name} | {one} − {other} | " + " | ".join(text) + " |")
    exact = bench.test.max() - random_exactly(bench.valid, bench.test, STEPS)
    many = random_orders(s.choose(smoke=2000, standard=10_000), 100, len(OPS), s.seeds[0])
    ran = ranking.regret_curve(bench.valid[many], bench.test[many], bench.test.max())[:, -1]
    gap = stats.t_interval(ran - exact[99])
    s.metric(f"random/{bench.name}/simulated-minus-exact-at-100", gap.mean, low=gap.low, high=gap.high, n=len(ran), unit="points")  # fmt: skip
s.say(
    "Differences of test regret in points (negative: the first is better), paired over runs, 95 % interval and p of the permutation test:\n\n"
    "| data set | pair | after " + " | ".join(map(str, BUDGETS)) + " |\n|---|---|" + "---|" * len(BUDGETS) + "\n" + "\n".join(lines)
)  # fmt: skip

# %% [markdown]
# A search that maximises validation accuracy well ends at the cell that is best by validation, and has its regret.
# Where that is not zero, the better searcher can be the worse one in the end: the lines below say where the mean curve of each was lowest.

# %% tags=["hide-input"]
lines = []
for bench in BENCHES:
    for name in METHODS:
        mean = curves[bench.name, name].mean(0)
        lines.append(f"| {bench.name} | {name} | {mean.min():.2f} | {mean.argmin() + 1} | {mean[-1]:.2f} |")
s.say(
    f"| data set | search | lowest mean regret (points) | after | after {STEPS} |\n|---|---|---|---|---|\n"
    + "\n".join(lines)
)

# %% [markdown]
# ## Tasks, seen through features
#
# From here on the book asks what one data set knows about another, so it needs many of them.
# A *task* is cut from an image set: some classes, some images of each, for training, validation and test.
# The classes of every source are dealt into two halves that share none, and tasks of one half never see classes of the other; later chapters meta-train on one side and test on the other.
# A `Collection` refuses to be built when a class is on both sides.

# %%
SOURCES = s.choose(smoke=["digits"], standard=["cifar10", "cifar100", "tiny-imagenet", "mnist", "dtd10", "sign-digits"])  # fmt: skip
PER_HALF, WAYS = s.choose(smoke=3, standard=2), 4
N_TEST = {"cifar10": 100, "mnist": 100, "cifar100": 50, "sign-digits": 40, "dtd10": 24}  # else 20
SIZES = s.choose(
    smoke=lambda source: {"n_train": 30, "n_valid": 20, "n_test": 40, "resolution": 8},
    standard=lambda source: {
        "n_train": 50,
        "n_valid": 40,
        "n_test": N_TEST.get(source, 20),
        "resolution": 16,
    },
)


def cut(source, role, classes):
    """Tasks of different classes of one half of a source."""
    return tasks.sample_tasks(source, role, PER_HALF, classes, WAYS, s.seeds[0], **SIZES(source))


halves = {source: tasks.split_classes(source, {"train": 0.5, "test": 0.5}) for source in SOURCES}
sides = {
    role: tuple(t for source in SOURCES for t in cut(source, role, halves[source][role]))
    for role in ("train", "test")
}
collection = tasks.Collection(train=sides["train"], valid=(), test=sides["test"])
TASKS = collection.tasks
for source in SOURCES:
    if images.load(source).registered:
        s.data_used(images.load(source).registered)
family = np.array([t.source if len(SOURCES) > 1 else f"{t.source}, {t.role} classes" for t in TASKS])
print(f"{len(TASKS)} tasks of {WAYS} classes: " + ", ".join(f"{f} {np.sum(family == f)}" for f in dict.fromkeys(family)))  # fmt: skip


# %% [markdown]
# How alike are two tasks?
# A fixed network turns each image $x$ into features $f(x)$; the task is described by their mean over its images, standardised over tasks,
#
# $$
# v_T = \frac{1}{|\mathcal{S}_T|} \sum_{x \in \mathcal{S}_T} f(x), \qquad d_{TT'} = \lVert v_T - v_{T'} \rVert ,
# $$ (eq-foundations-task)
#
# with $\mathcal{S}_T$ the images of task $T$.
#
# At `standard` the network is EfficientNet-Lite0, a small relative of {cite:t}`tan2019efficientnet` trained on ImageNet; at `smoke`, three levels of random convolutions that need no download.
# Distances become a map by *classical scaling*: with $J = I - \mathbf{1}\mathbf{1}^\top / n$, the two leading eigenvectors of $-\tfrac12 J D^{(2)} J$, scaled by the roots of their eigenvalues, give the plane that best keeps the centred inner products, and with them the distances as far as two axes can.

# %% tags=["method"]
def task_distances(means):
    """Equation (eq-foundations-task): mean features (tasks, d) -> distances (tasks, tasks)."""
    z = (means - means.mean(0)) / (means.std(0) + 1e-9)
    square = (z**2).sum(1)
    return np.sqrt(np.maximum(square[:, None] + square - 2 * z @ z.T, 0))


def scaling(distances):
    """Classical scaling: (n, n) -> coordinates (n, 2) and the share of squared distances that they keep."""
    n = len(distances)
    J = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-0.5 * J @ distances**2 @ J)
    plane = vectors[:, :-3:-1] * np.sqrt(np.maximum(values[:-3:-1], 0))
    return plane, values[-2:].sum() / values[values > 0].sum()


# %%
EXTRACTOR = s.choose(smoke="random-conv", standard="efficientnet-lite0")
with s.section("features"):
    read = features.features_of(TASKS, EXTRACTOR, device=s.device)
means = np.stack([f.mean((0, 1)).numpy() for f in read]).astype(float)
distances = task_distances(means)
plane, kept = scaling(distances)
nearest = (distances + np.diag(np.full(len(TASKS), np.inf))).argmin(1)
hits = family[nearest] == family
chance = np.mean([(np.sum(family == f) - 1) / (len(TASKS) - 1) for f in family])

# %% mystnb={"figure": {"caption": "Tasks on the plane that keeps distances best. Colour and marker: where the classes come from.", "name": "fig-foundations-map"}, "image": {"alt": "Scatter plot of tasks in two dimensions. Tasks of one source lie close together; at the standard profile MNIST and the hand signs lie far from everything else, the textures at the edge of the photographs, and CIFAR-10, CIFAR-100 and Tiny-ImageNet are mixed."}} tags=["hide-input"]
fig, ax = plots.figure(width=6.4, height=4.0)
for name, colour, marker in zip(dict.fromkeys(family), plots.PALETTE, plots.MARKERS, strict=False):
    mine = family == name
    ax.plot(*plane[mine].T, color=colour, marker=marker, linestyle="none", markersize=8, label=name)
ax.set(xlabel="first axis (units of standardised features)", ylabel="second axis")
ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
plots.finish(fig)


# %% tags=["hide-input"]
def share(hits):
    """A share with Wilson's 95 % interval."""
    n, p, z = len(hits), float(np.mean(hits)), 1.96
    middle, half = (p + z * z / (2 * n)) / (1 + z * z / n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return {"value": p, "low": max(0.0, middle - half / (1 + z * z / n)), "high": min(1.0, middle + half / (1 + z * z / n)), "n": n}  # fmt: skip


s.metric("tasks/nearest-is-kin", **share(hits))
s.metric("tasks/nearest-is-kin-minus-chance", **{k: v - chance * (k != "n") for k, v in share(hits).items()})
s.say(
    f"Features: {features.get(EXTRACTOR).description}. The plane keeps {kept:.0%} of the squared distances. "
    f"The nearest task comes from the same place in {hits.sum()} of {len(hits)} tasks; by chance it would in {chance:.0%}."
)

# %% [markdown]
# ## The zoo, seen
#
# A *zoo* is a collection of trained networks: here a handful of cells, each trained on each task, small and trained briefly, but from scratch.
# It is the smallest form of what chapters 2, 5, 6 and 8 are meta-trained on.

# %%
CELLS = np.random.default_rng(12).permutation(np.flatnonzero(~DEAD))[: s.choose(smoke=8, standard=12)]
CELLS = CELLS[np.argsort(FLOPS[CELLS], kind="stable")]
RECIPE = s.choose(smoke=Recipe(epochs=6, batch=32, pad=1), standard=Recipe(epochs=16, batch=32, pad=2))


def train_zoo(seed, cells, zoo_tasks, digests, recipe, width, device, workers):
    """Accuracies in percent of every cell on every task: valid and test, (tasks, cells)."""
    jobs = [TrainingJob(CellNet(int(c), width, 1), t, seed, recipe) for t in zoo_tasks for c in cells]
    trained = train(jobs, device, workers=workers, label="zoo")
    shape = len(zoo_tasks), len(cells)
    return {"valid": trained.valid.reshape(shape), "test": trained.test.reshape(shape)}


with s.section("zoo"):
    zoos = [
        s.memo("zoo", train_zoo, seed=seed, cells=CELLS, zoo_tasks=TASKS, digests=[t.key() for t in TASKS],
               recipe=RECIPE, width=s.choose(smoke=4, standard=8), device=s.device.type, workers=s.choose(smoke=1, standard=2))
        for seed in s.seeds
    ]  # fmt: skip
valid, test = (np.mean([zoo[split] for zoo in zoos], 0) for split in ("valid", "test"))

# %% mystnb={"figure": {"caption": "Rank of each cell on each task by test accuracy, 1 is best. Columns are cells by rising FLOPs, rows are tasks.", "name": "fig-foundations-zoo"}, "image": {"alt": "Heat map with one row for each task and one column for each cell, ordered by FLOPs; colour is the rank of the cell on the task, bright is good. Some columns are bright or dark for most tasks; rows differ in detail."}} tags=["hide-input"]
fig, ax = plots.figure(width=7.4, height=1.4 + 0.19 * len(TASKS))
image = ax.imshow(stats.rankdata(-test), aspect="auto", interpolation="nearest", cmap="viridis_r")
ax.set_yticks(range(len(TASKS)), [t.name for t in TASKS], fontsize=8)
ax.set_xticks(range(len(CELLS)), [f"{x / 1e6:.0f}" for x in FLOPS[CELLS]], fontsize=8)
ax.set(xlabel="cell: multiply-adds at C=16, N=5 (millions)")
ax.grid(False)
fig.colorbar(image, label="rank (1 is best)")
plots.finish(fig)


# %% [markdown]
# Three questions are put to this matrix.
# How far does one task's ranking predict another's?
# Do tasks that are near each other in features agree more?
# And the baseline that a learner of tasks must beat: on a new task, take the cell that was *best on average over the old ones*.
# The old tasks are those of the other half of all classes, so that none shares a class with the new one.

# %% tags=["method"]
def agreement(valid, test):
    """Tau of what task i's validation says of the cells with task j's test accuracies: (tasks, tasks)."""
    n = len(valid)
    return np.array([[kendall_tau_b(valid[i], test[j]) for j in range(n)] for i in range(n)])


def best_on_average(valid, old):
    """The cell of best mean rank over the tasks `old` (a mask): its position."""
    return int(stats.rankdata(valid[old]).mean(0).argmax())


def mantel(distance, likeness, seed=0, n=999):
    """Spearman between nearness and likeness over pairs of tasks, and p by permuting the tasks."""
    rng, upper = np.random.default_rng(seed), np.triu_indices(len(distance), 1)
    score = lambda order: stats.spearman(-distance[np.ix_(order, order)][upper], likeness[upper])
    observed = score(np.arange(len(distance)))
    by_chance = [score(rng.permutation(len(distance))) for _ in range(n)]
    return float(observed), (1 + np.sum(np.array(by_chance) >= observed)) / (n + 1)


# %% tags=["hide-input"]
tau = np.nan_to_num(agreement(valid, test))
off = ~np.eye(len(TASKS), dtype=bool)
kin = family[:, None] == family
own = np.diag(tau)
from_kin = np.array([tau[kin[:, j] & off[:, j], j].mean() for j in range(len(TASKS))])
from_others = np.array([tau[~kin[:, j], j].mean() for j in range(len(TASKS))])
for name, values in {"own-validation": own, "kin": from_kin, "others": from_others}.items():
    mean, low, high = stats.bootstrap_interval(values, seed=0)
    s.metric(f"zoo/tau/{name}", mean, low=low, high=high, n=len(values))
difference = stats.paired_bootstrap(from_kin, from_others)
s.metric("zoo/tau/kin-minus-others", difference.difference, low=difference.low, high=difference.high, n=difference.n)  # fmt: skip
alike = (tau + tau.T) / 2
near_helps, p = mantel(distances, alike)
_, low, high = jackknife(
    lambda keep: mantel(distances[np.ix_(keep, keep)], alike[np.ix_(keep, keep)], n=0)[0],
    np.arange(len(TASKS)),
)
s.metric("zoo/nearness-and-likeness", near_helps, low=low, high=high, n=len(TASKS))
role = np.array([t.role for t in TASKS])
average = np.array([test[j, best_on_average(valid, role != role[j])] for j in range(len(TASKS))])
biggest = test[:, FLOPS[CELLS].argmax()]
oracle = test[np.arange(len(TASKS)), valid.argmax(1)]
for name, other in {"flops": biggest, "random-cell": test.mean(1), "own-validation": oracle}.items():
    r = stats.paired_bootstrap(average, other)
    s.metric(f"zoo/best-on-average-minus-{name}", r.difference, low=r.low, high=r.high, n=r.n, unit="points")
s.say(
    f"Tau of a task's ranking by validation with test accuracies: own {own.mean():.2f}, of a task from the same place {from_kin.mean():.2f}, from elsewhere {from_others.mean():.2f}. "
    f"Nearness in features and agreement of rankings correlate with {near_helps:.2f} over pairs of tasks (p = {p:.3f} by permuting tasks).\n\n"
    f"Test accuracy on a new task, mean of {len(TASKS)}: best on average over old tasks {average.mean():.1f} %, most FLOPs {biggest.mean():.1f} %, "
    f"a random cell {test.mean():.1f} %, the best by the task's own validation, which costs {len(CELLS)} trainings, {oracle.mean():.1f} %."
)

# %% [markdown]
# ## The claims
#
# Each is a sentence of the folklore, sharpened until a rule can judge it.
# *Reproduced* needs the whole interval on the claimed side, *contradicted* the whole interval on the other; a claim about several data sets is judged on each.
#
# *First edition:* verdicts by the first edition's rules; see [Errata](../book/errata.md).

# %% tags=["hide-input"]
B = [b.name for b in BENCHES]
PUBLISHED = [b for b in B if b != "digits"] or B


def claim(id, statement, test, rule, *names, combine=verdicts.each_of):
    s.claim(id, statement, metrics=names, test=test, rule=combine(*(rule(n) for n in names)))


above = lambda than=0.0: lambda name: verdicts.greater(name, than)
below = lambda than=0.0: lambda name: verdicts.smaller(name, than)
least = lambda than: lambda name: verdicts.at_least(name, than)
most = lambda than: lambda name: verdicts.at_most(name, than)
equal = lambda to, by=0.0: lambda name: verdicts.within(name, to, by)

claim("classes", "The space has 6,466 different cells", "exact count", equal(6466), "space/benchmark-classes")
claim("functions", "A quarter of these 6,466 are duplicates as functions", "at most 0.77 of 6,466 functions", most(0.77 * 6466), "space/functions")  # fmt: skip
claim("closed-form", "Costs by closed form are those of the networks as built", "no difference", equal(0), "space/closed-form-error")  # fmt: skip
claim(
    "one-ranking",
    "FLOPs, parameters and the count of convolutions are one baseline, not three",
    "number of different rankings",
    equal(1),
    "space/rankings-by-cost",
)
claim("flops-rank", "FLOPs rank the whole space well", "tau at least 0.5 on each data set", least(0.5), *(f"tau/{b}/flops/all" for b in B))  # fmt: skip
claim("flops-blind", "Among the best tenth FLOPs say next to nothing", "tau at most 0.1 on each data set", most(0.1), *(f"tau/{b}/flops/top" for b in B))  # fmt: skip
claim("ridge-beats-flops", "A ridge on live edges and 100 trained cells ranks the space better than FLOPs", "gain in tau above 0 on each data set", above(), *(f"gain/{b}/ridge-live-edges-100/all" for b in B))  # fmt: skip
claim("ridge-beats-flops-top", "A ridge on live edges and 100 trained cells ranks the best tenth better than FLOPs", "gain in tau above 0 on each data set", above(), *(f"gain/{b}/ridge-live-edges-100/top" for b in B))  # fmt: skip
cheap = [f"known/{b.name}/{key(f'{b.name}, {next(iter(b.cheap))}')}" for b in BENCHES]
claim("cheap-ranks", "A cheaper measurement (12 epochs for 200; on digits, one seed for all) keeps the ranking", "tau at least 0.8 on each data set", least(0.8), *(f"{c}/all" for c in cheap))  # fmt: skip
claim("cheap-beats-counting", "A cheaper measurement ranks better than FLOPs of live edges", "gain in tau above 0 on each data set", above(), *(c.replace("known/", "known-minus-live-flops/") for c in cheap))  # fmt: skip
if len(B) > 1:
    pairs = [f"known/{b}/{key(f'{o}, validation')}/all" for b in PUBLISHED for o in PUBLISHED if o != b]
    claim("data-sets-agree", "A ranking from one of the benchmark's data sets holds on another", "tau at least 0.8 on each pair", least(0.8), *pairs)  # fmt: skip
    pairs = [f"known-minus-live-flops/{b}/{key('digits, validation')}" for b in PUBLISHED]
    claim("digits-transfer", "A ranking from 8x8 digits is better than FLOPs of live edges on the published data sets", "gain in tau above 0 on each data set", above(), *pairs)  # fmt: skip
claim("noise-all", "Training noise hardly limits the ranking of all live cells", "ceiling of tau at least 0.95 on each data set; interval over simulations", least(0.95), *(f"ceiling/{b}/truth/all" for b in B))  # fmt: skip
claim("noise-top", "Training noise limits the ranking of the best tenth a good deal", "ceiling of tau at most 0.8 on each data set; interval over simulations", most(0.8), *(f"ceiling/{b}/truth/top" for b in B))  # fmt: skip
claim("validation-errs", "The best cell by validation is not the best by test", "regret above 0 on each data set", above(), *(f"optimum/{b}/regret-of-validation" for b in B))  # fmt: skip
claim("random-exact", "Simulated random search follows its closed form", "mean regret at 100 within 0.1 points on each data set", equal(0, 0.1), *(f"random/{b}/simulated-minus-exact-at-100" for b in B))  # fmt: skip
difference = lambda pair, m: [f"regret-difference/{b}/{pair}/{m}" for b in B]
for m in (100, 300):
    claim(f"evolution-beats-random-{m}", f"Regularised evolution beats random search at {m} evaluations", "paired difference below 0 on each data set", below(), *difference("evolution-minus-random", m))  # fmt: skip
    claim(f"local-beats-random-{m}", f"Local search beats random search at {m} evaluations", "paired difference below 0 on each data set", below(), *difference("local-search-minus-random", m))  # fmt: skip
claim("local-beats-evolution", "Local search is at least as good as regularised evolution at 300 evaluations", "paired difference at most 0 on each data set", most(0.0), *difference("local-search-minus-evolution", 300))  # fmt: skip
claim("ridge-beats-evolution", "Ours: the ridge as a search beats regularised evolution at 100 evaluations", "paired difference below 0 on each data set", below(), *difference("ridge-minus-evolution", 100))  # fmt: skip
claim("nearest-is-kin", "The nearest task in features comes from the same place more often than by chance", "share minus chance above 0", above(), "tasks/nearest-is-kin-minus-chance")  # fmt: skip
claim("near-transfers", "Near tasks agree more on which cells are good", "rank correlation over pairs above 0, jackknife over tasks", above(), "zoo/nearness-and-likeness")  # fmt: skip
claim("average-beats-flops", "On a new task the cell that was best on average beats the one with most FLOPs", "paired difference above 0, bootstrap over tasks", above(), "zoo/best-on-average-minus-flops")  # fmt: skip
s.claims_table()

# %% [markdown]
# ## Where it breaks
#
# **What counts as good.**
# "The best tenth" is a choice: tau mostly falls from the whole table to its best fifth, and below that it depends on where the line is drawn.
# Dead cells are too few to matter much: the first column leaves them out.

# %% tags=["hide-input"]
lines = []
for bench in BENCHES:
    score, entry = COUNTS["FLOPs, live edges"], []
    entry.append(kendall_tau_b(FLOPS[~DEAD], bench.test[~DEAD]))
    for part in (1.0, 0.5, 0.2, 0.1, 0.05, 0.01):
        keep = np.zeros(len(OPS), bool)
        keep[ranking.top(bench.test, fraction=part)] = True
        entry.append(kendall_tau_b(score[keep], bench.test[keep]))
    lines.append(f"| {bench.name} | " + " | ".join(f"{x:.3f}" for x in entry) + " |")
s.say(
    "Kendall's tau of FLOPs without the dead cells, and of FLOPs on live edges within the best part of the table:\n\n"
    "| data set | FLOPs, live cells only | all | best half | fifth | tenth | twentieth | hundredth |\n|---|---|---|---|---|---|---|---|\n"
    + "\n".join(lines)
)


# %% [markdown]
# **What counts as an evaluation.**
# Evolution pays for cells that it has seen before; a table would answer for free.
# Counted that way its regret after 100 evaluations is no higher, and mostly lower, but the population matters more.
# The setting marked with a star is the one that validation chose above.

# %% tags=["hide-input"]
def without_repeats(order, steps):
    """Each run's different cells in order of first visit, (runs, steps); a run that has fewer repeats its last."""
    out = np.empty((len(order), steps), np.int64)
    for row, visited in zip(out, order, strict=True):
        first = visited[np.sort(np.unique(visited, return_index=True)[1])][:steps]
        row[: len(first)], row[len(first) :] = first, first[-1]
    return out


lines = []
with s.section("searches"):
    for bench in BENCHES:
        fresh = random_orders(RUNS, STEPS, len(OPS), s.seeds[0])
        variants = {"local search": climb(bench.valid, fresh, NEAR, s.seeds[0])}
        for name, (size, sample) in SETTINGS.items():
            longer = evolve(bench.valid, fresh[:, :size], 2 * STEPS, NEAR, s.seeds[0], sample)
            star = " *" if name == carried[bench.name] else ""
            variants[name + star] = longer[:, :STEPS]
            variants[f"{name}, repeats free"] = without_repeats(longer, STEPS)
        for name, order in variants.items():
            r = ranking.regret_curve(bench.valid[order], bench.test[order], bench.test.max()).mean(0)
            lines.append(f"| {bench.name} | {name} | {r[99]:.2f} | {r[STEPS - 1]:.2f} |")
s.say(f"| data set | search | regret after 100 | after {STEPS} |\n|---|---|---|---|\n" + "\n".join(lines))

# %% [markdown]
# **What the tables are.**
# Their accuracies are means over training seeds; a search that pays for one training sees more noise than here.
# The validation accuracies of CIFAR-10 come from networks trained on half of the images, so there "12 epochs against 200" compares two things at once.
# The twins' noise is that of functions with several spellings, mostly simple ones; a cell with six live convolutions has no twin.
#
# **What the zoo is.**
# Small networks, few images, a short schedule: its noise is large, as the tau between a task's own validation and test shows, and what holds here need not hold at full size.
#
# ## Deviations
#
# There is no paper to deviate from; these are the departures from the works whose sentences were tested.

# %% tags=["hide-input"]
s.deviation(
    "Validation accuracies of CIFAR-100 and ImageNet16-120 are derived from two public files (twice the pooled accuracy minus the test accuracy).",
    "none but rounding, as far as the two files describe the same runs",
)
s.deviation(
    "Parameters and FLOPs come from a closed form, not from the benchmark's file.",
    "none: checked on networks as built",
)
s.deviation(
    "Regularised evolution evaluates means over training seeds, for up to 300 evaluations; Real et al. evolved larger cells for thousands.",
    "less noise than in a real search; only the small-budget regime is tested",
)
s.deviation(
    "Local search steps to the first better neighbour and never evaluates a cell twice; White et al. study several variants.",
    "of the same order as their variants",
)
s.deviation(
    "The embedded benchmark trains narrow networks on 8x8 digits, one cell of each function with every seed.",
    "spellings share values, so that its noise is measured between seeds, not between twins",
)
s.deviation(
    "The penalty of the ridge is 1 and is not tuned.",
    "slightly worse than a tuned one; nothing is chosen on test",
)
s.deviations_table()


# %% [markdown]
# ## Exercises
#
# Each exercise has a check that you can run, and a solution.
#
# ### Exercise 1 (★☆☆): expensive and useless
#
# Write down a dead cell with as many multiply-adds as a dead cell can have.

# %% tags=["exercise"]
def costliest_dead():
    """Operations of the cell, six integers."""
    return None  # your code


def check_costliest(function):
    ops = np.asarray(function())
    assert space.is_dead(ops) and costs.costs(ops)[1][0] == FLOPS[DEAD].max()
    return "Exercise 1: correct"


if costliest_dead() is not None:
    print(check_costliest(costliest_dead))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def costliest_dead_solution():
    return [3, 3, 3, 0, 0, 0]  # everything is computed, and nothing reaches the output


print(check_costliest(costliest_dead_solution))


# %% [markdown]
# ### Exercise 2 (★☆☆): tau by its definition
#
# Write equation [](#eq-foundations-tau) with arrays of all pairs.

# %% tags=["exercise"]
def tau_b(x, y):
    """Kendall's tau-b of two arrays (n,), from signs of all differences."""
    return None  # your code


def check_tau(function):
    some = np.random.default_rng(0).permutation(len(OPS))[:300]
    x, y = FLOPS[some], MAIN.test[some]
    assert np.isclose(function(x, y), kendall_tau_b(x, y))
    return "Exercise 2: correct"


if tau_b(np.arange(3), np.arange(3)) is not None:
    print(check_tau(tau_b))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def tau_b_solution(x, y):
    a, b = (np.sign(v[:, None] - v[None, :]) for v in (x.astype(float), y))
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


print(check_tau(tau_b_solution))


# %% [markdown]
# ### Exercise 3 (★★☆): how many draws for a cell of the best hundredth?
#
# Write the probability that $m$ draws without replacement from $n$ cells hold at least one of the best $k$, and find the smallest $m$ that makes it 95 %.

# %% tags=["exercise"]
def hit_probability(n, k, m):
    """Probability of at least one of k among m draws from n."""
    return None  # your code


def check_hit(function):
    n, k = 2000, 20
    draws = random_orders(4000, 150, n, seed=1) < k
    for m in (1, 10, 50, 150):
        assert abs(function(n, k, m) - draws[:, :m].any(1).mean()) < 0.03
    m = next(m for m in range(1, 2000) if function(15_625, 156, m) >= 0.95)
    return f"Exercise 3: correct; {m} draws reach the best hundredth with 95 %"


if hit_probability(2, 1, 1) is not None:
    print(check_hit(hit_probability))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def hit_probability_solution(n, k, m):
    left = np.arange(m)
    return 1 - np.prod((n - k - left) / (n - left))  # every draw misses


print(check_hit(hit_probability_solution))


# %% [markdown]
# ### Exercise 4 (★★☆): hills
#
# Local search ends at a cell with no better neighbour.
# How many such cells are there, and how good is the median one?

# %% tags=["exercise"]
def local_optima(valid, near):
    """Mask (cells,) of cells that no neighbour beats; near (cells, 24) are indices of neighbours."""
    return None  # your code


def check_optima(function):
    mask = function(MAIN.valid, NEAR)
    for cell in np.random.default_rng(0).permutation(len(OPS))[:200]:
        assert mask[cell] == all(MAIN.valid[other] <= MAIN.valid[cell] for other in NEAR[cell])
    alive = mask & ~DEAD
    median = np.median(MAIN.test.max() - MAIN.test[alive])
    return f"Exercise 4: correct; {alive.sum()} live optima, median regret {median:.2f} points"


if local_optima(MAIN.valid, NEAR) is not None:
    print(check_optima(local_optima))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def local_optima_solution(valid, near):
    return valid >= valid[near].max(1)


print(check_optima(local_optima_solution))


# %% [markdown]
# ### Exercise 5 (★★★): a penalty without a test set
#
# The penalty of the ridge was fixed.
# For $\hat t = H t$ with centred rows $x$ and $H = x (x^\top x + \lambda I)^{-1} x^\top + \tfrac{1}{n} \mathbf{1}\mathbf{1}^\top$, the residual of cell $i$ when it is left out of the fit is $(t_i - \hat t_i)/(1 - H_{ii})$, exactly, because the mean is not penalised.
# Write the mean square of these without refitting.

# %% tags=["exercise"]
def leave_one_out(x, t, penalty):
    """Mean squared leave-one-out error of the ridge on rows x (n, d) and targets t (n,)."""
    return None  # your code


def check_left_out(function):
    picks = np.random.default_rng(0).permutation(len(OPS))[:60]
    x, t = FEATURES["live edges"][picks], normal_scores(MAIN.valid[picks])
    for penalty in (0.3, 3.0):
        errors = []
        for i in range(len(picks)):
            rest = np.delete(np.arange(len(picks)), i)
            errors.append(ridge(x, rest[None], t[None, rest], penalty)[0, i] - (t[i] - t[rest].mean()))
        assert np.isclose(function(x, t, penalty), np.mean(np.square(errors)))
    best = min((0.1, 0.3, 1.0, 3.0, 10.0), key=lambda p: function(x, t, p))
    return f"Exercise 5: correct; of the penalties 0.1 to 10, {best} leaves the least"


if leave_one_out(np.eye(3), np.arange(3.0), 1.0) is not None:
    print(check_left_out(leave_one_out))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def leave_one_out_solution(x, t, penalty):
    x, n = x - x.mean(0), len(x)
    H = x @ np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T) + 1 / n
    return np.mean(((t - H @ t) / (1 - np.diag(H))) ** 2)


print(check_left_out(leave_one_out_solution))

# %% [markdown]
# ## Check yourself
#
# 1. Why can FLOPs, parameters and the number of convolutions not be three baselines here?
#
# <details><summary>Answer</summary>
#
# Each is an increasing function of $n_{1\times1} + c\,n_{3\times3}$ with $c > 6$, and with at most six operations all of these order cells alike: first by 3x3, then by 1x1 convolutions.
#
# </details>
#
# 2. Why is a tau of one half over the whole space compatible with a tau near zero among the good cells?
#
# <details><summary>Answer</summary>
#
# Most pairs are of very different cells, often with different numbers of 3x3 convolutions, and are easy to order.
# A score that gets these right and guesses among the rest still has a high global tau.
#
# </details>
#
# 3. Why do twins measure the noise of a table that lists every cell once?
#
# <details><summary>Answer</summary>
#
# Different spellings of one function were trained separately.
# What they compute is the same, so their accuracies differ by the randomness of training and, at most, by what dead weights do to it.
#
# </details>
#
# 4. Why does a regret curve compare methods by test but let them choose by validation?
#
# <details><summary>Answer</summary>
#
# A search that chose by test would report the luck of the test set as skill.
# The price is that the curve need not fall all the way to zero, nor monotonically.
#
# </details>
#
# 5. What does pairing runs by their starting cells buy?
#
# <details><summary>Answer</summary>
#
# Part of the spread between runs is luck with the first cells, the same for both methods of a pair; it cancels in the difference, so the interval is narrower.
#
# </details>
#
# ## Summary
#
# A space of cells is small enough to enumerate, and its tables are measurements with noise.
# Counting multiply-adds ranks all cells of the published tables well, says less among the good ones, and nearly nothing on the digits; the baselines to beat are a ridge on ranks of live edges for a ranking, and local search as well for a search; random search has an exact curve.
# Which sentences of the folklore stood, in short:

# %% tags=["hide-input"]
by_verdict = {}
for one in s.record().claims:
    by_verdict.setdefault(one.verdict, []).append(one.statement)
s.say(
    "\n".join(
        f"- **{verdict}**: " + "; ".join(statements) + "." for verdict, statements in by_verdict.items()
    )
)

# %% [markdown]
# Further reading: the benchmark {cite:p}`dong2020nasbench201` and its older sibling {cite:p}`ying2019nasbench101`, {cite:t}`li2020random` on reproducing searches, {cite:t}`white2021local` on why local search works where noise is low.
#
# ## Run card

# %%
s.finish()
s.run_card()
