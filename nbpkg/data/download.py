"""Downloads of registered files: resumed where they broke, and put in place only once the SHA-256 is right.

What has arrived is kept in `.partial/` beside the files, and each attempt asks the server for the rest.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nbpkg.data import store
from nbpkg.data.registry import DataFile, DataSet
from nbpkg.errors import NbpkgError

ATTEMPTS = 5
#: Seconds before the second attempt; doubled before each further one, at most `LONGEST_PAUSE`.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 20.0
#: Seconds to wait for a connection, and between two pieces of a reply.
TIMEOUTS = (10.0, 30.0)
#: Seconds to wait for another process that downloads the same file.
LOCK_WAIT = 600.0
#: Bytes read at a time; a break loses at most the last of these pieces.
CHUNK = 1 << 14


class _Failure(Exception):
    """One attempt failed. again: whether another may succeed; after: how long the server asks to wait (s)."""

    def __init__(self, problem: str, again: bool = True, after: float = 0.0):
        super().__init__(problem)
        self.again, self.after = again, after


@dataclass
class Progress:
    """Plain-text progress over a whole download: a line at most every `every` seconds, with the time left."""

    files: int
    size: int
    say: Callable[[str], None]
    every: float = 2.0
    done: int = 0
    arrived: int = 0
    started: float = field(default_factory=time.monotonic)
    spoken: float = field(default_factory=time.monotonic)

    def add(self, count: int) -> None:
        """Count `count` bytes (negative when a damaged part is thrown away)."""
        self.arrived += count
        now = time.monotonic()
        if now - self.spoken >= self.every:
            self.spoken = now
            left = (now - self.started) / max(self.arrived, 1) * max(self.size - self.arrived, 0)
            self.say(
                f"  {self.done} of {self.files} files, {self.arrived / 1e6:.1f} of {self.size / 1e6:.1f} MB, "
                f"about {left:.0f} s left"
            )


class _Download:
    """One file's download, which goes on from `partial` when the server can, and starts over when it cannot.

    Nothing of a reply beyond the registered size is kept. Which version the server sends needs no second
    check here: whatever the addresses deliver, the SHA-256 of the whole is compared.
    """

    def __init__(self, file: DataFile, folder: Path, session, progress: Progress):
        self.file, self.session, self.progress = file, session, progress
        self.final = folder / file.path
        self.partial = folder / ".partial" / f"{file.sha256[:16]}.part"

    def attempt(self) -> None:
        """Fetch what is lacking and put the file in its place; raises `_Failure` when it is not whole."""
        import requests

        have = self.partial.stat().st_size if self.partial.exists() else 0
        if have > self.file.size:
            have = self._discard()
        broken = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
        try:
            if have < self.file.size:
                self._transfer(have)
        except broken as error:
            raise _Failure(f"the connection broke ({type(error).__name__})") from error
        except requests.RequestException as error:
            raise _Failure(f"the request failed ({type(error).__name__})", again=False) from error
        if problem := store.fault(self.file, self.partial):
            self._discard()
            raise _Failure(f"what arrived has {problem}")
        self.final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.partial, self.final)

    def _discard(self) -> int:
        if self.partial.exists():
            self.progress.add(-min(self.partial.stat().st_size, self.file.size))
            self.partial.unlink()
        return 0

    def _transfer(self, have: int) -> None:
        # Compressed replies would make byte positions meaningless.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with self.session.get(self.file.url, headers=headers, stream=True, timeout=TIMEOUTS) as reply:
            have = self._start(reply, have)
            with open(self.partial, "ab") as stream:
                for chunk in reply.iter_content(CHUNK):
                    room = self.file.size - have
                    stream.write(chunk[:room])
                    have += len(chunk)
                    self.progress.add(min(len(chunk), room))
                    if len(chunk) > room:
                        break
        if have > self.file.size:
            self._discard()
            raise _Failure(f"the server sent more than the {self.file.size:,} bytes due")
        if have < self.file.size:
            raise _Failure(f"only {have:,} of {self.file.size:,} bytes arrived")

    def _start(self, reply, have: int) -> int:
        """The position in the file at which the reply begins, with `partial` cut back to it."""
        code, size = reply.status_code, self.file.size
        if code == 200:
            return self._discard()
        if code == 206 and have:
            whole = reply.headers.get("Content-Encoding", "identity") == "identity"
            if whole and reply.headers.get("Content-Range") == f"bytes {have}-{size - 1}/{size}":
                return have
            self._discard()
            raise _Failure("the server continued at another place")
        if code == 416 and have:
            self._discard()
            raise _Failure("the server holds less than was already fetched")
        wait = reply.headers.get("Retry-After", "")
        after = min(float(wait), LONGEST_PAUSE) if wait.isdecimal() else 0.0
        raise _Failure(f"the server answered {code} {reply.reason}", code >= 500 or code in (408, 429), after)

    def run(self, pause: float) -> None:
        """Attempts until the file is in its place, or NbpkgError; `pause` (s) before the second of them."""
        if self.final.is_file():
            # Another process may have put it there in the meantime.
            if not store.fault(self.file, self.final):
                return
            self.final.unlink()
        if self.partial.exists():
            self.progress.arrived += min(self.partial.stat().st_size, self.file.size)
        for number in range(1, ATTEMPTS + 1):
            try:
                return self.attempt()
            except _Failure as error:
                if not error.again or number == ATTEMPTS:
                    raise NbpkgError(
                        f"{self.file.path}: {error}; nothing was kept as the file, "
                        "run the same command to try again"
                    ) from error
                wait = max(min(pause * 2 ** (number - 1), LONGEST_PAUSE), error.after)
                again = f"attempt {number + 1} of {ATTEMPTS} in {wait:.0f} s"
                self.progress.say(f"  {self.file.path}: {error}; {again}")
            time.sleep(wait)


def offline() -> bool:
    """Whether `NBPKG_OFFLINE` forbids downloads."""
    return os.environ.get("NBPKG_OFFLINE", "").strip().lower() not in ("", "0", "false", "no", "off")


def fetch_set(
    dataset: DataSet, *, say: Callable[[str], None] = print, pause: float = FIRST_PAUSE
) -> list[Path]:
    """Make every file of `dataset` available and return the verified paths, in the registry's order.

    What is already good is used as it is, a corrupt file in the cache is replaced; nothing is downloaded
    while `NBPKG_DATA` is set. `say` gets lines of plain text; `pause` is the wait before the second attempt,
    in seconds. Raises NbpkgError naming the first file that cannot be had.
    """
    missing = []
    for file, state in zip(dataset.files, store.check(dataset), strict=True):
        if state.status != "ok":
            missing.append(file)
        if state.where == "NBPKG_DATA":
            store.verified(dataset, file)  # refuses what is corrupt: nothing is written there
    if missing:
        _may_download(dataset, missing[0])
        _download(dataset, missing, say, pause)
    return [store.verified(dataset, file) for file in dataset.files]


def _may_download(dataset: DataSet, file: DataFile) -> None:
    if dataset.kind == "prepared":
        raise NbpkgError(
            f"{dataset.name}: a prepared table without a download address, joined from {dataset.source}; "
            f"set NBPKG_DATA to a folder that holds {file.path}"
        )
    if store.given_folder() is not None:
        raise NbpkgError(
            f"{file.path}: not in the folder that NBPKG_DATA names; nothing is downloaded while it is set: "
            "add the file or unset NBPKG_DATA"
        )
    if offline():
        raise NbpkgError(
            f"{file.path}: not on this machine, and downloads are switched off; "
            f"run `nbpkg data fetch {dataset.name}` without NBPKG_OFFLINE, "
            "or use profile smoke, which needs none"
        )


def _download(dataset: DataSet, files: list[DataFile], say: Callable[[str], None], pause: float) -> None:
    import requests
    from filelock import FileLock, Timeout

    folder = store.cache_folder()
    progress = Progress(len(files), sum(file.size for file in files), say)
    terms = dataset.licence_url or dataset.note
    count = f"{len(files)} file{'s' * (len(files) != 1)}"
    say(f"{dataset.name}: {count}, {progress.size / 1e6:.1f} MB from {dataset.source}")
    say(f"  licence: {dataset.licence}" + (f" ({terms})" if terms else ""))
    try:
        (folder / ".partial").mkdir(parents=True, exist_ok=True)
        with requests.Session() as session:
            for file in files:
                download = _Download(file, folder, session, progress)
                # One process at a time works on a file.
                with FileLock(download.partial.with_suffix(".lock"), timeout=LOCK_WAIT):
                    download.run(pause)
                progress.done += 1
    except Timeout as error:
        raise NbpkgError(
            f"{file.path}: another process has been downloading it for too long; end it"
        ) from error
    except OSError as error:
        raise NbpkgError(
            f"{dataset.name}: the cache folder {folder} cannot be used ({error.strerror})"
        ) from error
    say(f"{dataset.name}: done in {time.monotonic() - progress.started:.1f} s")
