"""What a claim compares, from rows: a minus b by what was repeated."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from nbpkg.errors import NbpkgError


def differences(frames: Mapping[str, pd.DataFrame], test: Mapping, case: Mapping, where: str) -> np.ndarray:
    """a - b by unit, (units,); of an exact claim (1,). Raises NbpkgError, naming `where`, for rows that lack.

    case: values of columns, to which the rows are confined. a and b are paired by the unit and by `pair`, by
    default every column but floats in which both have the same values. A side without a unit, such as a rule
    that is not trained, counts for every unit.
    """
    if test["frame"] not in frames:
        raise NbpkgError(f"{where}: there is no frame {test['frame']!r}; s.frame makes it")
    frame, value = frames[test["frame"]], test["value"]
    unit = [] if test["unit"] == "exact" else [test["unit"]]
    if lost := [name for name in (value, *unit, *case, *test.get("pair", ())) if name not in frame]:
        raise NbpkgError(f"{where}: its frame has no column {lost[0]}")
    for column, wanted in case.items():
        frame = frame[frame[column] == wanted]
    sides = [_rows(frame, test[name], value, where) for name in "ab" if isinstance(test[name], str)]
    keys = [*unit, *(test.get("pair") or _shared(sides, {value, *unit}, where))]
    means = [_mean(side, value, [key for key in keys if side[key].notna().all()]) for side in sides]
    both = means[0]
    if len(means) == 1:
        both[value] -= test["b"]
    else:
        on = [key for key in keys if all(key in mean for mean in means)]
        both = both.merge(means[1], "outer" if on else "cross", on=on or None, suffixes=("", "/b"))
        if (gaps := both[[value, f"{value}/b"]].isna().any(axis=1)).any():
            raise NbpkgError(f"{where}: only a or only b has rows of {both[gaps][on].iloc[0].to_dict()}")
        both[value] -= both[f"{value}/b"]
    return both.groupby(unit)[value].mean().to_numpy(float) if unit else np.array([both[value].mean()])


def _mean(rows: pd.DataFrame, value: str, keys: list[str]) -> pd.DataFrame:
    means = rows.groupby(keys, observed=True)[value].mean() if keys else rows[[value]].mean().to_frame().T
    return means.reset_index(drop=not keys)


def _rows(frame: pd.DataFrame, query: str, value: str, where: str) -> pd.DataFrame:
    try:
        rows = frame.query(query, engine="python")
    except Exception as error:
        raise NbpkgError(f"{where}: {query!r}: {str(error).splitlines()[0]}") from None
    if rows.empty or not np.isfinite(rows[value].astype(float)).all():
        raise NbpkgError(f"{where}: {query!r} has {'no rows' if rows.empty else f'rows without a {value}'}")
    return rows


def _shared(sides: list[pd.DataFrame], apart: set[str], where: str) -> list[str]:
    """The columns in which two sides have the same values; those that only overlap must be named."""
    found = []
    for name in sides[0].columns if len(sides) == 2 else ():
        if name in apart or pd.api.types.is_float_dtype(sides[0][name]):
            continue
        a, b = (set(side[name].dropna()) for side in sides)
        if a != b and a & b:
            raise NbpkgError(f"{where}: a and b differ in the values of {name}: name them in a, b or pair")
        found += [name] if a == b and a else []
    return found
