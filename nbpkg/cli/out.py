"""What commands print."""

from __future__ import annotations

import sys
from collections.abc import Sequence


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
