"""The session of a chapter: profile, seeds, device, time, memory, stored pieces, and at last the record."""

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nbpkg import chapters, machine, paths
from nbpkg.chapters import PROFILES
from nbpkg.data import needs
from nbpkg.errors import NbpkgError
from nbpkg.memo import source_text
from nbpkg.report.record import Record
from nbpkg.session.result_cache import Account, Pieces
from nbpkg.session.run_log import Notes

_UNSET: Any = object()


class Session(Notes, Pieces):
    """Opened in the first code cell after the parameters; `finish` writes the record.

    chapter: such as "03_help"; profile: smoke, standard or paper; seeds: training seeds, a list of different
    integers >= 0; device: auto (CUDA where there is one, else CPU), cpu or cuda. Torch's threads are set to
    `$NBPKG_THREADS`, or 1: for small tensors more threads are slower.

    Raises NbpkgError for values outside these, for cuda where there is none, and for data that the chapter
    needs at this profile and that are not on this machine; it names the command that fetches them.
    `check_data` is False for the session of an artefact, which may need less than its chapter.
    """

    __memo_name__ = "session"  # in memo keys it stands for itself: what it holds is no part of a piece

    def __init__(
        self,
        chapter: str,
        profile: str = "smoke",
        seeds: Iterable[int] = (0,),
        device: str = "auto",
        *,
        check_data: bool = True,
    ):
        if not (isinstance(chapter, str) and re.fullmatch(r"[0-9]{2}_[a-z0-9_]+", chapter)):
            raise NbpkgError(f"chapter {chapter!r}: write it like 03_help")
        if profile not in PROFILES:
            raise NbpkgError(f"PROFILE {profile!r} is none of {', '.join(PROFILES)}")
        if check_data and (problem := needs.lacking([chapter], profile)):
            raise NbpkgError(problem)
        self.chapter, self.profile, self.smoke = chapter, profile, profile == "smoke"
        self.seeds = _checked_seeds(seeds)
        self.device = machine.device(device)
        self.threads = machine.set_threads()
        self._clear_notes()
        self._pieces: list[dict] = []
        self._peak = 0.0
        self._prefix = ""
        # Every open account is credited with the seconds that a cached piece took when it was made.
        self._accounts = [Account()]
        self._sections: dict[str, Account] = {}
        self._open: set[str] = set()
        self._started = time.perf_counter(), time.process_time()
        source_text.remember_package()

    # ---------------------------------------------------------------- sizes and time

    def choose(self, *, smoke: Any, standard: Any, paper: Any = _UNSET) -> Any:
        """The value for this profile; paper's is standard's unless given.

        For sizes only, never for the method.
        """
        sizes = {"smoke": smoke, "standard": standard, "paper": standard if paper is _UNSET else paper}
        return sizes[self.profile]

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Times the block, summed by name, in wall and CPU seconds; cached pieces as when they were made."""
        if name == "total":
            raise ValueError('"total" is the sum of everything; call the section something else')
        if name in self._open:  # inside itself: the outer one counts
            yield
            return
        self._open.add(name)
        try:
            with self._timed() as account:
                yield
        finally:
            self._open.discard(name)
            self._sections.setdefault(name, Account()).add(account.wall, account.cpu)

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
        other = Session(chapter, self.profile, self.seeds, self.device.type, check_data=False)
        # Its pieces and data are this chapter's too: they are in its time, its memory and its record.
        other._accounts, other._pieces, other._data = self._accounts, self._pieces, self._data
        other._prefix = f"{self._prefix}{chapter}/"
        made = make(other)
        self._peak = max(self._peak, other._peak)
        return made

    # ---------------------------------------------------------------- the record

    def record(self) -> Record:
        """The record as it stands now, not validated."""
        wall, cpu = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        total = Account(wall + self._accounts[0].wall, cpu + self._accounts[0].cpu)
        sums = {"total": total} | self._sections
        gpu = machine.peak_gpu_memory_mb(self.device)
        return Record(
            chapter=self.chapter,
            profile=self.profile,
            seeds=list(self.seeds),
            device=machine.device_name(self.device),
            threads=self.threads,
            source_sha256=_source_sha256(self.chapter),
            package_sha256=chapters.package_sha256(),
            versions=machine.versions(),
            data=dict(self._data),
            seconds={name: round(account.wall, 3) for name, account in sums.items()},
            cpu_seconds={name: round(account.cpu, 3) for name, account in sums.items()},
            peak_memory_mb=round(max(self._peak, machine.peak_memory_mb()), 1),
            peak_gpu_memory_mb=None if gpu is None else round(gpu, 1),
            metrics=dict(self._metrics),
            claims=[claim for claim, _, _ in self._claims],
            deviations=list(self._deviations),
            memo=list(self._pieces),
        )

    def finish(self) -> None:
        """Judges the claims once more, validates the record and writes it: to `$NBPKG_RECORD`, else into the
        repository as `runs/<profile>/<chapter>.json`, else into the working directory. Raises NbpkgError for
        a record that is not valid.
        """
        self._claims = [(self._judged(claim, rule, note), rule, note) for claim, rule, note in self._claims]
        if os.environ.get("NBPKG_RECORD"):
            path = Path(os.environ["NBPKG_RECORD"])
        else:
            try:
                path = paths.root() / "runs" / self.profile / f"{self.chapter}.json"
            except NbpkgError:
                path = Path(f"{self.chapter}.json")
        record = self.record()
        record.save(path)
        print(f"record written: {len(record.metrics)} metrics, {len(record.claims)} claims")


def _checked_seeds(seeds: Any) -> list[int]:
    given = list(seeds) if isinstance(seeds, Iterable) and not isinstance(seeds, (str, Mapping)) else []
    good = [seed for seed in given if isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0]
    if not given or len(set(good)) < len(given):
        raise NbpkgError(f"SEEDS {seeds!r}: write a list of different integers >= 0, such as [0, 1, 2]")
    return good


def _source_sha256(chapter: str) -> str:
    """The hash of the chapter's code cells; empty where only the notebook is at hand (a hosted one, say)."""
    try:
        return chapters.code_sha256(chapter)
    except NbpkgError:
        return ""
