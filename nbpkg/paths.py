"""Where the project and its cache lie."""

import contextlib
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nbpkg.errors import NbpkgError


def _is_root(folder: Path) -> bool:
    return (folder / "_toc.yml").is_file() and (folder / "notebooks" / "src").is_dir()


def root() -> Path:
    """The repository's root, absolute.

    `$NBPKG_ROOT` when set; else the working directory or its nearest parent that holds `_toc.yml` and
    `notebooks/src`; else the parent of the installed package when it holds them (an editable installation).

    Raises NbpkgError when there is none: an installed package works without a repository, but not every
    command does.
    """
    given = os.environ.get("NBPKG_ROOT")
    if given:
        folder = Path(given).expanduser().resolve()
        if not _is_root(folder):
            raise NbpkgError(
                f"NBPKG_ROOT={given} is not the book's repository: it holds no _toc.yml with notebooks/src"
            )
        return folder
    here = Path.cwd().resolve()
    for folder in (here, *here.parents, package().parent):
        if _is_root(folder):
            return folder
    raise NbpkgError("no repository of the book around this folder: change into it or set NBPKG_ROOT")


def package() -> Path:
    """The folder of the installed package, absolute: hashes and memo keys name its files relative to it."""
    return Path(__file__).resolve().parent


def git(*arguments: str) -> str | None:
    """What git prints in the repository; None where it fails, or where there is no git or no repository."""
    try:
        home = root()
        if not (home / ".git").exists():
            return None
        command = ["git", "-C", str(home), *arguments]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=30)
    except (OSError, NbpkgError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def embedded(name: str) -> Path:
    """Where a table called `name` that is shipped with the package lies; it need not exist."""
    return package() / "data" / "embedded" / name


def _sums() -> dict[str, str]:
    lines = embedded("SHA256SUMS").read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def intact(path: str | Path) -> Path:
    """`path`; NbpkgError if it lies among the shipped tables and is not the file that was shipped."""
    path = Path(path)
    shipped = path.is_file() and path.resolve().parent == embedded("")
    if shipped and hashlib.sha256(path.read_bytes()).hexdigest() != _sums().get(path.name):
        raise NbpkgError(f"{path.name}: its checksum is not the shipped file's; install nbpkg again")
    return path


def adopted(path: Path) -> None:
    """Puts a file that was just written among the shipped tables on their list of checksums."""
    sums = _sums() | {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    write_text(embedded("SHA256SUMS"), "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))


def cache_dir() -> Path:
    """The folder for downloads and memo pieces, absolute: `$NBPKG_CACHE`, else the user's cache folder.

    It need not exist.
    """
    given = os.environ.get("NBPKG_CACHE")
    if given:
        return Path(given).expanduser().resolve()
    import platformdirs

    return Path(platformdirs.user_cache_dir("nbpkg"))


def relative(path: str | Path) -> str:
    """`path` relative to the root with forward slashes, or its last part when it lies elsewhere.

    What is printed into notebooks and records goes through here, so that no machine's folders are published.
    """
    path = Path(path).resolve()
    try:
        return path.relative_to(root()).as_posix()
    except (NbpkgError, ValueError):
        return path.name


def shown(path: str | Path) -> str:
    """`path` as it can be pasted into a command here: relative to the working directory, if it lies in it."""
    path = Path(path).resolve()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to, which takes its place when the block ends well.

    Whoever reads meets the old file or the whole new one; after an error nothing is left. Missing folders are
    made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict:
    """The object in a JSON file; empty when the file is absent or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
