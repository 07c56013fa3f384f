"""The registry: complete, unambiguous, inside the data folder; the tool that pins it."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pin
import pytest
from public import needs

from nbpkg import data
from nbpkg.data import recipes, registry
from nbpkg.errors import NbpkgError

SMALL = """
[toy]
kind = "public"
title = "Toy"
licence = "MIT"
source = "somewhere"
base = "http://example.invalid/"
local = "toy/"

[toy.files]
"a.txt" = { size = 1, sha256 = "%s" }
""" % ("0" * 64)

TRAIN = "wikitext2/wiki.train.tokens"


def write(tmp_path, text):
    path = tmp_path / "registry.toml"
    path.write_text(text)
    return path


def test_help_is_registered_at_one_commit_with_all_devices():
    counts = {"help-nasbench201": 27, "help-fbnet": 27, "help-ofa": 12}
    for name, devices in counts.items():
        dataset = registry.get(name)
        latencies = [file for file in dataset.files if "/latency/" in file.path]
        assert len(latencies) == devices
        assert dataset.licence == "MIT"
        for file in dataset.files:
            assert "/45f70eb92d0d735970a33b608d1544ad3c52f285/data/" in file.url
            assert file.url.endswith(file.path.removeprefix("help"))


PINNED = re.compile(
    r"https://(raw\.githubusercontent\.com/[^/]+/[^/]+/[0-9a-f]{40}/|codeload.*/tar\.gz/[0-9a-f]{40}$)"
)


def test_every_set_can_be_had_from_addresses_that_cannot_change_unnoticed():
    for dataset in data.sets():
        assert dataset.source and dataset.licence and dataset.title
        derived = dataset.kind == "derived"
        assert all(bool(file.urls) != derived for file in dataset.files) and bool(dataset.ways) == derived
        if derived:
            assert callable(recipes.get(dataset.recipe)) and recipes.get(dataset.recipe).__doc__
            # Text is pinned by its bytes, but for one file whose articles have an order of the book's own.
            pinned = {f.path for f in dataset.files if f.path.startswith("text/")} - {f"text/{TRAIN}"}
            assert all(bool(file.values) != (file.path in pinned) for file in dataset.files)
        for file in sum(dataset.ways, dataset.files):
            for url in file.urls:
                # An address either names a commit, or leads to a file whose checksum others published.
                assert PINNED.match(url) or (file.sha256 and url.startswith("https://"))
                assert file.sha256 or "codeload" in url


def test_sources_are_complete_ways(tmp_path):
    entry = '{ name = "a.zip", way = "%s", size = 3, urls = ["http://x.invalid/a", "http://y.invalid/a"] }'
    derived = SMALL.replace('kind = "public"', 'kind = "derived"\nrecipe = "text.as_is"').replace(
        'base = "http://example.invalid/"', f'sources = [{entry % "one"}, {entry % "two"}]')  # fmt: skip
    found = registry.load(write(tmp_path, derived))["toy"]
    assert [[file.path for file in way] for way in found.ways] == [[".sources/toy/a.zip"]] * 2
    (source,) = found.ways[0]
    assert source.urls == ("http://x.invalid/a", "http://y.invalid/a") and source.sha256 == ""


def test_one_content_is_registered_once_per_space():
    # Two devices with the same checksum would be a copy-and-paste slip.
    for dataset in data.sets():
        assert len({file.sha256 for file in dataset.files}) == len(dataset.files)


def test_digest_depends_on_every_checksum(tmp_path):
    one = registry.load(write(tmp_path, SMALL))["toy"]
    (tmp_path / "other").mkdir()
    two = registry.load(write(tmp_path / "other", SMALL.replace("0" * 64, "1" + "0" * 63)))["toy"]
    assert one.digest.startswith("sha256:") and one.digest != two.digest
    assert len({data.digest(dataset.name) for dataset in data.sets()}) == len(data.sets())


def test_every_registered_file_is_pinned_and_has_a_place_of_its_own_inside_the_data_folder():
    places = []
    for dataset in data.sets():
        assert dataset.kind in ("public", "derived") and dataset.files
        assert bool(dataset.recipe) == (dataset.kind == "derived")
        for file in sum(dataset.ways, dataset.files):
            path = PurePosixPath(file.path)
            assert str(path) == file.path and not path.is_absolute() and ".." not in path.parts
            assert not {"\\", ":"} & set(file.path) and file.path.startswith((dataset.local, ".sources/"))
            assert re.fullmatch("[0-9a-f]{64}" if file in dataset.files else "([0-9a-f]{64})?", file.sha256)
            assert type(file.size) is int and file.size > 0
            places.append(file.path)
    assert len(places) == len(set(places))


def test_unknown_names_list_the_known_ones():
    with pytest.raises(NbpkgError, match="help-nasbench201"):
        data.digest("help")
    with pytest.raises(NbpkgError, match=r"help/nothing\.pt"):
        data.path("help/nothing.pt")


def test_pin_writes_sizes_and_checksums_and_nothing_else(tmp_path):
    path = write(tmp_path, SMALL)
    folder = tmp_path / "folder"
    (folder / "toy").mkdir(parents=True)
    (folder / "toy" / "a.txt").write_bytes(b"twelve bytes")
    assert pin.pin(folder, path, write=False) == 1 and path.read_text() == SMALL
    assert pin.pin(folder, path) == 1
    sha256 = hashlib.sha256(b"twelve bytes").hexdigest()
    assert path.read_text() == SMALL.replace("size = 1", "size = 12").replace("0" * 64, sha256)
    assert pin.pin(folder, path, write=False) == 0
    (folder / "toy" / "a.txt").unlink()
    with pytest.raises(NbpkgError, match=r"toy/a\.txt"):
        pin.pin(folder, path)


def test_pin_leaves_published_checksums_alone(tmp_path):
    text = SMALL.replace("local =", 'checksums = "published elsewhere"\nlocal =')
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "a.txt").write_bytes(b"something else")
    assert pin.pinned(text, tmp_path) == text
    assert registry.load(write(tmp_path, text))["toy"].checksums == "published elsewhere"


@needs(*(dataset.name for dataset in data.sets() if not dataset.checksums))
def test_the_registry_is_what_pin_makes_of_the_files():
    text = registry.REGISTRY.read_text()
    assert pin.pinned(text, Path(os.environ["NBPKG_DATA"])) == text


def test_importing_data_loads_neither_numpy_nor_torch():
    code = "import sys, json, nbpkg.data; print(json.dumps([m in sys.modules for m in ('torch', 'numpy')]))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == [False, False]
