"""What was measured on the cells of NAS-Bench-201, behind one interface whatever file it comes from.

    table = data.nb201.load()                         the fullest table on this machine
    table.accuracy("cifar100", "valid", epochs=200)   percent, one value for each of the 15,625 cells

Every array is aligned with ``space.index``; cells without a row are NaN. Datasets are called "cifar10",
"cifar100" and "imagenet16" ("ImageNet16-120" is understood), or whatever a light table calls its own.
Accuracies of "cifar10" on "valid" come from networks trained on half of the training images, those on "test"
from networks trained on all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nbpkg.errors import NbpkgError
from nbpkg.nb201 import official, space
from nbpkg.paths import replacing

_ALIASES = {"imagenet": "imagenet16", "imagenet16120": "imagenet16"}
_ARCH = ("arch", "ArchitectureString")
_ISOMORPHISM = ("isomorphism", "UniqueString")
_ACCURACY = re.compile(
    r"(?P<dataset>\w+?)_(?P<split>test|valid)_(?P<epochs>\d{1,4})"
    r"|(?P<Dataset>\w+?)(?P<Split>Test|Valid)Accuracy(?P<Epochs>\d{1,4})Epochs"
)


def dataset_name(name: str) -> str:
    """The name under which tables know a dataset: lower case, "imagenet16" for "ImageNet16-120"."""
    plain = re.sub(r"[^a-z0-9]", "", str(name).lower())
    return _ALIASES.get(plain, plain)


@dataclass(frozen=True, eq=False)
class Table:
    """Results of cells; made by ``read``.

    ``rows`` are the canonical indices of the cells that the table holds, ascending, shape ``(n,)``.
    ``benchmark_index`` is the table's own number of every cell, int64 of shape ``(15625,)``, -1 where it
    has no row: for a list of values in the order of a complete table, ``values[table.benchmark_index]`` is
    in ours.
    """

    name: str
    rows: np.ndarray
    benchmark_index: np.ndarray
    _accuracies: Mapping[tuple[str, str, int], np.ndarray] = field(repr=False)

    def splits(self) -> list[tuple[str, str, int]]:
        """What accuracies there are: (dataset, split, epochs), sorted."""
        return sorted(self._accuracies)

    def accuracy(self, dataset: str, split: str, epochs: int = 200) -> np.ndarray:
        """Accuracy in percent, mean over the benchmark's training seeds: float64 ``(15625,)``, read-only.

        Raises NbpkgError that lists what there is, if the table does not have this.
        """
        key = (dataset_name(dataset), split, epochs)
        if key in self._accuracies:
            return self._accuracies[key]
        what = f"accuracy of {dataset!r}, split {split!r}, {epochs} epochs"
        there = ", ".join(" ".join(map(str, known)) for known in self.splits())
        raise NbpkgError(f"{self.name} has no {what}; it has: {there}")

    def save(self, path: str | Path) -> None:
        """Write the table as Parquet for ``read``: the quick form of the slow official file."""
        import pyarrow
        from pyarrow import parquet

        columns = {"index": self.benchmark_index[self.rows], "arch": space.decode(space.ops_of(self.rows))}
        for (dataset, split, epochs), values in sorted(self._accuracies.items()):
            columns[f"{dataset}_{split}_{epochs}"] = values[self.rows]
        with replacing(path) as partial:
            parquet.write_table(pyarrow.table(columns), partial)


def read(path: str | Path) -> Table:
    """Read a table of cells; raises NbpkgError that names the file if anything is wrong in it.

    Files that end in .csv and .parquet are light tables with named columns, which are discovered: ``arch``
    or ``ArchitectureString`` (needed), ``index`` (the number of the row if it is left out),
    ``DATASET_test_EPOCHS`` or ``DATASETTestAccuracyEPOCHSEpochs`` and the same with valid, in percent;
    ``isomorphism`` or ``UniqueString`` is compared with ``space.unique_string``. Others are ignored.

    Files that end in .pth are the official NAS-Bench-201, or a part of its cells. Reading without running
    code takes about a third of a second an architecture, more than an hour for all of them, and the file of
    several gigabytes must fit in memory: ``save`` the result and load that.
    """
    path = Path(path)
    if path.suffix == ".pth":
        return build(path.name, **official.read(path))
    if path.suffix not in (".csv", ".parquet"):
        raise NbpkgError(f"{path.name}: a table of cells ends in .csv, .parquet or .pth")
    return _light(path)


def _columns(path: Path) -> dict:
    import pyarrow
    from pyarrow import csv, parquet

    try:
        if path.suffix == ".csv":
            frame = csv.read_csv(str(path))
        else:
            # ParquetFile reads this one file; read_table would also take a folder, or a remote address.
            file = parquet.ParquetFile(str(path))
            if (rows := file.metadata.num_rows) > space.N_CELLS:
                raise NbpkgError(f"{path.name}: has {rows} rows, more than there are cells")
            frame = file.read()
        return {name: frame[name] for name in frame.column_names}
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise NbpkgError(f"{path.name}: cannot be read as a table ({_line(error)})") from None
    except KeyError:
        raise NbpkgError(f"{path.name}: two columns have the same name") from None


def _light(path: Path) -> Table:
    import pyarrow

    columns = _columns(path)

    def numbers(name, kind="float64"):
        try:
            return columns[name].cast(kind).to_numpy()
        except pyarrow.ArrowException as error:
            raise NbpkgError(f"{path.name}: column {name} is not {kind} ({_line(error)})") from None

    column = next((name for name in _ARCH if name in columns), None)
    if column is None:
        raise NbpkgError(f"{path.name}: has no column {' or '.join(_ARCH)}; it has {', '.join(columns)}")
    strings = columns[column].to_pylist()
    own = numbers("index", "int64") if "index" in columns else np.arange(len(strings))
    accuracies = {}
    for name in columns:
        if match := _ACCURACY.fullmatch(name):
            dataset, split, epochs = (text for text in match.groups() if text)
            accuracies[dataset_name(dataset), split.lower(), int(epochs)] = numbers(name)
    table = build(path.name, strings, own, accuracies)
    for name in set(_ISOMORPHISM) & set(columns):
        expected = space.unique_string(space.encode(strings))
        if wrong := [row for row, given in enumerate(columns[name].to_pylist()) if given != expected[row]]:
            raise NbpkgError(f"{path.name}: in row {wrong[0]} isomorphism string and cell do not agree")
    return table


def build(
    name: str, strings: Sequence[str], own: np.ndarray, accuracies: Mapping[tuple[str, str, int], np.ndarray]
) -> Table:  # fmt: skip
    """A ``Table`` of ``n`` cells.

    ``strings``: n architecture strings. ``own``: the table's own number of each, integers ``(n,)``.
    ``accuracies``: percent ``(n,)`` by (dataset, split, epochs). Raises NbpkgError that starts with ``name``
    when there is no row or no accuracy, a string is no cell, a cell or number occurs twice, a number is not
    from 0 to 15,624, or a value is neither NaN nor from 0 to 100.
    """
    try:
        rows = space.index(space.encode(strings))
    except NbpkgError as error:
        raise NbpkgError(f"{name}: {error}") from None
    own = np.asarray(own)
    if not len(rows) or not accuracies:
        raise NbpkgError(f"{name}: has {len(rows)} rows and {len(accuracies)} columns of accuracies")
    if own.dtype.kind not in "iu" or own.min() < 0 or own.max() >= space.N_CELLS:
        raise NbpkgError(f"{name}: architecture numbers must be integers from 0 to {space.N_CELLS - 1}")
    for numbers in (rows, own):
        again = np.setdiff1d(np.arange(len(numbers)), np.unique(numbers, return_index=True)[1])
        if again.size:
            row = int(again[0])
            raise NbpkgError(f"{name}: row {row}, number {own[row]}, {strings[row]}, is there a second time")
    benchmark_index = np.full(space.N_CELLS, -1)
    benchmark_index[rows] = own
    benchmark_index.setflags(write=False)
    aligned = {key: _aligned(name, rows, key, values) for key, values in accuracies.items()}
    return Table(name, np.sort(rows), benchmark_index, aligned)


def _aligned(name: str, rows: np.ndarray, key: tuple, values) -> np.ndarray:
    """Accuracies ``(n,)`` of the cells ``rows`` as float64 ``(15625,)``, NaN elsewhere, read-only."""
    values = np.asarray(values, np.float64)
    wrong = ~np.isnan(values) & ~((values >= 0) & (values <= 100))
    if wrong.any():
        row, what = int(np.argmax(wrong)), " ".join(map(str, key))
        raise NbpkgError(f"{name}: {what} is {values[row]} in row {row}, not from 0 to 100")
    full = np.full(space.N_CELLS, np.nan)
    full[rows] = values
    full.setflags(write=False)
    return full


def _line(error: Exception) -> str:
    """The first line of an error's text, short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
