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
# # HyperDistill: the hypergradient of a whole trajectory in one product
#
# ## In short
#
# HyperDistill {cite:p}`lee2022hyperdistill` learns hyperparameters, perhaps millions of them, *while* a network trains, after every step.
# It replaces the derivative through the whole past of the training by one product, taken at a weighted mean of the past weights.
#
# HELD_PROSE
#
# ![Diagram: the weights w0 to w4 on a time line; forwards, a running mean w* forgets old weights and one product is taken there; backwards, reverse mode walks through every stored weight.](../book/_assets/hyperdistill-method.svg)
#
# <!-- held -->
# - *Better than nothing?* Not judged yet.
# - *Better than a strong simple rival?* Not judged yet.
# - *Does what is new in it matter?* Not judged yet.
# <!-- /held -->
#
# | | |
# |---|---|
# | You need | PyTorch, the chain rule, gradients of gradients |
# | To read | 30 minutes |
# | To run | `smoke`: under a minute, offline; `standard`: under an hour on two CPU cores, or minutes on a GPU |
# | Data | none to fetch: waves and clusters are drawn |
#
# The cells below show the settings of `smoke`; what is printed is of `standard`, which the run card at the end describes.
#
# After this chapter you can write the derivative of a validation loss through a training run as a sum over its steps, say what each approximation keeps of that sum, and judge one twice: by its angle with the exact derivative, and by what it is worth in meta-training.

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
import time
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from torch.autograd import grad
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from nbpkg import report
from nbpkg.measure.memory import PeakTensors
from nbpkg.report import plots
from nbpkg.report.location import Location
from nbpkg.session import Session

# %% tags=["hide-input"]
s = Session("07_hyperdistill", profile=PROFILE, seeds=SEEDS, device=DEVICE)
plots.theme()
CONFIG = {  # sizes, by profile
    "learners": s.choose(smoke=2, standard=20, paper=100),  # meta-trained a seed and method
    "plan": s.choose(smoke={"episodes": 2, "T": 6}, standard={}),  # else as in the paper
    "waves": s.choose(smoke=20, standard=200, paper=1000),  # to test a learner on
    "problems": s.choose(smoke=4, standard=16),  # of clusters, a seed
    "horizons": s.choose(smoke=(3, 6), standard=(10, 30, 100, 300)),
    "width": s.choose(smoke=8, standard=32),  # of the network whose cost is measured
}

# %% [markdown]
# ## The question, and a trivial answer
#
# Meta-learning in MAML's manner {cite:p}`finn2017maml` learns where training should *start*.
# Many of its relatives learn something that training itself does not touch: lower layers that every task shares (ANIL, {cite:p}`raghu2020anil`), layers that bend the gradients (WarpGrad, {cite:p}`flennerhag2020warpgrad`), weights of examples (MetaWeightNet, {cite:p}`shu2019metaweightnet`), a step size for every weight.
# Call all of these hyperparameters, $\lambda$, and the derivative of a validation loss by them the *hypergradient*.
# The paper wants four things at once: a hypergradient for millions of hyperparameters, after every step of training, in constant memory, that sees further back than one step.
#
# | | many $\lambda$ | every step | constant memory | beyond one step |
# |---|---|---|---|---|
# | forward mode | no | yes | yes | yes |
# | reverse mode | yes | no | no | yes |
# | implicit (Neumann) | yes | partly | yes | if settled |
# | first order (FO), 1-step | yes | yes | yes | no |
# | HyperDistill | yes | yes | yes | yes |
#
# The test bed is the paper's: a wave $y = a \sin(x + b)$ of unknown amplitude and phase, seen at ten points, the *shots*.
# **Quality** is the squared error at other points, of waves that no training saw.
# Three answers need no meta-learning: predict zero, predict the mean of the shots, or fit a ridge regression on random features.


# %% tags=["nbval-check-output"]
def trivial_errors(n, penalty=1e-3, seed=0):
    """Mean squared errors over n waves of three answers without meta-learning."""
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0.1, 5, (n, 1)), rng.uniform(0, np.pi, (n, 1))
    x = rng.uniform(-5, 5, (n, 60))
    y = a * np.sin(x + b)
    hinges = x[..., None] * rng.choice([-1, 1], 100) + rng.uniform(-5, 5, 100)
    seen, other = np.split(np.maximum(hinges, 0) / 10, [10], 1)
    mean = y[:, :10].mean(1, keepdims=True)
    gram = seen @ seen.swapaxes(1, 2) + penalty * np.eye(10)
    fit = np.linalg.solve(gram, (y[:, :10] - mean)[..., None])
    ridge = (other @ seen.swapaxes(1, 2) @ fit)[..., 0] + mean
    guesses = {"zero": 0, "mean of the shots": mean, "ridge on random features": ridge}
    return {name: ((y[:, 10:] - guess) ** 2).mean() for name, guess in guesses.items()}


