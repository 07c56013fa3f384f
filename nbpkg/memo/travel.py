"""Cached functions of a notebook in other processes: importing this module lets them be pickled."""

import copyreg
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from nbpkg.memo.fingerprint import fingerprint

_CACHED: dict[str, Callable] = {}


def _cached_again(code: str, function: Callable, maxsize: int | None) -> Callable:
    return _CACHED.setdefault(code, lru_cache(maxsize)(function))


def _reduce(cached: Any) -> Any:
    """Every process keeps results of its own, and none of code that has changed since."""
    function = cached.__wrapped__
    if function.__module__ != "__main__":
        return cached.__qualname__  # found by its name, as pickle does it
    return _cached_again, (fingerprint(function), function, cached.cache_parameters()["maxsize"])


copyreg.pickle(type(lru_cache(len)), _reduce)
