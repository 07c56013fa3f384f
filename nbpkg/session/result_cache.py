"""Stored pieces of a session: trainings that are computed once, alone or many at a time, and kept."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nbpkg import machine, paths
from nbpkg.memo import store
from nbpkg.memo.fingerprint import content_hash, fingerprint
from nbpkg.parallel import unordered
from nbpkg.progress import progress


@dataclass(eq=False)
class Account:
    """Wall and CPU seconds: spent, or the difference that pieces from the cache make."""

    wall: float = 0.0
    cpu: float = 0.0

    def add(self, wall: float, cpu: float) -> None:
        self.wall += wall
        self.cpu += cpu


@dataclass(frozen=True, eq=False)
class _Made:
    """A result with what it took: wall and CPU seconds, peak memory in MB."""

    value: Any
    seconds: float
    cpu_seconds: float
    peak_memory_mb: float


@dataclass(frozen=True, eq=False)
class _Found(_Made):
    """A result from the cache; read: wall and CPU seconds of reading it."""

    read: tuple[float, float]


def _measured(function: Callable, call: Mapping[str, Any]) -> _Made:
    """`function(**call)` in a worker process, timed there."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = function(**call)
    spent = time.perf_counter() - wall, time.process_time() - cpu
    return _Made(value, *spent, machine.peak_memory_mb())


class Pieces:
    """What `Session` keeps in the user's cache, and the seconds that it took."""

    chapter: str
    profile: str
    device: Any
    _accounts: list[Account]
    _pieces: list[dict]
    _peak: float
    _prefix: str

    def progress(self, iterable: Iterable, label: str, total: int | None = None) -> Iterator:
        """Yields from `iterable`, printing at most about ten lines with the time left, and a last one."""
        return progress(iterable, label, total)

    @contextmanager
    def _timed(self) -> Iterator[Account]:
        """The block's seconds, complete when it ends, pieces from the cache as when they were made."""
        account = Account()
        wall, cpu = time.perf_counter(), time.process_time()
        self._accounts.append(account)
        try:
            yield account
        finally:
            self._accounts.remove(account)
            account.add(time.perf_counter() - wall, time.process_time() - cpu)

    def memo(self, name: str, function: Callable, *, seed: int | None, **config: Any) -> Any:
        """`function(seed=seed, **config)`, computed once and kept in the user's cache.

        The key is made of chapter, name, profile, seed, kind of device, the content of config and the
        fingerprint of the function, so changed code or another configuration never meets an old result. Files
        that the function reads are not part of it: pass what it reads, or its digest, in config. The result
        may hold nested dict, list and tuple of numbers, str, bool, None, numpy arrays and torch tensors.
        Tensors come back on the CPU, on the first call as on later ones.

        Raises NbpkgError for a result or configuration of another type, and when the function's source cannot
        be found.
        """
        entry = self._entry(name, function, seed, config)
        found = self._stored(name, entry)
        if found is not None:
            self._credit(name, seed, found, spent=found.read)
            return found.value
        with self._timed() as account:
            value = function(seed=seed, **config)
        made = _Made(value, account.wall, account.cpu, machine.peak_memory_mb())
        return self._keep(name, seed, entry, made)

    def memo_each(
        self, name: str, function: Callable, calls: Iterable[Mapping[str, Any]], workers: int = 1,
        label: str | None = None,
    ) -> list:  # fmt: skip
        """`memo` of many calls that do not depend on each other: their results, in the order of `calls`.

        calls: keyword arguments of each, `seed` among them. What is not stored yet is computed by `workers`
        processes (1: here), each result kept as soon as it is there: an interrupted list goes on where it
        stopped. CPU seconds include those of the processes; where results come from the cache, wall
        seconds are their sum divided by `workers`. Raises NbpkgError as `memo` does, and when workers die.
        """
        calls = [dict(call) for call in calls]
        configs = [{k: v for k, v in call.items() if k != "seed"} for call in calls]
        code = fingerprint(function)
        entries = [
            self._entry(name, code, call["seed"], config) for call, config in zip(calls, configs, strict=True)
        ]
        results, missing = {}, []
        for number, (call, entry) in enumerate(zip(calls, entries, strict=True)):
            found = self._stored(name, entry)
            if found is None:
                missing.append(number)
            else:
                found = replace(found, seconds=found.seconds / max(1, workers))
                self._credit(name, call["seed"], found, spent=found.read)
                results[number] = found.value
        work = unordered(_measured, [(function, calls[number]) for number in missing], workers)
        for at, made in self.progress(work, label or name, total=len(missing)) if missing else ():
            number = missing[at]
            results[number] = self._keep(name, calls[number]["seed"], entries[number], made)
            if workers > 1 and len(missing) > 1:  # this process only waited
                for account in self._accounts:
                    account.add(0.0, made.cpu_seconds)
        return [results[number] for number in range(len(calls))]

    def _entry(self, name: str, function: Callable | str, seed: int | None, config: dict) -> tuple[Path, str]:
        """Where a piece is kept, and under which key; function: itself or its fingerprint."""
        code = function if isinstance(function, str) else fingerprint(function)
        parts = [self.chapter, name, self.profile, seed, self.device.type]
        parts += [content_hash(sorted(config.items())), code]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return store.entry_path(paths.cache_dir() / "memo", self.chapter, name, key), key

    def _stored(self, name: str, entry: tuple[Path, str]) -> "_Found | None":
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            piece = store.read(*entry)
        except store.CorruptEntry as error:
            print(f"memo {name}: the stored piece is damaged ({error}); computed again", flush=True)
            return None
        if piece is None:
            return None
        read = time.perf_counter() - wall, time.process_time() - cpu
        return _Found(piece.value, piece.seconds, piece.cpu_seconds, piece.peak_memory_mb, read)

    def _credit(self, name: str, seed: int | None, found: "_Found", spent: tuple[float, float]) -> None:
        """Counts a piece from the cache with the seconds that it took when it was made."""
        for account in self._accounts:
            account.add(found.seconds - spent[0], found.cpu_seconds - spent[1])
        self._peak = max(self._peak, found.peak_memory_mb)
        self._note(name, seed, found.seconds, from_cache=True)

    def _keep(self, name: str, seed: int | None, entry: tuple[Path, str], made: "_Made") -> Any:
        """Stores what was just made, and gives it back as a later reader will get it."""
        arrays: dict = {}
        tree = store.freeze(made.value, arrays, f"memo {name}: result")
        self._peak = max(self._peak, made.peak_memory_mb)
        try:
            piece = store.Piece(tree, made.seconds, made.cpu_seconds, made.peak_memory_mb)
            store.write(*entry, piece, arrays)
        except OSError as error:
            why = error.strerror or error
            print(f"memo {name}: could not be stored ({why}); going on without", flush=True)
        self._note(name, seed, made.seconds, from_cache=False)
        return store.thaw(tree, arrays)

    def _note(self, name: str, seed: int | None, seconds: float, *, from_cache: bool) -> None:
        piece = {"name": self._prefix + name, "seed": seed, "seconds": round(seconds, 3)}
        self._pieces.append({**piece, "from_cache": from_cache})