TRIVIAL = trivial_errors(2000)
print("".join(f"{name:26}{error:.2f}\n" for name, error in TRIVIAL.items()))

# %% [markdown]
# ## By hand: one weight, one hyperparameter
#
# Take the smallest training in which the past matters.
# The training loss is $\frac{k}{2} (w - \lambda)^2$ with curvature $k$.
# One step of size $\eta$ is
#
# $$
# w_t = w_{t-1} - \eta k\, (w_{t-1} - \lambda), \qquad A = \frac{\partial w_t}{\partial w_{t-1}} = 1 - \eta k, \qquad B = \frac{\partial w_t}{\partial \lambda} = \eta k .
# $$ (eq-hd-toy)
#
# What $\lambda$ does to $w_T$ is a sum over steps: how hard it pulls there ($B$), times what survives of the pull ($A$ once for every later step):
#
# $$
# \frac{d w_T}{d\lambda} = \sum_{t=1}^{T} A^{T-t} B = \eta k\, \frac{1 - A^T}{1 - A} = 1 - (1 - \eta k)^T .
# $$ (eq-hd-toysum)
#
# First order says 0, since validation does not mention $\lambda$.
# 1-step says $\eta k$, the last term.
# HyperDistill puts one number $\gamma$ in place of $A$, and needs one product times $\frac{1-\gamma^T}{1-\gamma}$: exact when $\gamma = 1 - \eta k$.
# With two weights of different curvature no single $\gamma$ is, and that is the whole difficulty.

# %% tags=["nbval-check-output"]
lam = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
for k in (1.0, 4.0):
    w = torch.tensor(3.0, dtype=torch.float64)
    for _ in range(20):
        w = w - 0.1 * k * (w - lam)
    exact = grad(w, lam)[0].item()
    assert np.isclose(exact, 1 - (1 - 0.1 * k) ** 20)
    by = {g: 0.1 * k * (1 - g**20) / (1 - g) for g in (0.0, 0.6, 0.9)}
    print(
        f"curvature {k:.0f}: exact {exact:.2f};", *(f"γ = {g}: {v:.2f}" for g, v in by.items())
    )

# %% [markdown]
# ## The method
#
# | symbol | in code | meaning |
# |---|---|---|
# | $\lambda$ | `lam` (learners, m) | hyperparameters, one flat row for every learner |
# | $w_t$ | `w` (learners, tasks, n) | weights after $t$ inner steps |
# | $D_t$ | `batch` | minibatch of step $t$ |
# | $\Phi$ | `step` | one inner step, $w_t = \Phi(w_{t-1}, \lambda; D_t)$ |
# | $\alpha_t$ | `alpha`, like `w` | derivative of the validation loss by $w_t$ |
# | $A_t, B_t$ | never formed | derivatives of $\Phi$ by $w_{t-1}$ and by $\lambda$ |
# | $w^*_t, D^*_t$ | `star` | distilled weight and minibatch |
#
# ### The inner loop
#
# A *learner* is one meta-training; every tensor has an axis of learners in front.
# Losses are *sums* over learners and tasks: the weights of a row touch no other row's loss, so one call of `autograd.grad` gives each row its own gradient.
#
# $$
# v_t = \mu v_{t-1} + \nabla_w \mathcal{L}_{\text{train}}(w_{t-1}, \lambda; D_t), \qquad w_t = \Phi(w_{t-1}, \lambda; D_t) = w_{t-1} - \eta\, v_t .
# $$ (eq-hd-inner)
#
# The velocity $v_{t-1}$ counts as a constant when $\Phi$ is differentiated; the paper does not say what it does with it.


# %% tags=["method"]
def leaves(*values):
    """The values as starting points of a new graph."""
    return [value.detach().requires_grad_() for value in values]


def sgd(train, rate, momentum=0.0):
    """Equation (eq-hd-inner): w, velocity, lam, batch -> the next w, with graph, and velocity."""

    def step(w, velocity, lam, batch):
        (slope,) = grad(train(w, lam, batch), w, create_graph=True)
        velocity = momentum * velocity + slope
        return w - rate * velocity, velocity.detach()

    return step


def log_rates(train, rate):
    """The same without momentum, with a step size for every weight; lam holds their logarithms."""

    def step(w, velocity, lam, batch):
        (slope,) = grad(train(w, lam, batch), w, create_graph=True)
        return w - rate * torch.exp(lam) * slope, velocity

    return step


def roll(step, w, lam, batches):
    """The trajectory w_0, ..., w_T."""
    path, velocity = [w.detach()], torch.zeros_like(w)
    for batch in batches:
        w, velocity = step(*leaves(path[-1]), velocity, lam, batch)
        path.append(w.detach())
    return path


