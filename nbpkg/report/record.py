"""What a chapter's run measured, and its JSON form (record.schema.json)."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from nbpkg.errors import NbpkgError
from nbpkg.paths import write_text

SCHEMA = 1
#: Of both editions, from the best for the claim to none: the first has no "no effect" and "undecided", the
#: second no "not reproduced".
VERDICTS = (
    "reproduced", "partly", "no effect", "undecided", "not reproduced", "contradicted", "not tested",
)  # fmt: skip
REPRODUCED, PARTLY, NO_EFFECT, UNDECIDED, NOT_REPRODUCED, CONTRADICTED, NOT_TESTED = VERDICTS
#: What stands in the place of every verdict of a smoke run, which measures nothing.
TOO_SMALL = "too small to judge"


_OPTIONAL = ("peak_gpu_memory_mb", "device_seconds", "commit", "plan", "modules", "rows", "outputs_sha256")


def number(value: float) -> str:
    """A number for reading: three significant places or so, never an exponent between 0.001 and a million."""
    size = abs(value)
    if value == int(value) and size < 1e6:
        return str(int(value))
    if size >= 1e6 or size < 0.001:
        return f"{value:.3g}"
    return f"{value:.{0 if size >= 1000 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"


@dataclass(frozen=True)
class Metric:
    """One measured number with its 95 % interval, what the paper says, and the values per training seed.

    low and high are None together: without repetitions there is no interval. n counts the repetitions behind
    the interval.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int = 1
    paper: float | None = None
    unit: str = ""
    per_seed: Mapping[int, float] | None = None

    def __post_init__(self):
        if self.per_seed is not None:  # in JSON seeds are strings
            object.__setattr__(self, "per_seed", {int(seed): x for seed, x in self.per_seed.items()})
        numbers = [self.value, self.low, self.high, self.paper, *(self.per_seed or {}).values()]
        if not all(x is None or math.isfinite(x) for x in numbers):
            raise ValueError("a metric must be finite: nan or infinity is not a measurement")
        if (self.low is None) != (self.high is None):
            raise ValueError("give both ends of the interval or neither")
        if self.low is not None and self.low > self.high:
            raise ValueError(f"the interval's low end {self.low} lies above its high end {self.high}")
        if self.n < 1:
            raise ValueError("n must be at least 1")


@dataclass(frozen=True)
class Claim:
    """A statement of the paper, the metrics and the test that judge it, and the computed verdict.

    Of the second edition also: the question that it answers, whose it is, and what of its data was seen in
    design.
    """

    id: str
    statement: str
    metrics: tuple[str, ...]
    test: str
    verdict: str
    note: str = ""
    question: str = ""
    whose: str = ""
    seen: str = ""

    def __post_init__(self):
        object.__setattr__(self, "metrics", tuple(self.metrics))
        if self.verdict not in (*VERDICTS, TOO_SMALL):
            raise ValueError(f"claim {self.id}: verdict {self.verdict!r} is none of {', '.join(VERDICTS)}")


@dataclass(frozen=True)
class Deviation:
    """A numbered departure from the paper's set-up and what it is expected to change."""

    number: int
    text: str
    effect: str


