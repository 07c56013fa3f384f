"""Do the lower bounds in pyproject hold? `make lowest`, or `python tests/lowest.py [--torch VERSION]`.

Makes `.venv-lowest`, installs the lowest version of every direct dependency and whatever pip chooses for what
these need, imports every module of nbpkg, and runs a chapter at smoke as a script.
`--torch` keeps another torch, for machines that should not download the CUDA libraries of an old one.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv-lowest"
CHAPTER = "03_help"
RANGE = re.compile(r"([A-Za-z0-9._-]+)>=([0-9.]+)(?:,<[0-9.]+)?")
# Runs in the new environment: a module may lack only what an extra brings.
IMPORTS = """
import importlib, pkgutil, sys
import nbpkg
extras, failed, count = set(sys.argv[1:]), [], 0
for module in sorted(found.name for found in pkgutil.walk_packages(nbpkg.__path__, "nbpkg.")):
    try:
        importlib.import_module(module)
        count += 1
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        print(f"{module}: {error}" + (", which an extra brings" if missing in extras else ""))
        failed += [] if missing in extras else [module]
    except Exception as error:
        print(f"{module}: {type(error).__name__}: {error}")
        failed.append(module)
print(f"{count} modules imported")
sys.exit(bool(failed))
"""


def project() -> dict:
    """The table [project] of pyproject."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def lowest(torch: str | None = None) -> list[str]:
    """A pin to the lowest version of every direct dependency; `torch` stands in for its own bound."""
    pins = []
    for line in project()["dependencies"]:
        name, bound = RANGE.fullmatch(line).groups()
        pins.append(f"{name}=={torch if torch and name == 'torch' else bound}")
    return pins


def optional() -> list[str]:
    """Names, as they are imported, of packages that only extras ask for, and of what comes with Sphinx."""
    lines = [line for extra in project()["optional-dependencies"].values() for line in extra]
    names = {re.match(r"[A-Za-z0-9._-]+", line)[0].replace("-", "_") for line in lines}
    return sorted(names | {"sphinx", "docutils"})


def main(arguments: list[str]) -> int:
    """Install, import, run; the first step that fails ends it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", help="a version of torch instead of the lowest")
    torch = parser.parse_args(arguments).torch
    python = str(FOLDER / "bin" / "python")
    pins = lowest(torch)
    print("\n".join(pins), flush=True)
    environment = {**os.environ, "NBPKG_CACHE": str(FOLDER / "cache"), "PYTHONPATH": ""}
    steps = [
        [sys.executable, "-m", "venv", "--clear", str(FOLDER)],
        [python, "-m", "pip", "install", "--quiet", *pins],
        [python, "-m", "pip", "install", "--quiet", "--no-deps", "-e", "."],
        [python, "-c", IMPORTS, *optional()],
        [python, "-m", "nbpkg.cli", "run", CHAPTER, "--profile", "smoke", "--script", "--force"],
    ]
    for step in steps:
        code = subprocess.run(step, cwd=ROOT, env=environment).returncode
        if code:
            print(f"error: {' '.join(step[1:4])} ... ended with {code}", file=sys.stderr)
            return code
    print("the lower bounds hold")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
