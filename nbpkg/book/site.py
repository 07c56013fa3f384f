"""Stages the book's pages and notebooks, which keeps the repository clean, and builds the site of them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from nbpkg import paths
from nbpkg.errors import NbpkgError

ADDRESS = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+")
#: The branch that holds the stamped notebooks which Colab opens; the publish workflow writes it.
COLAB_BRANCH = "colab"
_NO_BOOK = "Jupyter Book is not installed: install nbpkg with its extra `book`, or use `make book`"
_STAMP = re.compile(r'^(\s*REPOSITORY\s*=\s*)""', re.MULTILINE)


def repository() -> str:
    """The address in `$NBPKG_REPOSITORY`, or "". Raises NbpkgError if not https://github.com/owner/name."""
    address = os.environ.get("NBPKG_REPOSITORY", "").strip().removesuffix("/").removesuffix(".git")
    if address and not ADDRESS.fullmatch(address):
        raise NbpkgError(f"NBPKG_REPOSITORY={address!r} is not an address like https://github.com/owner/name")
    return address


def build(
    source: str = "published", strict: bool = False, profile: str = "smoke", out: str | Path | None = None
) -> Path:
    """Build the site and return the folder that holds its `index.html`.

    `source` is "published" (outputs stored in `notebooks/`) or "run" (outputs under `runs/<profile>/`, with
    the published ones for chapters that have no run). `strict` turns every warning into a failure. `out` is
    the folder to write, by default `_build/html` or `_build/html-run`; only a successful build replaces it.

    Raises NbpkgError when a notebook is missing, Jupyter Book is not installed or the build fails.
    """
    usual = {"published": "html", "run": "html-run"}
    if source not in usual:
        raise NbpkgError(f"no site source is called {source!r}; there are: {', '.join(usual)}")
    root = paths.root()
    work = root / "_build" / "site" / source
    target = Path(out).resolve() if out else root / "_build" / usual[source]
    stage(root, work / "src", source, profile)
    _replace(_jupyter_book(root, work, strict), target)
    index = target / "index.html"
    print(f"site: {paths.shown(index)}", f"open: {index.as_uri()}", sep="\n", flush=True)
    return target


def stage(root: Path, folder: Path, source: str = "published", profile: str = "smoke") -> None:
    """Make `folder` hold exactly what the site is built from."""
    files: dict[str, bytes] = {}
    for path in [root / "_toc.yml", *sorted((root / "book").rglob("*"))]:
        if path.is_file() and "__pycache__" not in path.parts:
            files[path.relative_to(root).as_posix()] = path.read_bytes()
    address = repository()
    for name in toc_chapters(root):
        twin = root / "notebooks" / "src" / f"{name}.py"
        if twin.is_file():
            files[f"notebooks/src/{name}.py"] = stamp_text(twin.read_text("utf-8"), address).encode()
        files[f"notebooks/{name}.ipynb"] = _notebook(root, name, source, profile, address)
    files["_config.yml"] = _config(root, source, profile, address)
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        _write(folder / name, content)


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _yaml():
    try:
        import yaml
    except ImportError:
        raise NbpkgError(_NO_BOOK) from None
    return yaml


def toc_parts(root: Path) -> dict[str, list[str]]:
    """The files that `_toc.yml` names by the captions of its parts, chapters before their sections."""
    toc = _yaml().safe_load((root / "_toc.yml").read_text("utf-8"))
    return {
        part["caption"]: [
            entry["file"] for chapter in part["chapters"] for entry in [chapter, *chapter.get("sections", [])]
        ]
        for part in toc.get("parts", [])
    }


def toc_chapters(root: Path) -> list[str]:
    """The names of the chapters in `_toc.yml`, as in `03_help`, in its order."""
    files = [file for part in toc_parts(root).values() for file in part]
    return [name.split("/", 1)[1] for name in files if name.startswith("notebooks/")]


