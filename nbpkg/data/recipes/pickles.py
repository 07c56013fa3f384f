"""Pickles of strangers, read by an unpickler that admits only the names that are known to occur in them.

A pickle is a small program that may call any function by name. Here numpy's arrays and numbers are made as
they are; every other admitted name is answered by a stand-in, which notes down what it was given and does
nothing. A name that was not admitted is refused before anything is called.
"""

import pickle
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np

from nbpkg.data.archives import MiB
from nbpkg.errors import NbpkgError
from nbpkg.untrusted import refuse

_LIMIT = 64 * MiB


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
    """How pickles of protocol 2 write bytes; the only encoding that they use is this one."""
    return text.encode("latin-1")


def _numpy() -> dict:
    core = np._core if hasattr(np, "_core") else np.core
    return {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        # As numpy 1 names its modules.
        ("numpy.core.multiarray", "_reconstruct"): core.multiarray._reconstruct,
        ("numpy.core.multiarray", "scalar"): core.multiarray.scalar,
        ("numpy.core.numeric", "_frombuffer"): core.numeric._frombuffer,
        ("_codecs", "encode"): _encode,
    }


class _Reader(pickle.Unpickler):
    def __init__(self, path: Path, stream: IO[bytes], names: Iterable[str]):
        super().__init__(stream, fix_imports=False)
        self.path, self.names, self.numpy = path, set(names), _numpy()

    def find_class(self, module, name):
        if f"{module}.{name}" not in self.names:
            refuse(self.path, f"holds a pickle that would run code ({module}.{name})")
        return self.numpy.get((module, name), Noted)

    def persistent_load(self, said):
        """A tensor's numbers, which lie elsewhere in the file and are not needed."""
        return Noted(said)


def load(path: str | Path, names: Iterable[str], stream: IO[bytes] | None = None):
    """The object in the pickle at `path` (or in `stream`), which may ask for the dotted `names` only.

    Names of numpy's are honoured, the others give `Noted`. Raises NbpkgError that names the file when it is
    damaged, larger than 64 MiB, or asks for anything else.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _LIMIT:
            refuse(path, f"is larger than the {_LIMIT:,} bytes allowed")
        if stream is not None:
            return _Reader(path, stream, names).load()
        with open(path, "rb") as file:
            return _Reader(path, file, names).load()
    except NbpkgError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way at all
        refuse(path, f"holds a pickle that is truncated or damaged ({type(error).__name__})", error)


def load_torch(path: str | Path, names: Iterable[str]):
    """The object in a torch file (a zip with `data.pkl`), without the numbers of its tensors; as `load`."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = [info for info in archive.infolist() if info.filename.endswith("/data.pkl")]
            if len(pickled) != 1 or pickled[0].file_size > _LIMIT:
                refuse(path, "holds no pickle of the size allowed")
            with archive.open(pickled[0]) as stream:
                return load(path, names, stream)
    except (OSError, zipfile.BadZipFile) as error:
        refuse(path, f"is no readable torch file ({type(error).__name__})", error)
