"""Pickles of plain data (CIFAR's batches, written by Python 2), read without running anything they ask for.

A pickle is a small program that may call any function. Here it reaches the three names of numpy that make an
array, and a stand-in in place of each, which notes down what it was given and does nothing.
"""

import io
import math
import pickle
from pathlib import Path

import numpy as np

from nbpkg.errors import NbpkgError
from nbpkg.untrusted import refuse

_NAMES = {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}


class _Noted:
    """What would have been a call: keeps its arguments, and the state that is set afterwards."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __setstate__(self, state):
        self.state = state


# Python's own unpickler: that in C makes room for whatever number it is told to remember something under.
class _Reader(pickle._Unpickler):
    def __init__(self, path: str | Path, content: bytes):
        # Text of Python 2 was bytes, and stays so.
        super().__init__(io.BytesIO(content), fix_imports=False, encoding="bytes")
        self.path = path

    def find_class(self, module, name):
        if (module, name) not in _NAMES:
            refuse(self.path, f"holds a pickle that would run code ({module}.{name})")
        return _Noted


def loads(path: str | Path, content: bytes) -> dict:
    """The dictionary in a pickle, keys as text; text of Python 2 stays bytes, arrays become uint8.

    `path` is only named in messages. Raises NbpkgError for a pickle that is damaged, needs any other function
    or class, holds no dictionary, or an array of another type.
    """
    try:
        table = _Reader(path, content).load()
        if type(table) is not dict:
            refuse(path, "holds a pickle of something else than a dictionary")
        arrays = {key: _array(path, value) for key, value in table.items() if isinstance(value, _Noted)}
    except NbpkgError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way at all
        refuse(path, f"holds a pickle that is truncated or damaged ({type(error).__name__})", error)
    return {_text(path, key): value for key, value in (table | arrays).items()}


def _array(path, made: _Noted) -> np.ndarray:
    """The uint8 array that was noted down; refuses every other type and sizes that do not fit."""
    _, shape, dtype, fortran, raw = made.state
    if dtype.arguments[0] != b"u1":
        refuse(path, "holds an array of another type than uint8")
    if len(raw) != math.prod(shape):
        refuse(path, "holds an array of another number of bytes than its shape says")
    return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


def _text(path, value) -> str:
    if type(value) is bytes and value.isascii():
        return value.decode("ascii")
    if type(value) is not str:
        refuse(path, "holds a name that is no text")
    return value


def names(path: str | Path, values, length: int) -> tuple[str, ...]:
    """A list of `length` different names, bytes or text, as text; NbpkgError when it is anything else."""
    if type(values) is not list or len(values) != length:
        refuse(path, f"does not hold {length} names")
    found = tuple(_text(path, value) for value in values)
    if len(set(found)) != length:
        refuse(path, "names a class twice")
    return found


def labels(path: str | Path, values, length: int, classes: int) -> np.ndarray:
    """A list of `length` whole numbers from 0 to `classes` - 1 as int64 (length,); NbpkgError otherwise."""
    if type(values) is not list or len(values) != length or set(map(type, values)) - {int}:
        refuse(path, f"does not hold {length:,} labels")
    if not (min(values) >= 0 and max(values) < classes):
        refuse(path, f"holds labels outside 0 to {classes - 1}")
    return np.array(values, np.int64)
