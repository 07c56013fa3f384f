"""Runs chapters: several at once, each in a process of its own, continuing where an earlier run stopped."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nbpkg import chapters, machine
from nbpkg.chapters import Chapter, check_parameters, runs_dir, state
from nbpkg.chapters.runs import check_options
from nbpkg.data import needs
from nbpkg.errors import NbpkgError
from nbpkg.paths import read_json, shown, write_text
from nbpkg.progress import duration
from nbpkg.runner import execution
from nbpkg.runner.execution import Execution
from nbpkg.runner.status import Reporter


@dataclass
class Outcome:
    """What became of one chapter: status is "done", "up to date" or "failed"."""

    chapter: str
    profile: str
    status: str
    seconds: float = 0.0
    record: dict = field(default_factory=dict)
    error: str = ""


def run(
    names: Sequence[str] = (), profile: str = "smoke", seeds: Sequence[int] = (0,), device: str = "auto",
    jobs: int | None = None, script: bool = False, force: bool = False, cell_timeout: float | None = None,
    echo: Callable[[str], None] = print, minutes: float | None = None,
) -> list[Outcome]:  # fmt: skip
    """Run the chapters called `names` (all that are written when empty) and leave their results under runs/.

    `jobs` executions go on at once (None: as many as the usable cores carry with `$NBPKG_THREADS` each; on
    GPUs as many as there are, each execution with one of its own).
    With several seeds and jobs each seed is first run alone to fill the memo store. `cell_timeout` is in
    seconds. After `minutes` a chapter ends with the piece that it is at, and the next run goes on from there.
    A failed chapter stops no other.
    Raises NbpkgError for an unknown chapter, profile, device or seed list, a wrong parameters cell, for CUDA
    without a card, and for absent data.
    KeyboardInterrupt (also on SIGTERM) ends every process first and leaves no half-written file.
    """
    seeds = check_options(profile, seeds, device)
    for name, limit in (("--cell-timeout", cell_timeout), ("--minutes", minutes)):
        if limit is not None and not 0 < limit < math.inf:
            raise NbpkgError(f"{name} must be a positive number, not {limit}")
    wanted = _wanted(names)
    if problem := needs.lacking([chapter.name for chapter in wanted], profile):
        raise NbpkgError(problem)
    cards = machine.gpus() if machine.device(device).type == "cuda" else []
    if jobs is None:
        jobs = len(cards) or max(1, len(machine.usable_cpus()) // machine.threads())
    if jobs < 1:
        raise NbpkgError(f"--jobs must be at least 1, not {jobs}")
    _remove_abandoned(profile)
    outcomes: dict[str, Outcome] = {}
    work = []
    for chapter in wanted:
        item = _ChapterRun(chapter, profile, seeds, device, script, cell_timeout, jobs > 1, echo)
        if not force and (done := item.finished()):
            outcomes[chapter.name] = done
        else:
            work.append(item)
    with _handling(_STOPS, signal.default_int_handler):
        _loop(work, jobs, outcomes, cards, minutes)
    return [outcomes[chapter.name] for chapter in wanted]


def _wanted(names: Sequence[str]) -> list[Chapter]:
    """The chapters called `names`, or all that are written; their parameters cells are as they must be."""
    wanted = [chapters.get(name) for name in dict.fromkeys(names)] or chapters.existing()
    if not wanted:
        raise NbpkgError("no chapter is written yet: notebooks/src/ holds no twin")
    for chapter in wanted:
        check_parameters(chapter)
    return wanted


@dataclass
class _ChapterRun:
    """A chapter on its way: its warm runs, then the one execution that is kept."""

    chapter: Chapter
    profile: str
    seeds: list[int]
    device: str
    script: bool
    cell_timeout: float | None
    parallel: bool
    echo: Callable[[str], None]
    waiting: deque[Execution] = field(default_factory=deque)
    warm_left: int = 0  # warm runs that have not finished
    started: float | None = None  # when its first job began, not when it was planned

    def __post_init__(self):
        self.earlier = state(self.chapter, self.profile)
        self.keys = chapters.keys(self.chapter, self.profile, self.seeds, self.device)
        if self.parallel and len(self.seeds) > 1:
            self.waiting.extend(self._job([seed], warm=True) for seed in self.seeds)
            self.warm_left = len(self.seeds)
        else:
            self.waiting.append(self._job(self.seeds))

    def _job(self, seeds: list[int], warm: bool = False) -> Execution:
        kind = f"seed{seeds[0]}" if warm else "all"
        scratch = runs_dir(self.profile) / ".work" / f"{self.chapter.name}-{kind}-{os.getpid()}"
        options = (self.chapter, self.profile, seeds, self.device, self.script, scratch, warm)
        return Execution(*options, self.cell_timeout)

    def path(self, end: str) -> Path:
        """Where a result of the chapter lies, by what its name ends in."""
        return runs_dir(self.profile) / f"{self.chapter.name}.{end}"

    def finished(self) -> Outcome | None:
        """The outcome of the run before, where it is of the same key and its files are still those."""
        earlier, record = self.earlier, self.path("json")
        if earlier.get("status") != "done" or earlier.get("key") != self.keys["key"]:
            return None
        if not self.script and (earlier["mode"] == "script" or not self.path("ipynb").is_file()):
            return None
        # A chapter run by hand in Jupyter writes its record to the same place.
        if not record.is_file() or chapters.file_sha256(record) != earlier["record_sha256"]:
            return None
        name, seconds = self.chapter.name, earlier["seconds"]
        self.echo(f"{name}: up to date (run earlier in {duration(seconds)}; --force runs it again)")
        content = json.loads(record.read_text(encoding="utf-8"))
        return Outcome(name, self.profile, "up to date", seconds, content)

    def start(self, job: Execution) -> None:
        """Start a job; the keys are taken now, since a chapter may be edited while it waits."""
        self.keys = chapters.keys(self.chapter, self.profile, self.seeds, self.device)
        job.start()
        self.started = self.started or job.started

    def warm_done(self, job: Execution, result: dict) -> None:
        self.echo(f"{job.label}: pieces ready after {duration(result['seconds'])}")
        self.warm_left -= 1
        if self.warm_left == 0:
            self.waiting.append(self._job(self.seeds))

    def adopt(self, job: Execution, result: dict) -> Outcome:
        """Put a finished job's files in place; the state comes last, so it speaks only of what is there."""
        name = self.chapter.name
        record = json.loads(job.record.read_text(encoding="utf-8"))
        for key, value in {"chapter": name, "profile": self.profile, "seeds": self.seeds}.items():
            if record.get(key) != value:
                error = f"the record says {key} {record.get(key)!r} where the run had {value!r}"
                return self.fail(job, {**result, "cell": "", "error": error})
        # The record comes first: a run that is stopped from here on counts as none, not as the one before.
        os.replace(job.record, self.path("json"))
        rows = [(made, self.path(made.name[7:])) for made in job.scratch.glob("record.*.parquet")]
        for made, place in rows:
            os.replace(made, place)
        if not self.script:
            os.replace(job.output, self.path("ipynb"))
        digest = chapters.file_sha256(self.path("json"))
        seconds = self._write_state("done", cell_seconds=result["cell_seconds"], record_sha256=digest)
        stale = [self.path(end) for end in ("failed.ipynb", "failed.log", *["ipynb"] * self.script)]
        stale += {*self.path("json").parent.glob(f"{name}.*.parquet")} - {place for _, place in rows}
        for path in stale:
            path.unlink(missing_ok=True)
        self.echo(f"{name}: done in {duration(seconds)}")
        return Outcome(name, self.profile, "done", seconds, record)

    def fail(self, job: Execution, result: dict) -> Outcome:
        """Keep the notebook of a failed job, or what it printed, beside the last run that was whole."""
        for end in ("failed.ipynb", "failed.log"):
            self.path(end).unlink(missing_ok=True)
        whole = read_json(job.output)  # a full disk leaves half a notebook
        kept = self.path("failed.ipynb" if whole else "failed.log")
        if whole:
            os.replace(job.output, kept)
        else:
            write_text(kept, job.log())
        error, cell = result["error"], result["cell"]
        seconds = round(time.monotonic() - self.started, 2)
        if self.earlier.get("status") != "done":
            self._write_state("failed", error=error, cell=cell)
        where = f" in cell {cell!r}" if cell else ""
        self.echo(f"{job.label}: failed{where}: {error} (see {shown(kept)})")
        return Outcome(self.chapter.name, self.profile, "failed", seconds, error=error)

    def _write_state(self, status: str, **words: object) -> float:
        """Write the state file; returns the seconds since the chapter's first job began."""
        seconds = round(time.monotonic() - self.started, 2)
        mode = "script" if self.script else "notebook"
        common = {"mode": mode, "profile": self.profile, "seeds": self.seeds, "device": self.device}
        words = {"status": status, "seconds": seconds, **words, **common, **self.keys}
        write_text(self.path("state.json"), json.dumps(words, indent=1) + "\n")
        return seconds