# %% [markdown]
# ### The hypergradient has two parts
#
# The validation loss sees $\lambda$ twice: directly, and through the weights that $\lambda$ has shaped.
#
# $$
# \frac{d \mathcal{L}_{\text{val}}}{d\lambda} = \underbrace{\frac{\partial \mathcal{L}_{\text{val}}}{\partial \lambda}}_{g^{\text{FO}}} + \underbrace{\alpha_T\, \frac{d w_T}{d\lambda}}_{g^{\text{SO}}},
# \qquad \frac{d w_T}{d \lambda} = \sum_{t=1}^{T} A_T A_{T-1} \cdots A_{t+1} B_t .
# $$ (eq-hd-sum)
#
# First order (FO) stops after the first part.
# The second part is the toy's sum.
# Its matrices are never formed: a row $\alpha$ times a Jacobian is one *vector-Jacobian product*, about as dear as two gradients.
# *Reverse mode* is exact: start with $\alpha_T$, add $\alpha B_t$, replace $\alpha$ by $\alpha A_t$, go one step back.
# It needs all weights of the trajectory, and two products a step.


# %% tags=["method"]
def slopes(valid, w, lam):
    """α and the first-order part: the validation loss differentiated by w and by lam."""
    w, lam = leaves(w, lam)
    return grad(valid(w, lam), (w, lam), materialize_grads=True)


def products(step, alpha, w, lam, batch):
    """αA and αB, from one backward pass through one step."""
    w, lam = leaves(w, lam)
    return grad(step(w, 0.0, lam, batch)[0], (w, lam), alpha)


def mixed(step, alpha, w, lam, batch):
    """αB alone."""
    w, lam = leaves(w, lam)
    return grad(step(w, 0.0, lam, batch)[0], lam, alpha)[0]


def reverse(step, alpha, at, lam, batches):
    """The second part of (eq-hd-sum), last term first; at(t) is w_t."""
    total = torch.zeros_like(lam)
    for t in range(len(batches), 0, -1):
        alpha, term = products(step, alpha, at(t - 1), lam, batches[t - 1])
        total = total + term
    return total


# %% [markdown]
# *Forward mode* {cite:p}`franceschi2017` stores no weights: it carries $Z_t = dw_t/d\lambda = A_t Z_{t-1} + B_t$ along, a column for every hyperparameter.
# Here every hyperparameter is a learner of its own, and a product from the right is a derivative of products from the left.


# %% tags=["method"]
def forward(problem, w, lam):
    """dw_T/dλ of one problem, a row for each hyperparameter: (m, n)."""
    many = problem.repeated(lam.shape[1])
    Z, unit = w.new_zeros(lam.shape[1], w.shape[1]), torch.eye(lam.shape[1], dtype=w.dtype)
    unit, velocity = unit.to(w.device), 0.0
    for batch in many.batches:
        w, lams = leaves(w.expand_as(Z), lam.expand(len(Z), -1))
        new, velocity = many.step(w, velocity, lams, batch)
        (left,) = leaves(torch.zeros_like(Z))
        by_w, by_lam = grad(new, (w, lams), left, create_graph=True)
        (Z,) = grad((by_w * Z).sum() + (by_lam * unit).sum(), left)
        w = new.detach()[:1]
    return Z


# %% [markdown]
# `Clusters` is the small problem on which methods are checked and compared: a tanh network on five noisy clusters.
# $\lambda$ is its first layer, as in ANIL, or a log step size for every weight.
# A fifth of the training labels are wrong, those of validation are right.


