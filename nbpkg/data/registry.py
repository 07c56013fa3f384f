"""What public data the book knows: names, addresses, licences and checksums, read from `registry.toml`.

Standard library only, so that it can be imported anywhere at no cost.
"""

import hashlib
import re
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath

from nbpkg.errors import NbpkgError

REGISTRY = Path(__file__).with_name("registry.toml")
#: The folder, beside the sets' own, that holds sources of derived sets while they are needed.
SOURCES = ".sources"

#: `public`: every file has an address. `derived`: a recipe makes the files from sources that have addresses.
KINDS = ("public", "derived")


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
            table.get("note", ""), files, table.get("checksums", ""), local,
            table["recipe"] if kind == "derived" else "", _ways(name, table) if kind == "derived" else (),
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise NbpkgError(f"data registry: set {name} is incomplete ({error!r})") from error
    if kind not in KINDS:
        raise NbpkgError(f"data registry: set {name} is of kind {kind!r}; known kinds: {', '.join(KINDS)}")
    return result


def _ways(name: str, table: dict) -> tuple[tuple[DataFile, ...], ...]:
    """The sources, which lie in a folder of their own while the recipe reads them, by their `way`."""
    ways: dict[str, list[DataFile]] = {}
    for entry in table["sources"]:
        first, *others = entry["urls"]
        file = _file(name, "", f"{SOURCES}/{name}/", entry["name"], {"sha256": "0" * 64} | entry)
        file = replace(file, url=first, others=tuple(others), sha256=entry.get("sha256", ""))
        ways.setdefault(entry.get("way", ""), []).append(file)
    return tuple(map(tuple, ways.values()))


def _file(name: str, base: str | None, local: str, relative: str, entry: dict) -> DataFile:
    path = local + relative
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or str(pure) != path or "\\" in path or ":" in path:
        raise NbpkgError(f"data registry: set {name} names a path outside the data folder: {path}")
    sha256, size = entry["sha256"], entry["size"]
    if not re.fullmatch("[0-9a-f]{64}", sha256) or type(size) is not int or size <= 0:
        raise NbpkgError(f"data registry: {path} has no valid sha256 and size")
    return DataFile(path, base + relative if base else None, sha256, size, entry.get("values", ""))


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
