"""Archives of strangers, read in memory: nothing is unpacked to disk, and limits hold while bytes come out.

A .tar.gz may be one whose host packs it anew on demand, so that no checksum vouches for its bytes: what it
says of its sizes is checked before anything is read, and one that unpacks to gigabytes is refused before it
fills the memory.
"""

import contextlib
import gzip
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from nbpkg.errors import NbpkgError
from nbpkg.untrusted import refuse

MiB = 2**20


@contextlib.contextmanager
def reading(path: str | Path, damaged: str = "cannot be read, truncated or damaged"):
    """Turns whatever is raised while `path` is read into NbpkgError, which says that it is `damaged`."""
    try:
        yield
    except NbpkgError:
        raise
    except FileNotFoundError as error:
        refuse(path, "there is no such file", error)
    except Exception as error:  # a damaged archive can fail in many ways
        refuse(path, f"{damaged} ({type(error).__name__})", error)


class _Bounded:
    """A stream that breaks off once more than `left` bytes have come out of it."""

    def __init__(self, stream, left: int):
        self.stream, self.left = stream, left

    def read(self, size: int) -> bytes:
        content = self.stream.read(size)
        self.left -= len(content)
        if self.left < 0:
            raise NbpkgError("too large")
        return content


def walk_tar(
    path: str | Path, wanted: Callable[[str], bool], total: int, members: int = 200_000
) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file of a .tar.gz for which `wanted(name)`, as they come, one after the other.

    total: bytes that the whole archive may unpack to. Raises NbpkgError for links and devices, names that
    lead outside, more than `members` members, and a file that is truncated or damaged.
    """
    # Mode "r|" reads from front to back only: no member can send the reader round in circles.
    with reading(path), gzip.open(path) as stream:
        bounded = _Bounded(stream, total)
        try:
            with tarfile.open(fileobj=bounded, mode="r|") as archive:
                for number, member in enumerate(archive, start=1):
                    if number > members:
                        refuse(path, f"holds more than {members:,} members")
                    _check_tar_member(path, member, total)
                    if member.isreg() and wanted(member.name):
                        yield member.name, archive.extractfile(member).read()
            # To the end, where gzip compares its checksum.
            while bounded.read(MiB):
                pass
        except NbpkgError:
            if bounded.left < 0:
                refuse(path, f"unpacks to more than the {total:,} bytes allowed")
            raise


def _check_tar_member(path: str | Path, member: tarfile.TarInfo, total: int) -> None:
    pure = PurePosixPath(member.name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in member.name or ":" in member.name:
        refuse(path, f"holds a member whose name leads outside ({member.name[:60]!r})")
    if member.issparse() or not (member.isreg() or member.isdir()):
        refuse(path, f"holds a member that is neither file nor folder ({member.name[:60]!r})")
    if not 0 <= member.size <= total:
        refuse(path, f"{member.name[:60]!r} claims {member.size:,} bytes")


def read_zip(path: str | Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Name and content of each member for which `wanted(name)`, sorted by name, one after the other.

    Only for a file whose checksum is registered and was compared: what a zip may hold is not checked here.
    Raises NbpkgError for a file that is absent, truncated or damaged.
    """
    with reading(path), zipfile.ZipFile(path) as archive:
        for name in sorted(filter(wanted, archive.namelist())):
            yield name, archive.read(name)