# %% tags=["method", "hide-input"]
class Clusters:
    """One problem for each of `learners` (integers): data, minibatches, step and losses."""

    def __init__(self, case, learners, T=20, width=16, device="cpu", dtype=torch.float32):
        self.kind, rate, momentum = case
        self.shapes = [(10, width), (1, width), (width, width), (1, width), (width, 5), (1, 5)]
        self.sizes = [a * b for a, b in self.shapes]
        parts = [self.draw(g, T, dtype) for g in generators(learners)]
        x, y, noisy, batches, whole = (
            torch.stack(p).to(device) for p in zip(*parts, strict=True)
        )
        self.x, self.y, self.x_val, self.y_val = x[:, :200], noisy, x[:, 200:], y[:, 200:]
        self.batches = batches.transpose(0, 1)
        first = sum(self.sizes[:2])
        self.lam, self.w = whole[:, :first], whole[:, first:]
        if self.kind == "log rates":
            self.lam, self.w = torch.zeros_like(whole), whole
        self.set_step(rate, momentum)

    def set_step(self, rate, momentum):
        self.rates = rate, momentum
        rule = log_rates if self.kind == "log rates" else partial(sgd, momentum=momentum)
        self.step = rule(self.train, rate)

    def draw(self, g, T, dtype):
        normal = lambda *shape: torch.randn(*shape, generator=g, dtype=dtype)
        y, wrong = torch.randint(5, (600,), generator=g), torch.rand(200, generator=g) < 0.2
        x = normal(5, 10)[y] + normal(600, 10)
        noisy = torch.where(wrong, torch.randint(5, (200,), generator=g), y[:200])
        scale = [a**-0.5 if a > 1 else 0.0 for a, _ in self.shapes]
        whole = [c * normal(n) for c, n in zip(scale, self.sizes, strict=True)]
        batches = torch.rand(T, 200, generator=g).argsort(-1)[:, :50]
        return x, y, noisy, batches, torch.cat(whole)

    def loss(self, w, lam, x, y):
        whole = w if self.kind == "log rates" else torch.cat([lam, w], 1)
        parts = zip(whole.split(self.sizes, 1), self.shapes, strict=True)
        W1, b1, W2, b2, W3, b3 = (part.view(-1, *shape) for part, shape in parts)
        h = torch.tanh(torch.baddbmm(b2, torch.tanh(torch.baddbmm(b1, x, W1)), W2))
        out = torch.baddbmm(b3, h, W3).transpose(1, 2)
        return cross_entropy(out, y, reduction="none").mean(1).sum()

    def train(self, w, lam, batch):
        x = self.x.gather(1, batch[..., None].expand(-1, -1, 10))
        return self.loss(w, lam, x, self.y.gather(1, batch))

    def valid(self, w, lam):
        return self.loss(w, lam, self.x_val, self.y_val)

    def repeated(self, m):
        """This one problem m times."""
        many = object.__new__(Clusters)
        many.kind, many.shapes, many.sizes = self.kind, self.shapes, self.sizes
        many.x, many.y = self.x.expand(m, -1, -1), self.y.expand(m, -1)
        many.batches = self.batches.expand(-1, m, -1)
        many.set_step(*self.rates)
        return many


def generators(learners, stream=0):
    return [torch.Generator().manual_seed(10**8 * stream + learner) for learner in learners]


# %% [markdown]
# Three independent ways to the same number: reverse mode, forward mode, and autograd through the unrolled loop.


# %% tags=["method"]
def unrolled(problem, w, lam, segment=0):
    """The exact hypergradient by autograd through the whole loop; segment: checkpointed."""
    (lam,) = leaves(lam)
    w, velocity, batches = *leaves(w), torch.zeros_like(w), problem.batches

    def run(w, velocity, lam, some):
        for batch in some:
            w, velocity = problem.step(w, velocity, lam, batch)
        return w, velocity

    again = partial(checkpoint, run, use_reentrant=False) if segment else run
    for some in batches.split(segment or len(batches)):
        w, velocity = again(w, velocity, lam, some)
    return grad(problem.valid(w, lam), lam)[0]


# %%
small = Clusters(("first layer", 0.2, 0.0), [0], T=6, width=4, dtype=torch.float64)
path = roll(small.step, small.w, small.lam, small.batches)
alpha, first = slopes(small.valid, path[-1], small.lam)
truth = unrolled(small, small.w, small.lam)
by_reverse = first + reverse(small.step, alpha, path.__getitem__, small.lam, small.batches)
by_forward = first + alpha @ forward(small, small.w, small.lam).T
for found in (by_reverse, by_forward, unrolled(small, small.w, small.lam, 3)):
    assert torch.allclose(found, truth, atol=1e-12)

# %% [markdown]
# ### What rivals keep of the sum
#
# - **FO** keeps nothing, **1-step** {cite:p}`luketina2016` the newest term $\alpha_t B_t$.
# - **DrMAD** {cite:p}`fu2016drmad` walks back as reverse mode does, but stores both ends only and takes a straight line for the path.
# - **Implicit differentiation** {cite:p}`lorraine2020` assumes that the weights have settled, and sums the series at one point:
#
# $$
# g^{\text{SO}}_t \approx \alpha_t \sum_{k=0}^{\infty} A^k B = \alpha_t (I - A)^{-1} B, \qquad A, B \text{ at } (w_t, \lambda, D_t).
# $$ (eq-hd-implicit)
#
# Neumann($k$) stops the sum after $k$ more products; conjugate gradients solve the linear system instead.


# %% tags=["method"]
def neumann(step, alpha, w, lam, batch, terms):
    """Equation (eq-hd-implicit), stopped after `terms` + 1 terms; one graph serves all."""
    w, lam = leaves(w, lam)
    new, total = step(w, 0.0, lam, batch)[0], alpha
    for _ in range(terms):
        (alpha,) = grad(new, w, alpha, retain_graph=True)
        total = total + alpha
    return grad(new, lam, total)[0]


