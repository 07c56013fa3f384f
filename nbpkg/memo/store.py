"""Results on disk: nested values in one file each, written whole or not at all.

An entry is a line with the SHA-256 of all that follows; a line of JSON, with the key, the structure of the
value and what it took; then the bytes of the value's arrays, whose dtypes, shapes and places the structure
names. It is written under a temporary name and renamed, so a process that is killed leaves nothing that
could be read, and of two concurrent writers one wins with a whole entry. Nothing is unpickled.
"""

import hashlib
import json
import math
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nbpkg import paths
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


def serialise(value: Any, raw: bytearray, place: str = "result") -> Any:
    """`value` as JSON types; the bytes of its arrays and tensors are added to `raw`.

    Raises NbpkgError naming the place for a type that cannot be stored.
    """
    import torch

    if value is None or isinstance(value, bool) or type(value) in (int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$": "float", "v": repr(value)}
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind not in "biufcmMUS" or value.dtype.itemsize == 0:
            raise NbpkgError(
                f"{place}: an array of dtype {value.dtype} cannot be stored; give numbers or str"
            )
        kind = "scalar" if isinstance(value, np.generic) else "numpy"
        content = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        return _appended(kind, value.dtype.str, value.shape, content, raw)
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided or value.is_quantized:
            raise NbpkgError(f"{place}: a sparse or quantised tensor cannot be stored; make it dense")
        return _appended("torch", str(value.dtype)[len("torch.") :], value.shape, tensor_bytes(value), raw)
    if isinstance(value, dict):
        pairs = [[serialise(k, raw, place), serialise(v, raw, f"{place}[{k!r}]")] for k, v in value.items()]
        return {"$": "dict", "v": pairs}
    if type(value) in (list, tuple):
        items = [serialise(item, raw, f"{place}[{index}]") for index, item in enumerate(value)]
        return items if type(value) is list else {"$": "tuple", "v": items}
    hint = "numbers, str, arrays, tensors or nested dict/list/tuple"
    hint = "its state_dict()" if isinstance(value, torch.nn.Module) else hint
    raise NbpkgError(f"{place}: a {type(value).__name__} cannot be stored; return {hint} instead")


def _appended(kind: str, dtype: str, shape: tuple, content: np.ndarray, raw: bytearray) -> dict:
    start = len(raw)
    raw += content.data
    return {"$": kind, "v": [start, len(raw)], "dtype": dtype, "shape": list(shape)}


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
    if kind == "dict":
        return {deserialise(key, raw): deserialise(value, raw) for key, value in content}
    if kind == "tuple":
        return tuple(deserialise(item, raw) for item in content)
    if kind == "float":
        return float(content)
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
        _clear_leftovers(path.parent)
        file.writelines([check.hexdigest().encode(), line, raw])


def _clear_leftovers(folder: Path) -> None:
    for path in folder.glob(".*.memo.*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE:
                path.unlink()


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
