"""Many small networks as one: activations of G networks lie side by side as (batch, G*channels, h, w).

`stack` takes networks of equal shape and returns one module whose convolutions are grouped, whose batch norms
are G times as wide and whose linear layers are batched. Everything channelwise (sums, ReLU, pooling, means)
then needs no change, so that the networks' own `forward` runs as it stands. Cells of NAS-Bench-201 with
different operations are stacked too: for each node the edges that carry the same operation become one grouped
operation (`MixedCell`). `unstack` writes the weights back into the networks.

Stacking changes no network's arithmetic, only which kernels do it: results agree with training one by one up
to rounding.
"""

import copy
import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbpkg.errors import NbpkgError
from nbpkg.nb201.network import OUTPUT_NODE, Cell

# Modules that treat every channel alike and hold nothing: they serve the stack as they are.
_CHANNELWISE = (
    nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.LeakyReLU, nn.Identity, nn.Flatten, nn.AvgPool2d, nn.MaxPool2d,
    nn.AdaptiveAvgPool2d,
)  # fmt: skip
# What a stacked layer holds: its networks' tensors, joined along the first dimension.
_STATE = ("weight", "bias", "running_mean", "running_var")
# On a CPU and up to this many pixels, pooling is faster as a product with a dense matrix (4 times at 8x8).
_DENSE_PIXELS = 64


class StackedLinear(nn.Module):
    """G linear layers: (batch, G*inputs) -> (batch, G*outputs), group by group."""

    def __init__(self, layers: Sequence[nn.Linear]):
        super().__init__()
        self.groups, self.bias = len(layers), None
        _join(self, layers)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.unflatten(0, (self.groups, -1))
        y = torch.bmm(x.view(len(x), self.groups, -1).transpose(0, 1), weight.transpose(1, 2))
        if self.bias is not None:
            y = y + self.bias.view(self.groups, 1, -1)
        return y.transpose(0, 1).flatten(1)


def _join(stacked: nn.Module, modules: Sequence[nn.Module]) -> nn.Module:
    """Give `stacked` the weights and statistics of `modules`, which it remembers, and return it."""
    stacked.sources = list(modules)
    for name in _STATE:
        parts = [getattr(module, name, None) for module in modules]
        if parts[0] is not None:
            joined = torch.cat([part.detach() for part in parts])
            setattr(stacked, name, nn.Parameter(joined) if isinstance(parts[0], nn.Parameter) else joined)
    return stacked


def _conv(convs: Sequence[nn.Conv2d]) -> nn.Conv2d:
    first, groups = convs[0], len(convs)
    if first.padding_mode != "zeros":
        raise NbpkgError(f"a convolution with padding_mode {first.padding_mode!r} cannot be stacked")
    # On meta, since the weights are replaced: drawing them first would cost as much as a training step.
    stacked = nn.Conv2d(
        groups * first.in_channels, groups * first.out_channels, first.kernel_size, first.stride,
        first.padding, first.dilation, groups * first.groups, first.bias is not None, device="meta",
    )  # fmt: skip
    return _join(stacked, convs)


def _norm(norms: Sequence[nn.BatchNorm2d]) -> nn.BatchNorm2d:
    first = norms[0]
    if not (first.affine and first.track_running_stats and first.momentum is not None):
        raise NbpkgError("only batch norms with weights, running statistics and a momentum can be stacked")
    return _join(nn.BatchNorm2d(len(norms) * first.num_features, first.eps, first.momentum), norms)


