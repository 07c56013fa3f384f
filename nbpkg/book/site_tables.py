"""Texts that the site makes when it is built, so that no page repeats by hand what the package knows.

A page asks for one with the directive `{generated} NAME`. Each function takes no argument and returns
Markdown, with links as a page in `book/` would write them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nbpkg import chapters, data, paths
from nbpkg.book import scoreboard as board
from nbpkg.book import synthesis, teaching
from nbpkg.data import latency_table, needs
from nbpkg.nb201 import costs, digits, space
from nbpkg.report.stats import kendall_tau_b

_COUNT = ("None", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")


def chapter_table() -> str:
    """Every chapter with its paper and its state; the only list of chapters to come in the book."""
    rows = ["| | Chapter | Paper | State |", "|---|---|---|---|"]
    for chapter in chapters.CHAPTERS:
        paper = (
            f"{chapter.paper} ({chapter.authors}, {chapter.venue})"
            if chapter.paper
            else "no paper: what the others use"
        )
        state = f"[read it](../notebooks/{chapter.name}.ipynb)" if _on_site(chapter) else "to come"
        rows.append(f"| {chapter.number} | {chapter.title} | {paper} | {state} |")
    return "\n".join(rows)


def status() -> str:
    """One sentence on how much of the book there is."""
    papers = [chapter for chapter in chapters.CHAPTERS if chapter.paper]
    ready = [chapter for chapter in papers if _on_site(chapter)]
    names = ", ".join(f"[{c.title}](../notebooks/{c.name}.ipynb)" for c in ready)
    if not ready:
        return "None of the ten chapters is published yet."
    if len(ready) == len(papers):
        return f"All ten chapters are here: {names}."
    verb = "is" if len(ready) == 1 else "are"
    return f"{_COUNT[len(ready)]} of the ten chapters {verb} here so far: {names}."


def _on_site(chapter: chapters.Chapter) -> bool:
    toc = paths.root() / "_toc.yml"
    return f"notebooks/{chapter.name}" in toc.read_text(encoding="utf-8").split()


def data_list() -> str:
    """Public data: what, how large, from where, under which licence, as a definition list."""
    items = []
    for item in data.sets():
        licence = f"[{item.licence}]({item.licence_url})" if item.licence_url else item.licence
        address = item.source.startswith(("https://", "http://"))
        source = f"[{_short(item.source)}]({item.source})" if address else item.source
        count = f"{len(item.files)} files" if len(item.files) > 1 else "one file"
        size = _size(sum(file.size for file in item.files))
        lines = [f"{item.title}; {count}, {size}.", f"*Licence:* {licence}.", f"*Source:* {source}."]
        lines.append(f"*Fetched from:* {_origins(item)}.")
        if item.checksums:
            lines.append(f"*Checksums:* {item.checksums}.")
        items.append(f"`{item.name}`\n" + "\n".join(f": {line}" for line in lines))
    return "\n\n".join(items)


def _origins(item: data.DataSet) -> str:
    """Where a set's files, or what they are made of, are fetched from, first choice first."""
    choices: dict[str, None] = {}
    for way in item.ways or (item.files,):
        for number in range(max(len(file.urls) for file in way)):
            places = [_repository(file.urls[number]) for file in way if file.urls[number:]]
            choices[", ".join(dict.fromkeys(places))] = None
    return " or ".join(choices) + ("" if len(choices) > 1 else "; mirrors: none found")


def _repository(url: str) -> str:
    host, *parts = url.split("://", 1)[1].split("/")
    return "/".join(parts[:2]) if "github" in host else host


def chapter_data() -> str:
    """How much each chapter asks for at profile standard: sets, megabytes to download and to keep."""
    rows = ["| | Chapter | Sets | Download (MB) | Kept (MB) |", "|---|---|--:|--:|--:|"]
    for chapter in chapters.CHAPTERS:
        if items := needs.sets([chapter.name], "standard"):
            load = sum(file.size for item in items for file in (*item.ways, item.files)[0]) / 1e6
            kept = sum(item.size for item in items) / 1e6
            rows.append(f"| {chapter.number} | {chapter.title} | {len(items)} | {load:.0f} | {kept:.0f} |")
    return "\n".join(rows)


