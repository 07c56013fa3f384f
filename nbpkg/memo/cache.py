"""The one way to keep what is computed once: read it if it is sound, else make it and store it whole."""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nbpkg import machine, paths
from nbpkg.errors import NbpkgError
from nbpkg.memo import store
from nbpkg.memo.store import Computed


def key_of(*parts: Any) -> str:
    """The key of what follows from `parts`, JSON types: 64 hex digits."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """Where a result lies in the cache, whether or not it is there.

    folder: below the cache, such as "memo/03_help". name: for people who look there. key: of all that the
    result follows from. label: what lines about it begin with. home: the cache, by default the user's.
    """

    folder: str
    name: str
    key: str
    label: str
    home: Path | None = None

    @property
    def path(self) -> Path:
        """The file of the entry: readable to people, unique through the first 16 digits of the key."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", self.name)[:60]
        return (self.home or paths.cache_dir()) / self.folder / f"{name}-{self.key[:16]}.memo"

    def read(self) -> Computed | None:
        """What is stored, None when there is nothing; a damaged entry costs a line and counts as none."""
        try:
            return store.read(self.path, self.key)
        except store.CorruptEntry as error:
            print(f"{self.label}: what was stored is damaged ({error}); made again", flush=True)
            return None

    def write(self, computed: Computed) -> Any:
        """Stores a result, or says in a line why not; returns its value as a later reader gets it.

        Raises NbpkgError for a value of a type that cannot be stored, and past `$NBPKG_DEADLINE` (seconds of
        the system's clock): a run of `--minutes` ends where it can be continued.
        """
        raw = bytearray()
        tree = store.serialise(computed.value, raw, f"{self.label}: result")
        try:
            store.write(self.path, self.key, replace(computed, value=tree), raw)
        except OSError as error:
            why = error.strerror or error
            print(f"{self.label}: could not be stored ({why}); going on without", flush=True)
        if time.time() > float(os.environ.get("NBPKG_DEADLINE") or "inf"):
            raise NbpkgError(f"{self.label} is kept, the minutes are over; the same command goes on here")
        return store.deserialise(tree, raw)


def measured(function: Callable, *arguments: Any, device: Any = None) -> Computed:
    """`function(*arguments)` with what it took in this process, and on the GPU if `device` is one."""
    device = machine.device(device or "cpu")
    machine.synchronise(device)
    wall, cpu, made = time.perf_counter(), time.process_time(), machine.gpu_memory_mb(device)[0]
    value = function(*arguments)
    machine.synchronise(device)
    spent = time.perf_counter() - wall, time.process_time() - cpu
    all_made, peak = machine.gpu_memory_mb(device)
    return Computed(value, *spent, machine.peak_memory_mb(), all_made - made, peak)


def cached(entry: Entry, make: Callable[[], Any]) -> Any:
    """The value of `entry`: what is stored, else what `make()` returns, which is then stored.

    Raises what `make` raises, and NbpkgError for a value of a type that cannot be stored.
    """
    found = entry.read()
    return entry.write(measured(make)) if found is None else found.value