def implicit(step, alpha, w, lam, batch, terms, damping=0.1):
    """Equation (eq-hd-implicit) by conjugate gradients on (1 + damping) I - A."""
    w, lam = leaves(w, lam)
    new, x, r = step(w, 0.0, lam, batch)[0], torch.zeros_like(alpha), alpha
    p = r
    for _ in range(terms):
        Ap = (1 + damping) * p - grad(new, w, p, retain_graph=True)[0]
        length = dot(r, r) / dot(p, Ap).clamp_min(1e-30)
        x, left = x + length * p, r - length * Ap
        p = left + dot(left, left) / dot(r, r).clamp_min(1e-30) * p
        r = left
    return grad(new, lam, x)[0]


def dot(a, b):
    return (a * b).sum(-1, keepdim=True)


def straight(first, last, T):
    """DrMAD's line from w_0 to w_T, a function of t."""
    return lambda t: torch.lerp(first, last, t / T)


# %% [markdown]
# ### Distillation: from a sum to a product
#
# The sum has two troubles: chains of $A$, and Jacobians $B_t$ at places that are long left.
#
# *The first* goes with a bold assumption: the Hessian is near a multiple of the identity, so that $A_t \approx \gamma I$ with one number $\gamma$:
#
# $$
# g^{\text{SO}}_t \approx \sum_{i=1}^{t} \gamma^{t-i}\, \alpha_t B_i .
# $$ (eq-hd-gamma)
#
# Every term uses the *current* $\alpha_t$, so nothing can be added up in advance.
#
# *The second* goes with distillation.
# Ask for the one point $(w^*, D^*)$ whose product agrees best, as a direction, with this sum.
# If the direction $f(w, D)$ of $\alpha_t\, \partial \Phi / \partial \lambda$ is smooth, with constants $K_1$ in $w$ and $K_2$ in $D$, its cosine with the $i$-th term is at least $1 - \frac{K_1^2}{2} \lVert w - w_{i-1} \rVert^2 - \frac{K_2^2}{2} \lVert D - D_i \rVert^2$.
# The sum of these bounds, weighted by $\gamma^{t-i}$, is largest at a weighted mean:
#
# $$
# w^*_t = \frac{\sum_{i=1}^{t} \gamma^{t-i}\, w_{i-1}}{\sum_{i=1}^{t} \gamma^{t-i}}, \qquad w^*_1 = w_0, \qquad w^*_t = p_t\, w^*_{t-1} + (1 - p_t)\, w_{t-1}, \qquad p_t = \frac{\gamma - \gamma^t}{1 - \gamma^t} .
# $$ (eq-hd-mean)
#
# One buffer keeps it up to date.
# The new entry is $w_{t-1}$, where $B_t$ is taken, and never $w_t$; with $\gamma = 0$ this is 1-step.
# Images have no mean, so the distilled minibatch $D^*_t$ is a mixture: a share $p_t$ of $D^*_{t-1}$ stays, the other places are filled from $D_t$.


# %% tags=["method"]
def geometric(gamma, t):
    """1 + γ + ... + γ^(t-1)."""
    return (1 - gamma**t) / (1 - gamma)


def keep_forwards(gamma, t):
    """p_t of (eq-hd-mean): the share of the distilled weight that stays."""
    return (gamma - gamma**t) / (1 - gamma**t)


def distil(star, w, batch, keep, order, mixing=True):
    """The next (w*, D*); order: a permutation of a minibatch's places, the first of which stay."""
    stays = order < round(keep * len(order))
    return torch.lerp(w, star[0], keep), torch.where(
        stays, star[1], batch
    ) if mixing else batch


# %% [markdown]
# ### The length
#
# The second part is added to the first, so its length matters.
# If all terms of [](#eq-hd-gamma) were equal, it would be the norm of one times $\sum_i \gamma^{t-i}$.
# The paper puts a fitted number $\theta$ before that:
#
# $$
# g^{\text{SO}}_t \approx \theta\, \frac{1 - \gamma^t}{1 - \gamma}\, v_t, \qquad v_t = \alpha_t\, \frac{\partial \Phi(w^*_t, \lambda; D^*_t)}{\partial \lambda} .
# $$ (eq-hd-length)
#
# Every fifty episodes one inner loop is run with $\lambda$ held still, and DrMAD walks back from its end.
# After $s$ steps back it holds the second part $g_s$ of the *last $s$ steps*: $T$ pairs of a true length $y_s$ and a predictor $x_s$, and $\theta$ is the slope of a line through the origin.
#
# $$
# x_s = \lVert v_s \rVert\, \frac{1 - \gamma^s}{1 - \gamma}, \qquad y_s = \frac{v_s \cdot g_s}{\lVert v_s \rVert}, \qquad \theta = \frac{x \cdot y}{x \cdot x} .
# $$ (eq-hd-fit)
#
# The distilled weights of this walk *begin* earlier and earlier: the new entry is the oldest and gets the least weight, $p_s = (1 - \gamma^{s-1}) / (1 - \gamma^s)$.
# Taking $p_t$ of [](#eq-hd-mean) here is the easiest mistake of the whole method, and no error message tells.


