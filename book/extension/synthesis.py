"""Three questions to every paper, answered by the verdicts of its chapter: better than nothing, better than
the strongest simple rival, and does what is new in it matter?

Which claims speak to which question stands in their claims file, for the first edition in
results/questions.toml; the answers are those of the published records.
"""

import tomllib
from pathlib import Path

from nbpkg import chapters
from nbpkg.book import scoreboard
from nbpkg.errors import NbpkgError
from nbpkg.paths import root
from nbpkg.report import tables
from nbpkg.report.claims import QUESTIONS
from nbpkg.report.record import VERDICTS, Claim


def path() -> Path:
    """Where the claims are chosen: by chapter, for each key of `QUESTIONS` the ids of claims."""
    return root() / "results" / "questions.toml"


def answers() -> list[tuple[chapters.Chapter, list[list[Claim]]]]:
    """By published chapter the claims chosen for each of `QUESTIONS`. Raises NbpkgError if one is gone."""
    chosen = tomllib.loads(path().read_text(encoding="utf-8"))
    found = []
    for chapter, record in scoreboard.records():
        of_file = {q: [claim.id for claim in record.claims if claim.question == q] for q in QUESTIONS}
        entry = of_file if any(of_file.values()) else chosen.get(chapter.name)
        if entry is None:
            continue
        asked = [entry[question] for question in QUESTIONS]
        claims = {claim.id: claim for claim in record.claims}
        lost = [name for names in asked for name in names if name not in claims]
        if lost:
            raise NbpkgError(f"{chapter.name} has no claim {lost[0]!r} any more: mend {path().name}")
        found.append((chapter, [[claims[name] for name in names] for names in asked]))
    return found


def counts() -> str:
    """A table: how often each verdict falls on each question, over all chapters."""
    found = answers()
    asked = [[claim.verdict for _, parts in found for claim in parts[i]] for i in range(len(QUESTIONS))]
    rows = [(verdict.capitalize(), *(given.count(verdict) for given in asked)) for verdict in VERDICTS]
    shown = [row for row in rows if any(row[1:])]
    return tables.table(("Verdict", *QUESTIONS.values()), shown, right=range(1, len(QUESTIONS) + 1))


def render() -> str:
    """The answers as Markdown: the counts, then each chapter as a definition list of verdicts and claims."""
    found = answers()
    if not found:
        return "No chapter is published yet."
    items = []
    for chapter, parts in found:
        lines = [f"[{chapter.title}](../notebooks/{chapter.name}.ipynb)"]
        for question, claims in zip(QUESTIONS.values(), parts, strict=True):
            said = "; ".join(f"**{claim.verdict}**: {_sentence(claim.statement)}" for claim in claims)
            lines.append(f": *{question}* {said}.")
        items.append("\n".join(lines))
    return counts() + "\n\n" + "\n\n".join(items)


def _sentence(statement: str) -> str:
    """A claim within a sentence: no full stop, no capital unless it belongs to the word."""
    text = statement.strip().rstrip(".")
    first = text.split()[0]
    # Names such as HELP or K1 keep their capitals.
    plain = first.istitle() and not any(c.isdigit() for c in first)
    return text[0].lower() + text[1:] if plain else text
