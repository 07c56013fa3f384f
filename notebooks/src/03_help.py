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
# # HELP: latency on a new device from ten measurements
#
# *This chapter is of the first edition: [Errata](../book/errata.md) lists what is known to be wrong or undecided in it.*
#
# **The claim in one sentence.**
# After measuring about ten architectures on a device that it has never seen, a meta-learned predictor ranks the architectures of a search space by latency on that device, with a rank correlation above 0.9 on average {cite:p}`lee2021help`.
#
# | | |
# |---|---|
# | You need | PyTorch, gradients of gradients, rank correlation |
# | To read | 45 minutes |
# | To run | `smoke`: under a minute, offline; `standard`: about half an hour on two CPU cores, 2 GB of memory |
# | Data | `smoke`: latencies that this project measured, shipped with it; `standard`: the HELP authors' tables for [NAS-Bench-201 and FBNet](../book/data.md) |
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

    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", f"nbpkg @ git+{REPOSITORY}"], check=True
    )

# %% tags=["parameters"]
PROFILE = "smoke"  # smoke | standard | paper
SEEDS = [0]  # training seeds
DEVICE = "auto"  # auto | cpu | cuda

# %% tags=["imports"]
import time
from dataclasses import replace

import numpy as np
import torch
from scipy.optimize import nnls

from nbpkg.report import plots, verdicts
from nbpkg import data as files
from nbpkg.data import latency
from nbpkg.data.read import read_metad2a
from nbpkg.nb201 import space as cells
from nbpkg.session import Session
from nbpkg.report.stats import rankdata, spearman

# %%
s = Session("03_help", profile=PROFILE, seeds=SEEDS, device=DEVICE)
plots.theme()
LOOK = {"HELP": "help", "ridge on counts": "ridge", "ridge on costs": "gcn", "source mix": "mix"}
LOOK |= {
    "leave-one-out ridge": "nearest",
    "evidence ridge": "ours",
    "FLOPs": "flops",
    "oracle": "oracle",
}
SPACES = [latency.load(name) for name in s.choose(smoke=["embedded"], standard=["nb201", "fbnet"])]
MAIN = SPACES[0]  # the cell space that most figures show
for space in SPACES:
    if space.data_set:
        s.data_used(space.data_set)

# %% [markdown]
# Three aims.
# After this chapter you can
#
# 1. explain how a device becomes a vector of ten numbers, and a predictor a function of that vector;
# 2. write a second-order inner loop, batched over devices and architectures, and check it against a gradient taken by hand;
# 3. judge a few-shot claim: by the spread over draws, by the measurements that were really spent, and by what a five-line baseline does with them.
#
# The figure shows the question.
# Every dot is one architecture.
# If two devices agreed on what is fast, the dots would lie on a line and there would be nothing to learn.

# %% mystnb={"figure": {"caption": "The same architectures on a source device and on three test devices. Ranks, not milliseconds: 0 is the fastest.", "name": "fig-help-devices"}, "image": {"alt": "Three scatter plots of latency ranks. The horizontal axis is the rank on one training device, the vertical axis the rank on a test device, one panel for each of three; every dot is an architecture."}} tags=["hide-input"]
fig, axes = plots.figure(1, 3, width=7.6, height=2.9, sharex=True, sharey=True)
rank = {d: (rankdata(v) - 1) / (len(v) - 1) for d, v in MAIN.latency.items()}
for ax, device in zip(axes, (MAIN.test[0], MAIN.test[-2], MAIN.test[-1]), strict=True):
    plots.points(ax, rank[MAIN.train[0]], rank[device], s=3)
    ax.set(title=device, xlabel=f"rank on {MAIN.train[0]}")
axes[0].set_ylabel("rank on the device")
plots.finish(fig)


# %% [markdown]
# ## The question, and what a trivial answer gives
#
# Hardware-aware architecture search must know the latency of thousands of architectures on the device where the network will run.
# Measuring them all takes days; a per-device predictor such as BRP-NAS {cite:p}`dudziak2020brpnas` needs hundreds of measurements.
# HELP asks whether other devices, measured long ago, make ten measurements enough.
#
# **Quality** is Spearman's rank correlation between predicted and measured latency over architectures that were not measured, on devices that were in no training set {cite:p}`spearman1904`.
# A rank correlation is blind to units and to any increasing rescaling, so a predictor may answer in any scale.
#
# **The split** is the authors': nine devices to train on, four to choose by, and test devices that nothing is ever chosen on.
# The first architectures of each table form the *support pool*, from which measurements may be taken; the next thousand form the *query pool*, which is predicted.
# In both pools the fastest and the slowest tenth on each device are dropped, because some tables hold absurd extremes.
#
# **The label** of an architecture with latency $\ell$ is scaled by the extremes of the trimmed support pool of its device,
#
# $$
# y = 0.05 + 0.9\, \frac{\ell - \ell_{\min}}{\ell_{\max} - \ell_{\min}},
# $$ (eq-help-label)
#
# so labels of the query pool may fall a little outside of 0.05 to 0.95.
#
# Before any learning: count multiply-adds (FLOPs).
# It costs no measurement at all.
# For cells the counts equal the benchmark's; for FBNet they are computed from the blocks, at the input size and widths that the tables were measured with.

# %% tags=["nbval-check-output"]
def query_truth(space, devices):
    """Latencies in ms of the trimmed query pools, (devices, q), and the pools."""
    pools = space.pools(devices)
    return np.stack([space.latency[d][q] for d, q in zip(devices, pools.query, strict=True)]), pools


for space in SPACES:
    truth, pools = query_truth(space, space.test)
    by_flops = spearman(space.flops[pools.query], truth)
    print(
        f"{space.name}: {len(space)} architectures, {len(space.train)}/{len(space.valid)}/{len(space.test)} devices"
    )
    print(
        "  FLOPs rank: " + ", ".join(f"{d} {r:.3f}" for d, r in zip(space.test, by_flops, strict=True))
    )

# %% [markdown]
# Keep these numbers in mind.
# A method that measures ten architectures has to beat a method that measures none.
#
# ## By hand: one device, one weight
#
# Meta-learning by gradient descent {cite:p}`finn2017maml` looks for a starting point from which one or two gradient steps on a few measurements lead to a good predictor.
# Two losses do this: the *inner* loss is computed on what was measured and moves the weights, the *outer* loss judges the moved weights and trains the starting point.
# One round of both, on a few devices drawn at random, is an *episode*.
# Take the smallest case.
# Latency is $a x$ for an unknown device constant $a$, the predictor is $w x$, and one architecture with $x = 1$ has been measured.
# The inner loss is $(w - a)^2$, so one step of size $\alpha$ gives
#
# $$
# w' = w - 2\alpha\,(w - a), \qquad \frac{\partial w'}{\partial w} = 1 - 2\alpha, \qquad \frac{\partial w'}{\partial \alpha} = -2\,(w - a).
# $$ (eq-help-toy)
#
# The outer loss $(w' - a)^2 = (1-2\alpha)^2 (w-a)^2$ is zero for every device at once when $\alpha = 1/2$: the step size, not the starting point, is what all devices share.
# This is the idea behind learned step sizes.
# The derivative of $w'$ by $w$ needs the second derivative of the inner loss; leaving it out (*first order*) would give 1 in place of $1 - 2\alpha$.

# %% tags=["nbval-check-output"]
w, alpha, a = torch.tensor(3.0, requires_grad=True), torch.tensor(0.2, requires_grad=True), 5.0
(slope,) = torch.autograd.grad((w - a) ** 2, w, create_graph=True)
w_new = w - alpha * slope
by_w, by_alpha = torch.autograd.grad(w_new, (w, alpha))
assert torch.isclose(by_w, 1 - 2 * alpha) and torch.isclose(by_alpha, -2 * (w - a))
print(f"w' = {w_new:.2f},  dw'/dw = {by_w:.2f},  dw'/dalpha = {by_alpha:.2f}")

# %% [markdown]
# ## The method
#
# | symbol | in code | shape | meaning |
# |---|---|---|---|
# | $X$, $A$ | `nodes`, `ADJACENCY` | (m, 9, 8), (9, 9) | one-hot operations of a cell, who gathers from whom |
# | $h$ | `embedding` | (tasks, 10) | the device: ten reference latencies, scaled to 0..1 |
# | $\theta$ | `theta` | dict of (in, out) | weights of the predictor |
# | $\alpha$ | `alpha` | as `theta` | one step size for every weight |
# | $\phi$ | `phi` | dict | the modulator, which bends $\theta$ to the device |
# | $z$ | `z` | (tasks, 603) | what the modulator says about one device |
# | $y$ | `y` | (tasks, k) | labels, equation [](#eq-help-label) |
# | $V_3$ | `V3`, `V3u` | (100, 200) each | rows of $V_3$ that meet the architecture $g$ and the device $u$ |
#
# A *task* $\tau$ is one device.
# Everything below carries a leading axis of tasks, because all tasks of an episode are computed at once.
#
# ### A device is ten latencies
#
# HELP describes a device by the latencies of ten fixed reference architectures, scaled to the unit interval among themselves.
#
# $$
# h = \frac{\ell_{\text{ref}} - \min \ell_{\text{ref}}}{\max \ell_{\text{ref}} - \min \ell_{\text{ref}}} \in [0, 1]^{10}
# $$ (eq-help-embedding)
#
# The scaling throws the device's speed away and keeps its *taste*: which references it finds slow.

# %% mystnb={"figure": {"caption": "Hardware embeddings. A row is a device, a column a reference architecture; brighter is slower. Test devices are marked with a star.", "name": "fig-help-embeddings"}, "image": {"alt": "Heat map with one row for each training, validation and test device and ten columns for the reference architectures; a colour bar gives the scaled latency from 0 to 1."}} tags=["hide-input"]
devices = [*MAIN.train, *MAIN.valid, *MAIN.test]
fig, ax = plots.figure(width=7.2, height=4.6)
image = ax.imshow(MAIN.pools(devices).embedding, aspect="auto", interpolation="nearest")
ax.set_yticks(range(len(devices)), [d + (" *" if d in MAIN.test else "") for d in devices])
ax.set(xlabel="reference architecture", xticks=range(10))
ax.grid(False)
fig.colorbar(image, label="scaled latency")
plots.finish(fig)

# %% [markdown]
# ### A cell is a graph of operations
#
# A cell of NAS-Bench-201 {cite:p}`dong2020nasbench201` has six edges, each carrying one of five operations.
# HELP turns operations into nodes: an input node, the six operations, an output node, and a ninth *global* node that gathers from all others.
# Layer $l$ of the graph network {cite:p}`kipf2017gcn` is
#
# $$
# H^{(l)} = \operatorname{relu}\!\left(A H^{(l-1)} W_l + b_l\right), \qquad H^{(0)} = X, \qquad g = H^{(4)}_{\text{global}},
# $$ (eq-help-gcn)
#
# and row $v$ of $A$ has ones where node $v$ gathers: at its predecessors and at itself.
# The adjacency is derived from the edges, not typed, and is the same for all cells.

# %% tags=["method"]
ADJACENCY = np.eye(9)
ADJACENCY[:8, :8] += cells.line_graph().T  # row v gathers what enters v
ADJACENCY[8, :8] = 1  # the global node gathers everything


def nodes(ops):
    """One-hot nodes (m, 9, 8) of cells `ops` (m, 6): input, the five operations, output, global."""
    one_hot = np.zeros((len(ops), 9, 8))
    one_hot[:, [0, 7, 8], [0, 6, 7]] = 1
    one_hot[np.arange(len(ops))[:, None], np.arange(1, 7), 1 + ops] = 1
    return one_hot


def encode_plainly(theta, ops):
    """Equation (eq-help-gcn) as it stands, for one task: (m, 6) -> (m, 100)."""
    adjacency = torch.as_tensor(ADJACENCY, dtype=theta["W1"].dtype)
    h = torch.as_tensor(nodes(ops), dtype=theta["W1"].dtype)
    for layer in "1234":
        h = torch.relu(adjacency @ h @ theta["W" + layer] + theta["b" + layer])
    return h[:, 8]


# %% [markdown]
# ### The same result for less work
#
# An episode encodes 210 cells for each of 8 devices, and each device has weights of its own.
# Three facts save most of the arithmetic, and none changes the result by more than rounding.
#
# - The input node looks the same in every cell.
#   The nodes of the edges 0-1, 0-2 and 0-3 see only the input and their own operation: five states.
#   The nodes of 1-2 and 1-3 see in addition the operation on 0-1: twenty-five states.
#   These **31 shared states** are computed once per task, whatever the number of cells.
# - Only the edge 2-3, the output and the global node differ from cell to cell: three rows in place of nine.
# - The last layer is read at the global node alone, so the rows are summed *before* the multiplication by $W_4$.
#
# What a cell gathers from the shared states is a matrix of small counts, `gather`, fixed for each cell; among its own three rows each also gathers those before it.

# %% tags=["method"]
N_SHARED = 31  # 1 input + 5 first operations + 25 pairs


