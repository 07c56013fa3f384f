"""The tiny convolutional network whose weights chapter 06 generates: it has no batch norm, only weights.

Three convolutions and two linear layers; with the default widths and ten classes some 2,500 parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nbpkg.errors import NbpkgError


class TinyCNN(nn.Module):
    """Images (batch, channels, resolution, resolution) -> logits (batch, num_classes).

    widths: channels of the three 3x3 convolutions. Each of the first two is followed by 2x2 max pooling,
    the third by a mean over the picture. hidden: units of the first linear layer. A resolution is 4 or more.

    Raises NbpkgError for sizes below 1.
    """

    def __init__(
        self, num_classes: int = 10, channels: int = 3, widths: tuple[int, int, int] = (8, 10, 10),
        hidden: int = 20,
    ):  # fmt: skip
        super().__init__()
        if len(widths) != 3 or min(num_classes, channels, *widths, hidden) < 1:
            raise NbpkgError(f"widths {widths}, hidden {hidden} and {num_classes} classes make no network")
        layers: list[nn.Module] = []
        before = channels
        for number, width in enumerate(widths):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            if number < 2:
                layers.append(nn.MaxPool2d(2))
            before = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(before, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).mean((2, 3)))


def tinycnn(
    num_classes: int = 10, channels: int = 3, widths: tuple[int, int, int] = (8, 10, 10), hidden: int = 20,
    seed: int = 0,
) -> TinyCNN:  # fmt: skip
    """A `TinyCNN` with weights drawn from `seed`; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyCNN(num_classes, channels, widths, hidden)


def params(
    num_classes: int = 10, channels: int = 3, widths: tuple[int, int, int] = (8, 10, 10), hidden: int = 20
) -> int:
    """Number of parameters in closed form."""
    inputs = (channels, *widths[:2])
    convs = sum((9 * c_in + 1) * c_out for c_in, c_out in zip(inputs, widths, strict=True))
    return convs + (widths[2] + 1) * hidden + (hidden + 1) * num_classes
