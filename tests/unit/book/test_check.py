"""`nbpkg check` on a small book: silent when all is well, one line for each thing that came apart."""

import ast
import json
import re
import subprocess
import time
from pathlib import Path

import nbformat
import pytest
from books import finished_run

from nbpkg import chapters, paths
from nbpkg.book import budget, moved, notebook, notebook_lint, package_size, publish
from nbpkg.book.check import check, text_files
from nbpkg.report import first_edition as drawn
from nbpkg.report import first_stats, looks, plots, stats
from nbpkg.session.first_edition import FirstEdition, FirstSession

SLASH = "/"
PATHS = [
    SLASH.join(["", "home", "ada", "book"]),
    SLASH.join(["", "root", "x"]),
    SLASH.join(["", "tmp", "ipykernel_1", "2.py"]),
    SLASH.join(["", "work", "main"]),
    SLASH.join(["", "Users", "ada", "x"]),
    "C:" + "\\".join(["", "Users", "ada"]),
]
INNOCENT = [
    "https://example.org/" + "home/ada/x",
    "a/" + "tmp/b",
    "net" + "work/main",
    "~/" + "work/book",
    "./" + "work/x",
    "the home" + "/root folder",
    "$HOME/" + "tmp/x",
]


def move(book, old, new):
    (book.root / "results/standard" / old).rename(book.root / "results/standard" / new)


def edit_published(book, change):
    path = book.root / "notebooks/03_help.ipynb"
    made = nbformat.read(path, as_version=4)
    change(made)
    path.write_text(nbformat.writes(made))


def test_a_published_book_has_no_problem_and_is_quick(published):
    started = time.monotonic()
    assert check() == ([], [])
    assert time.monotonic() - started < 10


def test_an_unpublished_chapter_is_only_a_remark(book):
    notebook.sync(chapters.get("help"))
    from nbpkg.book import scoreboard

    scoreboard.refresh()
    assert check() == ([], ["03_help: not published yet"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: b.edit("That was all.", "That was more."), "reads differently in the notebook"),
        (lambda b: b.edit("add(3)", "add(4)"), "code has changed since the outputs were made"),
        (lambda b: b.edit('tags=["method"]', 'tags=["method", "hide-input"]'), "other tags"),
        (lambda b: b.write(middle="\n# %%\nnew = 1\n"), "the twin has 8 cells, the notebook 7"),
        (lambda b: b.edit('tags=["parameters"]', 'tags=["parameter"]'), "tagged parameters"),
        (lambda b: (b.root / "notebooks/03_help.ipynb").unlink(), "nbpkg sync 03_help"),
        (lambda b: (b.root / "notebooks/03_help.ipynb").write_text("{"), "not a valid notebook"),
        (lambda b: (b.root / "notebooks/extra.ipynb").write_text("{}"), "extra.ipynb has no twin"),
        (lambda b: (b.root / "notebooks/src/11_more.py").write_text(""), "is no chapter"),
        (lambda b: (b.root / "results/standard/03_help.json").unlink(), "record is not in results/standard/"),
        (lambda b: (b.root / "results/standard/03_help.json").write_text("{}"), "record schema"),
        (lambda b: move(b, "03_help.json", "05_tans.json"), "is the record of"),
        (lambda b: (b.root / "README.md").unlink(), "no README.md"),
        (lambda b: b.edit("add(3)", "import ipywidgets"), "widgets in"),
        (lambda b: b.write(middle="\n# %%\n# !ls\n"), "a magic, a shell line"),
    ],
)  # fmt: skip
def test_what_came_apart_is_named(published, change, words):
    change(published)
    problems, _ = check()
    assert any(words in line for line in problems), problems
    assert not any("\n" in line for line in problems)


def test_code_that_only_moved_is_a_remark_and_keeps_its_outputs(published):
    chapter, run = chapters.get("help"), chapters.code_sha256("help")
    published.edit("add(3)", "add(x=3)")
    entry = {"run": run, "now": chapters.code_sha256("help"), "metrics": 1}
    moved.path().write_text(json.dumps({chapter.name: entry}))
    notebook.sync(chapter)
    assert notebook.read(chapter.notebook).metadata["nbpkg"]["source_sha256"] == run
    assert check() == ([], ["03_help: code has moved since the run; its smoke numbers are equal"])
    # The evidence is of that change alone.
    for field in ("run", "now"):
        moved.path().write_text(json.dumps({chapter.name: {**entry, field: "0" * 64}}))
        assert any("has changed since" in line for line in check()[0])
    published.edit("add(x=3)", "add(x=4)")
    moved.path().write_text(json.dumps({chapter.name: entry}))
    assert any("has changed since" in line for line in check()[0])
    notebook.sync(chapter)
    assert "nbpkg" not in notebook.read(chapter.notebook).metadata


