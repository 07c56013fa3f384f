"""Building blocks that two chapters or more use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Modules made inside draw their weights from `seed`; the global random state is left as it was.

    >>> with seeded(0):
    ...     encoder = DatasetEncoder()
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
