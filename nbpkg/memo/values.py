"""Data by content: the parts that stand for a value in a hash (see nbpkg.memo.fingerprint)."""

import sys
from pathlib import Path, PurePath
from typing import Any

from nbpkg import paths

Parts = list[str | bytes]


def plain(value: Any) -> Parts | None:
    """Numbers, str, bytes, None and Ellipsis; None for anything else.

    A numpy scalar counts as the Python number it equals.
    """
    kind = type(value)
    if kind.__module__ == "numpy" and kind.__name__ != "ndarray" and getattr(value, "shape", None) == ():
        value = value.item()
        kind = type(value)
    if value is None or value is Ellipsis or kind in (bool, int, float, complex):
        return [kind.__name__, repr(value)]
    if kind is str:
        return ["str", value.encode("utf-8", "surrogatepass")]
    if kind in (bytes, bytearray):
        return [kind.__name__, bytes(value)]
    return None


def leaf(value: Any) -> Parts | None:
    """Values that hold no others: arrays, tensors, dtypes, devices, paths, patterns, dates; None for anything
    else.
    """
    kind = type(value)
    top = str(kind.__module__).partition(".")[0]
    if isinstance(value, PurePath):
        # Where the package is installed is not part of what it does.
        home = paths.package()
        if isinstance(value, Path) and value.is_relative_to(home):
            return ["package path", value.relative_to(home).as_posix()]
        return ["path", value.as_posix()]
    if top == "numpy":
        return _numpy(value)
    if top == "re" and kind.__name__ == "Pattern":
        return ["pattern", repr(value.pattern), str(value.flags)]
    if isinstance(value, (range, slice)) or top in ("fractions", "decimal", "datetime", "uuid"):
        return [kind.__name__, repr(value)]
    torch = sys.modules.get("torch")
    return None if torch is None else _torch(value, torch)


def _numpy(value: Any) -> Parts | None:
    import numpy as np

    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return ["ndarray", repr(value.dtype.descr), repr(value.shape), value.tobytes()]
    if isinstance(value, np.dtype):
        return ["dtype", repr(value.descr)]
    if isinstance(value, np.ufunc):
        return ["ufunc", np.__version__, value.__name__]
    return None


def _torch(value: Any, torch: Any) -> Parts | None:
    if isinstance(value, (torch.device, torch.dtype)):
        return ["torch", repr(value)]
    if not isinstance(value, torch.Tensor):
        return None
    dense = value if value.layout is torch.strided else value.detach().to_dense()
    return ["tensor", str(value.dtype), repr(tuple(value.shape)), tensor_bytes(dense).tobytes()]


def tensor_bytes(value: Any) -> Any:
    """The bytes of a dense tensor on any device in the order of its indices, numpy uint8 (bytes,)."""
    import torch

    flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy()
