"""Runs chapters: several at once, each in a process of its own, continuing where an earlier run stopped."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nbpkg import chapters, machine
from nbpkg.chapters import Chapter, check_parameters, runs_dir, state
from nbpkg.chapters.runs import check_options
from nbpkg.data import needs
from nbpkg.errors import NbpkgError
from nbpkg.paths import root, write_text
from nbpkg.runner import execution
from nbpkg.runner.execution import Execution
from nbpkg.runner.status import Reporter, clock


@dataclass
class Outcome:
    """What became of one chapter: status is "done", "up to date" or "failed"."""

    chapter: str
    profile: str
    status: str
    seconds: float = 0.0
    record: dict = field(default_factory=dict)
    error: str = ""

    @property
    def verdicts(self) -> dict[str, int]:
        """How many claims of the record got each verdict."""
        counts: dict[str, int] = {}
        for claim in self.record.get("claims", []):
            counts[claim["verdict"]] = counts.get(claim["verdict"], 0) + 1
        return counts


def run(
    names: Sequence[str] = (),
    profile: str = "smoke",
    seeds: Sequence[int] = (0,),
    device: str = "auto",
    jobs: int | None = None,
    script: bool = False,
    force: bool = False,
    cell_timeout: float | None = None,
    echo: Callable[[str], None] = print,
) -> list[Outcome]:
    """Run the chapters called `names` (all that are written when empty) and leave their results under runs/.

    `jobs` executions go on at once (None: as many as the usable cores carry with `$NBPKG_THREADS` each).
    With several seeds and jobs each seed is first run alone to fill the memo store. `cell_timeout` is in
    seconds. A failed chapter stops no other.
    Raises NbpkgError for an unknown chapter, profile, device or seed list, a wrong parameters cell, and for
    absent data.
    KeyboardInterrupt (also on SIGTERM) ends every process first and leaves no half-written file.
    """
    seeds = check_options(profile, seeds, device)
    wanted = [chapters.get(name) for name in dict.fromkeys(names)] or chapters.existing()
    if not wanted:
        raise NbpkgError("no chapter is written yet: notebooks/src/ holds no twin")
    for chapter in wanted:
        check_parameters(chapter)
    if problem := needs.lacking([chapter.name for chapter in wanted], profile):
        raise NbpkgError(problem)
    if jobs is None:
        jobs = max(1, len(machine.usable_cpus()) // machine.threads())
    if jobs < 1:
        raise NbpkgError(f"--jobs must be at least 1, not {jobs}")
    _remove_abandoned(profile)
    outcomes: dict[str, Outcome] = {}
    work: deque[_Work] = deque()
    for chapter in wanted:
        key = chapters.keys(chapter, profile, seeds, device)["key"]
        if not force and (done := _finished(chapter, profile, key, script)):
            echo(f"{chapter.name}: up to date (run earlier in {clock(done.seconds)}; --force runs it again)")
            outcomes[chapter.name] = done
        else:
            work.append(_Work(chapter, profile, seeds, device, script, cell_timeout, jobs > 1))
    with _interruptible():
        _loop(work, jobs, outcomes, echo)
    return [outcomes[chapter.name] for chapter in wanted]


@dataclass
class _Work:
    """A chapter on its way: its warm runs, then the one execution that is kept."""

    chapter: Chapter
    profile: str
    seeds: list[int]
    device: str
    script: bool
    cell_timeout: float | None
    parallel: bool
    keys: dict = field(default_factory=dict)
    waiting: deque[Execution] = field(default_factory=deque)
    left: int = 0  # warm runs that have not finished
    started: float | None = None  # when its first job began, not when it was planned
    earlier: dict = field(default_factory=dict)

    def __post_init__(self):
        self.earlier = state(self.chapter, self.profile)
        if self.parallel and len(self.seeds) > 1:
            self.waiting.extend(self._job([seed], warm=True) for seed in self.seeds)
            self.left = len(self.seeds)
        else:
            self.waiting.append(self._job(self.seeds))

    def _job(self, seeds: list[int], warm: bool = False) -> Execution:
        kind = f"seed{seeds[0]}" if warm else "all"
        scratch = runs_dir(self.profile) / ".work" / f"{self.chapter.name}-{kind}-{os.getpid()}"
        shutil.rmtree(scratch, ignore_errors=True)
        return Execution(
            self.chapter, self.profile, seeds, self.device, self.script, scratch, warm, self.cell_timeout
        )

    def warm_done(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.waiting.append(self._job(self.seeds))


def _loop(work: deque[_Work], jobs: int, outcomes: dict[str, Outcome], echo) -> None:
    running: list[tuple[_Work, Execution, Reporter]] = []
    try:
        while any(item.waiting for item in work) or running:
            for item in work:
                while item.waiting and len(running) < jobs:
                    job = item.waiting.popleft()
                    running.append((item, job, Reporter(job, item.earlier, echo)))
                    # Taken now, not when the run was planned: a chapter may be edited while it waits.
                    item.keys = chapters.keys(item.chapter, item.profile, item.seeds, item.device)
                    job.start()
                    item.started = item.started or job.started
            time.sleep(0.1)
            for entry in list(running):
                item, job, reporter = entry
                if entry not in running:
                    continue  # ended with a sibling that failed
                if job.process.poll() is None:
                    reporter.report()
                    continue
                running.remove(entry)
                result = job.result()
                if result["status"] == "failed":
                    siblings = [other for other in running if other[0] is item]
                    execution.end([job, *(other[1] for other in siblings)])
                    for other in siblings:
                        running.remove(other)
                        shutil.rmtree(other[1].scratch, ignore_errors=True)
                    item.waiting.clear()
                    outcomes[item.chapter.name] = _failed(item, job, result, echo)
                elif job.warm:
                    echo(f"{job.label}: pieces ready after {clock(result['seconds'])}")
                    item.warm_done()
                else:
                    outcomes[item.chapter.name] = _adopt(item, job, result, echo)
                shutil.rmtree(job.scratch, ignore_errors=True)
    finally:
        with _deaf():
            execution.end([job for _, job, _ in running])
            for _, job, _ in running:
                shutil.rmtree(job.scratch, ignore_errors=True)
            with contextlib.suppress(OSError):
                for profile in {item.profile for item in work}:
                    (runs_dir(profile) / ".work").rmdir()


def _files(work: _Work) -> dict[str, Path]:
    stem = runs_dir(work.profile) / work.chapter.name
    return {
        end: Path(f"{stem}.{end}") for end in ("ipynb", "json", "state.json", "failed.ipynb", "failed.log")
    }


def _adopt(work: _Work, job: Execution, result: dict, echo) -> Outcome:
    """Put a finished execution's files in place; the state comes last, so it speaks only of what is there."""
    record = json.loads(job.record.read_text(encoding="utf-8"))
    wanted = {"chapter": work.chapter.name, "profile": work.profile, "seeds": work.seeds}
    for name, value in wanted.items():
        if record.get(name) != value:
            error = f"the record says {name} {record.get(name)!r} where the run had {value!r}"
            return _failed(work, job, {**result, "cell": "", "error": error}, echo)
    files = _files(work)
    for path in files.values():
        path.unlink(missing_ok=True)
    if not work.script:
        os.replace(job.output, files["ipynb"])
    os.replace(job.record, files["json"])
    seconds = round(time.monotonic() - work.started, 2)
    words = {"status": "done", "seconds": seconds, "cell_seconds": result["cell_seconds"]}
    _write_state(work, {**words, "record_sha256": chapters.file_sha256(files["json"])})
    echo(f"{work.chapter.name}: done in {clock(seconds)}")
    return Outcome(work.chapter.name, work.profile, "done", seconds, record)


