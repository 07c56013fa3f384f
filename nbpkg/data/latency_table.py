"""The measured latency table: a CSV of medians and spreads, and beside it a JSON on how it was made."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from nbpkg import machine, paths
from nbpkg.errors import NbpkgError
from nbpkg.nb201 import space

EMBEDDED = paths.embedded("latency.csv")
#: Settings timed for judgement alone, on fewer cells: references first, cells to predict last.
NEW, NEW_QUERIES = paths.embedded("latency-new.csv"), 240


def summarise(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and inter-quartile range over rounds: (cells, rounds) -> two arrays (cells,)."""
    low, middle, high = np.percentile(times, [25, 50, 75], axis=1)
    return middle, high - low


def reliability(times: np.ndarray) -> float:
    """Spearman correlation over cells between the medians of every other round and those of the rest."""
    halves = [summarise(times[:, start::2])[0] for start in (0, 1)]
    return float(spearmanr(*halves).statistic)


def write_table(
    output: Path, cells: Sequence[str], times: Mapping[str, np.ndarray], provenance: Mapping[str, object]
) -> None:
    """Write `output` (cell, then every setting's median and inter-quartile range in ms) and its JSON.

    times: milliseconds (cells, rounds) by setting. provenance: what the JSON says beside the date,
    the processor and what is computed here; `provenance["settings"]` has a dictionary for every setting.
    """
    frame, settings = pd.DataFrame({"cell": cells}), {}
    for name, values in times.items():
        frame[name], frame[f"{name}_iqr"] = summarise(values)
        settings[name] = {
            **dict(provenance["settings"][name]),
            "reliability": round(reliability(values), 4),
        }
    text = frame.to_csv(index=False, float_format="%.4g", lineterminator="\n")
    described = {
        "what": "latency in ms of NAS-Bench-201 cells as real networks: median and inter-quartile range",
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "date": datetime.date.today().isoformat(),
        "processor": machine.device_name(machine.device("cpu")),
        **provenance,
        "cells": len(cells),
        "settings": settings,
    }
    paths.write_text(output, text)
    paths.write_text(output.with_suffix(".json"), json.dumps(described, indent=1) + "\n")


def read_embedded(
    path: str | Path = EMBEDDED,
) -> tuple[list[str], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The measured table: architecture strings; medians in ms and inter-quartile ranges in ms by setting.

    Arrays have shape (cells,). Raises NbpkgError naming the file when it is absent or truncated, or holds
    anything but distinct cells with finite, positive medians and finite ranges.
    """
    path = Path(path)
    try:
        frame = pd.read_csv(paths.intact(path), dtype=str)
        names = list(frame)[1::2]
        if not names or list(frame) != ["cell", *(name + end for name in names for end in ("", "_iqr"))]:
            raise ValueError("its columns must be: cell, then every setting and its _iqr")
        cells = list(frame.pop("cell"))
        space.encode(cells)
        if not cells or len(set(cells)) < len(cells):
            raise ValueError("it must have rows, and no cell twice")
        values = frame.to_numpy().astype(np.float64).T
        medians, ranges = values[::2], values[1::2]
        if not np.isfinite(values).all() or (medians <= 0).any() or (ranges < 0).any():
            raise ValueError("rows must be as long as the header, latencies finite and positive")
    except (OSError, ValueError, NbpkgError) as error:
        reason = "absent" if isinstance(error, FileNotFoundError) else error
        raise NbpkgError(
            f"latency table {path.name}: {reason}; restore it or run `nbpkg data measure-latency --adopt`"
        ) from None
    return cells, dict(zip(names, medians, strict=True)), dict(zip(names, ranges, strict=True))


def read_provenance(path: str | Path = EMBEDDED) -> dict:
    """How the table at `path` was made, from the JSON beside it. NbpkgError if that is absent or damaged."""
    path = paths.intact(Path(path).with_suffix(".json"))
    found = paths.read_json(path)
    if not found:
        raise NbpkgError(f"{path.name}: absent or damaged; `nbpkg data measure-latency --adopt` writes it")
    return found