class CellGraphs:
    """Tables over all cells `ops` (n, 6), from which a batch of indices (tasks, m) is gathered at once."""

    def __init__(self, ops, device="cpu"):
        ops = np.asarray(ops, np.int64)
        first, second = np.divmod(
            np.arange(25), 5
        )  # pair p: operation `first` on 0-1, `second` after it
        self_loops = np.eye(N_SHARED)
        self_loops[1:6, 0] = 1  # a first operation gathers from the input
        self_loops[6 + np.arange(25), 1 + first] = 1  # and a pair from its first operation
        x = np.eye(8)
        shared = self_loops @ np.concatenate([x[:1], x[1:6], x[1 + second]])  # A X of the shared states
        own = (ADJACENCY @ nodes(ops))[:, [6, 7, 8]]  # A X of edge 2-3, output, global
        pair_12, pair_13 = 6 + 5 * ops[:, 0] + ops[:, 2], 6 + 5 * ops[:, 0] + ops[:, 4]
        one = np.eye(N_SHARED)
        into_23 = one[1 + ops[:, 1]] + one[pair_12]
        into_out = one[1 + ops[:, 3]] + one[pair_13]
        gather = np.stack([into_23, into_out, one[0] + one[1 + ops[:, 0]] + into_23 + into_out], 1)
        arrays = shared, self_loops, own, gather
        self.shared, self.self_loops, self.own, self.gather = (
            torch.as_tensor(a, dtype=torch.float32, device=device) for a in arrays
        )

    def __call__(self, index):
        """Everything `encode_cells` needs for cells `index` (tasks, m)."""
        tasks, m = index.shape
        stack = lambda table: table[index].transpose(1, 2).reshape(tasks, 3 * m, -1)
        first = torch.cat([self.shared.expand(tasks, -1, -1), stack(self.own)], 1)
        return first, self.self_loops.expand(tasks, -1, -1), stack(self.gather)


# %% tags=["method"]
def linear(x, weight, bias):
    """(tasks, m, in) x (tasks, in, out) + (tasks, 1, out): every task has its own weights."""
    return torch.baddbmm(bias, x, weight)


def encode_cells(theta, batch):
    """Equation (eq-help-gcn) for stacked tasks, over shared states: -> (tasks, m, 100)."""
    # Rows: the 31 shared states, then m of the edge 2-3, m outputs, m global nodes.
    gathered, self_loops, gather = batch
    m = gather.shape[1] // 3
    for layer in "123":
        h = torch.relu(linear(gathered, theta["W" + layer], theta["b" + layer]))
        shared, edge, out, whole = h.split(
            [N_SHARED, m, m, m], 1
        )  # one split: its backward is one concatenation
        if layer == "3":
            break
        own = torch.cat([edge, edge + out, edge + out + whole], 1)
        gathered = torch.cat([torch.bmm(self_loops, shared), torch.baddbmm(own, gather, shared)], 1)
    gathered = torch.baddbmm(edge + out + whole, gather[:, 2 * m :], shared)  # sum first, multiply after
    return torch.relu(linear(gathered, theta["W4"], theta["b4"]))


# %% [markdown]
# FBNet {cite:p}`wu2019fbnet` is a chain of 22 layers with nine choices each, the ninth being a skip.
# HELP encodes a layer by kernel size and expansion, and the chain by two ordinary layers.

# %% tags=["method"]
class Chains:
    """FBNet architectures `ops` (n, 22) as vectors (n, 132): kernel 3, kernel 5, e1, e1 with two groups, e3, e6."""

    def __init__(self, ops, device="cpu"):
        ops = np.asarray(ops)
        kernel, expansion = np.divmod(ops, 4)
        bits = [kernel == 0, kernel == 1, *(expansion == e for e in range(4))]
        vectors = np.stack(bits, -1) & (ops < 8)[..., None]  # the ninth choice is all zero
        self.table = torch.as_tensor(vectors.reshape(len(ops), -1), dtype=torch.float32, device=device)

    def __call__(self, index):
        return self.table[index]


def encode_chains(theta, vectors):
    """(tasks, m, 132) -> (tasks, m, 100)."""
    h = torch.relu(linear(vectors, theta["W1"], theta["b1"]))
    return torch.relu(linear(h, theta["W2"], theta["b2"]))


ENCODERS = {"cell": (CellGraphs, encode_cells), "chain": (Chains, encode_chains)}

# %% [markdown]
# ### The predictor
#
# Architecture $g$ and device $h$ meet in a small head:
#
# $$
# f_\theta(g, h) = r\bigl(r([g, u] V_3 + v_3) V_4 + v_4\bigr) V_5 + v_5, \qquad u = r\bigl(r(h U_1 + c_1) U_2 + c_2\bigr), \qquad r = \operatorname{relu}.
# $$ (eq-help-head)
#
# The device's half of $V_3$ is multiplied once per task and not once per architecture.
# Initial values are the authors': small uniform numbers in the graph layers, PyTorch's defaults elsewhere.

# %% tags=["method"]
GRAPH_WIDTHS, CHAIN_WIDTHS, Z = (8, 100, 100, 100, 100), (132, 100, 100), 603


def init_predictor(kind, generator, embedding=True):
    """Weights of the predictor: 123,001 numbers for cells, 115,201 for chains."""
    uniform = lambda bound, *shape: (torch.rand(*shape, generator=generator) * 2 - 1) * bound
    theta, widths = {}, GRAPH_WIDTHS if kind == "cell" else CHAIN_WIDTHS
    for layer, (n_in, n_out) in enumerate(zip(widths[:-1], widths[1:], strict=True), 1):
        w, b = (0.05, 0.1) if kind == "cell" else (n_in**-0.5, n_in**-0.5)
        theta[f"W{layer}"], theta[f"b{layer}"] = uniform(w, n_in, n_out), uniform(b, 1, n_out)
    fan = 200 if embedding else 100
    if embedding:
        theta |= {"U1": uniform(0.1**0.5, 10, 100), "c1": uniform(0.1**0.5, 1, 100)}
        theta |= {"U2": uniform(0.1, 100, 100), "c2": uniform(0.1, 1, 100)}
        theta["V3u"] = uniform(fan**-0.5, 100, 200)
    theta |= {"V3": uniform(fan**-0.5, 100, 200), "v3": uniform(fan**-0.5, 1, 200)}
    theta |= {"V4": uniform(200**-0.5, 200, 200), "v4": uniform(200**-0.5, 1, 200)}
    return theta | {"V5": uniform(200**-0.5, 200, 1), "v5": uniform(200**-0.5, 1, 1)}


def predict(theta, batch, embedding, encode):
    """Equation (eq-help-head) for stacked tasks: embedding (tasks, 10) -> predictions (tasks, m)."""
    bias = theta["v3"]
    if "V3u" in theta:
        u = torch.relu(linear(embedding[:, None], theta["U1"], theta["c1"]))
        u = torch.relu(linear(u, theta["U2"], theta["c2"]))
        bias = linear(u, theta["V3u"], bias)
    h = torch.relu(linear(encode(theta, batch), theta["V3"], bias))
    h = torch.relu(linear(h, theta["V4"], theta["v4"]))
    return linear(h, theta["V5"], theta["v5"]).squeeze(-1)


def stacked(theta, tasks):
    """The same weights for every task, (…) -> (tasks, …), without copying."""
    return {name: value.expand(tasks, *value.shape) for name, value in theta.items()}


# %% [markdown]
# A check before going on: the fast encoder against the plain one, and the sizes against the paper's code.

# %%
generator = torch.Generator().manual_seed(0)
theta = init_predictor("cell", generator)
some = torch.randint(len(MAIN), (2, 30), generator=generator)
if MAIN.kind == "cell":
    fast = encode_cells(stacked(theta, 2), CellGraphs(MAIN.ops)(some))
    slow = torch.stack([encode_plainly(theta, MAIN.ops[index]) for index in some])
    assert torch.allclose(fast, slow, rtol=1e-4, atol=1e-6)
sizes = {kind: sum(v.numel() for v in init_predictor(kind, generator).values()) for kind in ENCODERS}
assert sizes == {"cell": 123_001, "chain": 115_201}


def seconds_of(function, repeats=3):
    """The least of some repetitions: what the work takes when nothing else interferes."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


if MAIN.kind == "cell":
    index = torch.randint(len(MAIN), (8, 210), generator=generator)
    graphs, weights = CellGraphs(MAIN.ops), stacked(theta, 8)
    plain = seconds_of(lambda: [encode_plainly(theta, MAIN.ops[i]) for i in index])
    shared = seconds_of(lambda: encode_cells(weights, graphs(index)))
    print(f"8 tasks of 210 cells: plain {1000 * plain:.0f} ms, shared states {1000 * shared:.0f} ms")


# %% [markdown]
# ### The modulator: a starting point for each device
#
# One starting point for all devices is a compromise.
# A small network reads $h$ and returns a Gaussian $q$ over 603 numbers $z$, which scale the weights of the head and shift its biases a little:
#
# $$
# \begin{aligned}
# q_\phi(z \mid h) &= \mathcal{N}\bigl(\mu_\phi(h), \operatorname{diag} \sigma_\phi^2(h)\bigr), \\
# V_j &\leftarrow V_j \odot (1 + 0.01\, z_j), \qquad v_j \leftarrow v_j + 0.01\, z_{b,j}, \qquad j = 3, 4, 5.
# \end{aligned}
# $$ (eq-help-modulator)
#
# $z_3$ and $z_4$ scale the 200 output units of their layers, $z_5$ the 200 inputs of the last, and $z_{b,j}$ is one number for a whole bias vector: $3 \cdot 200 + 3 = 603$.
# $\sigma$ is a softplus of the network's second half.
# Training draws $z = \mu + \sigma \odot \varepsilon$ with standard normal $\varepsilon$, so that gradients reach $\phi$; the test uses $z = \mu$.
# The noise, and a penalty that keeps $q$ near the standard normal, stop the modulator from memorising nine devices:
#
# $$
# \operatorname{KL}\bigl(q \,\|\, \mathcal{N}(0, I)\bigr) = \sum_i \Bigl[ \tfrac12 \left(\sigma_i^2 + \mu_i^2 - 1\right) - \log \sigma_i \Bigr].
# $$ (eq-help-kl)

# %% tags=["method"]
def init_modulator(generator):
    """A hidden layer of 10; the output holds 603 means and 603 raw deviations."""
    bound = 10**-0.5
    shapes = {"P1": (10, 10), "p1": (10,), "P2": (10, 2 * Z), "p2": (2 * Z,)}
    return {k: (torch.rand(*shape, generator=generator) * 2 - 1) * bound for k, shape in shapes.items()}


def posterior(phi, embedding):
    """Mean and standard deviation of q(z | h): two (tasks, 603)."""
    out = torch.relu(embedding @ phi["P1"] + phi["p1"]) @ phi["P2"] + phi["p2"]
    return out[:, :Z], torch.nn.functional.softplus(out[:, Z:])


def kl_to_normal(mean, deviation):
    """Equation (eq-help-kl), (tasks, 603) -> (tasks,)."""
    return ((deviation**2 + mean**2 - 1) / 2 - torch.log(deviation)).sum(-1)


def modulate(theta, z):
    """Equation (eq-help-modulator) on stacked weights; z (tasks, 603)."""
    z3, z4, z5, z_bias = z[:, None].split([200, 200, 200, 3], -1)
    scale = {"V3": z3, "V3u": z3, "V4": z4, "V5": z5.transpose(1, 2)}
    theta = {k: v * (1 + 0.01 * scale[k]) if k in scale else v for k, v in theta.items()}
    return theta | {
        k: theta[k] + 0.01 * z_bias[..., i : i + 1] for i, k in enumerate(("v3", "v4", "v5"))
    }


# %% [markdown]
# ### The inner loop: a few gradient steps on the measurements
#
# Starting from the modulated weights, HELP takes two steps on the squared error of the measured architectures, with one learned step size per weight {cite:p}`li2017metasgd`:
#
# $$
# \theta_\tau^{(s+1)} = \theta_\tau^{(s)} - \alpha \odot \nabla \frac{1}{k} \sum_{i=1}^{k} \bigl(f_{\theta_\tau^{(s)}}(g_i, h_\tau) - y_i\bigr)^2, \qquad s = 0, 1, \qquad \theta_\tau^{(0)} = \text{modulated } \theta .
# $$ (eq-help-inner)
#
# All weights move, the encoder's too, so $g_i$ is computed anew in each step.
# The loss below is a *sum* over tasks.
# The weights of task $\tau$ touch the loss of task $\tau$ only, so a single call of `autograd.grad` returns every task's own gradient.

# %% tags=["method"]
def adapt(theta, alpha, batch, embedding, y, encode, steps, second_order=False):
    """Equation (eq-help-inner), `steps` times, for stacked weights; y (tasks, k). Steps keep their graph if second order."""
    if not second_order:
        theta = {k: v.detach().requires_grad_() for k, v in theta.items()}
    for _ in range(steps):
        loss = (predict(theta, batch, embedding, encode) - y).square().mean(1).sum()
        slopes = torch.autograd.grad(loss, list(theta.values()), create_graph=second_order)
        theta = {k: v - alpha[k] * g for (k, v), g in zip(theta.items(), slopes, strict=True)}
        if not second_order:
            theta = {k: v.detach().requires_grad_() for k, v in theta.items()}
    return theta


# %% [markdown]
# ### The outer loop: learn to be adapted
#
# An episode draws 8 of the 9 training devices, 10 architectures to measure and 200 to be judged on.
# The outer objective is the error *after* adaptation,
#
# $$
# L(\theta, \alpha, \phi) = \frac1B \sum_{\tau=1}^{B} \operatorname{MSE}\bigl(\text{query of } \tau;\, \theta_\tau^{(2)}\bigr) + 0.1 \sum_{\tau=1}^{B} \operatorname{KL}\bigl(q_\phi(z \mid h_\tau) \,\|\, \mathcal{N}(0, I)\bigr),
# $$ (eq-help-outer)
#
# and Adam follows its gradient through the inner steps into $\theta$, $\alpha$ and $\phi$.

# %% tags=["method"]
def episode_loss(model, graphs, pools, generator, encode, steps, tasks=8, k=10, q=200):
    """Equation (eq-help-outer) on one random episode of `pools` (support, y, embedding tensors)."""
    support, support_y, embeddings = pools
    device = torch.randperm(len(support), generator=generator)[:tasks]
    pick = torch.rand(len(device), support.shape[1], generator=generator).argsort(1)[:, : k + q]
    noise = torch.randn(len(device), Z, generator=generator)
    # Of the picked architectures the first k are measured (support), the other q are judged on (query).
    device, pick, noise = (x.to(support.device) for x in (device, pick, noise))
    index, y, h = support[device].gather(1, pick), support_y[device].gather(1, pick), embeddings[device]
    theta, penalty = stacked(model["theta"], len(device)), 0.0
    if model["phi"]:
        mean, deviation = posterior(model["phi"], h)
        theta, penalty = modulate(theta, mean + deviation * noise), kl_to_normal(mean, deviation).sum()
    theta = adapt(
        theta, model["alpha"], graphs(index[:, :k]), h, y[:, :k], encode, steps, second_order=True
    )
    error = (predict(theta, graphs(index[:, k:]), h, encode) - y[:, k:]).square().mean()
    return error + 0.1 * penalty


# %% tags=["method"]
def few_shot(model, graphs, encode, embedding, measured, y, query, steps=2, chunk=16):
    """Predictions (tasks, q) on `query` (tasks, q) after `steps` on architectures `measured` (tasks, k) with labels y."""
    theta = stacked(model["theta"], len(embedding))
    if model["phi"]:
        theta = modulate(
            theta, posterior(model["phi"], embedding)[0]
        )  # the mean of z: nothing random at test time
    parts = []
    for i in range(0, len(embedding), chunk):
        rows = slice(i, i + chunk)
        part = {name: value[rows] for name, value in theta.items()}
        part = adapt(
            part, model["alpha"], graphs(measured[rows]), embedding[rows], y[rows], encode, steps
        )
        with torch.no_grad():
            parts.append(predict(part, graphs(query[rows]), embedding[rows], encode))
    return torch.cat(parts)


def tensors(device, *arrays):
    """Integer arrays as int64 and the rest as float32 tensors on the device."""
    kind = lambda a: torch.int64 if np.asarray(a).dtype.kind in "iu" else torch.float32
    return tuple(
        torch.as_tensor(np.asarray(a), dtype=kind(a), device=device) for a in map(np.array, arrays)
    )


def draw(pools, draws, k, seed):
    """Positions in the support pools of k random measurements: int64 (devices, draws, k)."""
    rng = np.random.default_rng([seed, k])
    return rng.random((len(pools.support), draws, pools.support.shape[1])).argsort(-1)[..., :k]


def published_protocol(model, space, pools, graphs, encode, picks, steps=2):
    """HELP's test: references describe the device, `picks` (devices, draws, k) are measured; Spearman (devices, draws)."""
    n, draws, k = picks.shape
    repeat = lambda a: np.repeat(a, draws, axis=0)
    flat = picks.reshape(n * draws, k)
    arrays = (
        repeat(pools.embedding), np.take_along_axis(repeat(pools.support), flat, 1),
        np.take_along_axis(repeat(pools.support_y), flat, 1), repeat(pools.query),
    )  # fmt: skip
    out = few_shot(model, graphs, encode, *tensors(model["theta"]["V5"].device, *arrays), steps)
    return spearman(out.cpu().numpy().reshape(n, draws, -1), pools.query_y[:, None])


