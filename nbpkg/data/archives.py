"""Archives of strangers, read in memory: nothing is unpacked to disk, and limits hold while bytes come out.

What an archive says of its sizes is checked before anything is read, and no more is asked of the
decompressor than was allowed: a small file that unpacks to gigabytes is refused before it fills the memory.
"""

import contextlib
import gzip
import stat
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


def read_gzip(path: str | Path, limit: int) -> bytes:
    """The content of a .gz file; NbpkgError when it is damaged or unpacks to more than `limit` bytes."""
    with reading(path), gzip.open(path, "rb") as stream:
        # Short of the limit this meets the end of the file, where gzip compares its checksum.
        content = stream.read(limit + 1)
    if len(content) > limit:
        refuse(path, f"unpacks to more than the {limit:,} bytes allowed")
    return content


def _check_name(path: str | Path, name: str) -> None:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in name or "\0" in name or not name:
        refuse(path, f"holds a member whose name leads outside ({name[:60]!r})")


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
    _check_name(path, member.name)
    if member.issparse() or not (member.isreg() or member.isdir()):
        refuse(path, f"holds a member that is neither file nor folder ({member.name[:60]!r})")
    if not 0 <= member.size <= total:
        refuse(path, f"{member.name[:60]!r} claims {member.size:,} bytes")


def read_tar(path: str | Path, names: set[str], limit: int, members: int = 1_000) -> dict[str, bytes]:
    """The members called `names` of a .tar.gz, as a dictionary from name to content.

    limit: bytes that the whole archive may unpack to. Raises NbpkgError as `walk_tar` does, and for a wanted
    member that is there twice or not at all.
    """
    found = {}
    for name, content in walk_tar(path, names.__contains__, limit, members):
        if name in found:
            refuse(path, f"holds {name!r} twice")
        found[name] = content
    if lacking := sorted(names - set(found)):
        refuse(path, f"lacks {lacking[0]!r}")
    return found


def read_zip(
    path: str | Path, wanted: Callable[[str], bool], limit: int, total: int, members: int = 200_000
) -> Iterator[tuple[str, bytes]]:
    """Name and content of each member for which `wanted(name)`, sorted by name, one after the other.

    limit, total: bytes that one member, and all together, may unpack to. Everything is checked before the
    first member is read: raises NbpkgError for links, names that lead outside, names given twice, encrypted
    members, unusual compression, sizes above the limits; then, while reading, for what is damaged.
    """
    with reading(path), zipfile.ZipFile(path) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.filename)
        _check_zip(path, infos, limit, total, members)
        for info in infos:
            if info.is_dir() or not wanted(info.filename):
                continue
            with archive.open(info) as stream:
                # With a number: read() alone would unpack all there is and cut it to size afterwards.
                content = stream.read(info.file_size + 1)
            if len(content) != info.file_size:
                refuse(path, f"{info.filename!r} is truncated")
            yield info.filename, content


def _check_zip(path, infos: list[zipfile.ZipInfo], limit: int, total: int, members: int) -> None:
    if len(infos) > members:
        refuse(path, f"holds more than {members:,} members")
    if len({info.filename for info in infos}) != len(infos):
        refuse(path, "gives two members one name")
    if (size := sum(info.file_size for info in infos)) > total:
        refuse(path, f"unpacks to {size:,} bytes, more than the {total:,} allowed")
    for info in infos:
        # As it stands in the file: zipfile itself cuts a name at its first null byte.
        _check_name(path, info.orig_filename)
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            refuse(path, f"holds a member that is neither file nor folder ({info.filename[:60]!r})")
        if info.flag_bits & 1:
            refuse(path, f"holds an encrypted member ({info.filename[:60]!r})")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            refuse(path, f"holds a member of unusual compression ({info.filename[:60]!r})")
        if info.file_size > limit:
            refuse(path, f"{info.filename[:60]!r} unpacks to {info.file_size:,} bytes, {limit:,} are allowed")
