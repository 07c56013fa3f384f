"""The FBNet macro-architecture at CIFAR size: what one choice of block costs at each of the 22 layers.

Stages, widths and strides are FBNet's own (Wu et al. 2019, table 1) in the CIFAR form that HW-NAS-Bench
measured: 32 x 32 input, stem of 16 channels, header of 1,504, 100 classes.
"""

from __future__ import annotations

import numpy as np

LAYERS = (1, 4, 4, 4, 4, 4, 1)
CHANNELS = (16, 24, 32, 64, 112, 184, 352)
STRIDES = (1, 1, 2, 2, 1, 2, 1)
STEM, HEADER, CLASSES, RESOLUTION = 16, 1_504, 100, 32
BLOCKS = tuple(
    (kernel, expansion, groups) for kernel in (3, 5) for expansion, groups in ((1, 1), (1, 2), (3, 1), (6, 1))
)
SKIP = len(BLOCKS)  # 8


def vectors(ops: np.ndarray) -> np.ndarray:
    """The authors' encoding of networks `ops` (n, 22), float64 (n, 132): per layer kernel 3, kernel 5, then
    expansion 1, 1 with two groups, 3, 6; nothing for a skip."""
    kernel, expansion = np.divmod(ops, 4)
    bits = np.stack([kernel == 0, kernel == 1, *(expansion == e for e in range(4))], -1)
    return (bits & (ops < SKIP)[..., None]).reshape(len(ops), -1).astype(np.float64)


def _block(c_in: int, c_out: int, size: int, stride: int, choice: int) -> tuple[float, float, float, float]:
    """Multiply-adds of 1x1 and of depth-wise convolutions, parameters and output values of one block."""
    out = size // stride
    if choice == SKIP:
        if c_in == c_out and stride == 1:
            return 0.0, 0.0, 0.0, 0.0
        # A skip that changes shape is a 1x1 convolution.
        return c_in * c_out * out**2, 0.0, c_in * c_out, c_out * out**2
    kernel, expansion, groups = BLOCKS[choice]
    middle = expansion * c_in
    expand, project = c_in * middle / groups, middle * c_out / groups
    spatial = kernel**2 * middle
    pointwise, activations = expand * size**2 + project * out**2, middle * (size**2 + out**2) + c_out * out**2
    return pointwise, spatial * out**2, expand + project + spatial, activations


def block_costs() -> np.ndarray:
    """Costs of every choice at every layer: float64 (22, 9, 4), the last axis as `_block` gives them."""
    table, c_in, size = [], STEM, RESOLUTION
    for layers, c_out, first_stride in zip(LAYERS, CHANNELS, STRIDES, strict=True):
        for layer in range(layers):
            stride = first_stride if layer == 0 else 1
            table.append([_block(c_in, c_out, size, stride, choice) for choice in range(SKIP + 1)])
            c_in, size = c_out, size // stride
    return np.array(table)


def costs(ops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parameters and FLOPs (multiply-adds) of networks `ops` int (n, 22): two float64 arrays (n,)."""
    chosen = block_costs()[np.arange(ops.shape[1]), ops].sum(1)
    size = RESOLUTION // int(np.prod(STRIDES))
    stem, header = 27 * STEM, CHANNELS[-1] * HEADER
    flops = chosen[:, 0] + chosen[:, 1] + stem * RESOLUTION**2 + header * size**2 + HEADER * CLASSES
    return chosen[:, 2] + stem + header + HEADER * CLASSES, flops