# %% [markdown]
# Every 50 episodes the validation devices judge the model, and the best one is kept.
# (The authors' code looks at training devices too; see the [deviations](#deviations).)
# The switches give the relatives of HELP: without learned step sizes, modulator and embedding it is MAML; with step sizes alone it is Meta-SGD.

# %% tags=["method"]
def meta_train(
    seed,
    space,
    episodes,
    rate,
    every,
    device="cpu",
    steps=2,
    embedding=True,
    modulated=True,
    learned_steps=True,
):
    """Trains one model; returns its best weights by validation, the curve, and the seconds spent."""
    generator = torch.Generator().manual_seed(seed)
    make_graphs, encode = ENCODERS[space.kind]
    graphs = make_graphs(space.ops, device)
    theta, phi = (
        init_predictor(space.kind, generator, embedding),
        init_modulator(generator) if modulated else {},
    )
    model = {
        "theta": theta,
        "phi": phi,
        "alpha": {k: torch.full_like(v, 1e-3) for k, v in theta.items()},
    }
    model = {part: {k: v.to(device) for k, v in values.items()} for part, values in model.items()}
    learned = [
        *model["theta"].values(),
        *model["phi"].values(),
        *(model["alpha"].values() if learned_steps else ()),
    ]
    optimiser = torch.optim.Adam([value.requires_grad_() for value in learned], lr=rate, fused=True)
    train, valid = space.pools(space.train), space.pools(space.valid)
    pools = tensors(device, train.support, train.support_y, train.embedding)
    tasks, q = min(8, len(space.train) - 1), min(200, train.support.shape[1] - 10)
    best, curve, start, cpu = -1.0, [], time.perf_counter(), time.process_time()
    for episode in range(1, episodes + 1):
        loss = episode_loss(model, graphs, pools, generator, encode, steps, tasks, q=q)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if episode % every == 0:
            score = published_protocol(
                model, space, valid, graphs, encode, draw(valid, 5, 10, episode), steps
            ).mean()
            curve.append([episode, float(loss.detach()), float(score)])
            if score > best:
                best, kept = (
                    score,
                    {p: {k: v.detach().cpu().clone() for k, v in d.items()} for p, d in model.items()},
                )
                kept["episode"] = episode
    spent = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    return kept | {"curve": np.array(curve)} | spent


# %% [markdown]
# ## The data, looked at
#
# At `smoke`, the devices are settings of one machine, timed for this book: batch sizes, number formats, memory layouts, runtimes and thread counts, as [the data page](../book/data.md) lists them.
# At `standard` they are the phones, processors, graphics cards and accelerators of the authors' tables.
#
# Latency tables are measurements, and they look like it.
# Ties: some devices report few distinct values.
# Extremes: the fastest entry of a table can be absurd, which is why both pools are trimmed.

# %% tags=["hide-input"]
rows = []
for space in SPACES:
    for device in space.test:
        ms = space.latency[device]
        rows.append(
            f"| {space.name} | {device} | {ms.min():.3g} | {np.median(ms):.3g} | {ms.max():.3g} | {len(np.unique(ms))} of {len(ms)} |"
        )
s.say(
    "| space | test device | least (ms) | median (ms) | most (ms) | distinct values |\n|---|---|---|---|---|---|\n"
    + "\n".join(rows)
)


# %% [markdown]
# How much of a table is simple?
# For each test device, fit the operation counts (five for cells, nine for FBNet) by least squares to its whole trimmed query pool, and see how much of the variance they explain.
# Where this is near one, latency is a price list with a handful of entries, and ten measurements have an easy task.

# %%
def explained(space, features):
    """Share of the variance of every test device's trimmed query latencies that a linear fit explains: (devices,)."""
    truth, pools = query_truth(space, space.test)
    X = np.concatenate([features[pools.query], np.ones((*pools.query.shape, 1))], -1)
    weights = np.linalg.pinv(X) @ truth[..., None]
    return 1 - ((X @ weights)[..., 0] - truth).var(1) / truth.var(1)


for space in SPACES:
    by_count, by_cost = explained(space, space.counts()), explained(space, space.cost_features())
    for device, a, b in zip(space.test, by_count, by_cost, strict=True):
        print(f"{space.name:9} {device:14} operation counts {a:5.2f}   analytic costs {b:5.2f}")


# %% [markdown]
# The second column uses features that need no measurement either, only the architecture: multiply-adds by kind of convolution, parameters, activations and layers for FBNet, operations on live paths for cells.
# We will meet them again.
#
# ## Training
#
# Five meta-learners on each space, on equal episodes: HELP, HELP without the embedding in the head (the modulator still reads it), HELP without the modulator, Meta-SGD and MAML.
# MAML keeps the authors' fixed inner step of 0.001.

# %% tags=["method"]
def training_plan(session, space):
    """Length and step of meta-training at the session's profile."""
    episodes = {"embedded": (40, 40, 40), "nb201": (0, 1000, 2000), "fbnet": (0, 1500, 4000)}[space.name]
    smoke, standard, paper = zip(episodes, (1e-3, 3e-4, 1e-4), (20, 50, 50), strict=True)
    return dict(
        zip(
            ("episodes", "rate", "every"),
            session.choose(smoke=smoke, standard=standard, paper=paper),
            strict=True,
        )
    )


def make_artifact_predictor(session):
    """HELP's trained predictor on cells, for other chapters: `Session.artifact("03_help", "predictor")`."""
    space = latency.load(session.choose(smoke="embedded", standard="nb201"))
    plan = training_plan(session, space)
    return session.memo(
        f"{space.name}-HELP",
        meta_train,
        seed=session.seeds[0],
        space=space,
        device=session.device.type,
        **plan,
    )


# %%
VARIANTS = {
    "HELP": {},
    "no embedding in head": {"embedding": False},
    "no modulator": {"modulated": False},
    "Meta-SGD": {"embedding": False, "modulated": False},
    "MAML": {"embedding": False, "modulated": False, "learned_steps": False},
}
DRAWS = s.choose(smoke=4, standard=20)
models = {}
with s.section("meta-train"):
    jobs = [(space, name, seed) for space in SPACES for name in VARIANTS for seed in s.seeds]
    for space, name, seed in s.progress(jobs, "meta-train"):
        plan = training_plan(s, space)
        models[space.name, name, seed] = s.memo(
            f"{space.name}-{name.replace(' ', '-')}",
            meta_train,
            seed=seed,
            space=space,
            device=s.device.type,
            **plan,
            **VARIANTS[name],
        )

# %% mystnb={"figure": {"caption": "Validation during meta-training: mean Spearman over the validation devices, five draws each, one line for each seed. The best point of a line is the model that is kept.", "name": "fig-help-training"}, "image": {"alt": "Lines of validation rank correlation against episodes, one panel for each search space and one line for each method and seed."}} tags=["hide-input"]
fig, axes = plots.figure(1, len(SPACES), width=7.4, height=3.2, squeeze=False)
look = plots.styles(VARIANTS)
for ax, space in zip(axes[0], SPACES, strict=True):
    for name in VARIANTS:
        for seed in s.seeds:
            curve = models[space.name, name, seed]["curve"]
            label = name if seed == s.seeds[0] else None
            ax.plot(
                curve[:, 0],
                curve[:, 2],
                color=look[name].colour,
                linestyle=look[name].line,
                label=label,
                lw=1.3,
            )
    ax.set(title=space.name, xlabel="episode", ylabel="validation Spearman")
axes[0, -1].legend()
plots.finish(fig)

# %% [markdown]
# What did it cost?
# CPU seconds of one thread for a whole meta-training, evaluations included, on the machine that the run card names.

# %%
for space in SPACES:
    spent = [models[space.name, "HELP", seed] for seed in s.seeds]
    s.metric(f"meta-train/{space.name}/cpu-seconds", [m["cpu_seconds"] for m in spent], unit="s")
    per_episode = [m["cpu_seconds"] / training_plan(s, space)["episodes"] for m in spent]
    s.metric(f"meta-train/{space.name}/cpu-seconds-per-episode", per_episode, unit="s")
    line = s.metric(f"meta-train/{space.name}/kept-episode", [m["episode"] for m in spent])
    print(
        f"{space.name}: {np.mean([m['cpu_seconds'] for m in spent]):.0f} CPU seconds a model, {1000 * np.mean(per_episode):.0f} ms an episode; kept episode {line.value:.0f} on average"
    )


# %% [markdown]
# ## Ours against the paper
#
# The published protocol, on the test devices: the ten references describe the device, ten random architectures are measured and adapted to, the query pool is ranked.
# Every training seed meets its own draws of the ten, so the seeds' means are independent and their t-interval covers training *and* draw, on these devices.
#
# ### Baselines
#
# *Ridge* and *source mix* get HELP's ten adaptation draws, the nearest device uses the ten references, and the networks, being costly, get fewer draws.
# *Nearest device* uses the table of the training device whose reference latencies correlate best.
# *Source mix* fits a non-negative combination of the nine training tables.
# *Ridge* regresses latency on operation counts; a second ridge starts from what the training devices pay for each operation.
# With measured features $X$ and latencies $y$, both centred,
#
# $$
# \hat w = w_0 + \left(X^\top X + \lambda I\right)^{-1} X^\top (y - X w_0), \qquad \hat y_* = \bar y + (x_* - \bar x)^\top \hat w .
# $$ (eq-help-ridge)
#
# The plain ridge has $w_0 = 0$; the other has $w_0 = s\, \bar w$, the training devices' mean weights times a fitted scale $s$.
# The penalty $\lambda$ is chosen on the validation devices, for each set of features and each kind of measured set.

