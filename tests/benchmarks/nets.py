"""How long the set and graph networks take, and how much longer graph by graph; several seeds at once; and
an episode of chapter 08 at the sizes of its authors.

    python tests/benchmarks/nets.py [--device cpu] [--repeats 5]
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from nbpkg import chapters, machine
from nbpkg.nb201 import space
from nbpkg.nets import cellgraphs
from nbpkg.nets.dag import END
from nbpkg.nets.metad2a import Generator, Predictor
from nbpkg.nets.together import Together
from nbpkg.seeding import rng, seeded

#: A training step: so many data sets, of so many classes and images a class.
BATCH, CLASSES, IMAGES = 32, 20, 20
#: A search: so many candidates, judged with so many sets drawn from ten classes.
CANDIDATES, SETS, TARGET_CLASSES = 500, 10, 10
#: An episode of DaSS: tasks, students of each, channels and side of a map, numbers of a code.
EPISODE = (8, 50, 256, 8, 181)
#: So many graphs are timed one by one, to be scaled up.
ALONE = 4


#: Seeds trained at once, by the widths of a small perceptron and its batch.
SEEDS, WIDTHS, ROWS = (1, 4, 16), (32, 128, 128, 1), 256


def timed(call: Callable[[], Any], device: torch.device | None = None) -> tuple[Any, float]:
    """What a call returns, and its seconds by the clock of `device`; by default those of the wall."""
    clock = time.process_time if device is not None and device.type == "cpu" else time.perf_counter
    machine.synchronise(device or torch.device("cpu"))
    started = clock()
    result = call()
    machine.synchronise(device or torch.device("cpu"))
    return result, clock() - started


def compare(device: str = "auto", repeats: int = 5) -> Iterator[str]:
    """Lines on training, on drawing candidates and on scoring them, together and one by one.

    repeats: the best of so many.
    """
    where, threads = machine.device(device), torch.get_num_threads()
    unit = "s" if where.type == "cuda" else "CPU s"
    torch.set_num_threads(1)
    try:
        yield f"{machine.device_name(where)}, one thread, best of {repeats}"
        for what, call, count in _calls(where):
            call(slice(count))  # to warm up
            fast = min(timed(partial(call, slice(count)), where)[1] for _ in range(repeats))
            each = [timed(partial(call, slice(i, i + 1)), where)[1] for i in range(ALONE)]
            slow = sum(each) * count / ALONE
            yield f"{what}: {fast:.3f} {unit}, one by one {slow:.2f} ({slow / fast:.0f} times)"
        yield from _seeds(where, unit, repeats)
        yield from _episodes(where, unit, repeats)
    finally:
        torch.set_num_threads(threads)


def _seeds(where: torch.device, unit: str, repeats: int) -> Iterator[str]:
    """Lines on a training step of one, four and sixteen seeds at once, beside the device's measured peak."""
    side = torch.rand(2048 if where.type == "cuda" else 512, 2048, device=where)
    multiplied = min(timed(lambda: side @ side.T, where)[1] for _ in range(repeats + 1))
    peak = 2 * len(side) ** 2 * side.shape[1] / multiplied
    yield f"peak, by a product of matrices in float32: {peak / 1e9:.0f} GFLOP/s"
    pairs = list(itertools.pairwise(WIDTHS))
    for count in SEEDS:
        with seeded(0):
            nets = [
                nn.Sequential(*(layer for a, b in pairs for layer in (nn.Linear(a, b), nn.GELU())))
                for _ in range(count)
            ]
        together = Together(nets, where)
        adam = torch.optim.Adam(together.parameters(), 1e-3)
        x = torch.rand(count, ROWS, WIDTHS[0], device=where)
        took = min(timed(partial(_step, together, adam, x), where)[1] for _ in range(5 * repeats)) / 10
        flops = 6 * ROWS * count * sum(a * b for a, b in pairs)
        yield (
            f"{count} seeds at once: {1e3 * took:.2f} ms a step ({unit}), {1e3 * took / count:.2f} a seed, "
            f"{flops / took / peak:.1%} of the peak"
        )


def _step(together: Together, adam: torch.optim.Adam, x: torch.Tensor) -> None:
    """Ten steps: one alone is near the clock's resolution."""
    for _ in range(10):
        adam.zero_grad()
        together(x).square().mean((1, 2)).sum().backward()
        adam.step()


def _episodes(where: torch.device, unit: str, repeats: int) -> Iterator[str]:
    """Lines on an episode of DaSS and its step of Adam, with and without second derivatives."""
    dass = chapters.load("08_dass")
    tasks, students, channels, side, length = EPISODE
    normal = partial(torch.randn, generator=rng(0, "episode"))
    made = dass.init_predictor(rng(1, "episode"), channels, length)
    phi = {name: value[None].to(where).requires_grad_() for name, value in made.items()}
    alpha = {name: torch.full_like(value, 0.005).requires_grad_() for name, value in phi.items()}
    weights = [*phi.values(), *alpha.values()]
    adam = torch.optim.Adam(weights, 5e-4, fused=True)
    sizes = {"code": (length,), "teacher": (channels, side, side), "support": (), "codes": (students, length)}
    sizes |= {"own": (students, channels, side, side), "labels": (students,)}
    drawn = [{name: normal(1, *size).to(where) for name, size in sizes.items()} for _ in range(tasks)]

    def step(second_order: bool) -> None:
        adam.zero_grad()
        for task in drawn:
            (dass.episode(phi, alpha, task, second_order).sum() / tasks).backward()
        adam.step()

    for second_order in (True, False):
        step(second_order)  # to warm up
        took = min(timed(partial(step, second_order), where)[1] for _ in range(repeats))
        order = "second" if second_order else "first"
        yield f"an episode of {tasks} tasks of {students} students, {order} order: {took:.3f} {unit}"


def _calls(where: torch.device) -> Iterator[tuple[str, Callable[[slice], object], int]]:
    """What is timed: a name, a function of which graphs to do it for, and how many graphs there are."""
    with seeded(0):
        generator, predictor = Generator().to(where), Predictor().to(where).eval()
    with torch.no_grad():
        generator.graphs.type_head[2].bias[END] = -50.0  # as after training, graphs do not end early
    adjacency = cellgraphs.topology().to(where)
    types = cellgraphs.types_of(space.random(CANDIDATES, 0)).to(where)
    # Made-up features of images.
    sets = torch.rand(BATCH, CLASSES, IMAGES, 512, generator=rng(0, "sets")).to(where)
    target = torch.rand(SETS, TARGET_CLASSES, IMAGES, 512, generator=rng(0, "target")).to(where)

    def learn(rows: slice) -> None:
        generator.loss(sets[rows], types[rows], adjacency).backward()

    @torch.no_grad()
    def draw(rows: slice) -> None:
        codes = generator.latent(generator.sets(target))[0].repeat(CANDIDATES // SETS + 1, 1)
        generator.graphs.sample(codes[rows], rng(0, "draws"))

    @torch.no_grad()
    def score(rows: slice) -> None:
        predictor(target, types[rows], adjacency)

    yield f"loss and gradient for {BATCH} data sets of {CLASSES}x{IMAGES} images", learn, BATCH
    yield f"{CANDIDATES} graphs for {SETS} data sets of {TARGET_CLASSES}x{IMAGES} images", draw, CANDIDATES
    yield f"{CANDIDATES} cells scored on {SETS} data sets", score, CANDIDATES


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", choices=machine.DEVICES)
    parser.add_argument("--repeats", type=int, default=5, help="every time is the best of so many")
    for line in compare(**vars(parser.parse_args())):
        print(line, flush=True)
