"""Command line: `nbpkg list | data | zoo | nets | search | retrieve | run | sync | check | publish | ...`.

Only what a command needs is imported, inside the command, so that `nbpkg --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from nbpkg.cli_nets import nets_app
from nbpkg.cli_retrieve import make_retrieval_weights, retrieve_folder
from nbpkg.cli_search import make_weights, search_folder
from nbpkg.cli_teaching import write_handouts
from nbpkg.cli_zoo import zoo_app
from nbpkg.errors import NbpkgError

app = typer.Typer(
    help="Runs, checks and publishes the chapters of Transferable AutoML, Reproduced.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(
    help="The public data: list, fetch, verify; the embedded latency table: measure-latency.",
    no_args_is_help=True,
)
app.add_typer(data_app, name="data")
app.add_typer(zoo_app, name="zoo")
app.add_typer(nets_app, name="nets")
app.command("search")(search_folder)
app.command("weights")(make_weights)
app.command("retrieve")(retrieve_folder)
app.command("retrieve-weights")(make_retrieval_weights)
app.command("handout")(write_handouts)

Chapters = Annotated[list[str] | None, typer.Argument(help="Chapters, as in 03_help, 03 or help.")]
Profile = Annotated[str, typer.Option(help="smoke, standard or paper.")]


@app.command("list")
def list_chapters() -> None:
    """The chapters: which are written, and which are published."""
    from nbpkg.chapters import CHAPTERS
    from nbpkg.paths import root

    rows = []
    for chapter in CHAPTERS:
        results = [
            profile.name
            for profile in sorted((root() / "results").glob("*"))
            if (profile / f"{chapter.name}.json").is_file()
        ]
        state = "written" if chapter.exists else "to come"
        if results:
            state = f"published ({', '.join(results)})"
        source = f"{chapter.authors}, {chapter.venue}" if chapter.paper else ""
        rows.append([chapter.name, chapter.title, source, chapter.part, state])
    table(["chapter", "title", "paper", "part", "state"], rows)


@app.command()
def run(
    names: Chapters = None,
    profile: Profile = "smoke",
    seeds: Annotated[str, typer.Option(help="Training seeds, as in 0,1,2.")] = "0",
    jobs: Annotated[
        int | None, typer.Option(help="Executions at once; default: usable cores / NBPKG_THREADS.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    script: Annotated[
        bool, typer.Option("--script", help="Run the twins as scripts: a record only.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Run again what is up to date.")] = False,
    cell_timeout: Annotated[float | None, typer.Option(help="Longest time for one cell, in seconds.")] = None,
) -> None:
    """Execute chapters (all that are written when none is named); results go under runs/."""
    from nbpkg import runner

    outcomes = runner.run(
        names or [], profile, parse_seeds(seeds), device, jobs, script, force, cell_timeout, say
    )
    rows = [
        [
            outcome.chapter,
            outcome.profile,
            outcome.status,
            f"{outcome.seconds:.0f}",
            f"{outcome.record['peak_memory_mb']:.0f}" if outcome.record else "",
            ", ".join(f"{count} {verdict}" for verdict, count in outcome.verdicts.items()),
        ]
        for outcome in outcomes
    ]
    table(["chapter", "profile", "status", "seconds", "peak memory (MB)", "claims"], rows)
    if any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(1)


@app.command()
def publish(
    names: Annotated[list[str], typer.Argument(help="Chapters, as in 03_help, 03 or help.")],
    profile: Profile = "standard",
) -> None:
    """Adopt finished runs: outputs into notebooks/, records into results/, the scoreboard anew."""
    from nbpkg import publish as publishing

    for line in publishing.publish(names, profile):
        say(line)


@app.command()
def check() -> None:
    """Look for what has come apart: twins, outputs, records, scoreboard, paths, sizes, alt texts."""
    from nbpkg import check as checks

    problems, remarks = checks.check()
    for line in remarks:
        say(f"remark: {line}")
    for line in problems:
        say(line)
    say(f"check: {len(problems)} problem{'' if len(problems) == 1 else 's'}")
    if problems:
        raise typer.Exit(1)


@app.command()
def sync(
    names: Chapters = None,
    from_notebook: Annotated[
        bool, typer.Option("--from-notebook", help="Where a notebook was edited, write the twin from it.")
    ] = False,
    from_twin: Annotated[
        bool, typer.Option("--from-twin", help="Where a notebook was edited, drop that edit.")
    ] = False,
) -> None:
    """Bring the notebooks up to their twins; outputs stay where no code changed."""
    from nbpkg import chapters, notebook

    if from_notebook and from_twin:
        raise NbpkgError("give --from-notebook or --from-twin, not both")
    prefer = "notebook" if from_notebook else "twin" if from_twin else None
    fine = True
    for chapter in [chapters.get(name) for name in names or []] or chapters.existing():
        words, in_step = notebook.sync(chapter, prefer)
        say(f"{chapter.name}: {words}")
        fine &= in_step
    if not fine:
        raise typer.Exit(1)


@app.command()
def site(
    source: Annotated[str, typer.Option("--from", help="published, or run: made here.")] = "published",
    profile: Profile = "smoke",
    strict: Annotated[bool, typer.Option("--strict", help="Every warning is a failure.")] = False,
) -> None:
    """Build the site."""
    from nbpkg import site as building

    building.build(source, strict, profile)


@app.command()
def scoreboard() -> None:
    """Write the scoreboard in README.md from the published records."""
    from nbpkg import scoreboard as board

    changed = board.refresh()
    say("README.md: scoreboard brought up to the records" if changed else "README.md: scoreboard is fresh")


@data_app.command("list")
def data_list() -> None:
    """The registered sets: licence, size, and what of them is on this machine."""
    from nbpkg import data

    rows = [
        [
            row["name"],
            row["title"],
            row["licence"],
            f"{row['size'] / 1e6:.1f}",
            f"{row['present']}/{row['files']}" + (f" in {row['found']}" if row["found"] else ""),
        ]
        for row in data.cli_rows()
    ]
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
    from nbpkg.data import measure

    path = measure.measure(out or measure.EMBEDDED, cells, rounds, resume=not fresh, seed=seed)
    say(f"wrote {path.name}")


def parse_seeds(text: str) -> list[int]:
    """ "0,1,2" as [0, 1, 2]. Raises NbpkgError for anything but whole numbers with commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise NbpkgError(f"seeds must be whole numbers with commas, as in 0,1,2; not {text!r}") from None


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(line, flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: drawn in a terminal, plain aligned columns into a pipe or file."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        drawn = Table(*header)
        for row in rows:
            drawn.add_row(*row)
        Console().print(drawn)
        return
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line: 0, 1 after a finding or a failure, 2 for a wrong use, 130 when stopped."""
    try:
        command = typer.main.get_command(app)
        result = command.main(
            args=list(arguments) if arguments is not None else None, prog_name="nbpkg", standalone_mode=False
        )
        return result if isinstance(result, int) else 0
    except NbpkgError as error:
        message = str(error)
    except (KeyboardInterrupt, typer.Abort):
        print("stopped", file=sys.stderr)
        return 130
    except typer.Exit as left:
        return left.exit_code
    except BrokenPipeError:
        # Whoever read our output has gone; without this the interpreter complains once more while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        # Wrong use: typer's errors carry their text, in older and newer versions under different classes.
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            return 2
        message = error.format_message()
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
