"""What `nbpkg check` looks for: the places where the book's files can come apart without a test failing."""

import re
from collections.abc import Iterator
from pathlib import Path

from nbpkg import chapters
from nbpkg.book import evidence, first_edition, moved, notebook, notebook_lint, scoreboard
from nbpkg.chapters import Chapter, check_parameters
from nbpkg.errors import NbpkgError
from nbpkg.paths import git, root
from nbpkg.report import claims
from nbpkg.report.record import Record

# What may name a folder of one machine; notebooks' outputs are looked at with the chapters.
TEXT = {
    *(".py", ".md", ".toml", ".yml", ".yaml", ".json", ".txt", ".cfg", ".ini", ".lock", ".csv"),
    *(".css", ".js", ".html", ".bib", ".cff", ".sh", ".svg", ""),
}
SKIPPED = {
    *(".git", ".venv", ".venv.tmp", "runs", "_build", "__pycache__", "build", "dist", ".cache"),
    "nbpkg.egg-info",
}
_WIDGET_CODE = re.compile(r"\b(ipywidgets|tqdm\.(?:notebook|auto)|rich\.jupyter)\b")


def check() -> tuple[list[str], list[str]]:
    """Look at the whole book; returns the problems, to be mended, and the remarks, which may stand."""
    written, problems = chapters.existing(), []
    checks = [(f"{chapter.name}: ", chapter_problems(chapter)) for chapter in written]
    checks += [("", lines()) for lines in (stray_files, record_problems, scoreboard_problems, path_problems)]
    for where, lines in checks:
        try:
            for line in lines:
                problems.append(where + line)
        except NbpkgError as error:  # it ends one check early and is a problem itself
            problems.append(f"{where}{error}")
    return problems, [f"{chapter.name}: {line}" for chapter in written for line in chapter_remarks(chapter)]


def chapter_problems(chapter: Chapter) -> Iterator[str]:
    """Twin against notebook, outputs against code, figures, size, and what a chapter's code may not use."""
    check_parameters(chapter)
    if claims.find(chapter.name) is None and chapter.edition > 1:
        yield f"there is no notebooks/claims/{chapter.name}.toml"
    twin = notebook.from_twin(chapter)
    for cell in notebook.code_cells(twin):
        if _WIDGET_CODE.search(cell.source):
            yield f"widgets in {notebook.headline(cell.source)!r}: print plain text instead"
    if not chapter.notebook.is_file():
        yield f"there is no notebooks/{chapter.name}.ipynb: `nbpkg sync {chapter.name}` makes it"
        return
    published = notebook.read(chapter.notebook)
    for line in notebook.differences(twin, published):
        yield f"{line}; `nbpkg sync {chapter.name}`"
    yield from published_problems(chapter, published)
    yield from notebook_lint.faults(published, chapter.notebook.stat().st_size)


def published_problems(chapter: Chapter, published) -> Iterator[str]:
    """Whether the outputs in the notebook are those of its code, and of the record beside them."""
    said = published.metadata.get("nbpkg")
    if said is None:
        if any(cell.outputs for cell in notebook.code_cells(published)):
            yield "the notebook holds outputs that were never published; `nbpkg publish` or clear them"
        for path in sorted((root() / "results").glob(f"*/{chapter.name}.json")):
            yield f"results/{path.parent.name}/ has a record but the notebook no published outputs"
        return
    if said["source_sha256"] != chapters.code_sha256(chapter.name) and not moved.covers(chapter.name, said):
        yield f"the code has changed since the outputs were made: run at {said['profile']} and publish again"
    path = root() / "results" / said["profile"] / f"{chapter.name}.json"
    if not path.is_file():
        yield f"the outputs come from a run whose record is not in results/{said['profile']}/"
        return
    record, where = Record.load(path), f"results/{said['profile']}/"
    if said.get("record_sha256") != chapters.file_sha256(path):
        yield f"the record in {where} is not the one that the notebook was published with: publish again"
    if record.outputs_sha256 != notebook.outputs_sha256(published):
        yield f"the notebook's outputs are not those that the record in {where} was published with"
    yield from first_edition.number_problems(record)
    yield from evidence.prose_problems(chapter, record)
    if record.plan or chapter.edition > 1:
        yield from evidence.plan_problems(chapter, record, path.parent)
        if git("rev-parse", "--is-shallow-repository") == "false\n":
            yield from evidence.history_problems(chapter, record)


