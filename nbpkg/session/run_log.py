"""What a session notes and shows: metrics, claims, deviations, data, and their tables."""

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace as replaced
from typing import Any

from nbpkg import data
from nbpkg.errors import NbpkgError
from nbpkg.report import judging, tables
from nbpkg.report.claims import Plan
from nbpkg.report.record import TOO_SMALL, Claim, Deviation, Metric

Rule = Callable[[dict[str, Metric]], str | tuple[str, str]]


def say(markdown: str) -> None:
    """Shows Markdown in a notebook, prints it in a script."""
    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:
        from IPython.display import Markdown, display

        display(Markdown(markdown))
    else:
        print(markdown)


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


class RunLog:
    """What goes into the record of a run: metrics by name, claims, numbered deviations, digests of data.

    seeds: the session's; smoke: whether it is too small for any verdict; within: the log of a session that
    this one's data is used for.
    """

    __memo_name__ = "session"  # no part of a memo key, as the session is none

    def __init__(self, seeds: list[int], smoke: bool = False, within: "RunLog | None" = None):
        self.seeds, self.smoke = seeds, smoke
        self.metrics: dict[str, Metric] = {}
        self.claims: list[Claim] = []
        self.deviations: list[Deviation] = []
        self.data: dict[str, str] = within.data if within else {}
        self._rules: dict[str, tuple[Rule, str]] = {}  # of each claim, with the note that was given

    def data_used(self, name: str) -> None:
        """Notes the digest of a registered data set. Raises NbpkgError when there is no such set."""
        self.data[name] = data.digest(name)

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
        metric = Metric(float(value), **given) if per_seed is None else Metric.over_seeds(per_seed, **given)
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

    def judge(self, frames: Mapping[str, Any], plan: Plan) -> Any:
        """Judges the claims of a plan by rows; they and their numbers are in the record from here on.

        Returns what `nbpkg.report.judge` does. Raises NbpkgError as that does.
        """
        judged = judging.judge(frames, plan)
        if self.smoke:
            judged["verdict"] = TOO_SMALL
        claims, metrics = judging.entries(judged, plan)
        self.claims += claims
        self.metrics |= metrics
        return judged

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

    def deviation(self, text: str, effect: str) -> None:
        """Records a departure from the paper's set-up with its expected effect; numbered in order."""
        self.deviations.append(Deviation(len(self.deviations) + 1, text, effect))

    # The tables read metrics, claims and deviations, which a log has as a record has them.

    def claims_table(self) -> None:
        """Shows the claims with our numbers, the paper's, the test and the verdict."""
        say(tables.claims(self))

    def claims_by_verdict(self) -> None:
        """Shows the statements of the claims as a list with an entry a verdict."""
        found: dict[str, list[str]] = {}
        for claim in self.claims:
            found.setdefault(claim.verdict, []).append(claim.statement)
        say("\n".join(f"- **{verdict}**: " + "; ".join(said) + "." for verdict, said in found.items()))

    def deviations_table(self) -> None:
        """Shows the numbered deviations."""
        say(tables.deviations(self))

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
        say(tables.metrics(self, chosen))


def _float(value: Any) -> float | None:
    return None if value is None else float(value)