# %% tags=["method"]
def source_tables(space):
    """Training devices' latencies, scaled by their own trimmed support pool: (n, devices)."""
    pools = space.pools(space.train)
    tables = [
        (space.latency[d] - lo) / (hi - lo)
        for d, lo, hi in zip(space.train, pools.low, pools.high, strict=True)
    ]
    return np.clip(
        np.stack(tables, 1), -0.2, 1.2
    )  # extremes outside the trimmed range carry little but noise


def ridge(features, measured, y, query, penalty, prior=None):
    """Equation (eq-help-ridge): features (n, f), measured and y (..., k), query (..., q) -> (..., q)."""
    X = features[measured]
    centre, y_mean = X.mean(-2, keepdims=True), y.mean(-1, keepdims=True)
    X, Q = X - centre, features[query] - centre
    start, start_query = 0.0, 0.0
    if prior is not None:  # the prior fixes the direction, its scale is fitted
        p = X @ prior
        slope = (p * (y - y_mean)).sum(-1, keepdims=True) / ((p * p).sum(-1, keepdims=True) + 1e-9)
        start, start_query = slope * p, slope * (Q @ prior)
    gram = np.swapaxes(X, -1, -2) @ X + penalty * np.eye(X.shape[-1])
    w = np.linalg.solve(gram, np.swapaxes(X, -1, -2) @ (y - y_mean - start)[..., None])
    return y_mean + start_query + (Q @ w)[..., 0]


def prior_of_sources(space, features):
    """Mean weights of the training devices, each fitted to its whole support pool: (f,)."""
    pool, tables = np.arange(space.n_support), source_tables(space)
    X = features[pool] - features[pool].mean(0)
    return np.linalg.lstsq(X, tables[pool] - tables[pool].mean(0), rcond=None)[0].mean(1)


def source_mix(tables, measured, y, query):
    """Non-negative least squares on the training tables, one small problem a task: -> (..., q)."""
    out = np.empty(query.shape)
    for i in np.ndindex(query.shape[:-1]):
        design = np.concatenate([tables[measured[i]], np.ones((measured.shape[-1], 1))], 1)
        out[i] = tables[query[i]] @ nnls(design, y[i])[0][:-1]
    return out


def nearest_device(space, tables, device, query):
    """The table of the training device with the best correlated references, (..., q)."""
    reference = space.latency[device][space.reference]
    fit = [np.corrcoef(space.latency[d][space.reference], reference)[0, 1] for d in space.train]
    return tables[query, int(np.argmax(fit))]


# %% [markdown]
# The per-device predictor is a graph network like HELP's without device and without meta-learning, trained on 10, 100 or all (720 or 3,200) measurements of the target.
# It stands for BRP-NAS; all networks of a setting train together, stacked.
# Its learning rate and length were not tuned.

# %% tags=["method"]
def train_gcn(seed, space, devices, k, draws, steps, device="cpu", batch=64):
    """A predictor for each device and draw from k measurements: Spearman on the query pools, (devices, draws)."""
    pools, generator = space.pools(devices), torch.Generator().manual_seed(seed)
    picks = draw(pools, draws, min(k, pools.support.shape[1]), seed).reshape(len(devices) * draws, -1)
    repeat = lambda a: np.repeat(a, draws, axis=0)
    index, y = (
        np.take_along_axis(repeat(pools.support), picks, 1),
        np.take_along_axis(repeat(pools.support_y), picks, 1),
    )
    index, y, query = tensors(device, index, y, repeat(pools.query))
    make_graphs, encode = ENCODERS[space.kind]
    graphs, start = (
        make_graphs(space.ops, device),
        [init_predictor(space.kind, generator, False) for _ in index],
    )
    theta = {
        name: torch.stack([t[name] for t in start]).to(device).requires_grad_() for name in start[0]
    }
    optimiser = torch.optim.Adam(theta.values(), lr=1e-3, weight_decay=5e-4, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        pick = torch.rand(index.shape, generator=generator).argsort(1)[:, :batch].to(device)
        loss = (
            (predict(theta, graphs(index.gather(1, pick)), None, encode) - y.gather(1, pick))
            .square()
            .mean(1)
            .sum()
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        rows = torch.arange(len(index)).split(8)
        parts = [
            predict({n: v[r] for n, v in theta.items()}, graphs(query[r]), None, encode) for r in rows
        ]
    return spearman(
        torch.cat(parts).cpu().numpy().reshape(len(devices), draws, -1), pools.query_y[:, None]
    )


# %% [markdown]
# ### Beyond the paper: let ten measurements choose the features
#
# Some devices are price lists of operations, some of arithmetic, and some resemble another device.
# Which one a new device is, its ten measurements can say.
# Take a Gaussian process whose kernel is a weighted sum over blocks of features $\Phi_b$ (operation counts, analytic costs, FLOPs, the source tables), which is Bayesian ridge regression with one variance per block:
#
# $$
# C_w = \sum_b w_b\, \Phi_b \Phi_b^\top + c\, \mathbf{1}\mathbf{1}^\top + \sigma^2 I, \qquad
# \log p(y \mid w, \sigma^2) = -\tfrac12\, y^\top C_w^{-1} y - \tfrac12 \log \lvert C_w \rvert + \text{const}.
# $$ (eq-help-evidence)
#
# In place of one choice of $(w, \sigma^2)$ we average the predictions $K_{*,w} C_w^{-1} y$ over a fixed grid, each weighted by its evidence $p(y \mid w, \sigma^2)$.
# The averages are over standardised $y$, and $c$ is large, which makes it an intercept.
#
# Two relatives stand beside it.
# One adds HELP's prediction before any inner step as a block of its own.
# The other is simpler: a ridge on *one* block, block and penalty taken by leave-one-out error on the ten measurements.
# The validation devices choose among the three.
#
# A caution.
# The blocks and the grid were designed with these tables in sight, test devices included, so the comparison below favours us to an unknown degree.
# That is why a [confirmation](#confirmation-on-fresh-devices) follows, on devices and on a machine that were not looked at.

# %% tags=["method"]
def unit_blocks(space):
    """Feature blocks of every architecture, centred, with mean squared length one: dict of (n, f)."""
    pool = slice(space.n_support)
    scaled = lambda x: (x - x[pool].mean(0)) / (x[pool].std(0) + 1e-9)
    counts = space.counts()[
        :, space.kind == "cell" :
    ]  # six operations on six edges: one count is redundant
    costs = space.cost_features()
    blocks = {
        "counts": counts - counts[pool].mean(0), "costs": scaled(costs), "flops": scaled(space.flops[:, None]),
        "sources": source_tables(space) - source_tables(space)[pool].mean(0),
    }  # fmt: skip
    return {name: x / np.sqrt((x[pool] ** 2).sum(1).mean()) for name, x in blocks.items()}


def weight_grid(n_blocks, weights=(0.0, 0.1, 1.0), noises=(0.003, 0.03)):
    """All combinations of block weights that are not all zero, with all noises: (G, n_blocks), (G,)."""
    grid = np.stack(np.meshgrid(*[weights] * n_blocks, noises, indexing="ij"), -1).reshape(
        -1, n_blocks + 1
    )
    grid = grid[grid[:, :-1].sum(1) > 0]
    return grid[:, :-1], grid[:, -1]


def evidence_ridge(blocks, y, query_blocks, level=100.0):
    """Equation (eq-help-evidence) averaged over the grid: blocks list of (..., k, f), y (..., k) -> (..., q)."""
    y = (y - y.mean(-1, keepdims=True)) / (y.std(-1, keepdims=True) + 1e-12)
    weights, noises = weight_grid(len(blocks))
    grams = np.stack([x @ np.swapaxes(x, -1, -2) for x in blocks])  # (blocks, ..., k, k)
    C = np.tensordot(weights, grams, 1) + level  # `level`: an intercept with a wide prior
    C = C + noises.reshape(-1, *[1] * (C.ndim - 1)) * np.eye(y.shape[-1])
    factor = torch.linalg.cholesky(torch.as_tensor(C))
    right = torch.as_tensor(np.broadcast_to(y, C.shape[:-1]).copy())[..., None]
    solved = torch.cholesky_solve(right, factor)[..., 0].numpy()
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1).numpy()
    evidence = -0.5 * (solved * y).sum(-1) - 0.5 * log_det
    share = np.exp(evidence - evidence.max(0))
    share = share / share.sum(0)
    # The prediction is linear in `solved`: average first, touch the query once.
    mixed = np.einsum("gb,g...,g...k->b...k", weights, share, solved)
    return sum(
        (q @ (np.swapaxes(x, -1, -2) @ m[..., None]))[..., 0]
        for x, q, m in zip(blocks, query_blocks, mixed, strict=True)
    )


# %% tags=["method"]
def leave_one_out_ridge(blocks, y, query_blocks, penalties=(0.003, 0.03, 0.3, 3.0)):
    """Ridge on the block and with the penalty of least leave-one-out error: like `evidence_ridge`."""
    y = (y - y.mean(-1, keepdims=True)) / (y.std(-1, keepdims=True) + 1e-12)
    guesses, errors = [], []
    for X, Q in zip(blocks, query_blocks, strict=True):
        for penalty in penalties:
            C = X @ np.swapaxes(X, -1, -2) + 100.0 + penalty * np.eye(y.shape[-1])
            inverse = np.linalg.inv(C)
            solved = (inverse @ y[..., None])[..., 0]
            residual = solved / np.diagonal(
                inverse, axis1=-2, axis2=-1
            )  # closed form of leaving one out
            guesses.append((Q @ (np.swapaxes(X, -1, -2) @ solved[..., None]))[..., 0])
            errors.append((residual**2).mean(-1))
    best = np.argmin(errors, 0)
    return np.take_along_axis(np.stack(guesses), best[None, ..., None], 0)[0]


# %% [markdown]
# ### The honest count of measurements
#
# The published protocol spends **twenty** measurements on a new device: ten references for the embedding and ten more to adapt to.
# It also scales the labels by the extremes of the whole support pool, which nobody has measured, and draws from the trimmed pool, for which one must have measured it all.
# So a second comparison gives every method the same *measured set*: the references first, then random others from the untrimmed pool, scaled by their own extremes.
# With ten measurements, HELP adapts to the references themselves.
# Nothing but HELP's training varies between seeds then, so differences at ten measurements get a bootstrap interval over *test devices*.

# %% tags=["method"]
def measured_sets(space, n_devices, draws, extra, seed):
    """References plus `extra` random others of the untrimmed support pool: indices (devices, draws, 10 + extra)."""
    others = np.setdiff1d(np.arange(space.n_support), space.reference)
    order = np.random.default_rng([seed, extra, 1]).random((n_devices, draws, len(others))).argsort(-1)
    reference = np.broadcast_to(space.reference, (n_devices, draws, len(space.reference)))
    return np.concatenate([reference, others[order[..., :extra]]], -1)


def measure(space, devices, measured):
    """Latencies in ms of `measured` (devices, draws, k)."""
    return np.stack([space.latency[d][m] for d, m in zip(devices, measured, strict=True)])


def help_from_measured(model, space, pools, graphs, encode, measured, ms, query, steps=2):
    """HELP adapted to the measured set, scaled by its own extremes: predictions (devices, draws, q)."""
    shape = measured.shape[:2]
    flat = lambda a: np.broadcast_to(a, (*shape, a.shape[-1])).reshape(shape[0] * shape[1], -1)
    y = 0.05 + 0.9 * latency.unit_scale(ms)
    batch = tensors(
        model["theta"]["V5"].device, flat(pools.embedding[:, None]), flat(measured), flat(y), flat(query)
    )
    return few_shot(model, graphs, encode, *batch, steps).cpu().numpy().reshape(*shape, -1)


def from_measured(space, devices, pools, help_model, tools, measured, query, penalties):
    """Predictions (devices, draws, q) of every method from the same measured sets; HELP where there is a model."""
    ms, blocks, q = measure(space, devices, measured), unit_blocks(space), query.shape[-1]
    y = latency.unit_scale(ms)
    seen, asked = [b[measured] for b in blocks.values()], [b[query] for b in blocks.values()]
    everything = np.concatenate(list(blocks.values()), 1)
    guesses = {
        f"ridge on {name}": ridge(blocks[name], measured, y, query, penalties[name])
        for name in ("counts", "costs")
    }
    guesses["ridge on all"] = ridge(everything, measured, y, query, penalties["all"])
    prior = prior_of_sources(space, blocks["counts"])
    guesses["ridge + source prior"] = ridge(
        blocks["counts"], measured, y, query, penalties["counts"], prior
    )
    guesses["source mix"] = source_mix(source_tables(space), measured, y, query)
    guesses["leave-one-out ridge"] = leave_one_out_ridge(seen, y, asked)
    guesses["evidence ridge"] = evidence_ridge(seen, y, asked)
    if help_model is not None:
        both = np.concatenate([query, measured], -1)
        guesses["HELP"] = help_from_measured(help_model, space, pools, *tools, measured, ms, query)
        before = help_from_measured(help_model, space, pools, *tools, measured, ms, both, steps=0)
        opinion = (
            (before - before[..., :q].mean(-1, keepdims=True))
            / (before[..., :q].std(-1, keepdims=True) + 1e-9)
        )[..., None]
        guesses["evidence ridge + HELP"] = evidence_ridge(
            [*seen, opinion[..., q:, :]], y, [*asked, opinion[..., :q, :]]
        )
    return guesses


# %% [markdown]
# The rest of the comparison is plumbing: penalties by validation, the same draws for all, one function for each protocol.

# %% tags=["hide-input"]
PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0)
EXTRA = s.choose(smoke=(0, 10), standard=(0, 5, 10, 20))


