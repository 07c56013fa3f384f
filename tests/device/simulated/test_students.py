"""The zoo of students on a GPU: nearly all of its training is there, and no step waits."""

import fakecuda
import numpy as np
import pytest

from nbpkg import paths
from nbpkg.zoo import bank, loader, recipes, train


def _here(function, calls, workers=1, cluster=None):
    return enumerate(function(*call) for call in calls)


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """`counted(call)`: its result, and what was counted meanwhile, in all and by line."""
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(train, "unordered", _here)

    def count(call):
        fakecuda.start(paths.root())
        made = call()
        fakecuda.stop()
        lines = fakecuda.report()[0]
        total = fakecuda.Tally()
        for tally in lines.values():
            total += tally
        return made, total, lines

    return count


def test_the_zoo_is_trained_on_the_device(counted):
    zoo = recipes.ZOOS["students"]
    (results, total, _) = counted(lambda: loader._trained(zoo, zoo.parts("smoke")[1], "cuda"))
    assert total.share >= 0.95
    steps = sum(job.recipe.epochs for job in results.jobs)
    assert total.waits <= steps
    on_cpu = loader._trained(zoo, zoo.parts("smoke")[1], "cpu")
    np.testing.assert_allclose(results.valid_loss, on_cpu.valid_loss, rtol=0.1, atol=0.05)


def test_what_teachers_tell_is_computed_on_the_device(counted, monkeypatch):
    zoo = recipes.ZOOS["students"]
    results = loader._trained(zoo, zoo.parts("smoke")[1], "cuda")
    (told, total, _) = counted(lambda: bank.tell(results, "cuda"))
    assert total.share >= 0.8
    assert np.isfinite(told[0]).all()
