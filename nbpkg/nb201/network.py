"""The NAS-Bench-201 network of any cell as a torch module.

Stem, N cells, reduction, N cells, reduction, N cells, batch norm, ReLU, global average pool, linear; widths
C, 2C, 4C. An edge is *dead* when no path of operations other than `none` leads from the cell's input through
it to the cell's output. Dead edges are neither allocated nor run unless `keep_dead=True`.

Skipping an edge that cannot reach the output changes nothing. Skipping one whose start is unreachable drops
what its batch norm would make of an all-zero input: a constant per channel, zero at initialisation. The
benchmark too counts such cells as equal to the cell without the edge.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from nbpkg.errors import NbpkgError
from nbpkg.nb201.costs import as_rows
from nbpkg.nb201.space import EDGES, N_NODES, OPS, live_edges
from nbpkg.seeding import seeded

OUTPUT_NODE = N_NODES - 1


class Zero(nn.Module):
    """Zeros of the input's shape."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0.0


def relu_conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """ReLU, convolution without bias, batch norm.

    (batch, c_in, h, w) -> (batch, c_out, h/stride, w/stride).
    """
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(c_out))


def operation(name: str, channels: int) -> nn.Module:
    """One of the five operations, (batch, channels, h, w) -> same shape. KeyError for an unknown name."""
    makers = {
        "none": Zero,
        "skip_connect": nn.Identity,
        "nor_conv_1x1": lambda: relu_conv_bn(channels, channels, 1),
        "nor_conv_3x3": lambda: relu_conv_bn(channels, channels, 3),
        "avg_pool_3x3": lambda: nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
    }
    return makers[name]()


class Cell(nn.Module):
    """Four nodes, six edges; a node is the sum of its incoming edges: (batch, channels, h, w) -> same shape.

    ops: six operation indices in string order. edges: the kept edges, a ModuleDict keyed "start-end".
    """

    def __init__(self, ops, channels: int, keep_dead: bool = False):
        super().__init__()
        ops = as_rows(ops)[0]
        kept = np.arange(len(EDGES)) if keep_dead else np.flatnonzero(live_edges(ops))
        self.plan = [EDGES[edge] for edge in kept]
        modules = {"{}-{}".format(*EDGES[edge]): operation(OPS[ops[edge]], channels) for edge in kept}
        self.edges = nn.ModuleDict(modules)

    def forward(self, x: Tensor) -> Tensor:
        nodes = {0: x}
        for (start, end), module in zip(self.plan, self.edges.values(), strict=True):
            value = module(nodes[start])
            nodes[end] = nodes[end] + value if end in nodes else value
        # A cell without a live path puts out zeros.
        return nodes[OUTPUT_NODE] if OUTPUT_NODE in nodes else x * 0.0


class Reduction(nn.Module):
    """The residual block that halves the resolution: (batch, c_in, h, w) -> (batch, c_out, h/2, w/2)."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.body = nn.Sequential(relu_conv_bn(c_in, c_out, 3, stride=2), relu_conv_bn(c_out, c_out, 3))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, stride=2), nn.Conv2d(c_in, c_out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.body(x)


class Network(nn.Module):
    """The macro network: images (batch, 3, h, w), h and w multiples of 4 -> logits (batch, num_classes).

    ops: six operation indices, or one row of shape (1, 6). C: first width. N: cells per stage. keep_dead:
    allocate and run dead edges as well, `none` included, as the benchmark's own code does. Raises NbpkgError
    for malformed operations or sizes below 1.
    """

    def __init__(self, ops, C: int = 16, N: int = 5, num_classes: int = 10, keep_dead: bool = False):
        super().__init__()
        if len(as_rows(ops)) != 1:
            raise NbpkgError(f"a network is made of one cell, got {len(as_rows(ops))}")
        if min(C, N, num_classes) < 1:
            raise NbpkgError(f"C, N and num_classes must be at least 1, got {C}, {N}, {num_classes}")
        self.C, self.N, self.num_classes = C, N, num_classes
        self.stem = nn.Sequential(nn.Conv2d(3, C, 3, padding=1, bias=False), nn.BatchNorm2d(C))
        body: list[nn.Module] = []
        for stage, width in enumerate((C, 2 * C, 4 * C)):
            if stage:
                body.append(Reduction(width // 2, width))
            body.extend(Cell(ops, width, keep_dead) for _ in range(N))
        self.body = nn.Sequential(*body)
        self.last = nn.Sequential(nn.BatchNorm2d(4 * C), nn.ReLU())
        self.classifier = nn.Linear(4 * C, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """The pooled activations before the linear layer: (batch, 3, h, w) -> (batch, 4C)."""
        return self.last(self.body(self.stem(images))).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


def network(
    ops, C: int = 16, N: int = 5, num_classes: int = 10, seed: int = 0, keep_dead: bool = False
) -> Network:
    """A `Network` with weights drawn from `seed`; the global random state is left as it was."""
    with seeded(seed):
        return Network(ops, C, N, num_classes, keep_dead)
