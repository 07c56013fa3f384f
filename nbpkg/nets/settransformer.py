"""Sets to vectors: the blocks of the Set Transformer, and the encoder of data sets that is built from them.

The blocks are those of Lee et al., "Set Transformer" (ICML 2019), equations 6, 7, 8 and 11, in the form in
which MetaD2A (Lee et al., ICLR 2021) uses them: no layer norm, no dropout, four heads. Everything works on
batches of sets of one size, (..., n, features). The order of a set's elements changes no vector that
`SetPool`, `MeanPool` or `DatasetEncoder` gives (invariance), and permutes what `SAB` gives in the same way
(equivariance).
"""

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
    the paper on attention divides by that of a head's; so does this one.

    Raises NbpkgError where the width cannot be divided among the heads.
    """

    def __init__(self, queries: int, keys: int, width: int, heads: int = 4):
        super().__init__()
        if min(queries, keys, width, heads) < 1 or width % heads:
            raise NbpkgError(f"no attention of width {width} has {heads} heads ({queries}, {keys} inputs)")
        self.heads, self.scale = heads, 1 / math.sqrt(width)
        self.query, self.key, self.value = (nn.Linear(size, width) for size in (queries, keys, keys))
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        if queries is keys:  # one product instead of three: the elements are read once
            layers = (self.query, self.key, self.value)
            weight = torch.cat([layer.weight for layer in layers])
            q, k, v = F.linear(queries, weight, torch.cat([layer.bias for layer in layers])).chunk(3, -1)
        else:
            q, k, v = self.query(queries), self.key(keys), self.value(keys)
        # (..., heads, elements, width / heads); written out, it is faster than torch's own for small sets.
        by_head = (part.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for part in (q * self.scale, k, v))
        q_heads, k_heads, v_heads = by_head
        seen = (q_heads @ k_heads.mT).softmax(-1) @ v_heads
        return self._rest(q, seen.transpose(-3, -2).flatten(-2))

    def shared(self, queries: Tensor, keys: Tensor) -> Tensor:
        """The same for few queries, (m, queries), that all sets share: -> (..., m, width).

        q k^T is linear in the elements, and the mean of the values is the value of the mean, so that neither
        keys nor values are made for every element.
        """
        q = self.query(queries)
        by_head = (q * self.scale).unflatten(-1, (self.heads, -1)).transpose(0, 1)  # (heads, m, ...)
        probes = by_head @ self.key.weight.unflatten(0, (self.heads, -1))
        shifts = by_head @ self.key.bias.view(self.heads, -1, 1)
        scores = F.linear(keys, probes.flatten(0, 1), shifts.flatten()).mT
        means = (scores.softmax(-1) @ keys).unflatten(-2, (self.heads, -1))
        values = torch.einsum("...hmk,hek->...mhe", means, self.value.weight.unflatten(0, (self.heads, -1)))
        return self._rest(q, values.flatten(-2) + self.value.bias)

    def _rest(self, q: Tensor, seen: Tensor) -> Tensor:
        h = q + seen
        return h + F.relu(self.out(h))


class SAB(nn.Module):
    """Attention within a set, MAB(X, X): (..., n, inputs) -> (..., n, width) (Lee et al., 2019, eq. 8)."""

    def __init__(self, inputs: int, width: int, heads: int = 4):
        super().__init__()
        self.mab = MAB(inputs, inputs, width, heads)

    def forward(self, x: Tensor) -> Tensor:
        return self.mab(x, x)


class PMA(nn.Module):
    """Pooling by attention, MAB(S, X) with one learned seed S: (..., n, width) -> (..., 1, width).

    Lee et al., 2019, equation 11, without the row-wise layer before it, which the published code leaves out.
    The seed is drawn as Glorot and Bengio draw weights, as in the published code.
    """

    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        self.seeds = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, width)))
        self.mab = MAB(width, width, width, heads)

    def forward(self, x: Tensor) -> Tensor:
        return self.mab.shared(self.seeds, x)


class SetPool(nn.Module):
    """SAB, SAB, PMA with one seed, linear: (..., n, inputs) -> (..., width), as MetaD2A pools a set."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.blocks = nn.ModuleList(SAB(size, width) for size in (inputs, width))
        self.pool = PMA(width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.out(self.pool(x).squeeze(-2))


class MeanPool(nn.Module):
    """The mean of a set, then a linear layer: (..., n, inputs) -> (..., width), in place of `SetPool`.

    The mean of a linear function of the elements, as TANS encodes a data set (Jeong et al., NeurIPS 2021) up
    to the length of the vector; two levels of it are a linear function of the mean of the classes' means.
    """

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.out = nn.Linear(inputs, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.mean(-2))


class DatasetEncoder(nn.Module):
    """Labelled sets of images to vectors: (tasks, classes, images, inputs) -> (tasks, width).

    Two levels, as MetaD2A has them: the images of a class are pooled to its prototype, the prototypes to
    the vector of the data set. Neither the order of the classes nor that of a class's images matters. pool:
    "attention" (`SetPool`, as published) or "mean" (`MeanPool`, the ablation).

    Raises NbpkgError for an unknown pool, and for sets that do not fit.
    """

    def __init__(self, inputs: int = 512, width: int = 56, pool: str = "attention"):
        super().__init__()
        kinds = {"attention": SetPool, "mean": MeanPool}
        if pool not in kinds:
            raise NbpkgError(f"no pooling is called {pool!r}; take 'attention' or 'mean'")
        self.inputs = inputs
        self.images, self.classes = (kinds[pool](size, width) for size in (inputs, width))

    def forward(self, sets: Tensor) -> Tensor:
        if sets.dim() != 4 or sets.shape[-1] != self.inputs or 0 in sets.shape:
            raise NbpkgError(f"sets must be (tasks, classes, images, {self.inputs}), not {tuple(sets.shape)}")
        return self.classes(self.images(sets))
