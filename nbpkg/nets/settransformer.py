"""Sets to vectors: the blocks of the Set Transformer, and the encoder of data sets that is built from them.

The blocks are those of Lee et al., "Set Transformer" (ICML 2019), equations 6 to 11, in the form in which
MetaD2A (Lee et al., ICLR 2021) uses them: no layer norm, no dropout, four heads. Everything
works on batches of sets, (..., n, features). Sets of different sizes are padded, and a mask (..., n) says
which elements are there, one at least; what stands in the others, while it is finite, changes nothing. The
order of a set's elements changes no vector that `SetPool`, `MeanPool` or `DatasetEncoder` gives (invariance),
and permutes what `SAB` and `ISAB` give in the same way (equivariance).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbpkg.errors import NbpkgError


class MAB(nn.Module):
    """Attention of a set to another: (..., m, queries) and (..., n, keys) -> (..., m, width).

    With q, k, v linear in Q, K, K, and for each head the columns that belong to it,

        H = q + softmax(q k^T / sqrt(width)) v,    MAB(Q, K) = H + ReLU(W H + b)

    (Lee et al., 2019, equations 6 and 7). The published code divides by the root of the whole width where
    the paper on attention divides by that of a head's; so does this one. norm: a layer norm after either
    sum, as in the Set Transformer; MetaD2A has none.

    Raises NbpkgError where the width cannot be divided among the heads.
    """

    def __init__(self, queries: int, keys: int, width: int, heads: int = 4, norm: bool = False):
        super().__init__()
        if min(queries, keys, width, heads) < 1 or width % heads:
            raise NbpkgError(f"no attention of width {width} has {heads} heads ({queries}, {keys} inputs)")
        self.heads, self.scale = heads, 1 / math.sqrt(width)
        self.query, self.key, self.value = (nn.Linear(size, width) for size in (queries, keys, keys))
        self.out = nn.Linear(width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) if norm else nn.Identity() for _ in range(2))

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: bool (..., n), True where a key is there."""
        if queries is keys:  # one product instead of three: the elements are read once
            layers = (self.query, self.key, self.value)
            weight = torch.cat([layer.weight for layer in layers])
            q, k, v = F.linear(queries, weight, torch.cat([layer.bias for layer in layers])).chunk(3, -1)
        else:
            q, k, v = self.query(queries), self.key(keys), self.value(keys)
        # (..., heads, elements, width / heads); written out, it is faster than torch's own for small sets.
        by_head = (part.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for part in (q * self.scale, k, v))
        q_heads, k_heads, v_heads = by_head
        scores = q_heads @ k_heads.mT
        if mask is not None:
            scores = scores.masked_fill(~mask[..., None, None, :], -torch.inf)
        seen = scores.softmax(-1) @ v_heads
        return self._rest(q, seen.transpose(-3, -2).flatten(-2))

    def shared(self, queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """The same for few queries, (m, queries), that all sets share: -> (..., m, width).

        q k^T is linear in the elements, and the mean of the values is the value of the mean, so that neither
        keys nor values are made for every element.
        """
        q = self.query(queries)
        by_head = (q * self.scale).unflatten(-1, (self.heads, -1)).transpose(0, 1)  # (heads, m, ...)
        probes = by_head @ self.key.weight.unflatten(0, (self.heads, -1))
        shifts = by_head @ self.key.bias.view(self.heads, -1, 1)
        scores = F.linear(keys, probes.flatten(0, 1), shifts.flatten()).mT
        if mask is not None:
            scores = scores.masked_fill(~mask[..., None, :], -torch.inf)
        means = (scores.softmax(-1) @ keys).unflatten(-2, (self.heads, -1))
        values = torch.einsum("...hmk,hek->...mhe", means, self.value.weight.unflatten(0, (self.heads, -1)))
        return self._rest(q, values.flatten(-2) + self.value.bias)

    def _rest(self, q: Tensor, seen: Tensor) -> Tensor:
        h = self.norms[0](q + seen)
        return self.norms[1](h + F.relu(self.out(h)))


class SAB(nn.Module):
    """Attention within a set, MAB(X, X): (..., n, inputs) -> (..., n, width) (Lee et al., 2019, eq. 8)."""

    def __init__(self, inputs: int, width: int, heads: int = 4, norm: bool = False):
        super().__init__()
        self.mab = MAB(inputs, inputs, width, heads, norm)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.mab(x, x, mask)


class ISAB(nn.Module):
    """Attention within a set through few learned points I, MAB(X, MAB(I, X)): cost linear in its size.

    (..., n, inputs) -> (..., n, width) (Lee et al., 2019, equations 9 and 10). MetaD2A does not use it, the
    data set encoder of chapter 06 does. Raises NbpkgError for fewer than one point.
    """

    def __init__(self, inputs: int, width: int, points: int, heads: int = 4, norm: bool = False):
        super().__init__()
        self.points = _learned(points, width)
        self.gather = MAB(width, inputs, width, heads, norm)
        self.spread = MAB(inputs, width, width, heads, norm)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.spread(x, self.gather(self.points.expand(*x.shape[:-2], -1, -1), x, mask))


class PMA(nn.Module):
    """Pooling by attention, MAB(S, X) with learned seeds S: (..., n, width) -> (..., seeds, width).

    Lee et al., 2019, equation 11, without the row-wise layer before it, which the published code leaves out.
    Raises NbpkgError for fewer than one seed.
    """

    def __init__(self, width: int, seeds: int = 1, heads: int = 4, norm: bool = False):
        super().__init__()
        self.seeds = _learned(seeds, width)
        self.mab = MAB(width, width, width, heads, norm)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.mab.shared(self.seeds, x, mask)


class SetPool(nn.Module):
    """SAB, SAB, PMA with one seed, linear: (..., n, inputs) -> (..., width), as MetaD2A pools a set.

    points: where given, ISAB with so many points takes the place of SAB. Padding may hold anything.
    """

    def __init__(
        self, inputs: int, width: int, heads: int = 4, points: int | None = None, norm: bool = False
    ):  # fmt: skip
        super().__init__()
        sizes = ((inputs, width), (width, width))
        self.blocks = nn.ModuleList(
            SAB(*size, heads, norm) if points is None else ISAB(*size, points, heads, norm) for size in sizes
        )
        self.pool = PMA(width, 1, heads, norm)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            x = x.where(mask[..., None], 0)
        for block in self.blocks:
            x = block(x, mask)
        return self.out(self.pool(x, mask).squeeze(-2))


class MeanPool(nn.Module):
    """The mean of a set, then a linear layer: (..., n, inputs) -> (..., width), in place of `SetPool`.

    The mean of a linear function of the elements, as TANS encodes a data set (Jeong et al., NeurIPS 2021) up
    to the length of the vector; two levels of it are a linear function of the mean of the classes' means.
    """

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.out = nn.Linear(inputs, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            return self.out(x.mean(-2))
        return self.out(x.where(mask[..., None], 0).sum(-2) / mask.sum(-1, keepdim=True))


class DatasetEncoder(nn.Module):
    """Labelled sets of images to vectors: (tasks, classes, images, inputs) -> (tasks, width).

    Two levels, as MetaD2A has them: the images of a class are pooled to its prototype, the prototypes to
    the vector of the data set. Neither the order of the classes nor that of a class's images matters. pool:
    "attention" (`SetPool`, as published) or "mean" (`MeanPool`, the ablation).

    Raises NbpkgError for an unknown pool, and for sets, masks and tasks that do not fit.
    """

    def __init__(
        self, inputs: int = 512, width: int = 56, heads: int = 4, pool: str = "attention",
        points: int | None = None, norm: bool = False,
    ):  # fmt: skip
        super().__init__()
        if pool not in ("attention", "mean"):
            raise NbpkgError(f"no pooling is called {pool!r}; take 'attention' or 'mean'")
        self.inputs, self.width = inputs, width
        mean = pool == "mean"
        self.images, self.classes = (
            MeanPool(size, width) if mean else SetPool(size, width, heads, points, norm)
            for size in (inputs, width)
        )

    def prototypes(self, sets: Tensor, mask: Tensor | None = None) -> Tensor:
        """One vector a class: (tasks, classes, images, inputs) -> (tasks, classes, width).

        mask: bool (tasks, classes, images), True where an image is there. A class without images gives
        zeros. Classes without any are not computed.
        """
        if sets.dim() != 4 or sets.shape[-1] != self.inputs or 0 in sets.shape:
            raise NbpkgError(f"sets must be (tasks, classes, images, {self.inputs}), not {tuple(sets.shape)}")
        if mask is None:
            return self.images(sets)
        if mask.shape != sets.shape[:-1] or mask.dtype != torch.bool:
            raise NbpkgError(
                f"a mask of sets {tuple(sets.shape)} must be bool {tuple(sets.shape[:-1])}, "
                f"not {mask.dtype} {tuple(mask.shape)}"
            )
        there = mask.any(-1)
        if not there.any(-1).all():
            raise NbpkgError(f"task {int(there.any(-1).int().argmin())} has no image")
        pooled = self.images(sets[there], mask[there])
        return pooled.new_zeros(*there.shape, self.width).index_put(torch.where(there), pooled)

    def forward(self, sets: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: bool (tasks, classes, images), True where an image is there; a class may have none."""
        return self.classes(self.prototypes(sets, mask), None if mask is None else mask.any(-1))


def _learned(rows: int, width: int) -> nn.Parameter:
    """Learned elements (rows, width), drawn as Glorot and Bengio draw weights, as in the published code."""
    if rows < 1:
        raise NbpkgError(f"attention needs at least one learned element, not {rows}")
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(rows, width)))
