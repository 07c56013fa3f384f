"""Local copies: which one is taken, and that a wrong one never is."""

import hashlib
import os

import pytest
from public import needs

from nbpkg import data
from nbpkg.cli import main
from nbpkg.data import registry, store
from nbpkg.data.registry import DataFile, DataSet
from nbpkg.errors import NbpkgError

GOOD = b"the right bytes"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A registered set of one file "toy/a.bin", an empty cache and an empty NBPKG_DATA folder."""
    file = DataFile("toy/a.bin", "http://127.0.0.1:9/a.bin", hashlib.sha256(GOOD).hexdigest(), len(GOOD))
    dataset = DataSet("toy", "public", "Toy", "MIT", None, "somewhere", "", (file,))
    derived = DataSet("joined", "derived", "Toy", "MIT", None, "two places", "", (
        DataFile("toy/b.bin", None, file.sha256, file.size),))  # fmt: skip
    monkeypatch.setattr(registry, "load", lambda: {"toy": dataset, "joined": derived})
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NBPKG_DATA", str(tmp_path / "given"))
    (tmp_path / "given" / "toy").mkdir(parents=True)
    (store.cache_folder() / "toy").mkdir(parents=True)
    return tmp_path / "given" / "toy" / "a.bin", store.cache_folder() / "toy" / "a.bin"


def test_the_given_folder_comes_first_then_the_cache(toy):
    given, cached = toy
    assert not data.available("toy")
    cached.write_bytes(GOOD)
    assert data.path("toy/a.bin") == cached
    given.write_bytes(GOOD)
    assert data.path("toy/a.bin") == given
    assert [state.where for state in data.verify("toy")] == ["NBPKG_DATA"]
    assert data.available("toy")


def test_absent_data_says_which_file_how_to_get_it_and_what_needs_none(toy):
    with pytest.raises(NbpkgError) as caught:
        data.path("toy/a.bin")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("toy/a.bin", "nbpkg data fetch toy", "smoke"):
        assert part in message


@pytest.mark.parametrize("wrong", [b"the wrong bytes", GOOD[:-1], GOOD + b"x", b""])
@pytest.mark.parametrize("tier", [0, 1])
def test_a_corrupt_copy_is_refused_by_name(toy, wrong, tier):
    toy[tier].write_bytes(wrong)
    with pytest.raises(NbpkgError, match=r"^toy/a\.bin in .*refused") as caught:
        data.path("toy/a.bin")
    if len(wrong) == len(GOOD):
        assert hashlib.sha256(wrong).hexdigest()[:12] in str(caught.value)
        assert hashlib.sha256(GOOD).hexdigest()[:12] in str(caught.value)
    else:
        assert f"{len(wrong)} bytes instead of {len(GOOD)}" in str(caught.value)
    assert [state.status for state in data.verify("toy")] == ["corrupt"]
    with pytest.raises(NbpkgError, match=r"toy/a\.bin"):
        data.available("toy")


def test_a_file_damaged_after_its_check_is_noticed(toy):
    given, _ = toy
    given.write_bytes(GOOD)
    assert data.path("toy/a.bin") == given
    given.write_bytes(GOOD[::-1])
    os.utime(given, ns=(1, 1))
    with pytest.raises(NbpkgError, match="SHA-256"):
        data.path("toy/a.bin")


def test_a_checked_file_is_not_hashed_again(toy, monkeypatch):
    given, _ = toy
    given.write_bytes(GOOD)
    data.path("toy/a.bin")
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("hashed a second time"))
    assert data.path("toy/a.bin") == given


def test_fetch_with_a_given_folder_takes_from_it_and_never_writes_or_downloads(toy):
    given, cached = toy
    with pytest.raises(NbpkgError, match=r"toy/a\.bin.*nothing is downloaded while it is set"):
        data.fetch("toy")
    given.write_bytes(GOOD[:-1])
    with pytest.raises(NbpkgError, match=r"toy/a\.bin in NBPKG_DATA"):
        data.fetch("toy")
    assert given.read_bytes() == GOOD[:-1] and not cached.exists()
    given.write_bytes(GOOD)
    assert data.fetch("toy") == [given]
    assert list(given.parent.iterdir()) == [given]


def test_a_given_folder_that_does_not_exist_is_an_error(toy, monkeypatch):
    monkeypatch.setenv("NBPKG_DATA", "no/such/folder")
    with pytest.raises(NbpkgError, match="no/such/folder"):
        data.path("toy/a.bin")


def test_the_list_tells_licence_and_place(toy, capsys):
    def listed():
        assert main(["data", "list"]) == 0
        return [line.split() for line in capsys.readouterr().out.splitlines()[1:]]

    given, cached = toy
    assert listed() == [["toy", "Toy", "MIT", "0.0", "0/1"], ["joined", "Toy", "MIT", "0.0", "0/1"]]
    cached.write_bytes(GOOD)
    assert [row[4:] for row in listed()] == [["1/1", "in", "cache"], ["0/1"]]
    given.write_bytes(GOOD)
    assert listed()[0][4:] == ["1/1", "in", "NBPKG_DATA"]


@needs("help-nasbench201", "help-fbnet", "help-ofa", "nats-bench-landscape")
def test_public_files_are_the_registered_ones():
    for name in ("help-nasbench201", "help-fbnet", "help-ofa", "nats-bench-landscape"):
        assert {state.status for state in data.verify(name)} == {"ok"}
        assert all(path.is_file() for path in data.fetch(name))
