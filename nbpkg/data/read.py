"""Readers for files that came from outside: plain data only, checked before anything uses it.

Torch files are loaded by `nbpkg.untrusted.read_torch`, which runs no code from them. Types, lengths, ranges
and finiteness are checked; whatever does not fit is refused with NbpkgError, one line that names the file.
"""

import math
from itertools import chain
from pathlib import Path

import numpy as np

from nbpkg.untrusted import read_torch, refuse


def _numbers(path, values, kinds: set[type]) -> np.ndarray:
    """A flat list of plain numbers of these kinds as a float64 or, of int only, an int64 array."""
    if type(values) is not list:
        refuse(path, f"holds a {type(values).__name__} where a list of numbers is due")
    if strange := set(map(type, values)) - kinds:
        names = ", ".join(sorted(kind.__name__ for kind in strange))
        refuse(path, f"holds {names} where {'numbers' if float in kinds else 'whole numbers'} are due")
    try:
        return np.array(values, dtype=np.float64 if float in kinds else np.int64)
    except OverflowError as error:
        refuse(path, "holds a number too large to use", error)


def _check(path, array: np.ndarray, length: int, low: float, high: float) -> None:
    """Refuses another length than `length`, and values outside `low` to `high`."""
    if len(array) != length:
        refuse(path, f"holds {len(array):,} values where {length:,} are due")
    if array.size and (array.min() < low or array.max() > high):
        refuse(path, f"holds values from {array.min()} to {array.max()}, outside {low} to {high}")


def read_torch_list(path: str | Path, length: int) -> np.ndarray:
    """One list of numbers above 0 (HELP's latencies, in ms) as a float64 array of shape (length,).

    Integers and floats are accepted. Raises NbpkgError naming the file when it is damaged, holds something
    else, has another length, or a value that is not finite or not above 0.
    """
    array = _numbers(path, read_torch(path), {int, float})
    _check(path, array, length, -np.inf, np.inf)
    for good, what in ((np.isfinite(array), "finite"), (array > 0, "positive")):
        if not good.all():
            refuse(path, f"holds a value that is not {what} (position {int(np.argmin(good))})")
    return array


def read_torch_indices(path: str | Path, length: int, high: int) -> np.ndarray:
    """Distinct indices (`hardware_embedding_index.pt`) as an int64 array of shape (length,).

    Each index lies in 0 .. `high` - 1. Raises NbpkgError naming the file otherwise.
    """
    array = _numbers(path, read_torch(path), {int})
    _check(path, array, length, 0, high - 1)
    if len(np.unique(array)) != len(array):
        refuse(path, "names an index twice")
    return array


def read_torch_rows(path: str | Path, shape: tuple[int, int], high: int) -> np.ndarray:
    """Rows of whole numbers from 0 to `high` (FBNet's `arch.pt`) as an int64 array of `shape`.

    Raises NbpkgError naming the file for anything else.
    """
    rows = read_torch(path)
    if type(rows) is not list or not rows or not all(type(row) is list for row in rows):
        refuse(path, "does not hold a list of rows")
    if len(rows) != shape[0] or {len(row) for row in rows} != {shape[1]}:
        refuse(path, f"holds {len(rows):,} rows of unequal or wrong length ({shape} is due)")
    array = _numbers(path, list(chain.from_iterable(rows)), {int})
    _check(path, array, math.prod(shape), 0, high)
    return array.reshape(shape)


def read_torch_dict(path: str | Path, *, numpy_scalars: bool = False) -> dict:
    """A torch file holding a dictionary with text keys; values are not checked.

    Raises NbpkgError naming the file.
    """
    table = read_torch(path, numpy_scalars=numpy_scalars)
    if type(table) is not dict or not all(type(key) is str for key in table):
        refuse(path, "does not hold a dictionary with text keys")
    return table


def read_arch_index(path: str | Path, length: int = 15_625) -> dict[str, int]:
    """HELP's `str_arch2idx.pt`: architecture string -> NAS-Bench-201 index, one to one onto 0 .. length - 1.

    The strings themselves are not parsed here. Raises NbpkgError naming the file.
    """
    table = read_torch_dict(path)
    indices = _numbers(path, list(table.values()), {int})
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
    _check(path, accuracy, len(strings), 0, 100)
    if not all(string.startswith("|") and string.endswith("|") for string in strings):
        refuse(path, "holds something else than architecture strings")
    return parsed[0][1], strings, accuracy, score
