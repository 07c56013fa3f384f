"""The trainer of the zoo: the same bits for every order, worker count and interruption; nothing twice."""

import collections
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from fragile import die, refuse_two
from zoospecs import Traced

from nbpkg import parallel
from nbpkg.errors import NbpkgError
from nbpkg.zoo import train as trainer
from nbpkg.zoo.fit import Recipe
from nbpkg.zoo.specs import CellNet, TinySpec
from nbpkg.zoo.tasks import Task
from nbpkg.zoo.train import TrainingJob, plan, train

RECIPE = Recipe(epochs=1, batch=10)
CELLS = (0, 5_000, 7_000, 9_000, 12_000, 15_000)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def task(name="one", classes=(0, 1, 2), **sizes):
    sizes = {"n_train": 10, "n_valid": 4, "n_test": 5, "resolution": 8} | sizes
    return Task(name, "digits", classes, **sizes)


def some_jobs(make=CellNet, **fields):
    specs = [make(cell, 4, 1, **fields) for cell in CELLS]
    return [TrainingJob(spec, task(), seed, RECIPE) for spec in specs for seed in (0, 1)]


def same(one, other):
    assert one.jobs == other.jobs
    for name in ("valid", "test", "valid_loss", "test_loss", "curve"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def traced(tmp_path, **fields):
    return some_jobs(Traced, trace=str(tmp_path / "trace"), **fields)


def built(tmp_path):
    """How often each cell was built."""
    lines = (tmp_path / "trace").read_text().splitlines()
    return collections.Counter(int(line.split()[0]) for line in lines)


def test_every_order_gives_the_same_bits_and_the_second_call_trains_nothing(tmp_path, cache):
    jobs = traced(tmp_path)
    first = train(jobs, "cpu", stack=4)
    assert np.isfinite(first.test).all() and (first.cpu_seconds > 0).all()
    assert built(tmp_path) == {cell: 2 for cell in CELLS}
    turned = train(jobs[::-1], "cpu", stack=4)
    assert built(tmp_path) == {cell: 2 for cell in CELLS}
    np.testing.assert_array_equal(turned.test, first.test[::-1])
    np.testing.assert_array_equal(turned.curve, first.curve[::-1])
    # A job that is asked for twice is trained once.
    np.testing.assert_array_equal(train([*jobs, jobs[3]], "cpu", stack=4).curve[[3, -1]], first.curve[[3, 3]])


def test_two_processes_give_the_bits_of_one(cache, monkeypatch, tmp_path):
    alone = train(some_jobs(), "cpu", stack=3)
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path / "another"))
    same(train(some_jobs(), "cpu", stack=3, workers=2), alone)


@pytest.mark.parametrize("how", ["processes", "cluster"])
def test_a_worker_that_is_killed_costs_its_own_unit_only(tmp_path, how, monkeypatch):
    jobs = traced(tmp_path)
    jobs[5] = replace(jobs[5], spec=replace(jobs[5].spec, stop=str(tmp_path / "stop")))
    found = train(jobs, "cpu", stack=2, workers=2, cluster="local" if how == "cluster" else None)
    assert (tmp_path / "stop").exists()
    pieces = built(tmp_path)
    hit = {job.spec.cell for unit in plan(jobs, "cpu", stack=2) for job in unit.jobs if jobs[5] in unit.jobs}
    # The unit that was being built begins again; joblib ends the other worker too, whose unit may repeat.
    again = {cell for cell, times in pieces.items() if times > 2}
    assert hit & again and sum(pieces.values()) <= 12 + 2 + (2 if how == "processes" else 0)
    entries = list((tmp_path / "cache" / "zoo" / "stacks").iterdir())
    assert len(entries) == len(plan(jobs, "cpu", stack=2))
    assert not [entry for entry in entries if entry.name.startswith(".")]
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path / "another"))
    same(train(jobs, "cpu", stack=2), found)


