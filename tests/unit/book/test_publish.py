"""Publishing: what is adopted, what is refused and why, and that a refusal changes nothing."""

import json
import os

import pytest
from books import finished_run

from nbpkg import chapters, runner
from nbpkg.book import notebook, publish
from nbpkg.book.check import check
from nbpkg.book.notebook_lint import SIZE_LIMIT
from nbpkg.data import needs
from nbpkg.errors import NbpkgError

STREAM = {"output_type": "stream", "name": "stdout", "text": "fine\n"}
HOME = "/".join(["", "home", "somebody", "book"])


def data(kind, value):
    return {"output_type": "display_data", "data": {kind: value}, "metadata": {}}


def snapshot(book):
    skipped = {"runs"}
    return {
        path.relative_to(book.root).as_posix(): path.read_bytes()
        for path in book.root.rglob("*")
        if path.is_file() and not skipped & set(path.relative_to(book.root).parts)
    }


def refused(book, words, names=("help",), profile="standard"):
    before = snapshot(book)
    with pytest.raises(NbpkgError, match=words) as caught:
        publish.publish(names, profile)
    assert "\n" not in str(caught.value)
    assert snapshot(book) == before


def test_a_real_run_is_published_whole(book, monkeypatch):
    monkeypatch.setattr(needs, "lacking", lambda *_: "")  # the real chapter of this name needs data
    (outcome,) = runner.run(["help"], "standard", [0, 1], jobs=1, echo=lambda line: None)
    assert outcome.status == "done", outcome.error
    assert publish.publish(["help"]) == ["03_help: published from the standard run"]
    made = notebook.read(book.root / "notebooks" / "03_help.ipynb")
    said = made.metadata["nbpkg"]
    record = json.loads((book.root / "results/standard/03_help.json").read_text())
    assert (said["profile"], said["source_sha256"]) == (record["profile"], record["source_sha256"])
    assert said["source_sha256"] == notebook.code_sha256(made) == chapters.code_sha256("help")
    text = notebook.text_of(made)
    assert "papermill" not in text and notebook.INJECTED not in text and "seeds [0, 1]" in text
    assert 'PROFILE = "smoke"' in notebook.code_cells(made)[0].source
    assert check()[0] == []
    assert "03 HELP" in (book.root / "README.md").read_text()
    assert notebook.sync(chapters.get("help")) == ("in step", True)


def test_publishing_twice_changes_nothing(published):
    before = snapshot(published)
    publish.publish(["help"])
    assert snapshot(published) == before


def test_prose_may_be_newer_than_the_run(book):
    finished_run(book, outputs={2: [STREAM]})
    book.edit("It adds numbers.", "It adds whole numbers.")
    publish.publish(["help"])
    assert "whole numbers" in (book.root / "notebooks/03_help.ipynb").read_text()


def test_without_a_run_there_is_nothing_to_publish(book):
    refused(book, "has no run at profile standard")
    refused(book, "no chapter is called", names=["nope"])
    refused(book, "no profile is called", profile="quick")


def test_a_smoke_run_is_not_published(book):
    finished_run(book, "smoke")
    refused(book, "measures nothing", profile="smoke")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"status": "failed", "error": "ValueError: no"}, "failed .ValueError: no"),
        ({"mode": "script"}, "as a script"),
        ({"package_sha256": "0" * 64}, "nbpkg has changed"),
        ({"record_sha256": "0" * 64}, "not the one that the run wrote"),
        ({"seeds": [5]}, "disagrees with the run on seeds"),
    ],
)
def test_the_state_is_believed(book, change, words):
    finished_run(book)
    path = book.root / "runs/standard/03_help.state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    refused(book, words)


def test_changed_code_makes_a_run_stale(book):
    finished_run(book)
    book.edit("add(3)", "add(4)")
    refused(book, "stale: the chapter's code has changed")


def test_a_run_whose_notebook_is_of_other_code_is_refused(book):
    finished_run(book)
    path = book.root / "runs/standard/03_help.ipynb"
    path.write_text(path.read_text().replace("add(3)", "add(4)"))
    refused(book, "stale")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chapter", "05_tans"),
        ("profile", "paper"),
        ("seeds", [0]),
        ("source_sha256", "1" * 64),
        ("package_sha256", "1" * 64),
    ],
)
def test_a_record_that_disagrees_is_refused(book, field, value):
    finished_run(book, record={field: value, "claims": []})
    refused(book, f"disagrees with the run on {field}")


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (
            {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []},
            "ends in ValueError: no",
        ),
        ({"output_type": "stream", "name": "stderr", "text": "UserWarning: beware\n"}, "stderr: UserWarning"),
        (data("application/vnd.jupyter.widget-view+json", {"model_id": "1"}), "a widget"),
        (
            {"output_type": "stream", "name": "stdout", "text": f"saved {HOME}/a.png\n"},
            "a path of this machine",
        ),
        (data("text/html", f"<a href='{HOME}/a'>a</a>"), "a path of this machine"),
        (data("image/png", "aGVsbG8="), "a figure without a caption"),
        ({"output_type": "stream", "name": "stdout", "text": "x" * SIZE_LIMIT}, "1.5 MB, more than 1.5"),
    ],
)
def test_outputs_at_fault_are_refused(book, output, words):
    finished_run(book, outputs={2: [STREAM, output]})
    refused(book, words)


def test_a_figure_with_caption_and_alt_text_is_published(book):
    figure = 'mystnb={"figure": {"caption": "A sum."}, "image": {"alt": "Two bars, the second higher."}}'
    book.write(middle=f"\n# %% {figure}\nadd(1)\n")
    finished_run(book, outputs={4: [data("image/png", "aGVsbG8=")]})
    publish.publish(["help"])
    assert "aGVsbG8=" in (book.root / "notebooks/03_help.ipynb").read_text()


def test_a_record_with_a_path_of_this_machine_is_refused(book):
    finished_run(book, record={"device": f"cpu at {HOME}/x"})
    refused(book, "record of 03_help holds a path")


def test_one_chapter_at_fault_keeps_all_from_being_published(book):
    book.write("05_tans")
    finished_run(book)
    refused(book, "05_tans has no run", names=["help", "tans"])


def test_a_readme_without_its_marks_is_found_before_anything_is_written(book):
    finished_run(book)
    (book.root / "README.md").write_text("# Book\n")
    refused(book, "README.md must hold")


@pytest.mark.parametrize("failing", [1, 2])
def test_a_disk_that_fills_half_way_changes_nothing(book, monkeypatch, failing):
    finished_run(book)
    replace, calls = os.replace, []

    def fail(source, target):
        calls.append(target)
        if len(calls) == failing:
            raise OSError("disk full")
        replace(source, target)

    before = snapshot(book)
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError):
        publish.publish(["help"])
    assert snapshot(book) == before
