"""How much faster the zoo trains than a plain loop over its jobs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import torch
from torch.nn import functional as F

from nbpkg import machine
from nbpkg.data import images
from nbpkg.nb201 import digits, space
from nbpkg.nets.benchmark import timed
from nbpkg.seeding import rng
from nbpkg.zoo.fit import Recipe
from nbpkg.zoo.specs import CellNet
from nbpkg.zoo.tasks import Task
from nbpkg.zoo.train import Job, train

TASK = Task("benchmark", "digits", tuple(range(10)), n_train=90, n_valid=34, n_test=50, resolution=8)
RECIPE = Recipe(epochs=4, batch=50, lr=0.1, pad=1)


def plain(job: Job, device: torch.device) -> float:
    """Train one network as anybody would, by the same recipe; its test accuracy in percent."""
    net = job.spec.build(job.task.num_classes, job.seed).to(device)
    data, recipe = job.task.data(), job.recipe
    mean, std = (values.to(device)[:, None, None] for values in (data.mean, data.std))
    x, y = data.x_train.to(device), data.y_train.to(device)
    batch = min(recipe.batch, len(x))
    steps = len(x) // batch
    optimiser = torch.optim.SGD(
        net.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs * steps)
    order, shift = rng(job.seed, "order"), rng(job.seed, "shift")
    for _ in range(recipe.epochs):
        for picked in torch.randperm(len(x), generator=order)[: steps * batch].view(steps, batch).to(device):
            moved = images.augment(x[picked], recipe.pad, recipe.flip, shift)
            loss = F.cross_entropy(net((moved / 255 - mean) / std), y[picked])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        logits = net((data.x_test.to(device) / 255 - mean) / std)
    return 100 * (logits.argmax(1).cpu() == data.y_test).double().mean().item()


def compare(networks: int = 64, workers: int = 1, device: str = "auto", loops: int = 16) -> Iterator[str]:
    """Lines on a plain loop over `loops` of the jobs, and on all of them through `train`; nothing is kept.

    Both are warmed up before they are timed: kernels are chosen, and workers started, once a process.
    """
    where = machine.device(device)
    torch.set_num_threads(1)
    cells = space.index(space.random(networks + 2 * workers, 0))
    jobs = [Job(CellNet(int(cell), digits.C, digits.N), TASK, 0, RECIPE) for cell in cells]
    warm, jobs = jobs[networks:], jobs[:networks]
    plain(warm[0], where)
    alone, spent = timed(lambda: [plain(job, where) for job in jobs[:loops]])
    slow = 60 * len(alone) / spent
    yield f"plain loop: {slow:.0f} networks a minute on {machine.device_name(where)}, one thread"
    before = os.environ.get("NBPKG_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NBPKG_CACHE"] = folder
        try:
            train(warm, workers=workers, device=device, stack=1, label="warming up")
            together, spent = timed(lambda: train(jobs, workers=workers, device=device))
        finally:
            os.environ.pop("NBPKG_CACHE") if before is None else os.environ.update(NBPKG_CACHE=before)
    who = f"{workers} worker{'s' * (workers > 1)}"
    fast = 60 * len(jobs) / spent
    yield f"train: {fast:.0f} networks a minute with {who}, {fast / slow:.1f} times as many"
    gap = abs(sum(alone) / len(alone) - together.test[: len(alone)].mean())
    yield f"mean test accuracy of the same {len(alone)} networks differs by {gap:.1f} points"