def to_device(model):
    return {
        part: {k: v.to(s.device) for k, v in model[part].items()} for part in ("theta", "alpha", "phi")
    }


def spread_query(pools, draws):
    """The query pools repeated for every draw, (devices, draws, q), without copying."""
    return np.broadcast_to(pools.query[:, None], (len(pools.query), draws, pools.query.shape[1]))


def choose_penalties(space, measured_of):
    """Per feature set, the ridge penalty that ranks the validation devices best from sets `measured_of(pools)`."""
    pools, blocks = space.pools(space.valid), unit_blocks(space)
    measured = measured_of(pools)
    y, query = (
        latency.unit_scale(measure(space, space.valid, measured)),
        spread_query(pools, measured.shape[1]),
    )
    features = {
        "counts": blocks["counts"],
        "costs": blocks["costs"],
        "all": np.concatenate(list(blocks.values()), 1),
    }
    quality = lambda x, p: spearman(ridge(x, measured, y, query, p), pools.query_y[:, None]).mean()
    return {name: max(PENALTIES, key=lambda p, x=x: quality(x, p)) for name, x in features.items()}


def random_sets(pools, draws, seed):
    """Ten random members of the trimmed support pools, as in the published protocol: (devices, draws, 10)."""
    return np.take_along_axis(pools.support[:, None], draw(pools, draws, 10, seed), -1)


def published_scores(seed, space, trained, draws, gcn, device):
    """The published protocol and the baselines beside it: dict of Spearman arrays (devices, draws)."""
    devices, pools, blocks, out = space.test, space.pools(space.test), unit_blocks(space), {}
    make_graphs, encode = ENCODERS[space.kind]
    tools, truth, query = (
        (make_graphs(space.ops, device), encode),
        pools.query_y[:, None],
        spread_query(pools, draws),
    )
    flat = lambda r: np.broadcast_to(r[:, None], (len(devices), draws)).copy()
    for name, costs in (("FLOPs", space.flops), ("parameters", space.params)):
        out[name] = flat(spearman(costs[pools.query], pools.query_y))
    tables, counts = source_tables(space), blocks["counts"]
    near = np.stack(
        [nearest_device(space, tables, d, q) for d, q in zip(devices, pools.query, strict=True)]
    )
    out["nearest device"] = flat(spearman(near, pools.query_y))
    measured, penalty = (
        random_sets(pools, draws, seed),
        choose_penalties(space, lambda p: random_sets(p, draws, seed))["counts"],
    )
    y = latency.unit_scale(measure(space, devices, measured))
    out["ridge on counts"] = spearman(ridge(counts, measured, y, query, penalty), truth)
    out["ridge + source prior"] = spearman(
        ridge(counts, measured, y, query, penalty, prior_of_sources(space, counts)), truth
    )
    out["source mix"] = spearman(source_mix(tables, measured, y, query), truth)
    for name, model in trained.items():
        out[name] = published_protocol(model, space, pools, *tools, draw(pools, draws, 10, seed))
    for name in ("MAML", "Meta-SGD"):  # as many measurements as HELP spends in all
        out[f"{name}, 20 measured"] = published_protocol(
            trained[name], space, pools, *tools, draw(pools, draws, 20, seed)
        )
    for steps in (0, 1, 5):
        out[f"HELP, {steps} steps"] = published_protocol(
            trained["HELP"], space, pools, *tools, draw(pools, draws, 10, seed), steps
        )
    for k, (n, train_steps) in gcn.items():
        out[f"GCN, {k}"] = train_gcn(seed, space, devices, k, n, train_steps, device)
    return out


def measured_scores(seed, space, devices, help_model, draws, extra, device):
    """Every method from equal measured sets on `devices`: dict of Spearman arrays (devices, draws)."""
    pools, out = space.pools(devices), {}
    make_graphs, encode = ENCODERS[space.kind]
    tools = make_graphs(space.ops, device), encode
    penalties = choose_penalties(space, lambda p: measured_sets(space, len(p.query), 1, 0, seed))
    for more in extra:
        repeats = draws if more else 1  # the references alone leave nothing to draw
        sets = measured_sets(space, len(devices), repeats, more, seed)
        guesses = from_measured(
            space, devices, pools, help_model, tools, sets, spread_query(pools, repeats), penalties
        )
        out |= {
            f"{10 + more} measured/{name}": spearman(guess, pools.query_y[:, None])
            for name, guess in guesses.items()
        }
    return out


# %%
GCN = s.choose(smoke={10: (1, 20)}, standard={10: (5, 200), 100: (2, 400), 10_000: (1, 1200)})
scores, validation = {}, {}
with s.section("evaluate"):
    jobs = [(space, seed) for space in SPACES for seed in s.seeds]
    for space, seed in s.progress(jobs, "evaluate"):
        trained = {name: to_device(models[space.name, name, seed]) for name in VARIANTS}
        common = {"seed": seed, "space": space, "device": s.device.type}
        both = s.memo(
            f"{space.name}-published", published_scores, trained=trained, draws=DRAWS, gcn=GCN, **common
        )
        common["help_model"] = trained["HELP"]
        both |= s.memo(
            f"{space.name}-measured",
            measured_scores,
            devices=space.test,
            draws=DRAWS,
            extra=EXTRA,
            **common,
        )
        scores[space.name, seed] = both
        validation[space.name, seed] = s.memo(
            f"{space.name}-validation",
            measured_scores,
            devices=space.valid,
            draws=1,
            extra=(0,),
            **common,
        )

# %% [markdown]
# ### The headline
#
# Mean over test devices, for each method; the tick is the paper's number where it gives one for the same method.
# (For BRP-NAS with 900 measurements on cells the authors' README prints 0.789; our graph network on the whole pool is no BRP-NAS.)

# %% tags=["hide-input"]
PAPER = {  # Spearman as printed in the authors' README
    "nb201": {"HELP": 0.932, "FLOPs": 0.787},
    "fbnet": {"HELP": 0.910, "MAML": 0.736, "Meta-SGD": 0.806},
}
PAPER_BY_DEVICE = {
    "nb201": dict(
        titan_rtx_256=0.987, gold_6226=0.989, pixel2=0.802, raspi4=0.890, eyeriss=0.940, fpga=0.985
    ),
    "fbnet": dict(raspi4=0.887, eyeriss=0.943, fpga=0.892),
}
HEADLINE = [
    "FLOPs", "parameters", "nearest device", "source mix", "ridge on counts", "ridge + source prior",
    *(f"GCN, {k}" for k in GCN), *reversed(VARIANTS),
]  # fmt: skip
TOTAL = {
    "FLOPs": 0,
    "parameters": 0,
    "nearest device": 10,
    "source mix": 10,
    "ridge on counts": 10,
    "ridge + source prior": 10,
}
TOTAL |= {"MAML": 10, "Meta-SGD": 10} | dict.fromkeys(
    ("HELP", "no embedding in head", "no modulator"), 20
)


def key(name):
    return name.lower().replace(" + ", "-and-").replace(", ", "-").replace(" ", "-")


def per_seed(space, name):
    """Mean over devices and draws, one number for each seed."""
    return [float(scores[space.name, seed][name].mean()) for seed in s.seeds]


for space in SPACES:
    for name in dict.fromkeys([*HEADLINE, *scores[space.name, s.seeds[0]]]):
        s.metric(
            f"spearman/{space.name}/{key(name)}/mean",
            per_seed(space, name),
            paper=PAPER.get(space.name, {}).get(name),
        )
    for device, row in zip(space.test, range(len(space.test)), strict=True):
        values = [float(scores[space.name, seed]["HELP"][row].mean()) for seed in s.seeds]
        s.metric(
            f"spearman/{space.name}/help/{device}",
            values,
            paper=PAPER_BY_DEVICE.get(space.name, {}).get(device),
        )
metrics = s.record().metrics

# %% mystnb={"figure": {"caption": "Mean Spearman over the test devices with 95 % t-intervals over training seeds; black ticks are the paper's numbers. The number of measurements on the target is in brackets.", "name": "fig-help-headline"}, "image": {"alt": "Dot plot with one row for each method, from FLOPs at the top to HELP at the bottom, and one panel for each search space. The horizontal axis is the mean Spearman correlation; bars are intervals and black ticks the paper's numbers for FLOPs, MAML, Meta-SGD and HELP."}} tags=["hide-input"]
fig, axes = plots.figure(1, len(SPACES), width=8.4, height=4.6, squeeze=False, sharey=True)
total = lambda name: TOTAL.get(name) if name in TOTAL else min(int(name.split()[1]), 10**4)
labels = {
    n: f"{n.replace('10000', 'whole pool')} [{total(n) if total(n) < 10**4 else 'all'}]"
    for n in HEADLINE
}
for ax, space in zip(axes[0], SPACES, strict=True):
    m = [metrics[f"spearman/{space.name}/{key(n)}/mean"] for n in HEADLINE]
    plots.intervals(
        ax,
        HEADLINE,
        [x.value for x in m],
        [x.low for x in m],
        [x.high for x in m],
        paper=PAPER.get(space.name),
        labels=labels,
    )
    ax.set(title=space.name, xlabel="Spearman, mean over test devices")
plots.finish(fig)

# %% tags=["hide-input"]
for space in SPACES:
    rows = []
    for name in [*HEADLINE, "HELP, 0 steps", "HELP, 1 steps", "HELP, 5 steps"]:
        stack = np.stack([scores[space.name, seed][name] for seed in s.seeds])  # (seeds, devices, draws)
        paper = PAPER.get(space.name, {}).get(name)
        cells_ = " | ".join(f"{v:.3f}" for v in stack.mean((0, 2)))
        rows.append(
            f"| {name.replace('10000', 'whole pool')} | {cells_} | **{stack.mean():.3f}** | {f'{paper:.3f}' if paper else ''} |"
        )
    head = f"| {space.name} | " + " | ".join(space.test) + " | mean | paper |"
    s.say(head + "\n|" + "---|" * (len(space.test) + 3) + "\n" + "\n".join(rows))

# %% tags=["hide-input"]
for space in SPACES:
    value = {name: metrics[f"spearman/{space.name}/{key(name)}/mean"].value for name in HEADLINE}
    cheap = max((name for name in HEADLINE if total(name) <= 10 and name not in VARIANTS), key=value.get)
    whole = f"GCN, {max(GCN)}"
    s.say(
        f"**{space.name}**: HELP {value['HELP']:.3f} with twenty measurements. The best method without meta-learning and with at most ten is {cheap}, "
        f"{value[cheap]:.3f} with {total(cheap)}; FLOPs alone reach {value['FLOPs']:.3f}. "
        f"A graph network trained on the whole pool of the target reaches {value[whole]:.3f}, so the whole pool is worth {value[whole] - value['HELP']:+.3f}."
    )

# %% mystnb={"figure": {"caption": "Device by device, at the published protocol. Bars span the worst and the best single draw over all seeds: one draw can say nearly anything about some devices.", "name": "fig-help-by-device"}, "image": {"alt": "For every test device, four dots with vertical bars: FLOPs, source mix, ridge on operation counts and HELP. The vertical axis is the Spearman correlation; the length of a bar is the range over single draws."}} tags=["hide-input"]
SHOWN = ["FLOPs", "source mix", "ridge on counts", "HELP"]
fig, axes = plots.figure(
    1, len(SPACES), width=8.4, height=4.2, squeeze=False, width_ratios=[len(x.test) + 1 for x in SPACES]
)
look = {name: plots.style(LOOK[name]) for name in SHOWN}
for ax, space in zip(axes[0], SPACES, strict=True):
    for i, name in enumerate(SHOWN):
        stack = np.concatenate([scores[space.name, seed][name] for seed in s.seeds], 1)
        mean, x = stack.mean(1), np.arange(len(space.test)) + 0.18 * (i - 1.5)
        bars = np.maximum(
            np.stack([mean - stack.min(1), stack.max(1) - mean]), 0
        )  # rounding can dip below zero
        ax.errorbar(
            x,
            mean,
            yerr=bars,
            color=look[name].colour,
            marker=look[name].marker,
            linestyle="none",
            capsize=2,
            label=name,
        )
    ax.set_xticks(range(len(space.test)), space.test, rotation=30, ha="right")
    ax.set(title=space.name, ylabel="Spearman")
axes[0, 0].legend(loc="lower left")
plots.finish(fig)

# %% [markdown]
# ### Why ours and the paper's differ
#
# The authors' README has one number per device, from one set of draws; ours are means over many draws and several trainings.
# Where a device depends on the draw, as the long bars show, one number can lie far from the mean in either direction.
# Our schedule is shorter, and our checkpoint is chosen on validation devices alone.
# Everything else is listed under [deviations](#deviations).
#
# ### How many measurements, honestly counted
#
# Here every method sees the same measured set, and only that.
# The horizontal axis counts *all* measurements on the target.

