"""Runs of tiny chapters: what they leave behind when they succeed, fail, are stopped or killed."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbpkg import chapters, machine, runner
from nbpkg.book import notebook
from nbpkg.chapters import get
from nbpkg.errors import NbpkgError
from nbpkg.paths import write_text
from nbpkg.progress import duration
from nbpkg.runner import execution, queue, status

DONE = {"03_help.ipynb", "03_help.json", "03_help.state.json"}
COUNT = '\n# %%\nwith open("{path}", "a") as log:\n    log.write(f"{{SEEDS}}\\n")\n'


@pytest.fixture
def counted(book, tmp_path):
    """The book, with a cell that notes every execution and its seeds in a file."""
    log = tmp_path / "executions"
    book.write(middle=COUNT.format(path=log))
    book.executions = lambda: log.read_text().split("\n")[:-1] if log.exists() else []
    return book


def run(*names, **options):
    lines = []
    outcomes = runner.run(names, echo=lines.append, **options)
    return outcomes, lines


def test_seeds_are_warmed_in_parallel_and_then_run_together(counted):
    (outcome,), lines = run("help", seeds=[0, 1], jobs=2)
    assert [claim["verdict"] for claim in outcome.record["claims"]] == ["reproduced"]
    assert counted.executions()[-1] == "[0, 1]" and sorted(counted.executions()[:-1]) == ["[0]", "[1]"]
    assert counted.runs() == DONE
    executed = notebook.read(counted.root / "runs" / "smoke" / "03_help.ipynb")
    assert "SEEDS = [0, 1]" in "".join(cell.source for cell in executed.cells)
    assert json.loads((counted.root / "runs/smoke/03_help.json").read_text())["seeds"] == [0, 1]
    assert counted.state()["status"] == "done" and len(counted.state()["cell_seconds"]) == len(executed.cells)
    assert sum("pieces ready" in line for line in lines) == 2


def test_what_finished_is_not_run_again_until_it_must(counted):
    run("help", script=True)
    (again,), lines = run("help", script=True)
    assert again.status == "up to date" and again.record["seeds"] == [0] and "--force" in lines[0]
    counted.edit("It adds numbers.", "It adds whole numbers.")
    assert run("help", script=True)[0][0].status == "up to date"
    assert len(counted.executions()) == 1
    changes = [
        lambda: run("help", script=True, force=True),
        lambda: run("help", script=True, seeds=[1]),
        lambda: run("help", script=True, device="cpu"),
        lambda: (counted.edit("add(3)", "add(4)"), run("help", script=True)),
        lambda: (counted.root / "runs/smoke/03_help.json").write_text("{}") and run("help", script=True),
        lambda: (counted.root / "runs/smoke/03_help.json").unlink() or run("help", script=True),
    ]
    for number, change in enumerate(changes, start=2):
        change()
        assert len(counted.executions()) == number


def test_a_script_run_leaves_a_record_only_and_does_not_count_as_a_notebook_run(counted):
    (outcome,), _ = run("help", script=True, seeds=[3])
    assert outcome.status == "done" and outcome.record["seeds"] == [3]
    assert counted.runs() == DONE - {"03_help.ipynb"} and counted.state()["mode"] == "script"
    assert run("help", seeds=[3])[0][0].status == "done"
    assert counted.runs() == DONE and counted.state()["mode"] == "notebook"
    assert run("help", seeds=[3], script=True)[0][0].status == "up to date"


def test_a_script_knows_its_own_source_and_main(book):
    check = "import inspect, pickle\nassert pickle.loads(pickle.dumps(add))(1) == 3\n"
    check += 'assert "x + self.step" in inspect.getsource(Adder) and __name__ == "__main__"\n'
    book.write(middle=f"\n# %%\n{check}")
    outcome = run("help", script=True)[0][0]
    assert outcome.status == "done", outcome.error


@pytest.mark.parametrize(("threads", "at_once"), [(None, 4), ("1", 4), ("2", 2), ("3", 1), ("9", 1)])
def test_executions_and_their_threads_share_the_cores(book, monkeypatch, threads, at_once):
    monkeypatch.setattr(machine, "usable_cpus", lambda: list(range(4)))
    monkeypatch.delenv("NBPKG_THREADS", raising=False)
    if threads:
        monkeypatch.setenv("NBPKG_THREADS", threads)
    given = []

    def loop(work, jobs, outcomes, *_):
        given.append(jobs)
        outcomes["03_help"] = None

    monkeypatch.setattr(queue, "_loop", loop)
    run("help")
    assert given == [at_once]


def test_each_gpu_has_one_execution(book, monkeypatch):
    monkeypatch.setattr(machine, "device", lambda name: SimpleNamespace(type="cuda"))
    monkeypatch.setattr(machine, "gpus", lambda: ["2", "5"])
    monkeypatch.setattr(chapters, "keys", lambda *_: {"key": "k", "source_sha256": "", "package_sha256": ""})
    given = []
    monkeypatch.setattr(queue, "_loop", lambda work, jobs, outcomes, *rest: (
        given.append((jobs, rest[0])), outcomes.update({"03_help": None})
    ))  # fmt: skip
    run("help", device="cuda")
    assert given == [(2, ["2", "5"])]
    running = [SimpleNamespace(variables=execution.card(["2", "5"], []))]
    assert execution.card(["2", "5"], running) == {"CUDA_VISIBLE_DEVICES": "5"}
    assert execution.card([], running) == {}


KEEPING = """
# %%
from nbpkg.session import Session

