"""Staging and stamping: what goes into the site, what stays untouched, what is refused."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from nbpkg.book import site
from nbpkg.cli import main
from nbpkg.errors import NbpkgError

INSTALL = 'try:\n    import nbpkg\nexcept ImportError:\n    REPOSITORY = ""\n    raise'
ADDRESS = "https://github.com/someone/some.book"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository with one page and one chapter."""
    folder = tmp_path / "repo"
    (folder / "book" / "_assets").mkdir(parents=True)
    (folder / "notebooks" / "src").mkdir(parents=True)
    (folder / "runs" / "smoke").mkdir(parents=True)
    (folder / "_toc.yml").write_text(
        "format: jb-book\nroot: book/start\nparts:\n- caption: I\n  chapters:\n  - file: notebooks/03_help\n"
    )
    (folder / "_config.yml").write_text("title: T\nhtml: {}\nsphinx: {config: {nbpkg_colab: ''}}\n")
    (folder / "book" / "start.md").write_text("# Start\n")
    (folder / "notebooks" / "src" / "03_help.py").write_text(f'# %% tags=["install"]\n{INSTALL}\n')
    write_notebook(folder / "notebooks" / "03_help.ipynb", "published")
    monkeypatch.setenv("NBPKG_ROOT", str(folder))
    monkeypatch.delenv("NBPKG_REPOSITORY", raising=False)
    return folder


def write_notebook(path, output):
    cells = [
        {
            "cell_type": "code",
            "metadata": {"tags": ["install"]},
            "source": INSTALL.splitlines(True),
            "outputs": [],
        },
        {"cell_type": "code", "metadata": {}, "source": 'REPOSITORY = ""', "outputs": [{"text": output}]},
    ]
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}))


