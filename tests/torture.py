"""Breaks things on purpose and looks at what is left: `make torture`.

    python tests/torture.py [FAULT ...] [--seed N]

Runs that are killed, caches and tables that are damaged, servers that lie, images that are none, disks that
are full, folders that may not be written, options that cannot work. It is no part of the default suite: it
takes minutes, and draws other places and moments for each `--seed`. It prints a line for each kind of fault,
with how many were tried and how many survived, and exits with 1 unless all did; what did not is named.
"""

import argparse
import ctypes
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import psutil
from badserver import CONTENT, Handler, Server
from books import Book, finished_run

from nbpkg.data import download, store, transfer
from nbpkg.data.registry import DataFile, DataSet
from nbpkg.errors import NbpkgError

#: One attempt: what was done, and what is wrong after it ("" where it was survived).
Tried = Iterator[tuple[str, str]]
_DAC = (1, 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, by which root passes over permissions
_PR_CAPBSET_DROP = 24
_START = "import sys; from nbpkg.cli import main; sys.exit(main(sys.argv[1:]))"
#: As in tests/conftest.py: the toy's chapter is one of the first edition, which asks less of a record.
_FIRST = textwrap.dedent("""
    from dataclasses import replace
    from nbpkg import chapters
    first = [replace(chapter, edition=1) for chapter in chapters.CHAPTERS]
    chapters.CHAPTERS = chapters.catalogue.CHAPTERS = first
""")


class Toy:
    """A book of one small chapter in a folder of its own, and commands in it."""

    def __init__(self, folder: Path):
        self.folder, self.book = folder, Book(folder / "book")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("NBPKG_")}
        self.env |= {"NBPKG_ROOT": str(self.book.root), "NBPKG_CACHE": str(folder / "cache")}
        self.book.write(middle=CELLS)
        os.environ.update({k: v for k, v in self.env.items() if k.startswith("NBPKG_")})

    def start(self, *arguments: str, before: str = "", **more) -> subprocess.Popen:
        command = [sys.executable, "-c", before + _START, *arguments]
        out = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return subprocess.Popen(command, env=self.env, cwd=self.folder, **out, **more)

    def run(self, *arguments: str, **more) -> SimpleNamespace:
        process = self.start(*arguments, **more)
        try:
            out, err = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            err += "\nTraceback: it hangs"
        return SimpleNamespace(code=process.returncode, out=out, err=err)

    def results(self) -> Path:
        return self.book.root / "runs" / "smoke"

    def halves(self) -> str:
        """A file of a run or of the book that is not whole."""
        for path in [*self.results().glob("*"), *self.book.root.glob("results/*/*"),
                     *self.book.root.glob("notebooks/*.ipynb")]:  # fmt: skip
            if path.is_file() and path.suffix in (".json", ".ipynb"):
                try:
                    json.loads(path.read_text())
                except ValueError:
                    return f"{path.name} is half written"
        return ""


CELLS = "".join(f"\n# %%\nimport time; time.sleep(0.05); part_{i} = {i}\n" for i in range(30))


def one_line(done: SimpleNamespace, codes: tuple[int, ...] = (1, 2)) -> str:
    """What is wrong with how a command refused: it should say so in one line."""
    if done.code not in codes:
        return f"exit code {done.code}: {done.err[-200:]!r}"
    if "Traceback" in done.err or "Traceback" in done.out:
        return f"a traceback: {(done.err + done.out)[-200:]!r}"
    lines = done.err.strip().splitlines()
    if len(lines) > 1 or (not lines and done.code == 2):
        return f"{len(lines)} lines: {done.err[-200:]!r}"
    return ""


# ---------------------------------------------------------------------------------- kills


def kills(folder: Path, draw: random.Random) -> Tried:
    """A run that is killed at a random moment leaves the last whole one, and the next one completes."""
    toy = Toy(folder)
    first = toy.run("run", "help", "--jobs", "1")
    if first.code:
        yield "a first run", first.err[-300:]
        return
    whole = _results(toy)
    metrics = json.loads(whole["03_help.json"])["metrics"]
    for number in range(24):
        who = ("runner", "child", "kernel")[number % 3]
        how = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)[
            number % 4 if who == "runner" else 0
        ]
        yield f"{how.name} of the {who}", _killed(toy, draw, who, how, whole)
        if number % 8 == 7:
            again = toy.run("run", "help", "--jobs", "1", "--force")
            found = json.loads((toy.results() / "03_help.json").read_text())["metrics"]
            wrong = again.err[-300:] if again.code else "" if found == metrics else "other metrics"
            yield "the run after it", wrong
            whole.clear()
            whole.update(_results(toy))


