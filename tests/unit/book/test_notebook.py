"""Notebooks and twins: ids, outputs, and the ways in which the two can part."""

import json
import os

import nbformat
import pytest

from nbpkg import chapters, progress
from nbpkg.book import notebook
from nbpkg.errors import NbpkgError
from nbpkg.paths import write_text

CHAPTER = chapters.get("03_help")


def give_outputs(path):
    made = notebook.read(path)
    for number, cell in enumerate(notebook.code_cells(made), start=1):
        cell.execution_count = number
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=f"out {number}\n")]
    path.write_text(notebook.text_of(made))


def edit_notebook(path, old, new):
    made = notebook.read(path)
    hits = [cell for cell in made.cells if old in cell.source]
    assert hits
    for cell in hits:
        cell.source = cell.source.replace(old, new)
    path.write_text(notebook.text_of(made))


def outputs(path):
    return [bool(cell.outputs) for cell in notebook.code_cells(notebook.read(path))]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_text(path, "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError):
        write_text(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


def test_ids_follow_the_source_so_a_new_cell_leaves_the_others_alone(book):
    before = [cell.id for cell in notebook.from_twin(CHAPTER).cells]
    book.write(middle="\n# %%\nnew = 1\n")
    after = [cell.id for cell in notebook.from_twin(CHAPTER).cells]
    assert len(after) == len(before) + 1 and set(before) < set(after)


def test_equal_cells_have_different_ids(book):
    book.write(middle="\n# %%\n1 + 1\n\n# %%\n1 + 1\n")
    made = notebook.from_twin(CHAPTER)
    nbformat.validate(made)
    assert len({cell.id for cell in made.cells}) == len(made.cells)


def test_sync_makes_the_notebook_and_then_has_nothing_to_do(book):
    assert notebook.sync(CHAPTER)[1] and CHAPTER.notebook.is_file()
    content = CHAPTER.notebook.read_bytes()
    assert notebook.sync(CHAPTER) == ("in step", True)
    assert CHAPTER.notebook.read_bytes() == content
    made = notebook.read(CHAPTER.notebook)
    assert list(notebook.differences(notebook.from_twin(CHAPTER), made)) == []
    assert notebook.code_sha256(made) == chapters.code_sha256("help")


def test_prose_keeps_outputs_and_code_clears_them(book):
    notebook.sync(CHAPTER)
    give_outputs(CHAPTER.notebook)
    book.edit("It adds numbers.", "It adds whole numbers.")
    words, fine = notebook.sync(CHAPTER)
    assert fine and "kept" in words and all(outputs(CHAPTER.notebook))
    assert any("whole numbers" in cell.source for cell in notebook.read(CHAPTER.notebook).cells)
    book.edit("add(3)", "add(4)")
    words, fine = notebook.sync(CHAPTER)
    assert fine and "cleared" in words and not any(outputs(CHAPTER.notebook))


def test_new_tags_reach_the_notebook_and_keep_outputs(book):
    notebook.sync(CHAPTER)
    give_outputs(CHAPTER.notebook)
    book.edit('tags=["nbval-check-output"]', 'tags=["nbval-check-output", "hide-input"]')
    assert list(notebook.differences(notebook.from_twin(CHAPTER), notebook.read(CHAPTER.notebook)))
    assert notebook.sync(CHAPTER)[1] and all(outputs(CHAPTER.notebook))
    assert list(notebook.differences(notebook.from_twin(CHAPTER), notebook.read(CHAPTER.notebook))) == []


def test_an_edited_notebook_is_never_taken_silently(book):
    notebook.sync(CHAPTER)
    edit_notebook(CHAPTER.notebook, "That was all.", "That was more.")
    os.utime(CHAPTER.notebook, (2e9, 2e9))  # newer than the twin: times must not decide
    twin, edited = CHAPTER.twin.read_text(), CHAPTER.notebook.read_text()
    words, fine = notebook.sync(CHAPTER)
    assert not fine and "--from-notebook" in words and "\n" not in words
    assert (CHAPTER.twin.read_text(), CHAPTER.notebook.read_text()) == (twin, edited)
    assert notebook.sync(CHAPTER, "notebook")[1]
    assert "# That was more." in CHAPTER.twin.read_text()
    assert notebook.sync(CHAPTER) == ("in step", True)


def test_both_edited_is_said_and_either_can_win(book):
    notebook.sync(CHAPTER)
    edit_notebook(CHAPTER.notebook, "That was all.", "That was more.")
    book.edit("It adds numbers.", "It adds whole numbers.")
    words, fine = notebook.sync(CHAPTER)
    assert not fine and words.startswith("both")
    assert notebook.sync(CHAPTER, "twin")[1]
    text = CHAPTER.notebook.read_text()
    assert "whole numbers" in text and "That was more" not in text


def test_the_twin_written_from_a_notebook_keeps_tags_and_figures(book):
    figure = 'mystnb={"figure": {"caption": "A sum.", "name": "sum"}, "image": {"alt": "Two bars."}}'
    book.write(middle=f'\n# %% tags=["hide-input"] {figure}\nadd(1)\n')
    notebook.sync(CHAPTER)
    before = chapters.cells("help")
    edit_notebook(CHAPTER.notebook, "That was all.", "That was more.")
    notebook.sync(CHAPTER, "notebook")
    after = chapters.cells("help")
    assert [(c.kind, c.tags, c.metadata) for c in after] == [(c.kind, c.tags, c.metadata) for c in before]


def test_outputs_move_over_without_papermill_traces(book):
    executed = notebook.from_twin(CHAPTER)
    for number, cell in enumerate(notebook.code_cells(executed), start=2):
        cell.execution_count = number
        cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "5"}, execution_count=number)]
        cell.metadata["papermill"] = {"duration": 1.0}
    executed.metadata["papermill"] = {"duration": 9.0}
    extra = nbformat.v4.new_code_cell(
        "SEEDS = [1]", metadata={"tags": [notebook.INJECTED]}, execution_count=2
    )
    executed.cells.insert(2, extra)
    merged = notebook.with_outputs(notebook.from_twin(CHAPTER), executed)
    text = notebook.text_of(merged)
    assert "papermill" not in text and "SEEDS = [1]" not in text
    counts = [cell.execution_count for cell in notebook.code_cells(merged)]
    assert counts == list(range(1, len(counts) + 1))
    assert all(
        cell.outputs[0].execution_count == cell.execution_count for cell in notebook.code_cells(merged)
    )