def piece(seed, log):
    with open(log, "a") as file:
        file.write(str(seed))
    return seed

mine = Session("03_help", PROFILE, SEEDS, DEVICE)
for seed in range(3):
    mine.memo(f"number {{seed}}", piece, seed=seed, log={log!r})
"""


def test_minutes_end_a_run_after_a_piece_and_the_next_goes_on(book, tmp_path):
    log = tmp_path / "log"
    book.write(middle=KEEPING.format(log=str(log)))
    [late] = run("help", script=True, minutes=1e-9)[0]
    assert late.status == "failed" and "memo number 0 is kept, the minutes are over" in late.error
    assert log.read_text() == "0"
    [done] = run("help", script=True, minutes=5)[0]
    assert done.status == "done" and log.read_text() == "012"


def test_a_chapters_seconds_count_from_its_own_first_job(book):
    book.write("05_tans")
    begun = time.monotonic()
    first, second = run("help", "tans", jobs=1, script=True)[0]
    # Counted from when the run was planned, the second's would hold the first's as well.
    assert first.seconds + second.seconds <= time.monotonic() - begun
    assert book.state("05_tans")["seconds"] == second.seconds
    (again,), lines = run("tans", script=True)
    assert again.seconds == second.seconds and duration(second.seconds) in lines[0]


def test_a_failed_run_leaves_the_last_whole_one_alone(book):
    assert run("help")[0][0].status == "done"
    folder = book.root / "runs" / "smoke"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with open(get("help").twin, "a") as twin:
        twin.write("\n# %%\n1 / 0\n")
    for script, kept in ((False, "03_help.failed.ipynb"), (True, "03_help.failed.log")):
        assert run("help", script=script)[0][0].status == "failed"
        after = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert after.keys() == {*before, kept} and all(after[name] == before[name] for name in before)
    book.write()
    assert run("help")[0][0].status == "up to date"
    assert run("help", force=True)[0][0].status == "done" and book.runs() == DONE


def test_half_a_notebook_is_not_kept(book):
    cell = "import signal\nfrom pathlib import Path\n"
    cell += '(half,) = Path(os.environ["NBPKG_ROOT"], "runs/smoke/.work").glob("*/executed.ipynb")\n'
    cell += "half.write_text('{\"cells\": [')\nos.kill(os.getppid(), signal.SIGKILL)\n"
    book.write(middle=f"\n# %%\n{cell}")
    (outcome,), _ = run("help")
    assert outcome.status == "failed" and "signal 9" in outcome.error
    assert "03_help.failed.log" in book.runs() and "03_help.failed.ipynb" not in book.runs()


def test_a_run_that_is_stopped_while_it_takes_its_place_counts_as_none(book, monkeypatch):
    run("help")
    write = queue._ChapterRun._write_state
    monkeypatch.setattr(queue._ChapterRun, "_write_state", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("help", seeds=[1])
    monkeypatch.setattr(queue._ChapterRun, "_write_state", write)
    assert run("help")[0][0].status == "done"


def test_a_failed_chapter_keeps_its_traceback_and_stops_no_other(book):
    book.write("05_tans")
    assert [o.status for o in run("tans", script=True)[0]] == ["done"]
    book.write(middle="\n# %%\n# Divides.\nnumerator = 1\nnumerator / 0\n")
    outcomes, lines = run("help", "tans", force=True, jobs=1)
    assert [outcome.status for outcome in outcomes] == ["failed", "done"]
    assert book.state()["status"] == "failed" and "ZeroDivisionError" in book.state()["error"]
    assert {name for name in book.runs() if "help" in name} == {"03_help.failed.ipynb", "03_help.state.json"}
    failed = notebook.read(book.root / "runs/smoke/03_help.failed.ipynb")
    assert any(o.output_type == "error" for cell in notebook.code_cells(failed) for o in cell.outputs)
    (line,) = [line for line in lines if "failed" in line]
    assert (
        "ZeroDivisionError: division by zero" in line
        and "# Divides." in line
        and "03_help.failed.ipynb" in line
    )
    book.write()
    assert run("help", script=True)[0][0].status == "done" and "03_help.failed.ipynb" not in book.runs()


@pytest.mark.parametrize(
    ("source", "timeout", "error"),
    [
        ("import sys\nsys.exit()", None, "left the program"),
        ("os.kill(os.getpid(), 9)", None, "kernel died"),
        ("import time\ntime.sleep(60)", 5.0, "longer than 5.0 s"),
        ("%notmagic", None, "`%notmagic` not found"),
        ('many = [open("/dev/null") for _ in range(10**6)]', None, "Too many open files"),
    ],
)
def test_papermills_false_successes_are_failures(book, source, timeout, error):
    book.write(middle=f"\n# %%\n{source}\n")
    outcome = run("help", cell_timeout=timeout)[0][0]
    assert outcome.status == "failed" and error in outcome.error
    assert source.splitlines()[0] in book.state()["cell"]


@pytest.mark.parametrize("source", ["raise SystemExit(0)", "1 / 0", "os._exit(3)"])
def test_a_failing_script_is_a_failure_with_its_output_kept(book, source):
    book.write(middle=f'\n# %%\nprint("so far")\n{source}\n')
    assert run("help", script=True)[0][0].status == "failed"
    assert "so far" in (book.root / "runs/smoke/03_help.failed.log").read_text()


def test_a_record_of_something_else_or_none_is_a_failure(book):
    book.edit("seeds=SEEDS", "seeds=[7]")
    assert "seeds [7] where the run had [0]" in run("help", script=True)[0][0].error
    book.write(finish="\n# %%\n{name!r}\n")
    assert "no record" in run("help", script=True)[0][0].error
    assert "03_help.json" not in book.runs()


def test_one_failing_seed_ends_the_others_at_once(book):
    book.write(
        middle="\n# %%\nimport time\nif SEEDS == [1]:\n    1 / 0\ntime.sleep(60 if len(SEEDS) == 1 else 0)\n"
    )
    started = time.monotonic()
    assert run("help", script=True, seeds=[0, 1], jobs=2)[0][0].status == "failed"
    assert time.monotonic() - started < 30 and not any(".work" in name for name in book.runs())


def test_the_environment_is_our_own(book, tmp_path, monkeypatch):
    bogus = tmp_path / "share" / "jupyter" / "kernels" / "python3"
    bogus.mkdir(parents=True)
    (bogus / "kernel.json").write_text('{"argv": ["false"], "display_name": "no", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "share" / "jupyter"))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    check = "import sys\nfound = {name: os.environ[name] for name in "
    check += '("OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONHASHSEED")}\n'
    check += 'assert found == {**dict.fromkeys(found, "1"), "PYTHONHASHSEED": "0"}, found\n'
    check += f"assert os.path.samefile(sys.executable, {sys.executable!r})\n"
    check += f"assert os.path.samefile(os.getcwd(), {str(book.root)!r})\n"
    book.write(middle=f"\n# %%\n{check}")
    outcome = run("help")[0][0]
    assert outcome.status == "done", outcome.error


STOPPED = """
import sys
from nbpkg.cli import main
sys.exit(main(["run", "help", "--jobs", "1"]))
"""


def start(book, tmp_path):
    """`nbpkg run` in a process of its own, once its chapter sleeps in a cell; with the processes' ids."""
    note = tmp_path / "pids"
    cell = "import subprocess, time\n"
    cell += 'helper = subprocess.Popen(["sleep", "120"], start_new_session=True)\n'
    cell += 'ids = f"{os.getpid()} {os.getppid()} {helper.pid}\\n"\n'
    cell += f'open({str(note)!r}, "w").write(ids)\ntime.sleep(120)\n'
    book.write(middle=f"\n# %%\n{cell}")
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (note.exists() and note.read_text().endswith("\n")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    return process, [int(pid) for pid in note.read_text().split()]


def gone(pids, within):
    deadline = time.monotonic() + within
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_no_process_and_no_half_file(book, tmp_path, number):
    run("help", script=True)
    before = {path: path.read_bytes() for path in (book.root / "runs/smoke").iterdir()}
    process, pids = start(book, tmp_path)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130 and "Traceback" not in errors
    assert gone(pids, within=1)
    assert {path: path.read_bytes() for path in (book.root / "runs/smoke").iterdir()} == before
    book.write()
    assert run("help", script=True)[0][0].status == "up to date"


def test_a_killed_run_takes_its_processes_along_and_is_tidied_up_later(book, tmp_path):
    process, (kernel, child, helper) = start(book, tmp_path)
    process.kill()
    process.communicate(timeout=20)
    try:
        assert gone([child, kernel], within=15)
    finally:
        psutil.Process(
            helper
        ).kill()  # what a kernel starts in a session of its own is beyond reach after SIGKILL
    assert any(".work" in name for name in book.runs())
    book.write()
    run("help", script=True)
    assert not any(".work" in name for name in book.runs())


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ('PROFILE = "smoke"\nSEED = 0\nDEVICE = "auto"', "SEED"),
        ('PROFILE = "smoke"\nSEEDS = [0]', "must set"),
        ('PROFILE = "smoke"\nSEEDS = [0]\nDEVICE = "auto"\nEPOCHS = 3', "EPOCHS"),
        ('import os\nPROFILE = "smoke"\nSEEDS = [0]\nDEVICE = "auto"', "only set"),
    ],
)
def test_parameters_are_checked_before_anything_runs(book, cell, words):
    book.edit('PROFILE = "smoke"\nSEEDS = [0]\nDEVICE = "auto"', cell)
    with pytest.raises(NbpkgError, match=words):
        run("help")
    assert not (book.root / "runs" / "smoke").exists()


