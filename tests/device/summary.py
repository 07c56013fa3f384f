"""Reads what `run_chapter.py` left: `python tests/device/summary.py FOLDER [CHAPTER] [--lines N]`.

Without a chapter, a table of all; with one, its sections and pieces, and the lines that cost most on the CPU,
wait most often for the device, and copy most often to it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

HEAD = (
    "chapter", "status", "CPU s", "tensor s", "on the device", "kernels", "µs a kernel", "copies to it",
    "waits", "waits a step",
)  # fmt: skip


def waits_a_step(run: dict) -> float | None:
    """How often the host waits for the device, by step of an optimiser; None where no optimiser steps."""
    return run["total"]["waits"] / run["steps"] if run["steps"] else None


def overview(found: Sequence[dict]) -> Iterator[str]:
    """Lines of a Markdown table with a row a chapter."""
    yield "| " + " | ".join(HEAD) + " |"
    yield "|---|---" + "|--:" * (len(HEAD) - 2) + "|"
    for run in found:
        t, step = run["total"], waits_a_step(run)
        mean = 1e6 * t["device_s"] / max(1, t["kernels"])
        cells = [run["chapter"], run["result"]["status"], f"{run['cpu_s']:.0f}"]
        cells += [f"{t['device_s'] + t['cpu_s']:.1f}", f"{100 * run['share']:.0f} %", f"{t['kernels']:,}"]
        cells += [f"{mean:.0f}", f"{t['to_device']:,}", f"{t['waits']:,}"]
        cells += ["–" if step is None else f"{step:.1f}"]
        yield "| " + " | ".join(cells) + " |"


def left_on_cpu(run: dict, least: float = 0.3) -> dict[str, float]:
    """Stored pieces with more than `least` tensor seconds on the CPU, where these are most of theirs."""
    return {
        name: t["cpu_s"]
        for name, t in run["scopes"].items()
        if "piece " in name and t["cpu_s"] > least and t["cpu_s"] > t["device_s"]
    }


def _place(file: str, function: str, line: int) -> str:
    return f"{'/'.join(Path(file.strip('<>').split(' ')[0]).parts[-2:])}:{line} {function}"


def details(run: dict, lines: int) -> Iterator[str]:
    """Sections and pieces of one chapter, then its most expensive lines."""
    yield "sections and pieces: device s, CPU s, share, kernels, copies to the device, waits"
    for name, t in sorted(run["scopes"].items(), key=lambda item: -item[1]["device_s"] - item[1]["cpu_s"]):
        if t["device_s"] + t["cpu_s"] > 0.05:
            numbers = f"{t['device_s']:7.2f} {t['cpu_s']:7.2f} {100 * t['share']:4.0f} % {t['kernels']:8d}"
            yield f"  {name[:60]:60s} {numbers} {t['to_device']:6d} {t['waits']:6d}"
    merged: dict[tuple, dict] = {}
    for _, file, function, line, tally in run["lines"]:
        into = merged.setdefault((file, function, line), dict.fromkeys(tally, 0))
        for name, value in tally.items():
            into[name] += value
    for title, of in {"seconds on the CPU": "cpu_s", "waits": "waits", "copies to it": "to_device"}.items():
        yield f"\nlines by {title}: that, kernels on the line, seconds on the device"
        for key, t in sorted(merged.items(), key=lambda item: -item[1][of])[:lines]:
            if t[of]:
                yield f"  {t[of]:10.3f} {t['kernels']:8d} {t['device_s']:7.2f}  {_place(*key)}"


def _read(folder: Path) -> Iterable[dict]:
    paths = [path for path in sorted(folder.glob("[0-9][0-9]_*.json")) if "record" not in path.name]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("chapter", nargs="?")
    parser.add_argument("--lines", type=int, default=12)
    options = parser.parse_args()
    runs = _read(options.folder)
    if options.chapter:
        chosen = next(run for run in runs if run["chapter"].startswith(options.chapter))
        print("\n".join(details(chosen, options.lines)))
    else:
        print("\n".join(overview(runs)))
