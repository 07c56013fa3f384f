"""Masks for masked-language modelling, and batches that are a function of seed and step.

A fixed number of places of each sequence is predicted, so that shapes do not change from step to step. Of
them 80 % are replaced by `[MASK]`, 10 % by another token drawn at random and 10 % left as they are (Devlin et
al., 2019, section 3.1). Special tokens are never predicted nor drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nbpkg import seeding
from nbpkg.data.tokens import MASK, SPECIAL
from nbpkg.errors import NbpkgError

RATE = 0.15
BLOCK = 64  # steps whose masks are drawn and moved to the device at once
SHARES = (0.8, 0.1, 0.1)


@dataclass(frozen=True, eq=False)
class Masked:
    """Sequences with masks: what a model sees, where it must predict, and what stood there.

    inputs: int64 (batch, length). positions: int64 (batch * K,), places in the flattened inputs, row by row;
    K places a row. targets: int64 (batch * K,).
    """

    inputs: Tensor
    positions: Tensor
    targets: Tensor

    def to(self, device: str | torch.device) -> Masked:
        """The same on another device."""
        return Masked(*(part.to(device, non_blocking=True) for part in vars(self).values()))

    def __len__(self) -> int:
        return len(self.inputs)

    def rows(self, low: int, high: int) -> Masked:
        """Sequences low to high - 1 and what belongs to them."""
        length, each = self.inputs.shape[1], len(self.positions) // len(self.inputs)
        inside = slice(low * each, high * each)
        return Masked(self.inputs[low:high], self.positions[inside] - low * length, self.targets[inside])


def generator(seed: int, what: str) -> torch.Generator:
    """A random stream on the CPU for one purpose of one seed: the same on every machine and device."""
    return seeding.rng("masking", seed, what)


def count(length: int, rate: float = RATE) -> int:
    """Number of places predicted in a sequence of this length: the rate of it, rounded, at least 1."""
    return max(1, round(rate * length))


def mask(
    sequences: Tensor | np.ndarray,
    vocabulary: int,
    rng: torch.Generator,
    rate: float = RATE,
    shares: tuple[float, float, float] = SHARES,
) -> Masked:
    """Sequences (batch, length) with `count(length, rate)` places of each masked at random.

    vocabulary: number of tokens, the special ones included. shares: of places masked, replaced at random and
    left. Raises NbpkgError for ids outside the vocabulary, a sequence with fewer words than places, and
    rates and shares that are none.
    """
    ids = torch.as_tensor(np.asarray(sequences).astype(np.int64))
    _check(ids, vocabulary, rate, shares)
    batch, length = ids.shape
    each = count(length, rate)
    special = ids < len(SPECIAL)
    if int((~special).sum(1).min()) < each:
        row = int((~special).sum(1).argmin())
        raise NbpkgError(f"sequence {row} has fewer than {each} words to mask")
    order = torch.rand(batch, length, generator=rng).masked_fill_(special, -1.0)
    places = order.topk(each, 1).indices.sort(1).values
    positions = (places + length * torch.arange(batch)[:, None]).flatten()
    targets = ids.flatten()[positions]
    fate = torch.rand(len(positions), generator=rng)
    drawn = torch.randint(len(SPECIAL), vocabulary, (len(positions),), generator=rng)
    seen = torch.where(fate < shares[0], MASK, torch.where(fate < shares[0] + shares[1], drawn, targets))
    inputs = ids.flatten().index_put((positions,), seen).view(batch, length)
    return Masked(inputs, positions, targets)


def _check(ids: Tensor, vocabulary: int, rate: float, shares: tuple[float, float, float]) -> None:
    if ids.dim() != 2 or 0 in ids.shape:
        raise NbpkgError(f"sequences must be (batch, length), not {tuple(ids.shape)}")
    if int(ids.min()) < 0 or int(ids.max()) >= vocabulary or vocabulary <= len(SPECIAL):
        raise NbpkgError(f"ids from {int(ids.min())} to {int(ids.max())} in a vocabulary of {vocabulary}")
    if not 0 < rate < 1 or len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
        raise NbpkgError(f"no masking has rate {rate} and shares {shares}")


def held_out(sequences: Tensor | np.ndarray, vocabulary: int, seed: int = 0, rate: float = RATE) -> Masked:
    """Sequences (n, length) masked once, by a pattern that `seed` fixes on every machine; for evaluation."""
    return mask(sequences, vocabulary, generator(seed, "held out"), rate)


class Batches:
    """Batches of freshly masked sequences; the one of a step depends on seed and step only.

    sequences: (n, length) of any integer type. Each pass over them is in another order, and what does not
    fill a batch at its end is left out. Models that are compared get the same text and masks from one seed.
    Raises NbpkgError for fewer sequences than a batch.
    """

    def __init__(
        self, sequences: np.ndarray, vocabulary: int, batch: int = 64, seed: int = 0, rate: float = RATE
    ):  # fmt: skip
        if batch < 1 or len(sequences) < batch:
            raise NbpkgError(f"{len(sequences):,} sequences make no batch of {batch}")
        self.sequences, self.vocabulary = sequences, vocabulary
        self.batch, self.seed, self.rate = batch, seed, rate
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    @property
    def per_pass(self) -> int:
        """Steps in one pass over the sequences."""
        return len(self.sequences) // self.batch

    def _rows(self, step: int) -> np.ndarray:
        epoch, inside = divmod(step, self.per_pass)
        if self._order[0] != epoch:
            rng = generator(self.seed, f"order/{epoch}")
            self._order = epoch, torch.randperm(len(self.sequences), generator=rng).numpy()
        return self.sequences[self._order[1][inside * self.batch : (inside + 1) * self.batch]]

    def block(self, number: int) -> Masked:
        """`BLOCK` steps drawn at once: inputs (steps, batch, length), positions and targets (steps, n)."""
        rows = [self._rows(step) for step in range(number * BLOCK, (number + 1) * BLOCK)]
        rng = generator(self.seed, f"block/{number}")
        drawn = mask(np.concatenate(rows), self.vocabulary, rng, self.rate)
        inputs = drawn.inputs.unflatten(0, (BLOCK, self.batch))
        first = inputs[0].numel() * torch.arange(BLOCK)[:, None]
        return Masked(inputs, drawn.positions.view(BLOCK, -1) - first, drawn.targets.view(BLOCK, -1))


def side_by_side(batches: Sequence[Batches], steps: int, device: str | torch.device) -> Iterator[Masked]:
    """For each step, several seeds' batches: inputs (seeds, batch, length), positions and targets (seeds, n).

    They are drawn on the CPU and moved to `device` `BLOCK` steps at once, so that no step waits for the host.
    What a seed gets depends neither on the other seeds nor on the number of steps.
    """
    for first in range(0, steps, BLOCK):
        blocks = [vars(one.block(first // BLOCK)).values() for one in batches]
        here = Masked(*(torch.stack(parts, 1) for parts in zip(*blocks, strict=True))).to(device)
        for i in range(min(BLOCK, steps - first)):
            yield Masked(here.inputs[i], here.positions[i], here.targets[i])
