"""Readers for files that came from outside: plain data only, checked before anything uses it.

Torch files are loaded by `nbpkg.untrusted.read_torch`, which runs no code from them. Types, lengths, ranges
and finiteness are checked; whatever does not fit is refused with NbpkgError, one line that names the file.
"""

import math
from itertools import chain
from pathlib import Path

import numpy as np

from nbpkg.untrusted import read_torch, refuse


def _numbers(path, values, *, length, positive, integer) -> np.ndarray:
    """A flat list of plain numbers as a float64 or int64 array; refuses anything else."""
    if type(values) is not list:
        refuse(path, f"holds a {type(values).__name__} where a list of numbers is due")
    if length is not None and len(values) != length:
        refuse(path, f"holds {len(values):,} values where {length:,} are due")
    allowed = {int} if integer else {int, float}
    if strange := set(map(type, values)) - allowed:
        names = ", ".join(sorted(kind.__name__ for kind in strange))
        refuse(path, f"holds {names} where {'whole numbers' if integer else 'numbers'} are due")
    try:
        array = np.array(values, dtype=np.int64 if integer else np.float64)
    except OverflowError as error:
        refuse(path, "holds a number too large to use", error)
    if not np.isfinite(array).all():
        refuse(path, f"holds a value that is not finite (position {int(np.argmin(np.isfinite(array)))})")
    if positive and not (array > 0).all():
        refuse(path, f"holds a value that is not positive (position {int(np.argmin(array > 0))})")
    return array


def _in_range(path, array: np.ndarray, low, high) -> None:
    if array.size and ((low is not None and array.min() < low) or (high is not None and array.max() > high)):
        refuse(path, f"holds values from {array.min()} to {array.max()}, outside {low} to {high}")


def read_torch_list(path: str | Path, length: int | None = None, positive: bool = True) -> np.ndarray:
    """One list of numbers (HELP's latencies, in ms) as a float64 array of shape (length,).

    Integers and floats are accepted; `length` is checked when given. Raises NbpkgError naming the file when
    it is damaged, holds something else, has another length, or a value that is not finite or (`positive`) not
    above 0.
    """
    return _numbers(path, read_torch(path), length=length, positive=positive, integer=False)


def read_torch_indices(path: str | Path, length: int | None = None, high: int | None = None) -> np.ndarray:
    """Distinct indices (`hardware_embedding_index.pt`) as an int64 array of shape (length,).

    Each index lies in 0 .. `high` - 1. Raises NbpkgError naming the file otherwise.
    """
    array = _numbers(path, read_torch(path), length=length, positive=False, integer=True)
    _in_range(path, array, 0, None if high is None else high - 1)
    if len(np.unique(array)) != len(array):
        refuse(path, "names an index twice")
    return array


def read_torch_rows(
    path: str | Path, shape: tuple[int, int] | None = None, low: int | None = None, high: int | None = None
) -> np.ndarray:
    """Rows of whole numbers (FBNet's `arch.pt`) as an int64 array of shape (rows, columns).

    `shape` and the inclusive bounds `low` and `high` are checked when given. Raises NbpkgError naming the
    file.
    """
    rows = read_torch(path)
    if type(rows) is not list or not rows or not all(type(row) is list for row in rows):
        refuse(path, "does not hold a list of rows")
    widths = {len(row) for row in rows}
    found = (len(rows), widths.pop() if len(widths) == 1 else None)
    if found[1] is None or (shape is not None and found != tuple(shape)):
        due = shape or "any one length"
        refuse(path, f"holds {len(rows):,} rows of unequal or wrong length ({due} is due)")
    flat = _numbers(path, list(chain.from_iterable(rows)), length=None, positive=False, integer=True)
    _in_range(path, flat, low, high)
    return flat.reshape(found)


def read_torch_dict(path: str | Path, keys: set[str] | None = None, *, numpy_scalars: bool = False) -> dict:
    """A torch file holding a dictionary with text keys; exactly `keys` when given. Values are not checked.

    Raises NbpkgError naming the file.
    """
    table = read_torch(path, numpy_scalars=numpy_scalars)
    if type(table) is not dict or not all(type(key) is str for key in table):
        refuse(path, "does not hold a dictionary with text keys")
    if keys is not None and set(table) != set(keys):
        refuse(path, f"has the keys {sorted(table)[:5]} where {sorted(keys)} are due")
    return table


def read_arch_index(path: str | Path, length: int = 15_625) -> dict[str, int]:
    """HELP's `str_arch2idx.pt`: architecture string -> NAS-Bench-201 index, one to one onto 0 .. length - 1.

    The strings themselves are not parsed here. Raises NbpkgError naming the file.
    """
    table = read_torch_dict(path)
    indices = _numbers(path, list(table.values()), length=length, positive=False, integer=True)
    if not np.array_equal(np.sort(indices), np.arange(length)):
        refuse(path, f"does not number its strings one to one from 0 to {length - 1}")
    return table


def read_metad2a(path: str | Path) -> tuple[float, tuple[str, ...], np.ndarray, np.ndarray]:
    """HELP's `arch_generated_by_metad2a.txt`: first number, strings, accuracies (%) and scores.

    Its first line is one number (the generator's seconds); each other line is `string, accuracy, score`. The
    arrays are float64, as long as `strings`. Raises NbpkgError naming the file and the line.
    """
    try:
        lines = Path(path).read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        refuse(path, "there is no such file")
    except (OSError, UnicodeDecodeError) as error:
        refuse(path, "is not a readable text file", error)
    if len(lines) < 2:
        refuse(path, "holds no architecture")
    parsed = []
    for number, line in enumerate(lines, start=1):
        fields = line.split(", ")
        try:
            values = [float(field) for field in (fields if number == 1 else fields[1:])]
        except ValueError:
            values = []
        if len(values) != min(number, 2) or not all(map(math.isfinite, values)):
            refuse(path, f"line {number} cannot be understood")
        parsed.append((fields[0], *values))
    strings = tuple(row[0] for row in parsed[1:])
    accuracy, score = np.array([row[1:] for row in parsed[1:]], dtype=np.float64).T
    _in_range(path, accuracy, 0, 100)
    if not all(string.startswith("|") and string.endswith("|") for string in strings):
        refuse(path, "holds something else than architecture strings")
    return parsed[0][1], strings, accuracy, score