# %% mystnb={"figure": {"caption": "Rank correlation against all measurements spent on the target, references included. Bands are 95 % t-intervals over seeds; what lies below the axis is left out.", "name": "fig-help-measurements"}, "image": {"alt": "One panel for each search space with a line and a band for each of six methods, and a dotted level for FLOPs. Horizontal axis: ten to thirty measurements, logarithmic. Vertical axis: mean Spearman correlation on the test devices."}} tags=["hide-input"]
METHODS = [
    "HELP",
    "ridge on counts",
    "ridge on costs",
    "source mix",
    "leave-one-out ridge",
    "evidence ridge",
]
fig, axes = plots.figure(1, len(SPACES), width=8.0, height=3.6, squeeze=False)
for ax, space in zip(axes[0], SPACES, strict=True):
    for name in METHODS:
        m = [metrics[f"spearman/{space.name}/{key(f'{10 + e} measured/{name}')}/mean"] for e in EXTRA]
        bounds = (
            [np.nan if x.low is None else x.low for x in m],
            [np.nan if x.high is None else x.high for x in m],
        )
        plots.curve(
            ax, [10 + e for e in EXTRA], [x.value for x in m], *bounds, name=LOOK[name], label=name
        )
    floor = min(
        metrics[f"spearman/{space.name}/{key(f'10 measured/{n}')}/mean"].value
        for n in METHODS
        if not n.startswith("ridge")
    )
    ax.axhline(
        metrics[f"spearman/{space.name}/flops/mean"].value,
        color=plots.MUTED,
        lw=1,
        ls=":",
        label="FLOPs, no measurement",
    )
    ax.set(
        title=space.name,
        xlabel="measurements on the target",
        ylabel="Spearman",
        xscale="log",
        ylim=(max(0.5, floor - 0.1), 1.0),
    )
    ax.set_xticks([10 + e for e in EXTRA], [str(10 + e) for e in EXTRA], minor=False)
    ax.minorticks_off()
axes[0, 0].legend(fontsize=7.5, loc="lower right")
plots.finish(fig)

# %% tags=["hide-input"]
for space in SPACES:
    published, honest = np.array(per_seed(space, "HELP")), np.array(per_seed(space, "20 measured/HELP"))
    gap = s.metric(f"difference/{space.name}/published-minus-twenty-measured", published - honest)
    s.say(
        f"**{space.name}**: with twenty measurements HELP reaches {published.mean():.3f} by the published protocol and {honest.mean():.3f} when labels are scaled by what was measured: "
        f"the extremes of the unmeasured pool, and draws from the trimmed one, are worth {gap.value:+.3f}."
    )

# %% tags=["hide-input"]
FORMS = ("leave-one-out ridge", "evidence ridge", "evidence ridge + HELP")
TRIVIAL = ("ridge on counts", "ridge + source prior", "ridge on costs", "ridge on all", "source mix")


def at_ten(name, table=scores, spaces=tuple(SPACES)):
    """Mean over seeds and draws at ten measurements, per space: list of arrays (devices,)."""
    key_ = name if name in ("FLOPs", "parameters", "nearest device") else f"10 measured/{name}"
    return [np.mean([table[space.name, seed][key_].mean(1) for seed in s.seeds], 0) for space in spaces]


def mean_of(arrays):
    return float(np.mean([x.mean() for x in arrays]))


def over_devices(a, b, n=10_000):
    """Mean over spaces of the mean difference over devices, with a 95 % bootstrap interval over devices."""
    rng, differences = np.random.default_rng(0), [x - y for x, y in zip(a, b, strict=True)]
    resampled = np.mean([d[rng.integers(len(d), size=(n, len(d)))].mean(1) for d in differences], 0)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return {
        "value": mean_of(differences),
        "low": float(low),
        "high": float(high),
        "n": sum(map(len, differences)),
    }


by_validation = {name: mean_of(at_ten(name, validation)) for name in (*FORMS, *TRIVIAL, "HELP")}
chosen = max(FORMS, key=by_validation.get)
trivial = {name: mean_of(at_ten(name)) for name in (*TRIVIAL, "FLOPs", "parameters", "nearest device")}
strongest = max(trivial, key=trivial.get)
by_hand = [
    np.stack([at_ten(n)[i] for n in trivial])[np.argmax([at_ten(n)[i].mean() for n in trivial])]
    for i in range(len(SPACES))
]
rivals = {
    "help": at_ten("HELP"),
    "strongest-trivial": at_ten(strongest),
    "trivial-in-hindsight": by_hand,
}
s.metric("ten-measurements/ours", mean_of(at_ten(chosen)))
s.metric("ten-measurements/help", mean_of(rivals["help"]))
s.metric("ten-measurements/strongest-trivial", trivial[strongest])
for name, arrays in rivals.items():
    s.metric(f"ten-measurements/ours-minus-{name}", **over_devices(at_ten(chosen), arrays))
rows = [
    f"| {name}{' (chosen)' if name == chosen else ''} | {by_validation[name]:.3f} | "
    + " | ".join(f"{x.mean():.3f}" for x in at_ten(name))
    + f" | **{mean_of(at_ten(name)):.3f}** |"
    for name in by_validation
]
rows += [
    f"| {name} | | "
    + " | ".join(f"{x.mean():.3f}" for x in at_ten(name))
    + f" | **{trivial[name]:.3f}** |"
    for name in ("FLOPs", "parameters", "nearest device")
]
s.say(
    "At ten measurements in all; mean Spearman:\n\n| method | validation devices | " + " | ".join(f"{x.name}, test" for x in SPACES) + " | test, mean of spaces |\n"
    + "|---|---|" + "---|" * (len(SPACES) + 1) + "\n" + "\n".join(rows)
)  # fmt: skip
favourite = max(by_validation, key=by_validation.get)
s.say(
    f"Among the three forms the validation devices choose **{chosen}**. It reaches {mean_of(at_ten(chosen)):.3f} on the test devices, HELP {mean_of(rivals['help']):.3f} "
    f"(with twenty measurements, as published, {np.mean([np.mean(per_seed(x, 'HELP')) for x in SPACES]):.3f}), the strongest single trivial baseline, {strongest}, {trivial[strongest]:.3f}. "
    f"Picking another trivial baseline for each space after seeing the test would give {mean_of(by_hand):.3f}. "
    f"Had the validation devices been asked to choose among *all* methods, they would have taken {favourite}, which reaches {mean_of(at_ten(favourite)):.3f} on the test devices."
)

# %% [markdown]
# ### Confirmation on fresh devices
#
# The authors' tables hold devices that their split never uses, all of them GPUs, and the embedded table holds another machine's settings.
# Neither was looked at while the regression was designed.
# The same code, the same grid, ten measurements each.

# %% tags=["hide-input"]
FRESH = [space.relabel(test=space.others) for space in SPACES if space.others]
FRESH += [] if MAIN.name == "embedded" else [latency.load("embedded")]
confirmed = {}
with s.section("confirm"):
    for space in FRESH:
        for seed in s.seeds:
            model = models.get((space.name, "HELP", seed))
            model = None if model is None else to_device(model)
            confirmed[space.name, seed] = s.memo(
                f"{space.name}-fresh",
                measured_scores,
                seed=seed,
                space=space,
                devices=space.test,
                help_model=model,
                draws=1,
                extra=(0,),
                device=s.device.type,
            )
for space in FRESH:
    names = [
        n for n in (*FORMS, *TRIVIAL, "HELP") if f"10 measured/{n}" in confirmed[space.name, s.seeds[0]]
    ]
    values = {
        n: [float(confirmed[space.name, seed][f"10 measured/{n}"].mean()) for seed in s.seeds]
        for n in names
    }
    for n in names:
        s.metric(f"fresh/{space.name}/{key(n)}", values[n])
    ordered = sorted(names, key=lambda n: -np.mean(values[n]))
    print(
        f"{space.name}, {len(space.test)} fresh devices: "
        + ", ".join(f"{n} {np.mean(values[n]):.3f}" for n in ordered)
    )

# %% [markdown]
# ## What adaptation does
#
# The ablation that explains the method: take the same trained model and stop it after 0, 1, 2 or 5 inner steps.
# With no step, all that is known of the device is its embedding.

# %% mystnb={"figure": {"caption": "The device on which adaptation matters most, one draw: predictions before and after the inner steps, against the truth. Colour is the number of average poolings in the cell.", "name": "fig-help-adaptation"}, "image": {"alt": "Three scatter plots of predicted against measured latency on one test device, for zero, one and two inner steps, with the rank correlation in each title. Points are coloured by the number of average poolings in the cell."}} tags=["hide-input"]
seed = s.seeds[0]
gains = (scores[MAIN.name, seed]["HELP"] - scores[MAIN.name, seed]["HELP, 0 steps"]).mean(1)
device = MAIN.test[int(np.argmax(gains))]
pool, model = MAIN.pools([device]), to_device(models[MAIN.name, "HELP", seed])
make_graphs, encode = ENCODERS[MAIN.kind]
pick = draw(pool, 1, 10, seed)[:, 0]
batch = (
    pool.embedding,
    np.take_along_axis(pool.support, pick, 1),
    np.take_along_axis(pool.support_y, pick, 1),
    pool.query,
)
fig, axes = plots.figure(1, 3, width=7.8, height=3.0, sharex=True)
for ax, steps in zip(axes, (0, 1, 2), strict=True):
    out = (
        few_shot(model, make_graphs(MAIN.ops, s.device), encode, *tensors(s.device, *batch), steps)
        .cpu()
        .numpy()[0]
    )
    dots = ax.scatter(
        MAIN.latency[device][pool.query[0]], out, c=MAIN.counts()[pool.query[0], -1], s=8, cmap="viridis"
    )
    ax.set(title=f"{steps} steps: {spearman(out, pool.query_y[0]):.3f}", xlabel=f"{device} (ms)")
fig.supylabel("prediction (scaled)", fontsize=10)
fig.colorbar(dots, ax=axes, label="average poolings", ticks=range(5))
plots.finish(fig)

# %% tags=["hide-input"]
for space in SPACES:
    two = np.array(per_seed(space, "HELP"))
    s.metric(f"adaptation/{space.name}/two-steps-minus-none", two - per_seed(space, "HELP, 0 steps"))
    for rival in (
        "MAML, 20 measured",
        "Meta-SGD, 20 measured",
        "MAML",
        "Meta-SGD",
        "no modulator",
        "FLOPs",
        f"GCN, {max(GCN)}",
    ):
        s.metric(f"difference/{space.name}/help-minus-{key(rival)}", two - per_seed(space, rival))
    s.metric(
        f"difference/{space.name}/embedding",
        np.subtract(per_seed(space, "no modulator"), per_seed(space, "Meta-SGD")),
    )
    twenty = np.array(per_seed(space, "20 measured/HELP"))
    for rival in ("ridge on counts", "source mix"):
        s.metric(
            f"difference/{space.name}/twenty-measured-help-minus-{key(rival)}",
            twenty - per_seed(space, f"20 measured/{rival}"),
        )
    s.metric(
        f"difference/{space.name}/help-twenty-minus-ten-measured",
        twenty - per_seed(space, "10 measured/HELP"),
    )
    stack = np.concatenate([scores[space.name, seed]["HELP"] for seed in s.seeds], 1)
    worst = space.test[int(stack.std(1).argmax())]
    s.metric(f"spread/{space.name}/largest-standard-deviation", float(stack.std(1).max()))
    s.metric(f"spread/{space.name}/worst-draw", float(stack.min()))
    s.say(
        f"**{space.name}**: the embedding alone ranks with {np.mean(per_seed(space, 'HELP, 0 steps')):.3f}, two steps with {two.mean():.3f}, five with "
        f"{np.mean(per_seed(space, 'HELP, 5 steps')):.3f}. The draw matters most on {worst}: standard deviation {stack.std(1).max():.3f} between draws, worst draw {stack.min():.3f}."
    )


# %% [markdown]
# ## Searching under a latency limit
#
# A latency predictor is a means to an end: the best architecture that meets a limit.
# The candidates are 500 cells that MetaD2A {cite:p}`lee2021metad2a` generated for CIFAR-100, ordered by MetaD2A's own score.
# A search takes the best-scored candidate whose *predicted* latency meets the limit.
# It consults no true accuracy, while the published search looks up the true accuracies of three candidates and reports the best.
# Predictions become milliseconds by a straight line fitted to the ten measured references.
# The limits are the deciles of the candidates' latencies on each device.
# (`smoke` has no accuracies: there the parameter count stands in for score and accuracy, to run the same path.)

# %% tags=["method"]
def to_milliseconds(at_measured, ms, guess):
    """Least-squares line from predictions (..., k) at measured points to ms (..., k), applied to guess (..., q)."""
    x, y = at_measured - at_measured.mean(-1, keepdims=True), ms - ms.mean(-1, keepdims=True)
    slope = (x * y).sum(-1, keepdims=True) / ((x * x).sum(-1, keepdims=True) + 1e-12)
    return ms.mean(-1, keepdims=True) + slope * (guess - at_measured.mean(-1, keepdims=True))


def constrained_search(predicted, score, limits):
    """Best-scored candidate predicted within each limit, the fastest if none is: (..., c), (c,), (..., l) -> (..., l)."""
    fits = predicted[..., None, :] <= limits[..., :, None]
    best = np.where(fits, score, -np.inf).argmax(-1)
    return np.where(fits.any(-1), best, predicted.argmin(-1)[..., None])


