"""The list of chapters, the cells of a chapter, and the chapter's method as a module.

The text that people edit is the py:percent twin `notebooks/src/NN_name.py`.
It is read here with a small parser of its own, so that a machine without Jupyter can still run a chapter
or load its method.
"""

from __future__ import annotations

import hashlib
import json
import linecache
import re
import sys
import types
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from nbpkg.errors import NbpkgError
from nbpkg.paths import package, root
from nbpkg.record import PROFILES  # noqa: F401  (part of what a run is named by)

DEVICES = ("auto", "cpu", "cuda")
PARAMETERS = ("PROFILE", "SEEDS", "DEVICE")
LOADED = {"imports", "method"}
# Modules that no number passes through: a change in them leaves every finished run valid.
TOOLING = (
    *("check*.py", "cli*.py", "hygiene.py", "moved.py", "notebook.py", "publish.py", "runner*.py"),
    *("scoreboard.py", "site*.py", "sphinx_ext.py", "synthesis.py", "teaching.py"),
    *("data/measure*.py", "data/onnx_export.py", "data/pin.py"),
    *("search.py", "data/embedded/metad2a.safetensors", "retrieve.py", "data/embedded/tans.safetensors"),
)


@dataclass(frozen=True)
class Chapter:
    """One chapter of the book, written or still to come."""

    name: str
    title: str
    paper: str
    part: str
    authors: str
    venue: str

    @property
    def number(self) -> str:
        return self.name.split("_", 1)[0]

    @property
    def twin(self) -> Path:
        """The py:percent text that people edit."""
        return root() / "notebooks" / "src" / f"{self.name}.py"

    @property
    def notebook(self) -> Path:
        """The paired notebook that carries the published outputs."""
        return root() / "notebooks" / f"{self.name}.ipynb"

    @property
    def exists(self) -> bool:
        return self.twin.is_file()


_SEARCH, _REUSE, _DISTIL = "I Search", "II Reuse", "III Distil"

CHAPTERS: list[Chapter] = [
    Chapter("00_foundations", "Foundations", "", "Foundations", "", ""),
    Chapter(
        "01_supernets", "Supernets",
        "A Survey of Supernet Optimization and its Applications: Spatial and Temporal Optimization for "
        "Neural Architecture Search",
        _SEARCH, "Cha et al.", "arXiv 2022",
    ),
    Chapter(
        "02_metad2a", "MetaD2A",
        "Rapid Neural Architecture Search by Learning to Generate Graphs from Datasets",
        _SEARCH, "Lee et al.", "ICLR 2021",
    ),
    Chapter(
        "03_help", "HELP",
        "HELP: Hardware-Adaptive Efficient Latency Prediction for NAS via Meta-Learning",
        _SEARCH, "Lee et al.", "NeurIPS 2021",
    ),
    Chapter(
        "04_diffusionnag", "DiffusionNAG",
        "DiffusionNAG: Predictor-guided Neural Architecture Generation with Diffusion Models",
        _SEARCH, "An et al.", "ICLR 2024",
    ),
    Chapter(
        "05_tans", "TANS",
        "Task-Adaptive Neural Network Search with Meta-Contrastive Learning",
        _REUSE, "Jeong et al.", "NeurIPS 2021",
    ),
    Chapter(
        "06_weight_generation", "Weight generation",
        "Diffusion-based Neural Network Weights Generation",
        _REUSE, "Soro et al.", "arXiv 2024, ICLR 2025",
    ),
    Chapter(
        "07_hyperdistill", "HyperDistill",
        "Online Hyperparameter Meta-Learning with Hypergradient Distillation",
        _DISTIL, "Lee et al.", "ICLR 2022",
    ),
    Chapter(
        "08_dass", "DaSS",
        "Meta-prediction Model for Distillation-Aware NAS on Unseen Datasets",
        _DISTIL, "An et al.", "ICLR 2023",
    ),
    Chapter(
        "09_weak_teacher", "A weak teacher",
        "A Study on Knowledge Distillation from Weak Teacher for Scaling Up Pre-trained Language Models",
        _DISTIL, "Lee et al.", "Findings of ACL 2023",
    ),
    Chapter(
        "10_ctcd", "CTCD",
        "Co-training and Co-distillation for Quality Improvement and Compression of Language Models",
        _DISTIL, "Lee et al.", "Findings of EMNLP 2023",
    ),
]  # fmt: skip


def get(name: str) -> Chapter:
    """The chapter called `name`: its full name, its number, or its name without the number.

    Raises NbpkgError, with the known names, for any other string.
    """
    wanted = str(name).removesuffix(".py").removesuffix(".ipynb")
    for chapter in CHAPTERS:
        if wanted in (chapter.name, chapter.number, chapter.name.split("_", 1)[1]):
            return chapter
    known = ", ".join(chapter.name for chapter in CHAPTERS)
    raise NbpkgError(f"no chapter is called {name!r}; the chapters are {known}")


