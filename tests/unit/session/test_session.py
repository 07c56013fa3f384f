"""The session: what it refuses, what it measures, what it writes."""

import os
import subprocess
import sys
import time

import pytest
import torch

from nbpkg import data, machine
from nbpkg.data import needs
from nbpkg.errors import NbpkgError
from nbpkg.progress import progress
from nbpkg.report.record import Record
from nbpkg.session import Session

LACKING = needs.lacking


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An own cache and record, one thread again afterwards."""
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NBPKG_RECORD", str(tmp_path / "record.json"))
    monkeypatch.setattr(needs, "lacking", lambda *_: "")
    monkeypatch.delenv("NBPKG_THREADS", raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def opened(**changes) -> Session:
    due = {"chapter": "03_help", "profile": "smoke", "seeds": [0, 1, 2], "device": "cpu"}
    return Session(**due | changes)


# ------------------------------------------------------------------ opening


def test_lacking_data_end_it_before_any_work_with_the_one_command(monkeypatch):
    monkeypatch.delenv("NBPKG_DATA", raising=False)
    monkeypatch.setattr(needs, "lacking", LACKING)
    with pytest.raises(NbpkgError, match="run `nbpkg data fetch --for 03 --profile standard` first"):
        opened(profile="standard")
    assert opened().smoke and opened(profile="standard", within=opened()).profile == "standard"


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"chapter": "help"}, "help"),
        ({"chapter": None}, "None"),
        ({"chapter": "../etc"}, "chapter"),
        ({"profile": "fast"}, "PROFILE 'fast'"),
        ({"profile": None}, "PROFILE"),
        ({"seeds": 3}, "SEEDS 3"),
        ({"seeds": []}, "SEEDS"),
        ({"seeds": "012"}, "SEEDS"),
        ({"seeds": [0, 0]}, "SEEDS"),
        ({"seeds": [0, -1]}, "SEEDS"),
        ({"seeds": [0, 1.5]}, "SEEDS"),
        ({"seeds": [True]}, "SEEDS"),
        ({"seeds": ["0"]}, "SEEDS"),
        ({"seeds": {0: 1}}, "SEEDS"),
        ({"device": "tpu"}, "DEVICE 'tpu'"),
        ({"device": None}, "DEVICE"),
    ],
)
def test_bad_parameters_are_one_clear_line(wrong, named):
    with pytest.raises(NbpkgError, match=named) as error:
        opened(**wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seeds", [[0], (3, 1), range(2)])
def test_seeds_may_be_any_sequence_and_keep_their_order(seeds):
    assert opened(seeds=seeds).seeds == list(seeds)


def test_device_auto_is_cuda_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert opened(device="auto").device == torch.device("cpu")
    with pytest.raises(NbpkgError, match="CUDA"):
        opened(device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(machine, "start", lambda device: None)
    assert opened(device="auto").device == opened(device="cuda").device == torch.device("cuda", 0)
    assert opened(device="cpu").device == torch.device("cpu")


def test_threads_follow_the_environment(monkeypatch):
    assert opened().threads == torch.get_num_threads() == 1
    monkeypatch.setenv("NBPKG_THREADS", "2")
    assert opened().threads == torch.get_num_threads() == 2
    for wrong in ("0", "two", "-1", "1.5", "²"):
        monkeypatch.setenv("NBPKG_THREADS", wrong)
        with pytest.raises(NbpkgError, match="NBPKG_THREADS"):
            opened()


def test_choose_takes_the_profiles_value():
    chosen = [opened(profile=p).choose(smoke=1, standard=2, paper=3) for p in ("smoke", "standard", "paper")]
    assert chosen == [1, 2, 3]
    assert opened(profile="paper").choose(smoke=1, standard=None) is None
    assert [opened(profile=p).smoke for p in ("smoke", "standard")] == [True, False]


def test_opening_is_quick_and_drags_nothing_large_in():
    large = ["matplotlib", "torch", "scipy", "seaborn", "IPython"]
    code = f"import sys, nbpkg.session; print([name for name in {large} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


# ------------------------------------------------------------------ time and memory


def test_sections_sum_by_name_and_count_themselves_once():
    s, started = opened(), time.perf_counter()
    for _ in range(2):
        with s.section("a"):
            time.sleep(0.05)
            with s.section("b"), s.section("a"):
                time.sleep(0.05)
    elapsed = time.perf_counter() - started
    with pytest.raises(KeyError), s.section("failing"):
        time.sleep(0.02)
        raise KeyError
    seconds = s.record().seconds
    assert 0.2 <= seconds["a"] <= elapsed + 0.001 and 0.1 <= seconds["b"] <= elapsed - 0.099
    assert seconds["failing"] >= 0.02
    assert seconds["total"] >= seconds["a"] + seconds["failing"]
    with pytest.raises(ValueError), s.section("total"):
        pass


def test_cpu_seconds_are_those_of_work_and_not_of_waiting():
    s = opened()
    with s.section("wait"):
        time.sleep(0.2)
    with s.section("work"):
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass
    cpu = s.record().cpu_seconds
    assert cpu["wait"] < 0.1 and 0.2 <= cpu["work"] < 0.4


MEMORY = """
import numpy as np
from nbpkg.session import Session

