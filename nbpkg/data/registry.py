"""What public data the book knows: names, addresses, licences and checksums, read from `registry.toml`.

Standard library only, so that it can be imported anywhere at no cost.
"""

import hashlib
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from nbpkg.errors import NbpkgError

REGISTRY = Path(__file__).with_name("registry.toml")

#: `public`: every file has an address. `prepared`: joined from public sources, without an address of its own.
KINDS = ("public", "prepared")


@dataclass(frozen=True)
class DataFile:
    """One file: local `path` (with slashes), `url` (None if prepared), `sha256` (hex), `size` in bytes."""

    path: str
    url: str | None
    sha256: str
    size: int


@dataclass(frozen=True)
class DataSet:
    """A named set of files that share a source and a licence.

    checksums: who published the sizes and checksums, when they were not computed from files at hand; else "".
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

    Raises NbpkgError when an entry is incomplete, a checksum is no SHA-256, a path leaves the data folder, or
    two sets claim the same local path.
    """
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise NbpkgError(f"{Path(path).name}: the data registry cannot be read ({error})") from error
    sets, owners = {}, {}
    for name, table in tables.items():
        sets[name] = _set(name, table)
        for file in sets[name].files:
            if owners.setdefault(file.path, name) != name:
                raise NbpkgError(f"data registry: {file.path} belongs to both {owners[file.path]} and {name}")
    return sets


def _set(name: str, table: dict) -> DataSet:
    try:
        kind, local = table["kind"], table["local"]
        base = table["base"] if kind == "public" else None
        files = tuple(_file(name, base, local, *item) for item in table["files"].items())
        result = DataSet(
            name, kind, table["title"], table["licence"], table.get("licence_url"), table["source"],
            table.get("note", ""), files, table.get("checksums", ""),
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise NbpkgError(f"data registry: set {name} is incomplete ({error!r})") from error
    if kind not in KINDS:
        raise NbpkgError(f"data registry: set {name} is of kind {kind!r}; known kinds: {', '.join(KINDS)}")
    return result


def _file(name: str, base: str | None, local: str, relative: str, entry: dict) -> DataFile:
    path = local + relative
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or str(pure) != path or "\\" in path or ":" in path:
        raise NbpkgError(f"data registry: set {name} names a path outside the data folder: {path}")
    sha256, size = entry["sha256"], entry["size"]
    if not re.fullmatch("[0-9a-f]{64}", sha256) or type(size) is not int or size <= 0:
        raise NbpkgError(f"data registry: {path} has no valid sha256 and size")
    return DataFile(path, base + relative if base else None, sha256, size)


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
