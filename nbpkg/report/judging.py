"""Verdicts on claims, from rows.

A claim compares `a` with `b` over what was repeated, its unit: trainings, tasks, devices. Its interval is of
the level that Holm's procedure gives it among the tests of its question; where its file names an n2, each of
the two looks has half the error rate.

| verdict | when, for the claim a > b |
|---|---|
| reproduced | the interval lies above zero, the estimate beyond the smallest effect |
| contradicted | the interval lies below zero, the estimate beyond the smallest effect |
| no effect | the interval lies inside the smallest effect, on both sides of zero |
| undecided | anything else; also an interval of no width, and another number of units than was planned |
| partly | of a claim with several cases: some are reproduced, some are not |
| not tested | the premise is not certain, or the file says why there is no test |

For a >= b ("not below") the interval must end above minus the smallest effect, for a = b lie inside it. A
claim with `unit = "exact"` is judged by its value alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from nbpkg.report.claims import QUESTIONS, Plan, premise
from nbpkg.report.location import LEVEL, TESTS, Location
from nbpkg.report.pairs import differences
from nbpkg.report.record import CONTRADICTED, NO_EFFECT, NOT_TESTED, PARTLY, REPRODUCED, UNDECIDED, Metric
from nbpkg.report.record import Claim as Judged


@dataclass
class _Case:
    """One test of a claim, and what is made of it. by_unit: (units,)."""

    test: dict
    name: str
    where: dict
    smallest: float
    by_unit: np.ndarray
    low: float = np.nan
    high: float = np.nan
    verdict: str = UNDECIDED
    notes: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.exact = self.test["unit"] == "exact"
        self.at = Location(self.by_unit, "t" if self.exact else self.test.get("test", "t"))
        self.alpha = (1 - LEVEL) / (2 if "n2" in self.test else 1)

    @property
    def p(self) -> float:
        """The two-sided p-value that agrees with the interval: of no difference, or of one too large."""
        if not self.at.spreads:
            return 1.0
        up, down = self.at.tail(-self.smallest, 1), self.at.tail(self.smallest, -1)
        ends = {"a >= b": up, "a <= b": down, "a = b": max(up, down)}
        return min(1.0, 2 * ends.get(self.test["rule"], min(self.at.tail(0, 1), self.at.tail(0, -1))))

    def settle(self, share: float = 1.0) -> None:
        """The interval at this share of the error rate, and the verdict that follows from it."""
        self.alpha *= share
        planned = [self.test[name] for name in ("n", "n2") if name in self.test]
        if self.exact:
            self.low = self.high = self.at.estimate
        elif self.at.spreads:
            self.low, self.high = self.at.interval(self.alpha)
        if not (self.exact or self.at.spreads):
            self.notes.append("every unit gives the same, which settles nothing")
        elif not self.exact and len(self.by_unit) not in planned:
            self.notes.append(f"{len(self.by_unit)} units, planned {' or '.join(map(str, planned))}")
        else:
            self.verdict = verdict(self.test["rule"], self.at.estimate, self.low, self.high, self.smallest)

    @property
    def holds_side(self) -> bool:
        """Whether the whole interval lies on the claim's side of zero."""
        return self.high < 0 if "<" in self.test["rule"] else self.low > 0


def verdict(rule: str, estimate: float, low: float, high: float, smallest: float) -> str:
    """The verdict on `rule` by an estimate of a - b, its interval and the smallest effect that matters."""
    if "<" in rule:
        estimate, low, high = -estimate, -high, -low
    inside = -smallest <= low and high <= smallest
    if rule == "a = b":
        beyond = (low > 0 or high < 0) and abs(estimate) > smallest
        return REPRODUCED if inside else CONTRADICTED if beyond else UNDECIDED
    if (low >= -smallest) if "=" in rule else (low > 0 and estimate > smallest):
        return REPRODUCED
    if high < 0 and estimate < -smallest:
        return CONTRADICTED
    return NO_EFFECT if inside else UNDECIDED


