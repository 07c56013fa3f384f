"""What chapters of the first edition note in a session: metrics by name, claims judged by rules, times.

Chapters of the second edition claim before they run (`notebooks/claims/`) and hand in rows. This goes with
the last chapter of the first.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace as replaced
from typing import Any

from nbpkg.errors import NbpkgError
from nbpkg.report.first_stats import t_interval
from nbpkg.report.record import TOO_SMALL, Claim, Metric, Record
from nbpkg.report.tables import measured, table, with_unit
from nbpkg.session.result_cache import ResultCache, Timing
from nbpkg.session.show import say

Rule = Callable[[dict[str, Metric]], str | tuple[str, str]]


def over_seeds(values: Mapping[int, float], paper: float | None = None, unit: str = "") -> Metric:
    """Mean over n seeds with its 95 % t-interval, which is None for a single seed."""
    if not values:
        raise ValueError("a metric over seeds needs at least one value")
    values = {seed: float(values[seed]) for seed in sorted(values)}
    mean, low, high = map(float, t_interval(list(values.values())))
    low, high = (None, None) if len(values) == 1 else (low, high)
    return Metric(mean, low, high, len(values), paper, unit, values)


class FirstEdition:
    """The part of a session's log that only chapters of the first edition use; `RunLog` has its fields."""

    seeds: list[int]
    smoke: bool
    metrics: dict[str, Metric]
    claims: list[Claim]
    _rules: dict[str, tuple[Rule, str]]  # of each claim, with the note that was given

    def metric(
        self, name: str, value: Any, *, paper: float | None = None, unit: str = "", low: float | None = None,
        high: float | None = None, n: int | None = None, replace: bool = False,
    ) -> Metric:  # fmt: skip
        """Records a metric under a name such as "spearman/nb201/help/mean".

        value: a number; or {seed: number} or a sequence in the order of the session's seeds, of which mean
        and t-interval are taken. low, high, n: an interval of one's own (a bootstrap, say) and the
        repetitions behind it. Raises ValueError for nan, a name that is taken (unless replace), seeds that
        are not the session's.
        """
        if not isinstance(name, str) or not name.strip():
            raise ValueError("a metric needs a name")
        if name in self.metrics and not replace:
            raise ValueError(f"metric {name!r} is recorded already; pass replace=True to overwrite it")
        per_seed = self._per_seed(name, value)
        given = {"paper": _float(paper), "unit": unit}
        metric = Metric(float(value), **given) if per_seed is None else over_seeds(per_seed, **given)
        ends = {} if low is None and high is None else {"low": _float(low), "high": _float(high)}
        repetitions = {} if n is None else {"n": int(n)}
        self.metrics[name] = replaced(metric, **ends, **repetitions)
        return self.metrics[name]

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
            counts = f"{len(values)} values for {len(self.seeds)} seeds"
            raise ValueError(f"metric {name!r}: {counts}; give a number with low, high and n")
        return dict(zip(self.seeds, values, strict=True))

    def claim(
        self, id: str, statement: str, *, metrics: Iterable[str], test: str, rule: Rule, note: str = ""
    ) -> Claim:
        """Judges a claim of the paper by `rule` (`nbpkg.report.verdicts`); `test` says what that does.

        rule: from {name: Metric} to a verdict or (verdict, note). It runs here and again in `finish`, should
        a metric be replaced. Raises ValueError for a metric that is not recorded, an id that is taken, a
        verdict that is none.
        """
        names = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        if any(claim.id == id for claim in self.claims):
            raise ValueError(f"claim {id!r} is recorded already")
        claim = self._judged(Claim(id, statement, names, test, "not tested"), rule, note)
        self.claims.append(claim)
        self._rules[id] = (rule, note)
        return claim

    def judge_again(self) -> None:
        """Judges every claim by the metrics as they are now."""
        rules = self._rules
        self.claims = [self._judged(one, *rules[one.id]) if one.id in rules else one for one in self.claims]

    def _judged(self, claim: Claim, rule: Rule, note: str) -> Claim:
        missing = [name for name in claim.metrics if name not in self.metrics]
        if missing:
            raise ValueError(f"claim {claim.id!r}: there is no metric {missing[0]!r}")
        result = rule({name: self.metrics[name] for name in claim.metrics})
        verdict, computed = result if isinstance(result, tuple) else (result, "")
        verdict = TOO_SMALL if self.smoke else verdict
        return replaced(claim, verdict=verdict, note="; ".join(part for part in (note, computed) if part))

    def claims_by_verdict(self) -> None:
        """Shows the statements of the claims as a list with an entry a verdict."""
        found: dict[str, list[str]] = {}
        for claim in self.claims:
            found.setdefault(claim.verdict, []).append(claim.statement)
        say("\n".join(f"- **{verdict}**: " + "; ".join(said) + "." for verdict, said in found.items()))

    def metrics_table(self, *names: str | Iterable[str]) -> None:
        """Shows metrics: all, or those with the given names or under the given prefixes ("spearman/nb201").

        Raises ValueError for a name under which there is none.
        """
        wanted = [name for item in names for name in ([item] if isinstance(item, str) else item)]
        chosen = dict.fromkeys(self.metrics if not names else ())
        for name in wanted:
            found = [key for key in self.metrics if key == name or key.startswith(name.rstrip("/") + "/")]
            if not found:
                raise ValueError(f"there is no metric {name!r}")
            chosen |= dict.fromkeys(found)
        say(metrics(self, chosen))


class FirstSession:
    """The part of a session itself that only chapters of the first edition use; `Session` has its fields."""

    cache: ResultCache
    _sections: dict[str, Timing]
    _open: set[str]

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Times the block, summed by name, in wall and CPU seconds; cached results as when they were made."""
        if name == "total":
            raise ValueError('"total" is the sum of everything; call the section something else')
        if name in self._open:  # inside itself: the outer one counts
            yield
            return
        self._open.add(name)
        try:
            with self.cache.timed() as timing:
                yield
        finally:
            self._open.discard(name)
            section = self._sections.setdefault(name, Timing())
            section.add(timing.wall, timing.cpu)
            section.by_device.update(timing.by_device)

    @staticmethod
    def show(*things: Any) -> None:
        """Shows the source of classes, functions and methods of `nbpkg`, as the reader's own code is shown.

        Raises NbpkgError for what has no source.
        """
        for thing in things:
            try:
                text = inspect.cleandoc("\n" + inspect.getsource(thing))
            except (TypeError, OSError):
                raise NbpkgError(f"{thing!r} has no source that could be shown") from None
            say(f"`{thing.__qualname__}`, in `{thing.__module__}`:\n\n```python\n{text}\n```")


def metrics(record: Record, names: Iterable[str]) -> str:
    """The named metrics beside the paper's numbers."""
    found = [(name, record.metrics[name]) for name in names]
    rows = [(f"`{name}`", measured(metric), with_unit(metric.paper, metric)) for name, metric in found]
    return table(("metric", "ours", "paper"), rows)


def _float(value: Any) -> float | None:
    return None if value is None else float(value)
