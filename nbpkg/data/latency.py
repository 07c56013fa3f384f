"""Latency tables of whole search spaces on many devices, as HELP and its baselines need them.

Four spaces share one form, `LatencySpace`:

- `nb201`: the 15,625 cells of NAS-Bench-201, 19 devices of the HELP authors' tables (public data);
- `fbnet`: 5,000 networks of the FBNet space, 16 devices of the same tables (public data);
- `ofa`: 5,000 networks of the Once-for-All space, 12 devices of the same tables (public data);
- `embedded`: cells of NAS-Bench-201 timed by this project on settings of one machine (ships with nbpkg).

Splits and reference architectures of the public spaces are those of the authors' code (github HayeonLee/HELP,
commit 45f70eb).
"""

from __future__ import annotations

import itertools
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nbpkg import data
from nbpkg.data import fbnet, latency_table, ofa, read
from nbpkg.errors import NbpkgError
from nbpkg.nb201 import costs
from nbpkg.nb201 import space as cells

_SPACES = tomllib.loads(Path(__file__).with_name("latency.toml").read_text(encoding="utf-8"))
N_QUERY = 1_000


@dataclass(frozen=True)
class LatencySpace:
    """Every architecture of a search space, with its latency on every device.

    `ops` int64 (n, positions): the operation at each position of each architecture, in `range(n_ops)`.
    `latency` maps a device to float64 (n,), in milliseconds. `reference` (10,) indexes the architectures
    whose latencies describe a device. `train`, `valid` and `test` name devices. The first `n_support`
    architectures may be measured on a new device; the `n_query` after them are what is predicted. `flops` and
    `params` are float64 (n,).
    """

    name: str
    kind: str  # "cell" (six edges of a fixed graph), "chain" (22 layers of FBNet) or "ofa" (20 layers)
    ops: np.ndarray
    n_ops: int
    latency: dict[str, np.ndarray]
    reference: np.ndarray
    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]
    n_support: int
    n_query: int
    flops: np.ndarray
    params: np.ndarray
    data_set: str | None = None
    others: tuple[str, ...] = ()  # devices of the same tables that the authors' split leaves out
    resolution: np.ndarray | None = None  # (n,) pixels, where it is part of the architecture

    def __len__(self) -> int:
        return len(self.ops)

    def counts(self) -> np.ndarray:
        """How often each operation occurs in each architecture, float64 (n, n_ops); then pixels, if any."""
        if self.resolution is None:
            return self.one_hot().sum(1)
        return np.concatenate([self.one_hot().sum(1), self.resolution[:, None] / 16], 1)

    def one_hot(self) -> np.ndarray:
        """Float64 (n, positions, n_ops)."""
        return (self.ops[..., None] == np.arange(self.n_ops)).astype(np.float64)

    def cost_features(self) -> np.ndarray:
        """What an architecture costs by its description alone, float64 (n, features), in natural units.

        Cells: operations of each kind that lie on a live path. Chains: multiply-adds of point-wise, 3x3 and
        5x5 depth-wise convolutions, parameters, output values and layers. OFA: as `ofa.costs`.
        """
        if self.resolution is not None:
            return ofa.costs(self.ops, self.resolution)
        if self.kind == "cell":
            live = cells.live_edges(self.ops)
            used = [((self.ops == op) & live).sum(1) for op in range(1, self.n_ops)]
            return np.stack(used, 1).astype(np.float64)
        chosen = fbnet.block_costs()[np.arange(self.ops.shape[1]), self.ops]
        kernel_5 = self.ops >= self.n_ops // 2
        spatial = [(chosen[..., 1] * (kernel_5 == five)).sum(1) for five in (False, True)]
        present = (self.ops < fbnet.SKIP).sum(1)
        pointwise, parameters, activations = (chosen[..., i].sum(1) for i in (0, 2, 3))
        return np.stack([pointwise, *spatial, parameters, activations, present], 1)

    def vectors(self) -> np.ndarray:
        """The authors' encoding of architectures that are no graphs: float64 (n, 132) or, OFA, (n, 145)."""
        return fbnet.vectors(self.ops) if self.kind == "chain" else ofa.vectors(self.ops, self.resolution)

    def position_features(self) -> np.ndarray:
        """One-hot choice at every position and of the resolution, counts, costs: float64 (n, features)."""
        parts = [self.one_hot().reshape(len(self), -1), self.counts(), self.cost_features()]
        if self.resolution is not None:
            parts.append((self.resolution[:, None] == np.unique(self.resolution)).astype(np.float64))
        return np.concatenate(parts, 1)

    def pools(self, devices) -> Pools:
        """Support and query pools of these devices, trimmed and scaled as in the authors' `loader.py`."""
        parts = [self._pool(device) for device in devices]
        return Pools(tuple(devices), *(np.stack(part) for part in zip(*parts, strict=True)))

    def _pool(self, device: str):
        if device not in self.latency:
            raise NbpkgError(f"no device {device!r} in {self.name}; it has {', '.join(sorted(self.latency))}")
        latency, n = self.latency[device], self.n_support
        support, query = _trim(latency, 0, n), _trim(latency, n, n + self.n_query)
        low, high = latency[support].min(), latency[support].max()
        scaled = (0.05 + 0.9 * (latency[index] - low) / (high - low) for index in (support, query))
        return support, query, *scaled, low, high, unit_scale(latency[self.reference])

    def relabel(self, **changes) -> LatencySpace:
        """A copy with some fields changed, for ablations such as fewer training devices."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Pools:
    """Per device (leading axis d): what may be measured, what is predicted, how the device is described.

    `support` int64 (d, s) and `query` int64 (d, q) are architecture indices; `support_y` and `query_y` are
    the scaled latencies, mapped so that the support pool spans 0.05 to 0.95; `low` and `high` (d,) are the
    pool's extremes in ms; `embedding` (d, 10) holds the reference latencies scaled to 0..1 among themselves.
    """

    devices: tuple[str, ...]
    support: np.ndarray
    query: np.ndarray
    support_y: np.ndarray
    query_y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    embedding: np.ndarray


def _trim(latency: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Indices in [start, stop) without the fastest and the slowest tenth on this device."""
    order = start + np.argsort(latency[start:stop], kind="stable")
    cut = len(order) // 10
    return order[cut : len(order) - cut]


