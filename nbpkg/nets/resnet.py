"""A small family of residual networks for images of 8 to 64 pixels, free in depth and width of each stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbpkg.errors import NbpkgError


def _conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out))


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution only where the shape changes.

    (batch, c_in, h, w) -> (batch, c_out, h/stride, w/stride), rounded up (He et al., 2016, option B).
    """

    def __init__(self, c_in: int, c_out: int, stride: int = 1):
        super().__init__()
        self.first = _conv_bn(c_in, c_out, 3, stride)
        self.second = _conv_bn(c_out, c_out, 3)
        same = stride == 1 and c_in == c_out
        self.shortcut = nn.Identity() if same else _conv_bn(c_in, c_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, one stage of blocks for each width, mean, linear: images (batch, 3, h, w) -> (batch, classes).

    blocks, widths: blocks and channels of each stage; every stage after the first halves the resolution.
    Raises NbpkgError for lengths that differ and sizes below 1.
    """

    def __init__(self, blocks: Sequence[int], widths: Sequence[int], num_classes: int = 10):
        super().__init__()
        if not blocks or len(blocks) != len(widths) or min(*blocks, *widths, num_classes) < 1:
            raise NbpkgError(f"blocks {tuple(blocks)} and widths {tuple(widths)} make no network")
        self.stem = _conv_bn(3, widths[0], 3)
        body: list[nn.Module] = []
        before = widths[0]
        for stage, (depth, width) in enumerate(zip(blocks, widths, strict=True)):
            for number in range(depth):
                body.append(Block(before, width, 2 if stage and not number else 1))
                before = width
        self.body = nn.Sequential(*body)
        self.classifier = nn.Linear(before, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """The pooled activations before the linear layer: (batch, 3, h, w) -> (batch, last width)."""
        return self.body(F.relu(self.stem(images))).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


def resnet(
    blocks: Sequence[int] = (1, 1, 1),
    widths: Sequence[int] = (16, 32, 64),
    num_classes: int = 10,
    seed: int = 0,
) -> ResNet:
    """A `ResNet` with weights drawn from `seed`; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResNet(blocks, widths, num_classes)


def params(blocks: Sequence[int], widths: Sequence[int], num_classes: int = 10) -> int:
    """Number of parameters in closed form."""
    total = 27 * widths[0] + 2 * widths[0] + (widths[-1] + 1) * num_classes
    before = widths[0]
    for stage, (depth, width) in enumerate(zip(blocks, widths, strict=True)):
        for number in range(depth):
            total += 9 * before * width + 9 * width * width + 4 * width
            if (stage and not number) or before != width:
                total += before * width + 2 * width
            before = width
    return total
