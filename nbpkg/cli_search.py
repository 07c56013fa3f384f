"""The command line of the search: `nbpkg search FOLDER`, and `nbpkg weights`, which makes what it uses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nbpkg.errors import NbpkgError


def search_folder(
    folder: Annotated[Path, typer.Argument(help="Images, one subfolder a class.")],
    top: Annotated[int, typer.Option(help="How many cells to show.")] = 10,
    candidates: Annotated[int, typer.Option(help="How many cells to draw.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the images that are looked at, and of the draws.")] = 0,
    max_params: Annotated[int | None, typer.Option(help="Parameters at most.")] = None,
    max_flops: Annotated[int | None, typer.Option(help="FLOPs at most.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Cells of NAS-Bench-201 for a folder of images, best first, by the networks of chapter 02_metad2a."""
    from nbpkg import search
    from nbpkg.cli import table

    if min(top, candidates) < 1:
        raise NbpkgError("--top and --candidates must be at least 1")
    images, labels = search.read_folder(folder)
    found = search.search(images, labels, candidates, seed, max_params, max_flops, device)
    table(["rank", "score", "parameters (M)", "FLOPs (M)", "architecture"], search.lines(found, top))


def make_weights(
    profile: Annotated[str, typer.Option(help="smoke, standard or paper.")] = "standard",
    seed: Annotated[int, typer.Option(help="Of the training.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Where to; default: where `nbpkg search` reads.")] = None,
) -> None:
    """Write the weights that `nbpkg search` uses, trained by chapter 02_metad2a where they are not stored."""
    from nbpkg import paths, search
    from nbpkg.cli import say
    from nbpkg.session import Session

    made = Session("00_foundations", profile, [seed]).artifact("02_metad2a", "search")
    path = search.write_weights(out or paths.embedded(search.FILE), made)
    say(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
