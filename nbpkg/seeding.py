"""Random numbers that follow from a seed: of the weights of new modules, and of streams for one purpose."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw the weights of modules made inside from `seed`; the global random state is left as it was.

    >>> with seeded(0):
    ...     encoder = DatasetEncoder()
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def rng(*purpose: object) -> torch.Generator:
    """A random stream on the CPU for one purpose, such as `rng(seed, "order")`: the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