def existing() -> list[Chapter]:
    """The chapters whose twin is on disk, in the book's order."""
    return [chapter for chapter in CHAPTERS if chapter.exists]


@dataclass(frozen=True)
class Cell:
    """One cell of a twin. `line` counts from 1 and is where the source starts in the twin."""

    kind: str  # "code" or "markdown" or "raw"
    source: str
    tags: tuple[str, ...] = ()
    metadata: dict = field(default_factory=dict, hash=False)
    line: int = 1


_MARKER = re.compile(r"^# %%(?P<rest>(?:[ \t].*)?)$")
_KIND = re.compile(r"\[(markdown|md|raw)\]\s*")
_KEY = re.compile(r"(?:^|\s)([A-Za-z_][\w.-]*)=")


def parse(text: str, where: str = "the twin") -> list[Cell]:
    """The cells of a py:percent text, as jupytext reads it.

    Raises NbpkgError, with the line, for metadata that are not `key=JSON` pairs.
    """
    lines = text.splitlines()
    start = _end_of_header(lines)
    marks = [index for index in range(start, len(lines)) if _MARKER.match(lines[index])]
    if any(line.strip() for line in lines[start : marks[0] if marks else len(lines)]):
        raise NbpkgError(f"{where}: text stands before the first cell marker '# %%'")
    cells = []
    for mark, end in zip(marks, [*marks[1:], len(lines)], strict=bool(marks)):
        rest = _MARKER.match(lines[mark])["rest"].strip()
        kind = _KIND.search(rest)
        metadata = _metadata(rest, f"{where}, line {mark + 1}")
        body = lines[mark + 1 : end]
        while body and not body[-1].strip():
            body.pop()
        skipped = 0
        while skipped < len(body) and not body[skipped].strip():
            skipped += 1
        body = body[skipped:]
        name = {"md": "markdown"}.get(kind[1], kind[1]) if kind else "code"
        if name != "code":
            body = [re.sub(r"^# ?", "", line) for line in body]
        cells.append(
            Cell(name, "\n".join(body), tuple(metadata.get("tags", ())), metadata, mark + 2 + skipped)
        )
    return cells


def _end_of_header(lines: list[str]) -> int:
    """The number of lines of the YAML header, which stands in comments between two `# ---`."""
    if not lines or lines[0].rstrip() != "# ---":
        return 0
    for index in range(1, len(lines)):
        if lines[index].rstrip() == "# ---":
            return index + 1
    return 0


def _metadata(rest: str, where: str) -> dict:
    found, position, decoder = {}, 0, json.JSONDecoder()
    while match := _KEY.search(rest, position):
        try:
            found[match[1]], position = decoder.raw_decode(rest, match.end())
        except ValueError:
            raise NbpkgError(f"{where}: the value of {match[1]} in the cell marker is not JSON") from None
    return found


def cells(name: str) -> list[Cell]:
    """The cells of chapter `name`, from its twin. Raises NbpkgError when the chapter is not written yet."""
    chapter = get(name)
    return parse(_text(chapter), f"notebooks/src/{chapter.name}.py")


def _text(chapter: Chapter) -> str:
    if not chapter.exists:
        raise NbpkgError(
            f"chapter {chapter.name} is not written yet: there is no notebooks/src/{chapter.name}.py"
        )
    return chapter.twin.read_text(encoding="utf-8")


def hash_sources(sources: list[str]) -> str:
    """SHA-256 over the sources of code cells in order; white space around a source does not count."""
    digest = hashlib.sha256()
    for source in sources:
        data = source.strip().encode()
        digest.update(f"{len(data)}\n".encode() + data)
    return digest.hexdigest()


def code_sha256(name: str) -> str:
    """The hash of the code cells of chapter `name`: what its outputs depend on, so prose is left out."""
    return hash_sources([cell.source for cell in cells(name) if cell.kind == "code"])


def hashed_files() -> list[str]:
    """The files of `nbpkg` that a chapter's numbers can depend on: sources and small tables, sorted, relative
    to the package's folder.
    """
    names = [path.relative_to(package()).as_posix() for path in package().rglob("*") if path.is_file()]
    return [
        name
        for name in sorted(names)
        if "__pycache__" not in name
        and not name.rpartition("/")[2].startswith(".")
        and not any(fnmatch(name, pattern) for pattern in TOOLING)
    ]


def package_sha256() -> str:
    """The hash of `hashed_files`, names and contents."""
    digest = hashlib.sha256()
    for name in hashed_files():
        digest.update(name.encode() + b"\0" + hashlib.sha256((package() / name).read_bytes()).digest())
    return digest.hexdigest()


_loaded: dict[Path, types.ModuleType] = {}


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
    module = types.ModuleType(f"nbpkg_chapter_{chapter.name}", f"The method of chapter {chapter.name}.")
    module.__source_sha256__ = digest
    module.__chapter__ = chapter.name
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
