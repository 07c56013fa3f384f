"""Every chapter, executed at smoke: record, outputs, and the same again through nbval and as a script."""

import json
import shutil
import subprocess
import sys

import pytest
import references
from hypothesis import given
from hypothesis import strategies as st

from nbpkg import chapters, hygiene, notebook, runner, runner_jobs
from nbpkg.paths import root
from nbpkg.record import Record

CHAPTERS = [chapter.name for chapter in chapters.existing()]
MARK = "nbval-check-output"


def executed(name):
    return runner_jobs.runs_dir("smoke") / f"{name}.ipynb"


def nbval(path, tmp_path):
    """Executes a notebook again and compares the cells marked for it; the finished process."""
    scratch = tmp_path / "again"
    options = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=600", "-p", "no:cacheprovider"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(path)],
        cwd=root(),
        env={**runner_jobs.environment(scratch), "NBPKG_RECORD": str(tmp_path / "again.json")},
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
    path = references.path(name)
    assert path.is_file(), (
        f"no reference: `python tests/references.py {name}` makes it from the run under runs/smoke"
    )
    found = references.differences(smoke_runs[name].record, json.loads(path.read_text(encoding="utf-8")))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", CHAPTERS)
def test_its_outputs_could_be_published(smoke_runs, name):
    merged = notebook.with_outputs(notebook.from_twin(chapters.get(name)), notebook.read(executed(name)))
    assert hygiene.output_faults(merged) + hygiene.figure_faults(merged) == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_nbval_finds_the_same_outputs(smoke_runs, name, tmp_path):
    marked = [cell for cell in notebook.read(executed(name)).cells if MARK in cell.metadata.get("tags", [])]
    assert any(cell.outputs for cell in marked), "no cell with an output is tagged nbval-check-output"
    done = nbval(executed(name), tmp_path)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.parametrize("name", CHAPTERS)
def test_as_a_plain_script_it_measures_the_same(smoke_runs, name, tmp_path):
    job = runner_jobs.Job(chapters.get(name), "smoke", [0], "auto", True, tmp_path / "script")
    job.start()
    job.process.wait(timeout=600)
    result = job.result()
    assert result["status"] == "done", result["error"] + job.log()[-2000:]
    # What no reference can know, times and their ratios, differs between two runs as well.
    known = json.loads(references.path(name).read_text(encoding="utf-8"))["tolerances"]
    ignored = [rule for rule in known if rule.get("ignore")]
    reference = references.make(smoke_runs[name].record, [*ignored, {"pattern": "*", "rel": 1e-9}])
    assert references.differences(json.loads(job.record.read_text(encoding="utf-8")), reference) == []


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


VALUES = st.dictionaries(st.sampled_from("abcd"), st.floats(-100, 100), min_size=1)


def record_of(values):
    metrics = {name: {"value": value, "n": 1} for name, value in values.items()}
    return {"chapter": "03_help", "profile": "smoke", "seeds": [0], "claims": [], "metrics": metrics}


@given(VALUES, st.sampled_from("abcd"), st.floats(0.01, 10))
def test_a_reference_finds_what_leaves_its_tolerance_and_nothing_else(values, name, by):
    reference = references.make(record_of(values), [{"pattern": "*", "abs": by, "rel": 0.01}])
    assert references.differences(record_of(values), reference) == []
    if name in values:
        allowed = max(by, 0.01 * abs(values[name]))
        near, far = (
            {**values, name: values[name] + 0.9 * allowed},
            {**values, name: values[name] - 1.1 * allowed},
        )
        assert references.differences(record_of(near), reference) == []
        (line,) = references.differences(record_of(far), reference)
        missing = {key: value for key, value in values.items() if key != name}
        (absent,) = references.differences(record_of(missing), reference)
        assert line.startswith(f"{name}:") and absent == f"{name}: not in the record"
    else:
        (line,) = references.differences(record_of({**values, name: 0.0}), reference)
        assert line == f"{name}: not in the reference"


def test_the_first_matching_tolerance_counts_and_nan_never_passes():
    rules = [{"pattern": "a*", "ignore": True, "why": "a test"}, {"pattern": "*", "abs": 0.1}]
    reference = references.make(record_of({"ab": 1.0, "b": 1.0}), rules)
    assert references.differences(record_of({"ab": 9.0, "b": 1.05}), reference) == []
    assert references.differences(record_of({"ab": 1.0, "b": float("nan")}), reference)


def test_other_claims_or_seeds_are_differences():
    reference = references.make({**record_of({"a": 1.0}), "claims": [{"id": "one"}]}, references.DEFAULT)
    assert references.differences(record_of({"a": 1.0}), reference) == [
        "claims: [], in the reference ['one']"
    ]
    reference = references.make({**record_of({"a": 1.0}), "seeds": [1]}, references.DEFAULT)
    assert references.differences(record_of({"a": 1.0}), reference) == ["seeds: [0], in the reference [1]"]
