"""Directed acyclic graphs to vectors and back: recurrent message passing along the order of the vertices.

What MetaD2A (Lee et al., ICLR 2021) takes from D-VAE (Zhang et al., NeurIPS 2019): `GraphEncoder` here reads
a graph in both directions, `GraphDecoder` in ``nbpkg.nets.dag_decoder`` writes one vertex by vertex.

A batch of graphs is two dense tensors: ``types``, int64 (batch, vertices), and ``adjacency``, bool (batch,
vertices, vertices), where ``adjacency[b, u, v]`` is the edge from u to v; every edge has u < v. A graph of
fewer vertices has `PADDING` as the types of the others and no edges there. An adjacency of shape (vertices,
vertices) stands for one that all graphs share. Computing goes over the vertices, never over the graphs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbpkg.errors import NbpkgError

#: Types of the first and of the last vertex of a graph, and of vertices that are not there.
START, END, PADDING = 0, 1, -1


class TypeGRU(nn.GRUCell):
    """A GRU cell whose input is the type of a vertex, one-hot: the product with it is a look-up."""

    def table(self) -> Tensor:
        """What each type contributes to the three gates: (types, 3 hidden)."""
        return self.weight_ih.t() + self.bias_ih

    def step(self, inputs: Tensor, state: Tensor | None) -> Tensor:
        """inputs: rows of the table (..., 3 hidden); state (..., hidden), None for zeros -> (..., hidden)."""
        if state is None:
            state = inputs.new_zeros(inputs.shape[-1] // 3)
        gates = F.linear(state, self.weight_hh, self.bias_hh)
        both = 2 * self.hidden_size
        reset, keep = (inputs[..., :both] + gates[..., :both]).sigmoid().chunk(2, -1)
        return torch.lerp((inputs[..., both:] + reset * gates[..., both:]).tanh(), state, keep)


class Messages(nn.Module):
    """What a vertex u sends along its edges: sigmoid(G [h_u; onehot(u)] + b) * M [h_u; onehot(u)].

    The terms of D-VAE's gated sum, with the position of the vertex beside its state.
    """

    def __init__(self, vertices: int, hidden: int):
        super().__init__()
        self.gate = nn.Linear(hidden + vertices, hidden)
        self.map = nn.Linear(hidden + vertices, hidden, bias=False)

    def joined(self) -> tuple[Tensor, Tensor]:
        """Both layers as one for each vertex: weight (2 hidden, hidden), biases (vertices, 2 hidden)."""
        hidden = self.gate.out_features
        weight = torch.cat([self.gate.weight[:, :hidden], self.map.weight[:, :hidden]])
        gate = self.gate.weight[:, hidden:].t() + self.gate.bias
        return weight, torch.cat([gate, self.map.weight[:, hidden:].t()], 1)


def message(states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What a vertex sends, by `Messages.joined` and its row of the biases: (..., hidden) -> (..., hidden)."""
    gate, value = F.linear(states, weight, bias).chunk(2, -1)
    return gate.sigmoid() * value


def check_graphs(types: Tensor, adjacency: Tensor, n_types: int, vertices: int) -> tuple[Tensor, Tensor]:
    """Which vertices are there, bool (batch, n), and the edges of each graph, bool (batch, n, n).

    Raises NbpkgError for anything but batches of graphs of `n_types` types and up to so many vertices.
    """
    if types.dim() != 2 or types.shape[1] > vertices or 0 in types.shape or types.dtype != torch.int64:
        raise NbpkgError(
            f"types must be int64 (batch, up to {vertices}), not {types.dtype} {tuple(types.shape)}"
        )
    batch, size = types.shape
    if adjacency.shape not in ((size, size), (batch, size, size)) or adjacency.dtype != torch.bool:
        raise NbpkgError(
            f"the adjacency of {batch} graphs must be bool ({size}, {size}) or ({batch}, {size}, {size}), "
            f"not {adjacency.dtype} {tuple(adjacency.shape)}"
        )
    there = types != PADDING
    if ((types < PADDING) | (types >= n_types)).any() or not there[:, 0].all():
        raise NbpkgError(f"types must be 0 to {n_types - 1}, and {PADDING} after the last vertex")
    full = bool(there.all())
    if not full and (there[:, 1:] & ~there[:, :-1]).any():
        raise NbpkgError("a graph's vertices must come before its padding")
    edges = adjacency.expand(batch, size, size)
    if adjacency.tril().any() or (not full and (edges & ~(there[:, None] & there[:, :, None])).any()):
        raise NbpkgError("edges must go from an earlier vertex of a graph to a later one")
    return there, edges


