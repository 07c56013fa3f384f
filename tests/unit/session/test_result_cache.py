"""Stored pieces: a killed run resumes, changed code never meets an old result, cached time counts."""

import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from livecode import build

from nbpkg import machine
from nbpkg.data import needs
from nbpkg.errors import NbpkgError
from nbpkg.session import Session

CALLS = []


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """An own cache, and nobody called yet."""
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NBPKG_THREADS", raising=False)
    monkeypatch.setattr(needs, "lacking", lambda *_: "")
    CALLS.clear()


class Calls:
    """Leads to this file's list of calls without being it: a list that grows would change the fingerprint."""


def counted(seed, **config):
    import sys

    sys.modules[Calls.__module__].CALLS.append(seed)
    generator = np.random.default_rng(seed)
    return {"w": generator.normal(size=3), "seed": seed, "t": torch.ones(2), "pair": (1, 2.5)}


def opened(**changes) -> Session:
    due = {"chapter": "98_test", "profile": "smoke", "seeds": [0, 1], "device": "cpu"}
    return Session(**due | changes)


def test_a_piece_is_made_once_and_is_the_same_from_the_cache():
    first = opened().memo("train/x", counted, seed=3, steps=5)
    second = opened().memo("train/x", counted, seed=3, steps=5)
    assert CALLS == [3]
    assert (
        type(first) is type(second)
        and first.keys() == second.keys()
        and first["pair"] == second["pair"] == (1, 2.5)
    )
    assert first["w"].tobytes() == second["w"].tobytes() and torch.equal(first["t"], second["t"])


def test_changing_a_result_in_place_does_not_change_the_stored_one():
    for _ in range(3):
        got = opened().memo("x", counted, seed=3)
        assert got["t"].tolist() == [1, 1] and got["seed"] == 3
        got["t"].zero_(), got.update(seed=9)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"seed": None},
        {"steps": 6},
        {"steps": 5.0},
        {"more": 1},
        {"table": np.arange(4)},
        {"table": np.arange(3.0)},
        {"name": "y"},
        {"chapter": "02_metad2a"},
        {"profile": "standard"},
    ],
)
def test_everything_in_the_key_counts(change):
    base = {"seed": 3, "steps": 5, "table": np.arange(3)}
    opened().memo("x", counted, **base)
    asked = base | change
    session = opened(**{key: asked.pop(key) for key in ("chapter", "profile") if key in asked})
    session.memo(asked.pop("name", "x"), counted, **asked)
    assert len(CALLS) == 2


def test_what_is_not_in_the_key_does_not_count():
    opened().memo("x", counted, seed=3, a=1, b=[np.float64(2)])
    opened(seeds=[5, 6, 3]).memo("x", counted, seed=3, b=[2.0], a=1)
    assert CALLS == [3]


def test_the_device_counts_and_auto_is_what_it_stands_for(monkeypatch):
    opened().memo("x", counted, seed=3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    opened(device="auto").memo("x", counted, seed=3)
    assert len(CALLS) == 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(machine, "start", lambda device: None)
    monkeypatch.setattr(machine, "synchronise", lambda device: None)
    monkeypatch.setattr(machine, "gpu_memory_mb", lambda device: (0.0, 0.0))
    for number, card in enumerate(("H200", "T4"), 2):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, card=card: card)
        for device in ("auto", "cuda"):
            opened(device=device).memo("x", counted, seed=3, on_cpu="it only counts")
        assert len(CALLS) == number


def test_a_configuration_or_a_result_of_another_type_is_named():
    with pytest.raises(NbpkgError, match="Generator"):
        opened().memo("x", counted, seed=0, rng=np.random.default_rng(0))
    with pytest.raises(NbpkgError, match=r"memo x: result\['net'\].*state_dict"):
        opened().memo("x", lambda seed: {"net": torch.nn.Linear(1, 1)}, seed=0)


def test_a_damaged_piece_is_one_line_and_made_again(tmp_path, capsys):
    opened().memo("x", counted, seed=3)
    for file in (tmp_path / "cache").rglob("*.memo"):
        file.write_bytes(file.read_bytes()[:-1])
    capsys.readouterr()
    assert opened().memo("x", counted, seed=3)["seed"] == 3
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and out.startswith("memo x: what was stored is damaged")
    opened().memo("x", counted, seed=3)
    assert CALLS == [3, 3] and capsys.readouterr().out == ""


