"""Data by content: the parts that stand for a value in a hash (see nbpkg.memo.fingerprint)."""

import functools
import re
import sys
import types
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from nbpkg import paths

Parts = list[str | bytes]


def leaf(value: Any) -> Parts | None:
    """The parts of a value that holds no others: numbers, str, bytes, None, arrays, tensors, dtypes, devices,
    paths, patterns, dates; None for anything else. A numpy scalar counts as the Python number it equals.
    """
    value = value.item() if isinstance(value, np.generic) else value
    kind = type(value)
    top = str(kind.__module__).partition(".")[0]
    if kind in (str, bytes, bytearray):
        return [kind.__name__, value if kind is str else bytes(value)]
    if value is None or value is Ellipsis or kind in (bool, int, float, complex, range, slice):
        return [kind.__name__, repr(value)]
    if top in ("fractions", "decimal", "datetime", "uuid"):
        return [kind.__name__, repr(value)]
    if isinstance(value, PurePath):
        # Where the package is installed is not part of what it does.
        home = paths.package()
        if isinstance(value, Path) and value.is_relative_to(home):
            return ["package path", value.relative_to(home).as_posix()]
        return ["path", value.as_posix()]
    if isinstance(value, re.Pattern):
        return ["pattern", repr(value.pattern), str(value.flags)]
    if top == "numpy" and isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return ["ndarray", repr(value.dtype.descr), repr(value.shape), value.tobytes()]
    if isinstance(value, np.dtype):
        return ["dtype", repr(value.descr)]
    if isinstance(value, np.ufunc):
        return ["ufunc", np.__version__, value.__name__]
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, (torch.device, torch.dtype)):
        return ["torch", repr(value)]
    if torch is None or not isinstance(value, torch.Tensor):
        return None
    dense = value if value.layout is torch.strided else value.detach().to_dense()
    return ["tensor", str(value.dtype), repr(tuple(value.shape)), tensor_bytes(dense).tobytes()]


def tensor_bytes(value: Any) -> Any:
    """The bytes of a dense tensor on any device in the order of its indices, numpy uint8 (bytes,)."""
    import torch

    flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy()


def attributes(value: Any) -> dict[str, Any]:
    """An object's attributes, without what functools.cached_property leaves there."""
    members = [item for base in type(value).__mro__ for item in vars(base).items()]
    slots = [name for name, member in members if isinstance(member, types.MemberDescriptorType)]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    found |= getattr(value, "__dict__", {})
    cached = {name for name, member in members if isinstance(member, functools.cached_property)}
    return {name: found[name] for name in sorted(found) if name not in cached}
