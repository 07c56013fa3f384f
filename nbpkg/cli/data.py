"""Commands on data: `nbpkg data list | fetch | mirror | verify | measure-latency`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nbpkg.cli.out import Adopt, output, say, table, wrote
from nbpkg.errors import NbpkgError

data_app = typer.Typer(
    help="List, fetch and verify the public data, and measure the embedded latency table anew.",
    no_args_is_help=True,
)


@data_app.command("list")
def data_list() -> None:
    """List the sets: licence, size, and how many files lie where, by name and size (`verify` reads)."""
    from nbpkg import data
    from nbpkg.data import store

    rows = []
    for item in data.sets():
        tiers = list(filter(None, map(store.present, item.files)))
        here = f"{len(tiers)}/{len(item.files)}" + (f" in {' + '.join(sorted(set(tiers)))}" if tiers else "")
        rows.append([item.name, item.title, item.licence, f"{item.size / 1e6:.1f}", here])
    table(["set", "title", "licence", "MB", "files here"], rows)


@data_app.command("fetch")
def data_fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Names of sets; see `nbpkg data list`.")] = None,
    chapters: Annotated[str, typer.Option("--for", help="All that these chapters need, as in 02,05.")] = "",
    profile: Annotated[str, typer.Option(help="The profile that --for is about.")] = "standard",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the sources of derived sets.")] = False,
) -> None:
    """Download sets into the cache, or make them of their sources; checked and resumed, licence first."""
    from nbpkg import data
    from nbpkg.data import download

    wanted = _wanted(names or [], chapters, profile)
    due = {name: download.to_download(data.registry.get(name)) for name in wanted}
    count = f"{len(wanted)} data set{'s' * (len(wanted) != 1)}"
    say(f"{count}, {sum(due.values()) / 1e6:.0f} MB to download")
    for name in filter(due.get, wanted):
        say(f"  {name}: {due[name] / 1e6:.1f} MB")
    failed = []
    for name in wanted:
        try:
            data.fetch(name, keep=keep)
        except NbpkgError as error:
            if len(wanted) == 1:
                raise
            say(f"{name}: {error}")
            failed.append(name)
    if failed:
        raise NbpkgError(f"not fetched: {', '.join(failed)}; the same command goes on with them")


def _wanted(names: list[str], chapters: str, profile: str) -> list[str]:
    """The sets named, and those that `chapters` (apart by commas) need, each once."""
    from nbpkg import chapters as book
    from nbpkg.data import needs

    if profile not in book.PROFILES:
        raise NbpkgError(f"--profile {profile!r} is none of {', '.join(book.PROFILES)}")
    if not names and not chapters:
        raise NbpkgError("name the sets to fetch, or the chapters that need them with --for")
    numbers = [book.get(name.strip()).name for name in chapters.split(",")] if chapters else []
    return list(dict.fromkeys([*names, *(item.name for item in needs.sets(numbers, profile))]))


@data_app.command("mirror")
def data_mirror(
    folder: Annotated[Path, typer.Argument(help="Where to write; any file server can hand it out.")],
) -> None:
    """Copy what was fetched (with --keep) into a folder for NBPKG_MIRROR; says the licences."""
    from nbpkg.data import mirror

    count = mirror.write(folder, say)
    say(f"{count} files; readers set NBPKG_MIRROR to the address under which you serve {folder.name}")


@data_app.command("verify")
def data_verify(
    names: Annotated[list[str] | None, typer.Argument(help="Names of sets; all when none is given.")] = None,
) -> None:
    """Compare the files on this machine with the registered checksums."""
    from nbpkg import data

    rows = [
        [name, status.path, status.status, status.where, status.detail]
        for name in names or [item.name for item in data.sets()]
        for status in data.verify(name)
    ]
    table(["set", "file", "state", "where", ""], rows)
    if any(row[2] == "corrupt" or (names and row[2] != "ok") for row in rows):
        raise typer.Exit(1)


@data_app.command("measure-latency")
def data_measure_latency(
    out: Annotated[Path | None, typer.Option(help="The table to write; by default one in the cache.")] = None,
    cells: Annotated[int, typer.Option(help="How many random cells to time.")] = 640,
    rounds: Annotated[int, typer.Option(help="How often every cell is visited.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the cells and the order of visits.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an interrupted measurement.")] = False,
    new: Annotated[bool, typer.Option("--new", help="The settings that chapter 03 judges by.")] = False,
    adopt: Adopt = False,
) -> None:
    """Measure the embedded latency table on this machine; an interrupted measurement goes on."""
    from nbpkg.data.latency_table import EMBEDDED, NEW, read_embedded
    from nbpkg.measure import backends, latency
    from nbpkg.nb201 import space

    path = output(NEW if new else EMBEDDED, out, adopt)
    if new:
        known, settings = space.encode(read_embedded(NEW)[0]), backends.NEW_SETTINGS
        latency.measure(path, known, rounds, settings, resume=not fresh, seed=seed)
    else:
        latency.measure(path, cells, rounds, resume=not fresh, seed=seed)
    wrote(path, path.with_suffix(".json"))
