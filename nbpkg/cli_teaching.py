"""The command `nbpkg handout`."""

from __future__ import annotations

from typing import Annotated

import typer


def write_handouts(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Chapters, as in 03_help, 03 or help; all that are written when none is named."),
    ] = None,
    out: Annotated[str, typer.Option(help="Folder to write to.")] = "handouts",
    outputs: Annotated[bool, typer.Option("--outputs", help="Keep the published outputs.")] = False,
) -> None:
    """Notebooks for a course: without solutions and answers, and without outputs unless asked for."""
    from nbpkg import chapters, teaching

    for name in names or [chapter.name for chapter in chapters.existing()]:
        path = teaching.write_handout(name, out, outputs)
        print(f"wrote {path.parent.name}/{path.name}", flush=True)
