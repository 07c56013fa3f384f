"""The 15,625 cells of NAS-Bench-201 as arrays of operations.

A cell is a complete directed acyclic graph on four nodes, 0 (input) to 3 (output); each of its six edges
carries one of five operations, and a node is the sum of what its incoming edges deliver. A cell is held as
six small integers, ``ops``: ``ops[..., k]`` is the position in ``OPS`` of the operation on ``EDGES[k]``.
All functions take one cell, shape ``(6,)``, or many, shape ``(..., 6)``.

**Index.** ``index`` numbers cells lexicographically: the six operations are the digits of a number in base
5, that of the edge 0-1 first. It is *not* the index of the published benchmark, which is arbitrary and
comes with its tables (``nbpkg.nb201.table.Table.benchmark_index`` translates).
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable

import numpy as np

from nbpkg.errors import NbpkgError

#: Operations in the order of the benchmark.
OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
#: Edges in the order in which the architecture string names them.
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
N_NODES = 4
N_EDGES = len(EDGES)
N_CELLS = len(OPS) ** N_EDGES

NONE, SKIP = OPS.index("none"), OPS.index("skip_connect")
_PLACES = len(OPS) ** np.arange(N_EDGES - 1, -1, -1)


def check_ops(ops) -> np.ndarray:
    """Return ``ops`` as an int8 array of shape ``(..., 6)``; NbpkgError if it is anything but cells."""
    array = np.asarray(ops)
    if array.dtype.kind not in "iu":
        raise NbpkgError(f"operations must be integers, not {array.dtype}; encode() turns strings into them")
    if array.ndim == 0 or array.shape[-1] != N_EDGES:
        raise NbpkgError(f"operations must have shape (..., {N_EDGES}), one for each edge, not {array.shape}")
    if array.size and (array.min() < 0 or array.max() >= len(OPS)):
        wrong = array[(array < 0) | (array >= len(OPS))].flat[0]
        raise NbpkgError(f"operation {wrong} does not exist; 0 to {len(OPS) - 1} stand for {', '.join(OPS)}")
    return array.astype(np.int8)


def all_ops() -> np.ndarray:
    """All cells in the order of ``index``, int8 of shape ``(15625, 6)``."""
    return ops_of(np.arange(N_CELLS))


def index(ops):
    """Canonical index of each cell: int64 of shape ``ops.shape[:-1]``; one cell gives an ``int``."""
    return _plain(check_ops(ops).astype(np.int64) @ _PLACES)


def _plain(values: np.ndarray):
    """A Python number for the answer to one cell, the array itself for many."""
    return values if np.ndim(values) else values.item()


def ops_of(index) -> np.ndarray:
    """The cells with these canonical indices, int8 of shape ``(..., 6)``; the inverse of ``index``."""
    number = np.asarray(index)
    if number.dtype.kind not in "iu":
        raise NbpkgError(f"a cell index must be an integer, not {number.dtype}")
    if number.size and (number.min() < 0 or number.max() >= N_CELLS):
        wrong = number[(number < 0) | (number >= N_CELLS)].flat[0]
        raise NbpkgError(f"cell index {wrong} does not exist; indices are 0 to {N_CELLS - 1}")
    return (number.astype(np.int64)[..., None] // _PLACES % len(OPS)).astype(np.int8)


#: An architecture string: the operations on EDGES, in their order, each with the node that its edge leaves.
_FORM = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|"


@functools.cache
def _strings() -> tuple[str, ...]:
    return tuple(_FORM.format(*ops) for ops in itertools.product(OPS, repeat=N_EDGES))


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

    Raises NbpkgError that names the first string that is no cell, its position in the list, and its fault.
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
    at = 0
    for number, between in enumerate(_FORM.split("{}")):
        if not string.startswith(between, at):
            return f"{string[at : at + len(between)]!r} at character {at} must be {between!r}"
        at += len(between)
        if number < N_EDGES:
            operation = re.match(r"[^~|+]*", string[at:])[0]
            if operation not in OPS:
                return f"unknown operation {operation!r} at character {at}; operations are {', '.join(OPS)}"
            at += len(operation)
    return f"must end at character {at}"


def line_graph() -> np.ndarray:
    """Adjacency of the graph whose nodes are operations, as predictors of latency and accuracy read a cell.

    Node 0 is the cell's input, nodes 1 to 6 are its edges in the order of ``EDGES``, node 7 is its output.
    ``adjacency[i, j]`` says that what leaves i enters j: an edge a-b feeds every edge b-c, the input feeds
    the edges that leave node 0, and edges into the last node feed the output. Bool, ``(8, 8)``.
    """
    # Input and output are edges of the same kind: into the first node, and out of the last.
    tail = np.array([-1, *(a for a, _ in EDGES), N_NODES - 1])
    head = np.array([0, *(b for _, b in EDGES), N_NODES])
    return head[:, None] == tail[None, :]


def counts(ops) -> np.ndarray:
    """How often each operation occurs, int64 of shape ``(..., 5)`` in the order of ``OPS``."""
    return (check_ops(ops)[..., None] == np.arange(len(OPS))).sum(axis=-2)


def neighbours(ops) -> np.ndarray:
    """The 24 cells that differ on exactly one edge, edge by edge: int8 of shape ``(..., 24, 6)``."""
    cells = check_ops(ops)
    change = np.zeros((N_EDGES, len(OPS) - 1, N_EDGES), np.int8)
    change[np.arange(N_EDGES), :, np.arange(N_EDGES)] = np.arange(1, len(OPS))
    return (cells[..., None, :] + change.reshape(-1, N_EDGES)) % len(OPS)


def random(n: int, seed: int, distinct: bool = True) -> np.ndarray:
    """``n`` cells drawn uniformly, without repetition if ``distinct``: int8 of shape ``(n, 6)``."""
    if n < 0 or (distinct and n > N_CELLS):
        raise NbpkgError(f"cannot draw {n} {'distinct ' if distinct else ''}cells; the space has {N_CELLS}")
    return ops_of(np.random.default_rng(seed).choice(N_CELLS, size=n, replace=not distinct))


def live_edges(ops) -> np.ndarray:
    """Edges on a path of operations other than ``none`` from input to output: bool of shape ``(..., 6)``.

    What the other edges carry cannot reach the output, or they have nothing to carry: a network may leave
    them out.
    """
    present = check_ops(ops) != NONE
    reached, leads = np.zeros((2, *present.shape[:-1], N_NODES), bool)
    reached[..., 0] = leads[..., -1] = True
    # EDGES is sorted by the node that an edge enters, so that one pass in its order settles what the input
    # reaches, and one pass back settles what leads to the output.
    for k, (a, b) in enumerate(EDGES):
        reached[..., b] |= reached[..., a] & present[..., k]
    for k, (a, b) in reversed(list(enumerate(EDGES))):
        leads[..., a] |= leads[..., b] & present[..., k]
    tails, heads = np.array(EDGES).T
    return present & reached[..., tails] & leads[..., heads]


def is_dead(ops):
    """Whether no path of operations other than ``none`` joins input and output: bool of shape ``(...)``."""
    return _plain(~live_edges(ops).any(axis=-1))


def _apply(operation: str, value: tuple[str, ...]) -> tuple[str, ...]:
    """The sum that an edge delivers: ``value`` itself, nothing, or one term for an operation on it."""
    if operation == "none" or value == ("#",):
        return ("#",)
    return value if operation == "skip_connect" else (f"({'+'.join(value)})@{operation}",)


def _sum(*values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(itertools.chain.from_iterable(sorted(values, key="+".join)))


def _sum_of_terms(*values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(term for term in itertools.chain(*values) if term != "#")) or ("#",)


@functools.cache
def _expressions(add) -> tuple[str, ...]:
    """What every cell computes from its input ``0``, as text, in the order of ``index``; ``#`` is nothing."""
    texts = []
    for first in OPS:
        one = _apply(first, ("0",))
        for second, third in itertools.product(OPS, repeat=2):
            two = add(_apply(second, ("0",)), _apply(third, one))
            # The three operands of the output: each edge's choices are made once, not once for each cell.
            operands = ([_apply(op, value) for op in OPS] for value in (("0",), one, two))
            texts += ["+".join(add(*three)) for three in itertools.product(*operands)]
    return tuple(texts)


