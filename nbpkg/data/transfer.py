"""One file from its addresses to its place: pooch keeps the books, this module moves the bytes.

pooch places a file only once its SHA-256 is right. Its own downloader starts from nothing after every
failure; the one here keeps what has arrived in `.partial/` beside the files and asks the server for the rest.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from nbpkg.data import store
from nbpkg.data.registry import DataFile
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
    """One attempt failed; `again` says whether another may succeed, `after` how long the server asks to wait
    (s).
    """

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


class ResumingDownloader:
    """A pooch downloader that continues from `partial` when the server can, and starts over when it cannot.

    Nothing of a reply beyond the registered size is kept. Which version the server sends needs no second
    check here: whatever the addresses deliver, pooch compares the SHA-256 of the whole.
    """

    def __init__(self, file: DataFile, partial: Path, session, progress: Progress):
        self.file, self.partial, self.session, self.progress = file, partial, session, progress

    def __call__(self, url, output_file, pooch) -> None:
        """Fetch `url` into `output_file`; raises `_Failure` when the reply is not the whole file."""
        import requests

        have = self.partial.stat().st_size if self.partial.exists() else 0
        if have > self.file.size or not self.file.sha256:
            have = self._discard()
        try:
            if not self.file.sha256:
                self._whole(url)
            elif have < self.file.size:
                self._transfer(url, have)
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            raise _Failure(f"the connection broke ({type(error).__name__})") from error
        except requests.RequestException as error:
            raise _Failure(f"the request failed ({type(error).__name__})", again=False) from error
        os.replace(self.partial, output_file)

    def _discard(self) -> int:
        if self.partial.exists():
            self.progress.add(-min(self.partial.stat().st_size, self.file.size))
            self.partial.unlink()
        return 0

    def _transfer(self, url: str, have: int) -> None:
        with self._get(url, {"Range": f"bytes={have}-"} if have else {}) as reply:
            if have and reply.status_code == 206 and not self._continues(reply, have):
                self._discard()
                raise _Failure("the server continued at another place")
            if have and reply.status_code == 416:
                self._discard()
                raise _Failure("the server holds less than was already fetched")
            if reply.status_code not in (200, 206) or (reply.status_code == 206 and not have):
                self._fail(reply)
            if have and reply.status_code == 200:
                have = self._discard()
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

    def _get(self, url: str, headers: dict[str, str]):
        # Compressed replies would make byte positions meaningless.
        headers = {"Accept-Encoding": "identity"} | headers
        return self.session.get(url, headers=headers, stream=True, timeout=TIMEOUTS)

    def _whole(self, url: str) -> None:
        """An archive that its host packs on demand: it cannot be continued, and its size is about right."""
        have, most = 0, 2 * self.file.size
        with self._get(url, {}) as reply, open(self.partial, "wb") as stream:
            if reply.status_code != 200:
                self._fail(reply)
            due = reply.headers.get("Content-Length", "")
            for chunk in reply.iter_content(CHUNK):
                stream.write(chunk)
                have += len(chunk)
                self.progress.add(len(chunk))
                if have > most:
                    raise _Failure(f"the server sent more than the {most:,} bytes allowed", again=False)
        if due.isdecimal() and int(due) != have:
            raise _Failure(f"only {have:,} of {int(due):,} bytes arrived")

    def _continues(self, reply, have: int) -> bool:
        if reply.headers.get("Content-Encoding", "identity") != "identity":
            return False
        return reply.headers.get("Content-Range", "") == f"bytes {have}-{self.file.size - 1}/{self.file.size}"

    def _fail(self, reply) -> None:
        code = reply.status_code
        wait = reply.headers.get("Retry-After", "")
        after = min(float(wait), LONGEST_PAUSE) if wait.isdecimal() else 0.0
        raise _Failure(f"the server answered {code} {reply.reason}", code >= 500 or code in (408, 429), after)


def address(url: str) -> str:
    """`url` itself, or with `NBPKG_MIRROR` set its place there: the prefix, then `url` without its scheme."""
    mirror = os.environ.get("NBPKG_MIRROR", "").strip()
    return f"{mirror.rstrip('/')}/{url.partition('://')[2]}" if mirror else url


def fetch(file: DataFile, folder: Path, session, progress: Progress, pause: float) -> None:
    """Download one file into `folder`, from the first address that has it; one process at a time.

    pause: seconds before the second attempt at an address. Raises NbpkgError, one line, when none has it.
    """
    from filelock import FileLock, Timeout

    partial = folder / ".partial" / f"{(file.sha256 or sha256(file.url.encode()).hexdigest())[:16]}.part"
    try:
        with FileLock(partial.with_suffix(".lock"), timeout=LOCK_WAIT):
            final = folder / file.path
            if final.is_file() and file.sha256 and store.fault(file, final):
                final.unlink()
            if partial.exists():
                progress.arrived += min(partial.stat().st_size, file.size)
            download = ResumingDownloader(file, partial, session, progress)
            for url in map(address, file.urls):
                problem = _try(file, url, folder, download, pause)
                if problem is None:
                    return
                if len(file.urls) > 1:
                    progress.say(f"  {file.path}: {problem} ({url.split('/')[2]})")
    except Timeout as error:
        raise NbpkgError(
            f"{file.path}: another process has been downloading it for too long; end it"
        ) from error
    raise NbpkgError(
        f"{file.path}: {problem}; nothing was kept as the file, run the same command to try again, "
        "or set NBPKG_MIRROR to the address of a copy"
    )


def _try(file: DataFile, url: str, folder: Path, download: ResumingDownloader, pause: float) -> str | None:
    """A few attempts at one address; what went wrong with the last one, or None."""
    import pooch

    pinned = {file.path: f"sha256:{file.sha256}" if file.sha256 else None}
    keeper = pooch.create(path=folder, base_url="", registry=pinned, urls={file.path: url})
    for attempt in range(1, ATTEMPTS + 1):
        try:
            # Does nothing when another process has put the file there in the meantime.
            keeper.fetch(file.path, downloader=download)
            return None
        except _Failure as error:
            problem, again, after = str(error), error.again, error.after
        except ValueError:
            # pooch's word for a wrong SHA-256: it has removed the file, the next attempt is whole.
            download.progress.add(-file.size)
            problem, again, after = "what arrived has another SHA-256 than registered", True, 0.0
        if not again or attempt == ATTEMPTS:
            break
        wait = max(min(pause * 2 ** (attempt - 1), LONGEST_PAUSE), after)
        say = download.progress.say
        say(f"  {file.path}: {problem}; attempt {attempt + 1} of {ATTEMPTS} in {wait:.0f} s")
        time.sleep(wait)
    return problem
