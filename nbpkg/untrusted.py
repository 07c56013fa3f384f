"""Files from outside: how they are refused, and torch files read without running code from them."""

from __future__ import annotations

import contextlib
import zipfile
from pathlib import Path
from typing import NoReturn

import numpy as np

from nbpkg.errors import NbpkgError

#: Torch files that unpack to more than this many bytes are refused: the largest registered one takes 1.5 MB.
MAX_BYTES = 512 * 2**20


def refuse(path: str | Path, problem: object, cause: Exception | None = None) -> NoReturn:
    """Raises NbpkgError: one line that names the file by its last folders and says what is wrong with it."""
    line = " ".join(str(problem).split())[:240]
    raise NbpkgError(f"{'/'.join(Path(path).parts[-3:])}: {line}; the file is refused") from cause


def _numpy_scalars():
    """Lets torch load numpy scalars, which are plain numbers, and nothing else besides."""
    import torch

    core = np._core if hasattr(np, "_core") else np.core
    # numpy 1 and 2 name the function by different modules.
    makers = [(core.multiarray.scalar, f"numpy.{name}.multiarray.scalar") for name in ("core", "_core")]
    kinds = {type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "b1")}
    return torch.serialization.safe_globals([*makers, np.dtype, *kinds])


def read_torch(path: str | Path, *, numpy_scalars: bool = False, limit: int | None = MAX_BYTES):
    """The object in a torch file, on the CPU: tensors, numbers, strings and containers of them.

    numpy_scalars: admits numpy numbers as well. limit: bytes that the file may unpack to; None for any.
    Raises NbpkgError when the file is missing, truncated, no torch file, too large, or would have to run code
    to be read.
    """
    import torch

    try:
        size = Path(path).stat().st_size
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = sum(item.file_size for item in archive.infolist())
    except FileNotFoundError:
        refuse(path, "there is no such file")
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        refuse(path, f"cannot be read ({error})", error)
    if limit is not None and size > limit:
        refuse(path, f"unpacks to {size:,} bytes, more than the {limit:,} allowed")
    try:
        with _numpy_scalars() if numpy_scalars else contextlib.nullcontext():
            return torch.load(path, weights_only=True, map_location="cpu")
    # A damaged pickle can fail in any way at all: whatever it is, the file is not usable.
    except Exception as error:
        # torch names the class or function ("global") that the file asks for and that is not on its list.
        if "global" in str(error).lower():
            refuse(path, "holds more than plain data and would have to run code to be read", error)
        refuse(path, f"not a readable torch file, truncated or damaged ({type(error).__name__})", error)