def _killed(toy: Toy, draw: random.Random, who: str, how: signal.Signals, whole: dict) -> str:
    process = toy.start("run", "help", "--jobs", "1", "--force")
    runner = psutil.Process(process.pid)
    wanted = {"runner": 0, "child": 1, "kernel": 2}[who]
    deadline = time.monotonic() + 60
    while len(family := [runner, *runner.children(recursive=True)]) <= max(wanted, 2):
        if process.poll() is not None or time.monotonic() > deadline:
            return f"it ended by itself: {process.communicate()[1][-200:]!r}"
        time.sleep(0.02)
    time.sleep(draw.uniform(0, 4))
    family = [runner, *runner.children(recursive=True)] if runner.is_running() else family
    with suppress(psutil.NoSuchProcess):  # it may have been quicker
        family[min(wanted, len(family) - 1)].send_signal(how)
    try:
        _, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        return "the command hangs"
    alive = psutil.wait_procs(family, timeout=15)[1]
    if alive:
        return f"processes are left: {[one.pid for one in alive]}"
    if "Traceback" in err:
        return f"a traceback: {err[-200:]!r}"
    now = _results(toy)
    if process.returncode == 0:  # it had ended before the signal came
        state, record = (now.get(f"03_help{end}", b"{}") for end in (".state.json", ".json"))
        good = json.loads(state).get("record_sha256") == hashlib.sha256(record).hexdigest()
        whole.clear()
        whole.update(now)
        return "" if good else "state and record of a whole run disagree"
    lost = [name for name in whole if now.get(name) != whole[name]]
    return f"{lost} of the last whole run" if lost else toy.halves()


def _results(toy: Toy) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in toy.results().iterdir() if path.is_file()}


# ---------------------------------------------------------------------------------- publishing

KILLED = """
import os, signal
left, before = {left}, os.replace
def replace(a, b, **more):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    before(a, b, **more)
os.replace = replace
"""


def publishing(folder: Path, draw: random.Random) -> Tried:
    """A publication that is killed between any two files is whole when it is done again."""
    toy = Toy(folder)
    with mock.patch("nbpkg.chapters.CHAPTERS", new=_first()), mock.patch(
        "nbpkg.chapters.catalogue.CHAPTERS", new=_first()
    ):  # fmt: skip
        finished_run(toy.book)
    for left in range(6):
        done = toy.run("publish", "help", before=KILLED.format(left=left) + _FIRST)
        again = toy.run("publish", "help", before=_FIRST)
        wrong = toy.halves() or (again.err[-300:] if again.code else "")
        fresh = toy.run("scoreboard", before=_FIRST)
        if not wrong and "fresh" not in fresh.out:
            wrong = "the scoreboard is stale after publishing again"
        yield f"killed at file {left} (exit {done.code})", wrong
        shutil.rmtree(toy.book.root / "results", ignore_errors=True)


def _first() -> list:
    from dataclasses import replace

    from nbpkg import chapters

    return [replace(chapter, edition=1) for chapter in chapters.CHAPTERS]


# ---------------------------------------------------------------------------------- caches


def _computed(seed: int, kind: str):
    import torch

    if kind == "plain":
        return {"loss": 1.5 + seed, "names": ["a", ("b", seed)], "none": None}
    return {"weights": torch.arange(40.0) + seed, "table": np.arange(6).reshape(2, 3) * seed}


def caches(folder: Path, draw: random.Random) -> Tried:
    """A cache entry that is damaged is noticed, and computed anew to the value that it had."""
    import torch

    from nbpkg.session.result_cache import ResultCache

    os.environ["NBPKG_CACHE"] = str(folder / "cache")
    cache = ResultCache("03_help", "smoke", torch.device("cpu"))
    for number in range(740):
        kind, seed = ("plain", "arrays")[number % 2], number % 4
        with mock.patch("sys.stderr", io.StringIO()), mock.patch("sys.stdout", io.StringIO()):
            cache.memo("torture", _computed, seed=seed, kind=kind)
            path = draw.choice(sorted(path for path in (folder / "cache").rglob("*") if path.is_file()))
            what = _damage(path, draw)
            found = {
                (s, k): cache.memo("torture", _computed, seed=s, kind=k)
                for s in range(4)
                for k in ("plain", "arrays")
            }
        good = all(str(value) == str(_computed(s, k)) for (s, k), value in found.items())
        if path.is_dir():  # nothing but entries of its own is the cache's to delete
            path.rmdir()
        yield f"{what} of {path.name}", "" if good else "another value came back"


