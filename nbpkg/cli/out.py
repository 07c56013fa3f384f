"""What commands share: options that several have, and how they print."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from nbpkg import paths
from nbpkg.errors import NbpkgError

Profile = Annotated[str, typer.Option(help="smoke, standard or paper.")]
Adopt = Annotated[bool, typer.Option("--adopt", help="Replace the file that comes with the package.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def place(path: Path | None) -> Path | None:
    """A path to write to, its folder made, before any work is done for it. NbpkgError if it cannot be."""
    if path is not None:
        try:
            if path.is_dir():
                raise IsADirectoryError(None, "it is a folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path.parent).close()
        except OSError as error:
            raise NbpkgError(f"{path} cannot be written ({error.strerror})") from None
    return path


def output(shipped: Path, out: Path | None, adopt: bool) -> Path:
    """Where to write what takes the place of a shipped file if adopted: `out`, else in the cache."""
    if adopt and out is not None:
        raise NbpkgError("give --out or --adopt, not both")
    return place(shipped if adopt else out or paths.cache_dir() / "shipped" / shipped.name)


def wrote(*files: Path) -> None:
    """Say what was written; what has taken the place of a shipped file is the good one from here on."""
    for path in files:
        if path.resolve().parent == paths.embedded(""):
            paths.adopted(path)
        say(f"wrote {path}")


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