def test_a_run_that_was_killed_goes_on_where_it_stopped(tmp_path):
    jobs = traced(tmp_path)
    stop = str(tmp_path / "stop")
    # A unit in the middle kills the process that trains it: here, the only one.
    jobs[6] = replace(jobs[6], spec=replace(jobs[6].spec, stop=stop))
    code = (
        "from test_train import *; import pathlib; tmp = pathlib.Path(sys.argv[1]); jobs = traced(tmp); "
        "jobs[6] = replace(jobs[6], spec=replace(jobs[6].spec, stop=str(tmp / 'stop'))); "
        "train(jobs, 'cpu', stack=2)"
    )
    paths = f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}; "
    ended = subprocess.run([sys.executable, "-c", paths + code, str(tmp_path)], capture_output=True)
    assert ended.returncode == -9
    before = built(tmp_path)
    done = len([e for e in (tmp_path / "cache" / "zoo" / "stacks").iterdir() if not e.name.startswith(".")])
    assert 0 < done < len(plan(jobs, "cpu", stack=2))
    train(jobs, "cpu", stack=2)
    # Only what was in hand when the process died was built again.
    extra = sum(built(tmp_path).values()) - 12
    assert 1 <= extra <= 2 and sum(before.values()) == 2 * done + extra


def test_workers_that_always_die_are_one_clear_error():
    with pytest.raises(NbpkgError, match=r"worker processes died 3 times.*fewer workers"):
        list(parallel.unordered(die, [(1,), (2,)], workers=2))


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_of_a_call_is_raised_as_it_is(count):
    with pytest.raises(NbpkgError, match="two is refused"):
        list(parallel.unordered(refuse_two, [(1,), (2,), (3,)], workers=count))


def test_a_cluster_that_does_not_answer_and_no_workers():
    with pytest.raises(NbpkgError, match="no Dask scheduler"):
        list(parallel.unordered(refuse_two, [(1,)], cluster="tcp://127.0.0.1:9"))
    with pytest.raises(NbpkgError, match="1 or more"):
        list(parallel.unordered(refuse_two, [(1,)], workers=0))


def test_slurm_jobs_have_one_thread_and_the_memory_asked_for():
    cluster = parallel.slurm_cluster(0, queue="short", memory="3GB", walltime="00:10:00")
    try:
        script = cluster.job_script()
    finally:
        cluster.close()
    assert "#SBATCH -p short" in script and "--nthreads 1" in script and "#SBATCH --mem=3G" in script


def test_weights_come_back_and_make_the_same_network():
    jobs = [TrainingJob(CellNet(c, 4, 1), task(), 0, RECIPE) for c in CELLS]
    jobs += [TrainingJob(TinySpec((4, 4, 4), 8), task(), 2, RECIPE)]
    plain = train(jobs, "cpu")
    with pytest.raises(NbpkgError, match="weights=True"):
        plain.weights(0)
    kept = train(jobs, "cpu", weights=True)
    same(train(jobs, "cpu"), plain)
    for number, job in enumerate(jobs):
        net, data = kept.network(number), job.task.data()
        x = (data.x_test / 255 - data.mean[:, None, None]) / data.std[:, None, None]
        with torch.no_grad():
            right = (net(x).argmax(1) == data.y_test).float().mean().item()
        assert 100 * right == pytest.approx(kept.test[number], abs=100 / len(data.y_test) + 1e-3)
        assert sum(p.numel() for p in net.parameters()) == job.spec.params(3)


