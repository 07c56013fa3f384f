"""Memo pieces on disk: nested results of a computation, written whole or not at all.

An entry is a folder with `entry.json` (the structure, the key, how long it took, checksums) and, when there
are arrays, `arrays.safetensors`. It is written under a temporary name and renamed, so a process that is
killed leaves nothing that could be read, and of two concurrent writers one wins with a whole entry. Nothing
is unpickled.
"""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nbpkg.errors import NbpkgError

FORMAT = 1
# What safetensors keeps as it is; other dtypes (complex, str, dates, foreign byte order) are kept as raw
# bytes.
_NATURAL = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
_STALE = 24 * 3600.0  # seconds after which the leftovers of a killed writer are cleared away


class CorruptEntry(Exception):
    """An entry is there and cannot be trusted; the message says why in a few words."""


@dataclass(frozen=True)
class Piece:
    """A stored result, the wall and CPU seconds that it took, and the peak memory in MB of its process."""

    value: Any
    seconds: float
    cpu_seconds: float
    peak_memory_mb: float


def entry_path(base: Path, chapter: str, name: str, key: str) -> Path:
    """The folder of an entry: readable to people, unique through the first 16 digits of the key (hex)."""
    return base / chapter / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', name)[:60]}-{key[:16]}"


def _freeze_array(array: np.ndarray, kind: str, arrays: dict, place: str) -> dict:
    import torch

    if array.dtype.kind not in "biufcmMUS" or array.dtype.itemsize == 0:
        raise NbpkgError(f"{place}: an array of dtype {array.dtype} cannot be stored; give numbers or str")
    meta = {"$": kind, "v": str(len(arrays)), "dtype": array.dtype.str, "shape": list(array.shape)}
    flat = np.array(array).reshape(-1)  # a copy: safetensors refuses tensors that share memory
    if array.dtype.name not in _NATURAL or not array.dtype.isnative:
        meta["raw"] = True
        flat = np.frombuffer(bytearray(flat.tobytes()), dtype=np.uint8)
    arrays[meta["v"]] = torch.from_numpy(flat)
    return meta