def embedded_table() -> str:
    """The measured latency table: what was timed, and each setting that acts as a device."""
    cells, medians, spreads = latency_table.read_embedded()
    made = latency_table.read_provenance()
    rows = ["| Device | What it is | Median (ms) | Spread (%) | Reliability |", "|---|---|--:|--:|--:|"]
    for name, ms in medians.items():
        spread = 100 * sorted(spreads[name] / ms)[len(ms) // 2]
        about = made["settings"][name]
        middle = sorted(ms)[len(ms) // 2]
        numbers = f"{middle:.3g} | {spread:.1f} | {about['reliability']:.3f}"
        rows.append(f"| `{name}` | {about['words']} | {numbers} |")
    network, size = made["network"], _size(latency_table.EMBEDDED.stat().st_size)
    lead = (
        f"`latency.csv` ({size}): {len(cells)} random cells of NAS-Bench-201, built as real networks with "
        f"{network['C']} channels and {network['N']} cell a stage at {network['resolution']} x "
        f"{network['resolution']} pixels, timed on {made['date']}.\n"
        f'The "devices" are {len(medians)} settings of one machine ({made["processor"]}, {made["cores"]} '
        "cores): other number formats, batch sizes, memory layouts, libraries and thread counts.\n"
        "They differ in what they find slow, which is what a method needs, but they are kin, and no phone or "
        "accelerator is among them.\n"
        "Each call was timed between two calls of a fixed reference network, and the table holds the ratio "
        "times the reference's median, so that drifts of the machine's speed cancel."
    )
    note = (
        "Spread: inter-quartile range over the calls of a cell, as a share of its median; median over "
        "cells.\nReliability: Spearman correlation between the medians of two halves of the measuring "
        "rounds.\n`nbpkg data measure-latency` measures again, on your machine."
    )
    return "\n\n".join((lead, "\n".join(rows), note))


def digits_table() -> str:
    """The embedded benchmark: what was trained, how long it took, how far its seeds agree."""
    import numpy as np

    found = digits.load()
    made, recipe, task = found.provenance, found.provenance["recipe"], found.provenance["task"]
    live = ~space.is_dead(space.ops_of(found.trained))
    tests = found.test[:, found.trained][:, live]
    images = [task[f"n_{split}"] * len(task["classes"]) for split in ("train", "valid", "test")]
    live_params = costs.costs(space.all_ops(), live_only=True)[0]
    label = space.function_class(space.all_ops())
    alike = (live_params == live_params[np.unique(label, return_index=True)[1]][label]).mean()
    size, side = _size(digits.default().stat().st_size), task["resolution"]
    lead = (
        f"`{digits.FILE}` ({size}): the {space.N_CELLS:,} cells of NAS-Bench-201 on scikit-learn's digits, a "
        "complete benchmark that needs no download.\n"
        f"One cell of each of the {len(found.trained):,} functions that they compute was trained, with "
        f"{len(found.seeds)} seeds.\n"
        f"Without dead edges {alike:.0%} of the cells are as large as the one trained in their place; "
        "the others differ in whether equal terms share their weights.\n"
        f"The networks have {digits.C} channels and {digits.N} cell a stage, and see {images[0]} images of "
        f"{side} x {side} pixels for {recipe['epochs']} epochs, shifted at random by up to {recipe['pad']} "
        f"pixels; {images[1]} validation and {images[2]} test images are each shown in place and shifted "
        "towards the four corners.\n"
        f"Training took {made['cpu_seconds'] / 3600:.1f} CPU hours ({made['device']}, {made['date']})."
    )
    best = tests.mean(0)
    note = (
        f"Test accuracies of live cells run from {best.min():.1f} to {best.max():.1f} %, half of them lie "
        f"below {sorted(best)[len(best) // 2]:.1f} %.\n"
        f"Two seeds agree on the order of live cells with Kendall's tau {kendall_tau_b(*tests[:2]):.2f}.\n"
        "`nbpkg zoo build digits --profile standard` trains all of it again; it can be interrupted."
    )
    return "\n\n".join((lead, note))


def scoreboard() -> str:
    """The claims of all published chapters and their verdicts."""
    return board.render_page()


def teaching_table() -> str:
    """What each chapter asks of a course, as a definition list: minutes of reading, exercises with stars."""
    items = []
    for chapter in filter(_on_site, chapters.CHAPTERS):
        read = teaching.minutes(chapter)
        link = f"[{chapter.title}](../notebooks/{chapter.name}.ipynb)"
        exercises = "; ".join(f"{'★' * e.stars} {e.title.rstrip('?')}" for e in teaching.exercises(chapter))
        items.append(f"{link}" + (f", {read} minutes" if read else "") + f"\n: {exercises}.")
    return "\n\n".join(items)


def held() -> str:
    """What held of each paper: three questions, answered by the verdicts of its chapter."""
    return synthesis.render()


def _short(address: str) -> str:
    parts = address.split("://", 1)[1].split("/")
    return "/".join(parts[1:3]) if parts[0] == "github.com" else parts[0]


def _size(size: int) -> str:
    """Bytes as text, in kB or MB of 1000."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


PAGES: dict[str, Callable[[], str]] = {
    "chapters": chapter_table,
    "status": status,
    "data": data_list,
    "chapter-data": chapter_data,
    "embedded": embedded_table,
    "digits": digits_table,
    "scoreboard": scoreboard,
    "teaching": teaching_table,
    "held": held,
}


def sources(name: str) -> list[Path]:
    """The files whose change makes the text called `name` stale."""
    root = paths.root()
    if name in ("scoreboard", "held"):
        return sorted((root / "results").glob("*/*.json"))
    if name == "teaching":
        return [root / "_toc.yml", *sorted((root / "notebooks" / "src").glob("*.py"))]
    if name in ("data", "chapter-data", "digits", "embedded"):
        home = Path(data.__file__).parent
        shipped = sorted(path for path in (home / "embedded").iterdir() if path.suffix != ".part")
        return [home / "registry.toml", home / "chapters.toml", *shipped]
    return [root / "_toc.yml", Path(chapters.__file__), Path(__file__)]