def _damage(path: Path, draw: random.Random) -> str:
    content, kind = path.read_bytes(), draw.randrange(6) if path.stat().st_size else 4
    at = draw.randrange(max(1, len(content)))
    if kind == 0:
        path.write_bytes(content[:at])
        return f"cut at {at}"
    if kind == 1:
        path.write_bytes(bytes(len(content)))
        return "zeros"
    if kind == 2:
        path.write_bytes(b"")
        return "emptied"
    if kind == 3:
        path.write_bytes(content + content[:at])
        return "grown"
    if kind == 4:
        path.unlink()
        path.mkdir()
        return "a folder in the place"
    flipped = bytearray(content)
    flipped[at] ^= 1 << draw.randrange(8)
    path.write_bytes(flipped)
    return f"a bit at {at}"


def tables(folder: Path, draw: random.Random) -> Tried:
    """A shipped table with one damaged byte is refused."""
    from nbpkg import paths

    home = folder / "package" / "data" / "embedded"
    shutil.copytree(paths.embedded(""), home)
    with mock.patch("nbpkg.paths.package", lambda: folder / "package"):
        for path in sorted(home.iterdir()):
            content = path.read_bytes()
            for _ in range(4):
                what = _damage(path, draw)
                try:
                    paths.intact(path)
                    wrong = "" if path.is_dir() or path.name == "SHA256SUMS" else "read without a word"
                except NbpkgError as error:
                    wrong = "" if "\n" not in str(error) else "several lines"
                yield f"{what} of {path.name}", wrong
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                path.write_bytes(content)


# ---------------------------------------------------------------------------------- servers