def _notebook(root: Path, name: str, source: str, profile: str, address: str) -> bytes:
    path, run = root / "notebooks" / f"{name}.ipynb", root / "runs" / profile / f"{name}.ipynb"
    if source == "run" and run.is_file():
        path = run
    elif source == "run":
        print(f"site: {name} has no run at profile {profile}; its published outputs are shown", flush=True)
    if not path.is_file():
        raise NbpkgError(f"notebooks/{name}.ipynb is missing: run the chapter, then `nbpkg publish {name}`")
    try:
        notebook = json.loads(path.read_text("utf-8"))
    except ValueError:
        raise NbpkgError(f"{paths.relative(path)} is not a notebook: its JSON is broken") from None
    for cell in notebook.get("cells", []):
        if "install" in cell.get("metadata", {}).get("tags", []):
            cell["source"] = stamp_text("".join(cell["source"]), address)
    return (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()


def _config(root: Path, source: str, profile: str, address: str) -> bytes:
    """`_config.yml`, completed with what only this build knows."""
    yaml = _yaml()
    config = yaml.safe_load((root / "_config.yml").read_text("utf-8"))
    if address:
        config["repository"] = {"url": address, "branch": "main", "path_to_book": ""}
        config["html"] |= {"use_repository_button": True, "use_issues_button": True}
        name = address.removeprefix("https://github.com/")
        colab = f"https://colab.research.google.com/github/{name}/blob/{COLAB_BRANCH}/"
        config["sphinx"]["config"]["nbpkg_colab"] = colab
    if source == "run":
        where = f"a run at profile {profile} on this machine, not from the published runs"
        config["html"]["announcement"] = f"Outputs on these pages come from {where}."
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()


def stamp_text(text: str, address: str) -> str:
    """The source of an install cell with `REPOSITORY = ""` filled in; unchanged without an address."""
    return _STAMP.sub(lambda match: f'{match[1]}"{address}"', text, count=1) if address else text


def stamp(folder: str | Path) -> list[Path]:
    """Write stamped notebooks to `folder/notebooks`. Raises NbpkgError for no address or no place for it."""
    root, address = paths.root(), repository()
    if not address:
        raise NbpkgError("set NBPKG_REPOSITORY=https://github.com/owner/name to stamp the notebooks")
    written = []
    for name in toc_chapters(root):
        content = _notebook(root, name, "published", "", address)
        if address.encode() not in content:
            raise NbpkgError(f'notebooks/{name}.ipynb: no cell tagged install holds REPOSITORY = ""')
        written.append(_write(Path(folder) / "notebooks" / f"{name}.ipynb", content))
    return written


def _jupyter_book(root: Path, work: Path, strict: bool) -> Path:
    # Jupyter Book 1 has no `python -m`; a console script found by name may belong to another environment.
    start = f"from nbpkg.parallel import leave_with_parent as leave; leave({os.getpid()}); "
    start += "from jupyter_book.cli.main import main; main()"
    # All pages: Sphinx goes by the clock, and leaves an old title in the side bars of pages that stayed.
    command = [sys.executable, "-c", start, "build", str(work / "src"), "--path-output", str(work)]
    command += ["-q", "--all", *["-W", "-n", "--keep-going"] * strict]
    # The staged copy looks like a repository of the book: the real one must win.
    env = os.environ | {"NBPKG_ROOT": str(root), "PYTHONWARNINGS": "ignore", "NO_COLOR": "1"}
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, errors="replace")
    output = done.stdout + done.stderr
    if "No module named 'jupyter_book'" in output:
        raise NbpkgError(_NO_BOOK)
    problems = [line for line in output.splitlines() if re.search(r"\b(WARNING|ERROR|CRITICAL):", line)]
    html = work / "_build" / "html"
    failed = done.returncode != 0 or not (html / "index.html").is_file()
    if problems or failed:
        print("\n".join(problems) or output[-4000:], file=sys.stderr, flush=True)
    if failed:
        raise NbpkgError(f"the site was not built: {len(problems)} problems, listed above")
    return html


def _replace(html: Path, target: Path) -> None:
    """Copy the built site to `target`; an interrupted copy never stands in its place."""
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(html, fresh, ignore=shutil.ignore_patterns(".buildinfo", "*.inv.tmp"))
    if target.exists():
        if not (target / "index.html").is_file() and any(target.iterdir()):
            shutil.rmtree(fresh)
            raise NbpkgError(f"{target.name} holds something else than a site: choose an empty folder")
        shutil.rmtree(target)
    fresh.rename(target)
