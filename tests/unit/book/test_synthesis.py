"""The three questions: every published paper is asked them, and the answers are those of the records."""

import tomllib

import pytest
import synthesis

from nbpkg import chapters
from nbpkg.book import scoreboard
from nbpkg.errors import NbpkgError
from nbpkg.report.record import VERDICTS


def test_every_published_paper_is_asked_each_question():
    published = {chapter.name for chapter, _ in scoreboard.records() if chapter.paper}
    assert {chapter.name for chapter, _ in synthesis.answers()} == published
    for chapter, parts in synthesis.answers():
        assert len(parts) == len(synthesis.QUESTIONS) and all(parts), chapter.name
        named = [claim.id for part in parts for claim in part]
        assert len(set(named)) == len(named)


def test_answers_and_counts_are_the_records():
    verdicts = {(c.name, claim.id): claim.verdict for c, r in scoreboard.records() for claim in r.claims}
    total = 0
    for chapter, parts in synthesis.answers():
        for part in parts:
            for claim in part:
                assert claim.verdict == verdicts[chapter.name, claim.id]
                total += 1
    rows = [line.split("|")[2:-1] for line in synthesis.counts().splitlines()[2:]]
    assert sum(int(cell) for row in rows for cell in row) == total
    text = synthesis.render()
    assert sum(text.count(f"**{verdict}**") for verdict in VERDICTS) == total


def test_a_claim_that_is_gone_is_named(tmp_path, monkeypatch):
    name = next(chapter.name for chapter, _ in scoreboard.records() if chapter.paper)
    file = tmp_path / "questions.toml"
    file.write_text(f'[{name}]\nnothing = ["no-such-claim"]\nrival = []\nnew = []\n')
    monkeypatch.setattr(synthesis, "path", lambda: file)
    with pytest.raises(NbpkgError, match="no claim 'no-such-claim'"):
        synthesis.answers()


def test_only_chapters_on_papers_are_chosen():
    assert all(chapters.get(name).paper for name in tomllib.loads(synthesis.path().read_text()))


@pytest.mark.parametrize(
    ("said", "within"),
    [
        ("It ranks better.", "it ranks better"), ("A cell is good", "a cell is good"),
        ("HELP ranks", "HELP ranks"), ("ANIL: better", "ANIL: better"), ("guided samples", "guided samples"),
        ("K1, scarce text", "K1, scarce text"), ("Repeated text: better", "repeated text: better"),
    ],
)  # fmt: skip
def test_statements_within_a_sentence(said, within):
    assert synthesis._sentence(said) == within