class Hostile(Handler):
    """More that a server may do."""

    def html(self):
        self.answer(200, b"<html>log in first</html>", Content_Type="text/html")

    def negative_length(self):
        self.answer(200, CONTENT, length=-5)

    def wrong_length(self):
        self.answer(200, CONTENT, length=len(CONTENT) // 3)

    def no_length(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(CONTENT)
        self.close_connection = True

    def gzip_bomb(self):
        import gzip

        self.answer(200, gzip.compress(bytes(200_000_000), 1), Content_Encoding="gzip")

    def endless(self):
        self.send_response(200)
        self.end_headers()
        with suppress(OSError):  # the client has had enough
            while True:
                self.wfile.write(bytes(1 << 16))

    def to_a_file(self):
        self.answer(302, b"", Location="file:///etc/passwd")

    def to_ftp(self):
        self.answer(302, b"", Location="ftp://127.0.0.1/a.bin")

    def loops(self):
        self.answer(302, b"", Location=self.path)

    def elsewhere(self):
        self.answer(302, b"", Location="http://127.0.0.1:9/a.bin")

    def much_later(self):
        self.answer(429, b"", Retry_After="99999999999")

    def nonsense_later(self):
        self.answer(503, b"", Retry_After="tomorrow, perhaps")

    def unsatisfiable(self):
        self.answer(416, b"", Content_Range=f"bytes */{len(CONTENT)}")

    def unasked_part(self):
        self.answer(206, CONTENT[10:], Content_Range=f"bytes 10-{len(CONTENT) - 1}/{len(CONTENT)}")

    def bad_chunks(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"zz\r\nnot a number\r\n0\r\n\r\n")
        self.close_connection = True

    def header_flood(self):
        self.send_response(200)
        for number in range(5_000):
            self.send_header(f"X-{number}", "x" * 200)
        self.end_headers()
        self.close_connection = True

    def no_http(self):
        self.wfile.write(b"\x00\xff\x00garbage\r\n\r\n")
        self.close_connection = True


HOSTILE = [name for name in vars(Hostile) if not name.startswith("_")]
HOSTILE += [
    "dies_ignoring_range",
    "truncates",
    "corrupts",
    "corrupt_half",
    "too_long",
    "other_version",
    "drips",
]
HOSTILE += ["missing", "broken", "busy", "hangs_up"]


def servers(folder: Path, draw: random.Random) -> Tried:
    """Whatever a server does, there is the right file at the end, or none and one line."""
    for name in list(os.environ):
        if name in ("NBPKG_DATA", "NBPKG_OFFLINE", "NBPKG_MIRROR") or name.lower().endswith("_proxy"):
            del os.environ[name]
    server = Server()
    server.RequestHandlerClass = Hostile
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    file = DataFile(
        "toy/a.bin", f"http://127.0.0.1:{server.server_address[1]}/a.bin",
        hashlib.sha256(CONTENT).hexdigest(), len(CONTENT),
    )  # fmt: skip
    dataset = DataSet("toy", "public", "Toy", "MIT", "http://licence", "somewhere", "", (file,))
    quick = {"SLOWEST": (1000, 0.2), "TIMEOUTS": (2.0, 2.0), "LONGEST_PAUSE": 0.05}
    with mock.patch.multiple(transfer, **quick):
        for how in ("always", "at first", "after half"):
            for name in HOSTILE:
                os.environ["NBPKG_CACHE"] = str(folder / f"{how}-{name}")
                server.always = name if how == "always" else "good"
                server.script = {"always": [], "at first": [name], "after half": ["dies", name]}[how]
                yield f"{name} {how}", _fetched(dataset)
    server.shutdown()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    yield "memory", "" if peak < 1.5 else f"{peak:.1f} GB"


def _fetched(dataset: DataSet) -> str:
    final = store.cache_folder() / dataset.files[0].path
    try:
        download.fetch_set(dataset, say=lambda line: None, pause=0.01)
    except NbpkgError as error:
        if "\n" in str(error):
            return "several lines"
        return "a file is in the place of the right one" if final.exists() else ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    return "" if final.read_bytes() == CONTENT else "another file came"


# ---------------------------------------------------------------------------------- images


def images(folder: Path, draw: random.Random) -> Tried:
    """Files that are no images, or nearly: read, or refused in one line; no other program is started."""
    context = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        found, gigabytes = pool.submit(_mutated, str(folder), draw.randrange(2**31), 6_000).result()
    yield from found
    yield "memory", "" if gigabytes < 1 else f"{gigabytes:.2f} GB"


def _mutated(folder: str, seed: int, count: int) -> tuple[list[tuple[str, str]], float]:
    """In a process of its own: (what was tried, what was wrong) of each image, and its memory in GB."""
    from PIL import Image

    from nbpkg.apps import images as module

    started = []
    watched = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "os.system")
    sys.addaudithook(lambda event, _: started.append(event) if event in watched else None)
    draw, path, found = random.Random(seed), Path(folder) / "a.png", []
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    seeds = {}
    for kind in (
        "PNG",
        "JPEG",
        "BMP",
        "GIF",
        "WEBP",
        "TIFF",
        "PPM",
        "ICO",
        "PCX",
        "TGA",
        "DDS",
        "SGI",
        "AVIF",
    ):
        made = io.BytesIO()
        try:
            Image.fromarray(pixels).save(made, kind)
        except (KeyError, OSError, ValueError):
            continue  # this Pillow cannot write it
        seeds[kind] = made.getvalue()
    seeds["EPS"] = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    seeds["bomb"] = _bomb()
    for number in range(count):
        kind = draw.choice(list(seeds))
        path.write_bytes(_mutant(seeds, kind, draw))
        wrong, before = "", len(started)
        try:
            module._read(path)
        except NbpkgError as error:
            wrong = "several lines" if "\n" in str(error) else ""
        except BaseException as error:
            wrong = f"{type(error).__name__}: {error}"[:200]
        found.append(
            (f"{kind} {number}", wrong or (f"started {started[-1]}" if len(started) > before else ""))
        )
    return found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _mutant(seeds: dict[str, bytes], kind: str, draw: random.Random) -> bytes:
    content = bytearray(seeds[kind])
    for _ in range(draw.randrange(4)):
        at = draw.randrange(len(content) + 1)
        how = draw.randrange(4)
        if how == 0 and len(content) > 1:
            content[at % len(content)] = draw.randrange(256)
        elif how == 1:
            content = content[: max(1, at)]
        elif how == 2:
            content[at:at] = draw.randbytes(draw.randrange(1, 40))
        else:
            other = seeds[draw.choice(list(seeds))]
            content = content[: max(1, at)] + other[draw.randrange(len(other)) :]
    return bytes(content)


def _bomb() -> bytes:
    """A PNG of two kilobytes that says it has 14,000 x 14,000 pixels."""
    from PIL import Image

    made = io.BytesIO()
    Image.new("1", (14, 14)).save(made, "PNG")
    content = bytearray(made.getvalue())
    content[16:24] = struct.pack(">II", 14_000, 14_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


# ---------------------------------------------------------------------------------- disks and folders


def disks(folder: Path, draw: random.Random) -> Tried:
    """A disk that fills up: one line, and nothing half written."""
    toy = Toy(folder)
    toy.run("run", "help", "--script", "--jobs", "1")
    before = _contents(toy.results())
    for kilobytes in (0, 1, 2, 4, 16):
        size = kilobytes * 1024

        def full(size=size):
            # A write beyond the limit fails as on a full disk, but for the number of the error.
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        for words in (
            ("run", "help", "--jobs", "1", "--force", "--script"),
            ("run", "help", "--jobs", "1", "--force"),
            ("handout", "help", "--out", "handed"),
            ("sync", "help"),
        ):
            done = toy.run(*words, preexec_fn=full)
            wrong = toy.halves() or ("" if done.code == 0 else _refused(done))
            if words[0] == "run" and not wrong and done.code and _contents(toy.results()) != before:
                wrong = "the last whole run has changed"
            yield f"{' '.join(words)} with {kilobytes} KB left", wrong
            before = _contents(toy.results())


def _contents(folder: Path) -> dict[str, bytes]:
    kept = [path for path in folder.glob("03_help.*") if path.suffix in (".json", ".ipynb")]
    return {path.name: path.read_bytes() for path in kept if "failed" not in path.name}


def _refused(done: SimpleNamespace) -> str:
    """As `one_line`; a table of what failed may come before it, and a chapter's own failure is a cell's."""
    if "Traceback" in done.err:
        return f"a traceback: {done.err[-300:]!r}"
    return "" if done.code in (1, 2) else f"exit code {done.code}: {done.err[-200:]!r}"


def folders(folder: Path, draw: random.Random) -> Tried:
    """Folders that may not be written, a file where a folder is due: one line, and nothing changed."""

    def no_root():
        # Root passes over permissions: this process and its children shall not.
        for capability in _DAC:
            ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)

    toy = Toy(folder)
    toy.run("run", "help", "--script", "--jobs", "1")
    with mock.patch("nbpkg.chapters.CHAPTERS", new=_first()), mock.patch(
        "nbpkg.chapters.catalogue.CHAPTERS", new=_first()
    ):  # fmt: skip
        finished_run(toy.book)
    root = toy.book.root
    (root / "results" / "standard").mkdir(parents=True)
    (folder / "cache").mkdir(exist_ok=True)
    cases = [
        ("runs/smoke", ("run", "help", "--script", "--force")), ("runs/smoke", ("run", "help", "--force")),
        ("runs", ("run", "help", "--script", "--force", "--profile", "smoke", "--seeds", "5")),
        ("results/standard", ("publish", "help")), ("notebooks", ("publish", "help")),
        ("notebooks/src", ("publish", "help")), (".", ("scoreboard",)), (".", ("handout", "help")),
        ("notebooks", ("sync", "help")), ("../cache", ("data", "fetch", "help-fbnet")),
        ("../cache", ("weights", "--profile", "smoke")),
        ("../cache", ("data", "measure-latency", "--cells", "2")),
    ]  # fmt: skip
    for place, words in cases:
        path = (root / place).resolve()
        with _closed(path):
            before = {one: one.read_bytes() for one in path.rglob("*") if one.is_file()}
            done = toy.run(*words, before=_FIRST, preexec_fn=no_root)
            wrong = "" if done.code == 0 else _refused(done)
            if {one: one.read_bytes() for one in path.rglob("*") if one.is_file()} != before and done.code:
                wrong = wrong or "files have changed"
        yield f"{' '.join(words)}, {place} closed (exit {done.code})", wrong
    for words in (("run", "help", "--force", "--script"), ("handout", "help", "--out", "taken")):
        target = root / ("runs" if words[0] == "run" else "taken")
        shutil.rmtree(target, ignore_errors=True)
        for place in (target, folder / "taken"):
            place.write_text("a file where a folder is due")
        yield f"{' '.join(words)}, a file in the place", one_line(toy.run(*words))
        for place in (target, folder / "taken"):
            place.unlink()


@contextmanager
def _closed(path: Path):
    every = [path, *(one for one in path.rglob("*") if one.is_dir())]
    modes = {one: one.stat().st_mode for one in every}
    try:
        for one in every:
            one.chmod(0o555)
        yield
    finally:
        for one, mode in modes.items():
            one.chmod(mode)


# ---------------------------------------------------------------------------------- limits


def limits(folder: Path, draw: random.Random) -> Tried:
    """Options that cannot work are one line; so are too few files, a flood of output, a cell that lasts."""
    toy = Toy(folder)
    pictures = folder / "pictures"
    for name in ("ant", "bee"):
        (pictures / name).mkdir(parents=True)
        (pictures / name / "a.png").write_bytes(b"no image")
    for words in (
        "run --jobs 0", "run --jobs -2", "run --seeds 99999999999999999999999", "run --seeds -1",
        "run --cell-timeout 0", "run --cell-timeout -5", "run --cell-timeout nan", "run --minutes nan",
        "run --device cuda", "run --device tpu", "run help --profile standard", "run --cluster bogus",
        "run nothing", "run --profile quick", "zoo build cells --cluster bogus", "zoo build nothing",
        "zoo build cells --out /proc/x/y", "zoo build cells --workers 0", "handout help --out /proc/x",
        "data measure-latency --cells 0", "data measure-latency --rounds 0", "data fetch nothing",
        "data measure-latency --out /proc/x/y", f"search {pictures}",
        f"search {pictures} --seed 9999999999999",
        f"search {pictures} --top 0", f"retrieve {pictures}", f"retrieve {pictures} --save nowhere/x",
        "search nowhere", "retrieve nowhere", "weights --out /proc/x/y", "weights --adopt --out x",
        "retrieve-weights --out nowhere/x", "weights --profile quick", "publish help",
        "site --from elsewhere",
    ):  # fmt: skip
        if words == "run --device cuda" and Path("/dev/nvidia0").exists():
            continue
        yield words, one_line(toy.run(*words.split()))

    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    done = toy.run("run", "help", "--force", preexec_fn=few)
    yield "run help with 64 files", _refused(done) if done.code else ""
    for what, cell, words in (
        ("a flood of output", "for i in range(100_000): print(i)", ()),
        ("a cell that lasts", "time.sleep(60)", ("--cell-timeout", "1")),
        ("a cell that ends the kernel", "os._exit(3)", ()),
        ("a cell that fails", "1 / 0", ()),
    ):
        toy.book.write(middle=f"\n# %%\nimport time\n{cell}\n")
        done = toy.run("run", "help", "--force", "--jobs", "1", *words)
        wrong = _refused(done) if done.code else ""
        if "than None s" in done.out + done.err:
            wrong = "a limit of None seconds is named"
        yield what, wrong


FAULTS: dict[str, Callable[[Path, random.Random], Tried]] = {
    "kills": kills, "publishing": publishing, "caches": caches, "tables": tables, "servers": servers,
    "images": images, "disks": disks, "folders": folders, "limits": limits,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"some of {', '.join(FAULTS)}; else all")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn at random")
    chosen = parser.parse_args()
    if unknown := set(chosen.faults) - set(FAULTS):
        parser.error(f"no fault is called {min(unknown)!r}; there are {', '.join(FAULTS)}")
    bad, environment = [], dict(os.environ)
    print(f"{'fault':12} {'tried':>6} {'survived':>9} {'seconds':>8}", flush=True)
    for name in chosen.faults or FAULTS:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"torture-{name}-")))
            start = time.monotonic()
            tried = list(FAULTS[name](folder, random.Random(f"{name} {chosen.seed}")))
            seconds = time.monotonic() - start
        os.environ.clear()
        os.environ.update(environment)
        lost = [f"{name}: {what}: {wrong}" for what, wrong in tried if wrong]
        print(f"{name:12} {len(tried):6} {len(tried) - len(lost):9} {seconds:8.0f}", flush=True)
        bad += lost
    for line in bad:
        print(line)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
