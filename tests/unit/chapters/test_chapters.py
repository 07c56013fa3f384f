"""Cells, hashes and the method of a chapter as a module, on a tiny chapter and on every twin there is."""

import inspect
import pickle
import subprocess
import sys
import traceback
from dataclasses import replace

import cloudpickle
import jupytext
import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbpkg import chapters
from nbpkg.chapters import hashes
from nbpkg.errors import NbpkgError

LINE = st.sampled_from(
    ["x = 1", "", "# a comment", "if x:\n    y = 2", "| a | b |", "- item %% two", '"""text"""', "ä = 'µ'"]
)
SOURCE = st.lists(LINE, max_size=6).map("\n".join)
METADATA = st.fixed_dictionaries(
    {},
    optional={
        "tags": st.lists(
            st.sampled_from(["method", "hide-input", "nbval-check-output"]), min_size=1, unique=True
        ),
        "mystnb": st.just(
            {"figure": {"caption": "a = b, [c] {d}", "name": "fig"}, "image": {"alt": 'two "q" x=1'}}
        ),
    },
)
CELLS = st.lists(st.tuples(st.sampled_from(["code", "markdown", "raw"]), SOURCE, METADATA), max_size=6)


def same_as_jupytext(text):
    theirs = jupytext.reads(text, fmt="py:percent")
    ours = chapters.parse(text)
    assert [cell.kind for cell in ours] == [cell.cell_type for cell in theirs.cells]
    for mine, other in zip(ours, theirs.cells, strict=True):
        assert mine.source.strip() == other.source.strip()
        for key in ("tags", "mystnb"):
            assert mine.metadata.get(key) == other.metadata.get(key)
    lines = text.splitlines()
    for cell in ours:
        if cell.kind == "code" and cell.source:
            assert lines[cell.line - 1] == cell.source.split("\n")[0]


@settings(max_examples=150, deadline=None)
@given(CELLS)
def test_parser_reads_what_jupytext_writes_as_jupytext_does(cells):
    notebook = nbformat.v4.new_notebook(metadata={"jupytext": {"cell_metadata_filter": "tags,mystnb,-all"}})
    make = {
        "code": nbformat.v4.new_code_cell,
        "markdown": nbformat.v4.new_markdown_cell,
        "raw": nbformat.v4.new_raw_cell,
    }
    notebook.cells = [make[kind](source, metadata=metadata) for kind, source, metadata in cells]
    same_as_jupytext(jupytext.writes(notebook, fmt="py:percent"))


def test_parser_agrees_on_every_twin(book):
    same_as_jupytext(book.write().read_text())


def test_every_chapter_of_the_repository_parses_as_jupytext_does():
    for chapter in chapters.existing():
        same_as_jupytext(chapter.twin.read_text(encoding="utf-8"))


def test_bad_metadata_and_stray_text_are_named_with_their_line():
    with pytest.raises(NbpkgError, match=r"line 3: the value of tags"):
        chapters.parse("# %%\n\n# %% tags=[method]\nx = 1")
    with pytest.raises(NbpkgError, match="before the first cell marker"):
        chapters.parse("import os\n# %%\n1")


@pytest.mark.parametrize("name", ["03_help", "03", "help", "03_help.py", "03_help.ipynb"])
def test_a_chapter_goes_by_several_names(name):
    assert chapters.get(name).name == "03_help"


def test_an_unknown_chapter_is_one_line_with_the_known_ones():
    with pytest.raises(NbpkgError) as caught:
        chapters.get("11_nothing")
    assert "03_help" in str(caught.value) and "\n" not in str(caught.value)


def test_the_list_is_ordered_and_numbered_without_gaps():
    first = [chapter for chapter in chapters.CHAPTERS if not chapter.evidence]
    assert [chapter.number for chapter in first] == [f"{i:02d}" for i in range(11)]
    every = chapters.CHAPTERS
    assert len({n for c in every for n in (c.name, c.name.split("_", 1)[1])}) == 2 * len(every)


