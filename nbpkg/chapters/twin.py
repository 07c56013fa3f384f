"""The cells of a chapter, from its py:percent twin `notebooks/src/NN_name.py`, the text that people edit.

It is read here with a small parser, so that a machine without Jupyter can still run a chapter or load its
method.
"""

import ast
import json
import re
from dataclasses import dataclass, field

from nbpkg.chapters.catalogue import Chapter, get
from nbpkg.errors import NbpkgError

PARAMETERS = ("PROFILE", "SEEDS", "DEVICE")


@dataclass(frozen=True)
class Cell:
    """One cell of a twin. `line` counts from 1 and is where the source starts in the twin."""

    kind: str  # "code" or "markdown" or "raw"
    source: str
    tags: tuple[str, ...] = ()
    metadata: dict = field(default_factory=dict, hash=False)
    line: int = 1


_MARKER = re.compile(r"^# %%(?P<rest>(?:[ \t].*)?)$")
_KIND = re.compile(r"\[(markdown|md|raw)\]\s*")
_KEY = re.compile(r"(?:^|\s)([A-Za-z_][\w.-]*)=")


def parse(text: str, where: str = "the twin") -> list[Cell]:
    """The cells of a py:percent text. Raises NbpkgError, with the line, for metadata not `key=JSON`."""
    lines = text.splitlines()
    # The header of YAML stands in comments between two `# ---`.
    fences = [index for index, line in enumerate(lines) if line.rstrip() == "# ---"]
    start = fences[1] + 1 if fences[:1] == [0] and len(fences) > 1 else 0
    marks = [index for index in range(start, len(lines)) if _MARKER.match(lines[index])]
    if any(line.strip() for line in lines[start : marks[0] if marks else len(lines)]):
        raise NbpkgError(f"{where}: text stands before the first cell marker '# %%'")
    cells = []
    for mark, end in zip(marks, [*marks[1:], len(lines)], strict=bool(marks)):
        rest = _MARKER.match(lines[mark])["rest"].strip()
        kind = _KIND.search(rest)
        metadata = _metadata(rest, f"{where}, line {mark + 1}")
        filled = [index for index in range(mark + 1, end) if lines[index].strip()]
        first = filled[0] if filled else end
        body = lines[first : filled[-1] + 1] if filled else []
        name = {"md": "markdown"}.get(kind[1], kind[1]) if kind else "code"
        if name != "code":
            body = [re.sub(r"^# ?", "", line) for line in body]
        cells.append(Cell(name, "\n".join(body), tuple(metadata.get("tags", ())), metadata, first + 1))
    return cells


def _metadata(rest: str, where: str) -> dict:
    found, position, decoder = {}, 0, json.JSONDecoder()
    while match := _KEY.search(rest, position):
        try:
            found[match[1]], position = decoder.raw_decode(rest, match.end())
        except ValueError:
            raise NbpkgError(f"{where}: the value of {match[1]} in the cell marker is not JSON") from None
    return found


def cells(name: str) -> list[Cell]:
    """The cells of chapter `name`, from its twin. Raises NbpkgError when the chapter is not written yet."""
    chapter = get(name)
    where = f"notebooks/src/{chapter.name}.py"
    if not chapter.exists:
        raise NbpkgError(f"chapter {chapter.name} is not written yet: there is no {where}")
    return parse(chapter.twin.read_text(encoding="utf-8"), where)


def check_parameters(chapter: Chapter) -> None:
    """Raises NbpkgError unless one parameters cell of the chapter sets exactly PROFILE, SEEDS and DEVICE.

    papermill only warns of a parameter that the notebook does not know; the chapter would run with its own.
    """
    found = [cell for cell in cells(chapter.name) if "parameters" in cell.tags]
    if len(found) != 1:
        raise NbpkgError(f"{chapter.name}: there must be one cell tagged parameters, not {len(found)}")
    names = []
    for statement in ast.parse(found[0].source).body:
        if not isinstance(statement, ast.Assign):
            raise NbpkgError(f"{chapter.name}: the parameters cell may only set parameters")
        names += [target.id for target in statement.targets if isinstance(target, ast.Name)]
    if sorted(names) != sorted(PARAMETERS):
        known, set_ = ", ".join(PARAMETERS), ", ".join(names) or "nothing"
        raise NbpkgError(f"{chapter.name}: the parameters cell must set {known}, not {set_}")
