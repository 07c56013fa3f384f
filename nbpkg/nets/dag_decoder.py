"""Codes to directed acyclic graphs: the generator's half that follows the encoder of data sets in MetaD2A.

`Latent` turns the vector of a data set into a distribution of codes, `GraphDecoder` writes a graph for a
code, vertex by vertex and edge by edge (Lee et al., ICLR 2021, after D-VAE, Zhang et al., NeurIPS 2019).
Batches of graphs are as in ``nbpkg.nets.dag``; computing goes over the vertices, never over the graphs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbpkg.errors import NbpkgError
from nbpkg.nets.dag import END, PADDING, START, Messages, TypeGRU, check_graphs, message


class Latent(nn.Module):
    """Vectors of data sets to codes of graphs: (batch, inputs) -> code, mean, log variance, (batch, latent).

    Mean and log variance are linear in the vector. In training mode the code is mean + noise * e * sigma with
    e standard normal; the published noise is 0.01, so that the code all but is the mean. In evaluation mode
    it is the mean: what is random then is the images that were drawn, and the decisions of the decoder.
    """

    def __init__(self, inputs: int = 56, latent: int = 56, noise: float = 0.01):
        super().__init__()
        self.mean, self.log_variance = nn.Linear(inputs, latent), nn.Linear(inputs, latent)
        self.noise = noise

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.mean(x), self.log_variance(x)
        if not self.training:
            return mean, mean, log_variance
        e = _random(torch.randn, mean.shape, mean, generator)
        return mean + self.noise * e * (log_variance / 2).exp(), mean, log_variance


def kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) in nats, summed over a code: (batch, latent) twice -> (batch,)."""
    return (log_variance.exp() + mean**2 - 1 - log_variance).sum(-1) / 2


