"""A folder that any file server can hand out in place of the registered addresses (`NBPKG_MIRROR`)."""

import shutil
from collections.abc import Callable
from pathlib import Path

from nbpkg.data import registry, store
from nbpkg.errors import NbpkgError
from nbpkg.paths import replacing


def write(folder: str | Path, say: Callable[[str], None] = print) -> int:
    """Copy what was fetched to `folder`, each file under its first address without the scheme.

    Of a derived set these are its sources, which `nbpkg data fetch --keep` leaves. Each set's licence is
    said, since whoever serves the folder passes the files on. Returns the number of files; raises NbpkgError
    when there is none.
    """
    count = 0
    for dataset in registry.load().values():
        files = [file for group in (dataset.files, *dataset.ways) for file in group if file.url]
        here = [(file, found[0]) for file in files if (found := store.locate(file))]
        if not here:
            continue
        size = sum(local.stat().st_size for _, local in here) / 1e6
        terms = dataset.licence_url or dataset.note
        licence = f"{dataset.licence} ({terms})" if terms else dataset.licence
        say(f"{dataset.name}: {len(here)} files, {size:.1f} MB; licence: {licence}")
        for file, local in here:
            if file.sha256 and (problem := store.fault(file, local)):
                raise NbpkgError(f"{file.path}: {problem}; not passed on")
            with replacing(Path(folder) / file.url.partition("://")[2]) as temporary:
                shutil.copyfile(local, temporary)
        count += len(here)
    if not count:
        raise NbpkgError("nothing to pass on: fetch sets with `nbpkg data fetch --keep` first")
    return count
