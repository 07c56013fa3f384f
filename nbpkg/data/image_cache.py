"""Decoded image sets on disk: a process that starts need not decode pictures that an earlier one decoded.

Decoding takes seconds for a part of a set and most of a minute for Tiny-ImageNet's archive; reading it back
takes a fraction of a second. A set is kept under `<cache>/images`, by name and by the digest of the
registered files it was made from. What is kept is checked by its own SHA-256 when it is read; anything wrong
with it, and it is decoded again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from nbpkg import paths

#: Part of the key: raised whenever a reader makes something else of the same files.
READERS = 1
_KEYS = ("images", "labels", "train")


def _digest(arrays: dict[str, np.ndarray], names: str) -> str:
    hasher = hashlib.sha256(names.encode())
    for key in _KEYS:
        hasher.update(f"{key} {arrays[key].dtype} {arrays[key].shape}\n".encode())
        hasher.update(np.ascontiguousarray(arrays[key]).data)
    return hasher.hexdigest()


def decoded(name: str, digest: str, make: Callable[[], tuple]) -> tuple:
    """(images, labels, class names, train) of the set called `name`, from disk or else from `make()`.

    digest: "sha256:..." of the files that `make` reads; `make` returns the four parts, with the arrays uint8
    (n, channels, h, w), int64 (n,) and bool (n,). A cache that cannot be written is done without. Raises what
    `make` raises.
    """
    key = f"{name}-{digest.removeprefix('sha256:')[:24]}-{READERS}"
    path = paths.cache_dir() / "images" / f"{key}.safetensors"
    # Absent, or damaged in whatever way: the files are still there to be decoded.
    with contextlib.suppress(Exception):
        return _read(path)
    images, labels, names, train = make()
    # safetensors has an exception of its own for a full disk.
    with contextlib.suppress(OSError, SafetensorError):
        _write(path, {"images": images, "labels": labels, "train": train}, json.dumps(names))
    return images, labels, names, train


def _read(path: Path) -> tuple:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        said = file.metadata()
        arrays = {key: file.get_tensor(key) for key in _KEYS}
    if said["sha256"] != _digest(arrays, said["names"]):
        raise ValueError("damaged")
    return arrays["images"], arrays["labels"], tuple(json.loads(said["names"])), arrays["train"]


def _write(path: Path, arrays: dict[str, np.ndarray], names: str) -> None:
    from safetensors.numpy import save_file

    arrays = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        save_file(arrays, temporary, {"sha256": _digest(arrays, names), "names": names})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
