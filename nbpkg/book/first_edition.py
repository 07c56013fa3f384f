"""What is checked of records of the first edition: their numbers by seed, and which package made them.

Records of the second have rows and the hashes of what they import (`nbpkg.book.evidence`). This goes with the
last chapter of the first.
"""

from collections.abc import Iterator

from nbpkg import chapters
from nbpkg.book import moved, scoreboard
from nbpkg.book.evidence import same
from nbpkg.chapters import Chapter
from nbpkg.report.record import Record
from nbpkg.session.first_edition import over_seeds


def number_problems(record: Record) -> Iterator[str]:
    """Metrics that are not what their values by seed make."""
    for name, metric in record.metrics.items():
        if metric.per_seed is not None and not same(metric, over_seeds(metric.per_seed)):
            yield f"metric {name} is not the mean of its values by seed"


def recomputed() -> str:
    """How many metrics of the first edition are computed again from values by seed, and how many are not."""
    found = [(c.number, r.metrics.values()) for c, r in scoreboard.records() if not r.plan]
    rest = {number: sum(metric.per_seed is None for metric in metrics) for number, metrics in found}
    total = sum(len(metrics) for _, metrics in found)
    left = ", ".join(f"{count} of {number}" for number, count in rest.items() if count) or "none"
    return f"first edition: {total - sum(rest.values())} of {total} metrics computed again; not: {left}"


def remarks(chapter: Chapter, record: Record) -> Iterator[str]:
    """Whether the package has moved on since a run."""
    if record.package_sha256 != chapters.package_sha256():
        commit = moved.entries().get(chapter.name, {}).get("commit")
        found = f"it was made at {commit}" if commit else "the code that made it is no commit of the history"
        yield f"nbpkg has moved on since the run; {found}"
