"""Notebooks as files: made from a twin, given a run's outputs, kept in step, written whole or not at all."""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from nbpkg import chapters, progress
from nbpkg.book import moved
from nbpkg.chapters import Chapter
from nbpkg.errors import NbpkgError
from nbpkg.paths import write_text

KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
KEPT = ("tags", "mystnb")  # the cell metadata that the twin holds (jupytext.toml says the same)
SYNCED = "nbpkg_twin_sha256"  # notebook metadata: the twin that the notebook was last made from
INJECTED = "injected-parameters"


def from_twin(chapter: Chapter):
    """A chapter's notebook without outputs, as jupytext reads the twin. Raises NbpkgError without a twin."""
    import jupytext
    import nbformat

    chapters.cells(chapter.name)  # says clearly what is wrong with a twin that cannot be read
    read = jupytext.reads(chapter.twin.read_text(encoding="utf-8"), fmt="py:percent")
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": KERNELSPEC, "language_info": LANGUAGE})
    used: Counter[str] = Counter()
    for cell in read.cells:
        make = getattr(nbformat.v4, f"new_{cell.cell_type}_cell")
        # An id that follows the source leaves the other cells' ids alone when one cell is put in.
        stem = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        used[stem] += 1
        identity = stem if used[stem] == 1 else f"{stem}-{used[stem]}"
        notebook.cells.append(make(cell.source, metadata=_kept(cell), id=identity))
    if code_sha256(notebook) != chapters.code_sha256(chapter.name):
        raise NbpkgError(
            f"{chapter.name}: a magic, a shell line or a cell marker in a string: a twin must run as a script"
        )
    notebook.metadata[SYNCED] = fingerprint(notebook)
    return notebook


def _kept(cell) -> dict:
    return {key: cell.metadata[key] for key in KEPT if key in cell.metadata}


def fingerprint(notebook) -> str:
    """The hash of what twin and notebook share: kinds, sources, tags and figure metadata; no outputs."""
    shared = [[cell.cell_type, cell.source.strip(), _kept(cell)] for cell in notebook.cells]
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()


def differences(twin, notebook) -> Iterator[str]:
    """One line for each cell in which a notebook parts from its twin; none when they agree."""
    if len(twin.cells) != len(notebook.cells):
        yield f"the twin has {len(twin.cells)} cells, the notebook {len(notebook.cells)}"
    for number, (ours, theirs) in enumerate(zip(twin.cells, notebook.cells, strict=False), start=1):
        where = f"cell {number} ({headline(ours.source)!r})"
        if ours.cell_type != theirs.cell_type:
            yield f"{where} is {ours.cell_type} in the twin and {theirs.cell_type} in the notebook"
        elif ours.source.strip() != theirs.source.strip():
            yield f"{where} reads differently in the notebook"
        elif _kept(ours) != _kept(theirs):
            yield f"{where} has other tags or figure metadata in the notebook"


def headline(source: str, width: int = 60) -> str:
    """The first line of a source that says something, cut to `width` characters."""
    line = next((line.strip() for line in source.splitlines() if line.strip()), "")
    return line if len(line) <= width else line[: width - 1] + "…"


def code_cells(notebook) -> list:
    """The code cells of a notebook without the one that papermill puts in."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell for cell in cells if INJECTED not in cell.metadata.get("tags", [])]


def outputs_sha256(notebook) -> str:
    """The hash of the outputs of a notebook's code cells."""
    outputs = [cell.outputs for cell in code_cells(notebook)]
    return hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest()


def code_sha256(notebook) -> str:
    """The hash of a notebook's code cells; `chapters.code_sha256` when notebook and twin agree on code."""
    counted = [c for c in code_cells(notebook) if not chapters.ASIDE & set(c.metadata.get("tags", []))]
    return chapters.hash_sources([cell.source for cell in counted])


def read(path: Path):
    """The notebook at `path`. Raises NbpkgError when it is absent, cut short or no notebook."""
    import nbformat

    try:
        notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
        nbformat.validate(notebook)
    except FileNotFoundError:
        raise NbpkgError(f"there is no notebook {path.name} in {path.parent.name}/") from None
    except Exception as error:
        raise NbpkgError(f"{path.name} is not a valid notebook: {headline(str(error))}") from None
    return notebook