@functools.cache
def _labels(add) -> np.ndarray:
    seen: dict[str, int] = {}
    return np.array([seen.setdefault(text, len(seen)) for text in _expressions(add)])


def unique_string(ops):
    """The benchmark's isomorphism string of a cell (``UniqueString`` in public tables): a text, or a list.

    ``0`` is the input, ``(x)@op`` an operation on x, ``#`` nothing. A skip connection hands on its operand,
    ``none`` and any operation on nothing give nothing; operands of a sum are sorted as texts, and nothing
    stays among them.
    """
    number = index(ops)
    texts = _expressions(_sum)
    return texts[number] if isinstance(number, int) else [texts[i] for i in number.ravel().tolist()]


def unique_class(ops):
    """Label of a cell's isomorphism class as the benchmark counts them, 0 to 6,465: int64 of shape ``(...)``.

    Two cells share a label if their ``unique_string`` is the same; labels count up in the order of
    ``index``. Cells of one class compute the same function, but not the reverse: see ``function_class``.
    """
    return _plain(_labels(_sum)[index(ops)])


def function_class(ops):
    """Label of the function that a cell computes, 0 to 4,929: int64 of shape ``(...)``.

    Coarser than ``unique_class``: the benchmark's strings keep ``nothing`` as an operand and do not flatten
    sums of sums; here a sum is the multiset of its terms that are something. An operation on nothing gives
    nothing, as in a network that leaves dead edges out.
    """
    return _plain(_labels(_sum_of_terms)[index(ops)])