_Running = tuple[_ChapterRun, Execution, Reporter]


def _loop(
    work: list[_ChapterRun], jobs: int, outcomes: dict[str, Outcome], cards: list[str], minutes: float | None
) -> None:  # fmt: skip
    """Work all that waits, `jobs` executions at once, and put down what became of each chapter."""
    running: list[_Running] = []
    limit = {"NBPKG_DEADLINE": str(time.time() + 60 * minutes)} if minutes else {}
    try:
        while running or any(item.waiting for item in work):
            for item in work:
                while item.waiting and len(running) < jobs:
                    job = item.waiting.popleft()
                    job.variables = limit | execution.card(cards, [other for _, other, _ in running])
                    running.append((item, job, Reporter(job, item.earlier, item.echo)))
                    item.start(job)
            time.sleep(0.1)
            for entry in list(running):
                if entry in running:  # else it ended with a sibling that failed
                    _look_after(entry, running, outcomes)
    finally:
        # A second Ctrl-C while processes are being ended would leave some of them behind.
        with _handling([signal.SIGINT], signal.SIG_IGN):
            execution.end([job for _, job, _ in running])
            for _, job, _ in running:
                job.remove()
            with contextlib.suppress(OSError):
                for profile in {item.profile for item in work}:
                    (runs_dir(profile) / ".work").rmdir()


