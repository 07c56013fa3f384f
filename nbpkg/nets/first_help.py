"""HELP's predictor as chapters 02 and 04 of the first edition use it: one seed at a time, cells alone.

Chapter 03 of the second edition trains all seeds at once, and its modulator scales the inputs of layers, as
the authors' code does; here it scales outputs. This stays until the chapters that use it are written anew.
"""

import itertools
import time

import numpy as np
import torch

from nbpkg.data import latency
from nbpkg.nets.latency_encoders import CellGraphs, encode_cells, linear
from nbpkg.report.stats import spearman

GRAPH_WIDTHS, CHAIN_WIDTHS, Z = (8, 100, 100, 100, 100), (132, 100, 100), 603
ENCODERS = {"cell": (CellGraphs, encode_cells)}


def init_predictor(kind, generator, embedding=True):
    """Weights of the predictor: 123,001 numbers for cells, 115,201 for chains."""

    def uniform(bound, *shape):
        return (torch.rand(*shape, generator=generator) * 2 - 1) * bound

    theta, widths = {}, GRAPH_WIDTHS if kind == "cell" else CHAIN_WIDTHS
    for layer, (n_in, n_out) in enumerate(itertools.pairwise(widths), 1):
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
    """HELP's equation head for stacked tasks: embedding (tasks, 10) -> predictions (tasks, m)."""
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
    """HELP's equation kl, (tasks, 603) -> (tasks,)."""
    return ((deviation**2 + mean**2 - 1) / 2 - torch.log(deviation)).sum(-1)


def modulate(theta, z):
    """HELP's equation modulator on stacked weights; z (tasks, 603)."""
    z3, z4, z5, z_bias = z[:, None].split([200, 200, 200, 3], -1)
    scale = {"V3": z3, "V3u": z3, "V4": z4, "V5": z5.transpose(1, 2)}
    theta = {k: v * (1 + 0.01 * scale[k]) if k in scale else v for k, v in theta.items()}
    return theta | {k: theta[k] + 0.01 * z_bias[..., i : i + 1] for i, k in enumerate(("v3", "v4", "v5"))}


def adapt(theta, alpha, batch, embedding, y, encode, steps, second_order=False):
    """`steps` inner steps for stacked weights; y (tasks, k). Steps keep their graph if second order."""
    if not second_order:
        theta = {k: v.detach().requires_grad_() for k, v in theta.items()}
    for _ in range(steps):
        loss = (predict(theta, batch, embedding, encode) - y).square().mean(1).sum()
        slopes = torch.autograd.grad(loss, list(theta.values()), create_graph=second_order)
        theta = {k: v - alpha[k] * g for (k, v), g in zip(theta.items(), slopes, strict=True)}
        if not second_order:
            theta = {k: v.detach().requires_grad_() for k, v in theta.items()}
    return theta


def episode_loss(model, graphs, pools, generator, encode, steps, tasks=8, k=10, q=200):
    """HELP's equation outer on one random episode of `pools` (support, y, embedding tensors)."""
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
    theta = adapt(theta, model["alpha"], graphs(index[:, :k]), h, y[:, :k], encode, steps, second_order=True)
    error = (predict(theta, graphs(index[:, k:]), h, encode) - y[:, k:]).square().mean()
    return error + 0.1 * penalty


def few_shot(model, graphs, encode, embedding, measured, y, query, steps=2, chunk=16):
    """Predictions (tasks, q) on `query` (tasks, q) after `steps` on `measured` (tasks, k) with labels y."""
    theta = stacked(model["theta"], len(embedding))
    if model["phi"]:
        theta = modulate(
            theta, posterior(model["phi"], embedding)[0]
        )  # the mean of z: nothing random at test time
    parts = []
    for i in range(0, len(embedding), chunk):
        rows = slice(i, i + chunk)
        part = {name: value[rows] for name, value in theta.items()}
        part = adapt(part, model["alpha"], graphs(measured[rows]), embedding[rows], y[rows], encode, steps)
        with torch.no_grad():
            parts.append(predict(part, graphs(query[rows]), embedding[rows], encode))
    return torch.cat(parts)