def staged(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_stage_holds_what_the_site_needs_and_nothing_else(root, tmp_path):
    stage = tmp_path / "stage"
    (stage / "book").mkdir(parents=True)
    (stage / "book" / "old.md").write_text("left over")
    site.stage(root, stage)
    expected = {
        "_config.yml",
        "_toc.yml",
        "book/start.md",
        "notebooks/03_help.ipynb",
        "notebooks/src/03_help.py",
    }
    assert staged(stage) == expected


def test_staging_again_leaves_nothing_of_before(root, tmp_path):
    stage = tmp_path / "stage"
    site.stage(root, stage)
    before = staged(stage)
    (root / "book" / "start.md").write_text("# Another start\n")
    (stage / "book" / "gone.md").write_text("# Gone\n")
    site.stage(root, stage)
    assert (stage / "book" / "start.md").read_text() == "# Another start\n" and staged(stage) == before


def output_of(stage):
    notebook = json.loads((stage / "notebooks" / "03_help.ipynb").read_text())
    return notebook["cells"][1]["outputs"][0]["text"]


def test_outputs_come_from_where_they_were_asked(root, tmp_path, capsys):
    stage = tmp_path / "stage"
    site.stage(root, stage, "run", "smoke")
    assert output_of(stage) == "published" and "no run at profile smoke" in capsys.readouterr().out
    write_notebook(root / "runs" / "smoke" / "03_help.ipynb", "fresh")
    site.stage(root, stage, "run", "smoke")
    assert output_of(stage) == "fresh"
    assert "not from the published runs" in (stage / "_config.yml").read_text()
    site.stage(root, stage, "published")
    assert output_of(stage) == "published"
    assert "announcement" not in (stage / "_config.yml").read_text()


def test_without_an_address_there_are_no_buttons_and_no_stamp(root, tmp_path):
    site.stage(root, tmp_path / "stage")
    text = "".join(path.read_text() for path in (tmp_path / "stage").rglob("*") if path.is_file())
    assert "github.com" not in text and 'REPOSITORY = ""' in text


def test_the_address_reaches_buttons_install_cell_and_script(root, tmp_path, monkeypatch):
    monkeypatch.setenv("NBPKG_REPOSITORY", ADDRESS + "/")
    stage = tmp_path / "stage"
    site.stage(root, stage)
    config = (stage / "_config.yml").read_text()
    assert f"url: {ADDRESS}" in config and "use_repository_button: true" in config
    assert "colab.research.google.com/github/someone/some.book/blob/colab/" in config
    cells = json.loads((stage / "notebooks" / "03_help.ipynb").read_text())["cells"]
    assert f'    REPOSITORY = "{ADDRESS}"' in cells[0]["source"]
    assert cells[1]["source"] == 'REPOSITORY = ""'  # only the install cell is stamped
    assert f'REPOSITORY = "{ADDRESS}"' in (stage / "notebooks" / "src" / "03_help.py").read_text()
    assert 'REPOSITORY = ""' in (root / "notebooks" / "src" / "03_help.py").read_text()


def test_stamped_copies_for_colab(root, tmp_path, monkeypatch):
    with pytest.raises(NbpkgError, match="NBPKG_REPOSITORY"):
        site.stamp(tmp_path / "copies")
    monkeypatch.setenv("NBPKG_REPOSITORY", ADDRESS)
    (path,) = site.stamp(tmp_path / "copies")
    assert path == tmp_path / "copies" / "notebooks" / "03_help.ipynb" and ADDRESS in path.read_text()
    notebook = root / "notebooks" / "03_help.ipynb"
    notebook.write_text(notebook.read_text().replace("REPOSITORY", "ADDRESS"))
    with pytest.raises(NbpkgError, match="install"):
        site.stamp(tmp_path / "copies")


@pytest.mark.parametrize(
    "address",
    [
        "github.com/a/b",
        "http://github.com/a/b",
        "https://github.com/a",
        "https://github.com/a/b/c",
        "https://x.org/a/b",
    ],
)
def test_addresses_that_are_none_are_refused(monkeypatch, address):
    monkeypatch.setenv("NBPKG_REPOSITORY", address)
    with pytest.raises(NbpkgError, match=r"https://github.com/owner/name"):
        site.repository()


@pytest.mark.parametrize("given", [ADDRESS, ADDRESS + "/", ADDRESS + ".git"])
def test_addresses_are_put_into_one_form(monkeypatch, given):
    monkeypatch.setenv("NBPKG_REPOSITORY", given)
    assert site.repository() == ADDRESS


def test_a_chapter_that_is_not_published_is_named(root, tmp_path):
    (root / "notebooks" / "03_help.ipynb").unlink()
    with pytest.raises(NbpkgError, match=r"notebooks/03_help.ipynb is missing.*nbpkg publish 03_help"):
        site.stage(root, tmp_path / "stage")


def test_a_broken_notebook_is_named(root, tmp_path):
    (root / "notebooks" / "03_help.ipynb").write_text('{"cells": [')
    with pytest.raises(NbpkgError, match=r"03_help.ipynb is not a notebook"):
        site.stage(root, tmp_path / "stage")


def test_an_unknown_source_is_refused(root):
    with pytest.raises(NbpkgError, match="published, run"):
        site.build("latest")


def test_a_folder_that_is_no_site_is_never_replaced(tmp_path):
    html, target = tmp_path / "html", tmp_path / "target"
    for folder in (html, target):
        folder.mkdir()
    (html / "index.html").write_text("new")
    (target / "thesis.txt").write_text("precious")
    with pytest.raises(NbpkgError, match="something else than a site"):
        site._replace(html, target)
    assert (target / "thesis.txt").read_text() == "precious"
    (target / "thesis.txt").unlink()
    site._replace(html, target)
    assert (target / "index.html").read_text() == "new"
    (html / "index.html").write_text("newer")
    site._replace(html, target)
    assert (target / "index.html").read_text() == "newer" and not (tmp_path / "target.new").exists()


def test_every_page_is_built_anew_whatever_the_clock_says(root, monkeypatch):
    commands = []

    def run(command, **_):
        html = Path(command[command.index("--path-output") + 1]) / "_build" / "html"
        html.mkdir(parents=True, exist_ok=True)
        (html / "index.html").write_text((root / "book" / "start.md").read_text())
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(site.subprocess, "run", run)
    for title in ("# Start\n", "# Begin\n", "# Start\n"):
        (root / "book" / "start.md").write_text(title)
        os.utime(root / "book" / "start.md", (1, 1))
        assert (site.build() / "index.html").read_text() == title
    assert len(commands) == 3 and all("--all" in command for command in commands)


def test_jupyter_book_ends_with_the_command_that_started_it(tmp_path):
    started = "from nbpkg.parallel import leave_with_parent as leave; leave(PID); import time; time.sleep(60)"
    code = f"import os, subprocess, sys, time; started = {started!r}.replace('PID', str(os.getpid()))\n"
    code += "made = subprocess.Popen([sys.executable, '-c', started])\n"
    code += "print(made.pid, flush=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    assert psutil.wait_procs([child], timeout=30)[1] == []


def test_the_command_says_what_is_wrong(root, monkeypatch, capsys):
    monkeypatch.setenv("NBPKG_REPOSITORY", "nowhere")
    assert main(["stamp", str(root / "copies")]) == 2
    assert capsys.readouterr().err.startswith("error: NBPKG_REPOSITORY='nowhere'")


WORKFLOW = Path(__file__).resolve().parents[3] / ".github" / "workflows" / "publish.yml"


def test_the_workflow_tests_before_it_publishes_and_knows_no_address():
    yaml = site._yaml()
    text = WORKFLOW.read_text("utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    steps = {name: "\n".join(step.get("run", "") for step in job["steps"]) for name, job in jobs.items()}
    assert "make test" in steps["test"]
    assert "STRICT=1" in steps["site"] and "nbpkg.cli stamp" in steps["site"]
    assert jobs["site"]["needs"] == "test" and "site" in jobs["pages"]["needs"]
    for name in ("colab", "pages"):
        assert "pull_request" in jobs[name]["if"] and "refs/heads/main" in jobs[name]["if"]
    writers = {name for name, job in jobs.items() if "write" in str(job.get("permissions"))}
    assert writers == {"colab", "pages"}
    assert re.findall(r"https?://\S+|github\.com/\S+", text) == []
    assert f"push --force origin {site.COLAB_BRANCH}" in steps["colab"]