def _look_after(entry: _Running, running: list[_Running], outcomes: dict[str, Outcome]) -> None:
    """Report on an execution that goes on; take one that has ended out of `running`, with its outcome."""
    item, job, reporter = entry
    if job.process.poll() is None:
        reporter.report()
        return
    running.remove(entry)
    result = job.result()
    if result["status"] == "failed":
        siblings = [other for other in running if other[0] is item]
        execution.end([job, *(other for _, other, _ in siblings)])
        for sibling in siblings:
            running.remove(sibling)
            sibling[1].remove()
        item.waiting.clear()
        outcomes[item.chapter.name] = item.fail(job, result)
    elif job.warm:
        item.warm_done(job, result)
    else:
        outcomes[item.chapter.name] = item.adopt(job, result)
    job.remove()


def _remove_abandoned(profile: str) -> None:
    """Remove what runs left behind that were killed without a chance to tidy up."""
    import psutil

    for scratch in (runs_dir(profile) / ".work").glob("*-*"):
        owner = scratch.name.rsplit("-", 1)[1]
        if not owner.isdigit() or not psutil.pid_exists(int(owner)):
            shutil.rmtree(scratch, ignore_errors=True)


#: The signals that end a run in the same orderly way as Ctrl-C; Windows has no SIGHUP.
_STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def _handling(numbers: Iterable[int], handler: object):
    """Give signals another handler within a block; outside the main thread, where that cannot be, nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
