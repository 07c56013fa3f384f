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
# # DaSS: which student learns best from this teacher?
#
# ## In short
#
# DRAFT of the second edition: the method cells and their checks. Prose, data, results and exercises are to come.

# %% tags=["parameters"]
PROFILE = "smoke"  # smoke | standard | paper
SEEDS = [0]  # training seeds
DEVICE = "auto"  # auto | cpu | cuda

# %% tags=["imports", "hide-input"]
import math

import numpy as np
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from nbpkg.report.stats import spearman
from nbpkg.zoo.students import FULL, NARROW, SLOTS, STEM, TEACHER, WIDTHS, Students, start

# %% [markdown]
# ### Remapping: the teacher's weights in a student's shape
#
# $$
# R(W) = W_{1:c_{\text{out}},\, 1:c_{\text{in}}}
# $$ (eq-dass-remap)


# %% tags=["method"]
def remap(state, student):
    """Equation (eq-dass-remap): a teacher's weights for nine eighths, by block; absent ones left out."""
    out, before = {k: v for k, v in state.items() if k[:4] in ("stem", "head", "bias")}, STEM
    for block, eighths in enumerate(student):
        if wide := eighths * WIDTHS[block] // FULL:
            out[f"a{block}"] = state[f"a{block}"][:wide, :before]
            out[f"b{block}"] = state[f"b{block}"][:wide, :wide]
            for name in (f"a{block}_norm", f"a{block}_seen", f"b{block}_norm", f"b{block}_seen"):
                out[name] = state[name][:, :wide]
            before = wide
    return out


# %% [markdown]
# ### Distillation
#
# $$
# \mathcal{L}_{\text{KD}} = (1 - \alpha)\, T^2 \operatorname{CE}\!\bigl(\operatorname{softmax}(t / T),\, z / T\bigr) + \alpha \operatorname{CE}(y, z)
# $$ (eq-dass-kd)


# %% tags=["method"]
def kd_loss(z, y, t, T=6.0, alpha=0.5):
    """Equation (eq-dass-kd) for logits z and the teacher's t (n, classes), labels y (n,)."""
    soft = F.cross_entropy(z / T, (t / T).softmax(-1))
    return (1 - alpha) * T**2 * soft + alpha * F.cross_entropy(z, y)


# %% [markdown]
# ### What the predictor reads
#
# $$
# \hat y_\phi(a \mid t) = h_\phi\bigl( \bigl[ E_S(F(\eta; R(\theta_t, a))),\; W_a \operatorname{code}(a),\; E_T(F(\eta; \theta_t)) \bigr] \bigr)
# $$ (eq-dass-predict)
#
# Every weight carries a leading axis of *tasks*, which is one task under one training seed.


# %% tags=["method"]
def code(students):
    """Students (..., 9) as one-hot rows: each block's width, zeros if absent, and each stage's depth."""
    eighths = torch.as_tensor(np.asarray(students))
    widths = eighths[..., None] == torch.arange(NARROW, FULL + 1)
    depths = (eighths.unflatten(-1, (-1, SLOTS)) > 0).sum(-1)[..., None] == torch.arange(1, SLOTS + 1)
    return torch.cat([widths.flatten(-2), depths.flatten(-2)], -1).float()


@torch.no_grad()
def maps(students, state, noise):
    """Last activations of remapped students on one input: (students, C, h, w), as one masked teacher."""
    return Students(students, state).to(noise.device).eval().map(noise)[0]