class GraphEncoder(nn.Module):
    """Graphs to vectors: types (batch, n), adjacency -> (batch, code), as MetaD2A's predictor reads them.

    One sweep from the first vertex to the last, another back; in either, a vertex's state is h_v =
    GRU(onehot(type_v), sum of its neighbours' `Messages`), zero where it has none. The last states of both
    sweeps, that of the output and that of the input, go through two linear layers. vertices: at most so many
    in a graph.

    Raises NbpkgError for sizes below 1 and for graphs that are none.
    """

    def __init__(self, types: int = 7, vertices: int = 8, hidden: int = 512, code: int = 56):
        super().__init__()
        check_sizes(types=types, vertices=vertices, hidden=hidden, code=code)
        self.types, self.vertices = types, vertices
        self.cells = nn.ModuleList(TypeGRU(types, hidden) for _ in range(2))
        self.messages = nn.ModuleList(Messages(vertices, hidden) for _ in range(2))
        self.unify = nn.Linear(2 * hidden, hidden)
        self.out = nn.Linear(hidden, code)

    def forward(self, types: Tensor, adjacency: Tensor) -> Tensor:
        there, edges = check_graphs(types, adjacency, self.types, self.vertices)
        group = types.new_zeros(len(types))
        if adjacency.dim() == 3:
            group = torch.unique(adjacency.flatten(1), dim=0, return_inverse=True)[1]
        last = there.sum(1) - 1
        onward = self._sweep(0, types, edges, group, range(types.shape[1]))
        back = self._sweep(1, types, edges.mT, group, range(types.shape[1] - 1, -1, -1))
        spread = [states[rows] for states, rows in (onward[v] for v in sorted(set(last.tolist())))]
        ends = spread[0]
        if len(spread) > 1:
            place = torch.unique(last, return_inverse=True)[1]
            ends = torch.stack(spread, 1)[torch.arange(len(types), device=types.device), place]
        states, rows = back[0]
        return self.out(self.unify(torch.cat([ends, states[rows]], 1)))

    def _sweep(
        self, way: int, types: Tensor, edges: Tensor, group: Tensor, order: range
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """For each vertex, its different states (k, hidden) and which of them each graph has (batch,).

        Graphs that agree in their edges and in all types so far have the same state, and it is computed
        once: 1, 5, 25, ... times at the first vertices of cells. group: graphs of the same edges.
        """
        cell, table = self.cells[way], self.cells[way].table()
        weight, biases = self.messages[way].joined()
        everywhere, somewhere = edges.all(0).tolist(), edges.any(0).tolist()
        found: dict[int, tuple[Tensor, Tensor]] = {}
        sent: dict[int, Tensor] = {}
        for place, v in enumerate(order):
            key = group * (self.types + 1) + types[:, v] - PADDING
            _, group = torch.unique(key, return_inverse=True)
            first = _representatives(group)
            total = None
            for u in (u for u in order[:place] if somewhere[u][v]):
                coming = sent[u][found[u][1][first]]
                if not everywhere[u][v]:
                    coming = coming * edges[first, u, v, None]
                total = coming if total is None else total + coming
            states = cell.step(F.embedding(types[first, v].clamp(min=0), table), total)
            if any(somewhere[v]):
                sent[v] = message(states, weight, biases[v])
            found[v] = states, group
        return found


def _representatives(group: Tensor) -> Tensor:
    """Of each group 0, 1, ... the number of one member: int64 (batch,) -> (groups,)."""
    members = torch.arange(len(group), device=group.device)
    return members.new_empty(int(group.max()) + 1).scatter_(0, group, members)


def check_sizes(**sizes: int) -> None:
    """Raise NbpkgError that names the first size below 1."""
    wrong = {name: size for name, size in sizes.items() if size < 1}
    if wrong:
        raise NbpkgError(f"{next(iter(wrong))} is too small for graphs")
