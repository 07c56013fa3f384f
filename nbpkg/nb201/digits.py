"""The embedded benchmark: every function that a cell of NAS-Bench-201 computes, trained on digits.

    benchmark = load()
    benchmark.table.accuracy("digits", "valid", epochs=10)     percent, means over training seeds
    benchmark.test                                             every seed's own, (seeds, 15625)

One cell of each of the 4,930 functions (`space.function_class`) was trained with every seed, and all cells of
a function share its values. That is coarser than the published benchmark's 6,466 classes; but of the 1,536
cells that these add, all but 63 are, built without dead edges, as large as the one that was trained and
compute the same: training them would measure another seed's noise. The others, as 3 % of all cells, differ
from it in whether two equal terms share their weights.

`nbpkg zoo build digits` makes the table anew (`nbpkg.zoo.recipes`); the JSON file beside it says how it was
made.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from nbpkg import paths
from nbpkg.errors import NbpkgError
from nbpkg.nb201 import space
from nbpkg.nb201.table import Table, build

FILE = "digits.parquet"
#: What is kept of every training, in percent or nats; train_loss is the mean over all epochs.
QUANTITIES = ("valid", "test", "valid_loss", "test_loss", "train_loss")
#: First width, cells per stage, epochs and pixels a side of the trained networks.
C, N, EPOCHS, RESOLUTION = 4, 1, 10, 8
_AGAIN = "restore it or run `nbpkg zoo build digits --profile standard --out FILE`"


@dataclass(frozen=True, eq=False)
class Benchmark:
    """The table and what it is made of; arrays are float64 (seeds, 15625) in the order of `space.index`.

    table: means over seeds. valid, test: accuracies in percent; the losses in nats. trained: canonical
    indices of the cells that were trained, (n,).
    """

    table: Table
    seeds: tuple[int, ...]
    trained: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    valid_loss: np.ndarray
    test_loss: np.ndarray
    train_loss: np.ndarray
    provenance: Mapping[str, object] = field(repr=False)


def cells() -> np.ndarray:
    """Canonical indices of the cells to train, the first one of each function: int64 (4930,)."""
    return np.unique(space.function_class(space.all_ops()), return_index=True)[1]


def write(
    path: str | Path, trained: np.ndarray, seeds: Sequence[int], values: Mapping[str, np.ndarray],
    provenance: Mapping[str, object],
) -> None:  # fmt: skip
    """Write a table and the JSON beside it, each whole or not at all.

    trained: canonical indices (n,), one cell of each function. values: for each of QUANTITIES the results,
    (seeds, n). provenance: what the JSON says beside the file's checksum. Raises NbpkgError for other cells.
    """
    import pyarrow
    from pyarrow import parquet

    path = Path(path)
    if not np.array_equal(np.sort(trained), cells()):
        raise NbpkgError(f"{path.name}: {len(trained)} cells are not one of each function")
    columns = {"cell": np.asarray(trained, np.int16)}
    for name in QUANTITIES:
        for seed, row in zip(seeds, values[name], strict=True):
            columns[f"{name}_seed{seed}"] = np.asarray(row, np.float32)
    described = paths.replacing(path.with_suffix(".json"))
    with described as description, paths.replacing(path) as partial:
        parquet.write_table(pyarrow.table(columns), partial, compression="zstd", compression_level=19)
        metadata = {**provenance, "seeds": list(seeds)}
        metadata["sha256"] = hashlib.sha256(partial.read_bytes()).hexdigest()
        description.write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")


def load(path: str | Path | None = None) -> Benchmark:
    """The embedded benchmark, or the one at `path`.

    Raises NbpkgError that names the file when it is absent, does not belong to the JSON beside it, or holds
    anything but every function once with finite values.
    """
    path = Path(path or paths.embedded(FILE))
    try:
        seeds, provenance, cell, values = _read(path)
    except FileNotFoundError as error:
        raise NbpkgError(f"{Path(error.filename).name}: there is no such file; {_AGAIN}") from None
    except Exception as error:  # a damaged file can fail in many ways
        raise NbpkgError(f"{path.name}: {' '.join(str(error).split())[:160]}; {_AGAIN}") from None
    label = space.function_class(space.all_ops())
    row = np.argsort(label[cell])  # each function stands in one row
    full = {name: np.ascontiguousarray(found[:, row[label]]) for name, found in values.items()}
    for array in full.values():
        array.setflags(write=False)
    table = build(
        path.name, space.decode(space.all_ops()), np.arange(space.N_CELLS),
        {("digits", split, EPOCHS): full[split].mean(0) for split in ("valid", "test")},
    )  # fmt: skip
    return Benchmark(table, tuple(seeds), cell, *(full[name] for name in QUANTITIES), provenance)


def _read(path: Path):
    content = paths.intact(path).read_bytes()
    provenance = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if hashlib.sha256(content).hexdigest() != provenance["sha256"]:
        raise ValueError("its checksum is not the one in the file that describes it")
    seeds = [int(seed) for seed in provenance["seeds"]]
    frame = pd.read_parquet(io.BytesIO(content))
    cell = frame["cell"].to_numpy(np.int64)
    values = {
        name: frame[[f"{name}_seed{seed}" for seed in seeds]].to_numpy(np.float64).T for name in QUANTITIES
    }
    if not np.array_equal(np.sort(cell), cells()):
        raise ValueError("does not hold every function once")
    for name, array in values.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds a value that is not finite")
        if name in ("valid", "test") and not ((array >= 0) & (array <= 100)).all():
            raise ValueError(f"{name} holds an accuracy outside 0 to 100 percent")
    return seeds, provenance, cell, values
