"""Where data files lie on this machine, and whether they are what the registry says.

`NBPKG_DATA` names a folder that already holds files under their local paths: it comes first and is never
written. Everything else is looked for in the cache, where `nbpkg data fetch` puts what it downloads.
"""

import contextlib
import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from nbpkg.data import registry
from nbpkg.data.registry import DataFile, DataSet
from nbpkg.errors import NbpkgError
from nbpkg.paths import cache_dir, write_text


@dataclass(frozen=True)
class FileStatus:
    """One file's state: `status` is "ok", "absent" or "corrupt"; `where` is "NBPKG_DATA", "cache" or ""."""

    path: str
    status: str
    where: str
    detail: str


def given_folder() -> Path | None:
    """The folder named by `NBPKG_DATA`, or None when it is unset; NbpkgError when there is no such folder."""
    value = os.environ.get("NBPKG_DATA", "").strip()
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise NbpkgError(f"NBPKG_DATA is set to {value}, which is not a folder: mend it or unset it")
    return folder


def cache_folder() -> Path:
    """The folder that downloads go to; it need not exist yet."""
    return cache_dir() / "data"


def locate(file: DataFile) -> tuple[Path, str] | None:
    """The file's place, unchecked, and its tier ("NBPKG_DATA" or "cache"); None when it is nowhere."""
    given = given_folder()
    if given is not None and (given / file.path).is_file():
        return given / file.path, "NBPKG_DATA"
    cached = cache_folder() / file.path
    return (cached, "cache") if cached.is_file() else None


def present(file: DataFile) -> str:
    """The tier in which a file of this name lies, of the registered size if that is pinned; else ""."""
    found = locate(file)
    return found[1] if found and (file.values or found[0].stat().st_size == file.size) else ""


@lru_cache(maxsize=4096)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    """SHA-256 of a file; size and time are part of the key, so that a changed file is read again."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fault(file: DataFile, local: Path) -> str | None:
    """What is wrong with the local copy, in a few words; None when it is the registered file.

    That is, when size and SHA-256 are as registered, or else the digest of its values, where there is one:
    other versions of libraries write the same values in other bytes.
    """
    try:
        state = local.stat()
        if state.st_size != file.size and not file.values:
            return f"{state.st_size:,} bytes instead of {file.size:,}"
        found = _sha256(str(local), state.st_size, state.st_mtime_ns)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if found == file.sha256 or (file.values and _values(str(local), found) == file.values):
        return None
    return f"SHA-256 {found[:12]}… instead of {file.sha256[:12]}…" + (" and other values" * bool(file.values))


@lru_cache(maxsize=256)
def _values(path: str, sha256: str) -> str:
    """The digest of the values in a file of this SHA-256, which is noted in the cache; "" when unreadable."""
    from nbpkg.data import values

    note = cache_folder() / ".values" / sha256
    with contextlib.suppress(OSError):
        return note.read_text(encoding="ascii")
    try:
        digest = values.digest(path)
    except Exception:  # a damaged file can fail in any way at all
        return ""
    with contextlib.suppress(OSError):
        write_text(note, digest)
    return digest


def path(name: str) -> Path:
    """The verified local file registered as `name`, for example "help/nasbench201/latency/fpga.pt".

    Its checksum is compared once per process and again whenever the file changes. Raises NbpkgError when the
    name is not registered, when the file is absent (the message says how to get it) or when it is not the
    registered one.
    """
    return verified(*registry.find(name))


def verified(dataset: DataSet, file: DataFile) -> Path:
    """The local copy of a file of a set, checked; raises NbpkgError as `path` does."""
    found = locate(file)
    if found is None:
        raise NbpkgError(
            f"{file.path}: not on this machine; run `nbpkg data fetch {dataset.name}`, "
            "or use profile smoke, which needs none"
        )
    local, tier = found
    if problem := fault(file, local):
        mend = {
            "NBPKG_DATA": "replace it or unset NBPKG_DATA",
            "cache": f"run `nbpkg data fetch {dataset.name}` to replace it",
        }
        place = "the cache" if tier == "cache" else tier
        raise NbpkgError(f"{file.path} in {place}: {problem}; refused, {mend[tier]}")
    return local


def check(dataset: DataSet) -> list[FileStatus]:
    """The state of every file of a set, in the registry's order; reads and hashes each file at most once."""
    result = []
    for file in dataset.files:
        found = locate(file)
        if found is None:
            result.append(FileStatus(file.path, "absent", "", ""))
            continue
        problem = fault(file, found[0])
        result.append(FileStatus(file.path, "corrupt" if problem else "ok", found[1], problem or ""))
    return result


def verify(name: str) -> list[FileStatus]:
    """The state of every file of the set called `name`: "ok", "absent" or "corrupt" (with what is wrong)."""
    return check(registry.get(name))


def available(name: str) -> bool:
    """Whether every file of the set is on this machine.

    Raises NbpkgError when one is there but corrupt: to carry on without it would hide the damage.
    """
    dataset = registry.get(name)
    return all([verified(dataset, file) if locate(file) else None for file in dataset.files])
