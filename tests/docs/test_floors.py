"""The floor plan in CONTRIBUTING is the contract's, and the places that documents name are there."""

import re

import floors
import pytest

from nbpkg.paths import root

DOCUMENTS = [root() / "README.md", root() / "CONTRIBUTING.md", *sorted((root() / "book").glob("*.md"))]


def test_the_plan_is_the_contracts():
    text = floors.PAGE.read_text(encoding="utf-8")
    assert floors.drawn(text) == text, "`python tests/floors.py` draws it anew"


def test_every_room_stands_on_a_floor_and_says_what_it_is_for():
    rooms = [room for layer in floors.layers() for room in layer]
    home = root() / "nbpkg"
    there = {path.stem for path in home.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert set(rooms) == there - {"__init__"} and len(set(rooms)) == len(rooms)
    assert len([path for path in home.glob("*.py")]) <= 8
    for room in rooms:
        assert floors.purpose(room).endswith("."), room


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_places_that_are_named_are_there(path):
    for name in re.findall(r"`((?:nbpkg|tests|notebooks|results|book)/[\w./-]*)`", path.read_text()):
        if "NN_name" not in name and name != "results/moved.json":
            assert (root() / name).exists(), name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_modules_that_are_named_can_be_found(path):
    for name in re.findall(r"`(nbpkg(?:\.\w+)+)", path.read_text()):
        parts = name.split(".")
        places = [root().joinpath(*parts[:depth]) for depth in range(len(parts), 1, -1)]
        assert any(place.is_dir() or place.with_suffix(".py").is_file() for place in places), name
