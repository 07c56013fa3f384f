"""Architectures as latency predictors read them, many tasks at once, each with weights of its own.

A cell's graph network (`encode_cells`) is computed over states that cells share. The input node looks the
same in every cell; the nodes of the edges 0-1, 0-2, 0-3 see the input and their own operation: five states;
those of 1-2 and 1-3 see the operation on 0-1 besides: 25. These 31 are computed once a task. Only the edge
2-3, the output and the global node differ from cell to cell. The last layer is read at the global node alone,
so rows are summed before they are multiplied. Equal to the plain network up to rounding (a test says so).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nbpkg.nb201 import space as cells

N_SHARED = 31
#: Row v holds ones where node v gathers: input, six edges, output, and a global node that gathers from all.
ADJACENCY = np.eye(9)
ADJACENCY[:8, :8] += cells.line_graph().T
ADJACENCY[8, :8] = 1


def nodes(ops) -> np.ndarray:
    """One-hot nodes (n, 9, 8) of cells `ops` (n, 6): input, the five operations, output, global."""
    one_hot = np.zeros((len(ops), 9, 8))
    one_hot[:, [0, 7, 8], [0, 6, 7]] = 1
    one_hot[np.arange(len(ops))[:, None], np.arange(1, 7), 1 + np.asarray(ops)] = 1
    return one_hot


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(tasks, m, in) x (tasks, in, out) + (tasks, 1, out): every task has its own weights."""
    return torch.baddbmm(bias, x, weight)


class CellGraphs:
    """Tables over all cells `ops` (n, 6), from which a batch of indices (tasks, m) is gathered at once."""

    def __init__(self, ops, device="cpu"):
        ops = np.asarray(ops, np.int64)
        first, second = np.divmod(np.arange(25), 5)  # pair p: operation `first` on 0-1, `second` after it
        self_loops = np.eye(N_SHARED)
        self_loops[1:6, 0] = 1  # a first operation gathers from the input
        self_loops[6 + np.arange(25), 1 + first] = 1  # and a pair from its first operation
        x = np.eye(8)
        shared = self_loops @ np.concatenate([x[:1], x[1:6], x[1 + second]])  # A X of the shared states
        own = (ADJACENCY @ nodes(ops))[:, [6, 7, 8]]  # A X of edge 2-3, output, global
        pair_12, pair_13 = 6 + 5 * ops[:, 0] + ops[:, 2], 6 + 5 * ops[:, 0] + ops[:, 4]
        one = np.eye(N_SHARED)
        into_23 = one[1 + ops[:, 1]] + one[pair_12]
        into_out = one[1 + ops[:, 3]] + one[pair_13]
        gather = np.stack([into_23, into_out, one[0] + one[1 + ops[:, 0]] + into_23 + into_out], 1)
        self.shared, self.self_loops, self.own, self.gather = (
            torch.as_tensor(a, dtype=torch.float32, device=device) for a in (shared, self_loops, own, gather)
        )

    def __call__(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Everything `encode_cells` needs for cells `index` (tasks, m)."""
        tasks, m = index.shape

        def stack(table):
            return table[index].transpose(1, 2).reshape(tasks, 3 * m, -1)

        first = torch.cat([self.shared.expand(tasks, -1, -1), stack(self.own)], 1)
        return first, self.self_loops.expand(tasks, -1, -1), stack(self.gather)


def encode_cells(theta: dict[str, Tensor], batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Four graph layers of stacked tasks, read at the global node: -> (tasks, m, 100)."""
    # Rows: the 31 shared states, then m of the edge 2-3, m outputs, m global nodes.
    gathered, self_loops, gather = batch
    m = gather.shape[1] // 3
    for layer in "123":
        h = torch.relu(linear(gathered, theta["W" + layer], theta["b" + layer]))
        # One split: its backward is one concatenation.
        shared, edge, out, whole = h.split([N_SHARED, m, m, m], 1)
        if layer == "3":
            break
        own = torch.cat([edge, edge + out, edge + out + whole], 1)
        gathered = torch.cat([torch.bmm(self_loops, shared), torch.baddbmm(own, gather, shared)], 1)
    gathered = torch.baddbmm(edge + out + whole, gather[:, 2 * m :], shared)  # sum first, multiply after
    return torch.relu(linear(gathered, theta["W4"], theta["b4"]))


class Vectors:
    """Rows of a table (n, features), from which a batch of indices (tasks, m) is gathered."""

    def __init__(self, table: np.ndarray, device="cpu"):
        self.table = torch.as_tensor(table, dtype=torch.float32, device=device)

    def __call__(self, index: Tensor) -> Tensor:
        return self.table[index]


def encode_vectors(theta: dict[str, Tensor], vectors: Tensor) -> Tensor:
    """Two ordinary layers of stacked tasks: (tasks, m, features) -> (tasks, m, 100)."""
    h = torch.relu(linear(vectors, theta["W1"], theta["b1"]))
    return torch.relu(linear(h, theta["W2"], theta["b2"]))


def encoder(space, device="cpu"):
    """What turns indices of a `LatencySpace` into a batch, and the function that encodes a batch."""
    if space.kind == "cell":
        return CellGraphs(space.ops, device), encode_cells
    return Vectors(space.vectors(), device), encode_vectors