def test_an_evidence_notebook_follows_its_chapter_and_is_of_its_paper():
    found = [i for i, chapter in enumerate(chapters.CHAPTERS) if chapter.evidence]
    assert found
    for i in found:
        of, own = chapters.CHAPTERS[i - 1 : i + 1]
        assert own.name == f"{of.name}_evidence" and own.title != of.title
        assert replace(own, name=of.name, title=of.title) == of == chapters.get(of.number)


def test_prose_does_not_change_the_hash_and_code_does(book):
    before = chapters.code_sha256("help")
    book.edit("It adds numbers.", "It adds whole numbers.")
    assert chapters.code_sha256("help") == before
    book.edit("add(3)", "add(4)")
    assert chapters.code_sha256("help") != before


def test_the_hash_depends_on_order_and_on_where_cells_are_cut():
    assert chapters.hash_sources(["a", "b"]) != chapters.hash_sources(["b", "a"])
    assert chapters.hash_sources(["a", "b"]) != chapters.hash_sources(["a\nb"])
    assert chapters.hash_sources(["a\n", " b"]) == chapters.hash_sources(["a", "b"])


def test_the_package_hash_leaves_tools_out(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    for folder in ("cli", "runner", "report"):
        (tmp_path / folder).mkdir()
    for name in ("report/stats.py", "cli/app.py", "runner/child.py", "data/table.csv"):
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(hashes, "package", lambda: tmp_path)
    first = chapters.package_sha256()
    for name, counts in {
        "cli/app.py": False,
        "runner/child.py": False,
        "report/stats.py": True,
        "data/table.csv": True,
    }.items():
        before = chapters.package_sha256()
        (tmp_path / name).write_text("2")
        assert (chapters.package_sha256() != before) is counts, name
    assert chapters.package_sha256() != first


def test_load_executes_imports_and_method_only(book):
    module = chapters.load("help")
    assert module.Adder(2)(3) == 5
    assert not hasattr(module, "add") and not hasattr(module, "PROFILE")
    assert chapters.load("03") is module


def test_what_is_loaded_can_be_inspected_and_pickled(book):
    module = chapters.load("help")
    assert inspect.getsource(module.Adder).startswith("@dataclass\nclass Adder:")
    assert "x + self.step" in inspect.getsource(module.Adder.__call__)
    assert pickle.loads(pickle.dumps(module.Adder(4)))(1) == 5


def test_a_method_that_is_sent_to_another_process_is_loaded_there(book):
    module = chapters.load("help")
    assert pickle.loads(pickle.dumps(module)) is module
    sent = cloudpickle.dumps(lambda: module.Adder(2)(3))
    code = f"import pickle; print(pickle.loads({sent!r})())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "5\n"


def test_an_edited_method_is_loaded_anew_and_prose_is_not(book):
    old = chapters.load("help")
    book.edit("It adds numbers.", "It adds whole numbers.\n# Longer now.")
    assert chapters.load("help") is old
    book.edit("x + self.step", "x - self.step")
    new = chapters.load("help")
    assert new.Adder(2)(3) == 1 and old.Adder(2)(3) == 5
    assert "x + self.step" in inspect.getsource(old.Adder.__call__)


def test_an_error_in_a_method_cell_names_the_line_of_the_twin(book):
    path = book.write(middle='\n# %% tags=["method"]\n\nvalue = 1 / 0\n')
    line = path.read_text().splitlines().index("value = 1 / 0") + 1
    with pytest.raises(ZeroDivisionError) as caught:
        chapters.load("help")
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.lineno, last.line) == (line, "value = 1 / 0") and "03_help.py" in last.filename
    assert "nbpkg_chapter_03_help" not in sys.modules or sys.modules["nbpkg_chapter_03_help"].Adder


def test_a_chapter_without_a_twin_says_so(book):
    assert [chapter.name for chapter in chapters.existing()] == ["03_help"]
    with pytest.raises(NbpkgError, match="not written yet"):
        chapters.load("tans")
