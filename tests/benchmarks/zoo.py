"""How much faster the zoo trains than a plain loop over its jobs.

    python tests/benchmarks/zoo.py [--networks 64] [--workers 2] [--device cpu]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator

import torch
from nets import timed

from nbpkg import machine
from nbpkg.nb201 import digits, space
from nbpkg.zoo.fit import Recipe, fit
from nbpkg.zoo.specs import CellNet
from nbpkg.zoo.tasks import Task
from nbpkg.zoo.train import TrainingJob, train

TASK = Task("benchmark", "digits", tuple(range(10)), n_train=90, n_valid=34, n_test=50, resolution=8)
RECIPE = Recipe(epochs=4, batch=50, lr=0.1, pad=1)


def _alone(jobs: list[TrainingJob], device: torch.device) -> list[float]:
    """Train the jobs one after the other: test accuracies in percent."""
    nets = [job.spec.build(job.task.num_classes, job.seed) for job in jobs]
    each = zip(nets, jobs, strict=True)
    return [fit([net], [TASK.data()], [job.seed], RECIPE, device)[0].test for net, job in each]


def compare(networks: int = 64, workers: int = 1, device: str = "auto", loops: int = 16) -> Iterator[str]:
    """Lines on a plain loop over `loops` of the jobs, and on all of them through `train`; nothing is kept.

    Both are warmed up before they are timed: kernels are chosen, and workers started, once a process.
    """
    where = machine.device(device)
    torch.set_num_threads(1)
    cells = space.index(space.random(networks + 2 * workers, 0))
    jobs = [TrainingJob(CellNet(int(cell), digits.C, digits.N), TASK, 0, RECIPE) for cell in cells]
    warm, jobs = jobs[networks:], jobs[:networks]
    _alone(warm[:1], where)
    alone, spent = timed(lambda: _alone(jobs[:loops], where))
    slow = 60 * len(alone) / spent
    yield f"plain loop: {slow:.0f} networks a minute on {machine.device_name(where)}, one thread"
    before = os.environ.get("NBPKG_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NBPKG_CACHE"] = folder
        try:
            train(warm, where, workers=workers, stack=1, label="warming up")
            together, spent = timed(lambda: train(jobs, where, workers=workers))
        finally:
            os.environ.pop("NBPKG_CACHE") if before is None else os.environ.update(NBPKG_CACHE=before)
    who = f"{workers} worker{'s' * (workers > 1)}"
    fast = 60 * len(jobs) / spent
    yield f"train: {fast:.0f} networks a minute with {who}, {fast / slow:.1f} times as many"
    gap = abs(sum(alone) / len(alone) - together.test[: len(alone)].mean())
    yield f"mean test accuracy of the same {len(alone)} networks differs by {gap:.1f} points"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=64, help="how many to train, twice")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--device", default="auto", choices=machine.DEVICES)
    for line in compare(**vars(parser.parse_args())):
        print(line, flush=True)