def test_lines_of_progress_are_not_published(book, capsys):
    clock = iter(range(0, 60_000, 1500)).__next__
    list(progress.progress(range(12), "waves", clock=clock))
    list(progress.progress(iter(range(12)), "steps", clock=clock))
    texts = [
        *capsys.readouterr().out.splitlines(keepends=True),
        "waves  9 metres\n",
        "a\nwaves  1/1  100 %  elapsed 3 s\n",
    ]
    assert len(texts) > 6
    executed = notebook.from_twin(CHAPTER)
    cell = notebook.code_cells(executed)[0]
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text) for text in texts]
    merged = notebook.with_outputs(notebook.from_twin(CHAPTER), executed)
    assert [output.text for output in notebook.code_cells(merged)[0].outputs] == texts[-2:]


def test_outputs_never_stand_under_other_code(book):
    executed = notebook.from_twin(CHAPTER)
    book.edit("add(3)", "add(4)")
    with pytest.raises(NbpkgError, match="changed since the run"):
        notebook.with_outputs(notebook.from_twin(CHAPTER), executed)


@pytest.mark.parametrize("cut", [0, 20, -30])
def test_a_notebook_cut_short_is_refused_by_name(book, cut):
    notebook.sync(CHAPTER)
    CHAPTER.notebook.write_text(CHAPTER.notebook.read_text()[:cut])
    with pytest.raises(NbpkgError, match=r"03_help\.ipynb"):
        notebook.read(CHAPTER.notebook)


def test_a_notebook_that_is_json_but_no_notebook_is_refused(tmp_path):
    path = tmp_path / "03_help.ipynb"
    path.write_text(json.dumps({"cells": "none"}))
    with pytest.raises(NbpkgError, match="not a valid notebook"):
        notebook.read(path)
