"""What a run was made of: hashes of a chapter's code and of the package."""

import ast
import hashlib
from fnmatch import fnmatch
from functools import cache

from nbpkg.chapters.twin import cells
from nbpkg.paths import package

# Modules that no number passes through: a change in them leaves every finished run valid.
TOOLING = (
    *("apps/*", "book/*", "cli/*", "runner/*", "progress.py", "report/tables.py"),
    "data/embedded/SHA256SUMS",
    *("measure/backends.py", "measure/latency.py", "measure/settings.toml"),
    *("data/embedded/metad2a.safetensors", "data/embedded/tans.safetensors"),
)
# Cells that no number of a run passes through.
ASIDE = {"install", "exercise", "solution"}


def hash_sources(sources: list[str]) -> str:
    """SHA-256 over the sources of code cells in order; white space around a source does not count."""
    digest = hashlib.sha256()
    for source in sources:
        data = source.strip().encode()
        digest.update(f"{len(data)}\n".encode() + data)
    return digest.hexdigest()


def code_sha256(name: str) -> str:
    """The hash of the code cells of chapter `name` that its numbers depend on: no prose, no exercises."""
    return hash_sources([c.source for c in cells(name) if c.kind == "code" and not ASIDE & set(c.tags)])


def hashed_files() -> list[str]:
    """The package's files that a chapter's numbers can depend on, relative to its folder, sorted."""
    names = [path.relative_to(package()).as_posix() for path in package().rglob("*") if path.is_file()]
    left_out = (*TOOLING, "*__pycache__*", ".*", "*/.*")
    return [name for name in sorted(names) if not any(fnmatch(name, pattern) for pattern in left_out)]


@cache
def _modules_in(code: str) -> frozenset[str]:
    """The files of nbpkg that a source imports, with those of the packages that hold them."""
    names = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    found = set()
    for _, *parts in (name.split(".") for name in names if name.partition(".")[0] == "nbpkg"):
        places = ["/".join(parts[:end]) for end in range(len(parts) + 1)]
        found |= {file for place in places for file in (f"{place}.py", f"{place}/__init__.py".lstrip("/"))}
    return frozenset(file for file in found if (package() / file).is_file())


def imported(name: str) -> list[str]:
    """The package's files that the code of chapter `name` imports, itself or through others, sorted."""
    new = _modules_in("\n".join(cell.source for cell in cells(name) if cell.kind == "code"))
    found = set(new)
    while new:
        new = {file for of in new for file in _modules_in((package() / of).read_text("utf-8"))} - found
        found |= new
    return sorted(found)


def modules(name: str) -> dict[str, str]:
    """Hashes, 16 digits, of the files that numbers of chapter `name` can depend on: its imports, and data."""
    reached = set(imported(name))
    names = [file for file in hashed_files() if file in reached or not file.endswith(".py")]
    return {file: hashlib.sha256((package() / file).read_bytes()).hexdigest()[:16] for file in names}


def package_sha256() -> str:
    """The hash of `hashed_files`, names and contents."""
    digest = hashlib.sha256()
    for name in hashed_files():
        digest.update(name.encode() + b"\0" + hashlib.sha256((package() / name).read_bytes()).digest())
    return digest.hexdigest()
