"""Every chapter, executed at smoke: record, outputs, and the same again through nbval and as a script."""

import json
import math
import os
import shutil
import subprocess
import sys

import pytest
import references
from hypothesis import given
from hypothesis import strategies as st

from nbpkg import chapters, runner
from nbpkg.book import notebook, notebook_lint
from nbpkg.paths import root
from nbpkg.report.record import Record
from nbpkg.runner import execution

CHAPTERS = [chapter.name for chapter in chapters.existing()]
MARK = "nbval-check-output"


def executed(name):
    return chapters.runs_dir("smoke") / f"{name}.ipynb"


def nbval(path, tmp_path):
    """Executes a notebook again and compares the cells marked for it; the finished process."""
    scratch = tmp_path / "again"
    options = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=600", "-p", "no:cacheprovider"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(path)],
        cwd=root(),
        env={**execution.environment(scratch), "NBPKG_RECORD": str(tmp_path / "again.json")},
        capture_output=True,
        text=True,
    )


def test_there_are_chapters():
    assert CHAPTERS


@pytest.mark.parametrize("name", CHAPTERS)
def test_it_runs_and_leaves_a_valid_record(smoke_runs, name):
    outcome = smoke_runs[name]
    assert outcome.status in ("done", "up to date"), outcome.error
    record = Record.from_json(outcome.record)
    assert record.claims and record.metrics and record.source_sha256 == chapters.code_sha256(name)


@pytest.mark.parametrize("name", CHAPTERS)
def test_its_numbers_are_the_references(smoke_runs, name):
    found = references.differences(smoke_runs[name].record, references.load(name))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", CHAPTERS)
def test_its_outputs_could_be_published(smoke_runs, name):
    merged = notebook.with_outputs(notebook.from_twin(chapters.get(name)), notebook.read(executed(name)))
    assert list(notebook_lint.faults(merged, len(notebook.text_of(merged).encode()))) == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_nbval_finds_the_same_outputs(smoke_runs, name, tmp_path):
    marked = [cell for cell in notebook.read(executed(name)).cells if MARK in cell.metadata.get("tags", [])]
    assert any(cell.outputs for cell in marked), "no cell with an output is tagged nbval-check-output"
    done = nbval(executed(name), tmp_path)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.parametrize("name", CHAPTERS)
def test_as_a_plain_script_it_measures_the_same(smoke_runs, name, tmp_path):
    job = execution.Execution(chapters.get(name), "smoke", [0], "auto", True, tmp_path / "script")
    job.start()
    job.process.wait(timeout=600)
    result = job.result()
    assert result["status"] == "done", result["error"] + job.log()[-2000:]
    again = json.loads(job.record.read_text(encoding="utf-8"))
    ignored = references.load(name)["ignored"]
    assert references.unequal(smoke_runs[name].record, again, ignored) == []


def test_nbval_notices_a_changed_output(book, tmp_path):
    assert runner.run(["help"], echo=lambda line: None)[0].status == "done"
    assert nbval(executed("03_help"), tmp_path).returncode == 0
    shutil.rmtree(tmp_path / "again")
    text = executed("03_help").read_text()
    made = notebook.read(executed("03_help"))
    (cell,) = [cell for cell in made.cells if MARK in cell.metadata.get("tags", [])]
    cell.outputs[0]["data"]["text/plain"] = "6"
    executed("03_help").write_text(notebook.text_of(made))
    assert executed("03_help").read_text() != text
    done = nbval(executed("03_help"), tmp_path)
    assert done.returncode == 1 and "1 failed" in done.stdout


# ------------------------------------------------------------------------------ the references themselves

VALUES = st.dictionaries(
    st.sampled_from(["a/x", "a/y", "b/x", "c", "d/1/m", "d/2/m"]),
    st.floats(-100, 100, allow_subnormal=False),
    min_size=1,
)


def record_of(values):
    metrics = {name: {"value": value, "n": 1} for name, value in values.items()}
    named = {"chapter": "03_help", "profile": "smoke", "seeds": [0], "claims": [], "device": "cpu"}
    return {**named, "metrics": metrics}


def derive(*runs, ignored=(), choices=()):
    return references.derive([record_of(run) for run in runs], list(ignored), list(choices))


@given(VALUES, st.lists(st.floats(-5, 5), min_size=12, max_size=12))
def test_a_reference_takes_every_run_that_it_was_made_of_and_compares_nothing_that_could_be_0(values, moves):
    moved = iter(moves)
    runs = [values, *({name: value + next(moved) for name, value in values.items()} for _ in range(2))]
    made = derive(*runs)
    for run in runs:
        assert references.differences(record_of(run), made) == []
    for entry in made["compared"].values():
        assert abs(entry["value"]) > entry["within"] or "why" in entry
    assert made["compared"].keys() | made["jumps"].keys() == values.keys()
    assert json.loads(references.text_of(made)) == json.loads(json.dumps(made))


