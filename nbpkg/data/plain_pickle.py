"""Pickles of strangers, read by an unpickler that admits only the names that are known to occur in them.

A pickle is a small program that may call any function by name. Here a name that is not admitted is refused
before anything is called, and one that is admitted gives a stand-in, which notes down what it was given and
does nothing; where a reader says so, numpy's arrays and numbers are made as they are.
"""

import io
import pickle
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np

from nbpkg.data.archives import reading
from nbpkg.untrusted import refuse

#: What CIFAR's batches ask for, written by Python 2.
_ARRAY = ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")
_DAMAGED = "holds a pickle that is truncated or damaged"


class Noted:
    """What would have been an object: `arguments` of its call, and the `state` that was set afterwards."""

    def __new__(cls, *arguments):
        self = super().__new__(cls)
        self.arguments, self.state = arguments, None
        return self

    def __init__(self, *arguments):
        pass

    def __setstate__(self, state):
        self.state = state


def _encode(text: str, encoding: str) -> bytes:
    """How pickles of protocol 2 hold bytes; they use this encoding only."""
    return text.encode("latin-1")


def _numpy() -> dict:
    """What is honoured for numpy's names, as numpy 1 wrote them."""
    core = np._core if hasattr(np, "_core") else np.core
    return {
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
        "numpy.core.multiarray._reconstruct": core.multiarray._reconstruct,
        "numpy.core.multiarray.scalar": core.multiarray.scalar,
        "numpy.core.numeric._frombuffer": core.numeric._frombuffer,
        "_codecs.encode": _encode,
    }


# Python's own unpickler: that in C makes room for whatever number it is told to remember something under.
class _Reader(pickle._Unpickler):
    def __init__(self, path, stream: IO[bytes], names: Collection[str], honoured: dict, encoding: str):
        super().__init__(stream, fix_imports=False, encoding=encoding)
        self.path, self.names, self.honoured = path, names, honoured

    def find_class(self, module, name):
        if f"{module}.{name}" not in self.names:
            refuse(self.path, f"holds a pickle that would run code ({module}.{name})")
        return self.honoured.get(f"{module}.{name}", Noted)

    def persistent_load(self, said):
        """A tensor's numbers, which lie elsewhere in a torch file and are not needed."""
        return Noted(said)


def load(path: str | Path, names: Collection[str]):
    """The object in the pickle at `path`, which may ask for the dotted `names` only.

    Names of numpy are honoured, the others give `Noted`. Raises NbpkgError that names the file when it is
    damaged, or asks for anything else.
    """
    with reading(path, _DAMAGED), open(path, "rb") as stream:
        return _Reader(path, stream, names, _numpy(), "ASCII").load()


def load_torch(path: str | Path, names: Collection[str]):
    """The object in a torch file (a zip with `data.pkl`), without the numbers of its tensors; as `load`."""
    with reading(path, "is no readable torch file"), zipfile.ZipFile(path) as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(pickled) as stream, reading(path, _DAMAGED):
            return _Reader(path, stream, names, _numpy(), "ASCII").load()


def loads(path: str | Path, content: bytes) -> dict:
    """The dictionary in one of CIFAR's pickles, keys as text; text of Python 2 stays bytes.

    Its arrays, all of uint8, are not left to numpy, which warns of pickles this old. `path` is only named in
    messages. Raises NbpkgError for a pickle that is damaged or needs any other function or class.
    """
    with reading(path, _DAMAGED):
        table = _Reader(path, io.BytesIO(content), _ARRAY, {}, "bytes").load()
        return {key.decode(): _array(v) if isinstance(v, Noted) else v for key, v in table.items()}


def _array(made: Noted) -> np.ndarray:
    _, shape, _, fortran, raw = made.state
    return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")
