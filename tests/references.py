"""Reference metrics of smoke runs, with the tolerances within which another machine must reach them.

`python tests/references.py 03_help` writes `tests/reference/smoke/03_help.json` from the run in `runs/smoke`.
Tolerances that stand there already are kept: a list of {"pattern", "abs", "rel"} or
{"pattern", "ignore", "why"}; patterns are as in file names, and the first that matches counts.
"""

from __future__ import annotations

import json
import sys
from fnmatch import fnmatchcase
from pathlib import Path

FOLDER = Path(__file__).parent / "reference"
DEFAULT = [
    {"pattern": "*seconds*", "ignore": True, "why": "a time is a property of the machine"},
    {"pattern": "*", "abs": 0.03, "rel": 0.05},
]


def path(chapter: str, profile: str = "smoke") -> Path:
    """Where the reference of a chapter lies."""
    return FOLDER / profile / f"{chapter}.json"


def make(record: dict, tolerances: list[dict]) -> dict:
    """The reference of a record (both as plain JSON types)."""
    return {
        "chapter": record["chapter"],
        "profile": record["profile"],
        "seeds": record["seeds"],
        "tolerances": tolerances,
        "claims": [claim["id"] for claim in record["claims"]],
        "metrics": {name: metric["value"] for name, metric in record["metrics"].items()},
    }


def differences(record: dict, reference: dict) -> list[str]:
    """One line for each thing in which a record leaves its reference."""
    found = []
    for field in ("chapter", "profile", "seeds"):
        if record[field] != reference[field]:
            found.append(f"{field}: {record[field]!r}, in the reference {reference[field]!r}")
    claims = [claim["id"] for claim in record["claims"]]
    if claims != reference["claims"]:
        found.append(f"claims: {claims}, in the reference {reference['claims']}")
    for name in sorted(set(record["metrics"]) ^ set(reference["metrics"])):
        where = "reference" if name in record["metrics"] else "record"
        found.append(f"{name}: not in the {where}")
    for name in sorted(set(record["metrics"]) & set(reference["metrics"])):
        rule = next(rule for rule in reference["tolerances"] if fnmatchcase(name, rule["pattern"]))
        if rule.get("ignore"):
            continue
        value, wanted = record["metrics"][name]["value"], reference["metrics"][name]
        allowed = max(rule.get("abs", 0.0), rule.get("rel", 0.0) * abs(wanted))
        if not abs(value - wanted) <= allowed:
            found.append(f"{name}: {value:.6g}, in the reference {wanted:.6g} +- {allowed:.3g}")
    return found


def main(names: list[str]) -> int:
    """Write the references of the chapters called `names` from their smoke runs."""
    from nbpkg import chapters, runner_jobs

    for name in names:
        chapter = chapters.get(name).name
        record = json.loads((runner_jobs.runs_dir("smoke") / f"{chapter}.json").read_text(encoding="utf-8"))
        target = path(chapter)
        old = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {"tolerances": DEFAULT}
        target.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(make(record, old["tolerances"]), indent=1, ensure_ascii=False) + "\n"
        target.write_text(text, encoding="utf-8")
        print(f"{chapter}: {len(record['metrics'])} metrics")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
