"""Where things lie."""

from pathlib import Path

import pytest

from nbpkg import paths
from nbpkg.errors import NbpkgError


@pytest.fixture
def book(tmp_path):
    (tmp_path / "book" / "notebooks" / "src").mkdir(parents=True)
    (tmp_path / "book" / "_toc.yml").write_text("root: README\n")
    return (tmp_path / "book").resolve()


def test_root_is_found_from_any_folder_inside(book, monkeypatch):
    monkeypatch.delenv("NBPKG_ROOT", raising=False)
    for folder in (book, book / "notebooks", book / "notebooks" / "src"):
        monkeypatch.chdir(folder)
        assert paths.root() == book


def test_root_prefers_the_environment(book, tmp_path, monkeypatch):
    monkeypatch.setenv("NBPKG_ROOT", str(book))
    monkeypatch.chdir(tmp_path)
    assert paths.root() == book


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_a_wrong_root_in_the_environment_is_an_error_rather_than_another_root(
    book, tmp_path, monkeypatch, place
):
    monkeypatch.setenv("NBPKG_ROOT", str(tmp_path / place))
    monkeypatch.chdir(book)
    with pytest.raises(NbpkgError, match="NBPKG_ROOT"):
        paths.root()


def test_no_repository_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.delenv("NBPKG_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "site" / "nbpkg" / "paths.py"))
    with pytest.raises(NbpkgError) as error:
        paths.root()
    assert "\n" not in str(error.value) and "NBPKG_ROOT" in str(error.value)


def test_root_falls_back_to_where_the_package_lies(book, tmp_path, monkeypatch):
    monkeypatch.delenv("NBPKG_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "__file__", str(book / "nbpkg" / "paths.py"))
    assert paths.root() == book


def test_cache_dir_follows_the_environment_and_is_not_made(tmp_path, monkeypatch):
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path / "there"))
    assert paths.cache_dir() == (tmp_path / "there").resolve()
    assert not paths.cache_dir().exists()
    monkeypatch.delenv("NBPKG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert "nbpkg" in paths.cache_dir().parts


def test_relative_never_shows_a_machines_folders(book, tmp_path, monkeypatch):
    monkeypatch.setenv("NBPKG_ROOT", str(book))
    assert paths.relative(book / "runs" / "smoke" / "x.json") == "runs/smoke/x.json"
    assert paths.relative(tmp_path / "elsewhere" / "x.json") == "x.json"
    assert paths.relative(Path("/")) == ""
