"""How long the set and graph networks take, and how much longer graph by graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from nbpkg import machine
from nbpkg.nb201 import space
from nbpkg.nets import cellgraphs
from nbpkg.nets.dag_decoder import GraphDecoder
from nbpkg.nets.metad2a import Generator, Predictor
from nbpkg.seeding import seeded

BATCH, CLASSES, IMAGES, FEATURES = 32, 20, 20, 512
#: A search: so many candidates, judged with so many sets drawn from ten classes.
CANDIDATES, SETS, TARGET_CLASSES = 500, 10, 10


def timed(call: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> tuple[Any, float]:
    """What a call returns, and its seconds by `clock`, work that it leaves to a GPU included."""
    started = clock()
    result = call()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return result, clock() - started


def compare(device: str = "auto", repeats: int = 5, alone: int = 4, practice: int = 600) -> Iterator[str]:
    """Lines on a training step, on drawing candidates and on scoring them, together and one by one.

    repeats: the best of so many; alone: how many graphs or data sets are timed one by one, to be scaled up;
    practice: training steps of the decoder before it draws, since an untrained one seldom draws a cell.
    """
    where, threads = machine.device(device), torch.get_num_threads()
    unit, clock = ("s", time.perf_counter) if where.type == "cuda" else ("CPU s", time.process_time)
    torch.set_num_threads(1)
    try:
        yield f"{machine.device_name(where)}, one thread, best of {repeats}"
        for what, together, single, count in _cases(where, alone, practice):
            together()  # the first call warms up
            single()
            fast = min(timed(together, clock)[1] for _ in range(repeats))
            slow = timed(single, clock)[1] * count / alone
            yield f"{what}: {fast:.3f} {unit}, one by one {slow:.2f} ({slow / fast:.0f} times)"
    finally:
        torch.set_num_threads(threads)


def _cases(where: torch.device, alone: int, practice: int) -> Iterator[tuple[str, Callable, Callable, int]]:
    """What is timed: a name, the call for all graphs, that for some one by one, and how many are all."""
    with seeded(0):
        generator, predictor = Generator().to(where), Predictor().to(where)
    adjacency = cellgraphs.topology().to(where)
    types = cellgraphs.types_of(space.random(CANDIDATES, 0)).to(where)
    optimiser = torch.optim.Adam(generator.parameters(), 1e-4)
    sets, target = _features(BATCH, CLASSES, where), _features(SETS, TARGET_CLASSES, where)
    single = [slice(i, i + 1) for i in range(alone)]

    def step(parts: list[slice]) -> None:
        optimiser.zero_grad()
        for rows in parts:
            generator.loss(sets[rows], types[rows], adjacency).backward()
        optimiser.step()

    what = f"training step of the generator, {BATCH} data sets of {CLASSES}x{IMAGES} images"
    yield what, lambda: step([slice(BATCH)]), lambda: step(single), BATCH
    _practise(generator.graphs, adjacency, practice, where)
    for net in (generator, predictor):
        net.eval().requires_grad_(False)
    draws = torch.Generator().manual_seed(0)

    def sample_one() -> None:
        generator.graphs.sample(generator.latent(generator.sets(target))[0][:1], draws)

    yield (
        f"{CANDIDATES} distinct cells drawn, {SETS} data sets of {TARGET_CLASSES}x{IMAGES} images encoded",
        lambda: generator.draw(target, CANDIDATES, draws), lambda: [sample_one() for _ in single], CANDIDATES,
    )  # fmt: skip
    yield (
        f"{CANDIDATES} cells scored on {SETS} data sets",
        lambda: predictor(target, types, adjacency),
        lambda: [predictor(target, types[rows], adjacency) for rows in single], CANDIDATES,
    )  # fmt: skip


def _features(sets: int, classes: int, device: torch.device) -> Tensor:
    """Made-up features of images, not negative: (sets, classes, images, features)."""
    shape = (sets, classes, IMAGES, FEATURES)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).abs().to(device)


def _practise(decoder: GraphDecoder, adjacency: Tensor, steps: int, device: torch.device) -> None:
    """Teach a decoder what a cell looks like, with random cells and codes."""
    optimiser = torch.optim.Adam(decoder.parameters(), 2e-3)
    draws = torch.Generator().manual_seed(0)
    cells = cellgraphs.types_of(space.random(steps * BATCH, 0, distinct=False)).to(device)
    for types in cells.split(BATCH):
        z = torch.randn(BATCH, decoder.latent, generator=draws).to(device)
        loss = -sum(decoder.log_likelihood(z, types, adjacency)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
