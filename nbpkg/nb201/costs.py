"""Parameters and FLOPs of NAS-Bench-201 networks, counted as the benchmark does, for many cells at once.

The benchmark counts every edge of the cell, also those whose output goes nowhere, and counts a multiply-add
of a convolution or of the linear layer as one FLOP; batch norm, pooling, additions and biases count nothing.
"""

from __future__ import annotations

import numpy as np

from nbpkg.errors import NbpkgError
from nbpkg.nb201.space import OPS, check_ops, live_edges

KERNEL = {OPS.index("nor_conv_1x1"): 1, OPS.index("nor_conv_3x3"): 3}


def as_rows(ops) -> np.ndarray:
    """One or many cells as int8 of shape (cells, 6); NbpkgError for anything else."""
    rows = np.atleast_2d(check_ops(ops))
    if rows.ndim != 2:
        raise NbpkgError(f"cells must have shape (cells, 6) or (6,), not {rows.shape}")
    return rows


def costs(
    ops, C: int = 16, N: int = 5, num_classes: int = 10, resolution: int = 32, live_only: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Parameters and FLOPs of the network with N copies per stage of each cell, first width C.

    ops: integers (cells, 6) or (6,). resolution: height and width of the image in pixels, a multiple of 4.
    live_only: count only edges on a live path, which is what `Network` allocates and runs by default;
    otherwise all edges, as in the benchmark's tables. Returns two int64 arrays of shape (cells,): parameters,
    and FLOPs for one image. Raises NbpkgError for malformed operations or a resolution that two halvings do
    not divide.
    """
    ops = as_rows(ops)
    if resolution < 4 or resolution % 4:
        raise NbpkgError(f"resolution must be a positive multiple of 4, got {resolution}")
    counted = live_edges(ops) if live_only else np.ones(ops.shape, bool)
    widths = [C, 2 * C, 4 * C]
    pixels = [resolution**2, (resolution // 2) ** 2, (resolution // 4) ** 2]

    def conv(kernel: int, c_in: int, c_out: int) -> int:
        return kernel**2 * c_in * c_out

    # Stem and its batch norm; last batch norm and the linear layer with its bias.
    params = conv(3, 3, C) + 2 * C + 2 * widths[2] + (widths[2] + 1) * num_classes
    flops = conv(3, 3, C) * pixels[0] + widths[2] * num_classes
    # Two reductions: two 3x3 convolutions with batch norm and a bare 1x1 convolution on the shortcut.
    for c_in, c_out, area in zip(widths[:2], widths[1:], pixels[1:], strict=True):
        weights = conv(3, c_in, c_out) + conv(3, c_out, c_out) + conv(1, c_in, c_out)
        params += weights + 4 * c_out
        flops += weights * area

    all_params = np.full(len(ops), params, np.int64)
    all_flops = np.full(len(ops), flops, np.int64)
    for op, kernel in KERNEL.items():
        copies = N * ((ops == op) & counted).sum(1, dtype=np.int64)
        all_params += copies * sum(conv(kernel, c, c) + 2 * c for c in widths)
        all_flops += copies * sum(conv(kernel, c, c) * area for c, area in zip(widths, pixels, strict=True))
    return all_params, all_flops