def test_units_hold_what_can_be_trained_together_and_fit_the_memory():
    jobs = some_jobs() + [TrainingJob(TinySpec(), task(), s, RECIPE) for s in range(5)]
    jobs += [TrainingJob(TinySpec(), task("more", (0, 1, 2, 3)), s, RECIPE) for s in range(5)]
    jobs += [TrainingJob(TinySpec(), task(), s, replace(RECIPE, lr=0.01)) for s in range(5)]
    units = plan(jobs, "cpu", stack=8)
    assert sorted(len(unit.jobs) for unit in units) == [5, 5, 5, 6, 6]
    assert {job for unit in units for job in unit.jobs} == set(jobs)
    for unit in units:
        assert len({(job.spec.stack_key(), job.recipe, job.task.num_classes) for job in unit.jobs}) == 1
    assert plan(jobs[::-1], "cpu", stack=8) == units
    small = plan(some_jobs(), "cpu", memory_mb=0.5)
    assert len(small) > len(plan(some_jobs(), "cpu")) and max(len(unit.jobs) for unit in small) < 12
    assert {len(unit.jobs) for unit in plan(some_jobs(), "cpu", memory_mb=1e-6)} == {1}


def test_a_unit_is_known_by_all_that_its_result_follows_from(monkeypatch):
    def keys(jobs):
        return {unit.content for unit in plan(jobs, "cpu")}

    job = TrainingJob(CellNet(7_000, 4, 1), task(), 0, RECIPE)
    base = keys([job])
    assert keys([replace(job, task=replace(job.task, name="other"))]) == base
    for changed in (
        replace(job, seed=1), replace(job, spec=CellNet(7_001, 4, 1)),
        replace(job, spec=CellNet(7_000, 8, 1)),
        replace(job, recipe=replace(RECIPE, lr=0.2)), replace(job, task=task(seed=1)),
    ):  # fmt: skip
        assert keys([changed]).isdisjoint(base)
    monkeypatch.setattr(trainer, "fit", lambda *given: None)
    assert keys([job]).isdisjoint(base)


def test_a_damaged_unit_is_trained_again(cache, capsys):
    jobs = some_jobs()
    first = train(jobs, "cpu", stack=6)
    victim = sorted((cache / "zoo" / "stacks").rglob("*.memo"))[0]
    victim.write_bytes(victim.read_bytes()[:-4])
    same(train(jobs, "cpu", stack=6), first)
    assert "damaged" in capsys.readouterr().out
    same(train(jobs, "cpu", stack=6), first)
    assert "damaged" not in capsys.readouterr().out


@pytest.mark.parametrize("spec", [CellNet(7_777, 4, 1), TinySpec((4, 4, 4), 8)])
def test_the_memory_estimate_bounds_what_autograd_keeps(spec):
    net, kept = spec.build(10, 0), {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    images = torch.randn(8, 3, 16, 16)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        net(images)
    weights = {p.data_ptr() for p in net.parameters()} | {images.data_ptr()}
    numbers = sum(n for pointer, n in kept.items() if pointer not in weights) / 8
    assert 0.2 * spec.floats(16) < numbers < spec.floats(16)


@pytest.mark.parametrize(
    "wrong", [lambda: CellNet(15_625), lambda: CellNet(-1), lambda: CellNet(3, C=0),
              lambda: TrainingJob(CellNet(3), task(), -1, RECIPE)],
)  # fmt: skip
def test_what_is_no_job_is_refused(wrong):
    with pytest.raises(NbpkgError):
        wrong()


def test_large_networks_of_a_unit_are_trained_one_by_one_and_come_out_alike(monkeypatch):
    jobs = plan(some_jobs(), "cpu")[0].jobs
    stacked = trainer._fit(jobs, True, torch.device("cpu"))
    monkeypatch.setitem(trainer.ONE_BY_ONE, "cpu", 1)
    alone = trainer._fit(jobs, True, torch.device("cpu"))
    np.testing.assert_allclose(alone["curve"], stacked["curve"], rtol=2e-3)
    for one, other in zip(alone["weights"], stacked["weights"], strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if "num_batches" in name:  # counted only where a network is trained by itself; nothing reads it
                continue
            assert value.is_contiguous()
            torch.testing.assert_close(value, other[name], rtol=2e-2, atol=2e-3)
