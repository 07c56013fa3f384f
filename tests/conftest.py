"""Fixtures shared by the tests: a small book of its own, one thread."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from books import Book, finished_run

from nbpkg import chapters

# The site's own extension, which lies beside the pages.
sys.path.append(str(Path(__file__).parent.parent / "book" / "extension"))


@pytest.fixture
def book(tmp_path, monkeypatch) -> Book:
    """A temporary repository with one tiny chapter, 03_help, which NBPKG_ROOT names; of the first edition."""
    first = [replace(chapter, edition=1) for chapter in chapters.CHAPTERS]
    for module in (chapters, chapters.catalogue):
        monkeypatch.setattr(module, "CHAPTERS", first)
    made = Book(tmp_path / "book")
    made.write()
    monkeypatch.setenv("NBPKG_ROOT", str(made.root))
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path / "cache"))
    return made


@pytest.fixture
def published(book):
    """The book with 03_help published at standard; `finished_run` stands in for the execution."""
    from nbpkg.book import publish

    finished_run(book)
    publish.publish(["03_help"])
    return book


@pytest.fixture(scope="module")
def one_thread():
    """Torch on one thread while a module's tests run."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
