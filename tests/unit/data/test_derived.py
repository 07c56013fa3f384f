"""Derived sets from a local file server: made whole and checked, or one line and nothing half made."""

import errno
import functools
import hashlib
import http.server
import json
import os
import threading
from pathlib import Path

import pandas as pd
import pytest

from nbpkg import data
from nbpkg.data import download, mirror, needs, recipes, registry, store, values
from nbpkg.data.registry import DataFile, DataSet
from nbpkg.errors import NbpkgError

CSV, TSV = b"a,b\n1,x\n2,y\n", b"a\tb\n1\tx\n2\ty\n"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Handler(http.server.SimpleHTTPRequestHandler):
    seen: list[str]

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.seen.append(self.path)
        super().do_GET()


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder, handed out as NBPKG_MIRROR, and the list of what was asked for; an empty cache."""
    folder, seen = tmp_path / "served", []
    folder.mkdir()
    kind = type("Own", (Handler,), {"seen": seen})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(kind, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    for name in ("NBPKG_DATA", "NBPKG_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NBPKG_MIRROR", f"http://127.0.0.1:{server.server_address[1]}/")
    yield folder, seen
    server.shutdown()
    server.server_close()
    thread.join()


def recipe(sources: dict[str, Path], out: Path) -> None:
    """A table from the one source, whatever its form."""
    ((name, path),) = sources.items()
    out.mkdir(parents=True)
    pd.read_csv(path, sep="\t" if name.endswith("tsv") else ",").to_parquet(out / "t.parquet")


class Toy:
    """A set of one table, in the first way from a.csv at two addresses, in the second from a tsv unpinned."""

    def __init__(self, served, tmp_path, monkeypatch):
        self.folder, self.seen = served
        recipe({"a.csv": self.write("x.org/a.csv", CSV)}, tmp_path / "due")
        due = tmp_path / "due" / "t.parquet"
        table = DataFile(
            "toy/t.parquet", None, sha256(due.read_bytes()), due.stat().st_size, values.digest(due)
        )
        pinned = DataFile(
            ".sources/toy/a.csv", "https://x.org/a.csv", sha256(CSV), len(CSV), "", ("https://y.org/b.csv",)
        )
        packed = DataFile(".sources/toy/a.tsv", "https://z.org/tar/0", "", len(TSV))
        self.set = DataSet(
            "toy", "derived", "Toy", "MIT", None, "x", "", (table,), "", "toy/", "toy", ((pinned,), (packed,))
        )
        self.final, self.lines = store.cache_folder() / "toy" / "t.parquet", []
        self.recipe = recipe
        monkeypatch.setattr(recipes, "get", lambda name: self.recipe)
        monkeypatch.setattr(registry, "load", lambda: {"toy": self.set})

    def write(self, name: str, content: bytes) -> Path:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(content)
        return self.folder / name

    def fetch(self, **options):
        return download.fetch_set(self.set, say=self.lines.append, pause=0.0, **options)

    def succeeds(self, **options):
        assert self.fetch(**options) == [self.final] and pd.read_parquet(self.final)["b"].tolist() == [
            "x",
            "y",
        ]
        assert self.sources() == ([] if not options else ["a.csv"])
        assert not list((store.cache_folder() / ".building").glob("*"))

    def fails(self, *words, error=NbpkgError):
        with pytest.raises(error) as caught:
            self.fetch()
        assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)
        assert not self.final.exists() and not list((store.cache_folder() / ".building").glob("*"))

    def sources(self):
        return sorted(path.name for path in (store.cache_folder() / ".sources").glob("toy/*"))


@pytest.fixture
def toy(served, tmp_path, monkeypatch):
    return Toy(served, tmp_path, monkeypatch)


def test_sources_are_fetched_converted_and_removed(toy):
    assert download.to_download(toy.set) == len(CSV)
    toy.succeeds()
    assert toy.seen == ["/x.org/a.csv"] and "licence: MIT" in toy.lines[1]
    toy.succeeds()
    assert len(toy.seen) == 1 and download.to_download(toy.set) == 0


def test_sources_are_kept_on_demand_and_used_again(toy):
    toy.succeeds(keep=True)
    toy.final.unlink()
    assert download.to_download(toy.set) == 0
    toy.succeeds()
    assert len(toy.seen) == 1


@pytest.mark.parametrize("wrong", [None, CSV.replace(b"x", b"z"), CSV[:-1]])
def test_a_gone_or_changed_address_gives_way_to_the_next(toy, wrong):
    toy.write("y.org/b.csv", CSV)
    (toy.folder / "x.org" / "a.csv").unlink() if wrong is None else toy.write("x.org/a.csv", wrong)
    toy.succeeds()
    assert toy.seen[-1] == "/y.org/b.csv" and any("127.0.0.1" in line for line in toy.lines)


def test_a_second_way_is_gone_when_the_first_is_closed_and_then_there_is_one_line(toy):
    (toy.folder / "x.org" / "a.csv").unlink()
    toy.fails("toy/a.tsv", "404", "NBPKG_MIRROR")
    toy.write("z.org/tar/0", TSV)
    toy.succeeds()
    assert any("another source is tried" in line for line in toy.lines)


def test_a_way_whose_sources_are_here_is_gone_first(toy):
    (toy.folder / "x.org" / "a.csv").unlink()
    toy.write("z.org/tar/0", TSV)
    toy.recipe = stopped
    toy.fails(error=KeyboardInterrupt)
    toy.write("x.org/a.csv", CSV)
    toy.recipe, asked = recipe, len(toy.seen)
    assert download.to_download(toy.set) == 0
    toy.succeeds()
    assert len(toy.seen) == asked


@pytest.mark.parametrize("content", [TSV.replace(b"x", b"z"), b"\0", b"one column\nof text\n"])
def test_an_unpinned_source_that_gives_something_else_is_thrown_away(toy, content):
    (toy.folder / "x.org" / "a.csv").unlink()
    toy.write("z.org/tar/0", content)
    toy.fails("toy")
    assert toy.sources() == []
    toy.write("z.org/tar/0", TSV)
    toy.succeeds()


def test_an_unpinned_source_may_not_grow_without_end(toy):
    (toy.folder / "x.org" / "a.csv").unlink()
    toy.write("z.org/tar/0", TSV * 3)
    toy.fails("more than")


def test_a_recipe_that_makes_something_else_is_one_line_and_its_sources_stay(toy):
    def other(sources, out):
        out.mkdir(parents=True)
        pd.DataFrame({"a": [1]}).to_parquet(out / "t.parquet")

    toy.recipe = other
    toy.write("z.org/tar/0", TSV)
    toy.fails("toy/t.parquet", "made another file", "other values")
    assert toy.sources() == ["a.csv"]


def test_a_way_whose_sources_the_recipe_refuses_gives_way_to_the_next(toy):
    def refuses(sources, out):
        if "a.csv" in sources:
            raise KeyError("not as expected")
        recipe(sources, out)

    toy.recipe = refuses
    toy.write("z.org/tar/0", TSV)
    toy.succeeds()
    assert any("not what its recipe takes" in line for line in toy.lines)


def full(sources, out):
    out.mkdir(parents=True)
    (out / "t.parquet").write_bytes(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def stopped(sources, out):
    out.mkdir(parents=True)
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("bad", "error", "word"), [(full, NbpkgError, "No space"), (stopped, KeyboardInterrupt, "")]
)
def test_a_conversion_that_breaks_off_goes_on_without_a_download(toy, bad, error, word):
    toy.recipe = bad
    toy.fails(word, error=error)
    toy.recipe = recipe
    toy.succeeds()
    assert len(toy.seen) == 1


def test_other_bytes_of_the_same_values_are_the_registered_file(toy, monkeypatch):
    def other(sources, out):
        recipe(sources, out)
        pd.read_parquet(out / "t.parquet").to_parquet(out / "t.parquet", compression="gzip")

    toy.recipe = other
    toy.succeeds()
    assert sha256(toy.final.read_bytes()) != toy.set.files[0].sha256 and data.available("toy")
    assert store.present(toy.set.files[0]) == "cache"
    # The digest of values is noted down: another process need not read the table again.
    store._values.cache_clear()
    monkeypatch.setattr(values, "digest", lambda path: pytest.fail("read again"))
    assert data.path("toy/t.parquet") == toy.final
    toy.final.write_bytes(toy.final.read_bytes()[:-1] + b"x")
    monkeypatch.undo()
    store._values.cache_clear()


def test_a_damaged_derived_file_is_refused_and_made_again(toy):
    toy.succeeds()
    toy.final.write_bytes(toy.final.read_bytes()[:-9])
    with pytest.raises(NbpkgError, match=r"toy/t\.parquet in the cache: .*fetch toy"):
        data.path("toy/t.parquet")
    toy.succeeds()


def test_offline_and_a_given_folder_forbid_it(toy, monkeypatch, tmp_path):
    monkeypatch.setenv("NBPKG_OFFLINE", "1")
    with pytest.raises(NbpkgError, match="switched off"):
        toy.fetch()
    monkeypatch.delenv("NBPKG_OFFLINE")
    monkeypatch.setenv("NBPKG_DATA", str(tmp_path))
    with pytest.raises(NbpkgError, match="NBPKG_DATA"):
        toy.fetch()
    assert toy.seen == []


def test_a_mirror_holds_what_was_fetched_and_serves_it(toy, tmp_path, monkeypatch):
    lines = []
    with pytest.raises(NbpkgError, match="--keep"):
        mirror.write(tmp_path / "copy", lines.append)
    toy.succeeds(keep=True)
    assert mirror.write(tmp_path / "copy", lines.append) == 1
    assert (tmp_path / "copy" / "x.org" / "a.csv").read_bytes() == CSV and "licence: MIT" in lines[0]
    (toy.folder / "x.org").rename(toy.folder / "gone")
    (tmp_path / "copy").rename(toy.folder / "copy")
    monkeypatch.setenv("NBPKG_MIRROR", os.environ["NBPKG_MIRROR"] + "copy")
    toy.final.unlink()
    (store.cache_folder() / ".sources" / "toy" / "a.csv").unlink()
    toy.succeeds()
    assert toy.seen[-1] == "/copy/x.org/a.csv"


RECORDS = sorted(Path(__file__).parents[3].glob("results/standard/*.json"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_chapters_need_what_their_published_records_used(path):
    used = set(json.loads(path.read_text())["data"])
    assert {item.name for item in needs.sets([path.stem], "standard")} == used
    assert needs.sets([path.stem], "smoke") == []


def test_what_is_lacking_is_one_line_with_one_command(tmp_path, monkeypatch):
    monkeypatch.delenv("NBPKG_DATA", raising=False)
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path))
    line = needs.lacking(["05_tans", "02_metad2a", "77_unknown"], "standard")
    assert "`nbpkg data fetch --for 02,05 --profile standard`" in line and "MB" in line and "\n" not in line
    monkeypatch.setenv("COLAB_RELEASE_TAG", "x")
    assert "`!nbpkg data fetch --for 05 --profile paper`" in needs.lacking(["05_tans"], "paper")
    for chapter, profile in (("05_tans", "smoke"), ("07_hyperdistill", "paper"), ("77", "paper")):
        assert needs.lacking([chapter], profile) == ""
    assert "image-tiny-imagenet" in {item.name for item in needs.sets(["07_hyperdistill_evidence"], "paper")}
