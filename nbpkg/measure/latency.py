"""Measuring the embedded latency table: random NAS-Bench-201 cells as real networks, timed on this machine.

A round visits all cells in an order of its own, so that slow drift of the machine falls on all cells alike. A
shared machine's speed also varies within seconds, by half and more: so every timing of a cell stands between
two of one reference network, and what counts is the ratio (a "duet"). Every visit is kept in the cache: a
measurement that was stopped goes on where it ended, and one asked for more rounds adds them.
"""

from __future__ import annotations

import functools
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch.utils.benchmark import Timer

from nbpkg import machine, paths
from nbpkg.data.latency_table import write_table
from nbpkg.errors import NbpkgError
from nbpkg.measure.backends import Setting, default_settings, runner
from nbpkg.memo import Entry, cached, key_of
from nbpkg.nb201 import space
from nbpkg.nb201.network import Network, network
from nbpkg.progress import progress

#: The cell of the reference network: one convolution of each kind and one pooling.
REFERENCE = "|nor_conv_3x3~0|+|none~0|none~1|+|nor_conv_1x1~0|avg_pool_3x3~1|none~2|"
CELLS_PER_STAGE = 1
#: How the times were taken, for the provenance.
HOW = (
    "inference without gradients of randomly initialised networks, evaluation mode, normal noise as images",
    "every round visits all cells in an order of its own; every visit builds and warms up the network",
    "means of calls in a row by torch.utils.benchmark, real-time priority where the system permits it",
    "8-bit networks are quantised by ONNX Runtime, calibrated on the noise",
    "every timing stands between two of a reference network; a latency is the ratio of the two times the "
    "reference's median over the whole measurement, for the machine's speed varies from second to second",
    "reliability: Spearman correlation over cells between the medians of every other round and of the rest",
)


def cell_network(ops: np.ndarray, width: int, keep_dead: bool) -> Network:
    """The network of a cell that is timed, of `width` channels in its first stage."""
    return network(ops, width, CELLS_PER_STAGE, keep_dead=keep_dead).eval()


@contextmanager
def realtime_priority() -> Iterator[None]:
    """Real-time priority where the system permits it: no other program runs between readings of the clock.

    Threads that wait for each other are otherwise slower by tens of times where a core is shared.
    """
    before = None
    with suppress(AttributeError, OSError):
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        lowest = os.sched_get_priority_min(os.SCHED_FIFO)
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(lowest))
    try:
        yield
    finally:
        if before is not None:
            os.sched_setscheduler(0, *before)


def time_ms(call: Callable[[], object], setting: Setting) -> float:
    """Mean time of a call in ms: two calls to warm up, then the setting's repeats on its threads."""
    timer = Timer("call()", globals={"call": call}, num_threads=setting.threads)
    with realtime_priority():
        return 1000 * timer.timeit(setting.repeats).mean


def visit(ops: np.ndarray, reference: Callable, settings: Sequence[Setting]) -> np.ndarray:
    """A cell's ms on each setting, and the mean of the reference's before and after: (settings, 2)."""
    net, times = functools.cache(functools.partial(cell_network, ops)), []
    for setting in settings:
        call, refer = runner(net(setting.width, setting.keep_dead), setting), reference(setting)
        before, own, after = (time_ms(timed, setting) for timed in (refer, call, refer))
        times.append((own, (before + after) / 2))
    return np.array(times)


def measure(
    output_csv: str | Path, cells: int | np.ndarray = 640, rounds: int = 4,
    settings: Sequence[Setting] | None = None, resume: bool = True, seed: int = 0,
) -> Path:  # fmt: skip
    """Time cells on every setting; write the table and its provenance.

    cells: how many distinct random ones, or which, as operations (cells, 6). settings: by default all that
    this machine can run. resume: use what earlier runs with the same arguments left in the cache. Returns the
    path of the table. Raises NbpkgError for arguments that make no table.
    """
    output = Path(output_csv)
    settings = default_settings(len(machine.usable_cpus())) if settings is None else tuple(settings)
    ops = space.random(max(cells, 0), seed) if isinstance(cells, int) else cells
    cells = len(ops)
    _check(cells, rounds, settings)
    # Times of another machine or version must not be mixed in.
    here = machine.device_name(machine.device("cpu")), torch.__version__
    key = key_of(space.decode(ops), seed, [asdict(s) for s in settings], *here)
    folder = f"measure-latency/{key[:16]}"
    if not resume:
        shutil.rmtree(paths.cache_dir() / folder, ignore_errors=True)
    known = functools.cache(functools.partial(cell_network, space.encode(REFERENCE)))
    reference = functools.cache(lambda setting: runner(known(setting.width, setting.keep_dead), setting))
    visits = [(r, c) for r in range(rounds) for c in np.random.default_rng([seed, r]).permutation(cells)]
    times = np.zeros((len(settings), cells, rounds, 2))
    with torch.inference_mode(), warnings.catch_warnings():
        with realtime_priority():
            torch.ones(1 << 22).sum()  # torch's threads start here, and keep the priority
        # Switching oneDNN off and on makes torch speak of a feature of other hardware.
        warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
        for number, cell in progress(visits, "visits"):
            entry = Entry(folder, f"{number}-{cell}", key, "visit")
            times[:, cell, number] = cached(entry, functools.partial(visit, ops[cell], reference, settings))
    own, beside = times[..., 0], times[..., 1]
    medians = np.median(beside, axis=(1, 2))
    latencies = own / beside * medians[:, None, None]
    by_setting = {setting.name: ms for setting, ms in zip(settings, latencies, strict=True)}
    write_table(output, space.decode(ops), by_setting, provenance(settings, seed, rounds, medians))
    return output


def _check(cells: int, rounds: int, settings: Sequence[Setting]) -> None:
    if cells < 1 or rounds < 2 or not settings or min(s.repeats for s in settings) < 1:
        raise NbpkgError("a measurement needs cells, two rounds or more, settings with one repeat or more")
    if len({s.name for s in settings}) < len(settings):
        raise NbpkgError("the settings of a measurement need distinct names")


def provenance(settings: Sequence[Setting], seed: int, rounds: int, reference_ms: np.ndarray) -> dict:
    """How the table is made, for `write_table`; reference_ms: the reference's median by setting, in ms."""
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    with suppress(ImportError):
        import onnxruntime

        versions["onnxruntime"] = onnxruntime.__version__
    described = {}
    for s, ms in zip(settings, reference_ms, strict=True):
        measured = {"reference_ms": float(f"{ms:.4g}"), "timed_calls_per_cell": rounds * s.repeats}
        described[s.name] = {"words": s.words, "runtime": s.runtime, "threads": s.threads, "batch": s.batch}
        described[s.name] |= measured
    return {
        "how": HOW,
        "reference": REFERENCE,
        "cores": len(machine.usable_cpus()),
        "gpu": torch.cuda.get_device_name() if any(s.device == "cuda" for s in settings) else None,
        "versions": versions,
        "seed": seed,
        "rounds": rounds,
        "network": {"C": 16, "N": CELLS_PER_STAGE, "resolution": 32, "num_classes": 10},
        "settings": described,
    }
