"""How long the set and graph networks take, and how much longer graph by graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from nbpkg import machine
from nbpkg.nb201 import space
from nbpkg.nets import cellgraphs, seeded
from nbpkg.nets.dag_decoder import GraphDecoder
from nbpkg.nets.metad2a import Generator, Predictor

BATCH, CLASSES, IMAGES, FEATURES = 32, 20, 20, 512
#: A search: so many candidates, judged with so many sets drawn from ten classes.
CANDIDATES, SETS, TARGET_CLASSES = 500, 10, 10


def _features(sets: int, classes: int, device: torch.device) -> Tensor:
    """Made-up features of images, not negative: (sets, classes, images, features)."""
    shape = (sets, classes, IMAGES, FEATURES)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).abs().to(device)


def _practise(decoder: GraphDecoder, adjacency: Tensor, steps: int, device: torch.device) -> float:
    """Teach a decoder what a cell looks like, with random cells and codes; nats a graph at the end.

    The floor is 6 ln 5, the entropy of six operations drawn at random.
    """
    optimiser = torch.optim.Adam(decoder.parameters(), 2e-3)
    draws = torch.Generator().manual_seed(0)
    cells = cellgraphs.types_of(space.random(steps * BATCH, 0, distinct=False)).to(device)
    for types in cells.split(BATCH):
        z = torch.randn(BATCH, decoder.latent, generator=draws).to(device)
        loss = -sum(decoder.log_likelihood(z, types, adjacency)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return loss.item()


def seconds(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The least of several times of a call, after one to warm up: CPU seconds, of the clock on a GPU."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    best = float("inf")
    for number in range(repeats + 1):
        started = clock()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number:
            best = min(best, clock() - started)
    return best


def compare(device: str = "auto", repeats: int = 5, alone: int = 4, practice: int = 600) -> Iterator[str]:
    """Lines on a training step, on drawing candidates and on scoring them, together and one by one.

    repeats: the best of so many; alone: how many graphs or data sets are timed one by one, to be scaled up;
    practice: training steps of the decoder before it draws, since an untrained one seldom draws a cell.
    """
    where, threads = machine.device(device), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield f"{machine.device_name(where)}, one thread, best of {repeats}"
        yield from _times(where, repeats, alone, practice)
    finally:
        torch.set_num_threads(threads)


def _times(where: torch.device, repeats: int, alone: int, practice: int) -> Iterator[str]:
    unit = "s" if where.type == "cuda" else "CPU s"

    def line(what: str, together: Callable[[], object], single: Callable[[], object], count: int) -> str:
        fast, slow = seconds(together, where, repeats), seconds(single, where, 1) * count / alone
        return f"{what}: {fast:.3f} {unit}, one by one {slow:.2f} ({slow / fast:.0f} times)"

    with seeded(0):
        generator, predictor = Generator().to(where), Predictor().to(where).eval()
    adjacency = cellgraphs.topology().to(where)
    types = cellgraphs.types_of(space.random(CANDIDATES, 0)).to(where)
    optimiser = torch.optim.Adam(generator.parameters(), 1e-4)
    sets = _features(BATCH, CLASSES, where)

    def step(apart: bool = False) -> None:
        optimiser.zero_grad()
        for rows in [slice(i, i + 1) for i in range(alone)] if apart else [slice(BATCH)]:
            generator.loss(sets[rows], types[rows], adjacency).backward()
        optimiser.step()

    what = f"training step of the generator, {BATCH} data sets of {CLASSES}x{IMAGES} images"
    yield line(what, step, lambda: step(apart=True), BATCH)

    nats = _practise(generator.graphs, adjacency, practice, where)
    yield f"the decoder after {practice} steps of practice: {nats:.2f} nats a graph"
    target = _features(SETS, TARGET_CLASSES, where)
    generator.eval()
    draws = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def codes(count: int) -> Tensor:
        return generator.latent(generator.sets(target))[0].repeat(count // SETS + 1, 1)[:count]

    z = codes(CANDIDATES)
    yield line(
        f"{CANDIDATES} distinct cells drawn",
        lambda: cellgraphs.draw(
            generator.graphs, lambda count: z.repeat(count // len(z) + 1, 1)[:count], CANDIDATES, draws
        ),
        lambda: [generator.graphs.sample(z[i : i + 1], draws) for i in range(alone)],
        CANDIDATES,
    )
    yield line(
        f"{CANDIDATES} distinct cells drawn, {SETS} data sets of {TARGET_CLASSES}x{IMAGES} images encoded",
        lambda: cellgraphs.draw(generator.graphs, codes, CANDIDATES, draws),
        lambda: [generator.graphs.sample(codes(1), draws) for _ in range(alone)],
        CANDIDATES,
    )
    with torch.no_grad():
        yield line(
            f"{CANDIDATES} cells scored on {SETS} data sets",
            lambda: predictor(target, types, adjacency),
            lambda: [predictor(target, types[i : i + 1], adjacency) for i in range(alone)],
            CANDIDATES,
        )
