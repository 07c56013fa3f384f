"""Texts that the site makes when it is built, so that no page repeats by hand what the package knows.

A page asks for one with the directive `{generated} NAME`. Each function takes no argument and returns
Markdown, with links as a page in `book/` would write them, or facts by name, for the text that stands in the
directive with a `{name}` for each.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import synthesis

from nbpkg import chapters, data, paths
from nbpkg.book import budget, scoreboard, teaching
from nbpkg.data import latency_table, needs
from nbpkg.nb201 import costs, digits, space
from nbpkg.report import tables
from nbpkg.report.stats import kendall_tau_b

_HEADING = re.compile(r"^### Exercise (\d+) \((★+)(☆*)\): (.+)$", re.MULTILINE)
_EDITION = "*First edition*: verdicts by the first edition's rules, see [Errata](errata.md).\n"


def chapter_table() -> str:
    """Every chapter with its paper and its state; the only list of chapters to come in the book."""
    rows = []
    for chapter in chapters.CHAPTERS:
        source = scoreboard.paper(chapter)
        paper = f"{chapter.paper} ({source})" if chapter.paper else source
        state = f"[read it](../notebooks/{chapter.name}.ipynb)" if _on_site(chapter) else "to come"
        rows.append((chapter.number, chapter.title, paper, state))
    return tables.table(("", "Chapter", "Paper", "State"), rows)


def status() -> str:
    """One sentence on how much of the book there is."""
    papers = [chapter for chapter in chapters.CHAPTERS if chapter.paper and not chapter.evidence]
    ready = [chapter for chapter in papers if _on_site(chapter)]
    names = ", ".join(f"[{c.title}](../notebooks/{c.name}.ipynb)" for c in ready)
    if len(ready) == len(papers):
        return f"All ten chapters are here: {names}."
    return f"Of the ten chapters, {len(ready)} can be read so far" + (f": {names}." if names else ".")


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


def latency_facts() -> dict[str, object]:
    """The measured latency table: what was timed, and each setting that acts as a device."""
    cells, medians, spreads = latency_table.read_embedded()
    made = latency_table.read_provenance()
    rows = []
    for name, ms in medians.items():
        spread = 100 * sorted(spreads[name] / ms)[len(ms) // 2]
        about = made["settings"][name]
        numbers = f"{sorted(ms)[len(ms) // 2]:.3g}", f"{spread:.1f}", f"{about['reliability']:.3f}"
        rows.append((f"`{name}`", about["words"], *numbers))
    header = ("Device", "What it is", "Median (ms)", "Spread (%)", "Reliability")
    return {
        **made["network"], **made, "size": _size(latency_table.EMBEDDED.stat().st_size),
        "cells": len(cells), "devices": len(medians), "table": tables.table(header, rows, right=(2, 3, 4)),
    }  # fmt: skip


def digits_facts() -> dict[str, object]:
    """The embedded benchmark: what was trained, how long it took, how far its seeds agree."""
    found = digits.load()
    made, task = found.provenance, found.provenance["task"]
    live = ~space.is_dead(space.ops_of(found.trained))
    tests = found.test[:, found.trained][:, live]
    best = tests.mean(0)
    params = costs.costs(space.all_ops(), live_only=True)[0]
    label = space.function_class(space.all_ops())
    alike = (params == params[np.unique(label, return_index=True)[1]][label]).mean()
    return {
        **made, **made["recipe"], "side": task["resolution"], "C": digits.C, "N": digits.N,
        **{split: task[f"n_{split}"] * len(task["classes"]) for split in ("train", "valid", "test")},
        "file": digits.FILE, "size": _size(paths.embedded(digits.FILE).stat().st_size),
        "cells": f"{space.N_CELLS:,}",
        "functions": f"{len(found.trained):,}", "seeds": len(found.seeds), "alike": f"{alike:.0%}",
        "hours": f"{made['cpu_seconds'] / 3600:.1f}", "worst": f"{best.min():.1f}",
        "middle": f"{sorted(best)[len(best) // 2]:.1f}", "best": f"{best.max():.1f}",
        "tau": f"{kendall_tau_b(*tests[:2]):.2f}",
    }  # fmt: skip


def scoreboard_page() -> str:
    """The scoreboard page, as Markdown with links from `book/`: every claim of every published chapter."""
    parts = []
    for chapter, record in scoreboard.records():
        paper = scoreboard.paper(chapter)
        source = f" on {chapter.paper} ({paper})" if chapter.paper else f", {paper}"
        seeds = ", ".join(map(str, record.seeds))
        parts.append(
            f"## {chapter.number} {chapter.title}\n\n"
            f"[The chapter](../notebooks/{chapter.name}.ipynb){source}.\n"
            f"{_EDITION if chapter.edition < 2 else ''}"
            f"Profile {record.profile}, seeds {seeds}; {scoreboard.ran(record)}.\n\n{tables.claims(record)}"
        )
    return "\n\n".join([scoreboard.totals(), *parts]) if parts else "No chapter is published yet."


@dataclass(frozen=True)
class Exercise:
    """An exercise of a chapter: its number, its stars from 1 to 3, its title."""

    number: int
    stars: int
    title: str


def exercises(chapter: chapters.Chapter) -> list[Exercise]:
    """The exercises of a written chapter, in order."""
    found = _HEADING.findall(teaching.prose(chapter))
    return [Exercise(int(n), len(stars), title.strip()) for n, stars, _, title in found]


def teaching_table() -> str:
    """What each chapter asks of a course, as a definition list: minutes of reading, exercises with stars."""
    items = []
    for chapter in (one for one in chapters.CHAPTERS if _on_site(one) and not one.evidence):
        read = budget.measure(chapter)["minutes"]
        link = f"[{chapter.title}](../notebooks/{chapter.name}.ipynb)"
        asked = "; ".join(f"{'★' * e.stars} {e.title.rstrip('?')}" for e in exercises(chapter))
        items.append(f"{link}, {read} minutes\n: {asked}.")
    return "\n\n".join(items)


def times_table() -> str:
    """How long each chapter takes: to read by the budget's rule, to run by its published record."""
    records = {chapter.name: record for chapter, record in scoreboard.records()}
    rows = []
    for chapter in filter(_on_site, chapters.CHAPTERS):
        link = f"[{chapter.number} {chapter.title}](../notebooks/{chapter.name}.ipynb)"
        run = scoreboard.ran(records[chapter.name]) if chapter.name in records else "not published"
        rows.append((link, f"{budget.measure(chapter)['minutes']} min", run))
    return tables.table(("Chapter", "To read", "The published run"), rows, right=(1,))


