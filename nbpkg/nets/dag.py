"""Directed acyclic graphs to vectors and back: recurrent message passing along the order of the vertices.

What MetaD2A (Lee et al., ICLR 2021) takes from D-VAE (Zhang et al., NeurIPS 2019): `GraphEncoder` here reads
a graph in both directions, `GraphDecoder` in ``nbpkg.nets.dag_decoder`` writes one vertex by vertex.

A batch of graphs is two dense tensors: ``types``, int64 (batch, vertices), and ``adjacency``, bool (vertices,
vertices), which all graphs share; ``adjacency[u, v]`` is the edge from u to v, and every edge has u < v.
Computing goes over the vertices, never over the graphs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbpkg.errors import NbpkgError

#: Types of the first and of the last vertex of a graph, and of vertices after the last one of a drawn graph.
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


def check_graphs(types: Tensor, adjacency: Tensor, n_types: int, vertices: int) -> None:
    """Raise NbpkgError unless types (batch, n) and adjacency (n, n) are graphs: types from 0 to n_types - 1,
    n from 1 to `vertices`, edges from earlier vertices to later ones.
    """
    if types.dim() != 2 or types.shape[1] > vertices or 0 in types.shape or types.dtype != torch.int64:
        raise NbpkgError(
            f"types must be int64 (batch, up to {vertices}), not {types.dtype} {tuple(types.shape)}"
        )
    size = types.shape[1]
    if adjacency.shape != (size, size) or adjacency.dtype != torch.bool:
        raise NbpkgError(
            f"an adjacency must be bool ({size}, {size}), not {adjacency.dtype} {tuple(adjacency.shape)}"
        )
    if ((types < 0) | (types >= n_types)).any():
        raise NbpkgError(f"types must be 0 to {n_types - 1}")
    if adjacency.tril().any():
        raise NbpkgError("edges must go from an earlier vertex of a graph to a later one")


class GraphEncoder(nn.Module):
    """Graphs to vectors: types (batch, n), adjacency (n, n) -> (batch, code); MetaD2A's predictor reads them.

    One sweep from the first vertex to the last, another back; in either, a vertex's state is h_v =
    GRU(onehot(type_v), sum of its neighbours' `Messages`), zero where it has none. The last states of both
    sweeps, that of the output and that of the input, go through two linear layers. vertices: of a graph, at
    most.

    Raises NbpkgError for sizes below 1 and for graphs that are none.
    """

    def __init__(self, types: int = 7, vertices: int = 8, hidden: int = 512, code: int = 56):
        super().__init__()
        if min(types, vertices, hidden, code) < 1:
            raise NbpkgError(f"sizes too small for graphs: {types=}, {vertices=}, {hidden=}, {code=}")
        self.types, self.vertices = types, vertices
        self.cells = nn.ModuleList(TypeGRU(types, hidden) for _ in range(2))
        self.messages = nn.ModuleList(Messages(vertices, hidden) for _ in range(2))
        self.unify = nn.Linear(2 * hidden, hidden)
        self.out = nn.Linear(hidden, code)

    def forward(self, types: Tensor, adjacency: Tensor) -> Tensor:
        where, types, adjacency = types.device, types.cpu(), adjacency.cpu()
        check_graphs(types, adjacency, self.types, self.vertices)
        order = range(types.shape[1])
        onward = self._sweep(0, *self._grouped(types, adjacency.tolist(), order, where))
        back = self._sweep(1, *self._grouped(types, adjacency.T.tolist(), order[::-1], where))
        return self.out(self.unify(torch.cat([onward, back], 1)))

    def _grouped(self, types: Tensor, edges: list, order: range, device) -> tuple[list[tuple], Tensor]:
        """Which states there are at each vertex in `order`, grouped on the CPU: a GPU would wait for it.

        Graphs that agree in all types so far have the same state, and it is computed once: at the first
        vertices of cells there are 1, 5, 25, ... For each vertex: its number, the type of each state (k,),
        and by earlier neighbour which of its states each state hears (k,); at last the state of each graph,
        (batch,). All on `device`, in one copy.
        """
        row, everyone, rows = types.new_zeros(len(types)), torch.arange(len(types)), {}
        steps, found = [], []
        for place, v in enumerate(order):
            _, row = torch.unique(row * self.types + types[:, v], return_inverse=True)
            # Of each state the number of one graph that has it, (k,).
            first = everyone.new_empty(int(row.max()) + 1).scatter_(0, row, everyone)
            steps.append((v, [u for u in order[:place] if edges[u][v]]))
            found += [types[first, v], *(rows[u][first] for u in steps[-1][1])]
            rows[v] = row
        moved = iter(torch.cat([*found, row]).to(device).split([*map(len, found), len(row)]))
        return [(v, next(moved), {u: next(moved) for u in before}) for v, before in steps], next(moved)

    def _sweep(self, way: int, steps: list[tuple], row: Tensor) -> Tensor:
        """State of each graph's last vertex, (batch, hidden), by what `_grouped` found."""
        cell, table = self.cells[way], self.cells[way].table()
        weight, biases = self.messages[way].joined()
        heard, sent = {u for _, _, heard in steps for u in heard}, {}
        for v, types, before in steps:
            total = None
            for u, which in before.items():
                coming = sent[u][which]
                total = coming if total is None else total + coming
            states = cell.step(F.embedding(types, table), total)
            if v in heard:
                sent[v] = message(states, weight, biases[v])
        return states[row]
