"""How many bytes of tensors are alive at a time, counted and therefore the same on every machine.

    with PeakTensors() as tally: ...
    tally.peak_mb

The peak memory of a process (`nbpkg.machine`) also holds what Python, libraries and allocators keep, and says
little about one function; this counts the tensors that the block itself makes.
"""

import functools
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
        before = self._storages((args, kwargs)).keys()
        out = func(*args, **(kwargs or {}))
        for key, storage in self._storages(out).items():
            if key not in before and key not in self._known:
                size = storage.nbytes()
                self._known[key] = weakref.ref(storage, functools.partial(self._forget, key, size))
                self.alive += size
                self.peak = max(self.peak, self.alive)
        return out

    def _forget(self, key: int, size: int, _: weakref.ref) -> None:
        self.alive -= size
        del self._known[key]

    @staticmethod
    def _storages(tree: Any) -> dict[int, torch.UntypedStorage]:
        """The storages of all tensors in nested containers, by the address of each."""
        tensors = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))
        return {storage._cdata: storage for storage in (tensor.untyped_storage() for tensor in tensors)}
