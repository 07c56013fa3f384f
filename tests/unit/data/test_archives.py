"""Archives that are what they should be, and archives that were made to do harm."""

import gzip
import io
import stat
import struct
import tarfile
import zipfile
import zlib

import pytest
from makers import tar_gz, zipped

from nbpkg.data.archives import MiB, read_gzip, read_tar, read_zip
from nbpkg.errors import NbpkgError

FILES = {"set/": b"", "set/one": b"1" * 3000, "set/two": bytes(range(256)) * 20, "set/none": b""}


def refused(call, name: str, problem: str) -> None:
    with pytest.raises(NbpkgError, match=problem) as caught:
        call()
    message = str(caught.value)
    assert f"/{name}: " in message and message.endswith("the file is refused")
    assert "\n" not in message and len(message) < 340


def read(path, limit: int = MiB, **more) -> dict[str, bytes]:
    return dict(read_zip(path, lambda name: True, limit, **{"total": MiB} | more))


def test_gzip_gives_its_content_up_to_the_limit(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"x" * 1000))
    assert read_gzip(path, 1000) == b"x" * 1000
    refused(lambda: read_gzip(path, 999), "a.gz", "more than the 999 bytes")


def test_a_gzip_bomb_takes_no_more_memory_than_the_limit(tmp_path, monkeypatch):
    path, asked = tmp_path / "bomb.gz", []
    path.write_bytes(gzip.compress(bytes(30 * MiB)))
    original = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, n=-1: asked.append(n) or original(self, n))
    refused(lambda: read_gzip(path, 1000), "bomb.gz", "more than the 1,000 bytes")
    assert asked == [1001]


def damaged_copies(whole: bytes) -> dict[str, bytes]:
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    return {"cut": whole[:-10], "half": whole[: len(whole) // 2], "flipped": bytes(flipped), "empty": b"",
            "text": b"<html>404</html>"}  # fmt: skip


def test_a_damaged_gzip_or_tar_is_refused(tmp_path):
    path = tmp_path / "a.tar.gz"
    whole = tar_gz(path, {"one": bytes(range(256)) * 9}).read_bytes()
    for content in [
        *damaged_copies(whole).values(),
        whole[:-8] + zlib.crc32(b"").to_bytes(4, "little") + whole[-4:],
    ]:
        path.write_bytes(content)
        if content:  # gzip takes an empty file for empty content
            refused(lambda: read_gzip(path, MiB), "a.tar.gz", "cannot be read")
        refused(lambda: read_tar(path, {"one"}, MiB), "a.tar.gz", "cannot be read")
    refused(lambda: read_tar(tmp_path / "no.tar.gz", {"one"}, MiB), "no.tar.gz", "no such file")
    refused(lambda: read_tar(tmp_path, {"one"}, MiB), tmp_path.name, "cannot be read")
    # Whole as a .gz, cut as a .tar: in the middle of a member, and of its header.
    for length in (512 + 700, 300):
        path.write_bytes(gzip.compress(gzip.decompress(whole)[:length]))
        refused(lambda: read_tar(path, {"one"}, MiB), "a.tar.gz", "cannot be read")


def test_tar_gives_the_members_asked_for(tmp_path):
    folder = tarfile.TarInfo("set")
    folder.type = tarfile.DIRTYPE
    files = {name: content for name, content in FILES.items() if not name.endswith("/")}
    path = tar_gz(tmp_path / "a.tar.gz", files, folder)
    assert read_tar(path, {"set/two", "set/none"}, MiB) == {"set/two": FILES["set/two"], "set/none": b""}
    refused(lambda: read_tar(path, {"set/three"}, MiB), "a.tar.gz", "lacks 'set/three'")
    refused(lambda: read_tar(path, {"set"}, MiB), "a.tar.gz", "lacks 'set'")
    refused(lambda: read_tar(path, {"set/one"}, 2000), "a.tar.gz", "more than the 2,000 bytes")
    refused(lambda: read_tar(path, {"set/one"}, MiB, members=3), "a.tar.gz", "more than 3 members")


@pytest.mark.parametrize(
    ("name", "kind", "problem"),
    [
        ("one", tarfile.SYMTYPE, "neither file nor folder"),
        ("one", tarfile.LNKTYPE, "neither file nor folder"),
        ("pipe", tarfile.FIFOTYPE, "neither file nor folder"),
        ("disk", tarfile.BLKTYPE, "neither file nor folder"),
        ("one", tarfile.REGTYPE, "twice"),
        ("../one", tarfile.REGTYPE, "leads outside"),
        ("a/../../one", tarfile.REGTYPE, "leads outside"),
        ("/etc/one", tarfile.REGTYPE, "leads outside"),
        ("C:\\one", tarfile.REGTYPE, "leads outside"),
    ],
)
def test_a_hostile_tar_member_is_refused(tmp_path, name, kind, problem):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    path = tar_gz(tmp_path / "a.tar.gz", {"one": b"1"}, info)
    refused(lambda: read_tar(path, {"one"}, MiB), "a.tar.gz", problem)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_tar_member_of_negative_size_is_no_endless_loop(tmp_path, kind):
    info = tarfile.TarInfo("one")
    info.type = kind
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" + (-1024).to_bytes(11, "big", signed=True)
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(bytes(header) * 3 + bytes(1024)))
    with pytest.raises(NbpkgError, match=r"/a\.tar\.gz: "):
        read_tar(path, {"one"}, MiB)


