"""Adopts finished runs: outputs into notebooks/, records into results/, all of it or nothing."""

import hashlib
import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from nbpkg import chapters
from nbpkg.book import evidence, notebook, notebook_lint, scoreboard
from nbpkg.chapters import Chapter
from nbpkg.errors import NbpkgError
from nbpkg.paths import replacing, root
from nbpkg.report.claims import PILOT
from nbpkg.report.record import Record

#: The least share of the work of a run with CUDA that is done there.
_LEAST_ON_GPU = 0.95


def publish(names: Sequence[str], profile: str = "standard") -> list[str]:
    """Publish the runs of the chapters called `names` at `profile`; returns a line of what was done for each.

    Raises NbpkgError, and changes nothing, when one has no run that may be published: missing, failed, stale,
    at profile smoke, run as a script, with a record or outputs that are at fault, or larger than 1.5 MB.
    """
    if profile not in chapters.PROFILES:
        raise NbpkgError(f"no profile is called {profile!r}; there are {', '.join(chapters.PROFILES)}")
    if profile == "smoke":
        raise NbpkgError("a smoke run shows that the code works and measures nothing: publish standard runs")
    files: dict[Path, bytes] = {}
    lines = []
    for chapter in dict.fromkeys(chapters.get(name) for name in names):
        files |= prepare(chapter, profile)
        lines.append(f"{chapter.name}: published from the {profile} run")
    scoreboard.updated()  # a README without its marks is found before anything is written
    replace_all(files)
    scoreboard.refresh()
    return lines


def prepare(chapter: Chapter, profile: str) -> dict[Path, bytes]:
    """The files to publish: notebook, record, rows, and the twin with what held. Raises NbpkgError, saying
    why there are none."""
    path = chapters.runs_dir(profile) / f"{chapter.name}.json"
    record = _finished_record(chapter, profile, path)
    executed = notebook.read(path.with_suffix(".ipynb"))
    try:
        merged = notebook.with_outputs(notebook.from_twin(chapter), executed)
    except NbpkgError as error:
        again = f"run `nbpkg run {chapter.name} --profile {profile}` again"
        raise NbpkgError(f"the {profile} run of {chapter.name} is stale: {error}; {again}") from None
    record.outputs_sha256 = notebook.outputs_sha256(merged)
    for cell in merged.cells:
        cell.source = evidence.filled(cell.source, record) if cell.cell_type == "markdown" else cell.source
    merged.metadata[notebook.SYNCED] = notebook.fingerprint(merged)
    twin, saved = evidence.filled(chapter.twin.read_text("utf-8"), record, "# "), record.text().encode()
    said = {"source_sha256": record.source_sha256, "record_sha256": hashlib.sha256(saved).hexdigest()}
    merged.metadata["nbpkg"] = {"profile": profile, **said}
    text = notebook.text_of(merged)
    faults = list(notebook_lint.faults(merged, len(text.encode())))
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise NbpkgError(f"{chapter.name} cannot be published: {faults[0]}{more}")
    folder, rows = root() / "results" / profile, [f"{chapter.name}.{name}.parquet" for name in record.rows]
    files = {folder / name: path.with_name(name).read_bytes() for name in rows}
    files |= {folder / path.name: saved, chapter.twin: twin.encode(), chapter.notebook: text.encode()}
    return files


def _finished_record(chapter: Chapter, profile: str, path: Path) -> Record:
    """The record of a run that is done, as a notebook, of the code of today. Raises NbpkgError for others."""
    name, state = chapter.name, chapters.state(chapter, profile)
    command = f"`nbpkg run {name} --profile {profile}`"
    run, again = f"the {profile} run of {name}", f"run {command} again"
    if not state:
        raise NbpkgError(f"{name} has no run at profile {profile}: {command} first")
    if state["status"] != "done":
        raise NbpkgError(f"{run} failed ({state.get('error', '')}): mend it and {again}")
    if state["mode"] != "notebook":
        raise NbpkgError(f"{run} was run as a script, which leaves no outputs: run it without --script")
    if state["source_sha256"] != chapters.code_sha256(name):
        raise NbpkgError(f"{run} is stale: the chapter's code has changed since; {again}")
    if state["package_sha256"] != chapters.package_sha256():
        raise NbpkgError(f"{run} is stale: nbpkg has changed since; {again}")
    if not path.is_file() or chapters.file_sha256(path) != state["record_sha256"]:
        raise NbpkgError(f"{path.name} of {name} is not the one that the run wrote; {again}")
    record, wanted = Record.load(path), {**state, "chapter": name, "profile": profile}
    for field in ("chapter", "profile", "seeds", "source_sha256", "package_sha256"):
        if getattr(record, field) != wanted[field]:
            raise NbpkgError(f"the record of {name} disagrees with the run on {field}; {again}")
    if record.gpu_share is not None and record.gpu_share < _LEAST_ON_GPU:
        share = f"{record.gpu_share:.0%} of the work was done on the GPU, {_LEAST_ON_GPU:.0%} is the least"
        raise NbpkgError(f"{name}: {share} of a run with CUDA: run it with --device cpu")
    if max(record.seeds) >= PILOT:
        raise NbpkgError(f"{run} is a pilot, of seeds from {PILOT} on: run the seeds of the claims file")
    if record.plan or chapter.edition > 1:
        if record.commit.endswith("+"):
            raise NbpkgError(f"{run} was made with changes that are not committed: commit, then {again}")
        ties = evidence.plan_problems(chapter, record, path.parent)
        for line in itertools.chain(ties, evidence.history_problems(chapter, record)):
            raise NbpkgError(f"{name} cannot be published: {line}")
    if found := notebook_lint.machine_path(path.read_text(encoding="utf-8")):
        raise NbpkgError(f"the record of {name} holds a path of this machine: {found}")
    return record


def replace_all(files: dict[Path, bytes]) -> None:
    """Write all of `files` or none: all is written beside its place before the first file is replaced."""
    before = {path: path.read_bytes() if path.exists() else None for path in files}
    try:
        with ExitStack() as stack:
            for path in [path for path, content in files.items() if content != before[path]]:
                stack.enter_context(replacing(path)).write_bytes(files[path])
    except BaseException:
        for path, old in before.items():
            if old is None:
                path.unlink(missing_ok=True)
            elif path.read_bytes() != old:  # a full disk must not cost what was never replaced
                path.write_bytes(old)
        raise
