"""Commands on chapters: list, run, sync, check, publish, scoreboard, site, stamp, handout."""

import os
from collections import Counter
from typing import Annotated

import typer

from nbpkg.cli.out import Device, Profile, say, table
from nbpkg.errors import NbpkgError

NAMES = "Chapters, as in 03_help, 3 or help"


def _complete(begun: str) -> list[str]:
    from nbpkg.chapters import CHAPTERS

    return [chapter.name for chapter in CHAPTERS if chapter.name.startswith(begun)]


Chapters = Annotated[list[str] | None, typer.Argument(help=f"{NAMES}; else all.", autocompletion=_complete)]
Jobs = Annotated[int | None, typer.Option(help="Executions at once; default: usable cores / NBPKG_THREADS.")]
Script = Annotated[bool, typer.Option("--script", help="Run the twins as scripts: a record only.")]
FromNotebook = Annotated[bool, typer.Option("--from-notebook", help="Write the twin of an edited notebook.")]
FromTwin = Annotated[bool, typer.Option("--from-twin", help="Where a notebook was edited, drop that edit.")]


def list_chapters() -> None:
    """List the chapters: which are written, and which are published."""
    from nbpkg.chapters import CHAPTERS
    from nbpkg.paths import root

    rows = []
    for chapter in CHAPTERS:
        results = [path.parent.name for path in sorted((root() / "results").glob(f"*/{chapter.name}.json"))]
        published = f"published ({', '.join(results)})" if results else ""
        state = published or ("written" if chapter.exists else "to come")
        source = f"{chapter.authors}, {chapter.venue}" if chapter.paper else ""
        rows.append([chapter.name, chapter.title, source, chapter.part, state])
    table(["chapter", "title", "paper", "part", "state"], rows)


def run(
    names: Chapters = None,
    profile: Profile = "smoke",
    seeds: Annotated[str, typer.Option(help="Training seeds, as in 0,1,2.")] = "0",
    jobs: Jobs = None,
    device: Device = "auto",
    script: Script = False,
    force: Annotated[bool, typer.Option("--force", help="Run again what is up to date.")] = False,
    cell_timeout: Annotated[float | None, typer.Option(help="Longest time for one cell, in seconds.")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.01, help="Stop after the piece that passes so many; the next run goes on."),
    ] = None,
    cluster: Annotated[str | None, typer.Option(help="A Dask cluster: local, slurm or ADDRESS.")] = None,
) -> None:
    """Execute chapters (all that are written when none is named); results go under runs/."""
    from nbpkg import parallel, runner

    try:
        numbers = [int(part) for part in seeds.split(",")]
    except ValueError:
        raise NbpkgError(f"seeds must be whole numbers with commas, as in 0,1,2; not {seeds!r}") from None
    if cluster:
        parallel.check_cluster(cluster)
        os.environ["NBPKG_CLUSTER"] = cluster  # for all that the chapters start
    options = (profile, numbers, device, jobs, script, force, cell_timeout, say, minutes)
    outcomes = runner.run(names or [], *options)
    rows = []
    for done in outcomes:
        memory = f"{done.record['peak_memory_mb']:.0f}" if done.record else ""
        verdicts = Counter(claim["verdict"] for claim in done.record.get("claims", []))
        claims = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
        rows.append([done.chapter, done.profile, done.status, f"{done.seconds:.0f}", memory, claims])
    table(["chapter", "profile", "status", "seconds", "peak memory (MB)", "claims"], rows)
    if any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(1)


def publish(
    names: Annotated[list[str], typer.Argument(help=f"{NAMES}.", autocompletion=_complete)],
    profile: Profile = "standard",
) -> None:
    """Adopt finished runs: outputs into notebooks/, records into results/, the scoreboard anew."""
    from nbpkg.book import publish as publishing

    for line in publishing.publish(names, profile):
        say(line)


def check() -> None:
    """Look for what has come apart: twins, outputs, records, scoreboard, paths, sizes, alt texts.

    Counts the package's lines too, and fails when they are too many.
    """
    from nbpkg import chapters
    from nbpkg.book import budget, first_edition, package_size
    from nbpkg.book import check as checks

    counts, problems, remarks = package_size.check()
    say(counts)
    found = checks.check()
    problems += found[0]
    say(first_edition.recomputed())
    for chapter in chapters.existing():
        line, over = budget.report(chapter)
        say(line)
        problems += [f"{chapter.name}: {one}" for one in over]
    for line in [*(f"remark: {remark}" for remark in remarks + found[1]), *problems]:
        say(line)
    say(f"check: {len(problems)} problem{'' if len(problems) == 1 else 's'}")
    if problems:
        raise typer.Exit(1)


def sync(names: Chapters = None, from_notebook: FromNotebook = False, from_twin: FromTwin = False) -> None:
    """Bring the notebooks up to their twins; outputs stay where no code changed."""
    from nbpkg import chapters
    from nbpkg.book import notebook

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


def site(
    source: Annotated[str, typer.Option("--from", help="published, or run: made here.")] = "published",
    profile: Profile = "smoke",
    strict: Annotated[bool, typer.Option("--strict", help="Every warning is a failure.")] = False,
) -> None:
    """Build the site of the pages and the published, or your own, outputs."""
    from nbpkg.book import site as building

    building.build(source, strict, profile)


def scoreboard() -> None:
    """Write the scoreboard in README.md from the published records."""
    from nbpkg.book import scoreboard as board

    say(f"README.md: scoreboard {'brought up to the records' if board.refresh() else 'is fresh'}")


def stamp(folder: Annotated[str, typer.Argument(help="Folder to write notebooks/ into.")]) -> None:
    """Write notebooks that know the repository's address, from $NBPKG_REPOSITORY; Colab opens them."""
    from nbpkg.book import site

    for path in site.stamp(folder):
        say(f"wrote {path}")


def write_handouts(
    names: Chapters = None,
    out: Annotated[str, typer.Option(help="Folder to write to.")] = "handouts",
    outputs: Annotated[bool, typer.Option("--outputs", help="Keep the published outputs.")] = False,
) -> None:
    """Write notebooks for a course: without solutions and answers, and without outputs unless asked for."""
    from nbpkg import chapters
    from nbpkg.book import teaching

    for name in names or [chapter.name for chapter in chapters.existing()]:
        path = teaching.write_handout(name, out, outputs)
        say(f"wrote {path}")