def test_a_chapter_needs_one_parameters_cell(book):
    book.edit('tags=["parameters"]', 'tags=["hide-input"]')
    with pytest.raises(NbpkgError, match="not 0"):
        run("help")


@pytest.mark.parametrize(
    "options",
    [
        {"profile": "quick"},
        {"device": "tpu"},
        {"seeds": []},
        {"seeds": [0, 0]},
        {"seeds": [-1]},
        {"seeds": [True]},
        {"jobs": -1},
        {"jobs": 0},
    ],
)
def test_options_out_of_range_are_one_line(book, options):
    with pytest.raises(NbpkgError) as caught:
        run("help", **options)
    assert "\n" not in str(caught.value)


def test_an_unwritten_chapter_is_refused(book):
    with pytest.raises(NbpkgError, match="not written"):
        run("tans")


def test_the_key_follows_all_that_a_result_follows_from(book, monkeypatch):
    def key(profile="smoke", seeds=(0,), device="auto"):
        return chapters.keys(get("help"), profile, list(seeds), device)["key"]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert key() == key(device="cpu")  # what "auto" stands for counts
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    keys = {key(device="cpu"), key(device="cpu", profile="standard"), key(device="cpu", seeds=[1])}
    for card in ("H200", "T4"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, card=card: card)
        keys.add(key())
    book.edit("add(3)", "add(4)")
    keys.add(key())
    assert len(keys) == 6


