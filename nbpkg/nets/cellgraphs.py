"""The cells of NAS-Bench-201 as graphs whose vertices are operations, as MetaD2A's networks read them.

Eight vertices: 0 is the cell's input, 1 to 6 are its edges in the order of ``nbpkg.nb201.space.EDGES``, 7
is its output. ``types[..., v]`` says what vertex v does: START and END are input and output, the operations
of ``space.OPS`` follow from 2 on; ``adjacency[..., u, v]`` says that what leaves u enters v. All cells have
the same adjacency and differ in the types of six vertices.
"""

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from nbpkg.errors import NbpkgError
from nbpkg.nb201 import space
from nbpkg.nets.dag import END, START
from nbpkg.nets.dag_decoder import GraphDecoder

N_VERTICES = space.N_EDGES + 2
_FIRST_OP = 2


def topology(kind: str = "published") -> Tensor:
    """The adjacency that all cells share: bool (8, 8).

    kind: "line", the line graph of the cell (``space.line_graph``), or "published", the one of MetaD2A's
    data: the same among the six operations, with a chain v -> v + 1 through all vertices laid over it, and
    only the first operation after the input and the last before the output. Raises NbpkgError for others.
    """
    line = torch.from_numpy(space.line_graph())
    if kind == "line":
        return line
    if kind != "published":
        raise NbpkgError(f"no graph of a cell is called {kind!r}; take 'published' or 'line'")
    chain = torch.eye(N_VERTICES, dtype=torch.bool).roll(1, 1).triu()
    inner = torch.zeros_like(line)
    inner[1:-1, 1:-1] = line[1:-1, 1:-1]
    return chain | inner


def types_of(ops) -> Tensor:
    """Vertex types of cells: operations (..., 6) -> int64 (..., 8). NbpkgError for anything but cells."""
    cells = torch.from_numpy(space.check_ops(ops)).long() + _FIRST_OP
    ends = cells.new_empty(*cells.shape[:-1], 1)
    return torch.cat([ends.fill_(START), cells, torch.full_like(ends, END)], -1)


def ops_of(types: Tensor) -> np.ndarray:
    """Operations of graphs: types (..., 8) -> int8 (..., 6), the inverse of `types_of`.

    Reads the types of vertices 1 to 6 only, as the published decoding does. Raises NbpkgError for types that
    are no cell's.
    """
    if types.shape[-1:] != (N_VERTICES,):
        raise NbpkgError(f"types of cells must have shape (..., {N_VERTICES}), not {tuple(types.shape)}")
    array = types.cpu().numpy()
    wrong = (array[..., 0] != START) | (array[..., -1] != END) | (array[..., 1:-1] < _FIRST_OP).any(-1)
    if wrong.any():
        raise NbpkgError("a cell has its input first, its output last and operations between; see valid()")
    return space.check_ops(array[..., 1:-1] - _FIRST_OP)


def valid(types: Tensor, adjacency: Tensor) -> Tensor:
    """Which graphs are cells: types (n, 8), adjacency (n, 8, 8) or (8, 8) -> bool (n,).

    MetaD2A's test: eight vertices, the input first and only there, the output last and only there, every
    other vertex with an edge in and an edge out. That the edges are those of `topology` is not asked; that
    anything but ``none`` joins input and output is not either (``space.is_dead``).
    """
    adjacency = adjacency.expand(len(types), *adjacency.shape[-2:])
    right = (types[:, 0] == START) & (types[:, -1] == END) & (types[:, 1:-1] >= _FIRST_OP).all(1)
    return right & adjacency[:, :-1].any(2).all(1) & adjacency[:, :, 1:].any(1).all(1)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What `draw` found: distinct cells, int8 (n, 6), in the order drawn, and how many draws it took.

    counted: graphs drawn; valid: how many of them were cells; distinct: how many of these were different.
    The last round counts whole, though what it found beyond the n-th cell is left out of ``ops``.
    """

    ops: np.ndarray
    counted: int
    valid: int
    distinct: int


def draw(decoder: GraphDecoder, codes: Tensor, n: int, generator: torch.Generator | None = None) -> Drawn:
    """Draw graphs until n distinct cells are among them (MetaD2A's search, steps 1 and 2).

    codes: (m, latent); the graphs of a round go round them. n: 1 or more. Raises NbpkgError when
    50 n + 1000 graphs do not hold n cells.
    """
    if not 1 <= n <= space.N_CELLS:
        raise NbpkgError(f"cannot draw {n} distinct cells; the space has {space.N_CELLS}")
    limit = 50 * n + 1000
    found, counted, good = np.zeros(0, np.int64), 0, 0
    while len(found) < n:
        # As many as the share of useful draws so far demands, and some: a round costs more than a graph.
        share = max(len(found) / counted, 0.05) if counted else 1
        count = min(math.ceil(1.1 * (n - len(found)) / share) + 8, limit - counted)
        if count < 1:
            raise NbpkgError(f"{counted} graphs hold {good} cells, {len(found)} of them distinct; not {n}")
        types, adjacency = decoder.sample(codes.repeat(count // len(codes) + 1, 1)[:count], generator)
        types = types[valid(types, adjacency)]
        good, counted = good + len(types), counted + count
        cells = np.concatenate([found, space.index(ops_of(types))])
        found = cells[np.sort(np.unique(cells, return_index=True)[1])]
    return Drawn(space.ops_of(found[:n]), counted, good, len(found))
