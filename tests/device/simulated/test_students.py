"""The zoo of students on a GPU: nearly all of its training is there, and no step waits."""

from dataclasses import fields, replace

import fakecuda
import numpy as np
import pytest

from nbpkg import paths
from nbpkg.zoo import bank, recipes, train


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """`counted(call)`: its result, and what was counted meanwhile."""
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path / "cache"))
    # Worker processes would have no simulated device.
    here = lambda function, calls, *_: enumerate(function(*call) for call in calls)  # noqa: E731
    monkeypatch.setattr(train, "unordered", here)

    def so_far():
        total = fakecuda.Tally()
        for tally in fakecuda.report()[0].values():
            total += tally
        return total

    def count(call):
        before = so_far()
        fakecuda.start(paths.root())
        made = call()
        fakecuda.stop()
        after = so_far()
        differences = {f.name: getattr(after, f.name) - getattr(before, f.name) for f in fields(after)}
        return made, fakecuda.Tally(**differences)

    return count


def jobs(times=1):
    """Teachers and distilled students of smoke; times: trained so many times longer."""
    _, (teachers, distilled, *_) = recipes.ZOOS["students"].parts("smoke")
    return [
        replace(
            job,
            recipe=replace(job.recipe, epochs=times * job.recipe.epochs),
            spec=replace(job.spec, epochs=times * job.spec.epochs),
        )
        for job in (*teachers, *distilled)
    ]


def test_steps_run_on_the_device_and_do_not_wait(counted):
    short, few = counted(lambda: train.train(jobs(), "cuda"))
    _, many = counted(lambda: train.train(jobs(10), "cuda"))
    # At the eight steps of smoke making networks, which is on the CPU, weighs more.
    assert many.share >= 0.95 and few.share >= 0.7
    assert many.waits == few.waits
    on_cpu = train.train(jobs(), "cpu")
    np.testing.assert_allclose(short.valid_loss, on_cpu.valid_loss, rtol=0.1, atol=0.05)


def test_what_teachers_tell_is_computed_on_the_device(counted):
    results = train.train(jobs(), "cuda")
    (numbers, maps), total = counted(lambda: bank.tell(results, "cuda"))
    assert np.isfinite(numbers).all() and np.isfinite(maps).all()
    assert total.device_s > total.cpu_s
