"""What a chapter claims before it is run: `notebooks/claims/NN_name.toml`, its form, its hash."""

import hashlib
import itertools
import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nbpkg.errors import NbpkgError
from nbpkg.paths import root

#: What a claim answers, by the key that its file uses.
QUESTIONS = {
    "nothing": "Better than nothing?",
    "rival": "Better than a strong simple rival?",
    "new": "Does what is new in it matter?",
}
#: From here on seeds are for pilots: nothing that they make is published.
PILOT = 1000
_OF_TEST = ("frame", "value", "a", "b", "rule", "unit", "n", "n2", "pair", "test")


@dataclass(frozen=True)
class Plan:
    """The claims file of a chapter, as it was written; `claims` has the defaults filled in."""

    chapter: str
    raw: dict

    @property
    def claims(self) -> list[dict]:
        return [{**self.raw.get("defaults", {}), **claim} for claim in self.raw["claim"]]

    @property
    def smallest(self) -> dict[str, float]:
        """The smallest effect that matters, by metric."""
        return {name: entry["size"] for name, entry in self.raw.get("smallest", {}).items()}

    @property
    def deviations(self) -> list[tuple[str, str]]:
        return [(entry["text"], entry["effect"]) for entry in self.raw.get("deviation", [])]

    @cached_property
    def sha256(self) -> str:
        """The hash of all that binds: claims and smallest effects; no deviations, comments or white space."""
        binding = {name: value for name, value in self.raw.items() if name != "deviation"}
        return hashlib.sha256(json.dumps(binding, sort_keys=True).encode()).hexdigest()

    def cases(self, claim: dict) -> Iterator[tuple[str, dict]]:
        """The cases of a claim: a name, empty for the only one, and the values of columns that make it."""
        each = claim.get("each", {})
        for values in itertools.product(*each.values()):
            yield "/".join(map(str, values)), dict(zip(each, values, strict=True))


def path_of(chapter: str) -> Path:
    """Where the claims of `chapter` stand; chapters of the first edition have no such file."""
    return root() / "notebooks" / "claims" / f"{chapter}.toml"


def find(chapter: str) -> Plan | None:
    """The claims file of a chapter, None without one. Raises NbpkgError, naming the field at fault."""
    try:
        path = path_of(chapter)
    except NbpkgError:  # no repository around: a hosted notebook
        return None
    return parse(path.read_text(encoding="utf-8"), chapter) if path.is_file() else None


def parse(text: str, chapter: str) -> Plan:
    """The plan in a claims file's text. Raises NbpkgError, naming the field at fault."""
    where = f"claims/{chapter}.toml"
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise NbpkgError(f"{where}: {error}") from None
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    schema = json.loads(Path(__file__).with_name("claims.schema.json").read_text(encoding="utf-8"))
    if error := best_match(Draft202012Validator(schema).iter_errors(raw)):
        place = "/".join(map(str, error.absolute_path)) or "top level"
        raise NbpkgError(f"{where}: {place}: {error.message[:200]}")
    plan = Plan(chapter, raw)
    for line in _faults(plan):
        raise NbpkgError(f"{where}: {line}")
    return plan


def _faults(plan: Plan) -> Iterator[str]:
    ids = [claim["id"] for claim in plan.claims]
    for claim in plan.claims:
        if ids.count(claim["id"]) > 1:
            yield f"claim {claim['id']} stands there twice"
        if "not_tested" in claim:
            continue
        for test in filter(None, (claim, premise(claim))):
            lacking = {"frame", "value", "a", "b", "rule", "unit"} - test.keys()
            lacking |= {"n"} - test.keys() if test.get("unit") != "exact" else set()
            if lacking:
                yield f"claim {claim['id']} lacks {', '.join(sorted(lacking))}"
            elif test["value"] not in plan.smallest:
                yield f"claim {claim['id']}: no smallest effect is given for {test['value']}"
            elif test.get("n2", test.get("n", 0) + 1) <= test.get("n", 0):
                yield f"claim {claim['id']}: n2 must be more than n"


def premise(claim: dict) -> dict:
    """The test that a claim's premise must pass, with what it does not say taken from the claim; or empty."""
    inherited = {name: claim[name] for name in _OF_TEST if name in claim}
    return {**inherited, **claim["premise"]} if "premise" in claim else {}
