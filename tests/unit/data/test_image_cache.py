"""Which copy of an image set is read, and that decoded sets on disk are never trusted blindly."""

import hashlib
import io
from pathlib import Path

import makers
import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from nbpkg.data import images, registry, store
from nbpkg.data.registry import DataFile, DataSet
from nbpkg.errors import NbpkgError

DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


def made(n: int = 12) -> tuple:
    return makers.random(n, 3, 4, 4), np.arange(n) % 3, ("é", "b", "c"), np.arange(n) % 2 == 0


class Counted:
    """A reader that counts how often it was needed."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return made()


def same(found: tuple, due: tuple) -> bool:
    arrays = zip((found[0], found[1], found[3]), (due[0], due[1], due[3]), strict=True)
    return found[2] == due[2] and all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in arrays)


def test_a_set_is_decoded_once(cache):
    make = Counted()
    for _ in range(3):
        found = images.decoded("toy", DIGEST, make)
        assert same(found, made()) and found[0].flags.writeable
    assert make.calls == 1
    assert len(list(cache.iterdir())) == 1


def test_other_files_and_other_readers_are_decoded_anew(cache, monkeypatch):
    make = Counted()
    images.decoded("toy", DIGEST, make)
    images.decoded("toy", DIGEST.replace("ab", "cd"), make)
    images.decoded("other", DIGEST, make)
    monkeypatch.setattr(images, "READERS", images.READERS + 1)
    images.decoded("toy", DIGEST, make)
    assert make.calls == len(list(cache.iterdir())) == 4


def test_a_damaged_copy_is_decoded_again_and_mended(cache, capsys):
    make = Counted()
    images.decoded("toy", DIGEST, make)
    (path,) = cache.iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    for _ in range(2):
        assert same(images.decoded("toy", DIGEST, make), made())
    assert make.calls == 2 and [file.name for file in cache.iterdir()] == [path.name]
    assert capsys.readouterr().out.startswith("toy: what was stored is damaged")


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path / "file"))
    assert same(images.decoded("toy", DIGEST, made), made())


def test_a_reader_that_fails_leaves_nothing_behind(cache):
    def fails():
        raise NbpkgError("toy.zip: damaged")

    with pytest.raises(NbpkgError, match=r"toy\.zip"):
        images.decoded("toy", DIGEST, fails)
    assert not cache.exists()


def registered(name: str, kind: str, folder: Path, paths: list[str]) -> DataSet:
    files = []
    for path in paths:
        content = (folder / path).read_bytes()
        files.append(DataFile(path, None, hashlib.sha256(content).hexdigest(), len(content)))
    return DataSet(name, kind, "Toy", "MIT", None, "somewhere", "", tuple(files))


@pytest.fixture
def mnist(tmp_path, monkeypatch, cache):
    """A folder with a part of MNIST, ten images, registered."""
    folder = tmp_path / "given"
    (folder / "images").mkdir(parents=True)
    blobs = []
    for number in range(10):
        stream = io.BytesIO()
        Image.fromarray(np.full((28, 28), number, np.uint8)).save(stream, "WEBP", lossless=True)
        blobs.append(stream.getvalue())
    digits = [str(number) for number in range(10)]
    split = ["train"] * 5 + ["test"] * 5
    table = {"image": blobs, "label": list(range(10)), "class_name": digits, "split": split}
    parquet.write_table(pyarrow.table(table), folder / "images" / "mnist.parquet")
    sets = {"image-mnist": registered("image-mnist", "derived", folder, ["images/mnist.parquet"])}
    monkeypatch.setattr(registry, "load", lambda: sets)
    monkeypatch.setenv("NBPKG_DATA", str(folder))
    store._sha256.cache_clear()
    return folder / "images"


def load(name="mnist"):
    return images.load.__wrapped__(name)


def test_a_set_is_kept_decoded_and_asked_for_by_name_when_it_is_gone(mnist, cache):
    part = load()
    assert part.registered == "image-mnist" and part.images.shape == (10, 1, 28, 28)
    assert part.digest == registry.get("image-mnist").digest and len(list(cache.iterdir())) == 1
    # The second time it comes from the cache, and is what it was.
    assert np.array_equal(load().images, part.images) and load().class_names == part.class_names
    (mnist / "mnist.parquet").unlink()
    with pytest.raises(NbpkgError) as caught:
        load()
    for word in ("images/mnist.parquet", "nbpkg data fetch image-mnist`", "smoke"):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_an_error_even_where_a_copy_or_another_set_is_whole(mnist):
    load()
    content = (mnist / "mnist.parquet").read_bytes()
    (mnist / "mnist.parquet").write_bytes(content[:-1] + b"X")
    with pytest.raises(NbpkgError, match=r"images/mnist\.parquet in NBPKG_DATA: .*refused"):
        load()
