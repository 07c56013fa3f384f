"""The list of single changes that `make mutation` tries: every line is where the list says."""

import tomllib

import mutation


def test_every_line_that_is_changed_stands_once_in_its_file():
    mutants = tomllib.loads(mutation.LIST.read_text("utf-8"))
    assert mutation.found(mutants) == [] and len(mutants) >= 47
    wrong = {"gone": {"file": "Makefile", "old": "no such line", "new": "", "tests": "unit/absent.py"}}
    first, second = mutation.found(wrong)
    assert "stands 0 times" in first and "no tests/unit/absent.py" in second