def test_a_cache_that_cannot_be_written_costs_a_line_and_not_the_result(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path / "file"))
    assert opened().memo("x", counted, seed=3)["seed"] == 3
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "could not be stored" in out


def test_an_error_in_the_function_comes_through_and_nothing_is_stored(tmp_path):
    def failing(seed):
        raise ZeroDivisionError

    session = opened()
    with pytest.raises(ZeroDivisionError):
        session.memo("x", failing, seed=0)
    assert session.record().memo == [] and not list((tmp_path / "cache").rglob("*.memo"))


# ------------------------------------------------------------------ time


def slow(seed):
    import time

    time.sleep(0.4)
    return seed


def test_cached_pieces_count_as_when_they_were_made():
    made = {}
    for from_cache in (False, True):
        s = opened()
        with s.section("train"), s.section("inner"):
            s.memo("slow", slow, seed=1)
        with s.section("other"):
            pass
        record = s.record()
        [piece] = record.memo
        assert piece == {"name": "slow", "seed": 1, "seconds": piece["seconds"], "from_cache": from_cache}
        made[from_cache] = piece["seconds"]
        assert (
            0.4
            <= piece["seconds"]
            <= record.seconds["inner"]
            <= record.seconds["train"]
            <= record.seconds["total"]
        )
        assert record.seconds["other"] < 0.4
    assert made[True] == made[False]


def test_a_piece_made_of_cached_pieces_counts_them():
    opened().memo("slow", slow, seed=1)
    s, started = opened(), time.perf_counter()

    def outer(seed):
        return s.memo("slow", slow, seed=1)

    s.memo("outer", outer, seed=1)
    assert [(piece["name"], piece["seconds"] >= 0.4) for piece in s.record().memo] == [
        ("slow", True),
        ("outer", True),
    ]
    made = s.record().memo[0]["seconds"]
    assert (
        made <= s.record().seconds["total"] < made + time.perf_counter() - started + 0.01
    )  # once, not twice


# ------------------------------------------------------------------ killed and changed

RUN = """
    import os, signal, sys
    from pathlib import Path
    from nbpkg.session import Session

    s = Session("98_test", seeds=[0, 1], device="cpu")
    RATE = 0.5

    def train(seed, size):
        import os, signal
        from pathlib import Path
        Path("log.txt").open("a").write(f"{seed}/{size}\\n")
        if Path("die").exists() and (seed, size) == (1, 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return {"value": RATE * (seed + 10 * size)}

    values = [s.memo("train", train, seed=seed, size=size)["value"] for seed in s.seeds for size in (1, 2)]
    s.metric("sum", sum(values))
    s.finish()
"""


