"""The list of chapters, from `chapters.toml`."""

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path

from nbpkg.errors import NbpkgError
from nbpkg.paths import package, root

PROFILES = ("smoke", "standard", "paper")


@dataclass(frozen=True)
class Chapter:
    """One chapter of the book, written or still to come."""

    name: str
    title: str
    part: str
    paper: str = ""  # its title, like authors and venue empty where a chapter has none
    authors: str = ""
    venue: str = ""
    edition: int = 1  # the second has claims in a file and a budget
    on_cpu: str = ""  # why pieces of a run on a GPU may be computed beside it; empty: they may not

    @property
    def number(self) -> str:
        return self.name.split("_", 1)[0]

    @property
    def evidence(self) -> bool:
        """Whether it is the second notebook of the chapter before it in the list."""
        return self.name.endswith("_evidence")

    @property
    def twin(self) -> Path:
        """The py:percent text that people edit."""
        return root() / "notebooks" / "src" / f"{self.name}.py"

    @property
    def notebook(self) -> Path:
        """The paired notebook that carries the published outputs."""
        return root() / "notebooks" / f"{self.name}.ipynb"

    @property
    def claims(self) -> Path:
        """What it claims before it is run; chapters of the first edition have no such file."""
        return root() / "notebooks" / "claims" / f"{self.name}.toml"

    @property
    def exists(self) -> bool:
        return self.twin.is_file()


_ENTRIES = tomllib.loads((package() / "chapters" / "chapters.toml").read_text(encoding="utf-8"))
# An evidence notebook is of its chapter's part, paper and edition.
CHAPTERS = [
    Chapter(name, **_ENTRIES.get(name.removesuffix("_evidence"), {}) | entry)
    for name, entry in _ENTRIES.items()
]


def get(name: str) -> Chapter:
    """The chapter by its name, or either part of it (3 is 03). NbpkgError names what there is, or is near."""
    wanted = str(name).lower().removesuffix(".py").removesuffix(".ipynb").strip("/").rpartition("/")[2]
    wanted = f"{int(wanted):02d}" if wanted.isascii() and wanted.isdecimal() else wanted
    names = {called: one for one in reversed(CHAPTERS) for called in (one.name, one.number, one.name[3:])}
    if wanted in names:
        return names[wanted]
    meant = "".join(f"did you mean {near}? " for near in difflib.get_close_matches(wanted, names, 1))
    meant += "the chapters are " + ", ".join(chapter.name for chapter in CHAPTERS)
    raise NbpkgError(f"no chapter is called {name!r}; {meant}")


def existing() -> list[Chapter]:
    """The chapters whose twin is on disk, in the book's order."""
    return [chapter for chapter in CHAPTERS if chapter.exists]
