"""The floor plan in CONTRIBUTING.md, drawn from the contract in pyproject.toml: `python tests/floors.py`."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "CONTRIBUTING.md"
START, END = "<!-- floors:start -->", "<!-- floors:end -->"


def layers() -> list[list[str]]:
    """The rooms of each floor, the top one first, as the contract has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = project["tool"]["importlinter"]["contracts"]
    return [[room.strip() for room in layer.split("|")] for layer in contract["layers"]]


def purpose(room: str) -> str:
    """The first sentence of a room's own docstring."""
    home = ROOT / "nbpkg" / room
    path = home / "__init__.py" if home.is_dir() else home.with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def plan() -> str:
    """The plan as a Markdown table."""
    rows = ["| Floor | Room | What it is for |", "|--:|---|---|"]
    floors = layers()
    for number, rooms in enumerate(floors):
        for room in rooms:
            name = f"`{room}/`" if (ROOT / "nbpkg" / room).is_dir() else f"`{room}.py`"
            rows.append(f"| {len(floors) - number - 1} | {name} | {purpose(room)} |")
    return "\n".join(rows)


def drawn(text: str) -> str:
    """The page's `text` with the plan as the contract has it."""
    before, rest = text.split(START)
    return f"{before}{START}\n\n{plan()}\n\n{END}{rest.split(END)[1]}"


def main() -> int:
    """Bring the page up to the contract."""
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
