"""The Once-for-All space (MobileNetV3, width 1.2): five stages of up to four layers, and its costs.

Stages, widths, strides and squeeze-and-excite are those of Cai et al. (2020), ImageNet classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nbpkg.untrusted import read_torch, refuse

KERNELS, EXPANSIONS, DEPTHS = (3, 5, 7), (3, 4, 6), (2, 3, 4)
RESOLUTIONS = tuple(range(128, 225, 4))
STAGES, LAYERS, ABSENT = 5, 4, 9  # operation 3 * kernel + expansion, or no layer
STEM, HEAD, MIX, CLASSES = 24, 1_152, 1_536, 1_000
WIDTHS, STRIDES, SQUEEZE = (32, 48, 96, 136, 192), (2, 2, 2, 1, 2), (False, True, False, True, True)


def read_archs(path: str | Path, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Operations int64 (n, 20) and resolutions in pixels, int64 (n,), of HELP's `ofa_archs.pt`.

    Raises NbpkgError naming the file when it holds anything else.
    """
    table = read_torch(path, numpy_scalars=True)
    rows = table.get("arch") if type(table) is dict else None
    if type(rows) is not list or len(rows) != n:
        refuse(path, f"does not hold a list of {n:,} networks")
    try:
        kernel, expansion = (np.array([[known.index(v) for v in row[key]] for row in rows])
                             for key, known in (("ks", KERNELS), ("e", EXPANSIONS)))  # fmt: skip
        depth = np.array([[DEPTHS[DEPTHS.index(v)] for v in row["d"]] for row in rows])
        resolution = np.array([RESOLUTIONS[RESOLUTIONS.index(int(row["r"]))] for row in rows])
        ops = (3 * kernel + expansion).reshape(n, STAGES, LAYERS)
        ops = np.where(np.arange(LAYERS) < depth[..., None], ops, ABSENT)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        refuse(path, f"holds a network outside the space ({error})", error)
    return ops.reshape(n, -1), resolution


def vectors(ops: np.ndarray, resolution: np.ndarray) -> np.ndarray:
    """The authors' encoding, float64 (n, 145): kernels, then expansions, of each layer; resolution."""
    present = (ops < ABSENT)[..., None]
    kernel, expansion = np.divmod(ops, 3)
    bits = [(part[..., None] == np.arange(3)) & present for part in (kernel, expansion)]
    bits.append(resolution[:, None] == np.array(RESOLUTIONS))
    return np.concatenate([part.reshape(len(ops), -1) for part in bits], 1).astype(np.float64)


def costs(ops: np.ndarray, resolution: np.ndarray) -> np.ndarray:
    """What networks cost, float64 (n, 8), biases and batch norms left out.

    Multiply-adds of point-wise and of depth-wise 3x3, 5x5, 7x7 convolutions and of squeeze-and-excite,
    parameters, output values, layers.
    """
    size, width, total = -(-resolution // 2), STEM, np.zeros((len(ops), 8))
    # Stem, the fixed first layer (3x3 depth-wise, no expansion), and what follows the last stage.
    total += _row(27 * STEM * size**2 + STEM**2 * size**2, 27 * STEM + (STEM + 9) * STEM, 3 * STEM * size**2)
    total[:, 1] += 9 * STEM * size**2
    for stage, (c_out, stride, squeeze) in enumerate(zip(WIDTHS, STRIDES, SQUEEZE, strict=True)):
        for layer in range(LAYERS):
            op, step = ops[:, LAYERS * stage + layer], stride if layer == 0 else 1
            out = -(-size // step)
            total += (op < ABSENT)[:, None] * _layer(op, width, c_out, size, out, squeeze)
            size, width = out, c_out
    fixed = WIDTHS[-1] * HEAD, HEAD * MIX + MIX * CLASSES
    return total + _row(fixed[0] * size**2 + fixed[1], sum(fixed), HEAD * size**2 + MIX)


def _row(pointwise, parameters, activations) -> np.ndarray:
    zero = np.zeros(np.broadcast(pointwise, activations).shape)
    return np.stack([zero + v for v in (pointwise, 0, 0, 0, 0, parameters, activations, 0)], -1)


def _layer(op, c_in: int, c_out: int, size, out, squeeze: bool) -> np.ndarray:
    kernel, expansion = np.divmod(np.minimum(op, ABSENT - 1), 3)
    side, middle = np.array(KERNELS)[kernel], c_in * np.array(EXPANSIONS)[expansion]
    narrow = _divisible(middle // 4)
    gate = 2 * middle * narrow * squeeze
    spatial = side**2 * middle * out**2
    parts = [c_in * middle * size**2 + middle * c_out * out**2, *(spatial * (side == k) for k in KERNELS)]
    parameters = (c_in + c_out + side**2) * middle + gate
    activations = middle * (size**2 + out**2) + c_out * out**2
    return np.stack([*parts, gate, parameters, activations, np.ones_like(middle)], -1).astype(np.float64)


def _divisible(width: np.ndarray) -> np.ndarray:
    """The nearest multiple of eight, at least eight and not below nine tenths."""
    rounded = np.maximum(8, (width + 4) // 8 * 8)
    return np.where(rounded < 0.9 * width, rounded + 8, rounded)
