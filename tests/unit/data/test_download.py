"""Downloads against a local server that misbehaves: a good file at the end, or nothing and one clear line."""

import hashlib
import subprocess
import sys
import textwrap
import threading
from functools import partial

import pytest
from badserver import CONTENT, HALF, Server

from nbpkg.data import download, store, transfer
from nbpkg.data.registry import DataFile, DataSet
from nbpkg.errors import NbpkgError


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def toy(server, tmp_path, monkeypatch):
    """A set of one file on the server, an empty cache and no NBPKG_DATA."""
    for name in ("NBPKG_DATA", "NBPKG_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path))
    url = f"http://127.0.0.1:{server.server_address[1]}/a.bin"
    file = DataFile("toy/a.bin", url, hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    dataset = DataSet("toy", "public", "Toy", "MIT", "http://licence", "somewhere", "", (file,))
    return Toy(server, dataset, store.cache_folder() / "toy" / "a.bin")


class Toy:
    def __init__(self, server, dataset, final):
        self.server, self.dataset, self.final, self.lines = server, dataset, final, []

    def fetch(self):
        return download.fetch_set(self.dataset, say=self.lines.append, pause=0.01)

    def succeeds(self):
        assert self.fetch() == [self.final]
        assert self.final.read_bytes() == CONTENT
        self.nothing_else_is_left()

    def fails(self, *words):
        with pytest.raises(NbpkgError) as caught:
            self.fetch()
        message = str(caught.value)
        assert message.startswith("toy/a.bin: ") and "\n" not in message
        for word in words:
            assert word in message
        assert not self.final.exists()
        self.nothing_else_is_left()

    def nothing_else_is_left(self):
        if self.final.parent.is_dir():
            assert [path for path in self.final.parent.iterdir() if path != self.final] == []


def resumed_at(asked, broke):
    """Asserts that the header `asked` continues where the connection broke, less what one read may lose."""
    assert asked.startswith("bytes=") and asked.endswith("-")
    assert broke - transfer.CHUNK <= int(asked[6:-1]) <= broke


def test_a_good_server_serves_once_and_the_licence_comes_first(toy):
    toy.succeeds()
    assert toy.server.seen == [None]
    assert "licence: MIT (http://licence)" in toy.lines[1]
    toy.lines.clear()
    toy.succeeds()
    assert toy.server.seen == [None] and toy.lines == []


def test_a_connection_that_dies_half_way_is_resumed_where_it_broke(toy):
    toy.server.script = ["dies", "dies"]
    toy.succeeds()
    first, second, third = toy.server.seen
    assert first is None
    resumed_at(second, HALF)
    start = int(second[6:-1])
    resumed_at(third, start + (len(CONTENT) - start) // 2)
    assert sum("the connection broke" in line for line in toy.lines) == 2


def test_a_later_run_resumes_what_an_earlier_one_left(toy, monkeypatch):
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    toy.server.script = ["dies"]
    toy.fails("connection broke")
    toy.succeeds()
    first, second = toy.server.seen
    assert first is None
    resumed_at(second, HALF)


def test_a_server_that_ignores_range_is_read_from_the_start(toy):
    toy.server.script = ["dies", "ignores_range"]
    toy.succeeds()
    first, second = toy.server.seen
    assert first is None
    resumed_at(second, HALF)


def test_a_server_that_continues_another_version_means_a_new_download(toy):
    toy.server.script = ["dies", "other_version"]
    toy.succeeds()
    first, second, third = toy.server.seen
    assert (first, third) == (None, None)
    resumed_at(second, HALF)
    assert "continued at another place" in toy.lines[-2]


def test_a_wrong_partial_is_thrown_away(toy):
    toy.server.script = ["corrupt_half"]
    toy.succeeds()
    first, second, third = toy.server.seen
    assert (first, third) == (None, None)
    resumed_at(second, HALF)
    assert any("SHA-256" in line for line in toy.lines)


def test_a_partial_longer_than_the_file_is_thrown_away(toy):
    partial = store.cache_folder() / ".partial" / f"{toy.dataset.files[0].sha256[:16]}.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT + b"x")
    toy.succeeds()
    assert toy.server.seen == [None]


@pytest.mark.parametrize("first", ["broken", "busy", "hangs_up", "corrupts", "too_long"])
def test_a_passing_failure_is_tried_again(toy, first):
    toy.server.script = [first]
    toy.succeeds()
    assert len(toy.server.seen) == 2


@pytest.mark.parametrize(
    ("reply", "word", "requests"),
    [
        ("missing", "404", 1),
        ("broken", "500", transfer.ATTEMPTS),
        ("corrupts", "SHA-256", transfer.ATTEMPTS),
        ("truncates", "bytes", transfer.ATTEMPTS),
        ("too_long", "more than", transfer.ATTEMPTS),
        ("hangs_up", "connection broke", None),
        ("dies_ignoring_range", "connection broke", transfer.ATTEMPTS),
    ],
)
def test_a_lasting_failure_leaves_nothing_and_one_line(toy, reply, word, requests):
    toy.server.always = reply
    toy.fails(word)
    assert requests in (None, len(toy.server.seen))


def test_a_server_that_drips_is_given_up_and_progress_is_shown(toy, monkeypatch):
    toy.server.always = "drips"
    monkeypatch.setattr(transfer, "SLOWEST", (1000, 0.01))
    monkeypatch.setattr(transfer, "Progress", partial(transfer.Progress, every=0.0))
    toy.fails("bytes came in 0 s")
    assert any("0 of 1 files, 0.0 of 0.3 MB" in line for line in toy.lines)


def test_what_is_gone_for_good_is_not_to_be_tried_again(toy):
    toy.server.always = "missing"
    toy.fails("404", "NBPKG_MIRROR", "NBPKG_DATA")
    with pytest.raises(NbpkgError) as caught:
        toy.fetch()
    assert "again" not in str(caught.value)


def test_a_truncated_file_on_the_server_never_becomes_the_file_even_later(toy):
    toy.server.always = "truncates"
    toy.fails()
    toy.server.always = "good"
    toy.succeeds()


def test_no_server_at_all_is_one_line(toy):
    toy.server.shutdown()
    toy.server.server_close()
    toy.fails("connection broke")


def test_offline_is_one_line_without_a_request(toy, monkeypatch):
    monkeypatch.setenv("NBPKG_OFFLINE", "1")
    with pytest.raises(NbpkgError, match=r"^toy/a\.bin: .*downloads are switched off.*smoke"):
        toy.fetch()
    assert toy.server.seen == [] and toy.lines == [] and not toy.final.exists()


def test_offline_uses_what_is_there(toy, monkeypatch):
    toy.succeeds()
    monkeypatch.setenv("NBPKG_OFFLINE", "1")
    assert toy.fetch() == [toy.final]


def test_offline_switch_reads_the_usual_words(monkeypatch):
    for value, wanted in {"": False, "0": False, "no": False, "1": True, "true": True}.items():
        monkeypatch.setenv("NBPKG_OFFLINE", value)
        assert download.offline() is wanted


@pytest.mark.parametrize("always", ["good", "missing"])
def test_a_corrupt_cached_file_is_replaced_or_removed(toy, always):
    toy.final.parent.mkdir(parents=True)
    toy.final.write_bytes(CONTENT[::-1])
    toy.server.always = always
    toy.succeeds() if always == "good" else toy.fails("404")


def test_an_interrupted_download_leaves_no_file_and_is_resumed(toy, monkeypatch):
    real = transfer.Progress.add

    def interrupt(self, count):
        real(self, count)
        if self.arrived > HALF:
            raise KeyboardInterrupt

    monkeypatch.setattr(transfer.Progress, "add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        toy.fetch()
    assert not toy.final.exists()
    toy.nothing_else_is_left()
    monkeypatch.setattr(transfer.Progress, "add", real)
    toy.succeeds()
    assert toy.server.seen[1].startswith("bytes=")


def test_two_processes_at_once_leave_one_good_file(toy, tmp_path):
    file = toy.dataset.files[0]
    code = textwrap.dedent(f"""
        from nbpkg.data.download import fetch_set
        from nbpkg.data.registry import DataFile, DataSet
        file = DataFile({file.path!r}, {file.url!r}, {file.sha256!r}, {file.size})
        fetch_set(DataSet("toy", "public", "Toy", "MIT", None, "somewhere", "", (file,)), pause=0.01)
    """)
    toy.server.script = ["dies"]
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert toy.final.read_bytes() == CONTENT
    toy.nothing_else_is_left()
    # The second waited for the first: the file came over the wire once, in two pieces.
    first, second = toy.server.seen
    assert first is None
    resumed_at(second, HALF)


def test_progress_tells_files_megabytes_and_time_left():
    lines = []
    progress = transfer.Progress(4, 4_000_000, lines.append, every=0.0)
    progress.started -= 10
    progress.done = 1
    progress.add(1_000_000)
    assert lines == ["  1 of 4 files, 1.0 of 4.0 MB, about 30 s left"]
    quiet = transfer.Progress(4, 4_000_000, lines.append, every=60.0)
    for _ in range(1_000):
        quiet.add(4_000)
    assert len(lines) == 1


def test_a_cache_that_cannot_be_written_is_one_line(toy, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(NbpkgError, match=r"^toy: the cache folder .* cannot be used"):
        toy.fetch()
