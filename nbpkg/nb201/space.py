"""The 15,625 cells of NAS-Bench-201 as arrays of operations.

A cell is a complete directed acyclic graph on four nodes, 0 (input) to 3 (output); each of its six edges carries one of
five operations, and a node is the sum of what its incoming edges deliver. A cell is held as six small integers, ``ops``:
``ops[..., k]`` is the position in ``OPS`` of the operation on ``EDGES[k]``. All functions take one cell, shape ``(6,)``,
or many, shape ``(..., 6)``.

**Index.** ``index`` numbers cells lexicographically: the six operations are the digits of a number in base 5, that of the
edge 0-1 first. It is *not* the index of the published benchmark, which is arbitrary and comes with its tables
(``nbpkg.nb201.table.Table.benchmark_index`` translates).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from nbpkg.errors import NbpkgError

#: Operations in the order of the benchmark.
OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
#: Edges in the order in which the architecture string names them.
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
#: The same edges row by row of the adjacency matrix, the order that some papers use.
ROW_EDGES = tuple(sorted(EDGES))
N_NODES = 4
N_EDGES = len(EDGES)
N_CELLS = len(OPS) ** N_EDGES

NONE, SKIP = OPS.index("none"), OPS.index("skip_connect")
_PLACES = len(OPS) ** np.arange(N_EDGES - 1, -1, -1)
_EDGE_ORDERS = {"string": EDGES, "row": ROW_EDGES}


def check_ops(ops) -> np.ndarray:
    """Return ``ops`` as an int8 array of shape ``(..., 6)``; NbpkgError if it is anything but cells."""
    array = np.asarray(ops)
    if array.dtype.kind not in "iu":
        raise NbpkgError(f"operations must be integers, not {array.dtype}; encode() turns strings into them")
    if array.ndim == 0 or array.shape[-1] != N_EDGES:
        raise NbpkgError(f"operations must have shape (..., {N_EDGES}), one for each edge, not {array.shape}")
    if array.size and (array.min() < 0 or array.max() >= len(OPS)):
        wrong = array[(array < 0) | (array >= len(OPS))].flat[0]
        raise NbpkgError(f"operation {wrong} does not exist; operations are 0 to {len(OPS) - 1}: {', '.join(OPS)}")
    return array.astype(np.int8)


def all_ops() -> np.ndarray:
    """All cells in the order of ``index``, int8 of shape ``(15625, 6)``."""
    return ops_of(np.arange(N_CELLS))


def index(ops):
    """Canonical index of each cell: int64 of shape ``ops.shape[:-1]``; one cell gives an ``int``."""
    number = check_ops(ops).astype(np.int64) @ _PLACES
    return int(number) if np.ndim(number) == 0 else number


def ops_of(index) -> np.ndarray:
    """The cells with these canonical indices, int8 of shape ``(..., 6)``; the inverse of ``index``."""
    number = np.asarray(index)
    if number.dtype.kind not in "iu":
        raise NbpkgError(f"a cell index must be an integer, not {number.dtype}")
    if number.size and (number.min() < 0 or number.max() >= N_CELLS):
        wrong = number[(number < 0) | (number >= N_CELLS)].flat[0]
        raise NbpkgError(f"cell index {wrong} does not exist; indices are 0 to {N_CELLS - 1}")
    return (number.astype(np.int64)[..., None] // _PLACES % len(OPS)).astype(np.int8)


@functools.cache
def _strings() -> tuple[str, ...]:
    # The string is made of one group for each of the nodes 1 to 3, and EDGES runs through them in the same order.
    groups = [
        ["|" + "".join(f"{op}~{source}|" for source, op in enumerate(ops)) for ops in itertools.product(OPS, repeat=node)]
        for node in range(1, N_NODES)
    ]
    return tuple("+".join(cell) for cell in itertools.product(*groups))


@functools.cache
def _index_of_string() -> dict[str, int]:
    return {string: number for number, string in enumerate(_strings())}


def decode(ops):
    """Architecture strings of cells: one ``str`` for shape ``(6,)``, a list of them for ``(n, 6)``.

    >>> decode([3, 3, 4, 1, 3, 1])
    '|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|'
    """
    number = index(ops)
    if isinstance(number, int):
        return _strings()[number]
    if number.ndim != 1:
        raise NbpkgError(f"decode takes operations of shape (6,) or (n, 6), not {np.shape(ops)}")
    return list(map(_strings().__getitem__, number.tolist()))


def encode(strings: str | Iterable[str]) -> np.ndarray:
    """Operations of architecture strings: int8 of shape ``(6,)`` for one string, ``(n, 6)`` for n of them.

    Raises NbpkgError that names the first string that is no cell, its position in the list, and what is wrong in it.
    """
    if isinstance(strings, str):
        return encode([strings])[0]
    strings = list(strings)
    known = _index_of_string()
    try:
        number = np.fromiter((known.get(string, -1) for string in strings), np.int64, count=len(strings))
    except TypeError as error:  # unhashable: not a string
        raise NbpkgError(f"architecture strings must be text ({error})") from None
    if len(number) and number.min() < 0:
        position = int(np.argmax(number < 0))
        raise NbpkgError(f"architecture string {position} {strings[position]!r}: {_fault(strings[position])}")
    return ops_of(number)


def _fault(string) -> str:
    """What keeps one string from being a cell, in a few words."""
    if not isinstance(string, str):
        return f"is {type(string).__name__}, not text"
    groups = string.split("+")
    if len(groups) != N_NODES - 1:
        return f"needs {N_NODES - 1} groups joined by '+', has {len(groups)}"
    start = 0
    for node, group in enumerate(groups, 1):
        if len(group) < 2 or group[0] != "|" or group[-1] != "|":
            return f"the group at character {start} must begin and end with '|'"
        tokens = group[1:-1].split("|")
        if len(tokens) != node:
            return f"the group at character {start} must name {node} edge(s) into node {node}, names {len(tokens)}"
        at = start + 1
        for source, token in enumerate(tokens):
            operation, _, origin = token.partition("~")
            if operation not in OPS:
                return f"unknown operation {operation!r} at character {at}; operations are {', '.join(OPS)}"
            if origin != str(source):
                return f"{token!r} at character {at} must end in '~{source}'"
            at += len(token) + 1
        start += len(group) + 1
    return "is not written as the benchmark writes it"


def _edges(edge_order: str | Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    if isinstance(edge_order, str):
        if edge_order not in _EDGE_ORDERS:
            raise NbpkgError(f"unknown edge order {edge_order!r}; known: {', '.join(_EDGE_ORDERS)}, or a list of the edges")
        return _EDGE_ORDERS[edge_order]
    edges = tuple((int(a), int(b)) for a, b in edge_order)
    if sorted(edges) != sorted(EDGES):
        raise NbpkgError(f"an edge order must name each of {EDGES} once, not {edges}")
    return edges


def columns(edge_order: str | Sequence[tuple[int, int]]) -> np.ndarray:
    """Where the edges of another order stand in ``EDGES``: ``ops[..., columns("row")]`` is in row order. Shape ``(6,)``."""
    return np.array([EDGES.index(edge) for edge in _edges(edge_order)])


def line_graph(edge_order: str | Sequence[tuple[int, int]] = EDGES) -> np.ndarray:
    """Adjacency of the graph whose nodes are operations, as predictors of latency and accuracy read a cell.

    Node 0 is the cell's input, nodes 1 to 6 are its edges in the given order ("string", "row", or a list of the six),
    node 7 is its output. ``adjacency[i, j]`` says that what leaves i enters j: an edge a-b feeds every edge b-c, the
    input feeds the edges that leave node 0, and edges into the last node feed the output. Bool of shape ``(8, 8)``.
    """
    edges = _edges(edge_order)
    # Input and output are edges of the same kind: into the first node, and out of the last.
    tail = np.array([-1, *(a for a, _ in edges), N_NODES - 1])
    head = np.array([0, *(b for _, b in edges), N_NODES])
    return head[:, None] == tail[None, :]


def counts(ops) -> np.ndarray:
    """How often each operation occurs, int64 of shape ``(..., 5)`` in the order of ``OPS``."""
    return (check_ops(ops)[..., None] == np.arange(len(OPS))).sum(axis=-2)


def neighbours(ops) -> np.ndarray:
    """The 24 cells that differ on exactly one edge, int8 of shape ``(..., 24, 6)``: edge by edge, four changes each."""
    cells = check_ops(ops)
    change = np.zeros((N_EDGES, len(OPS) - 1, N_EDGES), np.int8)
    change[np.arange(N_EDGES), :, np.arange(N_EDGES)] = np.arange(1, len(OPS))
    return (cells[..., None, :] + change.reshape(-1, N_EDGES)) % len(OPS)


def random(n: int, seed: int, distinct: bool = True) -> np.ndarray:
    """``n`` cells drawn uniformly, without repetition if ``distinct``: int8 of shape ``(n, 6)``."""
    if n < 0 or (distinct and n > N_CELLS):
        raise NbpkgError(f"cannot draw {n} {'distinct ' if distinct else ''}cells; the space has {N_CELLS}")
    return ops_of(np.random.default_rng(seed).choice(N_CELLS, size=n, replace=not distinct))
