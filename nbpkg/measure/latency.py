"""Measuring the embedded latency table: random NAS-Bench-201 cells as real networks, timed on this machine.

A visit to a cell times every setting of one thread count on it; a round visits all cells in an order of its
own, so that slow drift of the machine falls on all cells alike. A shared machine's speed also varies within
seconds, by half and more: so every timed call stands between two calls of one reference network, and what
counts is the ratio (a "duet"). Every visit is kept in the cache: a measurement that was stopped goes on where
it ended, and one asked for more rounds adds them.
"""

from __future__ import annotations

import functools
import itertools
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from nbpkg.data.latency_table import EMBEDDED, NEW, read_embedded, read_provenance, write_table
from nbpkg.errors import NbpkgError
from nbpkg.machine import device, device_name, usable_cpus
from nbpkg.measure.backends import Runs, Setting, default_settings
from nbpkg.measure.isolation import isolated_cores, realtime_priority
from nbpkg.memo import Entry, key_of, measured
from nbpkg.nb201 import space
from nbpkg.nb201.network import network
from nbpkg.progress import progress

__all__ = ["EMBEDDED", "NEW", "measure", "read_embedded", "read_provenance"]

#: The cell of the reference network: one convolution of each kind and one pooling.
REFERENCE = "|nor_conv_3x3~0|+|none~0|none~1|+|nor_conv_1x1~0|avg_pool_3x3~1|none~2|"
WIDTH, CELLS_PER_STAGE, RESOLUTION = 16, 1, 32
#: How the times were taken, for the provenance.
HOW = (
    "inference without gradients of randomly initialised networks, evaluation mode, normal noise as images",
    "every round visits all cells in an order of its own; every visit builds and warms up the network",
    "processes pinned to as many cores as threads, real-time priority where the system permits it, garbage "
    "collection outside the timed calls, other cores kept from idling",
    "8-bit networks are quantised without calibration: coarse outputs, but the real kernels",
    "every timed call stands between two of a reference network; a latency is the ratio of the two times the "
    "reference's median over the whole measurement, for the machine's speed varies from second to second",
    "reliability: Spearman correlation over cells between the medians of every other round and of the rest",
)
#: (threads, round, cell)
Visit = tuple[int, int, int]
#: Milliseconds of every timed call and of the reference beside it, (repeats, 2), by setting.
Times = dict[str, np.ndarray]


def real_runs(ops: np.ndarray) -> Callable[[Setting], Callable[[], object]]:
    """The torch network of a cell at each width and resolution, ready to be run on any setting."""
    made = functools.cache(
        lambda width, pixels: Runs(network(ops, width, CELLS_PER_STAGE).eval(), pixels)
    )
    return lambda setting: made(setting.width, setting.resolution)(setting)


def measure(
    output_csv: str | Path,
    cells: int | np.ndarray = 640,
    rounds: int = 4,
    settings: Sequence[Setting] | None = None,
    resume: bool = True,
    seed: int = 0,
    make_runs: Callable[[np.ndarray], Callable[[Setting], Callable[[], object]]] = real_runs,
    clock: Callable[[], float] = time.perf_counter,
) -> Path:
    """Time cells on every setting; write the table and its provenance.

    cells: how many distinct random ones, or which, as operations (cells, 6).
    settings: by default all that this machine can run. resume: use what earlier runs with the same arguments
    left in the cache. Tests replace `make_runs`, which turns six operations into a function from a setting to
    the callable to time, and `clock`, which tells seconds. Returns the path of the table. Raises NbpkgError
    for arguments that make no table.
    """
    output = Path(output_csv)
    settings = default_settings(len(usable_cpus())) if settings is None else tuple(settings)
    ops = space.random(cells, seed) if isinstance(cells, int) and cells > 0 else np.atleast_2d(cells)
    cells = len(ops) if ops.shape[1] == space.N_EDGES else 0
    _check(output, cells, rounds, settings)
    entries = _entries(settings, space.decode(ops), rounds, seed)
    if not resume:
        shutil.rmtree(next(iter(entries.values())).path.parent, ignore_errors=True)
    done = {visit: found.value for visit, entry in entries.items() if (found := entry.read()) is not None}
    if done:
        print(f"{len(done)} visits were timed before; going on from there", flush=True)
    left = [visit for visit in entries if visit not in done]
    with torch.inference_mode(), warnings.catch_warnings():
        # Switching oneDNN off and on makes torch speak of a feature of other hardware.
        warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
        reference = functools.cache(make_runs(space.encode(REFERENCE)))
        for visit in progress(isolated(left), "visits", len(left)):
            group = [s for s in settings if s.threads == visit[0]]
            timed = measured(time_visit, make_runs(ops[visit[-1]]), reference, group, clock)
            done[visit] = entries[visit].write(timed)
    times, reference_ms = collect(done, settings, cells, rounds)
    write_table(output, space.decode(ops), times, provenance(settings, seed, rounds, reference_ms))
    return output