# %% tags=["hide-input"]
def candidates_for(space):
    """Candidate indices, scores and true accuracies (%) for the search."""
    if space.name != "nb201":
        index = np.argsort(-space.params)[: len(space) // 2]
        return index, space.params[index], 100 * space.params[index] / space.params.max()
    _, strings, accuracy, score = read_metad2a(
        files.path("help/nasbench201/arch_generated_by_metad2a.txt")
    )
    number = {text: i for i, text in enumerate(cells.decode(space.ops))}
    return np.array([number[text] for text in strings]), score, accuracy


def search_all(seed, space, help_model, index, score, extra_limits, device):
    """Chosen candidates of every method: dict of (test devices, limits) indices into `index`; and the limits in ms."""
    pools, true = space.pools(space.test), np.stack([space.latency[d][index] for d in space.test])
    limits = np.quantile(true, np.arange(1, 10) / 10, axis=1).T
    limits = np.concatenate([limits, extra_limits], 1)
    measured = np.broadcast_to(space.reference, (len(space.test), 1, 10))
    ms, query = (
        measure(space, space.test, measured),
        np.broadcast_to(index, (len(space.test), 1, len(index))),
    )
    make_graphs, encode = ENCODERS[space.kind]
    both, tools = np.concatenate([query, measured], -1), (make_graphs(space.ops, device), encode)
    penalties = choose_penalties(space, lambda p: measured_sets(space, len(p.query), 1, 0, seed))
    guesses = from_measured(space, space.test, pools, help_model, tools, measured, both, penalties)
    guesses["FLOPs"] = space.flops[both]
    chosen, predicted = {"oracle": constrained_search(true, score, limits)}, {}
    for name, guess in guesses.items():
        predicted[name] = to_milliseconds(guess[..., -10:], ms, guess[..., :-10])[:, 0]
        chosen[name] = constrained_search(predicted[name], score, limits)
    return chosen | {"limits": limits, "true": true, "predicted": predicted}


PRINTED = {  # device: (limits in ms, achieved ms, accuracy in %), authors' README
    "titan_rtx_256": ((18, 21, 25), (17.8, 18.9, 24.2), (69.7, 71.5, 71.8)),
    "gold_6226": ((8, 11, 14), (8.0, 10.7, 14.3), (67.3, 70.2, 72.1)),
    "pixel2": ((14, 18, 22), (13, 19, 25), (69.7, 71.8, 73.2)),
    "eyeriss": ((5, 7, 9), (3.9, 5.1, 9.1), (71.5, 71.8, 73.5)),
    "fpga": ((4, 5, 6), (3.8, 4.7, 7.4), (70.2, 71.8, 73.5)),
}
paper_limits = np.array([PRINTED.get(d, ((0, 0, 0),))[0] for d in MAIN.test], float)
index, score, accuracy = candidates_for(MAIN)
with s.section("search"):
    found = {
        seed: s.memo(
            "search",
            search_all,
            seed=seed,
            space=MAIN,
            help_model=to_device(models[MAIN.name, "HELP", seed]),
            index=index,
            score=score,
            extra_limits=paper_limits,
            device=s.device.type,
        )
        for seed in s.seeds
    }

# %% tags=["hide-input"]
SEARCHERS = list(dict.fromkeys(["oracle", "HELP", "ridge on counts", "source mix", chosen, "FLOPs"]))
rows = []
for name in SEARCHERS:
    picks = [found[seed][name][:, :9] for seed in s.seeds]
    got = [accuracy[p] for p in picks]
    ms = [np.take_along_axis(found[seed]["true"], p, 1) for seed, p in zip(s.seeds, picks, strict=True)]
    over = [m / found[seed]["limits"][:, :9] for seed, m in zip(s.seeds, ms, strict=True)]
    a = s.metric(f"search/{MAIN.name}/{key(name)}/accuracy", [x.mean() for x in got], unit="%")
    v = s.metric(
        f"search/{MAIN.name}/{key(name)}/violations", [100 * (x > 1).mean() for x in over], unit="%"
    )
    e = s.metric(
        f"search/{MAIN.name}/{key(name)}/mean-excess",
        [100 * np.maximum(x - 1, 0).mean() for x in over],
        unit="%",
    )
    both = s.metric(
        f"search/{MAIN.name}/{key(name)}/accuracy-within-limit",
        [np.where(x <= 1, g, 0).mean() for x, g in zip(over, got, strict=True)],
        unit="%",
    )
    rows.append(f"| {name} | {a.value:.2f} | {v.value:.1f} | {e.value:.1f} | {both.value:.2f} |")
s.say(
    f"Over {len(MAIN.test)} test devices and nine limits each, ten measurements, {len(s.seeds)} seed(s):\n\n"
    "| method | accuracy (%) | limits broken (%) | mean excess (%) | accuracy if a broken limit counts as 0 (%) |\n|---|---|---|---|---|\n"
    + "\n".join(rows)
)


# %% mystnb={"figure": {"caption": "Left: Pareto fronts on one test device, true and as HELP and a ridge predict them; a predicted front is drawn at the true latencies of its members, so that steps back to the left are mistakes. Right: accuracy of what a search returns, against its limit.", "name": "fig-help-pareto"}, "image": {"alt": "Left, accuracy against true latency of all candidates as grey dots, with three lines: the true Pareto front and the fronts predicted by HELP and by ridge regression. Right, a line for an oracle, for HELP and for ridge regression: accuracy of the choice against the latency limit in milliseconds."}} tags=["hide-input"]
def front(latency_ms):
    """Candidates that no faster one beats in accuracy, by rising latency: indices."""
    order = np.lexsort((-accuracy, latency_ms))
    best = np.maximum.accumulate(accuracy[order])
    return order[np.concatenate([[True], best[1:] > best[:-1]])]


where = MAIN.test.index("pixel2") if "pixel2" in MAIN.test else 0
one = found[s.seeds[0]]
true_ms = one["true"][where]
fig, axes = plots.figure(1, 2, width=8.0, height=3.6, sharey=True)
plots.points(axes[0], true_ms, accuracy, colour=plots.MUTED)
for name in ("oracle", "HELP", "ridge on counts"):
    how, pick = plots.style(LOOK[name]), one[name][where][:9]
    members = front(true_ms if name == "oracle" else one["predicted"][name][where])
    line = {"color": how.colour, "marker": how.marker, "linestyle": how.line, "markersize": 4, "lw": 1.3}
    axes[0].plot(true_ms[members], accuracy[members], label="true" if name == "oracle" else name, **line)
    axes[1].plot(one["limits"][where][:9], accuracy[pick], label=name, **line)
floor = min(accuracy[one[n][where][:9]].min() for n in ("oracle", "HELP", "ridge on counts"))
axes[0].set(
    title=f"fronts, {MAIN.test[where]}",
    xlabel="true latency (ms)",
    ylabel="accuracy (%)",
    ylim=(floor - 4, accuracy.max() + 1),
)
axes[1].set(title="searches", xlabel="latency limit (ms)")
axes[0].legend(loc="lower right")
axes[1].legend(loc="lower right")
plots.finish(fig)

# %% [markdown]
# The authors' README lists achieved latencies beside the limits of their searches; here they are next to ours at the same limits, our first seed.
# (For the third limit of pixel2 the README says 22 ms and a file name 25 ms.)

# %% tags=["hide-input"]
printed = [
    (d, i, limit, ms, acc)
    for d, rows_ in PRINTED.items()
    for i, (limit, ms, acc) in enumerate(zip(*rows_, strict=True))
]
broken = [row for row in printed if row[3] > row[2]]
share = 100 * len(broken) / len(printed)
s.metric("search/paper/violations", share, low=share, high=share, unit="%")
rows = []
for device, i, limit, ms, acc in printed:
    if device in MAIN.test:
        row = MAIN.test.index(device)
        cells_ = [
            f"{one['true'][row, one[n][row, 9 + i]]:.1f} ms, {accuracy[one[n][row, 9 + i]]:.1f} %"
            for n in ("HELP", chosen, "oracle")
        ]
        rows.append(
            f"| {device} | {limit} | {ms} ms, {acc} %{' (over)' if ms > limit else ''} | "
            + " | ".join(cells_)
            + " |"
        )
if rows:
    s.say(
        f"| device | limit (ms) | paper | HELP | {chosen} | oracle |\n|---|---|---|---|---|---|\n"
        + "\n".join(rows)
    )
s.say(f"Of the paper's {len(printed)} printed searches, {len(broken)} exceed their limit.")

# %% [markdown]
# ## The claims
#
# A verdict is computed by the rule in the cell, from the interval over seeds.
# *Reproduced* needs the whole interval on the claimed side, *contradicted* the whole interval on the other.
#
# The bar for ranking lies a little under the paper's figure (0.92 and 0.90), because that figure comes from one set of draws and is itself uncertain.
#
# *First edition:* verdicts by the first edition's rules; see [Errata](../book/errata.md).

# %% tags=["hide-input"]
BAR = {"nb201": 0.92, "fbnet": 0.90}


def claim(id, statement, test, *rules):
    """A claim about metrics, each with the rule that judges it."""
    s.claim(
        id,
        statement,
        metrics=[metric for metric, _ in rules],
        test=test,
        rule=verdicts.all_of(*(rule for _, rule in rules)),
    )


def above(metric, than=0.0):
    return metric, verdicts.greater(metric, than)


for space in SPACES:
    n, bar = space.name, BAR.get(space.name, 0.9)
    d, mean = f"difference/{n}", f"spearman/{n}/help/mean"
    claim(
        f"few-shot-{n}",
        f"HELP ranks the architectures of unseen devices after ten adaptation measurements ({n})",
        f"mean Spearman at least {bar}",
        (mean, verdicts.at_least(mean, bar)),
    )
    claim(
        f"beats-maml-{n}",
        f"HELP ranks better than MAML with as many measurements ({n})",
        "difference above 0",
        above(f"{d}/help-minus-maml-20-measured"),
    )
    claim(
        f"beats-meta-sgd-{n}",
        f"HELP ranks better than Meta-SGD with as many measurements ({n})",
        "difference above 0",
        above(f"{d}/help-minus-meta-sgd-20-measured"),
    )
    claim(
        f"embedding-{n}",
        f"The hardware embedding helps ({n})",
        "HELP without modulator minus Meta-SGD above 0",
        above(f"{d}/embedding"),
    )
    claim(
        f"modulator-{n}",
        f"The modulator helps ({n})",
        "difference above 0",
        above(f"{d}/help-minus-no-modulator"),
    )
    claim(
        f"adaptation-{n}",
        f"The inner steps help ({n})",
        "two steps minus none above 0",
        above(f"adaptation/{n}/two-steps-minus-none"),
    )
    claim(
        f"cheaper-{n}",
        f"HELP does not fall behind a graph network trained on the target's whole pool ({n})",
        "difference above -0.01",
        above(f"{d}/help-minus-gcn-{max(GCN)}", -0.01),
    )
    claim(
        f"beats-flops-{n}",
        f"HELP ranks better than FLOPs, which need no measurement ({n})",
        "difference above 0",
        above(f"{d}/help-minus-flops"),
    )
    claim(
        f"beats-ridge-{n}",
        f"HELP ranks better than a ridge on operation counts with the same twenty measurements ({n})",
        "difference above 0",
        above(f"{d}/twenty-measured-help-minus-ridge-on-counts"),
    )
    claim(
        f"beats-mix-{n}",
        f"HELP ranks better than a mix of source tables with the same twenty measurements ({n})",
        "difference above 0",
        above(f"{d}/twenty-measured-help-minus-source-mix"),
    )
    few = f"{d}/help-twenty-minus-ten-measured"
    claim(
        f"ten-is-ten-{n}",
        f"HELP with ten measurements in all loses little against twenty ({n})",
        "loss at most 0.01",
        (few, verdicts.at_most(few, 0.01)),
    )
violations = f"search/{MAIN.name}/help/violations"
claim(
    "search-meets-limits",
    "A search with HELP's predictions returns architectures that meet the latency limit",
    "at most 5 % of limits broken",
    (violations, verdicts.at_most(violations, 5.0)),
)
ten = "ten-measurements/ours-minus"
claim(
    "ours-beats-help",
    f"Beyond the paper: {chosen} beats HELP at ten measurements, mean of the spaces",
    "difference above 0, bootstrap over test devices",
    above(f"{ten}-help"),
)
claim(
    "ours-beats-trivial",
    f"Beyond the paper: {chosen} beats the strongest trivial baseline at ten measurements, mean of the spaces",
    "difference above 0, bootstrap over test devices",
    above(f"{ten}-strongest-trivial"),
)
claim(
    "ours-beats-hindsight",
    f"Beyond the paper: {chosen} beats even the best trivial baseline of each space, picked after seeing the test",
    "difference above 0, bootstrap over test devices",
    above(f"{ten}-trivial-in-hindsight"),
)
s.claims_table()

# %% [markdown]
# ## Where it breaks
#
# **The draw.**
# On the device with the largest spread, HELP's quality depends on which ten architectures happened to be measured ([figure](#fig-help-by-device)).
# A paper that reports one draw reports luck; twenty draws are the least.
#
# **The extremes.**
# Dropping the fastest and slowest tenth hides the cases that a search cares about, the fast ones.
# It also changes the number that is reported, because the range that is ranked changes; the lines below rank the whole query pool with the same models.
#
# **The baseline.**
# Cells may be nearly price lists of operations, chains nearly sums of arithmetic; the shares of variance in [the data](#the-data-looked-at) say how nearly.
# How far FLOPs alone go differs between validation and test devices, as the lines below show, so whoever chooses features on the validation devices carries that difference into the test.
#
# **Kinship.**
# A new device is easy when it resembles an old one.
# The last figure of each line is the best correlation of a test device's references with a training device's.
# (The accelerators' tables come, as far as we know, from analytical models and not from a clock {cite:p}`li2021hwnasbench`.)

# %% tags=["hide-input"]
for space in SPACES:
    best_flops, best_help = np.mean(per_seed(space, "FLOPs")), np.mean(per_seed(space, "HELP"))
    ridge_refs, ridge_random = (
        np.mean(per_seed(space, "10 measured/ridge on counts")),
        np.mean(per_seed(space, "ridge on counts")),
    )
    truth, pools = query_truth(space, space.valid)
    valid_flops = spearman(space.flops[pools.query], truth).mean()
    s.say(
        f"**{space.name}**: FLOPs, with no measurement, {best_flops:.3f} on the test devices and {valid_flops:.3f} on the validation devices; HELP with twenty, {best_help:.3f}; ridge on counts with ten random cells {ridge_random:.3f}, "
        f"with the ten references {ridge_refs:.3f}. Kinship: "
        + ", ".join(
            f"{d} {max(np.corrcoef(space.latency[t][space.reference], space.latency[d][space.reference])[0, 1] for t in space.train):.2f}"
            for d in space.test
        )
        + "."
    )


# %% tags=["hide-input"]
def untrimmed(model, space, seed):
    """HELP at the published protocol on all of the query architectures: Spearman (devices,)."""
    pools = space.pools(space.test)
    whole_pool = np.arange(space.n_support, space.n_support + space.n_query)
    query = np.tile(
        np.setdiff1d(whole_pool, space.reference), (len(space.test), 1)
    )  # a reference is no query
    truth = np.stack([space.latency[d][q] for d, q in zip(space.test, query, strict=True)])
    whole = replace(pools, query=query, query_y=truth)
    make_graphs, encode = ENCODERS[space.kind]
    return published_protocol(
        model, space, whole, make_graphs(space.ops, s.device), encode, draw(pools, DRAWS, 10, seed)
    ).mean(1)


for space in SPACES:
    all_of_them = np.stack(
        [untrimmed(to_device(models[space.name, "HELP", seed]), space, seed) for seed in s.seeds]
    )
    trimmed = np.stack([scores[space.name, seed]["HELP"].mean(1) for seed in s.seeds])
    for device, a, b in zip(space.test, trimmed.T, all_of_them.T, strict=True):
        s.metric(f"untrimmed/{space.name}/help/{device}", b)
        print(f"{space.name:9} {device:14} trimmed {a.mean():.3f}   whole query pool {b.mean():.3f}")

# %% [markdown]
# ## Deviations

# %% tags=["hide-input"]
s.deviation(
    "Adam at 3e-4 for 1,000 (cells) and 1,500 (chains) episodes at `standard`, not 1e-4 for 2,000 and 4,000; `paper` has the authors' schedule.",
    "fewer episodes at a larger step; the headline metric shows whether quality suffers",
)
s.deviation(
    "The best episode is chosen on validation devices only, five draws each; the authors' code keeps a checkpoint when training or validation devices improve.",
    "slightly lower numbers, and none that lean on training devices",
)
s.deviation(
    "The KL term sums over the episode's tasks; the authors' code adds the last task's term once per task.",
    "equal in expectation",
)
s.deviation(
    "The mean of z is used at test time, not the last of ten samples.",
    "small: what z modulates is scaled by 0.01",
)
s.deviation(
    "Architectures of the query pool are scaled by the support pool's extremes.",
    "none on rank correlation",
)
s.deviation(
    "NAS-Bench-201 operation order in the one-hot code is ours; the authors' file of encoded graphs was not at hand.",
    "none: the network learns from scratch",
)
s.deviation(
    "OFA, the transformer space HAT and searches on ImageNet are left out.",
    "two of the paper's four spaces are tested",
)
s.deviation(
    "The per-device graph network stands for BRP-NAS; it shares HELP's encoder and loss and not BRP-NAS's ranking model.",
    "the comparison is with a per-device network of equal form, not with BRP-NAS itself",
)
s.deviation(
    "The search takes the best-scored candidate within the limit, at deciles of latency, in milliseconds by a line through ten references; the paper tries three candidates and reports the best true accuracy, at hand-set limits.",
    "lower accuracy than a search that looks at three true accuracies; its broken limits count",
)
s.deviation(
    "At ten measurements in all, the references serve as support set.",
    "lower on cells, where adaptation matters more",
)
s.deviations_table()


# %% [markdown]
# ## Exercises
#
# Each exercise has a check that you can run, and a solution.
#
# ### Exercise 1 (★☆☆): what a rank correlation cannot see
#
# Write `distort(ms)` that changes every latency, by more than a shift or a factor, and leaves every Spearman correlation as it was.

# %% tags=["exercise"]
def distort(ms):
    """(n,) -> (n,)"""
    return None  # your code


def check_distort(function):
    ms = MAIN.latency[MAIN.test[0]]
    out = function(ms)
    assert (
        np.isclose(spearman(out, ms), 1)
        and not np.allclose(np.corrcoef(out, ms)[0, 1], 1)
        and (out != ms).all()
    )
    return "Exercise 1: correct"


if distort(np.ones(3)) is not None:
    print(check_distort(distort))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def distort_solution(ms):
    return np.exp(ms / ms.max())  # any strictly increasing function that is not a line


print(check_distort(distort_solution))


# %% [markdown]
# ### Exercise 2 (★☆☆): a faster twin
#
# A vendor ships the same device at twice the clock: every latency is halved.
# Write the embedding of a device from its latencies, and let the check show that HELP cannot tell the two apart.

# %% tags=["exercise"]
def embed(ms):
    """Hardware embedding (10,) of a device with latencies ms (n,), equation (eq-help-embedding)."""
    return None  # your code


def check_embed(function):
    ms = MAIN.latency[MAIN.test[0]]
    assert np.allclose(function(ms), MAIN.pools([MAIN.test[0]]).embedding[0])
    assert np.allclose(function(ms), function(ms / 2))  # the twin
    return "Exercise 2: correct"


if embed(MAIN.latency[MAIN.test[0]]) is not None:
    print(check_embed(embed))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def embed_solution(ms):
    reference = ms[MAIN.reference]
    return (reference - reference.min()) / np.ptp(reference)


print(check_embed(embed_solution))


# %% [markdown]
# ### Exercise 3 (★★☆): the gradient without the second order
#
# In the toy of [the first section](#by-hand-one-device-one-weight), write the derivative of the outer loss by $w$, once in full and once with the second derivative of the inner loss left out.

# %% tags=["exercise"]
def outer_slopes(w, a, alpha):
    """(full derivative, first-order derivative) of (w' - a)^2 by w."""
    return None  # your code


def check_slopes(function):
    w, a, alpha = torch.tensor(3.0, dtype=torch.float64, requires_grad=True), 5.0, 0.2
    (g,) = torch.autograd.grad((w - a) ** 2, w, create_graph=True)
    (full,) = torch.autograd.grad((w - alpha * g - a) ** 2, w, retain_graph=True)
    (first,) = torch.autograd.grad((w - alpha * g.detach() - a) ** 2, w)
    assert np.allclose(function(3.0, a, alpha), (full.item(), first.item()))
    return "Exercise 3: correct"


if outer_slopes(3.0, 5.0, 0.2) is not None:
    print(check_slopes(outer_slopes))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def outer_slopes_solution(w, a, alpha):
    left = (1 - 2 * alpha) * (w - a)  # w' - a
    return 2 * left * (1 - 2 * alpha), 2 * left


print(check_slopes(outer_slopes_solution))


# %% [markdown]
# ### Exercise 4 (★★☆): a safety margin
#
# Searches break limits because predictions err.
# Write `with_margin(predicted, score, limits, margin)` that shrinks the limits by a share `margin`, and see on the printed lines what a margin costs in accuracy and saves in broken limits.

# %% tags=["exercise"]
def with_margin(predicted, score, limits, margin):
    """Candidates chosen for limits (l,) from predicted latencies (c,) and scores (c,): indices (l,)."""
    return None  # your code


def check_margin(function):
    true, limits = found[s.seeds[0]]["true"][0], found[s.seeds[0]]["limits"][0, :9]
    noisy = true * np.exp(0.1 * np.random.default_rng(0).standard_normal(len(true)))
    picks = {m: function(noisy, score, limits, m) for m in (0.0, 0.1, 0.3)}
    broken = [float((true[p] > limits).mean()) for p in picks.values()]
    assert broken[0] >= broken[1] >= broken[2]
    assert np.array_equal(function(true, score, limits, 0.0), constrained_search(true, score, limits))
    lines = [
        f"margin {m}: {b:.0%} of limits broken, mean accuracy {accuracy[p].mean():.1f} %"
        for (m, p), b in zip(picks.items(), broken, strict=True)
    ]
    return "Exercise 4: correct\n" + "\n".join(lines)


if with_margin(np.ones(3), np.ones(3), np.ones(1), 0.0) is not None:
    print(check_margin(with_margin))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def with_margin_solution(predicted, score, limits, margin):
    return constrained_search(predicted, score, limits * (1 - margin))


print(check_margin(with_margin_solution))


# %% [markdown]
# ### Exercise 5 (★★★): measure what teaches most
#
# Ten random cells may repeat each other.
# Write `design(features, pool, k)` that picks k architectures from `pool` for a ridge on `features` by greedy D-optimality: always the one whose leverage $x^\top (X^\top X + \lambda I)^{-1} x$ is largest.

# %% tags=["exercise"]
def design(features, pool, k, penalty=0.1):
    """Indices (k,) of architectures to measure."""
    return None  # your code


def check_design(function):
    features, pool = MAIN.counts() - MAIN.counts().mean(0), np.arange(MAIN.n_support)

    def volume(index):
        return np.linalg.slogdet(features[index].T @ features[index] + 0.1 * np.eye(features.shape[1]))[
            1
        ]

    chosen = function(features, pool, 10)
    rng = np.random.default_rng(0)
    assert len(set(map(int, chosen))) == 10 and volume(chosen) > max(
        volume(rng.permutation(pool)[:10]) for _ in range(50)
    )
    return "Exercise 5: correct"


if design(np.eye(3), np.arange(3), 1) is not None:
    print(check_design(design))


# %% mystnb={"code_prompt_hide": "Hide the solution", "code_prompt_show": "Show the solution"} tags=["solution", "hide-input"]
def design_solution(features, pool, k, penalty=0.1):
    inverse, chosen = np.eye(features.shape[1]) / penalty, []
    for _ in range(k):
        leverage = ((features[pool] @ inverse) * features[pool]).sum(1)
        leverage[np.isin(pool, chosen)] = -np.inf
        x = features[pool[int(leverage.argmax())]]
        chosen.append(pool[int(leverage.argmax())])
        inverse -= np.outer(inverse @ x, inverse @ x) / (1 + x @ inverse @ x)  # one more row in X
    return np.array(chosen)


print(check_design(design_solution))

# %% [markdown]
# ## Check yourself
#
# 1. Why can a single `autograd.grad` of a summed loss give every device its own gradient?
#
# <details><summary>Answer</summary>
#
# The weights are stacked per device, and device $t$'s loss depends on slice $t$ alone, so the gradient of the sum by slice $t$ is the gradient of loss $t$.
#
# </details>
#
# 2. What does the hardware embedding not contain?
#
# <details><summary>Answer</summary>
#
# The speed of the device: it is scaled to the unit interval, so two devices that differ by a factor share it.
#
# </details>
#
# 3. How many measurements does the published protocol spend on a new device?
#
# <details><summary>Answer</summary>
#
# Twenty: ten references for the embedding and ten random architectures to adapt to; and its label scale uses the extremes of the whole pool.
#
# </details>
#
# 4. Why are the 31 shared states exact and not an approximation?
#
# <details><summary>Answer</summary>
#
# A node's state depends only on the operations at the nodes it gathers from, layer after layer; for the edges that leave the input that is one operation, for the two that leave node 1 a pair, so equal inputs give equal states.
#
# </details>
#
# 5. Why may features that were chosen on the validation devices mislead on the test devices?
#
# <details><summary>Answer</summary>
#
# The validation devices are kin of the training devices, and some test devices are not.
# The target's own ten measurements can tell which it resembles.
#
# </details>
#
# ## Summary
#
# HELP learns a starting point, a step size for every weight and a modulator, such that two gradient steps on ten measurements give a latency predictor for an unseen device.
# The published protocol spends twenty measurements on a device.
# What is left of the claims once draws, measurements and simple regressions are counted, the table says; in short:

# %% tags=["hide-input"]
by_verdict = {}
for claim in s.record().claims:
    by_verdict.setdefault(claim.verdict, []).append(claim.statement)
s.say(
    "\n".join(
        f"- **{verdict}**: " + "; ".join(statements) + "." for verdict, statements in by_verdict.items()
    )
)

# %% [markdown]
# Further reading: BRP-NAS {cite:p}`dudziak2020brpnas` for predictors per device, HW-NAS-Bench {cite:p}`li2021hwnasbench` for where the tables come from, and {cite:t}`akhauri2024nasflat` for later work on few-shot latency.
#
# ## Run card

# %%
s.finish()
s.run_card()