def card(text: str, name: str) -> str:
    """The text of a chapter's notebook with the times in its card: by the budget's rule, of its record."""
    record = {chapter.name: record for chapter, record in scoreboard.records()}.get(name)
    took = "not published"
    if record:
        took = f"{scoreboard.ran(record)}, {record.peak_memory_mb / 1000:.1f} GB of memory"
    for row, said in (
        ("To read", f"{budget.measure(chapters.get(name))['minutes']} minutes"),
        ("To run", f"`smoke`: under a minute, offline; `standard`: {took}"),
    ):
        text = re.sub(
            rf"\| {row} \|[^|\n]*\|", lambda _, row=row, said=said: f"| {row} | {said} |", text, count=1
        )
    return text


def _short(address: str) -> str:
    parts = address.split("://", 1)[1].split("/")
    return "/".join(parts[1:3]) if parts[0] == "github.com" else parts[0]


def _size(size: int) -> str:
    """Bytes as text, in kB or MB of 1000."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


PAGES: dict[str, Callable[[], str | dict[str, object]]] = {
    "chapters": chapter_table,
    "status": status,
    "data": data_list,
    "chapter-data": chapter_data,
    "embedded": latency_facts,
    "digits": digits_facts,
    "scoreboard": scoreboard_page,
    "teaching": teaching_table,
    "times": times_table,
    "held": synthesis.render,
}


def sources(name: str) -> list[Path]:
    """The files whose change makes the text called `name` stale."""
    root = paths.root()
    if name in ("scoreboard", "held"):
        return [synthesis.path(), *sorted((root / "results").glob("*/*.json"))]
    if name in ("teaching", "times"):
        records = sorted((root / "results").glob("*/*.json"))
        return [root / "_toc.yml", *records, *sorted((root / "notebooks" / "src").glob("*.py"))]
    if name in ("data", "chapter-data", "digits", "embedded"):
        home = paths.package() / "data"
        return [*sorted(home.glob("*.toml")), *sorted((home / "embedded").glob("[!.]*"))]
    return [root / "_toc.yml", Path(chapters.__file__), Path(__file__)]


def text(name: str, content: str = "") -> str:
    """The text called `name`; where it is made of facts, `content` with the facts in it."""
    made = PAGES[name]()
    return made if isinstance(made, str) else content.format_map(made)