def _check(output: Path, cells: int, rounds: int, settings: Sequence[Setting]) -> None:
    if cells < 1 or rounds < 2 or not settings or min(s.repeats for s in settings) < 1:
        raise NbpkgError("a measurement needs cells, two rounds or more, settings with one repeat or more")
    if len({s.name for s in settings}) < len(settings):
        raise NbpkgError("the settings of a measurement need distinct names")
    if not output.parent.is_dir():
        raise NbpkgError(
            f"no folder {output.parent.name!r} for the latency table {output.name}; make it first"
        )


def provenance(
    settings: Sequence[Setting], seed: int, rounds: int, reference_ms: dict[str, float]
) -> dict[str, object]:
    """How the table is made, for `write_table`."""
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    with suppress(ImportError):
        import onnxruntime

        versions["onnxruntime"] = onnxruntime.__version__
    described = {s.name: {"words": s.words, "threads": s.threads, "batch": s.batch} for s in settings}
    for name, entry in described.items():
        entry["reference_ms"] = float(f"{reference_ms[name]:.4g}")
    return {
        "how": HOW,
        "reference": REFERENCE,
        "cores": len(usable_cpus()),
        "gpu": torch.cuda.get_device_name() if any(s.device == "cuda" for s in settings) else None,
        "versions": versions,
        "seed": seed,
        "rounds": rounds,
        "network": {"C": WIDTH, "N": CELLS_PER_STAGE, "resolution": RESOLUTION, "num_classes": 10},
        "settings": described,
    }


def _entries(settings: Sequence[Setting], names: Sequence[str], rounds: int, seed: int) -> dict[Visit, Entry]:
    """Where each visit of a measurement is kept, in the order of the visits.

    Thread counts rise, since runs of more threads disturb others more and are disturbed more.
    """
    # Times of another machine or version must not be mixed in.
    machine = device_name(device("cpu")), torch.__version__
    key = key_of(list(names), seed, [asdict(s) for s in settings], *machine)
    folder = f"measure-latency/{key[:16]}"
    return {
        (threads, number, cell): Entry(folder, f"{threads}-{number}-{cell}", key, "visit")
        for threads in sorted({s.threads for s in settings})
        for number in range(rounds)
        for cell in np.random.default_rng([seed, number]).permutation(len(names)).tolist()
    }


def isolated(left: Sequence[Visit]) -> Iterator[Visit]:
    """The visits `left`, each to be timed on isolated cores before the next is asked for."""
    for threads, group in itertools.groupby(left, key=lambda visit: visit[0]):
        with isolated_cores(threads) as collect_garbage:
            for visit in group:
                yield visit
                collect_garbage()


def time_visit(runs, reference, group: Sequence[Setting], clock: Callable[[], float]) -> Times:
    """Time each setting's calls in turn with the reference network's, after warm-up calls of both.

    Gives, for every timed call, its milliseconds and the mean of the reference's calls just before and after.
    """
    times = {}
    for setting in group:
        with realtime_priority() if setting.threads > 1 else nullcontext():
            # Made in here so that the threads which a runtime starts for it are undisturbed as well.
            call, refer = runs(setting), reference(setting)
        with realtime_priority():
            for _ in range(setting.warmup):
                refer()
                call()
            marks = [clock()]
            for _ in range(setting.repeats):
                refer()
                marks.append(clock())
                call()
                marks.append(clock())
            refer()
            marks.append(clock())
        spans = 1000 * np.diff(marks)
        times[setting.name] = np.stack([spans[1::2], (spans[:-1:2] + spans[2::2]) / 2], 1)
    return times


def collect(
    done: dict[Visit, Times], settings: Sequence[Setting], cells: int, rounds: int
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """By setting: ms at the reference's median speed, (cells, rounds, repeats), and that median."""
    times, median = {}, {}
    for s in settings:
        pairs = np.array([[done[s.threads, r, c][s.name] for r in range(rounds)] for c in range(cells)])
        median[s.name] = float(np.median(pairs[..., 1]))
        times[s.name] = pairs[..., 0] / pairs[..., 1] * median[s.name]
    return times, median