def judge(frames: Mapping[str, pd.DataFrame], plan: Plan) -> pd.DataFrame:
    """The verdict on every claim of a plan, by the rows in `frames`: a row a claim, or one and those of its
    cases.

    Columns: id, case, estimate, low, high, level, n, p, smallest, verdict, note. Raises NbpkgError, naming
    the claim, for a frame, a column or rows that are not there.
    """
    cases = {claim["id"]: list(_cases(frames, plan, claim)) for claim in plan.claims}
    for question in QUESTIONS:
        asked = [case for found in cases.values() for case in found if case.test["question"] == question]
        _holm([case for case in asked if not case.exact])
        for case in asked:
            if case.exact:
                case.settle()
            if test := premise(case.test):
                held = _case(frames, plan, test, case.where, f"claim {case.test['id']}, premise")
                held.settle()
                if held.verdict != REPRODUCED:
                    case.verdict = NOT_TESTED
                    case.notes.append(f"the premise is {held.verdict}: {test['says']}")
    return pd.DataFrame([row for claim in plan.claims for row in _judged(claim, cases[claim["id"]])])


def _cases(frames: Mapping[str, pd.DataFrame], plan: Plan, claim: dict) -> Iterator[_Case]:
    for name, where in plan.cases(claim) if "not_tested" not in claim else ():
        yield _case(frames, plan, claim, where, f"claim {claim['id']} {name}".rstrip(), name)


def _case(frames, plan: Plan, test: dict, where: dict, label: str, name: str = "") -> _Case:
    by_unit = differences(frames, test, where, label)
    return _Case(test, name, where, plan.smallest[test["value"]], by_unit)


def _holm(cases: list[_Case]) -> None:
    """Settle the tests of one question: the k-th of m by p gets 1/(m - k + 1) of the error rate, until one
    fails, whose share the rest has too."""
    share, failed = 1.0, False
    for done, case in enumerate(sorted(cases, key=lambda case: case.p)):
        share = share if failed else 1 / (len(cases) - done)
        case.settle(share)
        failed = failed or case.p > case.alpha


def _judged(claim: dict, cases: list[_Case]) -> Iterator[dict]:
    seen = [f"seen in design: {claim['seen']}"] if "seen" in claim else []
    if len(cases) != 1:
        notes = [*filter(None, [claim.get("not_tested")]), *seen]
        yield {"id": claim["id"], "case": "", "verdict": _combined(cases), "note": "; ".join(notes)}
        seen = []
    for case in cases:
        p = [] if case.exact else [f"p = {case.p:.2g} at {case.alpha:.2g}"]
        yield {
            "id": claim["id"], "case": case.name, "estimate": case.at.estimate, "low": case.low,
            "high": case.high, "level": 1 - case.alpha, "n": len(case.by_unit), "p": case.p,
            "smallest": case.smallest, "verdict": case.verdict, "note": "; ".join([*p, *case.notes, *seen]),
        }  # fmt: skip


def _combined(cases: list[_Case]) -> str:
    """The verdict on a claim with several cases; not tested without any."""
    found = {case.verdict for case in cases} or {NOT_TESTED}
    if len(found) == 1:
        return found.pop()
    if REPRODUCED in found:
        return PARTLY
    other = CONTRADICTED in found and not any(case.holds_side for case in cases)
    return CONTRADICTED if other else UNDECIDED


def entries(judged: pd.DataFrame, plan: Plan) -> tuple[list[Judged], dict[str, Metric]]:
    """The claims and metrics of a record that hold what was judged."""
    claims, metrics = [], {}
    for claim in plan.claims:
        rows = judged[judged["id"] == claim["id"]].to_dict("records")
        tested = {f"{claim['id']}/{r['case']}".rstrip("/"): r for r in rows if r.get("n", 0) > 0}
        for name, row in tested.items():
            known = np.isfinite([row["low"], row["high"]]).all()
            ends = (row["low"], row["high"]) if known else (None, None)
            metrics[name] = Metric(row["estimate"], *ends, int(row["n"]), claim.get("paper"))
        parts = [f"{r['case']} {r['verdict']}: {r['note']}" if r["case"] else r["note"] for r in rows]
        of_plan = {name: claim.get(name, "") for name in ("question", "whose", "seen")}
        words = _words(claim, plan.smallest[claim["value"]]) if tested else "none"
        said = claim["id"], claim["says"], tuple(tested), words, rows[0]["verdict"]
        claims.append(Judged(*said, "\n".join(filter(None, parts)), **of_plan))
    return claims, metrics


def _words(claim: dict, smallest: float) -> str:
    """What the test of a claim is, in words."""
    exact = claim["unit"] == "exact"
    how = "exact" if exact else f"by {claim['unit']}, {TESTS[claim.get('test', 't')]}"
    what = f"{claim['value']}: {claim['rule']}; a: {claim['a']}; b: {claim['b']}"
    return f"{how}; smallest effect {smallest:g}; {what}"