# %% tags=["method"]
def keep_backwards(gamma, s):
    """The share of the distilled weight that stays in the backward walk."""
    return (1 - gamma ** (s - 1)) / (1 - gamma**s)


def walk_back(step, alpha, at, lam, batches, orders, plan):
    """Rows x_s and y_s of (eq-hd-fit), s = 1, ..., T; at(t) is w_t."""
    T, pulled, total = len(batches), alpha, 0.0
    star = at(T - 1), batches[-1]
    for s in range(1, T + 1):
        w, batch, keep = at(T - s), batches[T - s], keep_backwards(plan.gamma, s)
        pulled, term = products(step, pulled, w, lam, batch)
        total = total + term
        star = distil(star, w, batch, keep, orders[s - 1], plan.mixing)
        v = mixed(step, alpha, star[0], lam, star[1])
        size = v.norm(dim=-1)
        yield size * geometric(plan.gamma, s), (v * total).sum(-1) / size.clamp_min(1e-12)


def fit_length(step, alpha, at, lam, batches, orders, plan):
    """θ of (eq-hd-fit), one for each learner; 1 where the fit makes no sense."""
    rows = walk_back(step, alpha, at, lam, batches, orders, plan)
    x, y = map(torch.stack, zip(*rows, strict=True))
    theta = (x * y).sum(0) / (x * x).sum(0).clamp_min(1e-30)
    return torch.where(theta > 0, theta.clamp(max=10.0), 1.0)


# %% [markdown]
# ## Ours: an adjoint that is carried along and corrected
#
# One product by $\lambda$ throws the other half of its backward pass away: the product by $w$ comes with it.
# Keep a row $u_t$ that estimates $\alpha_t + \alpha_t A_t + \alpha_t A_t A_{t-1} + \dots$, and let each step's product do both, use it and carry it on:
#
# $$
# u_t = \alpha_t + \rho\, \tilde q_t, \qquad g^{\text{SO}}_t \approx u_t B^*_t, \qquad q_{t+1} = u_t A^*_t, \qquad A^*_t, B^*_t \text{ at } (w^*_t, \lambda, D_t).
# $$ (eq-hd-ours)
#
# With $\tilde q_t = q_t$ and $w_{t-1}$ for $w^*_t$ this is the warm-started linear system of SOBA {cite:p}`dagreou2022soba` and AmIGO {cite:p}`arbel2022amigo`, here called *warm start*.
# It adds up *old* validation slopes: $q_t$ was made of $\alpha_{t-1}, \alpha_{t-2}, \dots$, while the true sum wants the current one.
# With momentum the slopes turn fast, and the sum points the wrong way.
# So we measure how much of the old slope the carried row holds, and exchange it for the new one:
#
# $$
# \tilde q_t = q_t + c_t\,(\alpha_t - \alpha_{t-1}), \qquad c_t = \frac{q_t \cdot \alpha_{t-1}}{\alpha_{t-1} \cdot \alpha_{t-1}} \text{, kept between } 0 \text{ and } t - 1 .
# $$ (eq-hd-exchange)
#
# No $\theta$ is fitted and no minibatch distilled: $\rho = 0.95$, and $w^*$ with $\gamma = 0.99$.


# %% tags=["method"]
def exchange(q, old, new, t):
    """Equation (eq-hd-exchange): the part of q that is the old slope becomes the new one."""
    share = dot(q, old) / dot(old, old).clamp_min(1e-30)
    return q + share.clamp(0, t - 1) * (new - old)


def carried(m):
    """Equation (eq-hd-ours) at the moment m after an inner step."""
    t, q = m.t, m.memory.get("q", torch.zeros_like(m.alpha))
    w, rho = m.before, m.plan.rho
    if m.plan.corrected:
        q = exchange(q, m.memory.get("alpha", m.alpha), m.alpha, t)
        w = torch.lerp(w, m.memory.get("star", w), keep_forwards(m.plan.fade, t))
    q, term = products(m.step, m.alpha + rho * q, w, m.lam, m.batches[t - 1])
    m.memory |= {"q": q, "alpha": m.alpha, "star": w}
    return term


# %% [markdown]
# ## Meta-training
#
# After an inner step, every method looks at the same *moment* and says what it adds to $g^{\text{FO}}$.


# %% tags=["method"]
@dataclass(frozen=True)
class Plan:
    """Settings, by default the paper's for waves; those of ours stand last."""

    episodes: int = 30
    T: int = 30
    tasks: int = 10
    points: int = 50  # of validation, a task
    rate: float = 1e-3  # of lam, by Adam
    gamma: float = 0.9
    mixing: bool = True  # D*, not the newest minibatch
    fitted: bool = True  # the length; else 1
    every: int = 50  # episodes between fits of the length
    terms: int = 3  # of Neumann's series and of conjugate gradients
    last: int = 5  # steps after which these two move lam
    rho: float = 0.95
    fade: float = 0.99
    corrected: bool = True


