"""MetaD2A's two networks, put together from sets, graphs and their decoder (Lee et al., ICLR 2021).

`Generator` turns a labelled set of images into a distribution of cells, `Predictor` says how accurate a cell
will be on a data set. Default sizes are the published ones. Chapter `02_metad2a` explains and trains them;
others use them as a baseline or as a guide.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbpkg.errors import NbpkgError
from nbpkg.nets import cellgraphs
from nbpkg.nets.dag import GraphEncoder
from nbpkg.nets.dag_decoder import GraphDecoder, Latent, kl
from nbpkg.nets.settransformer import DatasetEncoder


class Generator(nn.Module):
    """Data sets to cells: `DatasetEncoder`, `Latent`, `GraphDecoder`.

    inputs: features of an image. width: of the codes of data sets and graphs. hidden: of the decoder's
    states. standardise: scale the codes of data sets, which the published networks do not; without it they
    hardly differ at first, and much training passes before the data set plays a part.
    """

    def __init__(self, inputs: int = 512, width: int = 56, hidden: int = 56, standardise: bool = False):
        super().__init__()
        self.sets = DatasetEncoder(inputs, width)
        if standardise:  # to mean 0 and variance 1 over a batch, over training at test
            self.sets = nn.Sequential(self.sets, nn.BatchNorm1d(width, eps=1e-8, affine=False))
        self.latent, self.graphs = Latent(width, width), GraphDecoder(latent=width, hidden=hidden)

    def loss(
        self, sets: Tensor, types: Tensor, adjacency: Tensor, weight: float = 0.005,
        draws: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Negative log-likelihood and `weight` times KL, in nats, summed over the batch.

        sets (batch, classes, images, inputs), each with its graph: types (batch, 8), adjacency (8, 8). draws:
        of the noise on the codes in training mode.
        """
        z, mean, log_variance = self.latent(self.sets(sets), draws)
        of_types, of_edges = self.graphs.log_likelihood(z, types, adjacency)
        return (weight * kl(mean, log_variance) - of_types - of_edges).sum()

    @torch.no_grad()
    def draw(self, sets: Tensor, n: int, draws: torch.Generator | None = None) -> cellgraphs.Drawn:
        """n distinct cells for a target, of which several sets are drawn: (sets, classes, images, inputs).

        Each set is encoded once, and the graphs go round the sets. Errors: see `cellgraphs.draw`.
        """
        return cellgraphs.draw(self.graphs, self.latent(self.sets(sets))[1], n, draws)


class Predictor(nn.Module):
    """A cell's score on a data set: w tanh(W [v; g] + b), v of the `DatasetEncoder`, g of the `GraphEncoder`.

    pool: how sets are pooled, see `DatasetEncoder`. reads: what the score depends on, of "sets" and "graphs",
    both unless an ablation asks for one. standardise: scale v and g, see `Generator`; a batch must then hold
    two data sets or more. The first layer of the head is linear in [v; g], so that it is applied to sets and
    to graphs apart: scoring many graphs on many sets costs one pass over the sets and one over the graphs.

    Raises NbpkgError when nothing is read.
    """

    def __init__(
        self, inputs: int = 512, width: int = 56, hidden: int = 512, head: int = 512,
        pool: str = "attention", reads: tuple[str, ...] = ("sets", "graphs"), standardise: bool = False,
    ):  # fmt: skip
        super().__init__()
        if not reads or set(reads) - {"sets", "graphs"}:
            raise NbpkgError(f"a predictor reads 'sets', 'graphs' or both, not {reads!r}")
        self.sets = DatasetEncoder(inputs, width, pool=pool) if "sets" in reads else None
        self.graphs = GraphEncoder(hidden=hidden, code=width) if "graphs" in reads else None
        self.scales = nn.ModuleDict(
            {part: nn.BatchNorm1d(width, eps=1e-8, affine=False) for part in reads} if standardise else {}
        )
        self.hidden, self.out = nn.Linear(2 * width, head), nn.Linear(head, 1)

    def _scaled(self, part: str, codes: Tensor) -> Tensor:
        return self.scales[part](codes) if part in self.scales else codes

    def _halves(self, sets: Tensor, types: Tensor, adjacency: Tensor) -> tuple[Tensor, Tensor]:
        """W [v; g] + b split in W_v v + b, (sets, head), and W_g g, (graphs, head); v or g not read: 0."""
        of_sets, of_graphs = self.hidden.weight.split(self.hidden.in_features // 2, 1)
        left = self.hidden.bias.expand(len(sets), -1)
        right = left.new_zeros(len(types), left.shape[1])
        if self.sets is not None:
            left = left + F.linear(self._scaled("sets", self.sets(sets)), of_sets)
        if self.graphs is not None:
            right = F.linear(self._scaled("graphs", self.graphs(types, adjacency)), of_graphs)
        return left, right

    def paired(self, sets: Tensor, types: Tensor, adjacency: Tensor) -> Tensor:
        """The score of each graph on the set of its row: types (batch, 8) -> (batch,).

        sets: (batch, classes, images, inputs). adjacency: (8, 8).
        Several graphs to a set, (batch, graphs, 8) -> (batch, graphs), share its encoding.
        """
        left, right = self._halves(sets, types.flatten(0, -2), adjacency)
        right = right.unflatten(0, types.shape[:-1])
        return self.out((left.view(len(left), *[1] * (types.dim() - 2), -1) + right).tanh()).squeeze(-1)

    def forward(self, sets: Tensor, types: Tensor, adjacency: Tensor) -> Tensor:
        """The score of every graph, averaged over sets of one target: types (graphs, 8) -> (graphs,).

        sets: (sets, classes, images, inputs). adjacency: (8, 8).
        """
        left, right = self._halves(sets, types, adjacency)
        return self.out(sum((right + row).tanh() for row in left) / len(left)).squeeze(-1)