@given(VALUES, st.data())
def test_a_reference_finds_what_leaves_its_tolerance_and_nothing_else(values, data):
    made = derive(values, {name: 1.01 * value for name, value in values.items()})
    name = data.draw(st.sampled_from(sorted(values)))
    missing = {key: value for key, value in values.items() if key != name}
    assert references.differences(record_of(missing), made)[0] == f"{name}: not in the record"
    assert "more: not in the reference" in references.differences(record_of({**values, "more": 0.0}), made)
    if name in made["compared"]:
        allowed = made["compared"][name]["within"]
        near, far = ({**values, name: values[name] + share * allowed} for share in (0.9, 1.1))
        assert references.differences(record_of(near), made) == []
        (line,) = references.differences(record_of(far), made)
        assert line.startswith(f"{name}:")
        assert references.differences(record_of({**values, name: math.nan}), made)


def test_a_kind_moves_as_far_as_its_most_movable_member():
    made = derive({"rho/a": 0.5, "rho/b": 0.5, "mse/a": 0.5}, {"rho/a": 0.5, "rho/b": 0.4, "mse/a": 0.5})
    assert made["compared"]["rho/a"]["within"] == made["compared"]["rho/b"]["within"] == 0.3
    assert made["compared"]["mse/a"]["within"] == references.LEAST * 0.5


def test_what_jumps_is_compared_by_its_mean():
    signs = {f"rho/{i}": (-1) ** i * 0.3 + 0.2 for i in range(6)}
    moved = {**signs, "rho/0": -0.1, "rho/1": 0.5}  # changes places: the mean stays
    made = derive(signs, moved)
    assert made["compared"] == {} and made["means"].keys() == {"rho/*"}
    assert references.differences(record_of({name: 0.2 for name in signs}), made) == []
    (line,) = references.differences(record_of({name: 0.0 for name in signs}), made)
    assert line.startswith("rho/*: 0,")


def test_ignored_metrics_may_be_anything_and_choices_must_only_be_there():
    made = derive(
        {"seconds": 1.0, "k": 2.0}, {"seconds": 9.0, "k": 2.0},
        ignored=[{"pattern": "sec*", "why": "a test"}], choices=[{"pattern": "k", "why": "a test"}],
    )  # fmt: skip
    assert made["compared"] == {} and made["jumps"] == {"k": {"value": 2.0, "moves": 0.0}}
    assert references.differences(record_of({"k": 3.0}), made) == []
    assert references.differences(record_of({"seconds": 1.0}), made) == ["k: not in the record"]


def test_other_claims_or_seeds_are_differences():
    made = {**derive({"a": 1.0}), "claims": ["one"], "seeds": [1]}
    assert references.differences(record_of({"a": 1.0}), made) == [
        "seeds: [0], in the reference [1]",
        "claims: [], in the reference ['one']",
    ]


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_references_tolerances_would_not_accept_0(name):
    made = references.load(name)
    assert made["settings"] == list(references.SETTINGS)
    compared = made["compared"]
    zero = [metric for metric, entry in compared.items() if abs(entry["value"]) <= entry["within"]]
    assert all(compared[metric]["why"] for metric in zero)
    for rule in (*made["ignored"], *made["choices"]):
        assert rule["why"]


def test_most_of_what_is_measured_is_compared_and_few_tolerances_accept_0():
    made = [references.load(name) for name in CHAPTERS]
    compared = [entry for reference in made for entry in reference["compared"].values()]
    jumps = sum(len(reference["jumps"]) for reference in made)
    zero = sum(abs(entry["value"]) <= entry["within"] for entry in compared)
    assert zero <= 0.1 * len(compared) and jumps <= len(compared) / 3


def test_rounding_flips_bits_and_moves_no_random_stream():
    code = (
        "import torch; torch.manual_seed(0); layer = torch.nn.Linear(50, 50)\n"
        "print(torch.randn(100).double().tolist(), layer.weight.double().flatten().tolist(), end=' ')\n"
        "print(torch.rand(9).tolist())"
    )
    drawn = []
    for salt in ("0", "1", "1", "2"):
        env = {**os.environ, "PYTHONPATH": references.PERTURBED, "NBPKG_PERTURB": salt}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        drawn.append(json.loads(f"[{done.stdout.replace('] [', '], [')}]"))
    plain, one, again, two = drawn
    assert one == again != two and plain[2] == one[2] == two[2]
    for before, after in zip(plain[:2], one[:2], strict=True):
        moved = [abs(a - b) / abs(b) for a, b in zip(after, before, strict=True)]
        assert max(moved) <= 2**-22 and 0.2 < sum(x > 0 for x in moved) / len(moved) < 0.8