def test_a_stale_scoreboard_is_found(published):
    readme = published.root / "README.md"
    readme.write_text(readme.read_text().replace("| 2 |", "| 3 |"))
    assert check()[0] == ["README.md: the scoreboard is not that of the records; `nbpkg scoreboard`"]


def test_a_record_that_is_not_the_notebooks_is_found(published):
    path = published.root / "results/standard/03_help.json"
    raw = json.loads(path.read_text())
    raw["device"] = "another"
    path.write_text(json.dumps(raw))
    assert any("not the one that the notebook was published with" in line for line in check()[0])


def test_outputs_that_were_never_published_are_found(published):
    edit_published(published, lambda made: made.metadata.pop("nbpkg"))
    assert any("has a record but the notebook no published outputs" in line for line in check()[0])
    stream = nbformat.v4.new_output("stream", name="stdout", text="by hand")
    edit_published(published, lambda made: made.cells[-2].outputs.append(stream))
    assert any("never published" in line for line in check()[0])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("git", [True, False])
def test_paths_of_a_machine_are_found_in_text_and_outputs(published, path, git):
    if git:
        subprocess.run(["git", "init", "-q", str(published.root)], check=True)
    (published.root / "book").mkdir(exist_ok=True)
    (published.root / "book/page.md").write_text(f"First.\nIt lies in `{path}`.\n")
    (published.root / "runs/note.md").write_text(f"{path}/ignored")
    (published.root / ".gitignore").write_text("runs/\n")
    (line,) = check()[0]
    assert line.startswith("book/page.md, line 2") and path.split("\\")[0] in line
    (published.root / "book/page.md").unlink()
    stream = nbformat.v4.new_output("stream", name="stdout", text=f"saved to {path}/a.png")
    edit_published(published, lambda made: made.cells[-2].outputs.append(stream))
    edited, shown = check()[0]
    assert "shows a path of this machine" in shown and "outputs are not those" in edited


@pytest.mark.parametrize("text", INNOCENT)
def test_other_slashes_are_left_alone(text):
    assert notebook_lint.machine_path(text) is None


def test_text_files_without_git_leave_build_folders_out(book):
    for name in ("runs/a.md", "_build/a.md", ".venv/a.md", "book/a.md", "book/a.png"):
        path = book.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    names = {path.relative_to(book.root).as_posix() for path in text_files()}
    assert "book/a.md" in names and not names & {"runs/a.md", "_build/a.md", ".venv/a.md", "book/a.png"}


PICTURE = {"output_type": "display_data", "data": {"image/png": "aGVsbG8="}, "metadata": {}}
CAPTION = '{"figure": {"caption": "A sum.", "name": "sum"}'


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("", "without a caption"),
        (f"mystnb={CAPTION}}}", "without an alt text"),
        (f'mystnb={CAPTION}, "image": {{"alt": "  "}}}}', "without an alt text"),
        ('mystnb={"image": {"alt": "Two bars, the second higher."}}', "without a caption"),
        (f'mystnb={CAPTION}, "image": {{"alt": "sum"}}}}', "does not say"),
        (f'mystnb={CAPTION}, "image": {{"alt": "A sum."}}}}', "does not say"),
        (f'mystnb={CAPTION}, "image": {{"alt": "{"0123456789abcdef" * 2}"}}}}', "does not say"),
        (f'mystnb={CAPTION}, "image": {{"alt": "Two bars, the second higher."}}}}', None),
    ],
)
def test_figures_need_a_caption_and_a_telling_alt_text(book, settings, words):
    book.write(middle=f"\n# %% {settings}\nadd(1)\n")
    made = notebook.from_twin(chapters.get("help"))
    notebook.code_cells(made)[4].outputs = [nbformat.from_dict(PICTURE)]
    faults = list(notebook_lint.faults(made, 0))
    assert (words in faults[0]) if words else (faults == [])


def test_an_empty_figure_is_found_before_there_are_outputs(book):
    book.write(middle=f'\n# %% mystnb={CAPTION}, "image": {{}}}}\nadd(1)\n')
    assert list(notebook_lint.faults(notebook.from_twin(chapters.get("help")), 0))