def init_predictor(generator, C, d, parts="STA", hidden=64):
    """Weights with torch's own initial scale; C: channels of a map, d: numbers of a code."""
    shapes, total = {}, 0
    for who in parts:
        if who == "A":
            shapes |= {"A": (d, hidden), "a": (1, hidden)}
        else:
            shapes |= {f"{who}1": (C // 2, C, 3, 3), f"{who}2": (C, C // 2, 3, 3)}
        total += hidden if who == "A" else C
    shapes |= {"H": (total, hidden), "h": (1, hidden), "O": (hidden, 1), "o": (1, 1)}
    fan_in = {"A": d, "a": d, "H": total, "h": total, "O": hidden, "o": hidden}
    return {
        name: (2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(fan_in.get(name, math.prod(shape[1:])))
        for name, shape in shapes.items()
    }


# %% tags=["method"]
def encode(first, second, x):
    """Two convolutions with stride 2 and the mean, tasks as groups: (tasks, n, C, h, w) -> (tasks, n, C)."""
    tasks = len(x)
    x = x.transpose(0, 1).flatten(1, 2)
    for weight in (first, second):
        x = F.relu(F.conv2d(x, weight.flatten(0, 1), None, 2, 1, 1, tasks))
    return x.mean((2, 3)).unflatten(1, (tasks, -1)).transpose(0, 1)


def predict(phi, codes, own, theirs):
    """Equation (eq-dass-predict): codes (tasks, n, d), maps (tasks, n, C, h, w) and the teachers' (tasks, C, h, w)."""
    read = []
    if "S1" in phi:
        read.append(encode(phi["S1"], phi["S2"], own))
    if "T1" in phi:
        read.append(encode(phi["T1"], phi["T2"], theirs[:, None]).expand(-1, codes.shape[1], -1))
    if "A" in phi:
        read.append(torch.baddbmm(phi["a"], codes, phi["A"]))
    x = torch.tanh(torch.baddbmm(phi["h"], torch.cat(read, -1), phi["H"]))
    return torch.baddbmm(phi["o"], x, phi["O"])[..., 0]


# %% [markdown]
# ### Labels, standardised within the task


# %% tags=["method"]
def standardise(labels, support):
    """Labels (tasks, n) less their task's mean, by its deviation; the teachers' (tasks,) likewise."""
    mean, std = labels.mean(-1, keepdims=True), labels.std(-1, keepdims=True)
    return (labels - mean) / std, (support - mean[..., 0]) / std[..., 0]


# %% [markdown]
# ### One step on the teacher
#
# $$
# \phi' = \phi - \alpha \odot \nabla_\phi \bigl( \hat y_\phi(a_T \mid t) - y_T \bigr)^2
# $$ (eq-dass-inner)


# %% tags=["method"]
def slopes(phi, task, second_order=False):
    """Gradient of the support loss: the teacher, seen as a student, is the only example."""
    y = predict(phi, task["code"][:, None], task["teacher"][:, None], task["teacher"])[:, 0]
    loss = (y - task["support"]).square().sum()
    return torch.autograd.grad(loss, list(phi.values()), create_graph=second_order)


def adapt(phi, alpha, slope):
    """Equation (eq-dass-inner), as new leaves of the graph."""
    moved = zip(phi.items(), alpha.values(), slope, strict=True)
    return {name: (v - a * g).detach().requires_grad_() for (name, v), a, g in moved}


# %% [markdown]
# ### Meta-training
#
# With $q_\tau$ the gradient of the query loss at $\phi'_\tau$, the chain rule through one step is
#
# $$
# \frac{\partial L_\tau}{\partial \phi} = q_\tau - H_\tau\,(\alpha \odot q_\tau), \qquad
# \frac{\partial L_\tau}{\partial \alpha} = -\, g_\tau \odot q_\tau .
# $$ (eq-dass-outer)
#
# $H_\tau$ is the Hessian of a loss on *one* example, so that its product with a vector is nearly free, and the large pass over the queries is an ordinary one.


# %% tags=["method"]
def episode(phi, alpha, task, second_order=True):
    """Equation (eq-dass-outer) for stacked tasks: query losses (tasks,); adds to the gradients in `.grad`."""
    slope = slopes(phi, task, second_order)
    moved = adapt(phi, alpha, slope)
    y = predict(moved, task["codes"], task["own"], task["teacher"])
    losses = (y - task["labels"]).square().mean(-1)
    q = back = torch.autograd.grad(losses.sum(), list(moved.values()))
    if second_order:
        push = torch._foreach_mul([step.detach() for step in alpha.values()], q)
        back = torch._foreach_sub(q, torch.autograd.grad(slope, list(phi.values()), push))
    by_step = torch._foreach_mul(torch._foreach_neg([g.detach() for g in slope]), q)
    for value, grad in zip([*phi.values(), *alpha.values()], [*back, *by_step], strict=True):
        value.grad = grad if value.grad is None else value.grad.add_(grad)
    return losses.detach()


# %% [markdown]
# ### Rivals
#
# NASWOT {cite:p}`mellor2021naswot` counts the linear regions into which a batch falls.


# %% tags=["method"]
class Relus(TorchFunctionMode):
    """Remembers which units every ReLU lets through."""

    def __enter__(self):
        self.seen = []
        return super().__enter__()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function is F.relu:
            self.seen.append(out > 0)
        return out


@torch.no_grad()
def naswot(net, x):
    """log|det K| of each student of a stack, K counting the units on which two images agree: (students,)."""
    with Relus() as relus:
        net(x)
    one = x.new_ones(net.groups * STEM, 1, 1)
    masks = [one, *(net.get_buffer(f"open{slot}")[0] for slot in net.slots for _ in "ab")]
    agree = 0
    for units, mask in zip(relus.seen, masks, strict=True):
        bits = units.double().unflatten(1, (net.groups, -1)).flatten(2).transpose(0, 1)
        open_ = mask.expand(*units.shape[1:]).double().unflatten(0, (net.groups, -1)).flatten(1)[:, None]
        agree = agree + (bits * open_) @ bits.mT + ((1 - bits) * open_) @ (1 - bits).mT
    return torch.linalg.slogdet(agree)[1]


# %% tags=["method"]
def zscore(scores):
    """Scores (..., n) less their mean over students, by their deviation."""
    return (scores - scores.mean(-1, keepdims=True)) / (scores.std(-1, keepdims=True) + 1e-12)


def ridge(x, y, new, penalty):
    """Ridge regression on features x (tasks, n, f), all centred by task: scores of `new` (..., f)."""
    x = (x - x.mean(1, keepdims=True)).reshape(-1, x.shape[-1])
    scale = x.std(0) + 1e-9
    x, y = x / scale, (y - y.mean(1, keepdims=True)).ravel()
    return new / scale @ np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)


def ours(by_ridge, by_regions):
    """Ours: z-scores of ridge on code and costs and of NASWOT of the remapped student, added."""
    return zscore(by_ridge) + zscore(by_regions)


# %% [markdown]
# Counts: the width of the first block, of the narrowest block, weights and multiply-adds.


# %% tags=["method"]
def counts(students, classes=10, resolution=16):
    """First width, narrowest width, weights, multiply-adds of each student: float64 (4, students)."""
    rows = []
    for student in students:
        side, before = resolution // 2, STEM
        weights, work, widths = 27 * STEM, 27 * STEM * side**2, []
        for block, eighths in enumerate(student):
            side = side // 2 if block in (SLOTS, 2 * SLOTS) else side
            if c := eighths * WIDTHS[block] // FULL:
                weights, work = weights + 9 * c * (before + c), work + 9 * c * (before + c) * side**2
                before = c
                widths.append(eighths)
        weights += before * classes
        rows.append((widths[0], min(widths), weights, work + before * classes))
    return np.array(rows, float).T
