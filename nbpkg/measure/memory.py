"""How many bytes of tensors are alive at a time, counted and therefore the same on every machine.

    with PeakTensors() as tally: ...
    tally.peak_mb

The peak memory of a process (`nbpkg.machine`) also holds what Python, libraries and allocators keep, and says
little about one function; this counts the tensors that the block itself makes.
"""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakTensors(TorchDispatchMode):
    """Counts the storage of every tensor made inside the block, until nothing refers to it any more.

    alive, peak: bytes now and at most. A view counts with the tensor whose storage it shares, once; tensors
    made before the block do not count. Works under autograd and under the transforms of `torch.func`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._known: dict[int, weakref.ref] = {}

    @property
    def peak_mb(self) -> float:
        """The most that was alive at a time, in MB (10^6 bytes)."""
        return self.peak / 1e6

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        before = {self._key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and self._key(leaf) not in before:
                self._count(leaf.untyped_storage())
        return out

    @staticmethod
    def _key(tensor: torch.Tensor) -> int:
        return tensor.untyped_storage()._cdata

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()

        def forget(_: Any) -> None:
            self.alive -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, forget)
        self.alive += size
        self.peak = max(self.peak, self.alive)
