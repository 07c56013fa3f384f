"""How fast language models are pre-trained, by width, and which share of the device's peak that is.

    python tests/benchmarks/language.py [--device cpu] [--seeds 1] [--repeats 3]

Rows of 32 tokens as in the chapters, 30 % hidden, pre-norm, rotary positions, Muon; on a CPU one thread. The
peak is that of products of large matrices in float32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import nets
import numpy as np
import torch

from nbpkg import machine
from nbpkg.data.masking import count
from nbpkg.nets.bert import BertConfig, bert
from nbpkg.nets.bert_train import Recipe, pretrain
from nbpkg.nets.together import Together

WIDTHS, LAYERS, ROWS, LENGTH, VOCABULARY, STEPS, RATE = (32, 64, 128, 256), 4, 64, 32, 2_048, 8, 0.3


def compare(device: str = "auto", seeds: int = 1, repeats: int = 3) -> Iterator[str]:
    """Lines on the device's peak and on each width; the best of so many repeats."""
    where, threads = machine.device(device), torch.get_num_threads()
    machine.start(where)
    try:
        peak = _peak(where, repeats)
        yield f"{machine.device_name(where)}, {seeds} seeds at once, best of {repeats}"
        yield f"peak, by a product of matrices in float32: {peak / 1e9:.0f} GFLOP/s"
        rows = np.random.default_rng(0).integers(5, VOCABULARY, (2 * ROWS, LENGTH))
        for width in WIDTHS:
            config = BertConfig(
                VOCABULARY, LAYERS, width, max(1, width // 32), LENGTH, norm="pre", positions="rotary"
            )
            models = Together([bert(config, seed) for seed in range(seeds)], where)
            each = min(_step(models, rows, where) for _ in range(repeats)) / seeds
            # A forward pass, and twice as much backward; Muon's own products are not counted.
            flops = 3 * config.flops(ROWS, ROWS * count(LENGTH, RATE))
            yield (
                f"{LAYERS} layers of {width}: {1e3 * each:.1f} ms a step and seed, "
                f"{ROWS * LENGTH / each:,.0f} tokens a second, {flops / each / peak:.0%} of the peak"
            )
    finally:
        torch.set_num_threads(threads)


def _step(models: Together, rows: np.ndarray, where: torch.device) -> float:
    """Seconds a step, of `STEPS` after two to warm up; the masks are drawn before them."""
    stamps = []

    def look(step: int) -> None:
        machine.synchronise(where)
        stamps.append(time.process_time() if where.type == "cpu" else time.perf_counter())

    seeds = range(len(models))
    pretrain(
        [models],
        [rows] * len(models),
        seeds,
        Recipe(2 + STEPS, ROWS, rate=RATE),
        look=look,
        at={2, 2 + STEPS},
    )
    return (stamps[1] - stamps[0]) / STEPS


def _peak(where: torch.device, repeats: int) -> float:
    side = torch.rand(8192 if where.type == "cuda" else 1024, 2048, device=where)
    seconds = min(nets.timed(lambda: side @ side.T, where)[1] for _ in range(repeats + 2))
    return 2 * len(side) ** 2 * side.shape[1] / seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", choices=machine.DEVICES)
    parser.add_argument("--seeds", type=int, default=1, help="trained at once")
    parser.add_argument("--repeats", type=int, default=3, help="every time is the best of so many")
    for line in compare(**vars(parser.parse_args())):
        print(line, flush=True)
