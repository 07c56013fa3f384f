"""The command line of the building blocks: `nbpkg nets benchmark`."""

from __future__ import annotations

from typing import Annotated

import typer

from nbpkg.cli.out import say
from nbpkg.errors import NbpkgError

nets_app = typer.Typer(help="Building blocks of the chapters: benchmark.", no_args_is_help=True)


@nets_app.callback()
def nets() -> None:
    """Building blocks of the chapters: benchmark."""


@nets_app.command("benchmark")
def nets_benchmark(
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    repeats: Annotated[int, typer.Option(help="Every time is the best of so many.")] = 5,
) -> None:
    """Times of MetaD2A's networks: training, drawing and scoring, together and one by one."""
    from nbpkg.nets import benchmark

    if repeats < 1:
        raise NbpkgError("--repeats must be at least 1")
    for line in benchmark.compare(device, repeats):
        say(line)
