"""The command line: one line for a mistake, exit statuses, nothing heavy at start."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from books import finished_run

import nbpkg
from nbpkg import paths, runner
from nbpkg.book import notebook, package_size
from nbpkg.chapters import CHAPTERS, get
from nbpkg.cli import PANELS, main, out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nope"], "no chapter is called 'nope'"),
        (["run", "--profile", "quick"], "no profile is called 'quick'"),
        (["run", "--device", "tpu"], "no device is called 'tpu'"),
        (["run", "--seeds", "a"], "seeds must be whole numbers"),
        (["run", "--seeds", "1,,2"], "seeds must be whole numbers"),
        (["run", "--jobs", "many"], "'--jobs'"),
        (["run", "--jobs", "-1"], "--jobs must be at least 1"),
        (["run", "--jobs", "0"], "--jobs must be at least 1"),
        (["run", "--seeds", "99999999999999999999999"], "whole numbers from 0 to 4294967295"),
        *((["run", "--cell-timeout", text], "--cell-timeout must be") for text in ("0", "-5", "nan", "inf")),
        (["run", "--minutes", "inf"], "--minutes must be"),
        (["run", "--cluster", "bogus"], "none of local, slurm or an address"),
        (["zoo", "build", "cells", "--cluster", "bogus"], "none of local, slurm or an address"),
        (["zoo", "build", "cells", "--out", "/proc/x/y"], "/proc/x/y cannot be written"),
        (["zoo", "build", "cells", "--workers", "0"], "'--workers'"),
        (["search", "FOLDER", "--seed", "99999999999999999999999"], "'--seed'"),
        (["data", "measure-latency", "--cells", "0"], "a measurement needs cells"),
        (["run", "--epochs", "3"], "No such option: --epochs"),
        (["run", "tans"], "not written yet"),
        (["publish"], "Missing argument"),
        (["publish", "help"], "has no run at profile standard"),
        (["nonsense"], "No such command 'nonsense'"),
        (["data", "fetch", "nothing"], "no data set is called 'nothing'"),
        (["data", "fetch"], "name the sets to fetch"),
        (["data", "fetch", "--for", "03,77"], "no chapter is called '77'"),
        (["data", "fetch", "--for", "03", "--profile", "fast"], "'fast' is none of smoke"),
        (["data", "mirror", "folder"], "nothing to pass on"),
        (["run", "help", "--profile", "standard"], "`nbpkg data fetch --for 03 --profile standard` first"),
        (["sync", "--from-notebook", "--from-twin"], "not both"),
        (["site", "--from", "elsewhere"], "no site source is called 'elsewhere'"),
        (["load", "help"], "No such command"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(book, capsys, monkeypatch, arguments, words):
    monkeypatch.delenv("NBPKG_DATA", raising=False)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and words in err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), "runs/x: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "results/x"), "results/x: Permission denied"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
    ],
)
def test_what_the_system_refuses_is_one_line_and_exit_1(book, capsys, monkeypatch, error, words):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(runner, "run", refuse)
    assert main(["run", "help"]) == 1
    assert capsys.readouterr().err == f"error: {words}\n"
    assert main(["handout", "help", "--out", "/proc/x"]) == 1
    assert capsys.readouterr().err.startswith("error: /proc/x: ")


def test_what_chapters_need_is_said_first_and_one_failure_stops_no_other(book, capsys, monkeypatch):
    monkeypatch.delenv("NBPKG_DATA", raising=False)
    monkeypatch.setenv("NBPKG_OFFLINE", "1")
    assert main(["data", "fetch", "--for", "help", "--profile", "standard"]) == 2
    out, err = capsys.readouterr()
    assert out.startswith("3 data sets, 8 MB to download\n  help-nasbench201: 5.0 MB\n  help-fbnet: 1.9 MB\n")
    assert out.count("downloads are switched off") == 3 and err.count("\n") == 1
    assert "not fetched: help-nasbench201, help-fbnet, help-ofa" in err
    assert main(["data", "fetch", "--for", "help", "--profile", "smoke"]) == 0


def test_a_run_ends_with_a_table_and_its_exit_status(book, capsys):
    assert main(["run", "help", "--script", "--jobs", "1"]) == 0
    *_, header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["chapter", "profile", "status", "seconds", "peak", "memory", "(MB)", "claims"]
    assert row.split()[:3] == ["03_help", "smoke", "done"] and row.split()[4:] == ["100", "1", "reproduced"]
    book.write(middle="\n# %%\n1 / 0\n")
    assert main(["run", "--script", "--seeds", "0,1"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].split()[:3] == ["03_help", "smoke", "failed"]


def test_list_names_every_chapter_and_its_state(published, capsys):
    published.write("05_tans")
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [chapter.name for chapter in CHAPTERS]
    ends = {line.split()[0]: line for line in lines}
    assert ends["03_help"].endswith("published (standard)")
    assert ends["05_tans"].endswith("written") and ends["10_ctcd"].endswith("to come")


def test_publish_check_and_scoreboard(book, capsys, monkeypatch):
    monkeypatch.setattr(package_size, "LIMIT", 1_000_000)
    finished_run(book)
    assert main(["check"]) == 1
    assert main(["publish", "help"]) == 0
    assert main(["check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "check: 0 problems" and any(line.startswith("package: ") for line in lines)
    readme = book.root / "README.md"
    fresh = readme.read_text()
    readme.write_text(fresh.replace("HELP", "Help"))
    assert main(["check"]) == 1 and main(["scoreboard"]) == 0 and readme.read_text() == fresh


def test_sync_says_what_it_did_and_fails_on_an_edited_notebook(book, capsys):
    assert main(["sync"]) == 0 and main(["sync", "help"]) == 0
    path = get("help").notebook
    path.write_text(path.read_text().replace("That was all.", "That was more."))
    assert main(["sync"]) == 1
    assert "--from-notebook" in capsys.readouterr().out
    assert main(["sync", "--from-notebook"]) == 0
    assert "That was more." in get("help").twin.read_text()
    assert notebook.sync(get("help")) == ("in step", True)


def test_data_commands_speak_for_the_registry(book, capsys, monkeypatch):
    monkeypatch.delenv("NBPKG_DATA", raising=False)
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("help-nasbench201") and "0/" in line for line in lines[1:])
    assert main(["data", "verify"]) == 0
    assert main(["data", "verify", "help-nasbench201"]) == 1
    assert " absent" in capsys.readouterr().out


def test_help_names_every_command_in_whole_lines_and_for_whom_it_is(book, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(panel in shown for panel in PANELS) and "…" not in shown
    assert shown.count("...") == 1  # of the line on usage
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"nbpkg {nbpkg.__version__}\n"


@pytest.mark.parametrize("name", ["3", "03", "HELP", "help", "03_HELP.ipynb", "notebooks/src/03_help.py"])
def test_a_chapter_has_several_names(book, name):
    assert get(name).name == "03_help"


def test_a_slip_is_answered_with_what_was_meant(book, capsys):
    assert main(["run", "hlep"]) == 2 and "did you mean help?" in capsys.readouterr().err
    assert main(["rnu"]) == 2 and "No such command 'rnu'" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "offered"), [("nbpkg ru", "run"), ("nbpkg run 03", "03_help")])
def test_the_tab_key_completes_commands_and_chapters(words, offered):
    code = "from nbpkg.cli import main; main()"
    env = {"_NBPKG_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | env)
    assert done.stdout.split() == [offered]


def test_paths_in_messages_can_be_pasted(book, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["handout", "help", "--out", "for class"]) == 0
    assert Path(capsys.readouterr().out.removeprefix("wrote ").strip()).is_file()
    assert paths.shown(tmp_path / "a" / "b") == "a/b" and paths.shown("/elsewhere") == "/elsewhere"


def test_no_arguments_show_the_help(book, capsys):
    assert main([]) == 2 and "measure-latency" not in capsys.readouterr().out
    assert main(["data", "--help"]) == 0 and "measure-latency" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["run", "nope"], ["data", "list"]])
def test_nothing_heavy_is_imported_at_start(book, arguments):
    heavy = ["torch", "papermill", "jupytext", "matplotlib", "pandas", "scipy", "sphinx"]
    code = f"import sys\nfrom nbpkg.cli import main\nmain({arguments!r})\n"
    code += f"print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_table_is_drawn_in_a_terminal_and_plain_elsewhere(capsys, monkeypatch):
    out.table(["a", "b"], [["1", "two"], ["long", ""]])
    assert capsys.readouterr().out == "a     b\n1     two\nlong\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    out.table(["a", "b"], [["1", "two"]])
    assert "─" in capsys.readouterr().out
