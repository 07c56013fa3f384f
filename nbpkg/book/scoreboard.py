"""The scoreboard: what became of the papers' claims, made from the published records and never typed."""

from pathlib import Path

from nbpkg import chapters
from nbpkg.chapters import Chapter
from nbpkg.errors import NbpkgError
from nbpkg.paths import root, write_text
from nbpkg.progress import duration
from nbpkg.report import tables
from nbpkg.report.record import VERDICTS, Record

START, END = "<!-- scoreboard:start -->", "<!-- scoreboard:end -->"
PROFILE = "standard"


def records() -> list[tuple[Chapter, Record]]:
    """The published records in the book's order. Raises NbpkgError for one that is not valid."""
    folder = root() / "results" / PROFILE
    paths = [(chapter, folder / f"{chapter.name}.json") for chapter in chapters.CHAPTERS]
    return [(chapter, Record.load(path)) for chapter, path in paths if path.is_file()]


def render_readme() -> str:
    """The table for README.md: a line a published chapter, its claims counted by verdict."""
    found = records()
    if not found:
        return "No chapter is published yet."
    verdicts = {chapter.name: [claim.verdict for claim in record.claims] for chapter, record in found}
    shown = [verdict for verdict in VERDICTS if any(verdict in given for given in verdicts.values())]
    rows = []
    for chapter, record in found:
        given = verdicts[chapter.name]
        counts = [len(given), *map(given.count, shown), len(record.seeds)]
        link = f"[{chapter.number} {chapter.title}](notebooks/{chapter.name}.ipynb)"
        link += "" if chapter.edition > 1 else ", [first edition](book/errata.md)"
        rows.append((link, paper(chapter), *counts, ran(record)))
    header = ("Chapter", "Paper", "Claims", *map(str.capitalize, shown), "Seeds", "Run")
    return tables.table(header, rows, right=range(2, len(header) - 1)) + "\n\n" + totals()


def totals() -> str:
    """The verdicts of the second edition, counted; those of the first are by other rules."""
    given = [claim.verdict for chapter, record in records() if chapter.edition > 1 for claim in record.claims]
    counts = [f"{given.count(verdict)} {verdict}" for verdict in VERDICTS if verdict in given]
    return f"Second edition: {', '.join(counts) or 'no chapter yet'}."


def paper(chapter: Chapter) -> str:
    """Authors and venue of a chapter's paper, or that it has none."""
    return f"{chapter.authors}, {chapter.venue}" if chapter.paper else "no paper: what the others use"


def ran(record: Record) -> str:
    """How long a run took, by the clock and of CPU, on what."""
    share = "" if record.gpu_share is None else f", {record.gpu_share:.0%} of the work on the GPU"
    wall, cpu = duration(record.seconds["total"]), duration(record.cpu_seconds["total"])
    return f"{wall}, {cpu} of CPU, on {record.device}{share}"


def readme() -> Path:
    """The path of README.md. Raises NbpkgError when it is absent."""
    path = root() / "README.md"
    if not path.is_file():
        raise NbpkgError("there is no README.md to hold the scoreboard")
    return path


def updated() -> str:
    """README's text with the scoreboard that the records make. Raises NbpkgError without its marks."""
    text = readme().read_text(encoding="utf-8")
    start, end = text.find(START), text.find(END)
    if start < 0 or end < start or text.count(START) != 1 or text.count(END) != 1:
        raise NbpkgError(f"README.md must hold {START} and {END} once, in this order")
    return f"{text[:start]}{START}\n\n{render_readme()}\n\n{text[end:]}"


def refresh() -> bool:
    """Write the scoreboard into README.md; returns whether that changed the file."""
    new = updated()
    changed = new != readme().read_text(encoding="utf-8")
    if changed:
        write_text(readme(), new)
    return changed
