"""Readers for HELP's files: plain data only, checked before anything uses it.

Torch files are loaded by `nbpkg.untrusted.read_torch`, which runs no code from them. Types, shapes and ranges
are checked; whatever does not fit is refused with NbpkgError, one line that names the file.
"""

import math
from itertools import chain
from pathlib import Path

import numpy as np

from nbpkg.data.text import read_lines
from nbpkg.untrusted import read_torch, refuse

#: Bounds of a latency in ms: anything between a picosecond and a quarter of an hour.
LATENCY = (1e-9, 1e6)


def _array(path, values, shape: tuple[int, ...], low: float, high: float, distinct: bool) -> np.ndarray:
    parts = [values]
    for length in shape:
        for part in parts:
            if type(part) is not list:
                refuse(path, f"holds a {type(part).__name__} where a list is due")
            if len(part) != length:
                refuse(path, f"holds {len(part):,} values where {length:,} are due")
        parts = list(chain.from_iterable(parts))
    kinds = {int} if type(low) is type(high) is int else {int, float}
    if strange := set(map(type, parts)) - kinds:
        names = ", ".join(sorted(kind.__name__ for kind in strange))
        refuse(path, f"holds {names} where {'numbers' if float in kinds else 'whole numbers'} are due")
    try:
        array = np.array(parts, np.float64 if float in kinds else np.int64)
    except OverflowError as error:
        refuse(path, "holds a number too large to use", error)
    fits = (low <= array) & (array <= high)  # nan does not
    if not fits.all():
        position = int(np.argmin(fits))
        refuse(path, f"holds {array[position]} (position {position}), outside {low} to {high}")
    if distinct and len(np.unique(array)) < array.size:
        refuse(path, "holds a value twice")
    return array.reshape(shape)


def read_numbers(
    path: str | Path, shape: tuple[int, ...], low: float, high: float, distinct: bool = False
) -> np.ndarray:
    """A torch file of (nested) lists of numbers from `low` to `high`, both included, as an array of `shape`.

    Whole bounds ask for whole numbers and give int64; otherwise integers and floats are accepted and give
    float64. distinct: no number may occur twice. Raises NbpkgError naming the file when it is damaged or
    holds anything else.
    """
    return _array(path, read_torch(path), shape, low, high, distinct)


def read_arch_index(path: str | Path, length: int = 15_625) -> dict[str, int]:
    """HELP's `str_arch2idx.pt`: architecture string -> NAS-Bench-201 index, one to one onto 0 .. length - 1.

    The strings themselves are not parsed here. Raises NbpkgError naming the file.
    """
    table = read_torch(path)
    if type(table) is not dict or not all(type(key) is str for key in table):
        refuse(path, "does not hold a dictionary with text keys")
    _array(path, list(table.values()), (length,), 0, length - 1, distinct=True)
    return table


def read_metad2a(path: str | Path) -> tuple[float, tuple[str, ...], np.ndarray, np.ndarray]:
    """HELP's `arch_generated_by_metad2a.txt`: first number, strings, accuracies (%) and scores.

    Its first line is one number (the generator's seconds); each other line is `string, accuracy, score`. The
    arrays are float64, as long as `strings`. Raises NbpkgError naming the file and the line.
    """
    first, *lines = read_lines(path)
    strings, numbers = [], []
    try:
        seconds = float(first)
    except ValueError:
        refuse(path, "line 1 is no number")
    for number, line in enumerate(lines, start=2):
        string, *rest = line.split(", ")
        try:
            accuracy, score = map(float, rest)
        except ValueError:
            accuracy = score = math.nan
        if not (string[0:1] == string[-1:] == "|" and 0 <= accuracy <= 100 and math.isfinite(score)):
            refuse(path, f"line {number} is not '|cell|, accuracy from 0 to 100, score'")
        strings.append(string)
        numbers.append((accuracy, score))
    if not strings or not math.isfinite(seconds):
        refuse(path, "holds no architecture, or no number of seconds")
    return seconds, tuple(strings), *np.array(numbers).T
