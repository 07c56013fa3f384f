"""One file from its addresses to its place: resumed where it broke, and there only once the SHA-256 is right.

What has arrived is kept in `.partial/` beside the files, and each attempt asks the server for the rest.
"""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nbpkg.data import store
from nbpkg.data.registry import SOURCES, DataFile
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
#: Bytes that must arrive within so many seconds: a server that drips counts as one that hangs.
SLOWEST = 1 << 14, 30.0


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


def address(url: str) -> str:
    """`url` itself, or with `NBPKG_MIRROR` set its place there: the prefix, then `url` without its scheme."""
    mirror = os.environ.get("NBPKG_MIRROR", "").strip()
    return f"{mirror.rstrip('/')}/{url.partition('://')[2]}" if mirror else url


class Download:
    """One file's download, which goes on from `partial` when the server can, and starts over when it cannot.

    Nothing of a reply beyond the registered size is kept. Which version the server sends needs no second
    check here: whatever the addresses deliver, the SHA-256 of the whole is compared. A file without one is
    packed on demand: it always starts over, and may be up to twice as large as registered.
    """

    def __init__(self, file: DataFile, folder: Path, session, progress: Progress):
        self.file, self.session, self.progress = file, session, progress
        self.final, self.name = folder / file.path, file.path.removeprefix(f"{SOURCES}/")
        self.most = file.size if file.sha256 else 2 * file.size
        key = file.sha256 or hashlib.sha256(file.url.encode()).hexdigest()
        self.partial = folder / ".partial" / f"{key[:16]}.part"

    def attempt(self, url: str) -> None:
        """Fetch what is lacking from `url` and put the file in its place; `_Failure` when it is not whole."""
        import requests
        from urllib3.exceptions import HTTPError

        have = self.partial.stat().st_size if self.partial.exists() else 0
        if have > self.file.size or not self.file.sha256:
            have = self._discard()
        broken = (requests.ConnectionError, requests.Timeout, HTTPError, ConnectionError)
        try:
            if have < self.file.size:
                self._transfer(url, have)
        except broken as error:
            raise _Failure(f"the connection broke ({type(error).__name__})") from error
        except requests.RequestException as error:
            raise _Failure(f"the request failed ({type(error).__name__})", again=False) from error
        if self.file.sha256 and (problem := store.fault(self.file, self.partial)):
            self._discard()
            raise _Failure(f"what arrived has {problem}")
        self.final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.partial, self.final)

    def _discard(self) -> int:
        if self.partial.exists():
            self.progress.add(-min(self.partial.stat().st_size, self.file.size))
            self.partial.unlink()
        return 0

    def _transfer(self, url: str, have: int) -> None:
        # Compressed replies would make byte positions meaningless.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with self.session.get(url, headers=headers, stream=True, timeout=TIMEOUTS) as reply:
            have = self._start(reply, have)
            with open(self.partial, "ab") as stream:
                # What has come, where urllib3 can tell; else whole pieces.
                read, mark, since = getattr(reply.raw, "read1", reply.raw.read), have, time.monotonic()
                while chunk := read(CHUNK, decode_content=True):
                    room = self.most - have
                    stream.write(chunk[:room])
                    have += len(chunk)
                    self.progress.add(min(len(chunk), room))
                    if len(chunk) > room:
                        break
                    if time.monotonic() - since > SLOWEST[1]:
                        if have - mark < SLOWEST[0]:
                            raise _Failure(f"only {have - mark:,} bytes came in {SLOWEST[1]:.0f} s")
                        mark, since = have, time.monotonic()
        if have > self.most:
            self._discard()
            raise _Failure(f"the server sent more than the {self.most:,} bytes due")
        if self.file.sha256 and have < self.file.size:
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
        """Attempts until the file is in its place, at one address after the other, or NbpkgError.

        pause: seconds before the second attempt at an address.
        """
        if self.final.is_file():
            # Another process may have put it there in the meantime.
            if not (self.file.sha256 and store.fault(self.file, self.final)):
                return
            self.final.unlink()
        if self.partial.exists():
            self.progress.arrived += min(self.partial.stat().st_size, self.file.size)
        for url in map(address, self.file.urls):
            problem = self._try(url, pause)
            if problem is None:
                return
            if len(self.file.urls) > 1:
                self.progress.say(f"  {self.name}: {problem} ({url.split('/')[2]})")
        again = "run the same command to try again, or " * problem.again
        raise NbpkgError(
            f"{self.name}: {problem}; nothing was kept as the file: {again}set NBPKG_MIRROR to the address "
            "of a copy, or NBPKG_DATA to a folder that holds the file"
        )

    def _try(self, url: str, pause: float) -> _Failure | None:
        """A few attempts at one address; what was wrong with the last one, or None."""
        for number in range(1, ATTEMPTS + 1):
            try:
                return self.attempt(url)
            except _Failure as error:
                if not error.again or number == ATTEMPTS:
                    return error
                wait = max(min(pause * 2 ** (number - 1), LONGEST_PAUSE), error.after)
                again = f"attempt {number + 1} of {ATTEMPTS} in {wait:.0f} s"
                self.progress.say(f"  {self.name}: {error}; {again}")
            time.sleep(wait)
        return None
