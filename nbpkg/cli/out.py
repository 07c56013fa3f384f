"""What commands share: options that several have, and how they print."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

Profile = Annotated[str, typer.Option(help="smoke, standard or paper.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def plain(text: str) -> str:
    """A line of text with the characters that would steer a terminal, as a file's name may, written out."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(plain(line), flush=True)


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
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in [header, *rows]:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
