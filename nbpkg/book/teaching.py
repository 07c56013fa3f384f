"""For courses: what a chapter asks of its reader, and a copy of it without the solutions."""

import re
from pathlib import Path

from nbpkg import chapters
from nbpkg.book import notebook
from nbpkg.chapters import Chapter
from nbpkg.errors import NbpkgError
from nbpkg.paths import write_text

_ANSWER = re.compile(r"<details>\s*<summary>.*?</details>[^\S\n]*\n?", re.DOTALL)

#: What stands in the place of a solution, so that nobody looks for it.
LEFT_OUT = "*(The solution is left out of this copy.)*"


def prose(chapter: Chapter) -> str:
    """All text of a chapter."""
    return "\n".join(cell.source for cell in chapters.cells(chapter.name) if cell.kind == "markdown")


def handout(chapter: Chapter, outputs: bool = False):
    """A chapter's notebook without the cells of solutions and the answers to questions in prose.

    outputs: whether the published outputs stay. It runs as the chapter does: no other cell uses a solution.
    Raises NbpkgError when the chapter is not written.
    """
    import nbformat

    made = notebook.from_twin(chapter)
    if outputs and chapter.notebook.exists():
        notebook.take_over(chapter, made, notebook.read(chapter.notebook))
        made.metadata.pop("nbpkg", None)
    kept = []
    for cell in made.cells:
        if "solution" in cell.metadata.get("tags", []):
            cell = nbformat.v4.new_markdown_cell(LEFT_OUT, id=f"{cell.id}-left-out"[-64:])
        elif cell.cell_type == "markdown":
            cell.source = _ANSWER.sub("", cell.source).strip()
        if cell.source:
            kept.append(cell)
    made.cells = kept
    made.metadata.pop(notebook.SYNCED, None)  # it is no longer the twin's notebook
    return made


def write_handout(name: str, folder: str | Path, outputs: bool = False) -> Path:
    """Writes `handout` into a folder. Raises NbpkgError if the chapter is unwritten or lies there."""
    chapter = chapters.get(name)
    path = Path(folder) / f"{chapter.name}.ipynb"
    if path.resolve() == chapter.notebook.resolve():
        raise NbpkgError("a handout would overwrite the chapter itself: choose another folder with --out")
    write_text(path, notebook.text_of(handout(chapter, outputs)))
    return path
