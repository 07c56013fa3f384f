"""The session of a chapter: profile, seeds, device, time, memory, stored results, and at last the record."""

import os
import re
import sys
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from nbpkg import chapters, machine, paths
from nbpkg.chapters import PROFILES
from nbpkg.chapters.hashes import modules
from nbpkg.data import needs
from nbpkg.errors import NbpkgError
from nbpkg.memo import source_text
from nbpkg.progress import progress
from nbpkg.report import claims, frames, tables
from nbpkg.report.claims import PILOT, Plan
from nbpkg.report.record import Record
from nbpkg.session.first_edition import FirstSession
from nbpkg.session.result_cache import ResultCache, Timing
from nbpkg.session.run_log import RunLog
from nbpkg.session.show import say

_UNSET: Any = object()
_HELP = """\
This file is the chapter {0}, cell by cell; its parameters stand in the cell that is tagged so.
Without changing it, and without Jupyter:

    nbpkg run {0} --script --profile standard --seeds 0,1,2 --device cuda

`nbpkg run --help` lists the options."""


class Session(FirstSession):
    """Opened in the first code cell after the parameters; `finish` writes the record.

    chapter: such as "03_help"; profile: smoke, standard or paper; seeds: training seeds, a list of different
    integers >= 0; device: auto (CUDA where there is one, else CPU), cpu or cuda. Torch's threads are set to
    `$NBPKG_THREADS`, or 1: for small tensors more threads are slower. within: the session whose run this one
    is part of (`artifact`).

    Raises NbpkgError for values outside these, for cuda where there is none, and for data that the chapter
    needs at this profile and that are not on this machine; it names the command that fetches them.
    """

    __memo_name__ = "session"  # in memo keys it stands for itself: what it holds is no part of a piece

    say, progress = staticmethod(say), staticmethod(progress)

    def __init__(
        self, chapter: str, profile: str = "smoke", seeds: Iterable[int] = (0,), device: str = "auto", *,
        within: "Session | None" = None,
    ):  # fmt: skip
        if not (isinstance(chapter, str) and re.fullmatch(r"[0-9]{2}_[a-z0-9_]+", chapter)):
            raise NbpkgError(f"chapter {chapter!r}: write it like 03_help")
        if profile not in PROFILES:
            raise NbpkgError(f"PROFILE {profile!r} is none of {', '.join(PROFILES)}")
        if "--help" in sys.argv and Path(sys.argv[0]).stem == chapter:
            print(_HELP.format(chapter))
            raise SystemExit(0)
        # An artefact may need less than its chapter.
        if within is None and (problem := needs.lacking([chapter], profile)):
            raise NbpkgError(problem)
        self.chapter, self.profile, self.smoke = chapter, profile, profile == "smoke"
        self.seeds = _checked_seeds(seeds)
        self.device = machine.device(device)
        self.threads = machine.threads()
        if within is None:
            machine.start(self.device)
        self.log = RunLog(self.seeds, self.smoke, within and within.log)
        on_cpu = next((known.on_cpu for known in chapters.CHAPTERS if known.name == chapter), "")
        self.cache = ResultCache(chapter, profile, self.device, within and within.cache, on_cpu)
        self.frames: dict[str, Any] = {}
        self._workers: dict[str, str] = {}
        # A chapter calls these on the session itself.
        self.metric, self.claim, self.deviation = self.log.metric, self.log.claim, self.log.deviation
        self.claims_table, self.claims_by_verdict = self.log.claims_table, self.log.claims_by_verdict
        self.deviations_table, self.metrics_table = self.log.deviations_table, self.log.metrics_table
        self.data_used = self.log.data_used
        self.memo, self.memo_each = self.cache.memo, self.cache.memo_each
        self._sections: dict[str, Timing] = {}
        self._open: set[str] = set()
        self._started = time.perf_counter(), time.process_time()
        source_text.remember_package()
        self.plan = claims.find(chapter)
        if self.plan is not None:
            self._bind(self.plan)

    # ---------------------------------------------------------------- sizes and time

    def choose(self, *, smoke: Any, standard: Any, paper: Any = _UNSET) -> Any:
        """The value for this profile; paper's is standard's unless given.

        For sizes only, never for the method.
        """
        sizes = {"smoke": smoke, "standard": standard, "paper": standard if paper is _UNSET else paper}
        return sizes[self.profile]

    def artifact(self, chapter: str, name: str) -> Any:
        """A trained piece of another chapter at this profile: stored already, or made now by its own method.

        The chapter's method cells define `make_artifact_<name>(session)`, which gets a session of that
        chapter with this one's profile, seeds and device and keeps its pieces with `session.memo`. Raises
        NbpkgError when it does not.
        """
        chapter = chapters.get(chapter).name
        make = getattr(chapters.load(chapter), f"make_artifact_{name}", None)
        if make is None:
            why = f"its method cells define no make_artifact_{name}"
            raise NbpkgError(f"chapter {chapter} makes no artefact {name}: {why}")
        return make(Session(chapter, self.profile, self.seeds, self.device.type, within=self))

    # ---------------------------------------------------------------- rows and claims

    def _bind(self, plan: Plan) -> None:
        """Results of published seeds are kept by the claims that they were made under, pilots' are not."""
        pilots = [seed for seed in self.seeds if seed >= PILOT]
        if pilots and len(pilots) < len(self.seeds):
            raise NbpkgError(f"SEEDS {self.seeds}: from {PILOT} on they are pilots; run those apart")
        if not (self.smoke or pilots):
            self.cache.claims = plan.sha256
        for text, effect in plan.deviations:
            self.deviation(text, effect)

    def frame(
        self, name: str, make: Any, each: Iterable[Mapping[str, Any]], workers: int | None = None, *,
        on_cpu: str = "",
    ) -> Any:  # fmt: skip
        """The rows of `make(**entry)` for every entry of `each`, as one tidy frame (`nbpkg.report.frames`).

        make: returns a frame, a list of dicts or a dict of columns; the plain values of its entry become
        columns where the rows have none of that name. Each call is kept (`memo_each`). workers: processes, by
        default one a core on a CPU, and one at smoke. `finish` writes the rows beside the record. Raises
        NbpkgError as `memo_each` does, and for a name that is taken.
        """
        if name in self.frames or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
            raise NbpkgError(f"frame {name!r}: choose another name, of a-z, 0-9, _ and -")
        each = [dict(entry) for entry in each]
        cores = 1 if self.smoke else max(1, len(machine.usable_cpus()) // self.threads)
        workers = 1 if self.device.type == "cuda" and not on_cpu else workers or cores
        pieces = self.memo_each(f"rows {name}", partial(_columns, make), each, workers, name, on_cpu)
        self.frames[name] = frames.tidy(pieces, each)
        on = "a Dask cluster" if os.environ.get("NBPKG_CLUSTER") else machine.device_name(self.device)
        self._workers[name] = f"{workers} on {on}"
        return self.frames[name]

    def claims(self) -> Any:
        """Judges the chapter's claims file by the frames, shows the table, and returns the verdicts as rows.

        Raises NbpkgError without such a file, and for rows that a claim lacks.
        """
        if self.plan is None:
            raise NbpkgError(f"there is no notebooks/claims/{self.chapter}.toml")
        judged = self.log.judge(self.frames, self.plan)
        self.claims_table()
        return judged

    # ---------------------------------------------------------------- the record

    def record(self) -> Record:
        """The record as it stands now, not validated."""
        machine.synchronise(self.device)
        wall, cpu = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        cached = self.cache.timings[0]
        total = Timing(wall + cached.wall, cpu + cached.cpu, cached.by_device)
        sums = {"total": total} | self._sections
        on_gpu, made = self.device.type == "cuda", machine.gpu_memory_mb(self.device)
        spread = {
            name: {kind: round(timing.by_device[kind], 3) for kind in ("cuda", "cpu")}
            for name, timing in sums.items()
            if timing.by_device
        }
        work = spread.get("total", {"cuda": made[0], "cpu": 0.0})
        worked = self.device if work["cuda"] and work["cuda"] >= work["cpu"] else machine.device("cpu")
        return Record(
            chapter=self.chapter,
            profile=self.profile,
            seeds=list(self.seeds),
            device=machine.device_name(worked),
            device_seconds=spread,
            threads=self.threads,
            package_sha256=chapters.package_sha256(),
            versions=machine.versions(self.device),
            data=dict(self.log.data),
            seconds={name: round(timing.wall, 3) for name, timing in sums.items()},
            cpu_seconds={name: round(timing.cpu, 3) for name, timing in sums.items()},
            peak_memory_mb=round(max([machine.peak_memory_mb(), *self.cache.peaks_mb]), 1),
            peak_gpu_memory_mb=round(max([made[1], *self.cache.gpu_peaks_mb]), 1) if on_gpu else None,
            metrics=dict(self.log.metrics),
            claims=list(self.log.claims),
            deviations=list(self.log.deviations),
            memo=list(self.cache.used),
            **_origin(self.chapter, self.plan),
        )

    def run_card(self) -> None:
        """Shows what ran, on what, for how long, with how much memory, and what came from the cache."""
        say(tables.run_card(self.record()))

    def finish(self) -> None:
        """Judges the claims once more, validates the record and writes it: to `$NBPKG_RECORD`, else into the
        repository as `runs/<profile>/<chapter>.json`, else into the working directory. Raises NbpkgError for
        a record that is not valid.
        """
        self.log.judge_again()
        if self.plan is not None and not self.log.claims:
            raise NbpkgError("the chapter has a claims file, and s.claims() was not called")
        if os.environ.get("NBPKG_RECORD"):
            path = Path(os.environ["NBPKG_RECORD"])
        else:
            try:
                path = paths.root() / "runs" / self.profile / f"{self.chapter}.json"
            except NbpkgError:
                path = Path(f"{self.chapter}.json")
        record = self.record()
        for name, frame in self.frames.items():
            bound = self.plan.sha256 if self.plan else ""
            digest = frames.save(frame, path.with_suffix(f".{name}.parquet"), bound)
            record.rows[name] = {"sha256": digest, "rows": len(frame), "workers": self._workers[name]}
        record.save(path)
        print(f"record written: {len(record.metrics)} metrics, {len(record.claims)} claims")


def _columns(make: Any, /, **entry: Any) -> dict:
    return frames.columns(make(**entry))


def _origin(chapter: str, plan: Plan | None) -> dict[str, Any]:
    """What a record says of where it comes from: commit, claims file, code, imported files of the package.

    The hash of the code is empty where only the notebook is at hand (a hosted one, say).
    """
    counts = ["nbpkg", "notebooks/src", "notebooks/claims"]
    commit, changed = paths.git("rev-parse", "HEAD"), paths.git("status", "--porcelain", "--", *counts)
    said: dict[str, Any] = {"commit": commit.strip() + ("+" if changed else "")} if commit else {}
    if plan is not None:
        name = paths.relative(claims.path_of(chapter))
        last = (paths.git("log", "-1", "--format=%H", "--", name) or "").strip()
        said["plan"] = {"sha256": plan.sha256} | ({"commit": last} if last else {})
    try:
        return said | {"source_sha256": chapters.code_sha256(chapter), "modules": modules(chapter)}
    except NbpkgError:
        return said | {"source_sha256": ""}


def _checked_seeds(seeds: Any) -> list[int]:
    given = list(seeds) if isinstance(seeds, Iterable) and not isinstance(seeds, (str, Mapping)) else []
    good = [seed for seed in given if isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0]
    if not given or len(set(good)) < len(given):
        raise NbpkgError(f"SEEDS {seeds!r}: write a list of different integers >= 0, such as [0, 1, 2]")
    return good
