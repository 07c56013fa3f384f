"""Decoded image sets on disk: a process that starts need not decode pictures that an earlier one decoded.

Decoding takes seconds for a part of a set and most of a minute for Tiny-ImageNet's archive; reading it back
takes a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Callable

from nbpkg.memo import Entry, cached, key_of

#: Part of the key: raised whenever a reader makes something else of the same files.
READERS = 1


def decoded(name: str, digest: str, make: Callable[[], tuple]) -> tuple:
    """(images, labels, class names, train) of the set called `name`, from the cache or else from `make()`.

    digest: "sha256:..." of the files that `make` reads; `make` returns the four parts, with the arrays uint8
    (n, channels, h, w), int64 (n,) and bool (n,). Raises what `make` raises.
    """
    return cached(Entry("images", name, key_of(name, digest, READERS), name), make)