SECONDS = st.lists(st.floats(0.01, 100), min_size=1, max_size=12)


@given(SECONDS, st.data())
def test_time_left_is_exact_when_a_run_repeats_itself(earlier, data):
    done = data.draw(st.integers(0, len(earlier)))
    left = status.time_left(done, len(earlier), earlier[:done], sum(earlier[:done]), earlier)
    assert left == pytest.approx(sum(earlier[done:]))


@given(SECONDS, SECONDS, st.floats(0, 1000))
def test_time_left_is_never_negative(seconds, earlier, more):
    total = len(seconds) + 2
    elapsed = sum(seconds) + more
    left = status.time_left(len(seconds), total, seconds, elapsed, earlier)
    assert left is None or left >= 0


def test_time_left_scales_with_the_pace_and_says_nothing_without_a_base():
    assert status.time_left(1, 3, [20.0], 20.0, [10.0, 10.0, 10.0]) == pytest.approx(40.0)
    assert status.time_left(0, 3, [], 4.0) is None
    assert status.time_left(1, 100, [4.0], 4.0) is None


def test_progress_lines_are_ten_seconds_apart(book, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(status.time, "monotonic", lambda: clock[0])
    lines = []
    job = execution.Execution(get("help"), "smoke", [0], "auto", True, book.root / "scratch", started=100.0)
    said = {"done": 2, "total": 4, "line": "epoch 3", "cell_seconds": [20, 20]}
    write_text(job.scratch / "progress.json", json.dumps(said))
    reporter = status.Reporter(job, {}, lines.append)
    for _ in range(300):
        clock[0] += 0.1
        reporter.report()
    assert len(lines) in (3, 4) and "2/4 cells" in lines[1] and "epoch 3" in lines[1] and "left" in lines[1]


def test_a_chapters_own_output_reaches_the_progress(tmp_path):
    from nbpkg.runner.child import CellProgress

    progress = CellProgress(tmp_path / "p.json", 2)
    progress.written = 0.0
    progress.write("one\ntwo\n\n")
    assert json.loads((tmp_path / "p.json").read_text())["line"] == "two"
    assert os.listdir(tmp_path) == ["p.json"]