def unit_scale(latency: np.ndarray) -> np.ndarray:
    """Scale the last axis to 0..1 by its own extremes; all-equal values give zeros. Shape is kept."""
    low, high = latency.min(-1, keepdims=True), latency.max(-1, keepdims=True)
    return (latency - low) / np.where(high > low, high - low, 1.0)


_EMBEDDED_REFERENCE_SEED, _EMBEDDED_C, _EMBEDDED_N = 3, 16, 1


def load(name: str) -> LatencySpace:
    """The space `nb201`, `fbnet`, `ofa` (public data, `nbpkg data fetch`) or `embedded` (no download).

    Raises NbpkgError for another name, for absent data and for files that do not hold what they should.
    """
    if name == "embedded":
        return _embedded()
    if name not in _SPACES:
        raise NbpkgError(f"unknown latency space {name!r}; known: {', '.join(_SPACES)}")
    known = _SPACES[name]
    folder, n = known["folder"], known["n"]
    train, valid, test, others = (tuple(known[role]) for role in ("train", "valid", "test", "others"))
    latency = {
        device: read.read_numbers(data.path(f"{folder}/latency/{device}.pt"), (n,), *read.LATENCY)
        for device in (*train, *valid, *test, *others)
    }
    reference = read.read_numbers(data.path(f"{folder}/hardware_embedding_index.pt"), (10,), 0, n - 1, True)
    resolution = None
    if name == "nb201":
        index = read.read_arch_index(data.path(f"{folder}/str_arch2idx.pt"), length=n)
        ops = cells.encode(sorted(index, key=index.get)).astype(np.int64)
        kind, n_ops, counted = "cell", len(cells.OPS), costs.costs(ops)
    elif name == "ofa":
        ops, resolution = ofa.read_archs(data.path(f"{folder}/ofa_archs.pt"), n)
        cost = ofa.costs(ops, resolution)
        kind, n_ops, counted = "ofa", ofa.ABSENT + 1, (cost[:, 5], cost[:, :5].sum(1))
    else:
        ops = read.read_numbers(data.path(f"{folder}/arch.pt"), (n, 22), 0, fbnet.SKIP)
        kind, n_ops, counted = "chain", fbnet.SKIP + 1, fbnet.costs(ops)
    params, flops = (np.asarray(cost, np.float64) for cost in counted)
    return LatencySpace(
        name, kind, ops, n_ops, latency, reference, train, valid, test, known["n_support"], N_QUERY,
        flops, params, known["data_set"], others, resolution,
    )  # fmt: skip


def new_devices(space: LatencySpace) -> LatencySpace:
    """A space of cells whose test devices are settings that this project timed for judgement alone.

    They were timed on the references, some more cells to measure and 240 to predict: the copy holds these,
    in that order, with the latencies of the space's own devices beside. The query pool leaves out cells of
    the space's support pool. NbpkgError for a space of another kind.
    """
    if space.kind != "cell":
        raise NbpkgError(f"the new devices were timed on cells; {space.name} holds none")
    strings, medians, _ = latency_table.read_embedded(latency_table.NEW)
    position = {text: i for i, text in enumerate(cells.decode(space.ops))}
    timed = np.array([position.get(text, -1) for text in strings])
    row = {int(at): i for i, at in enumerate(timed) if at >= 0}
    query = np.array([at for at in timed[-latency_table.NEW_QUERIES :] if at >= space.n_support])
    others = np.array([at for at in timed[: -latency_table.NEW_QUERIES] if at >= 0])
    support = np.concatenate([space.reference, np.setdiff1d(others, space.reference)])
    keep = np.concatenate([support, query])
    rows = np.array([row[int(at)] for at in keep])
    latency = {device: table[keep] for device, table in space.latency.items()}
    latency |= {device: table[rows] for device, table in medians.items()}
    return space.relabel(
        ops=space.ops[keep], latency=latency, reference=np.arange(len(space.reference)), test=tuple(medians),
        n_support=len(support), n_query=len(query),
        flops=space.flops[keep], params=space.params[keep], others=(),
    )  # fmt: skip


def _embedded() -> LatencySpace:
    strings, medians, _ = latency_table.read_embedded()
    ops = cells.encode(strings).astype(np.int64)
    known = _SPACES["embedded"]
    n, roles = known["n_support"], [tuple(known[role]) for role in ("train", "valid", "test")]
    devices = list(itertools.chain(*roles))
    lacking = [device for device in devices if device not in medians]
    if lacking or len(ops) <= n:
        raise NbpkgError(
            f"the embedded latency table lacks {lacking or 'cells'}; `nbpkg data measure-latency` makes it"
        )
    params, flops = costs.costs(ops, C=_EMBEDDED_C, N=_EMBEDDED_N)
    reference = np.random.default_rng(_EMBEDDED_REFERENCE_SEED).choice(n, 10, replace=False)
    return LatencySpace(
        "embedded", "cell", ops, len(cells.OPS), {device: medians[device] for device in devices},
        reference, *roles, n, len(ops) - n, np.asarray(flops, np.float64), np.asarray(params, np.float64),
    )  # fmt: skip
