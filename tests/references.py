"""Reference metrics of smoke runs, with the tolerances within which every machine must reach them.

    python tests/references.py --spread [CHAPTER ...]   measure how far metrics move, write the references
    python tests/references.py --same-as FOLDER         compare runs/smoke with the records in FOLDER

`--spread` runs the chapters under the `SETTINGS` below: other instruction sets, another number of threads,
initial weights and noise that differ by a rounding. How far a metric moves there is how far another processor
may move it. It goes on where it stopped; the records lie under runs/spread. A reference holds

- "compared": metrics with a tolerance, `ROOM` times the widest spread of their kind; 0 lies outside unless
  the metric is 0 itself, and then "why" says so;
- "jumps": metrics that a rounding moves so far that they cannot be told from 0 (ranks of a few items, single
  choices, differences of nearly equal numbers), and those that "choices" names: they must be there;
- "means": of each kind of which at least `MANY` members jump, their mean, within its own tolerance;
- "ignored", "choices": patterns written by hand, with the reason; kept when a reference is made anew.

`--same-as` compares bit by bit, and notes in results/moved.json which chapters' code has changed and measures
the same.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import unittest.mock
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

FOLDER = Path(__file__).parent / "reference"
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2"}
EVERY_AVX2 = {
    **AVX2,
    "OPENBLAS_CORETYPE": "Haswell",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}
PERTURBED = str(Path(__file__).parent / "perturbed")
SETTINGS = {
    "plain": {},
    "avx2": AVX2,
    "avx2-in-every-library": EVERY_AVX2,
    "two-threads": {"NBPKG_THREADS": "2"},
    **{f"rounding-{i}": {"NBPKG_PERTURB": str(i), "PYTHONPATH": PERTURBED} for i in (1, 2, 3)},
}
#: A tolerance is so many times the spread that was seen: seven settings do not show the widest there is.
ROOM = 3.0
#: And at least this share of the value: libraries that were not tried here round differently.
LEAST = 0.03
#: And at least this much; what is smaller is 0 but for rounding.
NOISE = 1e-5
#: So many jumping metrics of a kind are compared by their mean.
MANY = 5


def path(chapter: str, profile: str = "smoke") -> Path:
    """Where the reference of a chapter lies."""
    return FOLDER / profile / f"{chapter}.json"


def load(chapter: str) -> dict:
    """The reference of a chapter; FileNotFoundError, saying how it is made, when there is none."""
    if not path(chapter).is_file():
        raise FileNotFoundError(f"no reference: `python tests/references.py --spread {chapter}` makes it")
    return json.loads(path(chapter).read_text(encoding="utf-8"))


def values(record: dict) -> dict[str, float]:
    """The metrics of a record (plain JSON types) by name."""
    return {name: metric["value"] for name, metric in record["metrics"].items()}


# ------------------------------------------------------------------------------ comparing


def differences(record: dict, reference: dict) -> list[str]:
    """One line for each thing in which a record leaves its reference."""
    found = []
    for field in ("chapter", "profile", "seeds"):
        if record[field] != reference[field]:
            found.append(f"{field}: {record[field]!r}, in the reference {reference[field]!r}")
    claims = [claim["id"] for claim in record["claims"]]
    if claims != reference["claims"]:
        found.append(f"claims: {claims}, in the reference {reference['claims']}")
    measured = {
        name: value for name, value in values(record).items() if not matches(name, reference["ignored"])
    }
    for name in sorted(measured.keys() ^ {*reference["compared"], *reference["jumps"]}):
        found.append(f"{name}: not in the {'reference' if name in measured else 'record'}")
    means = _means({name: measured[name] for name in reference["jumps"] if name in measured}, measured)
    for what, entries in ((measured, reference["compared"]), (means, reference["means"])):
        for name in sorted(what.keys() & entries.keys()):
            value, wanted, allowed = what[name], entries[name]["value"], entries[name]["within"]
            if not abs(value - wanted) <= allowed:
                found.append(f"{name}: {value:.6g}, in the reference {wanted:.6g} +- {allowed:.3g}")
    return found


def matches(name: str, rules: list[dict]) -> bool:
    """Whether one of the rules, each with a "pattern" as in file names, is about the metric `name`."""
    return any(fnmatchcase(name, rule["pattern"]) for rule in rules)


# ------------------------------------------------------------------------------ making a reference


def kinds(names: Collection[str]) -> dict[str, str]:
    """The kind of each metric: its name with a `*` for what tells the members of the kind apart.

    That is the last part of the name; or the part before it, where several such parts share their last one.

    >>> sorted(set(kinds(["tau/digits/a", "tau/digits/b", "mse/a/mean", "mse/b/mean"]).values()))
    ['mse/*/mean', 'tau/digits/*']
    """
    sharing: dict[str, set[str]] = {}
    for name in names:
        *start, middle, last = ["", *name.split("/")]
        sharing.setdefault("/".join([*start[1:], "*", last]), set()).add(middle)
    found = {}
    for name in names:
        *start, _, last = ["", *name.split("/")]
        across = "/".join([*start[1:], "*", last])
        alone = len(start) < 2 or len(sharing[across]) == 1
        found[name] = f"{name.rpartition('/')[0]}/*".lstrip("/") if alone else across
    return found


def _means(jumping: dict[str, float], everything: Collection[str]) -> dict[str, float]:
    """The mean of each kind that has at least `MANY` members in `jumping`."""
    kind, groups = kinds(everything), {}
    for name, value in jumping.items():
        groups.setdefault(kind[name], []).append(value)
    return {name: sum(group) / len(group) for name, group in groups.items() if len(group) >= MANY}


def _rounded(within: float) -> float:
    """A tolerance as the file has it: what is said of it must hold for the number that stands there."""
    return float(f"{within:.2g}")


def derive(records: list[dict], ignored: list[dict], choices: list[dict]) -> dict:
    """The reference of a chapter from its records under all settings, the plain one first."""
    runs = [{n: v for n, v in values(record).items() if not matches(n, ignored)} for record in records]
    plain, kind = runs[0], kinds(runs[0])
    if any(run.keys() != plain.keys() for run in runs):
        raise SystemExit(f"{records[0]['chapter']}: the settings measured different metrics")
    spread = {name: max(abs(run[name] - value) for run in runs) for name, value in plain.items()}
    widest: dict[str, float] = {}
    for name, moved in spread.items():
        widest[kind[name]] = max(moved, widest.get(kind[name], 0.0))
    compared, jumps = {}, {}
    for name, value in plain.items():
        within = _rounded(max(ROOM * widest[kind[name]], LEAST * abs(value), NOISE))
        entry = {"value": value, "within": within}
        if matches(name, choices):
            jumps[name] = {"value": value, "moves": spread[name]}
        elif abs(value) > within:
            compared[name] = entry
        elif abs(value) <= NOISE and within <= NOISE:
            compared[name] = {**entry, "why": "it is 0 under every setting, but for rounding"}
        else:
            jumps[name] = {"value": value, "moves": float(f"{widest[kind[name]]:.2g}")}
    groups = [_means({name: run[name] for name in jumps}, run) for run in runs]
    means = {}
    for name, value in groups[0].items():
        within = _rounded(max(ROOM * max(abs(group[name] - value) for group in groups), LEAST * abs(value)))
        if abs(value) > within:
            means[name] = {"value": value, "within": within}
    record = records[0]
    return {
        **{field: record[field] for field in ("chapter", "profile", "seeds")},
        "claims": [claim["id"] for claim in record["claims"]],
        "made on": record["device"],
        "settings": list(SETTINGS),
        **{"ignored": ignored, "choices": choices, "compared": compared, "means": means, "jumps": jumps},
    }


def text_of(reference: dict) -> str:
    """A reference as JSON, one metric a line."""
    parts = []
    for field, content in reference.items():
        if field in ("ignored", "choices", "compared", "means", "jumps") and content:
            rows = (
                content
                if isinstance(content, list)
                else [{"": key, **entry} for key, entry in content.items()]
            )
            lines = [json.dumps(row, ensure_ascii=False) for row in rows]
            if isinstance(content, dict):
                lines = [re.sub(r'^\{"": ("(?:[^"\\]|\\.)*"), ', r"\1: {", line) for line in lines]
            ends = "[]" if isinstance(content, list) else "{}"
            body = f"{ends[0]}\n  " + ",\n  ".join(lines) + f"\n {ends[1]}"
        else:
            body = json.dumps(content, ensure_ascii=False)
        parts.append(f" {json.dumps(field)}: {body}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


# ------------------------------------------------------------------------------ measuring the spread


def measure(chapters: Iterable[str]) -> None:
    """Run the chapters under every setting, as scripts with a cache of their own; what is there is kept."""
    from nbpkg import machine

    for setting, variables in SETTINGS.items():
        folder = records_folder() / setting
        left = [name for name in chapters if not _is_of_this_code(folder / f"{name}.json", name)]
        given = {**variables, "NBPKG_CACHE": str(folder / "cache")}
        if "PYTHONPATH" in variables and os.environ.get("PYTHONPATH"):
            given["PYTHONPATH"] += os.pathsep + os.environ["PYTHONPATH"]
        with (
            unittest.mock.patch.dict(os.environ, given),
            ThreadPoolExecutor(max(1, len(machine.usable_cpus()) // machine.threads())) as pool,
        ):
            for name, seconds in pool.map(_run, left, [folder] * len(left)):
                print(f"{setting}: {name} in {seconds:.0f} s", flush=True)


def records_folder() -> Path:
    """Where the records of the settings lie."""
    from nbpkg.chapters import runs_dir

    return runs_dir("spread")


def _is_of_this_code(record: Path, chapter: str) -> bool:
    from nbpkg import chapters

    if not record.is_file():
        return False
    made = json.loads(record.read_text(encoding="utf-8"))
    code = (chapters.code_sha256(chapter), chapters.package_sha256())
    return (made["source_sha256"], made["package_sha256"]) == code


def _run(chapter: str, folder: Path) -> tuple[str, float]:
    import shutil

    from nbpkg import chapters
    from nbpkg.runner.execution import Execution

    scratch = folder / f"{chapter}.work"
    shutil.rmtree(scratch, ignore_errors=True)
    job = Execution(chapters.get(chapter), "smoke", [0], "cpu", True, scratch)
    job.start()
    job.process.wait()
    result = job.result()
    if result["status"] != "done":
        raise SystemExit(f"{chapter} failed: {result['error']}\n{job.log()[-2000:]}")
    os.replace(job.record, folder / f"{chapter}.json")
    shutil.rmtree(scratch)
    return chapter, result["seconds"]


def write(chapters: Iterable[str]) -> None:
    """Make the references from the records under runs/spread, and print what there is to know of them."""
    widest, counts = [], []
    for name in chapters:
        records = [
            json.loads((records_folder() / setting / f"{name}.json").read_text()) for setting in SETTINGS
        ]
        old = load(name) if path(name).is_file() else {}
        ignored = old.get("ignored", [{"pattern": "*seconds*", "why": "a time is a property of the machine"}])
        made = derive(records, ignored, old.get("choices", []))
        path(name).parent.mkdir(parents=True, exist_ok=True)
        path(name).write_text(text_of(made), encoding="utf-8")
        zero = sum("why" in entry for entry in made["compared"].values())
        counts.append((name, len(made["compared"]), zero, len(made["jumps"]), len(made["means"])))
        for metric in made["compared"]:
            value = made["compared"][metric]["value"]
            moved = max(abs(values(record)[metric] - value) for record in records)
            widest.append((moved / max(abs(value), NOISE), name, metric, value, moved))
    header = ("chapter", "compared", "of them 0", "jumps", "means")
    counts.append(("all", *map(sum, zip(*[row[1:] for row in counts], strict=True))))
    for row in (header, *counts):
        print("  ".join(f"{cell!s:>10}" if place else f"{cell:22}" for place, cell in enumerate(row)))
    print("the ten that move most of their value, of those that are compared:")
    for share, name, metric, value, moved in sorted(widest, reverse=True)[:10]:
        print(f"  {100 * share:5.1f} %  {name}  {metric}  {value:.5g} moves by {moved:.3g}")


# ------------------------------------------------------------------------------ code that has moved


def unequal(before: dict, after: dict, ignored: list[dict]) -> list[str]:
    """The metrics of two records of a chapter that differ at all, or stand in one only; times aside."""
    old, new = values(before), values(after)
    names = {name for name in (*old, *new) if not matches(name, ignored)}
    return sorted(name for name in names if old.get(name) != new.get(name))


def same_as(folder: Path, chapters_: Iterable[str]) -> int:
    """Compare runs/smoke with the records in `folder`; returns how many chapters differ."""
    from nbpkg import chapters, paths
    from nbpkg.book import moved, notebook
    from nbpkg.chapters import runs_dir

    entries, failed = moved.entries(), 0
    for name in chapters_:
        before, after = (
            json.loads((home / f"{name}.json").read_text()) for home in (folder, runs_dir("smoke"))
        )
        ignored = load(name)["ignored"]
        different = unequal(before, after, ignored)
        equal = sum(not matches(metric, ignored) for metric in after["metrics"]) - len(different)
        print(
            f"{name}: {equal} metrics equal, {len(different)} not"
            + "".join(f"\n  {n}" for n in different[:5])
        )
        failed += bool(different)
        run = notebook.read(chapters.get(name).notebook).metadata.get("nbpkg", {}).get("source_sha256")
        known = {run, entries.get(name, {}).get("now") if entries.get(name, {}).get("run") == run else run}
        if run != after["source_sha256"] and not different and before["source_sha256"] in known:
            now = {"run": run, "now": after["source_sha256"], "metrics": equal}
            entries[name] = entries.get(name, {}) | now
    paths.write_text(moved.path(), json.dumps(dict(sorted(entries.items())), indent=1) + "\n")
    return failed


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    from nbpkg import chapters

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--spread", action="store_true", help="measure the spread and write the references")
    parser.add_argument("--same-as", metavar="FOLDER", type=Path, help="records of another state of the code")
    parser.add_argument("chapters", nargs="*", help="all by default")
    given = parser.parse_args(arguments)
    names = [chapters.get(name).name for name in given.chapters] or [c.name for c in chapters.existing()]
    if given.same_as:
        return same_as(given.same_as, names) > 0
    if given.spread:
        measure(names)
        write(names)
        return 0
    parser.error("say --spread or --same-as FOLDER")


if __name__ == "__main__":
    sys.exit(main())