@dataclass
class Record:
    """One run of one chapter: memory in MB (10^6 bytes); the times hold "total" and sections, in seconds.

    device_seconds: of a run on a GPU, by the same names, the seconds of stored results that "cuda" and "cpu"
    computed. commit: of the repository, with "+" where what counts was changed since. plan: hash and commit
    of the claims file. modules: hashes of the files of nbpkg that the chapter imports. rows: by frame, the
    hash of its file, how many rows, and what computed them. outputs_sha256: of the published outputs.
    """

    chapter: str
    profile: str
    seeds: list[int]
    device: str
    threads: int
    source_sha256: str
    package_sha256: str
    versions: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_mb: float = 0.0
    peak_gpu_memory_mb: float | None = None
    device_seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    deviations: list[Deviation] = field(default_factory=list)
    memo: list[dict] = field(default_factory=list)
    commit: str = ""
    plan: dict[str, str] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    rows: dict[str, dict] = field(default_factory=dict)
    outputs_sha256: str = ""

    @property
    def gpu_share(self) -> float | None:
        """Of the seconds of stored results, those on the GPU, 0 to 1; None for a run without a GPU."""
        return _gpu_share(self.device_seconds.get("total"))

    def to_json(self) -> dict:
        """The record as plain JSON types, not validated; what a metric has not is left out."""
        # Through text: tuples become lists, and seeds strings.
        out = {"schema": SCHEMA, **json.loads(json.dumps(asdict(self)))}
        for part in (*out["metrics"].values(), *out["claims"], out):
            for name in [name for name, value in part.items() if value in (None, "", {})]:
                if part is not out or name in _OPTIONAL:
                    del part[name]
        for claim in out["claims"]:
            claim.setdefault("note", "")
        return out

    @classmethod
    def from_json(cls, raw: Mapping, where: str = "record") -> "Record":
        """The inverse of to_json. Raises NbpkgError, naming `where` and the field, for what is no record."""
        validate(raw, where)
        fields = {key: value for key, value in raw.items() if key != "schema"}
        fields["metrics"] = {name: Metric(**metric) for name, metric in raw["metrics"].items()}
        fields["claims"] = [Claim(**claim) for claim in raw["claims"]]
        fields["deviations"] = [Deviation(**deviation) for deviation in raw["deviations"]]
        return cls(**fields)

    def save(self, path: str | Path) -> Path:
        """Validates and writes, whole or not at all. Raises NbpkgError naming the field at fault."""
        path = Path(path)
        validate(self.to_json(), path.name)
        write_text(path, self.text())
        return path

    def text(self) -> str:
        """The record as the text of its file, not validated."""
        return json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> "Record":
        """Reads and validates. Raises NbpkgError naming the file: absent, no JSON, or a field at fault."""
        path = Path(path)
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise NbpkgError(f"{path.name}: there is no such record") from None
        except (OSError, ValueError) as error:
            raise NbpkgError(f"{path.name}: not a readable record ({error}); run the chapter again") from None
        return cls.from_json(raw, path.name)


def _gpu_share(seconds: Mapping[str, float] | None) -> float | None:
    return seconds["cuda"] / sum(seconds.values()) if seconds and any(seconds.values()) else None


@cache
def _validator():
    # jsonschema takes a fifth of a second to import, which nobody who only opens a session should pay.
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    def is_measurement(checker, value) -> bool:
        return standard.is_type(value, "number") and abs(value) < math.inf  # no nan

    standard = Draft202012Validator.TYPE_CHECKER
    finite = extend(Draft202012Validator, type_checker=standard.redefine("number", is_measurement))
    schema = json.loads(Path(__file__).with_name("record.schema.json").read_text(encoding="utf-8"))
    return finite(schema)


def validate(raw: object, where: str = "record") -> None:
    """Checks plain JSON types by the schema and beyond it. Raises NbpkgError in one line naming the field."""
    if isinstance(raw, Mapping) and raw.get("schema") != SCHEMA:
        reads = f"this nbpkg reads {SCHEMA}: run the chapter again"
        raise NbpkgError(f"{where}: record schema {raw.get('schema')!r}, {reads}")
    from jsonschema.exceptions import best_match

    error = best_match(_validator().iter_errors(raw))
    if error is not None:
        place = "/".join(map(str, error.absolute_path)) or "top level"
        message = error.message if len(error.message) < 160 else error.message[:157] + "..."
        raise NbpkgError(f"{where}: {place}: {message}".replace("\n", " "))
    share = _gpu_share(raw.get("device_seconds", {}).get("total"))
    if share is not None and raw["device"].startswith("cuda") != (share >= 0.5):
        most = f"did not do most of the work; CUDA did {share:.0%}"
        raise NbpkgError(f"{where}: device: {raw['device']} {most}")
    for name, metric in raw["metrics"].items():
        if "low" in metric and metric["low"] > metric["high"]:
            raise NbpkgError(f"{where}: metrics/{name}: low lies above high")
        stray = set(metric.get("per_seed", {})) - {str(seed) for seed in raw["seeds"]}
        if stray:
            raise NbpkgError(f"{where}: metrics/{name}/per_seed: the record has no seed {min(stray)}")
    ids = [claim["id"] for claim in raw["claims"]]
    for claim in raw["claims"]:
        if ids.count(claim["id"]) > 1:
            raise NbpkgError(f"{where}: claims: {claim['id']} stands there twice")
        missing = [name for name in claim["metrics"] if name not in raw["metrics"]]
        if missing:
            raise NbpkgError(f"{where}: claims/{claim['id']}: there is no metric {missing[0]!r}")