@dataclass
class Moment:
    """What a method may look at after step t; memory is its own, path stores what it asked for."""

    step: object
    t: int
    alpha: torch.Tensor
    before: torch.Tensor  # w_{t-1}
    after: torch.Tensor  # w_t
    lam: torch.Tensor
    batches: torch.Tensor
    plan: Plan
    theta: torch.Tensor = 1.0
    orders: torch.Tensor = None
    path: list = ()
    memory: dict = field(default_factory=dict)


# %% tags=["method"]
def distilled(m):
    """HyperDistill, equations (eq-hd-mean) and (eq-hd-length)."""
    t, gamma, batch = m.t, m.plan.gamma, m.batches[m.t - 1]
    star, keep = m.memory.get("star", (m.before, batch)), keep_forwards(m.plan.gamma, t)
    star = m.memory["star"] = distil(
        star, m.before, batch, keep, m.orders[t - 1], m.plan.mixing
    )
    v = mixed(m.step, m.alpha, star[0], m.lam, star[1])
    length = m.theta * geometric(gamma, t) if m.plan.fitted else 1 / v.norm(dim=-1)
    return torch.as_tensor(length, device=v.device)[..., None] * v


def newest(rule, m):
    return rule(m.step, m.alpha, m.after, m.lam, m.batches[m.t - 1], m.plan.terms)


METHODS = {
    "FO": lambda m: torch.zeros_like(m.lam),
    "1-step": lambda m: mixed(m.step, m.alpha, m.before, m.lam, m.batches[m.t - 1]),
    "Neumann": partial(newest, neumann),
    "implicit": partial(newest, implicit),
    "HyperDistill": distilled,
    "carried": carried,
    "exact": lambda m: reverse(m.step, m.alpha, m.path.__getitem__, m.lam, m.batches[: m.t]),
    "DrMAD": lambda m: reverse(
        m.step, m.alpha, straight(m.path[0], m.after, m.t), m.lam, m.batches[: m.t]
    ),
}


# %% [markdown]
# With $\gamma = 0$ HyperDistill must *be* 1-step, to the last bit; and in the toy, where $A$ is a number, one product with $\gamma = A$ must be the whole sum.

# %%
order = torch.arange(50).expand(6, -1)
see = partial(Moment, small.step, 6, alpha, path[-2], path[-1], small.lam, small.batches)
plain = see(Plan(gamma=0.0), orders=order, path=path)
assert torch.equal(METHODS["HyperDistill"](plain), METHODS["1-step"](plain))
assert torch.allclose(first + METHODS["exact"](plain), truth, atol=1e-12)
toy = sgd(lambda w, lam, batch: (w - lam).square().sum(), 0.1)  # curvature 2, so A = 0.8
lam, ten = torch.full((1, 1), 0.5), torch.zeros(10, 4, dtype=torch.long)
walk, slope = roll(toy, lam + 2.5, lam, ten), torch.full((1, 1), -0.7)
theta = fit_length(
    toy,
    slope,
    straight(walk[0], walk[-1], 10),
    lam,
    ten,
    order[:1].expand(10, -1)[:, :4],
    Plan(gamma=0.8),
)
whole = reverse(toy, slope, walk.__getitem__, lam, ten)
assert torch.allclose(
    theta * geometric(0.8, 10) * mixed(toy, slope, walk[0], lam, ten[0]), whole
)

# %% [markdown]
# The paper's meta-training is a double loop.
# An *episode* takes ten waves, starts them all at $\phi$, and makes $T = 30$ inner steps on ten shots each.
# Online methods move $\lambda$ after every step; implicit ones after the last five, where their assumption is least wrong; *offline* ones once, at the end.
# Then $\phi$ becomes the mean of the tasks' last weights: Reptile {cite:p}`nichol2018reptile` with step size 1.


# %% tags=["method"]
def moves(method, t, plan):
    """Whether the method moves lam after step t."""
    if method in ("frozen", "exact, once"):
        return method != "frozen" and t == plan.T
    return method not in ("Neumann", "implicit") or t > plan.T - plan.last


def episode(problem, w, lam, optimiser, method, moment):
    """T inner steps from w (learners, tasks, n), lam moving on the way: the last w."""
    memory, path, velocity = {}, [w], torch.zeros_like(w)
    rule = method.removesuffix(", once")
    for t, batch in enumerate(problem.batches, 1):
        before, now = w, lam.detach()
        w, velocity = (v.detach() for v in problem.step(*leaves(w), velocity, now, batch))
        path += [w] if rule == "exact" else []
        if moves(method, t, moment.keywords["plan"]):
            alpha, first = slopes(problem.valid, w, now)
            seen = problem.step, t, alpha, before, w, now, problem.batches
            lam.grad = first + METHODS[rule](moment(*seen, path=path, memory=memory))
            optimiser.step()
    return w


