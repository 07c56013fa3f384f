"""Handouts hold no solution and still run; the exercises are read from the chapters."""

import symtable

import pytest
import site_tables

from nbpkg import chapters
from nbpkg.book import budget, notebook, teaching
from nbpkg.cli import main
from nbpkg.errors import NbpkgError

WRITTEN = [chapter for chapter in chapters.existing() if not chapter.evidence]
names_of = pytest.mark.parametrize("chapter", WRITTEN, ids=lambda chapter: chapter.name)


@names_of
def test_every_chapter_has_exercises_from_easy_to_hard_with_a_solution_each(chapter):
    found = site_tables.exercises(chapter)
    cells = chapters.cells(chapter.name)
    assert 4 <= len(found) <= 6
    assert [exercise.number for exercise in found] == list(range(1, len(found) + 1))
    stars = [exercise.stars for exercise in found]
    assert stars == sorted(stars) and stars[0] == 1 and stars[-1] == 3
    for tag in ("exercise", "solution"):
        assert sum(tag in cell.tags for cell in cells) >= len(found), tag
    assert 10 <= budget.measure(chapter)["minutes"] <= 90


@names_of
def test_a_handout_has_all_but_solutions_and_answers(chapter):
    made = teaching.handout(chapter)
    cells = chapters.cells(chapter.name)
    solutions = [cell.source.strip() for cell in cells if "solution" in cell.tags]
    sources = [cell.source.strip() for cell in made.cells]
    assert sources.count(teaching.LEFT_OUT) == len(solutions) > 0
    assert not set(solutions) & set(sources)
    assert not any("<details>" in source or "</details>" in source for source in sources)
    kept = [cell.source.strip() for cell in cells if cell.kind == "code" and "solution" not in cell.tags]
    assert [cell.source.strip() for cell in made.cells if cell.cell_type == "code"] == kept
    assert not any(cell.outputs for cell in made.cells if cell.cell_type == "code")


def names(source):
    """(names that a cell gives a value, names of the notebook that it uses); not those local to functions."""
    top = symtable.symtable(source, "cell", "exec")
    bound = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned()}
    used = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced()}
    waiting = top.get_children()
    for table in waiting:  # grows while it is read
        used |= {s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced()}
        waiting.extend(table.get_children())
    return bound, used


@names_of
def test_no_other_cell_uses_what_only_a_solution_defines(chapter):
    solved, others, needed = set(), set(), set()
    for cell in chapters.cells(chapter.name):
        if cell.kind == "code":
            bound, used = names(cell.source)
            if "solution" in cell.tags:
                solved |= bound
            else:
                others |= bound
                needed |= used
    assert solved and not (solved - others) & needed


def test_published_outputs_stay_when_asked_for():
    chapter = next(chapter for chapter in WRITTEN if chapter.notebook.exists())
    made = teaching.handout(chapter, outputs=True)
    assert any(cell.outputs for cell in made.cells if cell.cell_type == "code")
    assert notebook.SYNCED not in made.metadata and "nbpkg" not in made.metadata


def test_the_command_writes_files_and_refuses_the_chapters_own_folder(tmp_path, capsys):
    assert main(["handout", "03", "--out", str(tmp_path / "course")]) == 0
    made = notebook.read(tmp_path / "course" / "03_help.ipynb")
    assert any(cell.source == teaching.LEFT_OUT for cell in made.cells)
    with pytest.raises(NbpkgError, match="overwrite the chapter itself"):
        teaching.write_handout("03_help", chapters.get("03_help").notebook.parent)
    assert main(["handout", "nonesuch", "--out", str(tmp_path)]) == 2
    assert "nonesuch" in capsys.readouterr().err
