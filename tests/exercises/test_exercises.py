"""Exercises: the check accepts the solution and refuses constants, frozen arguments and mutants, in words.

An exercise cell defines a stub `f` and a `check_...`; the solution cell defines `f_solution`. Chapters of the
first edition stand as expected failures.
"""

import ast
import contextlib
import copy
import functools
import inspect
import io
import itertools

import pytest
from mutants import mutants

from nbpkg import chapters

LEAST = 0.95  # of the mutants that are not listed, the share that a check must refuse
#: Mutants that answer as the solution does, by chapter and number of the exercise, with the reason.
EQUIVALENT: dict[tuple[str, int], dict[str, str]] = {}


def exercises(chapter):
    """(the exercise's cell, its solution's cell) of a chapter, in order."""
    code = [cell for cell in chapters.cells(chapter.name) if cell.kind == "code"]
    pairs = itertools.pairwise(code)
    return [(a, b) for a, b in pairs if "exercise" in a.tags and "solution" in b.tags]


def executed(source, names):
    """`names` after the definitions of a source; its calls, which wait for the reader, are left out."""
    tree = ast.parse(source)
    kinds = (ast.FunctionDef, ast.ClassDef, ast.Assign, ast.Import, ast.ImportFrom)
    tree.body = [node for node in tree.body if isinstance(node, kinds)]
    exec(compile(tree, "<exercise>", "exec"), names)
    return names


def refusal(check, function):
    """Why a check refuses a function: the error, or None where it does not."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            check(function)
    except Exception as error:
        return error
    return None


class Recorder:
    """Calls a function, and keeps the arguments and the answer of its first call."""

    def __init__(self, function):
        self.function, self.first, self.answer = function, None, None
        functools.update_wrapper(self, function)

    def __call__(self, *given, **named):
        bound = inspect.signature(self.function).bind(*given, **named)
        bound.apply_defaults()
        if self.first is None:
            self.first = copy.deepcopy(bound.arguments)
        answer = self.function(**bound.arguments)
        self.answer = copy.deepcopy(answer) if self.answer is None else self.answer
        return answer


def judge(exercise: str, solution: str, names: dict, equivalent: dict[str, str]) -> list[str]:
    """What is wrong with the check of one exercise."""
    scope = executed(exercise, dict(names))
    check = next(scope[name] for name in scope if name.startswith("check_") and name not in names)
    scope = executed(solution, scope)
    answer = next(scope[name] for name in scope if name.endswith("_solution") and name not in names)
    recorder, faults = Recorder(answer), []
    if error := refusal(check, recorder):
        return [f"refuses its own solution: {error!r}"]
    wrong = {"a constant": lambda *given, **named: recorder.answer, "None": lambda *given, **named: None}
    signature = inspect.signature(answer)
    for name in signature.parameters:
        wrong[f"{name} frozen"] = functools.partial(_frozen, answer, signature, name, recorder.first[name])
    for name, function in wrong.items():
        error = refusal(check, function)
        if error is None:
            faults.append(f"accepts {name}")
        elif not (isinstance(error, AssertionError) and len(str(error).split()) > 2):
            faults.append(f"refuses {name} without words: {error!r}")
    survivors, count = [], 0
    for change, text in mutants(solution):
        if change not in equivalent:
            count += 1
            mutant = executed(text, dict(scope))[answer.__name__]
            survivors += [change] if refusal(check, mutant) is None else []
    if count and 1 - len(survivors) / count < LEAST:
        faults.append(f"accepts {len(survivors)} of {count} mutants: {'; '.join(survivors)}")
    return faults


def _frozen(function, signature, name, value, *given, **named):
    bound = signature.bind(*given, **named)
    bound.arguments[name] = value
    return function(*bound.args, **bound.kwargs)


WRITTEN = [chapter for chapter in chapters.existing() if not chapter.evidence]


@pytest.mark.parametrize("chapter", WRITTEN, ids=lambda chapter: chapter.name)
def test_checks_accept_the_solution_and_nothing_else(chapter, request):
    if chapter.edition < 2:
        request.applymarker(pytest.mark.xfail(strict=True, reason="first edition"))
    names, faults, asked = vars(chapters.load(chapter.name)), [], exercises(chapter)
    assert asked
    for number, (exercise, solution) in enumerate(asked, start=1):
        equivalent = EQUIVALENT.get((chapter.name, number), {})
        found = judge(exercise.source, solution.source, names, equivalent)
        faults += [f"exercise {number} {one}" for one in found]
        if chapter.edition < 2 and faults:
            break
    assert not faults, "\n".join(faults)


# ---------------------------------------------------------------- the judge itself

STRICT = """
def scaled(x, factor):
    return None

def check_scaled(function):
    for x, factor in ((2.0, 3.0), (5.0, 7.0)):
        said = function(x, factor)
        assert said == factor * x + 1, f"scaled({x}, {factor}) is {said}, not {factor * x + 1}"
    return "correct"

if scaled(1.0, 2.0) is not None:
    print(check_scaled(scaled))
"""
SOLUTION = "def scaled_solution(x, factor):\n    return factor * x + 1\n"


def test_a_strict_check_is_accepted():
    assert judge(STRICT, SOLUTION, {}, {}) == []
    assert len(list(mutants(SOLUTION))) == 3


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("(2.0, 3.0), (5.0, 7.0)", "(2.0, 3.0),", "accepts a constant"),
        ("(5.0, 7.0)", "(2.0, 7.0)", "accepts x frozen"),
        (', f"scaled({x}, {factor}) is {said}, not {factor * x + 1}"', "", "without words"),
        ("said == factor * x + 1", "said is not None", "accepts 3 of 3 mutants"),
        ("factor * x + 1,", "factor * x + 2,", "refuses its own solution"),
    ],
)
def test_a_lax_check_is_named(old, new, said):
    assert old in STRICT
    assert any(said in fault for fault in judge(STRICT.replace(old, new), SOLUTION, {}, {}))


def test_a_mutant_that_is_equivalent_is_left_out_by_name():
    lax = STRICT.replace("said == factor * x + 1", "said is not None")
    names = dict.fromkeys((change for change, _ in mutants(SOLUTION)), "a reason")
    assert not any("mutants" in fault for fault in judge(lax, SOLUTION, {}, names))
