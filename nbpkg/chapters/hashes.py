"""What a run was made of: hashes of a chapter's code and of the package."""

import ast
import hashlib
from fnmatch import fnmatch

from nbpkg.chapters.twin import cells
from nbpkg.paths import package

# Modules that no number passes through: a change in them leaves every finished run valid.
TOOLING = (
    *("apps/*", "book/*", "cli/*", "runner/*", "progress.py", "report/tables.py"),
    *("measure/backends.py", "measure/isolation.py", "measure/latency.py", "measure/onnx_export.py"),
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


def imported(name: str) -> list[str]:
    """The package's files that the code of chapter `name` imports, itself or through others, sorted."""
    texts = ["\n".join(cell.source for cell in cells(name) if cell.kind == "code")]
    found: set[str] = set()
    while texts:
        for node in ast.walk(ast.parse(texts.pop())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for parts in (module.split(".") for module in names if module.partition(".")[0] == "nbpkg"):
                # A package's own file is executed with each of its parts.
                for place in [f"{'/'.join(parts[1:end])}" for end in range(1, len(parts) + 1)]:
                    for file in (f"{place}.py", f"{place}/__init__.py".lstrip("/")):
                        if file not in found and (package() / file).is_file():
                            found.add(file)
                            texts.append((package() / file).read_text(encoding="utf-8"))
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