@functools.cache
def _pool_matrix(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What the cell's pooling does to a picture of one channel, as a matrix (pixels, pixels)."""
    pixels = torch.eye(height * width, device=device, dtype=dtype).view(-1, 1, height, width)
    return F.avg_pool2d(pixels, 3, 1, 1, count_include_pad=False).flatten(1)


def _pooled(value: Tensor) -> Tensor:
    """Average pooling, 3x3 and borders not counted, over the last two dimensions of (..., h, w)."""
    if value.device.type == "cpu" and value[0, 0, 0].numel() <= _DENSE_PIXELS:
        matrix = _pool_matrix(*value.shape[-2:], value.device, value.dtype)
        return (value.reshape(-1, len(matrix)) @ matrix).view(value.shape)
    return F.avg_pool2d(value.flatten(1, 2), 3, 1, 1, count_include_pad=False).view(value.shape)


class MixedCell(nn.Module):
    """Cells of different operations side by side: (batch, G*channels, h, w) -> same shape.

    The edges that leave a node with the same operation are one grouped operation, over all the networks: at
    most four operations a node, however many networks there are. keys: (node, key of the operation), in the
    order of computing. targets: key -> (node that is added to, first and one past the last of the groups that
    are added).
    """

    def __init__(self, cells: Sequence[Cell]):
        super().__init__()
        self.groups = len(cells)
        self.keys: list[tuple[int, str]] = []
        self.joint = nn.ModuleDict()
        self.targets: dict[str, list[tuple[int, int, int]]] = {}
        found: dict[tuple[int, str], list[tuple[int, int, str]]] = {}
        for group, cell in enumerate(cells):
            for (start, end), (name, module) in zip(cell.plan, cell.edges.items(), strict=True):
                kind = _kind(module)
                if kind != "zero":  # `none`, kept on request, adds nothing
                    found.setdefault((start, kind), []).append((end, group, name))
        for start, kind in sorted(found):
            edges = sorted(found[start, kind])
            key = f"{start}_{kind}"
            self.keys.append((start, key))
            ends = [end for end, _, _ in edges]
            self.targets[key] = [
                (end, ends.index(end), ends.index(end) + ends.count(end)) for end in sorted(set(ends))
            ]
            picks = torch.tensor([group for _, group, _ in edges])
            self.register_buffer(f"pick_{key}", picks, persistent=False)
            modules = [cells[group].edges[name] for _, group, name in edges]
            if kind.startswith("conv"):
                convs, norms = zip(*((module[1], module[2]) for module in modules), strict=True)
                self.joint[key] = nn.Sequential(_conv(convs), _norm(norms))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels = len(x), x.shape[1] // self.groups
        shape = (batch, self.groups, channels, *x.shape[2:])
        nodes: dict[int, Tensor] = {0: x.view(shape)}
        active: dict[int, Tensor] = {}
        for start, key in self.keys:
            source, pick = nodes[start], getattr(self, f"pick_{key}")
            if "conv" in key:
                if start not in active:
                    active[start] = F.relu(source)
                source = active[start]
            value = source.index_select(1, pick)
            if key.endswith("pool"):
                value = _pooled(value)
            elif key in self.joint:
                value = self.joint[key](value.flatten(1, 2)).view(batch, len(pick), *shape[2:])
            for end, low, high in self.targets[key]:
                if end not in nodes:
                    nodes[end] = x.new_zeros(shape)
                # In place: a node is complete before anything reads it.
                nodes[end].index_add_(1, pick[low:high], value[:, low:high])
        if OUTPUT_NODE not in nodes:
            return x * 0.0
        return nodes[OUTPUT_NODE].flatten(1, 2)


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.Sequential):
        return f"conv{module[1].kernel_size[0]}"
    return {nn.Identity: "skip", nn.AvgPool2d: "pool"}.get(type(module), "zero")


def stack(modules: Sequence[nn.Module]) -> nn.Module:
    """One module that runs all `modules` side by side; the modules themselves are left as they are.

    They must be equal in everything but weights, except that NAS-Bench-201 networks may differ in their
    cells. Input (batch, G*3, h, w), networks' inputs side by side; output (batch, G*classes).

    Raises NbpkgError for networks of different shape and for layers that cannot be stacked.
    """
    modules = list(modules)
    if not modules:
        raise NbpkgError("there is no network to stack")
    first, kind = modules[0], type(modules[0]).__name__
    if any(type(module) is not type(first) for module in modules):
        names = sorted({type(module).__name__ for module in modules})
        raise NbpkgError(f"networks of different shape cannot be stacked: {' and '.join(names)}")
    makers = {Cell: MixedCell, nn.Conv2d: _conv, nn.BatchNorm2d: _norm, nn.Linear: StackedLinear}
    own = [[(name, p.shape) for name, p in module.named_parameters(recurse=False)] for module in modules]
    names = [[name for name, _ in module.named_children()] for module in modules]
    if type(first) is not Cell and (own.count(own[0]) < len(own) or names.count(names[0]) < len(names)):
        raise NbpkgError(f"networks of different shape cannot be stacked: {kind} differs")
    if type(first) in makers:
        return makers[type(first)](modules)
    if own[0] or list(first.buffers(recurse=False)):
        raise NbpkgError(f"{kind} holds weights of its own and cannot be stacked")
    if not names[0] and not isinstance(first, (*_CHANNELWISE, nn.Sequential)):
        raise NbpkgError(f"a layer of type {kind} cannot be stacked")
    stacked = copy.copy(first)
    stacked._modules = {name: stack([getattr(module, name) for module in modules]) for name in names[0]}
    return stacked


@torch.no_grad()
def unstack(stacked: nn.Module) -> None:
    """Copy the weights and statistics of `stack(modules)` back into those modules."""
    for joint in stacked.modules():
        sources = getattr(joint, "sources", [])
        for name in _STATE if sources else ():
            joined = getattr(joint, name, None)
            if joined is not None:
                for piece, module in zip(joined.chunk(len(sources)), sources, strict=True):
                    getattr(module, name).copy_(piece)
