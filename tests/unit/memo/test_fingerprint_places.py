"""Fingerprints agree wherever the code lives, and code without its source gets none."""

import subprocess
import sys
import textwrap

import pytest
from livecode import BASE, build, print_of

from nbpkg.errors import NbpkgError
from nbpkg.memo.fingerprint import fingerprint

CELL = BASE.split("\n\n\n")  # cells as a notebook has them, one for each definition


def test_the_same_in_a_notebook_cell_by_cell():
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    for cell in CELL:
        shell.run_cell(cell).raise_error()
    shell.run_cell("from nbpkg.memo.fingerprint import fingerprint").raise_error()
    shell.run_cell("found = fingerprint(train)").raise_error()
    assert shell.user_ns["found"] == print_of(BASE)
    # and a cell that is run again, changed, is what counts
    changed = next(cell for cell in CELL if "def deep_helper" in cell).replace("x * 2", "x * 3")
    shell.run_cell(changed).raise_error()
    assert fingerprint(shell.user_ns["train"]) == print_of(BASE.replace("x * 2", "x * 3"))


@pytest.mark.parametrize("how", ["script", "import"])
def test_the_same_in_a_script(how, tmp_path):
    tail = "\nfrom nbpkg.memo.fingerprint import fingerprint\nprint(fingerprint(train))\n"
    (tmp_path / "script_of_a_test.py").write_text(BASE + tail)
    arguments = {
        "script": ["script_of_a_test.py"],
        "runpy": ["-m", "script_of_a_test"],
        "import": ["-c", "import script_of_a_test"],
    }
    done = subprocess.run(
        [sys.executable, *arguments[how]], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == print_of(BASE)


def test_the_same_through_chapters_load(book):
    from nbpkg import chapters

    cells = "".join(f'\n# %% tags=["method"]\n{cell}\n' for cell in CELL)
    book.write(method=cells + '\n# %% tags=["method"]\ndef add(x):\n    return x\n')
    assert fingerprint(chapters.load("03_help").train) == print_of(BASE)


# ------------------------------------------------------------------ what has no source


def test_code_without_source_is_one_clear_line_and_never_a_hash():
    for source, name in (("def train():\n    return 1\n", "train"), ("train = lambda: 1\n", "lambda")):
        with pytest.raises(NbpkgError, match=name) as error:
            fingerprint(build(source, registered=False)["train"])
        assert "\n" not in str(error.value)
    hidden = build("def helper():\n    return 1\n", registered=False)["helper"]
    scope = build("def train():\n    return helper()\n")
    scope["helper"] = hidden
    with pytest.raises(NbpkgError, match="helper"):
        fingerprint(scope["train"])


EDITED = """
    import sys, importlib
    import edited_module
    from pathlib import Path
    from nbpkg.memo import source_text
    from nbpkg.errors import NbpkgError
    from nbpkg.memo.fingerprint import fingerprint

    if sys.argv[1] == "remembered":
        fingerprint(edited_module.train)
    text = Path("edited_module.py").read_text().replace("x + 1", "x - 1")
    Path("edited_module.py").write_text(text.replace("def other", "\\n\\ndef other"))
    for name in ("train", "other"):
        try:
            print(fingerprint(getattr(edited_module, name)))
        except NbpkgError as error:
            print("refused:", error)
    if sys.argv[1] == "reloaded":
        import os
        os.utime("edited_module.py", (1, 1))
        importlib.reload(edited_module)
        print(fingerprint(edited_module.train))
"""


@pytest.mark.parametrize("how", ["remembered", "unseen", "reloaded"])
def test_a_file_edited_under_a_run_never_lends_its_new_text_to_the_old_code(how, tmp_path):
    old = "def train(x):\n    return x + 1\n\ndef other(x):\n    return x\n"
    (tmp_path / "edited_module.py").write_text(old)
    (tmp_path / "script.py").write_text(textwrap.dedent(EDITED))
    command = [sys.executable, "-B", "script.py", how]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    right = [fingerprint(build(old)[name]) for name in ("train", "other")]
    if how == "remembered":
        assert lines == right
    else:
        assert all("edited" in line and line.startswith("refused") for line in lines[:2])
    if how == "reloaded":
        assert lines[2] == print_of(old.replace("x + 1", "x - 1"))
