"""Data of the book: what is registered, where it lies on this machine, how to fetch and to read it.

    data.sets()                                         every registered set
    data.path("help/nasbench201/latency/fpga.pt")       a verified local file
    data.fetch("help-nasbench201")                      download a set into the cache
    data.verify("help-nasbench201")                     state of each file

Readers of foreign files are in `nbpkg.data.read`. Importing this face loads neither numpy nor torch.
"""

from pathlib import Path

from nbpkg.data import download, registry
from nbpkg.data.registry import DataFile, DataSet
from nbpkg.data.store import FileStatus, available, path, verify

__all__ = ["DataFile", "DataSet", "FileStatus", "available", "digest", "fetch", "path", "sets", "verify"]


def sets() -> list[DataSet]:
    """Every registered set, in the registry's order."""
    return list(registry.load().values())


def digest(name: str) -> str:
    """`sha256:<hex>` over the registered checksums of a set, whether or not it is on this machine."""
    return registry.get(name).digest


def fetch(name: str, keep: bool = False) -> list[Path]:
    """Make every file of a set available; returns their verified paths, in the registry's order.

    Files in `NBPKG_DATA` are used as they are, and nothing is downloaded while it is set; otherwise what the
    cache lacks is downloaded, with the licence printed first, unless `NBPKG_OFFLINE` forbids it, and a
    derived set is made by its recipe; `keep` leaves its sources. Raises NbpkgError when a file cannot be had,
    naming it; nothing is left at its place then.
    """
    return download.fetch_set(registry.get(name), keep=keep)