def test_zip_gives_the_members_wanted_in_order(tmp_path):
    path = zipped(tmp_path / "a.zip", dict(reversed(FILES.items())))
    assert list(read(path).items()) == sorted((n, c) for n, c in FILES.items() if not n.endswith("/"))
    assert [name for name, _ in read_zip(path, lambda name: "o" in name, MiB, MiB)] == [
        "set/none", "set/one", "set/two"]  # fmt: skip
    assert list(read_zip(path, {"set/two"}.__contains__, MiB, MiB)) == [("set/two", FILES["set/two"])]


def test_a_zip_over_a_limit_is_refused_before_anything_is_unpacked(tmp_path, monkeypatch):
    path = zipped(tmp_path / "a.zip", FILES)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("unpacked"))
    refused(lambda: read(path, limit=5000), "a.zip", "'set/two' unpacks to 5,120 bytes, 5,000 are allowed")
    refused(lambda: read(path, total=8000), "a.zip", "8,120 bytes, more than the 8,000")
    refused(lambda: read(path, members=3), "a.zip", "more than 3 members")


def test_a_damaged_zip_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    copies = damaged_copies(zipped(path, {"one": bytes(range(256)) * 9}).read_bytes())
    for content in copies.values():
        path.write_bytes(content)
        refused(lambda: read(path), "a.zip", "cannot be read")
    refused(lambda: read(tmp_path / "no.zip"), "no.zip", "no such file")


def member(name: str = "one", mode: int = stat.S_IFREG | 0o644, method: int = zipfile.ZIP_DEFLATED):
    info = zipfile.ZipInfo(name)
    info.external_attr, info.compress_type = mode << 16, method
    return info


@pytest.mark.parametrize(
    ("info", "problem"),
    [
        (member(mode=stat.S_IFLNK | 0o777), "neither file nor folder"),
        (member(mode=stat.S_IFCHR), "neither file nor folder"),
        (member("../one"), "leads outside"),
        (member("/one"), "leads outside"),
        (member("..\\one"), "leads outside"),
        (member(method=zipfile.ZIP_LZMA), "unusual compression"),
    ],
)
def test_a_hostile_zip_member_is_refused(tmp_path, info, problem):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, b"/etc/passwd")
    refused(lambda: read(path), "a.zip", problem)


def patched(content: bytes, offset: int, value: bytes) -> bytes:
    """`content` with `value` put into its only entry of the central directory, `offset` bytes in."""
    start = content.index(b"PK\x01\x02") + offset
    return content[:start] + value + content[start + len(value) :]


def test_a_zip_that_lies_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    whole = zipped(path, {"one": b"1" * 5000}).read_bytes()
    for content, problem in (
        (patched(whole, 8, b"\1\0"), "encrypted"),
        (patched(whole, 24, struct.pack("<I", 4999)), "cannot be read"),
        (patched(whole, 24, struct.pack("<I", 5001)), "truncated"),
        (patched(whole, 16, b"\0\0\0\0"), "cannot be read"),
        (patched(whole, 46, b"two"), "cannot be read"),
        (patched(whole, 46, b"a\0b"), "leads outside"),
    ):
        path.write_bytes(content)
        refused(lambda: read(path), "a.zip", problem)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one", b"1")
        archive.writestr("one", b"2")
    refused(lambda: read(path), "a.zip", "two members one name")


def test_a_zip_bomb_that_claims_to_be_small_is_cut_short(tmp_path, monkeypatch):
    path, unpacked = tmp_path / "a.zip", []
    whole = zipped(path, {"one": bytes(30 * MiB)}).read_bytes()
    path.write_bytes(patched(whole, 24, struct.pack("<I", 1000)))
    original = zlib.decompressobj

    class Watched:
        def __init__(self, *arguments):
            self.inner = original(*arguments)

        def decompress(self, data, limit=0):
            unpacked.append(len(out := self.inner.decompress(data, limit)))
            return out

        def __getattr__(self, name):
            return getattr(self.inner, name)

    monkeypatch.setattr(zipfile.zlib, "decompressobj", Watched)
    refused(lambda: read(path), "a.zip", "cannot be read")
    assert 0 < sum(unpacked) <= 2**16


def test_what_the_reader_of_members_raises_is_not_blamed_on_the_file(tmp_path):
    path = zipped(tmp_path / "a.zip", FILES)
    with pytest.raises(io.UnsupportedOperation):
        for _ in read_zip(path, lambda name: True, MiB, MiB):
            raise io.UnsupportedOperation("mine")
