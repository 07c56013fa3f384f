"""Stored results of a session: trainings that are computed once, alone or many at a time, and kept."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from nbpkg import machine
from nbpkg.errors import NbpkgError
from nbpkg.memo import Computed, Entry, key_of, measured, travel  # noqa: F401 (it registers itself)
from nbpkg.memo.fingerprint import content_hash, fingerprint
from nbpkg.parallel import unordered
from nbpkg.progress import progress


@dataclass(eq=False)
class Timing:
    """Wall and CPU seconds: spent, or the difference that results from the cache make.

    by_device: of a session on a GPU, seconds of the results that "cuda" and "cpu" computed.
    """

    wall: float = 0.0
    cpu: float = 0.0
    by_device: Counter = field(default_factory=Counter)

    def add(self, wall: float, cpu: float) -> None:
        self.wall += wall
        self.cpu += cpu


class ResultCache:
    """What a session keeps in the user's cache, and the seconds that it took.

    within: the cache of the chapter that this one's results are made for; they are in its time, its memory
    and its record. on_cpu: why results of a session on a GPU may be computed beside it; empty where they may
    not.
    """

    __memo_name__ = "session"  # no part of a memo key, as the session is none

    def __init__(
        self, chapter: str, profile: str, device: Any, within: "ResultCache | None" = None, on_cpu: str = ""
    ):  # fmt: skip
        self.chapter, self.profile, self.device, self.on_cpu = chapter, profile, device, on_cpu
        self.prefix = f"{within.prefix}{chapter}/" if within else ""
        self.claims = ""  # the hash of the claims under which results are made, where they bind
        # Every open timing is credited with the seconds that a cached result took when it was made.
        self.timings: list[Timing] = within.timings if within else [Timing()]
        self.used: list[dict] = within.used if within else []  # for the record's memo
        self.peaks_mb: list[float] = within.peaks_mb if within else []
        self.gpu_peaks_mb: list[float] = within.gpu_peaks_mb if within else []

    @contextmanager
    def timed(self) -> Iterator[Timing]:
        """The block's seconds, complete when it ends, results from the cache as when they were made."""
        timing = Timing()
        machine.synchronise(self.device)
        wall, cpu = time.perf_counter(), time.process_time()
        self.timings.append(timing)
        try:
            yield timing
        finally:
            machine.synchronise(self.device)
            self.timings.remove(timing)
            timing.add(time.perf_counter() - wall, time.process_time() - cpu)

    def memo(
        self, name: str, function: Callable, *, seed: int | None, on_cpu: str = "", **config: Any
    ) -> Any:  # fmt: skip
        """`function(seed=seed, **config)`, computed once and kept in the user's cache.

        The key is made of chapter, name, profile, seed, device, the content of config and the fingerprint of
        the function, so changed code or another configuration never meets an old result. Files that the
        function reads are not part of it: pass what it reads, or its digest, in config. The result may hold
        nested dict, list and tuple of numbers, str, bool, None, numpy arrays and torch tensors. Tensors come
        back on the CPU, on the first call as on later ones.

        on_cpu: why a session on a GPU computes this beside it. Raises NbpkgError when it does and there is no
        reason, for a result or configuration of another type, and when the function's source cannot be found.
        """
        entry = self._entry(name, fingerprint(function), seed, config)
        found = self._stored(name, seed, entry)
        if found is not None:
            return found.value
        with self.timed() as timing:
            computed = measured(partial(function, seed=seed, **config), device=self.device)
        computed = replace(computed, seconds=timing.wall, cpu_seconds=timing.cpu)
        return self._keep(name, seed, entry, computed, on_cpu)

    def memo_each(
        self, name: str, function: Callable, calls: Iterable[Mapping[str, Any]], workers: int = 1,
        label: str | None = None, on_cpu: str = "",
    ) -> list:  # fmt: skip
        """`memo` of many calls that do not depend on each other: their results, in the order of `calls`.

        calls: keyword arguments of each, as a rule `seed` among them. What is not stored yet is computed by
        `workers` processes (1: here), or by the Dask cluster at `$NBPKG_CLUSTER`, each result kept as soon as
        it is there: an interrupted list goes on where it stopped. CPU seconds include those of the processes;
        where results come from the cache, wall seconds are their sum divided by `workers`. A GPU is one
        process's: there `workers` counts as 1 unless `on_cpu` says why the work is beside it. Raises
        NbpkgError as `memo` does, and when workers die.
        """
        if self.device.type == "cuda" and not (on_cpu or self.on_cpu):
            workers = 1
        calls, code = [dict(call) for call in calls], fingerprint(function)
        configs = [{k: v for k, v in call.items() if k != "seed"} for call in calls]
        seeds = [call.get("seed") for call in calls]
        entries = [self._entry(name, code, seed, config) for seed, config in zip(seeds, configs, strict=True)]
        stored = [self._stored(name, *each, workers) for each in zip(seeds, entries, strict=True)]
        results = [None if found is None else found.value for found in stored]
        missing = [number for number, found in enumerate(stored) if found is None]
        timed = partial(measured, device=self.device)
        cluster = os.environ.get("NBPKG_CLUSTER") or None
        work = unordered(timed, [(partial(function, **calls[n]),) for n in missing], workers, cluster)
        for at, computed in progress(work, label or name, total=len(missing)) if missing else ():
            number = missing[at]
            results[number] = self._keep(name, seeds[number], entries[number], computed, on_cpu)
            if cluster or (workers > 1 and len(missing) > 1):  # this process only waited
                for timing in self.timings:
                    timing.add(0.0, computed.cpu_seconds)
        return results

    def _entry(self, name: str, code: str, seed: int | None, config: dict) -> Entry:
        """Where a result is kept; code: the fingerprint of its function."""
        device = machine.device_key(self.device)
        config_hash = content_hash(sorted(config.items()))
        claims = [self.claims] if self.claims else []  # what was made before a claim is no evidence for it
        key = key_of(self.chapter, name, self.profile, seed, device, config_hash, code, *claims)
        return Entry(f"memo/{self.chapter}", name, key, f"memo {name}")

    def _stored(self, name: str, seed: int | None, entry: Entry, workers: int = 1) -> Computed | None:
        """A result from the cache, counted with the seconds that it took when `workers` made it."""
        wall, cpu = time.perf_counter(), time.process_time()
        found = entry.read()
        if found is None:
            return None
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        seconds = found.seconds / max(1, workers)
        for timing in self.timings:
            timing.add(seconds - wall, found.cpu_seconds - cpu)
        self._note(name, seed, seconds, found, from_cache=True)
        return found

    def _keep(self, name: str, seed: int | None, entry: Entry, computed: Computed, on_cpu: str) -> Any:
        """Stores what was just computed, and gives it back as a later reader will get it.

        Raises NbpkgError for what was computed beside the session's GPU without a reason.
        """
        if self.device.type == "cuda" and not computed.gpu_mb:
            computed = replace(computed, on_cpu=on_cpu or self.on_cpu)
            if not computed.on_cpu:
                why = "this made no tensor on the session's GPU; hand the function device=s.device"
                raise NbpkgError(f'memo {name}: {why}, or say on_cpu="why it stays on the CPU"')
        value = entry.write(computed)
        self._note(name, seed, computed.seconds, computed, from_cache=False)
        return value

    def _note(self, name: str, seed: int | None, seconds: float, of: Computed, *, from_cache: bool) -> None:
        self.peaks_mb.append(of.peak_memory_mb)
        self.gpu_peaks_mb.append(of.peak_gpu_memory_mb)
        used = {"name": self.prefix + name, "seed": seed, "seconds": round(seconds, 3)}
        if self.device.type == "cuda":
            used |= {"on_cpu": of.on_cpu} if of.on_cpu else {}
            for timing in self.timings:
                timing.by_device["cpu" if of.on_cpu else "cuda"] += seconds
        self.used.append({**used, "from_cache": from_cache})
