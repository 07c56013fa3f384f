"""What a session on a GPU says and refuses."""

import dataclasses
import functools

import pytest
import torch

from nbpkg import machine, parallel
from nbpkg.errors import NbpkgError
from nbpkg.report import tables
from nbpkg.report.record import Record
from nbpkg.session import Session
from nbpkg.zoo import features, train
from nbpkg.zoo.fit import Recipe
from nbpkg.zoo.specs import TinySpec
from nbpkg.zoo.tasks import Task

TASK = Task("a", "digits", (0, 1, 2), n_train=8, n_valid=4, n_test=4, resolution=8)
JOBS = [train.TrainingJob(TinySpec(), TASK, seed, Recipe(epochs=2, batch=12)) for seed in (0, 1)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path))


def session(device, chapter="98_test"):
    return Session(chapter, seeds=[0], device=device)


def work(seed, device):
    x = torch.ones(300, 300).to(device)
    for _ in range(30):
        x = x @ x / 300
    return float(x.mean())


def made():
    return machine.gpu_memory_mb(torch.device("cuda"))[0]


def test_a_session_on_the_cpu_leaves_the_gpu_alone():
    before, s = made(), session("cpu")
    s.memo("work", work, seed=0, device=s.device)
    train.train(JOBS, s.device)
    features.features(TASK, "random-conv", device=s.device)
    assert s.record().device.startswith("cpu") and made() == before


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_what_a_session_is_given_does_the_work(device):
    before, s = made(), session(device)
    assert s.device == torch.device("cuda", 0)
    train.train(JOBS, s.device)
    trained = made()
    assert trained > before
    features.features(TASK, "random-conv", device=s.device)
    assert made() > trained


def test_zoos_agree_between_devices():
    kinds = [train.train(JOBS, kind) for kind in ("cpu", "cuda")]
    torch.testing.assert_close(*(torch.from_numpy(found.curve) for found in kinds), rtol=1e-3, atol=1e-4)


def test_a_result_beside_the_gpu_needs_a_reason_and_the_record_tells():
    s = session("cuda")
    with pytest.raises(NbpkgError, match=r"memo work: this made no tensor on the session's GPU.*on_cpu"):
        s.memo("work", work, seed=0, device="cpu")
    with s.section("both"):
        s.memo("work", work, seed=0, device="cpu", on_cpu="it is a test")
        s.memo("work", work, seed=0, device=s.device)
    record = s.record()
    assert set(record.device_seconds) == {"total", "both"} and 0 < record.gpu_share < 1
    assert [piece.get("on_cpu") for piece in record.memo] == ["it is a test", None]
    assert record.device.startswith("cuda") == (record.gpu_share >= 0.5)
    assert "it is a test" in tables.run_card(record)


def test_memory_of_a_stored_result_is_told_again(monkeypatch):
    session("cuda").memo("work", work, seed=0, device="cuda")
    s = session("cuda")
    s.memo("work", work, seed=0, device="cuda")
    assert s.record().memo[0]["from_cache"] and s.record().peak_gpu_memory_mb > 0.3
    assert s.record().gpu_share == 1.0


def test_a_record_names_the_device_that_did_most(tmp_path):
    s = session("cuda")
    s.memo("work", work, seed=0, device="cpu", on_cpu="it is a test")
    record = s.record()
    assert record.device.startswith("cpu") and record.gpu_share == 0.0
    record.save(tmp_path / "record.json")
    assert Record.load(tmp_path / "record.json").device_seconds == record.device_seconds
    with pytest.raises(NbpkgError, match="did not do most of the work; CUDA did 0%"):
        dataclasses.replace(record, device="cuda (simulated)").save(tmp_path / "other.json")


def test_a_chapter_that_is_not_ported_says_so():
    s = session("cuda", "09_weak_teacher")
    s.memo("work", work, seed=0, device="cpu")
    assert s.record().device.startswith("cpu") and "not ported yet" in tables.run_card(s.record())


def test_a_gpu_is_one_processs(monkeypatch):
    asked = []
    monkeypatch.setattr(train, "unordered", functools.partial(_noted, asked))
    monkeypatch.setattr("nbpkg.session.result_cache.unordered", functools.partial(_noted, asked))
    train.train(JOBS, "cuda", workers=2, stack=1)
    session("cuda").memo_each("work", work, [{"seed": seed, "device": "cuda"} for seed in (0, 1)], workers=2)
    assert asked == [1, 1]


def _noted(asked, function, calls, workers=1, cluster=None):
    asked.append(workers)
    return parallel.unordered(function, calls, workers, cluster)


def test_float32_is_no_tf32_in_a_session():
    torch.backends.cudnn.allow_tf32 = True
    s = session("cuda")
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert s.record().versions["float32"] == "whole"
    torch.backends.cudnn.allow_tf32 = True  # a cell of the chapter may do so: the record tells
    assert s.record().versions["float32"] == "TF32" and "float32" not in session("cpu").record().versions
