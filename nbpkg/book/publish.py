"""Adopts finished runs: outputs into notebooks/, records into results/, all of it or nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from nbpkg import chapters
from nbpkg.book import notebook, notebook_lint, scoreboard
from nbpkg.chapters import Chapter
from nbpkg.errors import NbpkgError
from nbpkg.paths import root
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
    files: dict[Path, str] = {}
    lines = []
    for chapter in dict.fromkeys(chapters.get(name) for name in names):
        text, record = prepare(chapter, profile)
        files[chapter.notebook] = text
        files[root() / "results" / profile / f"{chapter.name}.json"] = record
        lines.append(f"{chapter.name}: published from the {profile} run")
    scoreboard.updated()  # a README without its marks is found before anything is written
    replace_all(files)
    scoreboard.refresh()
    return lines


def prepare(chapter: Chapter, profile: str) -> tuple[str, str]:
    """The texts of the notebook and the record to publish. Raises NbpkgError, saying why there are none."""
    again = f"run `nbpkg run {chapter.name} --profile {profile}` again"
    state = _finished_state(chapter, profile, again)
    path = chapters.runs_dir(profile) / f"{chapter.name}.json"
    record = _checked_record(chapter, profile, path, state, again)
    executed = notebook.read(path.with_suffix(".ipynb"))
    try:
        merged = notebook.with_outputs(notebook.from_twin(chapter), executed)
    except NbpkgError as error:
        raise NbpkgError(f"the {profile} run of {chapter.name} is stale: {error}; {again}") from None
    faults = notebook_lint.output_faults(merged) + notebook_lint.figure_faults(merged)
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise NbpkgError(f"{chapter.name} cannot be published: {faults[0]}{more}")
    merged.metadata["nbpkg"] = {field: getattr(record, field) for field in ("profile", *notebook.OF_RECORD)}
    text = notebook.text_of(merged)
    fault = notebook_lint.size_fault(len(text.encode()))
    if fault:
        raise NbpkgError(f"{chapter.name}: {fault}: make its figures smaller")
    return text, path.read_text(encoding="utf-8")


def _finished_state(chapter: Chapter, profile: str, again: str) -> dict:
    """The state of the run: done, as a notebook, of the code of today. Raises NbpkgError if it is not."""
    state, name = chapters.state(chapter, profile), chapter.name
    if not state:
        first = f"`nbpkg run {name} --profile {profile}` first"
        raise NbpkgError(f"{name} has no run at profile {profile}: {first}")
    run = f"the {profile} run of {name}"
    if state["status"] != "done":
        raise NbpkgError(f"{run} failed ({state.get('error', '')}): mend it and {again}")
    if state["mode"] != "notebook":
        raise NbpkgError(f"{run} was run as a script, which leaves no outputs: run it without --script")
    if state["source_sha256"] != chapters.code_sha256(name):
        raise NbpkgError(f"{run} is stale: the chapter's code has changed since; {again}")
    if state["package_sha256"] != chapters.package_sha256():
        raise NbpkgError(f"{run} is stale: nbpkg has changed since; {again}")
    return state


def _checked_record(chapter: Chapter, profile: str, path: Path, state: dict, again: str) -> Record:
    """The record that the run wrote, in agreement with the run's state. Raises NbpkgError if it is not."""
    name = chapter.name
    if not path.is_file() or chapters.file_sha256(path) != state["record_sha256"]:
        raise NbpkgError(f"{path.name} of {name} is not the one that the run wrote; {again}")
    record = Record.load(path)
    wanted = {"chapter": name, "profile": profile}
    wanted |= {field: state[field] for field in ("seeds", "source_sha256", "package_sha256")}
    for field, value in wanted.items():
        if getattr(record, field) != value:
            raise NbpkgError(f"the record of {name} disagrees with the run on {field}; {again}")
    if record.gpu_share is not None and record.gpu_share < _LEAST_ON_GPU:
        share = f"{record.gpu_share:.0%} of the work was done on the GPU, {_LEAST_ON_GPU:.0%} is the least"
        raise NbpkgError(f"{name}: {share} of a run with CUDA: run it with --device cpu")
    found = notebook_lint.machine_path(path.read_text(encoding="utf-8"))
    if found:
        raise NbpkgError(f"the record of {name} holds a path of this machine: {found}")
    return record


def replace_all(files: dict[Path, str]) -> None:
    """Write all of `files` or none: all is written beside its place before the first file is replaced."""
    with ExitStack() as stack:
        ready = []
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.publish")
            stack.callback(temporary.unlink, missing_ok=True)
            temporary.write_text(text, encoding="utf-8")
            ready.append((temporary, path))
        before = [(path, path.read_bytes() if path.exists() else None) for _, path in ready]
        try:
            for temporary, path in ready:
                os.replace(temporary, path)
        except BaseException:
            for path, old in before:
                path.unlink(missing_ok=True) if old is None else path.write_bytes(old)
            raise