def text_of(notebook) -> str:
    """The notebook as the text of its file. Raises nbformat's ValidationError when it is not valid."""
    import nbformat

    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def with_outputs(twin, executed, only_moved: bool = False):
    """The twin's notebook with the outputs of an executed one, but for lines of progress; execution counts
    run from 1 without gaps.

    Raises NbpkgError when the code cells of the two differ, or with `only_moved` their number: the outputs
    would stand under other code.
    """
    ours, theirs = code_cells(twin), code_cells(executed)
    same = [cell.source.strip() for cell in ours] == [cell.source.strip() for cell in theirs]
    if not (same or (only_moved and len(ours) == len(theirs))):
        raise NbpkgError("the code cells have changed since the run")
    counts = itertools.count(1)
    for mine, run in zip(ours, theirs, strict=True):
        mine.outputs = [output for output in run.outputs if not _is_progress(output)]
        mine.execution_count = None if run.execution_count is None else next(counts)
        for output in mine.outputs:
            if output.output_type == "execute_result":
                output.execution_count = mine.execution_count
            output.get("metadata", {}).pop("papermill", None)
    return twin


def _is_progress(output) -> bool:
    """Whether an output is nothing but lines of `nbpkg.progress`, which tell a reader nothing."""
    lines = output.text.splitlines() if output.output_type == "stream" else []
    return bool(lines) and all(progress.LINE.search(line) for line in lines)


def sync(chapter: Chapter, prefer: str | None = None) -> tuple[str, bool]:
    """Bring a chapter's notebook up to its twin; returns what was done, and whether it is in step now.

    Outputs stay where no code changed or code has only moved (`nbpkg.book.moved`); else they are cleared.
    A notebook whose own text was edited is left alone unless `prefer` is "twin" or "notebook";
    "notebook" writes the twin from it.
    """
    twin, path = from_twin(chapter), chapter.notebook
    if not path.exists():
        write_text(path, text_of(twin))
        return "made the notebook from the twin", True
    old = read(path)
    edited = fingerprint(old) not in (old.metadata.get(SYNCED), fingerprint(twin))
    if edited and prefer is None:
        both = old.metadata.get(SYNCED) != fingerprint(twin)
        changed = "both the twin and the notebook were" if both else "the notebook was"
        choice = "take the notebook's text with --from-notebook or the twin's with --from-twin"
        return f"{changed} edited: {choice}", False
    if edited and prefer == "notebook":
        _write_twin(chapter, old)
        old.metadata[SYNCED] = fingerprint(old)
        write_text(path, text_of(old))
        return "wrote the twin from the notebook", True
    if fingerprint(old) == old.metadata.get(SYNCED) == fingerprint(twin):
        return "in step", True
    had = any(cell.outputs for cell in code_cells(old))
    kept = take_over(chapter, twin, old)
    write_text(path, text_of(twin))
    words = "outputs kept" if kept else "outputs cleared, because the code changed"
    return "text brought up to the twin" + (f"; {words}" if had else ""), True


def take_over(chapter: Chapter, twin, old) -> bool:
    """Give `twin` the outputs of an older notebook if they still belong to its code; returns whether."""
    run = old.metadata.get("nbpkg", {})
    same = code_sha256(old) == code_sha256(twin) or moved.covers(chapter.name, run)
    if same:
        with_outputs(twin, old, only_moved=True)
        if run:
            twin.metadata["nbpkg"] = run
    return same


def _write_twin(chapter: Chapter, notebook) -> None:
    import jupytext

    plain = from_twin(chapter)
    plain.cells = notebook.cells
    cells, book = f"{','.join(KEPT)},-all", "kernelspec,jupytext,-all"
    filters = {"cell_metadata_filter": cells, "notebook_metadata_filter": book}
    plain.metadata = {"kernelspec": KERNELSPEC, "jupytext": filters}
    write_text(chapter.twin, jupytext.writes(plain, fmt="py:percent"))