def _failed(work: _Work, job: Execution, result: dict, echo) -> Outcome:
    files = _files(work)
    for path in files.values():
        path.unlink(missing_ok=True)
    kept = files["failed.log"]
    if job.output.is_file():
        kept = files["failed.ipynb"]
        os.replace(job.output, kept)
    else:
        write_text(kept, job.log())
    seconds = round(time.monotonic() - work.started, 2)
    _write_state(
        work, {"status": "failed", "seconds": seconds, "error": result["error"], "cell": result["cell"]}
    )
    where = f" in cell {result['cell']!r}" if result["cell"] else ""
    echo(f"{job.label}: failed{where}: {result['error']} (see {kept.relative_to(root()).as_posix()})")
    return Outcome(work.chapter.name, work.profile, "failed", seconds, error=result["error"])


def _write_state(work: _Work, words: dict) -> None:
    common = {
        "key": work.keys["key"],
        "mode": "script" if work.script else "notebook",
        "profile": work.profile,
        "seeds": work.seeds,
        "device": work.device,
        "source_sha256": work.keys["source_sha256"],
        "package_sha256": work.keys["package_sha256"],
    }
    write_text(_files(work)["state.json"], json.dumps({**words, **common}, indent=1) + "\n")


def _finished(chapter: Chapter, profile: str, key: str, script: bool) -> Outcome | None:
    earlier = state(chapter, profile)
    stem = runs_dir(profile) / chapter.name
    if earlier.get("status") != "done" or earlier.get("key") != key:
        return None
    if not script and (earlier["mode"] == "script" or not Path(f"{stem}.ipynb").is_file()):
        return None
    path = Path(f"{stem}.json")
    # A chapter run by hand in Jupyter writes its record to the same place.
    if not path.is_file() or chapters.file_sha256(path) != earlier["record_sha256"]:
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    return Outcome(chapter.name, profile, "up to date", earlier["seconds"], record)


def _remove_abandoned(profile: str) -> None:
    """Remove what runs left behind that were killed without a chance to tidy up."""
    import psutil

    for scratch in (runs_dir(profile) / ".work").glob("*-*"):
        owner = scratch.name.rsplit("-", 1)[1]
        if not owner.isdigit() or not psutil.pid_exists(int(owner)):
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _interruptible():
    """Let SIGTERM and SIGHUP end a run in the same orderly way as Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_):
        raise KeyboardInterrupt

    wanted = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {number: signal.signal(number, interrupt) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _deaf():
    """Hold back a second Ctrl-C while processes are being ended: it would leave some of them behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