def tensors(device, *arrays):
    """Integer arrays as int64 and the rest as float32 tensors on the device."""

    def kind(a):
        return torch.int64 if np.asarray(a).dtype.kind in "iu" else torch.float32

    return tuple(torch.as_tensor(np.asarray(a), dtype=kind(a), device=device) for a in map(np.array, arrays))


def draw(pools, draws, k, seed):
    """Positions in the support pools of k random measurements: int64 (devices, draws, k)."""
    rng = np.random.default_rng([seed, k])
    return rng.random((len(pools.support), draws, pools.support.shape[1])).argsort(-1)[..., :k]


def published_protocol(model, space, pools, graphs, encode, picks, steps=2):
    """HELP's test with `picks` (devices, draws, k) measured: Spearman (devices, draws)."""
    n, draws, k = picks.shape

    def repeat(a):
        return np.repeat(a, draws, axis=0)

    flat = picks.reshape(n * draws, k)
    arrays = (
        repeat(pools.embedding), np.take_along_axis(repeat(pools.support), flat, 1),
        np.take_along_axis(repeat(pools.support_y), flat, 1), repeat(pools.query),
    )  # fmt: skip
    out = few_shot(model, graphs, encode, *tensors(model["theta"]["V5"].device, *arrays), steps)
    return spearman(out.cpu().numpy().reshape(n, draws, -1), pools.query_y[:, None])


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


def measured_sets(space, n_devices, draws, extra, seed):
    """References plus `extra` random others of the support pool: indices (devices, draws, 10 + extra)."""
    others = np.setdiff1d(np.arange(space.n_support), space.reference)
    order = np.random.default_rng([seed, extra, 1]).random((n_devices, draws, len(others))).argsort(-1)
    reference = np.broadcast_to(space.reference, (n_devices, draws, len(space.reference)))
    return np.concatenate([reference, others[order[..., :extra]]], -1)


def measure(space, devices, measured):
    """Latencies in ms of `measured` (devices, draws, k)."""
    return np.stack([space.latency[d][m] for d, m in zip(devices, measured, strict=True)])


def help_from_measured(model, space, pools, graphs, encode, measured, ms, query, steps=2):
    """HELP adapted to the measured set, scaled by its own extremes: (devices, draws, q)."""
    shape = measured.shape[:2]

    def flat(a):
        return np.broadcast_to(a, (*shape, a.shape[-1])).reshape(shape[0] * shape[1], -1)

    y = 0.05 + 0.9 * latency.unit_scale(ms)
    batch = tensors(
        model["theta"]["V5"].device, flat(pools.embedding[:, None]), flat(measured), flat(y), flat(query)
    )
    return few_shot(model, graphs, encode, *batch, steps).cpu().numpy().reshape(*shape, -1)


def to_milliseconds(at_measured, ms, guess):
    """Line from predictions (..., k) at measured points to ms (..., k), applied to guess (..., q)."""
    x, y = at_measured - at_measured.mean(-1, keepdims=True), ms - ms.mean(-1, keepdims=True)
    slope = (x * y).sum(-1, keepdims=True) / ((x * x).sum(-1, keepdims=True) + 1e-12)
    return ms.mean(-1, keepdims=True) + slope * (guess - at_measured.mean(-1, keepdims=True))


def constrained_search(predicted, score, limits):
    """Best-scored candidate within each limit, else the fastest: (..., c), (c,), (..., l) -> (..., l)."""
    fits = predicted[..., None, :] <= limits[..., :, None]
    best = np.where(fits, score, -np.inf).argmax(-1)
    return np.where(fits.any(-1), best, predicted.argmin(-1)[..., None])


def trained(session):
    """The predictor at the session's profile, kept by it: weights, steps and modulator of its first seed."""
    space = latency.load(session.choose(smoke="embedded", standard="nb201"))
    episodes, rate, every = session.choose(
        smoke=(40, 1e-3, 20), standard=(1000, 3e-4, 50), paper=(2000, 1e-4, 50)
    )
    return session.memo(
        f"{space.name}-HELP",
        meta_train,
        seed=session.seeds[0],
        space=space,
        device=session.device.type,
        episodes=episodes,
        rate=rate,
        every=every,
    )
