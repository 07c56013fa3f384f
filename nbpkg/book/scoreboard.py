"""The scoreboard: what became of the papers' claims, made from the published records and never typed."""

from __future__ import annotations

from pathlib import Path

from nbpkg import chapters
from nbpkg.chapters import Chapter
from nbpkg.errors import NbpkgError
from nbpkg.paths import root, write_text
from nbpkg.report.record import VERDICTS, Claim, Metric, Record, number

START, END = "<!-- scoreboard:start -->", "<!-- scoreboard:end -->"
PROFILE = "standard"


def records(profile: str = PROFILE) -> list[tuple[Chapter, Record]]:
    """The published records in the book's order. Raises NbpkgError for one that is not valid."""
    found = []
    for chapter in chapters.CHAPTERS:
        path = root() / "results" / profile / f"{chapter.name}.json"
        if path.is_file():
            found.append((chapter, Record.load(path)))
    return found


def render_readme() -> str:
    """The table for README.md: a line a published chapter, its claims counted by verdict."""
    found = records()
    if not found:
        return "No chapter is published yet."
    shown = [
        verdict
        for verdict in VERDICTS
        if any(claim.verdict == verdict for _, r in found for claim in r.claims)
    ]
    header = ["Chapter", "Paper", "Claims", *(verdict.capitalize() for verdict in shown), "Seeds", "Run"]
    lines = [_row(header), _row(["---", "---", *["--:"] * (len(shown) + 2), "---"])]
    for chapter, record in found:
        verdicts = [claim.verdict for claim in record.claims]
        counts = [str(verdicts.count(verdict)) for verdict in shown]
        link = f"[{chapter.number} {chapter.title}](notebooks/{chapter.name}.ipynb)"
        lines.append(
            _row([link, _paper(chapter), str(len(verdicts)), *counts, str(len(record.seeds)), _run(record)])
        )
    return "\n".join(lines)


def render_page() -> str:
    """The scoreboard page, as Markdown with links from `book/`: every claim of every published chapter."""
    found = records()
    if not found:
        return "No chapter is published yet."
    parts = []
    for chapter, record in found:
        seeds = ", ".join(map(str, record.seeds))
        lines = [
            f"## {chapter.number} {chapter.title}",
            "",
            f"[The chapter](../notebooks/{chapter.name}.ipynb)"
            + (f" on {chapter.paper} ({_paper(chapter)})." if chapter.paper else f", {_paper(chapter)}."),
            f"Profile {record.profile}, seeds {seeds}; {_run(record)}.",
            "",
            _row(["Claim", "Verdict", "Measured (95 % interval)", "Paper", "Judged by"]),
            _row(["---"] * 5),
        ]
        for claim in record.claims:
            lines.append(_claim_row(claim, record))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _claim_row(claim: Claim, record: Record) -> str:
    metrics = [(name, record.metrics[name]) for name in claim.metrics]
    named = len(metrics) > 1
    measured = "<br>".join((f"`{name}`: " if named else "") + measurement(metric) for name, metric in metrics)
    paper = "<br>".join(
        (f"`{name}`: " if named else "") + number(metric.paper)
        for name, metric in metrics
        if metric.paper is not None
    )
    note = f"{claim.test}.<br>{claim.note}" if claim.note else claim.test
    return _row([claim.statement, f"**{claim.verdict}**", measured, paper or "–", note])


def measurement(metric: Metric) -> str:
    """A metric for reading: value, interval when there is one, unit."""
    interval = "" if metric.low is None else f" ({number(metric.low)} to {number(metric.high)})"
    return f"{number(metric.value)}{interval}" + (f" {metric.unit}" if metric.unit else "")


def _paper(chapter: Chapter) -> str:
    return f"{chapter.authors}, {chapter.venue}" if chapter.paper else "no paper: what the others use"


def _run(record: Record) -> str:
    seconds = record.seconds["total"]
    time = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
    return f"{time} on {record.device}"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def block(text: str) -> tuple[int, int]:
    """Where the scoreboard stands in README's text, between its marks. Raises NbpkgError without them."""
    start, end = text.find(START), text.find(END)
    if start < 0 or end < start or text.count(START) != 1 or text.count(END) != 1:
        raise NbpkgError(f"README.md must hold {START} and {END} once, in this order")
    return start + len(START), end


def readme() -> Path:
    """The path of README.md. Raises NbpkgError when it is absent."""
    path = root() / "README.md"
    if not path.is_file():
        raise NbpkgError("there is no README.md to hold the scoreboard")
    return path


def updated() -> str:
    """README's text with the scoreboard as the records have it."""
    text = readme().read_text(encoding="utf-8")
    start, end = block(text)
    return f"{text[:start]}\n\n{render_readme()}\n\n{text[end:]}"


def refresh() -> bool:
    """Write the scoreboard into README.md; returns whether that changed the file."""
    new = updated()
    if new == readme().read_text(encoding="utf-8"):
        return False
    write_text(readme(), new)
    return True
