"""Pickles of plain data (CIFAR's batches, written by Python 2), read without running anything they ask for.

A pickle is a small program that may call any function. Here its operations are looked through first: only
those of numbers, text, lists, tuples, dictionaries and numpy arrays are let through. Then it is read with
stand-ins in place of numpy's functions, which note down what they were given and do nothing.
"""

import io
import math
import pickle
import pickletools
from pathlib import Path

import numpy as np

from nbpkg.data.archives import refuse
from nbpkg.errors import NbpkgError

#: What protocols 0 to 2 need for such data.
_ALLOWED = {
    "PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG1",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
    "TUPLE2", "TUPLE3", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM",
    "SETITEMS", "PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET", "GLOBAL", "REDUCE", "BUILD",
}  # fmt: skip
#: An array takes six tuples. Deeply nested ones would exhaust the stack of whoever hashes them.
_MAX_TUPLES = 64


class _Noted:
    """What would have been a call: keeps its arguments, and the state that is set afterwards."""

    state = None

    def __init__(self, *arguments):
        self.arguments = arguments

    def __setstate__(self, state):
        self.state = state


class _Array(_Noted):
    pass


class _Dtype(_Noted):
    pass


_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Noted,
}


class _Reader(pickle.Unpickler):
    def __init__(self, path: str | Path, content: bytes):
        # Text of Python 2 was bytes, and stays so.
        super().__init__(io.BytesIO(content), fix_imports=False, encoding="bytes")
        self.path = path

    def find_class(self, module, name):
        if (module, name) not in _NAMES:
            refuse(self.path, f"holds a pickle that would run code ({module}.{name})")
        return _NAMES[module, name]


def _look_through(path: str | Path, content: bytes) -> None:
    tuples = 0
    for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
        name = operation.name
        if name not in _ALLOWED:
            refuse(path, f"holds a pickle of more than plain data ({name})")
        tuples += name.startswith("TUPLE")
        # The unpickler makes room for the largest number that it is told to remember something under.
        if tuples > _MAX_TUPLES or ("PUT" in name and argument > number):
            refuse(path, f"holds a pickle that asks for too much ({name})")


def loads(path: str | Path, content: bytes) -> dict:
    """The dictionary in a pickle, keys as text; text of Python 2 stays bytes, arrays become uint8.

    `path` is only named in messages. Raises NbpkgError for a pickle that is damaged, needs any other function
    or class, or holds no dictionary.
    """
    try:
        _look_through(path, content)
        table = _Reader(path, content).load()
    except NbpkgError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way at all
        refuse(path, f"holds a pickle that is truncated or damaged ({type(error).__name__})", error)
    if type(table) is not dict:
        refuse(path, "holds a pickle of something else than a dictionary")
    return {
        _text(path, key): _array(path, value) if isinstance(value, _Noted) else value
        for key, value in table.items()
    }


def _text(path, value) -> str:
    if type(value) is bytes and value.isascii():
        return value.decode("ascii")
    if type(value) is not str:
        refuse(path, "holds a name that is no text")
    return value


def _array(path, made: _Noted) -> np.ndarray:
    """The uint8 array that was noted down; refuses every other type and sizes that do not fit."""
    if type(made) is not _Array or type(made.state) is not tuple or len(made.state) != 5:
        refuse(path, "holds an array that was not finished")
    _, shape, dtype, fortran, raw = made.state
    if type(dtype) is not _Dtype or dtype.arguments[:1] != (b"u1",):
        refuse(path, "holds an array of another type than uint8")
    if type(shape) is not tuple or len(shape) > 4 or not all(type(n) is int and n > 0 for n in shape):
        refuse(path, "holds an array of an impossible shape")
    if type(raw) is not bytes or len(raw) != math.prod(shape):
        refuse(path, "holds an array of another number of bytes than its shape says")
    return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


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
