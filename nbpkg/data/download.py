"""Registered sets made available: files downloaded as they are, derived sets made of their sources.

A set is used as it lies in `NBPKG_DATA` or in the cache; what is missing goes to the cache, checked before it
is put in its place.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from nbpkg.data import recipes, store, transfer
from nbpkg.data.registry import SOURCES, DataFile, DataSet
from nbpkg.errors import NbpkgError


def offline() -> bool:
    """Whether `NBPKG_OFFLINE` forbids downloads."""
    return os.environ.get("NBPKG_OFFLINE", "").strip().lower() not in ("", "0", "false", "no", "off")


def fetch_set(
    dataset: DataSet, *, say: Callable[[str], None] = print, pause: float = transfer.FIRST_PAUSE,
    keep: bool = False,
) -> list[Path]:  # fmt: skip
    """Make every file of `dataset` available and return the verified paths, in the registry's order.

    What is already good is used as it is, a corrupt file in the cache is replaced; nothing is downloaded
    while `NBPKG_DATA` is set. `say` gets lines of plain text; `pause` is the wait before the second attempt,
    in seconds; `keep` leaves the sources of a derived set where they are. Raises NbpkgError naming the first
    file that cannot be had.
    """
    missing = []
    for file, state in zip(dataset.files, store.check(dataset), strict=True):
        if state.status != "ok":
            missing.append(file)
        if state.where == "NBPKG_DATA":
            store.verified(dataset, file)  # refuses what is corrupt: nothing is written there
    if missing:
        _may_download(dataset, missing[0])
        if dataset.kind == "derived":
            _derive(dataset, say, pause, keep)
        else:
            _download(dataset, missing, say, pause)
    return [store.verified(dataset, file) for file in dataset.files]


def _may_download(dataset: DataSet, file: DataFile) -> None:
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


def to_download(dataset: DataSet) -> int:
    """Bytes that `fetch_set` has yet to download, if the first way to a derived set can be gone."""
    files = [file for file in dataset.files if not store.present(file)]
    if files and dataset.kind == "derived":
        files = [file for file in _ways(dataset)[0] if not _whole(file)]
    return sum(file.size for file in files)


def _ways(dataset: DataSet) -> list[tuple[DataFile, ...]]:
    """The ways in the order in which they are tried: one whose sources are all here comes first."""
    return sorted(dataset.ways, key=lambda way: not all(map(_whole, way)))


def _whole(source: DataFile) -> bool:
    """Whether a source is here; one whose bytes are not pinned is placed only when it came whole."""
    local = store.cache_folder() / source.path
    return local.is_file() and not (source.sha256 and store.fault(source, local))


@contextlib.contextmanager
def _cache(dataset: DataSet):
    """The cache's folder; whatever goes wrong with the disk becomes one line."""
    folder = store.cache_folder()
    try:
        (folder / ".partial").mkdir(parents=True, exist_ok=True)
        yield folder
    except OSError as error:
        problem = error.strerror or str(error).splitlines()[0]
        raise NbpkgError(f"{dataset.name}: the cache folder {folder} cannot be used ({problem})") from error


def _download(dataset: DataSet, files: Sequence[DataFile], say: Callable[[str], None], pause: float) -> None:
    import requests

    progress = transfer.Progress(len(files), sum(file.size for file in files), say)
    terms = dataset.licence_url or dataset.note
    count = f"{len(files)} file{'s' * (len(files) != 1)}"
    hosts = ", ".join({transfer.address(file.url).split("/")[2]: "" for file in files})
    say(f"{dataset.name}: {count}, {progress.size / 1e6:.1f} MB from {hosts}; source: {dataset.source}")
    say(f"  licence: {dataset.licence}" + (f" ({terms})" if terms else ""))
    with _cache(dataset) as folder, requests.Session() as session:
        for file in files:
            download = transfer.Download(file, folder, session, progress)
            # One process at a time works on a file.
            with _alone(file.path, download.partial.with_suffix(".lock")):
                download.run(pause)
            progress.done += 1
    say(f"{dataset.name}: downloaded in {time.monotonic() - progress.started:.1f} s")


@contextlib.contextmanager
def _alone(what: str, lock: Path):
    from filelock import FileLock, Timeout

    try:
        with FileLock(lock, timeout=transfer.LOCK_WAIT):
            yield
    except Timeout as error:
        raise NbpkgError(f"{what}: another process has been downloading it for too long; end it") from error


def _derive(dataset: DataSet, say: Callable[[str], None], pause: float, keep: bool) -> None:
    """Download the sources of a derived set and make its files of them: all or none of them, one process at
    a time. What was downloaded stays until the files are in place, so that the next call goes on from there.
    """
    with _cache(dataset) as folder, _alone(dataset.name, folder / ".partial" / f"{dataset.name}.lock"):
        # Another process may have made them in the meantime.
        ways = _ways(dataset) if any(state.status != "ok" for state in store.check(dataset)) else []
        for way in ways:
            try:
                if missing := [file for file in way if not _whole(file)]:
                    _download(dataset, missing, say, pause)
                _make(dataset, way, folder, say)
                break
            except NbpkgError as error:
                if way is ways[-1]:
                    raise
                say(f"  {str(error).partition(';')[0]}; another source is tried")
        if not keep:
            shutil.rmtree(folder / SOURCES / dataset.name, ignore_errors=True)


def _make(dataset: DataSet, way: Sequence[DataFile], folder: Path, say: Callable[[str], None]) -> None:
    """Run the recipe in a folder of its own; its files are checked before the first is put in place."""
    building = folder / ".building" / dataset.name
    shutil.rmtree(building, ignore_errors=True)
    say(f"{dataset.name}: converting")
    start = time.monotonic()
    try:
        made = _made(dataset, way, folder, building)
        for file, path in made:
            (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, folder / file.path)
    except NbpkgError:
        # Nothing vouches for the bytes of such a source: the next call downloads it again.
        for file in way:
            if not file.sha256:
                (folder / file.path).unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    say(f"{dataset.name}: done in {time.monotonic() - start:.1f} s")


def _made(dataset: DataSet, way: Sequence[DataFile], folder: Path, building: Path):
    """The set's files, each with the path of what the recipe made; NbpkgError unless all are right."""
    home = folder / SOURCES / dataset.name
    originals = {(folder / file.path).relative_to(home).as_posix(): folder / file.path for file in way}
    try:
        recipes.get(dataset.recipe)(originals, building)
    except (NbpkgError, OSError):
        raise
    except Exception as error:  # sources whose bytes nothing vouches for can fail in any way
        why = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise NbpkgError(f"{dataset.name}: its sources are not what its recipe takes ({why})") from error
    made = [(file, building / file.path.removeprefix(dataset.local)) for file in dataset.files]
    for file, path in made:
        if problem := store.fault(file, path):
            raise NbpkgError(
                f"{file.path}: the sources came whole, but recipe {dataset.recipe} made another file of them "
                f"({problem}); try the versions in requirements.lock, and please report it"
            )
    return made