s = Session("03_help", device="cpu")
before = s.record().peak_memory_mb

def large(seed):
    return float(np.ones(50_000_000).sum())  # 400 MB

s.memo("large", large, seed=0)
print(before, s.record().peak_memory_mb)
"""


def test_peak_memory_counts_what_was_given_back_and_what_cached_pieces_took(tmp_path):
    (tmp_path / "script.py").write_text(MEMORY)
    for _ in range(2):
        out = subprocess.check_output([sys.executable, tmp_path / "script.py"], text=True)
        before, after = map(float, out.split())
        assert 20 < before < 1000
        assert 380 < after - before < 480


def test_a_cpu_has_no_gpu_memory():
    record = opened().record()
    assert record.peak_gpu_memory_mb is None and record.gpu_share is None
    assert machine.gpu_memory_mb(torch.device("cpu")) == (0.0, 0.0)


# ------------------------------------------------------------------ progress


def lines_of(capsys, total, step, known=True, label="train"):
    now = [0.0]

    def items():
        for item in range(total):
            now[0] += step
            yield item

    got = list(progress(items(), label, total if known else None, clock=lambda: now[0]))
    assert got == list(range(total))
    return capsys.readouterr().out.splitlines()


def test_progress_prints_about_ten_lines_with_the_time_left(capsys):
    lines = lines_of(capsys, 2000, 0.0775)
    assert len(lines) == 10
    assert lines[1] == "train  400/2000  20 %  elapsed 31 s  about 124 s left"
    assert lines[-1] == "train  2000/2000  100 %  elapsed 155 s"


def test_progress_of_quick_loops_is_one_line_and_of_slow_ones_never_more_than_eleven(capsys):
    assert lines_of(capsys, 400, 0.001) == ["train  400/400  100 %  elapsed 0 s"]
    for total in (1, 3, 7, 10, 11, 13, 99, 1001):
        assert 1 <= len(lines_of(capsys, total, 60.0)) <= 11
    assert lines_of(capsys, 0, 1.0)[-1].startswith("train  0")


def test_progress_without_a_known_length(capsys):
    lines = lines_of(capsys, 5000, 1.0, known=False)
    assert len(lines) <= 12 and lines[-1] == "train  5000  elapsed 83 min"


def test_progress_takes_the_length_of_what_it_is_given(capsys):
    assert list(opened().progress([1, 2], "x")) == [1, 2]
    assert capsys.readouterr().out == "x  2/2  100 %  elapsed 0 s\n"


# ------------------------------------------------------------------ the record


def test_finish_writes_a_valid_record_with_what_it_ran_on(capsys):
    s = opened(chapter="98_test", profile="standard", seeds=[4])
    s.data_used("help-nasbench201")
    s.metric("rho", [0.9])
    s.deviation("fewer epochs", "slightly lower")
    s.deviation("another split", "none")
    s.finish()
    record = Record.load(os.environ["NBPKG_RECORD"])
    assert (record.chapter, record.profile, record.seeds, record.threads) == ("98_test", "standard", [4], 1)
    assert record.device.startswith("cpu (") and record.data == {
        "help-nasbench201": data.digest("help-nasbench201")
    }
    assert {"python", "torch", "numpy", "nbpkg"} == set(record.versions)
    assert [(d.number, d.text) for d in record.deviations] == [(1, "fewer epochs"), (2, "another split")]
    assert record.seconds["total"] >= 0 and record.peak_memory_mb > 20
    assert "/" not in capsys.readouterr().out  # what a notebook publishes names no folder


def test_data_that_nobody_registered_is_refused():
    with pytest.raises(NbpkgError, match="no-such-set"):
        opened().data_used("no-such-set")


def test_the_record_lies_in_the_repository_or_else_in_the_working_directory(book, tmp_path, monkeypatch):
    monkeypatch.delenv("NBPKG_RECORD")
    opened().finish()
    record = Record.load(book.root / "runs" / "smoke" / "03_help.json")
    from nbpkg import chapters

    assert record.source_sha256 == chapters.code_sha256("03_help")
    from nbpkg import paths

    monkeypatch.delenv("NBPKG_ROOT")
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "site" / "nbpkg" / "paths.py"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    opened().finish()
    assert Record.load("03_help.json").source_sha256 == ""
