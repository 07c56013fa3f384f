"""Changes single lines of the code and asks whether the tests see it: `make mutation`.

    python tests/mutation.py [NAME ...] [--check]

The changes stand in mutation.toml. Each is made in a copy of the repository, where the tests that read the
line run; a change that they do not see *survives*. What is known is kept under runs/mutation/, so that an
interrupted run goes on, and a change is tried again when the line's file, its tests or the list changed.
None of these tests reads a reference of the smoke runs. --check: only whether every line is where the list
says. Exit status 1 unless at least `LEAST` of them are seen.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIST = Path(__file__).with_name("mutation.toml")
LEAST = 0.94  # 44 of 47 in the audit that asked for this
COPIED = ("nbpkg", "notebooks", "book", "tests", "results", "pyproject.toml", "_toc.yml", "_config.yml")
COPIED += ("README.md", "jupytext.toml", "requirements.lock", "environment.yml", "Makefile")


def found(mutants: dict[str, dict]) -> list[str]:
    """What is wrong with the list: a line that does not stand once in its file, tests that are not there."""
    wrong = []
    for name, one in mutants.items():
        count = (ROOT / one["file"]).read_text("utf-8").count(one["old"])
        if count != 1 or one["old"] == one["new"]:
            wrong.append(f"{name}: {one['old']!r} stands {count} times in {one['file']}")
        wrong += [
            f"{name}: no tests/{path}"
            for path in one["tests"].split()
            if not (ROOT / "tests" / path).exists()
        ]
    return wrong


def key(one: dict) -> str:
    """Over what decides whether a mutant is seen, as far as it can be told from files."""
    files = [ROOT / one["file"]]
    for path in (ROOT / "tests" / name for name in one["tests"].split()):
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    parts = [json.dumps(one, sort_keys=True).encode(), *(path.read_bytes() for path in files)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def killed(copy: Path, one: dict) -> str:
    """The first test that fails with the change made, "" if none does; the copy is as before afterwards."""
    path = copy / one["file"]
    text = path.read_text("utf-8")
    path.write_text(text.replace(one["old"], one["new"]), "utf-8")
    tests = [str(copy / "tests" / name) for name in one["tests"].split()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests]
    env = os.environ | {"PYTHONPATH": str(copy), "NBPKG_ROOT": str(copy), "NBPKG_CACHE": str(copy / ".cache")}
    try:
        done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, timeout=900)
    except subprocess.TimeoutExpired:
        return "it hangs"
    finally:
        path.write_text(text, "utf-8")
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode not in (0, 1) and not lines:
        raise SystemExit(f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-400:]}")
    return lines[0].split(" - ")[0] if lines else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="some of the list's; else all")
    parser.add_argument("--check", action="store_true", help="look for the lines only")
    chosen = parser.parse_args()
    mutants = tomllib.loads(LIST.read_text("utf-8"))
    if unknown := set(chosen.names) - mutants.keys():
        parser.error(f"the list has no {min(unknown)!r}")
    mutants = {name: one for name, one in mutants.items() if not chosen.names or name in chosen.names}
    if wrong := found(mutants):
        print(*wrong, sep="\n")
        return 1
    if chosen.check:
        return 0
    home, survived = ROOT / "runs" / "mutation", []
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder)
        for part in COPIED:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.is_file():
                shutil.copy2(source, copy / part)
        for number, (name, one) in enumerate(mutants.items(), 1):
            note = home / f"{name}-{key(one)[:16]}.txt"
            if not note.is_file():
                note.write_text(killed(copy, one))
            by = note.read_text()
            print(f"{number:3}/{len(mutants)} {name}: {by or 'SURVIVED'}".replace(f"{copy}/", ""), flush=True)
            survived += [] if by else [name]
    print(f"{len(mutants) - len(survived)} of {len(mutants)} seen", *survived, sep="\n  ")
    return 0 if len(survived) <= (1 - LEAST) * len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
