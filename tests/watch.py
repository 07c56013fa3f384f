"""Are the public data still there? Asks every address of the registry, and rebuilds one set in turn.

    python tests/watch.py --out report.md [--week 7] [--only addresses]

A host is asked for size and presence of each file, one small file is downloaded whole, and the set whose turn
it is in the given week (by default this one) is fetched from nothing into a folder of its own and verified.
Exit status 1 and a report in Markdown say what failed; the workflow `watch` opens an issue with it.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import requests

from nbpkg import data
from nbpkg.data import registry, store, transfer
from nbpkg.data.registry import DataFile, DataSet
from nbpkg.errors import NbpkgError

#: Seconds between two questions: two hundred files are no reason to hurry anybody's server.
PAUSE = 0.2
#: Bytes of the largest file that is downloaded whole in passing.
SMALL = 200_000


def originals(sets: Iterable[DataSet]) -> list[DataFile]:
    """Every file that is downloaded as it is: those of public sets and the sources of derived ones."""
    files = []
    for dataset in sets:
        files += [file for way in dataset.ways for file in way] or list(dataset.files)
    return files


def problems(files: Iterable[DataFile], session, pause: float = PAUSE) -> Iterator[str]:
    """One line for each address that does not answer, or with another size than is pinned."""
    for file in files:
        for url in map(transfer.address, file.urls):
            time.sleep(pause)
            try:
                headers = {"Accept-Encoding": "identity"}
                reply = session.head(url, headers=headers, timeout=transfer.TIMEOUTS, allow_redirects=True)
            except requests.RequestException as error:
                yield f"{url}: no answer ({type(error).__name__})"
                continue
            size = reply.headers.get("Content-Length")
            if reply.status_code != 200:
                yield f"{url}: {reply.status_code} {reply.reason}"
            elif file.sha256 and size is not None and int(size) != file.size:
                yield f"{url}: {int(size):,} bytes instead of {file.size:,}"


def smallest(files: Iterable[DataFile]) -> DataFile:
    """The smallest file with a pinned checksum, which is read whole."""
    return min((file for file in files if file.sha256), key=lambda file: file.size)


def whole(file: DataFile, session) -> str | None:
    """What is wrong with a file read whole from its first address; None when it is the registered one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        try:
            reply = session.get(transfer.address(file.url), timeout=transfer.TIMEOUTS)
            path.write_bytes(reply.content[: max(SMALL, file.size + 1)])
        except requests.RequestException as error:
            return f"{file.url}: no answer ({type(error).__name__})"
        fault = store.fault(file, path)
        return fault and f"{file.url}: {fault}"


def turn(names: list[str], week: int) -> str:
    """The set that is rebuilt in a week: each in its turn."""
    return names[week % len(names)]


def rebuild(name: str) -> str | None:
    """Fetch a set from nothing into a cache of its own; what went wrong, or None."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NBPKG_CACHE"] = folder
        try:
            data.fetch(name)
        except NbpkgError as error:
            return f"{name} cannot be rebuilt: {error}"
        finally:
            del os.environ["NBPKG_CACHE"]
    return None


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="where the report goes")
    parser.add_argument("--week", type=int, default=datetime.date.today().isocalendar().week)
    parser.add_argument("--only", choices=["addresses", "rebuild"])
    given = parser.parse_args(arguments)
    sets, found = list(registry.load().values()), []
    with requests.Session() as session:
        if given.only != "rebuild":
            files = originals(sets)
            found += problems(files, session)
            found += filter(None, [whole(smallest(files), session)])
    name = turn([dataset.name for dataset in sets], given.week)
    if given.only != "addresses":
        found += filter(None, [rebuild(name)])
    lines = [f"- {line}" for line in found] or ["Every address answers."]
    given.out.write_text(
        "\n".join([f"Public data, week {given.week}, set in turn: {name}.", "", *lines]) + "\n"
    )
    print(given.out.read_text())
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
