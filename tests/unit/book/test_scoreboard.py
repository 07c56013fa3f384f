"""The scoreboard follows the records, and nothing else."""

import pytest
import site_tables
from books import finished_run

from nbpkg import chapters
from nbpkg.book import budget, publish, scoreboard
from nbpkg.errors import NbpkgError
from nbpkg.report.record import Metric


def rows(text):
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def test_readme_counts_claims_by_verdict(published):
    header, _, row = rows(scoreboard.render_readme())
    table = dict(zip(header, row, strict=True))
    assert table["Chapter"] == "[03 HELP](notebooks/03_help.ipynb), [first edition](book/errata.md)"
    assert (table["Claims"], table["Reproduced"], table["Contradicted"], table["Seeds"]) == (
        "2",
        "1",
        "1",
        "3",
    )
    assert "Partly" not in table
    assert table["Run"] == "90 s, 80 s of CPU, on cpu (test)"


def test_a_card_gets_its_times_from_the_rule_and_the_record(book):
    lines = ("| To read | 99 minutes |", "| To run | years |", "| Needs | nothing |")
    typed = '\\n",\n"'.join(lines)  # as in a notebook's JSON
    assert "`standard`: not published |\\n" in site_tables.card(typed, "03_help")
    finished_run(book)
    publish.publish(["help"])
    made = site_tables.card(typed, "03_help")
    minutes = budget.measure(chapters.get("03_help"))["minutes"]
    assert made.startswith(f"| To read | {minutes} minutes |") and made.endswith("| Needs | nothing |")
    assert "`standard`: 90 s, 80 s of CPU, on cpu (test), 0.0 GB of memory |" in made and "years" not in made
    assert site_tables.card("no card", "03_help") == "no card"


def test_the_page_shows_every_claim_with_numbers_and_the_papers(published):
    text = site_tables.scoreboard_page()
    _, _, adds, rests = rows(text)
    assert (
        adds[:2] == ["It adds \\| well.", "**reproduced**"]
        and adds[2] == "3 ms [2.50, 3.50], n = 3"
        and adds[3] == "3.10 ms"
    )
    assert "`sum`" in rests[2] and "`rest` 0.500" in rests[2] and "`rest` 0.400" in rests[3]
    assert "one run" in rests[4] and "../notebooks/03_help.ipynb" in text


def test_a_chapter_without_a_paper_is_said_to_have_none():
    words = scoreboard.paper(chapters.get("00_foundations"))
    assert words == "no paper: what the others use" and "Lee" in scoreboard.paper(chapters.get("03_help"))


def test_refresh_writes_once_and_keeps_the_rest_of_the_readme(published):
    readme = published.root / "README.md"
    readme.write_text(readme.read_text() + "\nAfter.\n")
    assert not scoreboard.refresh()
    finished_run(published, record={"metrics": {"sum": Metric(1.0)}, "claims": []})
    publish.publish(["help"])
    text = readme.read_text()
    assert text.startswith("# Book\n") and text.endswith("\nAfter.\n")
    assert rows(text)[-1][2] == "0"


def test_without_records_it_says_so_in_one_line(book):
    assert scoreboard.render_readme() == site_tables.scoreboard_page() == "No chapter is published yet."


@pytest.mark.parametrize(
    "text", ["# Book", f"{scoreboard.END} {scoreboard.START}", f"{scoreboard.START} x {scoreboard.START}"]
)
def test_marks_must_be_there_once_and_in_order(book, text):
    (book.root / "README.md").write_text(text)
    with pytest.raises(NbpkgError, match="must hold"):
        scoreboard.refresh()