def chapter_remarks(chapter: Chapter) -> list[str]:
    """What may stand but should be looked at."""
    try:
        lines = list(notebook_lint.sentence_faults(chapters.cells(chapter.name)))
        said = notebook.read(chapter.notebook).metadata.get("nbpkg", {})
    except NbpkgError:
        return []
    if moved.covers(chapter.name, said):
        lines.append("code has moved since the run; its smoke numbers are equal")
    if not any((root() / "results").glob(f"*/{chapter.name}.json")):
        lines.append("not published yet")
    for path in sorted((root() / "results").glob(f"*/{chapter.name}.json")):
        try:
            record = Record.load(path)
        except NbpkgError:  # a problem already
            continue
        lines += (evidence if record.modules else first_edition).remarks(chapter, record)
        if record.plan and git("rev-parse", "--is-shallow-repository") != "false\n":
            lines.append("without git's whole history it cannot be seen that the claims came first")
    return lines


def stray_files() -> Iterator[str]:
    """Notebooks without a twin, twins that are no chapter, and what a stopped publish left behind."""
    known = {chapter.name for chapter in chapters.CHAPTERS}
    home = root() / "notebooks"
    for path in sorted((home / "src").glob("*.py")):
        if path.stem not in known:
            yield f"notebooks/src/{path.name} is no chapter of nbpkg.chapters.CHAPTERS"
    for path in sorted(home.glob("*.ipynb")):
        if not (home / "src" / f"{path.stem}.py").is_file():
            yield f"notebooks/{path.name} has no twin in notebooks/src/"
    for pattern in ("notebooks/.*.*", "notebooks/src/.*.*", "results/*/.*.*"):
        for path in filter(Path.is_file, sorted(root().glob(pattern))):
            yield f"{path.relative_to(root()).as_posix()} was left by a publish that was stopped: delete it"


def record_problems() -> Iterator[str]:
    """Published records that are not valid or lie in a wrong place."""
    for path in sorted((root() / "results").glob("*/*.json")):
        where = f"results/{path.parent.name}/{path.name}"
        try:
            record = Record.load(path)
        except NbpkgError as error:
            yield f"results/{path.parent.name}/{error}"
            continue
        if (record.profile, record.chapter) != (path.parent.name, path.stem):
            yield f"{where} is the record of {record.chapter} at {record.profile}"
        elif record.profile == "smoke":
            yield f"{where}: a smoke run measures nothing and is not published"
        elif not chapters.get(record.chapter).exists:
            yield f"{where} belongs to a chapter that is not written"


def scoreboard_problems() -> Iterator[str]:
    """Whether README's scoreboard is the one that the records make."""
    if scoreboard.updated() != scoreboard.readme().read_text(encoding="utf-8"):
        yield "README.md: the scoreboard is not that of the records; `nbpkg scoreboard`"


def path_problems() -> Iterator[str]:
    """Text files that name a folder of one machine."""
    for path in text_files():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, start=1):
            if found := notebook_lint.machine_path(line):
                yield f"{path.relative_to(root()).as_posix()}, line {number}: a path of one machine: {found}"


def text_files() -> list[Path]:
    """The repository's text files: what git tracks or would; without git, all outside the build folders."""
    home, listed = root(), git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    paths = [home / name for name in listed.split("\0")] if listed else [
        path for path in home.rglob("*") if not SKIPPED.intersection(path.relative_to(home).parts)
    ]  # fmt: skip
    return sorted(p for p in paths if p.suffix in TEXT and p.is_file() and not p.is_symlink())
