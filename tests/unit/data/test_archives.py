"""Archives that are what they should be, and archives that were made to do harm."""

import gzip
import io
import tarfile
import zlib

import pytest
from makers import tar_gz, zipped

from nbpkg.data.archives import MiB, read_zip, walk_tar
from nbpkg.errors import NbpkgError

FILES = {"set/": b"", "set/one": b"1" * 3000, "set/two": bytes(range(256)) * 20, "set/none": b""}


def refused(call, name: str, problem: str) -> None:
    with pytest.raises(NbpkgError, match=problem) as caught:
        call()
    message = str(caught.value)
    assert f"/{name}: " in message and message.endswith("the file is refused")
    assert "\n" not in message and len(message) < 340


def read_tar(path, wanted: set[str], total: int = MiB, **more) -> dict[str, bytes]:
    return dict(walk_tar(path, wanted.__contains__, total, **more))


def damaged_copies(whole: bytes) -> dict[str, bytes]:
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    return {"cut": whole[:-10], "half": whole[: len(whole) // 2], "flipped": bytes(flipped), "empty": b"",
            "text": b"<html>404</html>"}  # fmt: skip


def test_a_damaged_tar_is_refused(tmp_path):
    path = tmp_path / "a.tar.gz"
    whole = tar_gz(path, {"one": bytes(range(256)) * 9}).read_bytes()
    for content in [
        *damaged_copies(whole).values(),
        whole[:-8] + zlib.crc32(b"").to_bytes(4, "little") + whole[-4:],
    ]:
        path.write_bytes(content)
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
    assert read_tar(path, {"set/three", "set"}) == {}
    refused(lambda: read_tar(path, {"set/one"}, 2000), "a.tar.gz", "more than the 2,000 bytes")
    refused(lambda: read_tar(path, {"set/one"}, MiB, members=3), "a.tar.gz", "more than 3 members")


@pytest.mark.parametrize(
    ("name", "kind", "problem"),
    [
        ("one", tarfile.SYMTYPE, "neither file nor folder"),
        ("one", tarfile.LNKTYPE, "neither file nor folder"),
        ("pipe", tarfile.FIFOTYPE, "neither file nor folder"),
        ("disk", tarfile.BLKTYPE, "neither file nor folder"),
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
    assert [name for name, _ in read_zip(path, lambda name: "o" in name)] == [
        "set/none",
        "set/one",
        "set/two",
    ]
    assert list(read_zip(path, {"set/two"}.__contains__)) == [("set/two", FILES["set/two"])]


def test_a_damaged_zip_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    copies = damaged_copies(zipped(path, {"one": bytes(range(256)) * 9}).read_bytes())
    for content in copies.values():
        path.write_bytes(content)
        refused(lambda: dict(read_zip(path, "one".__eq__)), "a.zip", "cannot be read")
    refused(lambda: dict(read_zip(tmp_path / "no.zip", "one".__eq__)), "no.zip", "no such file")


def test_what_the_reader_of_members_raises_is_not_blamed_on_the_file(tmp_path):
    path = zipped(tmp_path / "a.zip", FILES)
    with pytest.raises(io.UnsupportedOperation):
        for _ in read_zip(path, lambda name: True):
            raise io.UnsupportedOperation("mine")