def test_a_large_notebook_is_found(published):
    stream = nbformat.v4.new_output("stream", name="stdout", text="x" * notebook_lint.SIZE_LIMIT)
    edit_published(published, lambda made: made.cells[-2].outputs.append(stream))
    assert any("more than 1.5" in line for line in check()[0])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("One. Two here.", True),
        ("One sentence (Lee et al. 2021).", False),
        ("It is 0.5 here, e.g. This.", False),
        ("| One. Two | here |", False),
        ("One.\nTwo here.", False),
    ],
)
def test_two_sentences_on_a_line_are_a_remark(published, text, found):
    published.edit("# It adds numbers.", "\n".join(f"# {line}" for line in text.split("\n")))
    notebook.sync(chapters.get("help"))
    problems, remarks = check()
    assert problems == [] and bool(remarks) is found


def test_publishing_mends_what_check_found(published):
    published.edit("add(3)", "add(4)")
    assert check()[0]
    finished_run(published)
    publish.publish(["help"])
    assert check()[0] == []


def test_the_package_is_counted_and_long_parts_are_named(tmp_path, monkeypatch):
    (tmp_path / "room").mkdir()
    method = "class A:\n    def long(self):\n" + "        x = 1\n" * 40
    (tmp_path / "room" / "a.py").write_text(method + "def short():\n" + "    x = 1\n" * 39)
    (tmp_path / "b.py").write_text("x = 1\n" * 301)
    (tmp_path / "notes.txt").write_text("no code\n" * 500)
    counts, problems, remarks = package_size.check(tmp_path)
    assert counts == "package: 383 lines in 2 files, and 0 more of the first edition" and problems == []
    assert remarks == [
        "nbpkg/b.py has 301 lines, more than 300", "nbpkg/room/a.py: long has 41 lines, more than 40"
    ]  # fmt: skip
    monkeypatch.setattr(package_size, "LIMIT", 382)
    assert package_size.check(tmp_path)[1] == ["nbpkg has 383 lines, more than 382"]


def test_files_of_one_chapter_are_counted_with_it_and_once():
    own = {one.name: budget.alone(one) - {*package_size.FIRST_EDITION} for one in chapters.existing()}
    names = [name for files in own.values() for name in files]
    lines = {name: len((paths.package() / name).read_text("utf-8").splitlines()) for name in names}
    whole = sum(len(path.read_text("utf-8").splitlines()) for path in paths.package().rglob("*.py"))
    counts = package_size.check()[0]
    found = [int(number) for number in re.findall(r"(\d+) (?:lines|more|of)", counts)]
    assert len(lines) == len(names) and found[-1] == sum(lines.values())
    assert sum(found) == whole


def test_files_of_the_first_edition_are_counted_apart_and_go_with_it(tmp_path, monkeypatch):
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "moved.py").write_text("x = 1\n" * 7)
    (tmp_path / "a.py").write_text("x = 1\n" * 3)
    counts, problems, _ = package_size.check(tmp_path)
    assert counts == "package: 3 lines in 1 files, and 7 more of the first edition" and problems == []
    monkeypatch.setattr(chapters, "CHAPTERS", [one for one in chapters.CHAPTERS if one.edition > 1])
    assert package_size.check(tmp_path)[1] == [
        "nbpkg/book/moved.py: no chapter of the first edition is left: delete it"
    ]


def test_no_chapter_of_the_second_edition_uses_what_goes_with_the_first():
    """Neither files nor what a session and `plots` offer of them; but for pieces that it makes for others."""
    files = [Path(name).with_suffix("") for name in package_size.FIRST_EDITION]
    modules = {f"nbpkg.{'.'.join(path.parts)}" for path in files}
    assert all((paths.package() / name).is_file() for name in package_size.FIRST_EDITION)
    drawing = {name for name in plots.__all__ if name in vars(drawn) and name not in vars(looks)}
    tests = {name for name in stats.__all__ if name in vars(first_stats)}
    noted = {name for part in (FirstEdition, FirstSession) for name in vars(part) if name[0] != "_"}
    assert {"style", "intervals"} <= drawing and {"metric", "claim"} <= noted and "t_interval" in tests
    for chapter in [one for one in chapters.existing() if one.edition > 1]:
        tree = ast.parse(
            "\n".join(cell.source for cell in chapters.cells(chapter.name) if cell.kind == "code")
        )
        for node in [node for one in tree.body if not _artifact(one) for node in ast.walk(one)]:
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.attr not in {"plots": drawing, "stats": tests, "s": noted}.get(node.value.id, ())
            elif isinstance(node, ast.ImportFrom):
                assert not modules & {f"{node.module}.{alias.name}" for alias in node.names}
                assert node.module not in modules
                assert node.module != "nbpkg.report.stats" or not tests & {one.name for one in node.names}
            elif isinstance(node, ast.Import):
                assert not modules & {alias.name for alias in node.names}


def _artifact(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name.startswith("make_artifact_")
