"""The session of a chapter: profile, seeds, device, time, memory, stored pieces, and at last the record."""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbpkg import chapters, machine, paths, source, store
from nbpkg.errors import NbpkgError
from nbpkg.fingerprint import content_hash, fingerprint
from nbpkg.notes import Notes
from nbpkg.progress import progress
from nbpkg.record import PROFILES, Record

_UNSET: Any = object()


@dataclass(eq=False)
class _Account:
    """Wall and CPU seconds: spent, or the difference that pieces from the cache make."""

    wall: float = 0.0
    cpu: float = 0.0

    def add(self, wall: float, cpu: float) -> None:
        self.wall += wall
        self.cpu += cpu


class Session(Notes):
    """Opened in the first code cell after the parameters; `finish` writes the record.

    chapter: such as "03_help"; profile: smoke, standard or paper; seeds: training seeds, a list of different
    integers >= 0; device: auto (CUDA where there is one, else CPU), cpu or cuda. Torch's threads are set to
    `$NBPKG_THREADS`, or 1: for small tensors more threads are slower.

    Raises NbpkgError for values outside these, and for cuda where there is none.
    """

    def __init__(
        self, chapter: str, profile: str = "smoke", seeds: Iterable[int] = (0,), device: str = "auto"
    ):
        if not (isinstance(chapter, str) and re.fullmatch(r"[0-9]{2}_[a-z0-9_]+", chapter)):
            raise NbpkgError(f"chapter {chapter!r}: write it like 03_help")
        if profile not in PROFILES:
            raise NbpkgError(f"PROFILE {profile!r} is none of {', '.join(PROFILES)}")
        self.chapter, self.profile, self.smoke = chapter, profile, profile == "smoke"
        self.seeds = _checked_seeds(seeds)
        self.device = machine.device(device)
        self.threads = machine.set_threads()
        self._clear_notes()
        self._pieces: list[dict] = []
        self._peak = 0.0
        self._prefix = ""
        # Every open account is credited with the seconds that a cached piece took when it was made.
        self._accounts = [_Account()]
        self._sections: dict[str, _Account] = {}
        self._open: set[str] = set()
        self._started = time.perf_counter(), time.process_time()
        source.remember_package()

    @contextmanager
    def _timed(self) -> Iterator[_Account]:
        """The block's seconds, complete when it ends, pieces from the cache as when they were made."""
        account = _Account()
        wall, cpu = time.perf_counter(), time.process_time()
        self._accounts.append(account)
        try:
            yield account
        finally:
            self._accounts.remove(account)
            account.add(time.perf_counter() - wall, time.process_time() - cpu)

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
            self._sections.setdefault(name, _Account()).add(account.wall, account.cpu)

    def progress(self, iterable: Iterable, label: str, total: int | None = None) -> Iterator:
        """Yields from `iterable`, printing at most about ten lines with the time left, and a last one."""
        return progress(iterable, label, total)

    # ---------------------------------------------------------------- stored pieces

    def memo(self, name: str, function: Callable, *, seed: int | None, **config: Any) -> Any:
        """`function(seed=seed, **config)`, computed once and kept in the user's cache.

        The key is made of chapter, name, profile, seed, kind of device, the content of config and the
        fingerprint of the function, so changed code or another configuration never meets an old result. Files
        that the function reads are not part of it: pass what it reads, or its digest, in config. The result
        may hold nested dict, list and tuple of numbers, str, bool, None, numpy arrays and torch tensors.
        Tensors come back on the CPU, on the first call as on later ones.

        Raises NbpkgError for a result or configuration of another type, and when the function's source cannot
        be found.
        """
        parts = [self.chapter, name, self.profile, seed, self.device.type]
        parts += [content_hash(sorted(config.items())), fingerprint(function)]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        folder = store.entry_path(paths.cache_dir() / "memo", self.chapter, name, key)
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            piece = store.read(folder, key)
        except store.CorruptEntry as error:
            print(f"memo {name}: the stored piece is damaged ({error}); computed again", flush=True)
            piece = None
        if piece is not None:
            spent = time.perf_counter() - wall, time.process_time() - cpu
            for account in self._accounts:
                account.add(piece.seconds - spent[0], piece.cpu_seconds - spent[1])
            self._peak = max(self._peak, piece.peak_memory_mb)
            self._note(name, seed, piece.seconds, from_cache=True)
            return piece.value
        with self._timed() as account:
            value = function(seed=seed, **config)
        arrays: dict = {}
        tree = store.freeze(value, arrays, f"memo {name}: result")
        peak = machine.peak_memory_mb()
        try:
            store.write(folder, key, store.Piece(tree, account.wall, account.cpu, peak), arrays)
        except OSError as error:
            why = error.strerror or error
            print(f"memo {name}: could not be stored ({why}); going on without", flush=True)
        self._note(name, seed, account.wall, from_cache=False)
        return store.thaw(tree, arrays)

    def _note(self, name: str, seed: int | None, seconds: float, *, from_cache: bool) -> None:
        piece = {"name": self._prefix + name, "seed": seed, "seconds": round(seconds, 3)}
        self._pieces.append({**piece, "from_cache": from_cache})

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
        other = Session(chapter, self.profile, self.seeds, self.device.type)
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
        total = _Account(wall + self._accounts[0].wall, cpu + self._accounts[0].cpu)
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
