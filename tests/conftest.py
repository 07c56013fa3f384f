"""Fixtures for tests of the tools: a small book of its own."""

from __future__ import annotations

import pytest
from books import Book, finished_run


@pytest.fixture
def book(tmp_path, monkeypatch) -> Book:
    """A temporary repository with one tiny chapter, 03_help, which NBPKG_ROOT names."""
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
