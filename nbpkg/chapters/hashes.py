"""What a run was made of: hashes of a chapter's code and of the package."""

import hashlib
from fnmatch import fnmatch

from nbpkg.chapters.twin import cells
from nbpkg.paths import package

# Modules that no number passes through: a change in them leaves every finished run valid.
TOOLING = (
    *("apps/*", "book/*", "cli/*", "runner/*", "progress.py", "report/tables.py"),
    *("measure/backends.py", "measure/latency.py"),
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


def package_sha256() -> str:
    """The hash of `hashed_files`, names and contents."""
    digest = hashlib.sha256()
    for name in hashed_files():
        digest.update(name.encode() + b"\0" + hashlib.sha256((package() / name).read_bytes()).digest())
    return digest.hexdigest()
