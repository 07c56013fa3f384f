"""How much faster the zoo trains than a plain loop over its jobs."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator

import torch
from torch.nn import functional as F

from nbpkg import machine
from nbpkg.data import images
from nbpkg.nb201 import digits, space
from nbpkg.zoo.fit import Recipe, stream
from nbpkg.zoo.specs import CellNet
from nbpkg.zoo.tasks import Task
from nbpkg.zoo.train import TrainingJob, train

TASK = Task("benchmark", "digits", tuple(range(10)), n_train=90, n_valid=34, n_test=50, resolution=8)
RECIPE = Recipe(epochs=4, batch=50, lr=0.1, pad=1)


def jobs(networks: int) -> list[TrainingJob]:
    """Random cells on digits, all different."""
    return [
        TrainingJob(CellNet(int(i), digits.C, digits.N), TASK, 0, RECIPE)
        for i in space.index(space.random(networks, 0))
    ]


def plain(job: TrainingJob, device: torch.device) -> float:
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
    order, shift = stream(job.seed, "order"), stream(job.seed, "shift")
    for _ in range(recipe.epochs):
        for picked in torch.randperm(len(x), generator=order)[: steps * batch].view(steps, batch).to(device):
            moved = images.augment(x[picked], recipe.pad, recipe.flip, shift)
            loss = F.cross_entropy(net((moved / 255 - mean) / std), y[picked])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    net.eval()
    right = 0
    with torch.no_grad():
        for part, answers in zip(data.x_test.split(256), data.y_test.split(256), strict=True):
            logits = net((part.to(device) / 255 - mean) / std)
            right += (logits.argmax(1) == answers.to(device)).sum().item()
    return 100 * right / len(data.y_test)


def compare(networks: int = 64, workers: int = 1, device: str = "auto", loops: int = 16) -> Iterator[str]:
    """Lines on a plain loop over `loops` of the jobs, and on all of them through `train`; nothing is kept.

    Both are warmed up before they are timed: kernels are chosen, and workers started, once a process.
    """
    where = machine.device(device)
    torch.set_num_threads(1)
    chosen = jobs(networks + 2 * workers)
    warm, chosen = chosen[networks:], chosen[:networks]
    plain(warm[0], where)
    started = time.perf_counter()
    alone = [plain(job, where) for job in chosen[:loops]]
    slow = 60 * len(alone) / (time.perf_counter() - started)
    yield f"plain loop: {slow:.0f} networks a minute on {machine.device_name(where)}, one thread"
    before = os.environ.get("NBPKG_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NBPKG_CACHE"] = folder
        try:
            train(warm, workers=workers, device=device, stack=1, label="warming up")
            started = time.perf_counter()
            together = train(chosen, workers=workers, device=device)
            fast = 60 * len(chosen) / (time.perf_counter() - started)
        finally:
            os.environ.pop("NBPKG_CACHE") if before is None else os.environ.update(NBPKG_CACHE=before)
    who = f"{workers} worker{'s' * (workers > 1)}"
    yield f"train: {fast:.0f} networks a minute with {who}, {fast / slow:.1f} times as many"
    gap = abs(sum(alone) / len(alone) - together.test[: len(alone)].mean())
    yield f"mean test accuracy of the same {len(alone)} networks differs by {gap:.1f} points"
