"""Three questions to every paper, answered by the verdicts of its chapter: better than nothing, better than
the strongest simple rival, and does what is new in it matter?

Which claims speak to which question is chosen here, by what they compare; the answers are those of the
published records.
"""

from __future__ import annotations

from nbpkg import chapters
from nbpkg.book import scoreboard
from nbpkg.errors import NbpkgError
from nbpkg.report import tables
from nbpkg.report.record import VERDICTS, Claim

QUESTIONS = ("Better than nothing?", "Better than a strong simple rival?", "Does what is new in it matter?")

#: Of each chapter, the claims that speak to each question.
CHOSEN: dict[str, tuple[tuple[str, ...], ...]] = {
    "01_supernets": (
        ("training", "dead"),
        ("beats-counting", "beats-counting-good"),
        ("fairness", "filter", "few-shot", "matching", "sandwich"),
    ),
    "02_metad2a": (
        ("generated-better", "held-out-beats-random"),
        ("predictor-beats-image-free", "held-out-beats-image-free"),
        ("images-help-generator", "swap-predictor"),
    ),
    "03_help": (
        ("beats-flops-nb201", "beats-flops-fbnet"),
        ("beats-ridge-nb201", "beats-ridge-fbnet", "beats-mix-nb201", "beats-mix-fbnet"),
        ("embedding-nb201", "embedding-fbnet", "modulator-nb201", "modulator-fbnet"),
    ),
    "04_diffusionnag": (
        ("guided-unconditional", "own-random"),
        ("guided-whole", "search-labels"),
        ("guided-filtered", "own-other-task"),
    ),
    "05_tans": (
        ("beats-random", "beats-scratch"),
        ("beats-nearest", "beats-union"),
        ("adaptive", "function-matters"),
    ),
    "06_weight_generation": (
        ("better-start", "condition-helps"),
        ("beats-average", "start-against-union-body"),
        ("condition-specific", "newer-than-noise"),
    ),
    "07_hyperdistill": (
        ("waves-fo", "pictures-anil-fo", "pictures-warpgrad-fo"),
        ("waves-fo-equal-time", "pictures-anil-fo-equal-time", "pictures-warpgrad-fo-equal-time"),
        ("distilled-batch-helps", "closer-than-1-step"),
    ),
    "08_dass": (
        ("ranks", "chosen-random"),
        ("beats-ridge", "beats-proxies", "chosen-largest"),
        ("teacher-input", "adaptation-rank"),
    ),
    "09_weak_teacher": (
        ("weak-helps", "any-teacher-when-repeated"),
        ("not-smoothing",),
        ("very-weak-harms", "strong-early-weak-late-good", "remapping-end", "dark-knowledge"),
    ),
    "10_ctcd": (
        ("k1-scarce", "k1-repeated", "k1-ample", "k1-fresh"),
        ("ordinary", "control-smoothing", "control-stopped"),
        ("k2-repeated", "k2-ample", "k2-fresh", "k3-repeated", "control-shuffled"),
    ),
}


def answers() -> list[tuple[chapters.Chapter, list[list[Claim]]]]:
    """Of every published chapter on a paper: for each of `QUESTIONS` the claims that speak to it.

    Raises NbpkgError for a chosen claim that the record lacks.
    """
    found = []
    for chapter, record in scoreboard.records():
        if chapter.name not in CHOSEN:
            continue
        claims = {claim.id: claim for claim in record.claims}
        lost = [name for names in CHOSEN[chapter.name] for name in names if name not in claims]
        if lost:
            raise NbpkgError(f"{chapter.name} has no claim {lost[0]!r} any more: mend book/synthesis.py")
        found.append((chapter, [[claims[name] for name in names] for names in CHOSEN[chapter.name]]))
    return found


def counts() -> str:
    """A table: how often each verdict falls on each question, over all chapters."""
    found = answers()
    asked = [[claim.verdict for _, parts in found for claim in parts[i]] for i in range(len(QUESTIONS))]
    rows = [(verdict.capitalize(), *(given.count(verdict) for given in asked)) for verdict in VERDICTS]
    shown = [row for row in rows if any(row[1:])]
    return tables.table(("Verdict", *QUESTIONS), shown, right=range(1, len(QUESTIONS) + 1))


def render() -> str:
    """The answers as Markdown: the counts, then each chapter as a definition list of verdicts and claims."""
    found = answers()
    if not found:
        return "No chapter is published yet."
    items = []
    for chapter, parts in found:
        lines = [f"[{chapter.title}](../notebooks/{chapter.name}.ipynb)"]
        for question, claims in zip(QUESTIONS, parts, strict=True):
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
