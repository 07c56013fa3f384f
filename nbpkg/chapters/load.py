"""A chapter's method as a module: the very code that its reader sees."""

import linecache
import sys
import types
from pathlib import Path

from nbpkg.chapters.catalogue import get
from nbpkg.chapters.hashes import hash_sources
from nbpkg.chapters.twin import Cell, cells

LOADED = {"imports", "method"}
_loaded: dict[Path, types.ModuleType] = {}


class _Method(types.ModuleType):
    """The method of a chapter; a process that is sent it loads it there."""

    def __reduce__(self) -> tuple:
        return load, (self.__chapter__,)


def load(name: str) -> types.ModuleType:
    """The imports and the method of chapter `name` as a module: the very code that its reader sees.

    Loading again is free until those cells change.
    Raises NbpkgError when the chapter is not written yet; an error inside a cell comes with the twin's line.
    """
    chapter = get(name)
    wanted = [cell for cell in cells(name) if cell.kind == "code" and LOADED & set(cell.tags)]
    digest = hash_sources([cell.source for cell in wanted])
    module = _loaded.get(chapter.twin)
    if module is not None and module.__source_sha256__ == digest:
        return module
    module = _Method(f"nbpkg_chapter_{chapter.name}", f"The method of chapter {chapter.name}.")
    module.__chapter__ = chapter.name
    module.__source_sha256__ = digest
    module.__file__ = register(chapter.name, wanted, digest)
    previous = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module  # dataclasses and pickle look their module up by name
    try:
        for cell in wanted:
            execute(cell, module)
    except BaseException:
        sys.modules.pop(module.__name__)
        if previous is not None:
            sys.modules[module.__name__] = previous
        raise
    _loaded[chapter.twin] = module
    return module


def register(name: str, wanted: list[Cell], digest: str) -> str:
    """Make the source of `wanted` cells known to tracebacks and `inspect`; returns the file name they go by.

    Lines keep their numbers of the twin. The name holds the hash: a later edit is not mistaken for what ran.
    """
    filename = f"<notebooks/src/{name}.py {digest[:12]}>"
    lines: list[str] = []
    for cell in wanted:
        lines += [""] * (cell.line - 1 - len(lines)) + cell.source.split("\n")
    text = "\n".join(lines) + "\n"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    return filename


def execute(cell: Cell, module: types.ModuleType) -> None:
    """Execute one code cell in `module`, whose `__file__` came from `register`."""
    exec(compile("\n" * (cell.line - 1) + cell.source, module.__file__, "exec"), module.__dict__)