# %% tags=["method"]
def refit(problem, w, lam, orders, plan):
    """The length after one inner loop with lam held still."""
    ends = roll(problem.step, w, lam, problem.batches)[:: len(problem.batches)]
    alpha = slopes(problem.valid, ends[1], lam)[0]
    at = straight(*ends, len(problem.batches))
    return fit_length(problem.step, alpha, at, lam, problem.batches, orders, plan)


def meta_train(method, learners, plan, device="cpu"):
    """All learners at once: phi (learners, 101) and lam (learners, 20400)."""
    draws, theta = generators(learners), 1.0
    phi, lam = Waves.start(draws, device)
    optimiser = torch.optim.Adam([lam.requires_grad_()], plan.rate)
    orders = torch.arange(10, device=device).expand(plan.T, -1)  # all see the same ten shots
    for e in range(plan.episodes):
        problem = Waves(draws, plan.tasks, plan.points, plan.T, device)
        w = phi[:, None].expand(-1, plan.tasks, -1)
        if method == "HyperDistill" and e % plan.every == 0:
            theta = refit(problem, w, lam.detach(), orders, plan)
        moment = partial(Moment, plan=plan, theta=theta, orders=orders)
        phi = episode(problem, w, lam, optimiser, method, moment).mean(1)
    return phi, lam.detach()


# %% [markdown]
# ## The data, looked at
#
# A wave has an amplitude from 0.1 to 5 and a phase from 0 to $\pi$; it is seen at ten points between -5 and 5, and judged at others.
# The learner is a network 1-100-100-100-1 with the paper's split: $\lambda$ is its three lower layers, $w$ the last one, so 20,400 hyperparameters serve 101 weights.
# All learners, tasks and points go through each layer in one batched product.


# %% tags=["method", "hide-input"]
class Waves:
    """Ten shots and some validation points of `tasks` waves for every learner."""

    shapes = ((1, 100), (1, 100), (100, 100), (1, 100), (100, 100), (1, 100))
    sizes = tuple(a * b for a, b in shapes)

    def __init__(self, draws, tasks, points, T, device):
        parts = [self.draw(g, tasks, 10 + points) for g in draws]
        x, y = (torch.stack(p).to(device) for p in zip(*parts, strict=True))
        self.x, self.y, self.x_val, self.y_val = (
            x[..., :10],
            y[..., :10],
            x[..., 10:],
            y[..., 10:],
        )
        self.batches = torch.arange(10, device=device).expand(T, 10)
        self.step = sgd(self.train, 0.01, 0.9)

    @staticmethod
    def draw(g, tasks, n):
        u = lambda low, high, n: low + (high - low) * torch.rand(tasks, n, generator=g)
        a, b, x = u(0.1, 5.0, 1), u(0.0, np.pi, 1), u(-5.0, 5.0, n)
        return x, a * torch.sin(x + b)

    @classmethod
    def start(cls, draws, device):
        """PyTorch's default initialisation."""
        u = lambda fan, n, g: (torch.rand(n, generator=g) * 2 - 1) * fan**-0.5
        fans = list(zip((1, 1, 100, 100, 100, 100), cls.sizes, strict=True))
        phi = torch.stack([u(100, 101, g) for g in draws])
        lam = torch.stack([torch.cat([u(f, n, g) for f, n in fans]) for g in draws])
        return phi.to(device), lam.to(device)

    @classmethod
    def predict(cls, w, lam, x):
        """w (learners, tasks, 101), lam (learners, 20400), x (learners, tasks, k) -> like x."""
        parts = zip(lam.split(cls.sizes, 1), cls.shapes, strict=True)
        W1, b1, W2, b2, W3, b3 = (part.view(-1, *shape) for part, shape in parts)
        h = torch.relu(x.flatten(1)[..., None] * W1 + b1)
        h = torch.relu(torch.baddbmm(b2, h, W2))
        h = torch.relu(torch.baddbmm(b3, h, W3)).unflatten(1, x.shape[1:])
        return (h @ w[..., :100, None])[..., 0] + w[..., 100:]

    def train(self, w, lam, batch):
        return (self.predict(w, lam, self.x) - self.y).square().mean(-1).sum()

    def errors(self, w, lam):
        """Mean squared error of every learner at the other points."""
        return (self.predict(w, lam, self.x_val) - self.y_val).square().mean((1, 2))

    def valid(self, w, lam):
        return self.errors(w, lam).sum()


# %% tags=["method", "hide-input"]
def test_errors(phi, lam, learners, waves, plan, stream=1):
    """Errors (learners,) on new waves, at 50 points each, lam held still."""
    problem = Waves(generators(learners, stream), waves, 50, plan.T, phi.device)
    w = roll(problem.step, phi[:, None].expand(-1, waves, -1), lam, problem.batches)[-1]
    with torch.no_grad():
        return problem.errors(w, lam)
