"""What a session notes and shows: metrics, claims, deviations, data, and their tables."""

from collections.abc import Mapping
from typing import Any

from nbpkg import data
from nbpkg.report import judging, tables
from nbpkg.report.claims import Plan
from nbpkg.report.record import TOO_SMALL, Claim, Deviation, Metric
from nbpkg.session.first_edition import FirstEdition, Rule
from nbpkg.session.show import say


class RunLog(FirstEdition):
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

    def deviation(self, text: str, effect: str) -> None:
        """Records a departure from the paper's set-up with its expected effect; numbered in order."""
        self.deviations.append(Deviation(len(self.deviations) + 1, text, effect))

    # The tables read metrics, claims and deviations, which a log has as a record has them.

    def claims_table(self) -> None:
        """Shows the claims with our numbers, the paper's, the test and the verdict."""
        say(tables.claims(self))

    def deviations_table(self) -> None:
        """Shows the numbered deviations."""
        say(tables.deviations(self))
