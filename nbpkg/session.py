"""The session of a chapter: profile, seeds, device, time, memory, stored pieces, and the record in the end."""

import hashlib
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any, NoReturn

import nbpkg
from nbpkg import paths, store, tables
from nbpkg.errors import NbpkgError
from nbpkg.fingerprint import content_hash, fingerprint
from nbpkg.record import PROFILES, Claim, Deviation, Metric, Record

_UNSET: Any = object()


def _refuse(message: str) -> NoReturn:
    raise NbpkgError(message)


class Session:
    """Opened in the first code cell after the parameters; `finish` writes the record.

    chapter: such as "03_help"; profile: smoke, standard or paper; seeds: training seeds, a list of different integers >= 0;
    device: auto (CUDA where there is one, else CPU), cpu or cuda. Torch's threads are set to `$NBPKG_THREADS`, or 1: for small
    tensors more threads are slower.

    Raises NbpkgError for values outside these, and for cuda where there is none.
    """

    def __init__(self, chapter: str, profile: str = "smoke", seeds: Iterable[int] = (0,), device: str = "auto"):
        if not (isinstance(chapter, str) and re.fullmatch(r"[0-9]{2}_[a-z0-9_]+", chapter)):
            _refuse(f"chapter {chapter!r}: write it like 03_help")
        if profile not in PROFILES:
            _refuse(f"PROFILE {profile!r} is none of {', '.join(PROFILES)}")
        self.chapter, self.profile = chapter, profile
        self.seeds = _checked_seeds(seeds)
        self.smoke = profile == "smoke"
        self.device = _checked_device(device)
        self.threads = _set_threads()
        self._record_parts: dict[str, dict] = {"data": {}, "metrics": {}}
        self._claims: list[tuple[Claim, Callable, str]] = []
        self._deviations: list[Deviation] = []
        self._pieces: list[dict] = []
        self._peak = self._gpu_peak = 0.0
        self._prefix = ""
        # Every open account is credited with the seconds that a cached piece took when it was made.
        self._accounts: list[dict[str, float]] = [{"wall": 0.0, "cpu": 0.0}]
        self._sections: dict[str, dict[str, float]] = {}
        self._open: set[str] = set()
        self._started = time.perf_counter()
        self._started_cpu = time.process_time()

    # ---------------------------------------------------------------- sizes and time

    def choose(self, *, smoke: Any, standard: Any, paper: Any = _UNSET) -> Any:
        """The value for this profile; paper's is standard's unless given. For sizes only, never for the method."""
        return {"smoke": smoke, "standard": standard, "paper": standard if paper is _UNSET else paper}[self.profile]

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Times the block, wall and CPU seconds, summed by name; pieces from the cache count as when they were made."""
        if name == "total":
            raise ValueError('"total" is the sum of everything; call the section something else')
        if name in self._open:
            yield
            return
        account = {"wall": 0.0, "cpu": 0.0}
        wall, cpu = time.perf_counter(), time.process_time()
        self._open.add(name)
        self._accounts.append(account)
        try:
            yield
        finally:
            self._open.discard(name)
            self._accounts.remove(account)
            sums = self._sections.setdefault(name, {"wall": 0.0, "cpu": 0.0})
            sums["wall"] += time.perf_counter() - wall + account["wall"]
            sums["cpu"] += time.process_time() - cpu + account["cpu"]

    def progress(self, iterable: Iterable, label: str, total: int | None = None) -> Iterator:
        """Yields from `iterable`, printing at most about ten lines with the time left, and a last one."""
        from nbpkg.progress import progress

        return progress(iterable, label, total)

    # ---------------------------------------------------------------- stored pieces

    def memo(self, name: str, function: Callable, *, seed: int | None, **config: Any) -> Any:
        """`function(seed=seed, **config)`, computed once and kept in the user's cache.

        The key is made of chapter, name, profile, seed, kind of device, the content of config and the fingerprint of the
        function, so changed code or another configuration never meets an old result. Files that the function reads are not part of it:
        pass what it reads, or its digest, in config. The result may hold nested dict, list and tuple of numbers, str,
        bool, None, numpy arrays and torch tensors. Tensors come back on the CPU, on the first call as on later ones.

        Raises NbpkgError for a result or configuration of another type, and when the function's source cannot be found.
        """
        parts = [self.chapter, name, self.profile, seed, self.device.type, content_hash(sorted(config.items())), fingerprint(function)]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        folder = store.entry_path(paths.cache_dir() / "memo", self.chapter, name, key)
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            piece = store.read(folder, key)
        except store.CorruptEntry as error:
            print(f"memo {name}: the stored piece is damaged ({error}); computed again", flush=True)
            piece = None
        if piece is not None:
            for account in self._accounts:
                account["wall"] += piece.seconds - (time.perf_counter() - wall)
                account["cpu"] += piece.cpu_seconds - (time.process_time() - cpu)
            self._peak = max(self._peak, piece.peak_memory_mb)
            self._note_piece(name, seed, piece.seconds, True)
            return piece.value
        account = {"wall": 0.0, "cpu": 0.0}
        wall, cpu = time.perf_counter(), time.process_time()
        self._accounts.append(account)
        try:
            value = function(seed=seed, **config)
        finally:
            self._accounts.remove(account)
        seconds = time.perf_counter() - wall + account["wall"]
        cpu_seconds = time.process_time() - cpu + account["cpu"]
        arrays: dict = {}
        tree = store.freeze(value, arrays, f"memo {name}: result")
        try:
            store.write(
                folder, key, tree, arrays, seconds=seconds, cpu_seconds=cpu_seconds, peak_memory_mb=_peak_memory_mb()
            )
        except OSError as error:
            print(f"memo {name}: could not be stored ({error.strerror or error}); going on without", flush=True)
        self._note_piece(name, seed, seconds, False)
        return store.thaw(tree, arrays)

    def _note_piece(self, name: str, seed: int | None, seconds: float, from_cache: bool) -> None:
        self._pieces.append({"name": self._prefix + name, "seed": seed, "seconds": round(seconds, 3), "from_cache": from_cache})

    def artifact(self, chapter: str, name: str) -> Any:
        """A trained piece of another chapter at this profile, from the cache or made now by that chapter's own method.

        The chapter's method cells define `make_artifact_<name>(session)`, which gets a session of that chapter with this one's
        profile, seeds and device and keeps its pieces with `session.memo`. Raises NbpkgError when it does not.
        """
        from nbpkg import chapters

        chapter = chapters.get(chapter).name
        make = getattr(chapters.load(chapter), f"make_artifact_{name}", None)
        if make is None:
            _refuse(f"chapter {chapter} makes no artefact {name}: its method cells define no make_artifact_{name}")
        other = Session(chapter, self.profile, self.seeds, self.device.type)
        # Its pieces are this chapter's time and appear in this chapter's record.
        other._accounts, other._pieces, other._prefix = self._accounts, self._pieces, f"{self._prefix}{chapter}/"
        return make(other)

    # ---------------------------------------------------------------- what goes into the record

    def data_used(self, name: str) -> None:
        """Notes the digest of a registered data set. Raises NbpkgError when there is no such set."""
        from nbpkg import data

        self._record_parts["data"][name] = data.digest(name)

    def metric(
        self,
        name: str,
        value: Any,
        *,
        paper: float | None = None,
        unit: str = "",
        low: float | None = None,
        high: float | None = None,
        n: int | None = None,
        replace: bool = False,
    ) -> Metric:
        """Records a metric under a name such as "spearman/nb201/help/mean".

        value: a number; or {seed: number} or a sequence in the order of the session's seeds, of which mean and t-interval are taken.
        low, high, n: an interval of one's own (a bootstrap, say) and the repetitions behind it.
        Raises ValueError for nan, a name that is taken (unless replace), seeds that are not the session's.
        """
        metrics = self._record_parts["metrics"]
        if name in metrics and not replace:
            raise ValueError(f"metric {name!r} is recorded already; pass replace=True to overwrite it")
        per_seed = self._per_seed(name, value)
        if per_seed is None:
            metric = Metric(float(value), paper=_float(paper), unit=unit)
        else:
            metric = Metric.over_seeds(per_seed, paper=_float(paper), unit=unit)
        if low is not None or high is not None or n is not None:
            keep = metric if low is None and high is None else None
            ends = (metric.low, metric.high) if keep else (_float(low), _float(high))
            metric = replaced(metric, low=ends[0], high=ends[1], n=metric.n if n is None else int(n))
        metrics[name] = metric
        return metric

    def _per_seed(self, name: str, value: Any) -> dict[int, float] | None:
        if isinstance(value, Mapping):
            stray = [seed for seed in value if seed not in self.seeds]
            if stray:
                raise ValueError(f"metric {name!r}: {stray[0]!r} is none of the session's seeds {self.seeds}")
            return {seed: float(x) for seed, x in value.items()}
        if getattr(value, "ndim", 0) == 0 and not isinstance(value, (list, tuple)):
            return None
        values = [float(x) for x in value]
        if len(values) != len(self.seeds):
            raise ValueError(f"metric {name!r}: {len(values)} values for {len(self.seeds)} seeds; give a number with low, high and n")
        return dict(zip(self.seeds, values, strict=True))

    def claim(
        self, id: str, statement: str, *, metrics: Iterable[str], test: str, rule: Callable[[dict[str, Metric]], Any], note: str = ""
    ) -> Claim:
        """Judges a claim of the paper by `rule`, see `nbpkg.verdicts`; `test` says in words what the rule does.

        rule: from {name: Metric} to a verdict or (verdict, note). It runs here and again in `finish`, should a metric be replaced.
        Raises ValueError for a metric that is not recorded, an id that is taken, a verdict that is none.
        """
        names = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        if any(claim.id == id for claim, _, _ in self._claims):
            raise ValueError(f"claim {id!r} is recorded already")
        claim = self._judged(Claim(id, statement, names, test, "not tested"), rule, note)
        self._claims.append((claim, rule, note))
        return claim

    def _judged(self, claim: Claim, rule: Callable, note: str) -> Claim:
        metrics = self._record_parts["metrics"]
        missing = [name for name in claim.metrics if name not in metrics]
        if missing:
            raise ValueError(f"claim {claim.id!r}: there is no metric {missing[0]!r}")
        result = rule({name: metrics[name] for name in claim.metrics})
        verdict, computed = result if isinstance(result, tuple) else (result, "")
        return replaced(claim, verdict=verdict, note="; ".join(part for part in (note, computed) if part))

    def deviation(self, text: str, effect: str) -> Deviation:
        """Records a departure from the paper's set-up with its expected effect; numbered in order."""
        deviation = Deviation(len(self._deviations) + 1, text, effect)
        self._deviations.append(deviation)
        return deviation

    def record(self) -> Record:
        """The record as it stands now, not validated."""
        now, cpu = time.perf_counter() - self._started, time.process_time() - self._started_cpu
        total = self._accounts[0]
        gpu = _gpu_peak_mb(self.device)
        return Record(
            chapter=self.chapter,
            profile=self.profile,
            seeds=list(self.seeds),
            device=_device_name(self.device),
            threads=self.threads,
            source_sha256=_source_sha256(self.chapter),
            package_sha256=_package_sha256(),
            versions=_versions(),
            data=dict(self._record_parts["data"]),
            seconds={"total": round(now + total["wall"], 3)} | {n: round(s["wall"], 3) for n, s in self._sections.items()},
            cpu_seconds={"total": round(cpu + total["cpu"], 3)} | {n: round(s["cpu"], 3) for n, s in self._sections.items()},
            peak_memory_mb=round(max(self._peak, _peak_memory_mb()), 1),
            peak_gpu_memory_mb=gpu,
            metrics=dict(self._record_parts["metrics"]),
            claims=[claim for claim, _, _ in self._claims],
            deviations=list(self._deviations),
            memo=list(self._pieces),
        )

    def finish(self) -> None:
        """Judges the claims once more, validates the record and writes it: to `$NBPKG_RECORD`, else into the repository as
        `runs/<profile>/<chapter>.json`, else into the working directory. Raises NbpkgError for a record that is not valid.
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

    # ---------------------------------------------------------------- what is shown

    def say(self, markdown: str) -> None:
        """Shows Markdown in a notebook, prints it in a script."""
        ipython = sys.modules.get("IPython")
        if ipython is not None and ipython.get_ipython() is not None:
            from IPython.display import Markdown, display

            display(Markdown(markdown))
        else:
            print(markdown)

    def claims_table(self) -> None:
        """Shows the claims with our numbers, the paper's, the test and the verdict."""
        self.say(tables.claims(self.record()))

    def deviations_table(self) -> None:
        """Shows the numbered deviations."""
        self.say(tables.deviations(self.record()))

    def metrics_table(self, *names: str | Iterable[str]) -> None:
        """Shows metrics: all, or those with the given names or under the given prefixes ("spearman/nb201").

        Raises ValueError for a name under which there is none.
        """
        known = self._record_parts["metrics"]
        wanted = [name for item in names for name in ([item] if isinstance(item, str) else item)]
        chosen = dict.fromkeys(known if not names else ())
        for name in wanted:
            found = [key for key in known if key == name or key.startswith(name.rstrip("/") + "/")]
            if not found:
                raise ValueError(f"there is no metric {name!r}")
            chosen |= dict.fromkeys(found)
        self.say(tables.metrics(self.record(), chosen))

    def run_card(self) -> None:
        """Shows what ran, on what, for how long, with how much memory, and what came from the cache."""
        self.say(tables.run_card(self.record()))


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _checked_seeds(seeds: Any) -> list[int]:
    message = "SEEDS must be a list of different integers >= 0, such as [0, 1, 2]"
    if isinstance(seeds, (int, str)) or not isinstance(seeds, Iterable):
        _refuse(message)
    seeds = list(seeds)
    if not seeds or len(set(map(str, seeds))) < len(seeds):
        _refuse(message)
    if not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds):
        _refuse(message)
    return seeds


