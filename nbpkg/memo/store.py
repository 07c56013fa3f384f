"""Results on disk: nested values in one file each, written whole or not at all.

The one way to keep what is computed once: `cached` reads it if it is sound, else makes it and stores it.

An entry is a line with the SHA-256 of all that follows; a line of JSON, with the key, the structure of the
value and what it took; then the bytes of the value's arrays, whose dtypes, shapes and places the structure
names. It is written under a temporary name and renamed, so a process that is killed leaves nothing that
could be read, and of two concurrent writers one wins with a whole entry. Nothing is unpickled.
"""

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nbpkg import machine, paths
from nbpkg.errors import NbpkgError
from nbpkg.memo.values import tensor_bytes

FORMAT = 2
_STALE = 24 * 3600.0  # seconds after which the leftovers of a killed writer are cleared away


class CorruptEntry(Exception):
    """An entry is there and cannot be trusted; the message says why in a few words."""


@dataclass(frozen=True, eq=False)
class Computed:
    """A result with what it took: wall and CPU seconds, and the peak memory in MB of its process.

    gpu_mb: MB of tensors that it made on a GPU; peak_gpu_memory_mb: the most that its process had there;
    on_cpu: why a session on a GPU computed it beside that.
    """

    value: Any
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_mb: float = 0.0
    gpu_mb: float = 0.0
    peak_gpu_memory_mb: float = 0.0
    on_cpu: str = ""


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
            return read(self.path, self.key)
        except CorruptEntry as error:
            print(f"{self.label}: what was stored is damaged ({error}); made again", flush=True)
            return None

    def write(self, computed: Computed) -> Any:
        """Stores a result, or says in a line why not; returns its value as a later reader gets it.

        Raises NbpkgError for a value of a type that cannot be stored, and past `$NBPKG_DEADLINE` (seconds of
        the system's clock): a run of `--minutes` ends where it can be continued.
        """
        raw = bytearray()
        tree = serialise(computed.value, raw, f"{self.label}: result")
        try:
            write(self.path, self.key, replace(computed, value=tree), raw)
        except OSError as error:
            why = error.strerror or error
            print(f"{self.label}: could not be stored ({why}); going on without", flush=True)
        if time.time() > float(os.environ.get("NBPKG_DEADLINE") or "inf"):
            raise NbpkgError(f"{self.label} is kept, the minutes are over; the same command goes on here")
        return deserialise(tree, raw)


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


def serialise(value: Any, raw: bytearray, place: str = "result") -> Any:
    """`value` as JSON types; the bytes of its arrays and tensors are added to `raw`.

    Raises NbpkgError naming the place for a type that cannot be stored.
    """
    import torch

    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$": "float", "v": repr(value)}
    if isinstance(value, dict):
        pairs = [[serialise(k, raw, place), serialise(v, raw, f"{place}[{k!r}]")] for k, v in value.items()]
        return {"$": "dict", "v": pairs}
    if kind in (list, tuple):
        items = [serialise(item, raw, f"{place}[{index}]") for index, item in enumerate(value)]
        return items if kind is list else {"$": "tuple", "v": items}
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind not in "biufcmMUS" or value.dtype.itemsize == 0:
            raise NbpkgError(
                f"{place}: an array of dtype {value.dtype} cannot be stored; give numbers or str"
            )
        tag = {"$": "scalar" if isinstance(value, np.generic) else "numpy", "dtype": value.dtype.str}
        content = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    elif isinstance(value, torch.Tensor):
        if value.layout is not torch.strided or value.is_quantized:
            raise NbpkgError(f"{place}: a sparse or quantised tensor cannot be stored; make it dense")
        tag = {"$": "torch", "dtype": str(value.dtype).removeprefix("torch.")}
        content = tensor_bytes(value)
    else:
        hint = "numbers, str, arrays, tensors or nested dict/list/tuple"
        hint = "its state_dict()" if isinstance(value, torch.nn.Module) else hint
        raise NbpkgError(f"{place}: a {kind.__name__} cannot be stored; return {hint} instead")
    raw += content.data
    return {**tag, "v": [len(raw) - content.size, len(raw)], "shape": list(value.shape)}


def deserialise(tree: Any, raw: bytearray | memoryview) -> Any:
    """The inverse of serialise.

    Dicts come back as dict whatever kind they were, tensors on the CPU without gradients; no two arrays share
    memory.
    """
    if isinstance(tree, list):
        return [deserialise(item, raw) for item in tree]
    if not isinstance(tree, dict):
        return tree
    kind, content = tree["$"], tree["v"]
    if kind == "float":
        return float(content)
    if kind in ("dict", "tuple"):
        items = deserialise(content, raw)
        return dict(items) if kind == "dict" else tuple(items)
    own = bytearray(raw[slice(*content)])
    if kind == "torch":
        import torch

        flat = torch.from_numpy(np.frombuffer(own, np.uint8))
        return flat.view(getattr(torch, tree["dtype"])).reshape(tree["shape"])
    array = np.frombuffer(own, tree["dtype"]).reshape(tree["shape"])
    return array[()] if kind == "scalar" else array


def write(path: Path, key: str, computed: Computed, raw: bytearray) -> None:
    """Stores a result whose value is what serialise gave, with the bytes of its arrays.

    Raises OSError when the disk is full or may not be written.
    """
    entry = json.dumps({"format": FORMAT, "key": key, **vars(computed)}, allow_nan=False)
    line = f"\n{entry}\n".encode()
    check = hashlib.sha256(line)
    check.update(raw)
    with paths.replacing(path) as temporary, open(temporary, "wb") as file:
        for leftover in path.parent.glob(".*.memo.*"):
            with suppress(OSError):
                if time.time() - leftover.stat().st_mtime > _STALE:
                    leftover.unlink()
        file.writelines([check.hexdigest().encode(), line, raw])


def read(path: Path, key: str) -> Computed | None:
    """The result under `path`, None when there is none.

    Raises CorruptEntry when it is damaged or belongs to another key.
    """
    try:
        content = memoryview(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CorruptEntry(f"it cannot be read: {error.strerror}") from None
    if content[:64] != hashlib.sha256(content[64:]).hexdigest().encode():
        raise CorruptEntry("it has a wrong checksum")
    try:
        end = content.obj.index(b"\n", 65)
        entry = json.loads(bytes(content[65:end]))
        if entry.pop("format") != FORMAT or entry.pop("key") != key:
            raise CorruptEntry("it belongs to another key or format")
        return replace(Computed(**entry), value=deserialise(entry["value"], content[end + 1 :]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptEntry(f"{type(error).__name__}") from None
