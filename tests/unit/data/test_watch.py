"""The weekly watch on the public data names what is gone, changed or cannot be rebuilt, and nothing else."""

import hashlib
import threading
from dataclasses import replace

import pytest
import requests
import watch
from badserver import CONTENT, Server

from nbpkg.data import registry


@pytest.fixture
def address():
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def file(url, content=CONTENT, size=None):
    digest = hashlib.sha256(content).hexdigest()
    return registry.DataFile("a/b", url, digest, len(content) if size is None else size)


def test_every_original_is_asked_for_and_nothing_that_a_recipe_makes():
    files = watch.originals(registry.load().values())
    assert all(one.urls for one in files)
    for dataset in registry.load().values():
        made = set(dataset.files) & set(files)
        assert made == (set() if dataset.kind == "derived" else set(dataset.files))


def test_what_is_gone_or_changed_is_named(address):
    with requests.Session() as session:
        assert list(watch.problems([file(f"{address}/x")], session, pause=0)) == []
        (line,) = watch.problems([file(f"{address}/x", size=7)], session, pause=0)
        assert "300,000 bytes instead of 7" in line
        (line,) = watch.problems([file("http://127.0.0.1:9/x")], session, pause=0)
        assert "no answer" in line
        # A source that is packed anew on demand has no size that could be compared.
        packed = replace(file(f"{address}/x", size=7), sha256="")
        assert list(watch.problems([packed], session, pause=0)) == []


def test_one_file_is_read_whole(address):
    with requests.Session() as session:
        assert watch.whole(file(f"{address}/x"), session) is None
        assert "SHA-256" in watch.whole(file(f"{address}/x", CONTENT[::-1]), session)
    files = watch.originals(registry.load().values())
    assert 0 < watch.smallest(files).size < watch.SMALL


def test_each_set_has_its_turn():
    names = list(registry.load())
    assert {watch.turn(names, week) for week in range(1, 54)} == set(names)


def test_the_report_says_what_failed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(watch, "problems", lambda files, session: iter(["one: gone"]))
    monkeypatch.setattr(watch, "whole", lambda file, session: None)
    monkeypatch.setattr(watch, "rebuild", lambda name: None)
    assert watch.main(["--out", str(tmp_path / "report.md"), "--week", "3"]) == 1
    assert "- one: gone" in (tmp_path / "report.md").read_text()
    monkeypatch.setattr(watch, "problems", lambda files, session: iter([]))
    assert watch.main(["--out", str(tmp_path / "report.md")]) == 0
    assert "Every address answers." in (tmp_path / "report.md").read_text()


def test_a_set_that_cannot_be_rebuilt_is_one_line(monkeypatch):
    monkeypatch.delenv("NBPKG_DATA", raising=False)
    monkeypatch.setenv("NBPKG_OFFLINE", "1")
    line = watch.rebuild("help-nasbench201")
    assert line.startswith("help-nasbench201 cannot be rebuilt") and "\n" not in line