def freeze(value: Any, arrays: dict, place: str = "result") -> Any:
    """`value` as JSON types, its arrays and tensors put into `arrays` as torch tensors on the CPU under
    running numbers.

    Raises NbpkgError naming the place for a type that cannot be stored.
    """
    import torch

    if value is None or isinstance(value, bool) or type(value) in (int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$": "float", "v": repr(value)}
    if isinstance(value, (np.ndarray, np.generic)):
        return _freeze_array(
            np.asarray(value), "scalar" if isinstance(value, np.generic) else "numpy", arrays, place
        )
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided or value.is_quantized:
            raise NbpkgError(f"{place}: a sparse or quantised tensor cannot be stored; make it dense")
        tensor = value.detach().to("cpu", copy=True).resolve_conj().resolve_neg().contiguous()
        meta = {"$": "torch", "v": str(len(arrays))}
        if tensor.is_complex():
            tensor, meta["complex"] = torch.view_as_real(tensor).clone(), True
        arrays[meta["v"]] = tensor
        return meta
    if isinstance(value, dict):
        pairs = [[freeze(k, arrays, place), freeze(v, arrays, f"{place}[{k!r}]")] for k, v in value.items()]
        return {"$": "dict", "v": pairs}
    if type(value) in (list, tuple):
        items = [freeze(item, arrays, f"{place}[{index}]") for index, item in enumerate(value)]
        return items if type(value) is list else {"$": "tuple", "v": items}
    hint = (
        "its state_dict()"
        if isinstance(value, torch.nn.Module)
        else "numbers, str, arrays, tensors or nested dict/list/tuple"
    )
    raise NbpkgError(f"{place}: a {type(value).__name__} cannot be stored; return {hint} instead")


def thaw(tree: Any, arrays: dict) -> Any:
    """The inverse of freeze.

    Dicts come back as dict whatever kind they were, tensors on the CPU without gradients.
    """
    if isinstance(tree, list):
        return [thaw(item, arrays) for item in tree]
    if not isinstance(tree, dict):
        return tree
    kind, content = tree["$"], tree["v"]
    if kind == "dict":
        return {thaw(key, arrays): thaw(value, arrays) for key, value in content}
    if kind == "tuple":
        return tuple(thaw(item, arrays) for item in content)
    if kind == "float":
        return float(content)
    tensor = arrays[content]
    if kind == "torch":
        import torch

        return torch.view_as_complex(tensor) if tree.get("complex") else tensor
    array = tensor.numpy()
    if tree.get("raw"):
        array = np.frombuffer(bytearray(array.tobytes()), dtype=np.dtype(tree["dtype"]))
    array = array.reshape(tree["shape"])
    return array[()] if kind == "scalar" else array


def _canonical(entry: dict) -> bytes:
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _write_synced(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write(folder: Path, key: str, piece: Piece, arrays: dict) -> None:
    """Stores a piece whose value is what freeze gave, with its arrays. An entry that is there and whole is
    left alone.

    Raises OSError when the disk is full or may not be written.
    """
    from safetensors.torch import save

    folder.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(folder.parent)
    temporary = folder.parent / f".tmp-{uuid.uuid4().hex}"
    entry = {"format": FORMAT, "key": key, "arrays": None, **vars(piece)}
    try:
        temporary.mkdir()
        if arrays:
            content = save(arrays)
            entry["arrays"] = hashlib.sha256(content).hexdigest()
            _write_synced(temporary / "arrays.safetensors", content)
        check = hashlib.sha256(_canonical(entry)).hexdigest()
        _write_synced(
            temporary / "entry.json", json.dumps({"check": check, "entry": entry}, allow_nan=False).encode()
        )
        _put_in_place(temporary, folder, key)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put_in_place(temporary: Path, folder: Path, key: str) -> None:
    for _ in range(10):
        try:
            os.rename(temporary, folder)
            return
        except OSError as error:
            # Something stood there a moment ago; whether it still does, another process decides.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        try:
            if read(folder, key) is not None:
                return  # another process was first, with the same key and so the same result
        except CorruptEntry:
            # Renamed before it is removed, so that no reader meets half of it.
            aside = folder.parent / f".tmp-{uuid.uuid4().hex}"
            try:
                os.rename(folder, aside)
            except FileNotFoundError:
                continue
            shutil.rmtree(aside, ignore_errors=True)
    raise OSError(f"{folder.name} could not be put in place")


def _clear_leftovers(parent: Path) -> None:
    for path in parent.glob(".tmp-*"):
        try:
            if time.time() - path.stat().st_mtime > _STALE:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue


def read(folder: Path, key: str) -> Piece | None:
    """The piece under `folder`, None when there is none.

    Raises CorruptEntry when it is damaged or belongs to another key.
    """
    try:
        text = (folder / "entry.json").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if os.path.lexists(folder):
            raise CorruptEntry("entry.json is missing") from None
        return None
    except OSError as error:
        raise CorruptEntry(f"entry.json cannot be read: {error.strerror}") from None
    try:
        outer = json.loads(text)
        entry = outer["entry"]
        if outer["check"] != hashlib.sha256(_canonical(entry)).hexdigest():
            raise CorruptEntry("entry.json has a wrong checksum")
        if entry["format"] != FORMAT or entry["key"] != key:
            raise CorruptEntry("it belongs to another key or format")
        arrays = {}
        if entry["arrays"] is not None:
            from safetensors.torch import load

            content = (folder / "arrays.safetensors").read_bytes()
            if hashlib.sha256(content).hexdigest() != entry["arrays"]:
                raise CorruptEntry("arrays.safetensors has a wrong checksum")
            arrays = load(content)
        value = thaw(entry["value"], arrays)
        return Piece(value, entry["seconds"], entry["cpu_seconds"], entry["peak_memory_mb"])
    except CorruptEntry:
        raise
    except FileNotFoundError:
        raise CorruptEntry("arrays.safetensors is missing") from None
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise CorruptEntry(f"{type(error).__name__}") from None
