"""Networks by description: what a job of the zoo trains, small enough to be sent to another machine.

A spec is a frozen dataclass of plain values with four methods:

    build(num_classes, seed)    the network, with weights drawn from the seed
    stack_key()                 equal for networks that can be trained side by side (`nbpkg.zoo.stack`)
    floats(resolution)          numbers that training keeps for an image of so many pixels a side, from above
    params(num_classes)         how many weights the network has

Other families may be added by any class with these methods.
"""

from dataclasses import dataclass

import torch
from torch import nn

from nbpkg.errors import NbpkgError
from nbpkg.nb201 import costs, space
from nbpkg.nb201.network import network
from nbpkg.nets.tinycnn import TinyCNN, tinycnn


@dataclass(frozen=True, order=True)
class CellNet:
    """The NAS-Bench-201 network of a cell, given by `space.index`; C: first width, N: cells per stage.

    Raises NbpkgError for a cell that does not exist and sizes below 1.
    """

    cell: int
    C: int = 8
    N: int = 1

    def __post_init__(self):
        if not 0 <= self.cell < space.N_CELLS or min(self.C, self.N) < 1:
            raise NbpkgError(f"there is no network of cell {self.cell} with C={self.C}, N={self.N}")

    def build(self, num_classes: int, seed: int) -> nn.Module:
        return network(space.ops_of(self.cell), self.C, self.N, num_classes, seed)

    def stack_key(self) -> tuple:
        return ("cell", self.C, self.N)

    def floats(self, resolution: int) -> int:
        # An edge keeps its operand and what convolution and norm put out; a node its sum and the ReLU of it.
        # The three stages have 1, 1/2 and 1/4 of the first one's numbers.
        one_map = self.C * resolution**2
        return int(1.75 * one_map * (self.N * (3 * space.N_EDGES + 2 * space.N_NODES) + 8))

    def params(self, num_classes: int) -> int:
        counted = costs.costs(space.ops_of(self.cell), self.C, self.N, num_classes, live_only=True)
        return int(counted[0][0])


@dataclass(frozen=True, order=True)
class TinySpec:
    """A network of `nbpkg.nets.tinycnn`: widths of its three convolutions, units of its hidden layer.

    first: the seed of the first weights, for networks that start alike and differ by what their job's seed
    draws in training; -1: the job's seed draws the first weights too.
    """

    widths: tuple[int, int, int] = (8, 10, 10)
    hidden: int = 20
    first: int = -1

    def build(self, num_classes: int, seed: int) -> nn.Module:
        start = seed if self.first < 0 else self.first
        return tinycnn(num_classes, self.widths, self.hidden, start)

    def stack_key(self) -> tuple:
        return ("tinycnn", self.widths, self.hidden)

    def floats(self, resolution: int) -> int:
        # What a convolution puts out and its ReLU; every stride of 2 leaves half of the pixels a side.
        sides = [-(-resolution // 2**stage) for stage in (1, 2, 3)]
        maps = sum(width * side**2 for width, side in zip(self.widths, sides, strict=True))
        return 2 * (maps + 4 * self.widths[-1] + self.hidden)

    def params(self, num_classes: int) -> int:
        with torch.device("meta"):
            net = TinyCNN(num_classes, self.widths, self.hidden)
        return sum(weight.numel() for weight in net.parameters())


Spec = CellNet | TinySpec