def run(folder):
    (folder / "log.txt").write_text("")
    (folder / "script.py").write_text(textwrap.dedent(RUN))
    return subprocess.run(
        [sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, timeout=120
    )


def log(folder):
    return (folder / "log.txt").read_text().split()


def test_a_killed_run_resumes_at_the_first_missing_piece(tmp_path, monkeypatch):
    from nbpkg.report.record import Record

    monkeypatch.setenv("NBPKG_RECORD", str(tmp_path / "record.json"))
    (tmp_path / "die").touch()
    assert run(tmp_path).returncode == -signal.SIGKILL
    assert log(tmp_path) == ["0/1", "0/2", "1/1"] and not (tmp_path / "record.json").exists()
    (tmp_path / "die").unlink()
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert log(tmp_path) == ["1/1", "1/2"]
    record = Record.load(tmp_path / "record.json")
    assert record.metrics["sum"].value == 0.5 * (10 + 20 + 11 + 21)
    assert [piece["from_cache"] for piece in record.memo] == [True, True, False, False]


METHOD = """
    RATE = 0.5

    def helper(x):
        return RATE * x

    def unrelated(x):
        return x + 1

    def train(seed, size):
        return helper(seed + 10 * size)
"""


@pytest.mark.parametrize(
    "old, new, result",
    [
        ("seed + 10 * size", "seed + 20 * size", 21.5),
        ("RATE = 0.5", "RATE = 0.25", 5.75),
        ("RATE * x", "RATE * x - 1", 10.5),
        ("return helper", "# the same\n        return helper", None),
        ("return x + 1", "return x + 2", None),
    ],
)
def test_a_changed_method_never_meets_an_old_result_and_an_unchanged_one_does(old, new, result):
    assert METHOD.count(old) == 1
    assert opened().memo("train", build(METHOD)["train"], seed=3, size=2) == 11.5
    changed = opened()
    assert changed.memo("train", build(METHOD.replace(old, new))["train"], seed=3, size=2) == (result or 11.5)
    assert changed.record().memo[0]["from_cache"] == (result is None)
    back = opened()
    assert back.memo("train", build(METHOD)["train"], seed=3, size=2) == 11.5
    assert back.record().memo[0]["from_cache"]


# ------------------------------------------------------------------ artefacts

MAKER = """
# %% tags=["method"]
def fit(seed, size):
    return {"weights": list(range(size)), "seed": seed}


def make_artifact_predictor(session):
    with session.section("fit"):
        return session.memo("predictor", fit, seed=session.seeds[0], size=3)


def add(x):
    return x
"""


def test_an_artefact_is_made_by_the_other_chapters_method_once(book):
    book.write("03_help", method=MAKER)
    for from_cache in (False, True):
        s = Session("04_diffusionnag", "smoke", [5, 6], "cpu")
        assert s.artifact("03_help", "predictor") == {"weights": [0, 1, 2], "seed": 5}
        piece = s.record().memo[0]
        assert (piece["name"], piece["seed"], piece["from_cache"]) == ("03_help/predictor", 5, from_cache)
    # the chapter itself meets the same piece
    from nbpkg import chapters

    own = Session("03_help", "smoke", [5], "cpu")
    own.memo("predictor", chapters.load("03_help").fit, seed=5, size=3)
    assert own.record().memo[0]["from_cache"]


def test_an_artefact_that_nobody_makes_is_refused(book):
    s = Session("04_diffusionnag", device="cpu")
    with pytest.raises(NbpkgError, match="make_artifact_predictor"):
        s.artifact("03_help", "predictor")
    with pytest.raises(NbpkgError):
        s.artifact("99_nothing", "predictor")


def slow_square(seed, base):
    return {"x": torch.tensor([float(base**2)]), "seed": seed, "process": __import__("os").getpid()}


@pytest.mark.parametrize("workers", [1, 2])
def test_many_pieces_come_in_order_and_are_kept_one_by_one(workers):
    calls = [{"seed": seed, "base": seed + 10} for seed in range(4)]
    session = opened()
    first = session.memo_each("each", slow_square, calls[:3], workers)
    assert [r["x"].item() for r in first] == [100, 121, 144]
    assert (len({r["process"] for r in first} - {__import__("os").getpid()}) > 0) == (workers > 1)
    both = opened().memo_each("each", slow_square, calls, workers)
    assert [r["process"] for r in both[:3]] == [r["process"] for r in first], "three came from the cache"
    # One call at a time finds the same pieces.
    assert opened().memo("each", slow_square, **calls[1])["process"] == first[1]["process"]
    assert [piece["from_cache"] for piece in session.record().memo] == [False] * 3


def fails_at_two(seed):
    if seed == 2:
        raise RuntimeError("no")
    return seed


def test_what_was_finished_before_an_error_is_kept():
    with pytest.raises(RuntimeError):
        opened().memo_each("broken", fails_at_two, [{"seed": seed} for seed in (0, 1, 2)])
    session = opened()
    assert session.memo_each("broken", fails_at_two, [{"seed": 1}, {"seed": 0}]) == [1, 0]
    assert all(piece["from_cache"] for piece in session.record().memo)


def test_cpu_seconds_of_the_processes_count():
    session = opened()
    with session.section("work"):
        session.memo_each("busy", busy, [{"seed": seed} for seed in (0, 1)], workers=2)
    assert session.record().cpu_seconds["work"] >= 0.6
    again = opened()
    with again.section("work"):
        again.memo_each("busy", busy, [{"seed": seed} for seed in (0, 1)], workers=2)
    assert again.record().cpu_seconds["work"] == pytest.approx(session.record().cpu_seconds["work"], abs=0.3)


def busy(seed):
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    return seed