class GraphDecoder(nn.Module):
    """Codes to graphs, one decision after the other, as MetaD2A's generator and D-VAE's decoder take them.

    h_0 = GRU(onehot(START), tanh(W z)). At vertex v the type is drawn given h_{v-1}; then, for u = v-1 down
    to 0, h_v = GRU(onehot(type_v), sum of the `Messages` of the neighbours accepted so far) and the edge
    u -> v is drawn given h_u and h_v. After the last decision h_v is computed once more. A graph ends with a
    vertex of type END. The same layers serve every vertex.

    Raises NbpkgError for sizes below 1 and for graphs and codes that are none.
    """

    def __init__(self, types: int = 7, vertices: int = 8, latent: int = 56, hidden: int = 56):
        super().__init__()
        if min(types - 1, vertices - 1, latent, hidden) < 1:
            raise NbpkgError(f"sizes too small for graphs: {types=}, {vertices=}, {latent=}, {hidden=}")
        self.types, self.vertices, self.latent, self.hidden = types, vertices, latent, hidden
        self.enter = nn.Linear(latent, hidden)
        self.cell = TypeGRU(types, hidden)
        self.messages = Messages(vertices, hidden)
        self.type_head = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, types))
        self.edge_head = nn.Sequential(nn.Linear(2 * hidden, 4 * hidden), nn.ReLU(), nn.Linear(4 * hidden, 1))

    def _check_codes(self, z: Tensor) -> None:
        if z.dim() != 2 or z.shape[1] != self.latent:
            raise NbpkgError(f"codes must be (batch, {self.latent}), not {tuple(z.shape)}")

    def log_likelihood(self, z: Tensor, types: Tensor, adjacency: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities, in nats, of the graphs' types and of their edges, (batch,) each.

        z: (batch, latent). types, adjacency: (batch, n) and (n, n), see ``nbpkg.nets.dag``.
        Teacher forcing: every decision is given the true ones before it. All types after the first count,
        that of the last vertex too, and all pairs of vertices, although `sample` decides by rules what the
        last vertex is and what enters an output: so does the published loss. Between two decisions of a
        vertex its state changes by the sum of the messages accepted so far, which is a cumulative sum, so
        that one step of the GRU gives all its states.
        """
        check_graphs(types, adjacency, self.types, self.vertices)
        self._check_codes(z)
        if len(z) != len(types) or (types[:, 0] != START).any():
            raise NbpkgError(f"{len(z)} codes need as many graphs, whose first vertex has type {START}")
        inputs = F.embedding(types, self.cell.table())
        weight, biases = self.messages.joined()
        states = [self.cell.step(inputs[:, 0], self.enter(z).tanh())]
        messages: list[Tensor] = []
        between = []
        for v in range(1, types.shape[1]):
            messages.insert(0, message(states[-1], weight, biases[v - 1]))
            sums = (torch.stack(messages, 1) * adjacency[:v, v].flip(0)[:, None]).cumsum(1)
            steps = self.cell.step(inputs[:, v, None], F.pad(sums, (0, 0, 1, 0)))  # (batch, v + 1, hidden)
            between.append(steps[:, :-1])
            states.append(steps[:, -1])
        if not between:
            return z.new_zeros(len(z)), z.new_zeros(len(z))
        before = torch.stack(states[:-1], 1)
        scores = self.type_head(before).log_softmax(-1).gather(-1, types[:, 1:, None]).squeeze(-1)
        pairs = [(u, v) for v in range(1, types.shape[1]) for u in range(v - 1, -1, -1)]
        u, v = torch.tensor(pairs, device=types.device).T
        first, _, second = self.edge_head
        left, right = first.weight.split(self.hidden, 1)
        hidden = F.linear(before, left)[:, u] + F.linear(torch.cat(between, 1), right, first.bias)
        logits = second(hidden.relu()).squeeze(-1)
        chosen = F.logsigmoid(torch.where(adjacency[u, v], logits, -logits))
        return scores.sum(1), chosen.sum(1)

    @torch.no_grad()
    def sample(self, z: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """One graph for each code, (batch, latent): types (batch, n), adjacency (batch, n, n), n = vertices.

        A vertex of type END takes an edge from every vertex that has no other; the last that there is room
        for is of this type. A graph that ends earlier has `PADDING` as the types of the vertices after it.
        generator: of any device; the same one gives the same graphs everywhere, up to rounding.
        """
        self._check_codes(z)
        batch, size = len(z), self.vertices
        uniform = _random(torch.rand, (batch, size, 1 + size), z, generator)
        types = torch.full((batch, size), PADDING, device=z.device)
        edges = torch.zeros(batch, size, size, dtype=torch.bool, device=z.device)
        types[:, 0] = START
        first = self.edge_head[0]
        weight, biases = self.messages.joined()
        table = self.cell.table()
        state = self.cell.step(table[types[:, 0]], self.enter(z).tanh())
        sent, halves = [], []
        growing = torch.ones(batch, dtype=torch.bool, device=z.device)
        for v in range(1, size):
            sent.append(message(state, weight, biases[v - 1]))
            halves.append(F.linear(state, first.weight[:, : self.hidden], first.bias))
            if v == size - 1:
                kind = torch.full_like(types[:, 0], END)
            else:
                heights = self.type_head(state).softmax(-1).cumsum(-1)
                kind = (uniform[:, v, :1] >= heights / heights[:, -1:]).sum(1)
            types[:, v] = torch.where(growing, kind, PADDING)
            ends = growing & (kind == END)
            growing &= kind != END
            edges[:, :v, v] = ends[:, None] & ~edges[:, :v].any(2)
            if not growing.any():
                break
            state = self._connect(table[kind], sent, halves, uniform[:, v, 1:], growing, edges[:, :v, v])
        return types, edges

    def _connect(
        self, inputs: Tensor, sent: list[Tensor], halves: list[Tensor], uniform: Tensor, growing: Tensor,
        edges: Tensor,
    ) -> Tensor:  # fmt: skip
        """Decide the edges into one vertex of each growing graph, the latest sender first; its state after.

        inputs: (batch, 3 hidden), of the vertex's type. sent, halves: of each sender its message (batch,
        hidden) and its share of the edge head's first layer. uniform: (batch, n) random numbers in [0, 1).
        growing: bool (batch,). edges: bool (batch, senders), set where an edge is taken. -> (batch, hidden).
        """
        first, _, second = self.edge_head
        right = first.weight[:, self.hidden :]
        state = self.cell.step(inputs, None)
        total, half = torch.zeros_like(state), F.linear(state, right)
        for u in range(len(sent) - 1, -1, -1):
            share = second((halves[u] + half).relu()).squeeze(-1).sigmoid()
            taken = growing & (uniform[:, u] < share)
            edges[:, u] |= taken
            rows = taken.nonzero().squeeze(1)
            if len(rows):  # the others' states have not changed
                total[rows] += sent[u][rows]
                state[rows] = self.cell.step(inputs[rows], total[rows])
                half[rows] = F.linear(state[rows], right)
        return state


def _random(draw, shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Numbers by draw (`torch.rand`, `torch.randn`) on the generator's device; type and device of `like`."""
    where = generator.device if generator is not None else like.device
    return draw(shape, generator=generator, dtype=like.dtype, device=where).to(like.device)
