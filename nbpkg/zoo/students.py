"""The students of chapter 08 as a table: what each became under which teacher, and how it was trained.

    table = read()            one row a student and training
    table["accuracy"]         float32 (rows,), percent, on images that nothing was trained on

Columns: task; kind ("distilled", "scratch", "labels alone", "distilled from random weights"); teacher
("first", "another seed", "a fifth of the training"); seed; architecture, int8 (rows, 9), the eighths of the
teacher's width that each block has, 0 where it has none; accuracy. The chapter trains these students itself
and does not read the table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nbpkg.errors import NbpkgError

_TEXT, _ARCH = ("task", "kind", "teacher"), "architecture"


def default() -> Path:
    """Where the table lies that comes with the package."""
    from nbpkg import data

    return Path(data.__file__).with_name("embedded") / "students-standard.parquet"


def write(path: str | Path, columns: Mapping[str, object], said: Mapping[str, object]) -> None:
    """Write the columns, all of one length, and a description; whole or not at all."""
    import pyarrow
    from pyarrow import parquet

    arrays = {name: pyarrow.array(list(columns[name])).dictionary_encode() for name in _TEXT}
    arrays["seed"] = pyarrow.array(np.asarray(columns["seed"], np.int16))
    arrays[_ARCH] = pyarrow.array(np.asarray(columns[_ARCH], np.int8).tolist(), pyarrow.list_(pyarrow.int8()))
    arrays["accuracy"] = pyarrow.array(np.asarray(columns["accuracy"], np.float32))
    frame = pyarrow.table(arrays).replace_schema_metadata({"nbpkg": json.dumps(dict(said))})
    path = Path(path)
    partial = path.with_name(path.name + ".part")
    parquet.write_table(frame, partial, compression="zstd", compression_level=19)
    os.replace(partial, path)


def read(path: str | Path | None = None) -> dict[str, object]:
    """The columns as numpy arrays, and under "said" the description.

    Raises NbpkgError that names the file when it is absent, damaged or holds what cannot be.
    """
    from pyarrow import parquet

    path = Path(path or default())
    try:
        frame = parquet.read_table(path)
        out: dict[str, object] = {name: np.array(frame[name].to_pylist()) for name in _TEXT}
        out["seed"] = frame["seed"].to_numpy().astype(np.int64)
        out[_ARCH] = np.array(frame[_ARCH].to_pylist(), np.int8)
        out["accuracy"] = accuracy = frame["accuracy"].to_numpy()
        out["said"] = json.loads(frame.schema.metadata[b"nbpkg"])
        if out[_ARCH].shape != (len(accuracy), 9) or not ((accuracy >= 0) & (accuracy <= 100)).all():
            raise ValueError("a row is no student or no accuracy")
    except FileNotFoundError:
        raise NbpkgError(f"{path.name}: there is no such table") from None
    except Exception as error:  # a damaged file can fail in many ways
        raise NbpkgError(
            f"{path.name}: no table of students ({' '.join(str(error).split())[:160]})"
        ) from None
    return out
