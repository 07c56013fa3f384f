"""Commands on data: `nbpkg data list | fetch | verify | measure-latency`."""

from __future__ import annotations

from typing import Annotated

import typer

from nbpkg.cli.out import say, table

data_app = typer.Typer(
    help="The public data: list, fetch, verify; the embedded latency table: measure-latency.",
    no_args_is_help=True,
)


@data_app.command("list")
def data_list() -> None:
    """The registered sets: licence, size, and what of them is on this machine."""
    from nbpkg import data

    rows = []
    for row in data.cli_rows():
        here = f"{row['present']}/{row['files']}" + (f" in {row['found']}" if row["found"] else "")
        rows.append([row["name"], row["title"], row["licence"], f"{row['size'] / 1e6:.1f}", here])
    table(["set", "title", "licence", "MB", "files here"], rows)


@data_app.command("fetch")
def data_fetch(
    names: Annotated[list[str], typer.Argument(help="Names of sets; see `nbpkg data list`.")],
) -> None:
    """Download sets into the cache, checked and resumed; says the licence first."""
    from nbpkg import data

    for name in names:
        data.fetch(name)


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
    out: Annotated[str | None, typer.Option(help="Table to write; by default the embedded one.")] = None,
    cells: Annotated[int, typer.Option(help="How many random cells to time.")] = 640,
    rounds: Annotated[int, typer.Option(help="How often every cell is visited.")] = 4,
    seed: Annotated[int, typer.Option(help="Chooses the cells and the order of visits.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an interrupted measurement.")] = False,
) -> None:
    """Measure the embedded latency table on this machine; an interrupted measurement goes on."""
    from nbpkg.measure import latency

    path = latency.measure(out or latency.EMBEDDED, cells, rounds, resume=not fresh, seed=seed)
    say(f"wrote {path.name}")
