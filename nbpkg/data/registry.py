"""What public data the book knows: names, addresses, licences and checksums, read from `registry.toml`.

Standard library only, so that it can be imported anywhere at no cost.
"""

import hashlib
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nbpkg.errors import NbpkgError

REGISTRY = Path(__file__).with_name("registry.toml")
#: The folder, beside the sets' own, that holds sources of derived sets while they are needed.
SOURCES = ".sources"


@dataclass(frozen=True)
class DataFile:
    """One file: local `path` (with slashes), `url` (None if derived), `sha256` (hex), `size` in bytes.

    values: of a derived file the digest of its values, which must be right where its bytes are others; ""
    where the bytes are pinned. others: further addresses, in order of preference. A source whose host
    packs it anew on demand has an empty `sha256`, and its size is only about right.
    """

    path: str
    url: str | None
    sha256: str
    size: int
    values: str = ""
    others: tuple[str, ...] = ()

    @property
    def urls(self) -> tuple[str, ...]:
        """Every address, in order of preference."""
        return (self.url, *self.others) if self.url else ()


@dataclass(frozen=True)
class DataSet:
    """A named set of files that share a source and a licence.

    kind: "public", every file has an address, or "derived", a recipe makes the files from sources that have.
    checksums: who published the sizes and checksums, when they were not computed from files at hand; else "".
    local: the folder of the files, which their paths begin with. recipe: what makes a derived set's files of
    its sources ("module.function" in `nbpkg.data.recipes`). ways: complete lists of sources, in the order in
    which they are tried.
    """

    name: str
    kind: str
    title: str
    licence: str
    licence_url: str | None
    source: str
    note: str
    files: tuple[DataFile, ...]
    checksums: str = ""
    local: str = ""
    recipe: str = ""
    ways: tuple[tuple[DataFile, ...], ...] = ()

    @property
    def size(self) -> int:
        """Size of all files together, in bytes."""
        return sum(file.size for file in self.files)

    @property
    def digest(self) -> str:
        """`sha256:<hex>` over the files' names and checksums: says which data a result was made with."""
        lines = sorted(f"{file.path} {file.sha256}\n" for file in self.files)
        return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


@cache
def load(path: str | Path = REGISTRY) -> dict[str, DataSet]:
    """The registry as a dictionary from set name to `DataSet`, in the order of the file.

    What an entry may say is for the tests to check: the file is a part of the package.
    """
    tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    return {name: _set(name, table) for name, table in tables.items()}


def _set(name: str, table: dict) -> DataSet:
    fields = {"licence_url": None, "note": ""} | table
    base, files, sources = (fields.pop(key, None) for key in ("base", "files", "sources"))
    registered = tuple(
        DataFile(table["local"] + path, base and base + path, **entry) for path, entry in files.items()
    )
    # The sources, which lie in a folder of their own while the recipe reads them, by their `way`.
    ways: dict[str, list[DataFile]] = {}
    for entry in sources or ():
        path, (first, *others) = f"{SOURCES}/{name}/{entry['name']}", entry["urls"]
        source = DataFile(path, first, entry.get("sha256", ""), entry["size"], others=tuple(others))
        ways.setdefault(entry.get("way", ""), []).append(source)
    return DataSet(name, files=registered, ways=tuple(map(tuple, ways.values())), **fields)


def get(name: str) -> DataSet:
    """The set called `name`; NbpkgError listing the known names otherwise."""
    sets = load()
    if name not in sets:
        raise NbpkgError(f"no data set is called {name!r}; known: {', '.join(sets)}")
    return sets[name]


def find(path: str) -> tuple[DataSet, DataFile]:
    """The set and the file at local `path`, as in "help/fbnet/arch.pt"; NbpkgError if not registered."""
    for dataset in load().values():
        for file in dataset.files:
            if file.path == path:
                return dataset, file
    raise NbpkgError(f"{path}: no file of this name is in the data registry; `nbpkg data list` shows what is")
