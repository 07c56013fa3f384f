"""Results as tidy rows: how they are put together, kept as Parquet, averaged and shown."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nbpkg.errors import NbpkgError
from nbpkg.paths import replacing
from nbpkg.report.location import LEVEL
from nbpkg.report.tables import table as markdown

LIMIT = 300_000  # bytes of the rows that one chapter publishes
_CLAIMS = b"nbpkg_claims"  # in a file's metadata: the hash of the claims under which its rows were computed


def columns(rows: Any) -> dict[str, list]:
    """Rows, in whatever form a chapter makes them, as plain columns: what the memo can keep.

    rows: a frame, a list of dicts, or a dict of columns. Raises NbpkgError for none and for nested values.
    """
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows)
    if frame.empty:
        raise NbpkgError("no rows were made")
    if nested := [name for name in frame if frame[name].map(lambda x: isinstance(x, (list, dict))).any()]:
        raise NbpkgError(f"column {nested[0]} holds lists or dicts: write a row a value")
    return {str(name): frame[name].tolist() for name in frame}


def tidy(pieces: Sequence[Mapping], entries: Sequence[Mapping]) -> pd.DataFrame:
    """One frame of the `columns` of many calls, with what each call was given where its rows do not say it.

    Plain values of an entry (str, numbers, bool) become columns. Floats are rounded to float32, as they are
    published; whole numbers that some calls lack are Int64.
    """
    parts = []
    for piece, entry in zip(pieces, entries, strict=True):
        plain = {name: x for name, x in entry.items() if isinstance(x, (str, int, float, bool))}
        parts.append(pd.DataFrame(plain | piece, index=range(len(next(iter(piece.values()))))))
    frame = pd.concat(parts, ignore_index=True)
    for name in frame:
        if pd.api.types.is_float_dtype(frame[name]):
            whole = [part[name] for part in parts if name in part]
            if all(pd.api.types.is_integer_dtype(part) for part in whole):
                frame[name] = frame[name].astype("Int64")
            else:
                frame[name] = frame[name].astype(np.float32).astype(np.float64)
    return frame


def save(frame: pd.DataFrame, path: Path, claims: str = "") -> str:
    """Write rows as Parquet; returns the SHA-256 of the file. claims: the hash under which they were made."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    narrow = frame.copy()
    for name in narrow:
        if narrow[name].dtype == np.float64 and (narrow[name].astype(np.float32) == narrow[name]).all():
            narrow[name] = narrow[name].astype(np.float32)
    made = pa.Table.from_pandas(narrow, preserve_index=False)
    made = made.replace_schema_metadata({**(made.schema.metadata or {}), _CLAIMS: claims.encode()})
    with replacing(path) as temporary:
        pq.write_table(made, temporary, compression="zstd", compression_level=19)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(path: Path) -> tuple[pd.DataFrame, str]:
    """The rows in a Parquet file, as they were when they were saved, and the hash of their claims."""
    import pyarrow.parquet as pq

    try:
        read = pq.read_table(path)
        frame = read.to_pandas()
    except Exception as error:
        raise NbpkgError(f"{path.name}: no readable rows ({str(error).splitlines()[0]})") from None
    wide = {name: np.float64 for name in frame if frame[name].dtype == np.float32}
    return frame.astype(wide), (read.schema.metadata or {}).get(_CLAIMS, b"").decode()


def mean_over(frame: pd.DataFrame, value: str, keep: Sequence[str]) -> pd.DataFrame:
    """The mean of column `value` over all but the columns `keep`, which stay, in order of appearance."""
    return frame.groupby(list(keep), sort=False, dropna=False, observed=True)[value].mean().reset_index()


def t_ends(values: Iterable[float]) -> tuple[float, float]:
    """Low and high end of the 95 % t interval of a mean: what seaborn's `errorbar` takes."""
    from scipy.special import stdtrit

    values = np.array(list(values), float)
    mean, half = values.mean(), np.nan  # one value says nothing about spread
    if (n := len(values)) > 1:
        half = stdtrit(n - 1, 0.5 + LEVEL / 2) * values.std(ddof=1) / np.sqrt(n)
    return float(mean - half), float(mean + half)


def table(
    frame: pd.DataFrame, value: str, rows: str, columns: str, paper: Mapping[tuple, float] | None = None,
    order: Sequence[str] | None = None, digits: int = 3,
) -> str:  # fmt: skip
    """A Markdown table of means of `value`, with 95 % t intervals over the rows of each cell.

    rows, columns: the two columns of `frame` that span it. paper: the paper's numbers by (column, row), shown
    beside ours. order: the rows to show, in order. What is averaged is what `frame` repeats in a cell, so
    average all but the repetitions before (`mean_over`).
    """
    heads, cells = list(dict.fromkeys(frame[columns])), {}
    for key, values in frame.groupby([columns, rows], sort=False, observed=True)[value]:
        mean, (low, high) = values.mean(), t_ends(values)
        cells[key] = f"{mean:.{digits}f}" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if low < high else "")
    for key, number in (paper or {}).items():
        cells[key] = f"{cells.get(key, '–')}; paper {number:.{digits}f}"
    shown = list(order) if order is not None else list(dict.fromkeys(frame[rows]))
    body = [(row, *(cells.get((head, row), "–") for head in heads)) for row in shown]
    return markdown((rows, *heads), body, right=range(1, len(heads) + 1))