def _checked_device(device: Any):
    import torch

    if device not in ("auto", "cpu", "cuda"):
        _refuse(f"DEVICE {device!r} is none of auto, cpu, cuda")
    available = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and not available:
        _refuse("DEVICE cuda: torch finds no CUDA device here; use auto or cpu")
    return torch.device("cuda" if available else "cpu")


def _set_threads() -> int:
    import torch

    text = os.environ.get("NBPKG_THREADS") or "1"
    if not text.isdecimal() or int(text) < 1:
        _refuse(f"NBPKG_THREADS={text!r} is not a number of threads")
    torch.set_num_threads(int(text))
    return int(text)


def _peak_memory_mb() -> float:
    """The process's peak resident memory in MB. Linux keeps it per program; what getrusage says there includes the parent's."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024 / 1e6
    except (OSError, TypeError):
        import psutil

        info = psutil.Process().memory_info()
        peak = getattr(info, "peak_wset", 0)
        if not peak:
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return peak / 1e6


def _gpu_peak_mb(device) -> float | None:
    if device.type != "cuda":
        return None
    import torch

    return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)


def _device_name(device) -> str:
    if device.type == "cuda":
        import torch

        return f"cuda ({torch.cuda.get_device_name(device)})"
    name = platform.processor() or platform.machine()
    try:
        name = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())[1].strip()
    except (OSError, TypeError):
        pass
    return f"cpu ({name})"


def _versions() -> dict[str, str]:
    import numpy
    import torch

    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__}
    return versions | {"nbpkg": nbpkg.__version__}


def _source_sha256(chapter: str) -> str:
    """The hash of the chapter's code cells; empty where only the notebook is at hand (a hosted one, without the repository)."""
    from nbpkg import chapters

    try:
        return chapters.code_sha256(chapter)
    except NbpkgError:
        return ""


def _package_sha256() -> str:
    from nbpkg import chapters

    return chapters.package_sha256()
