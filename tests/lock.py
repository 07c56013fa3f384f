"""The locks: what `make lock` makes from pyproject's ranges, and how tests read it.

`python tests/lock.py` resolves the ranges for every Python and platform at once and keeps the pins that stand
in the locks now; delete a line to let its package rise.
What only CUDA builds of torch need goes into a lock of its own, so that a CPU build installs without it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
BASE, CUDA, MEASURE = "requirements.lock", "requirements-cuda.lock", "requirements-measure.lock"
EXTRAS = ("book", "test", "features", "cluster")
CUDA_NAMES = re.compile(r"cuda-|nvidia-|triton$")
# Files that the package index does not have and that are as good, by package and version.
# PyTorch's own CPU build for CPython 3.11 on Linux (x86-64), from PyTorch's index of CPU builds.
MORE_HASHES = {"torch==2.13.0": ["6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"]}
HOW = """\
# Made by `make lock` from the ranges in pyproject.toml: one list for all Pythons and platforms.
# A marker says where a pin counts; a file whose hash is not listed is not installed.
"""
HEADERS = {
    BASE: "# Every package that `make book` and `make test` install, pinned; environment.yml wraps it.\n",
    CUDA: "# What CUDA builds of torch need on top of requirements.lock, pinned; CPU builds go without.\n",
    MEASURE: "# What re-measuring the embedded latency table needs on top of requirements.lock, pinned:\n"
    "# `nbpkg data measure-latency`, from the extra `measure`.\n",
}


class Pin(NamedTuple):
    """One entry of a lock."""

    name: str
    requirement: Requirement
    hashes: frozenset[str]
    text: str

    @property
    def version(self) -> str:
        return next(iter(self.requirement.specifier)).version

    def counts(self, environment: dict[str, str]) -> bool:
        """Whether the pin is meant for an environment, given as the variables of markers."""
        return self.requirement.marker is None or self.requirement.marker.evaluate(environment)


def parse(text: str) -> list[Pin]:
    """The entries of a lock: a requirement, its hashes line by line, comments that say who wants it."""
    pins = []
    for entry in re.findall(r"^[A-Za-z].*\n(?:[ \t].*\n)*", text, re.MULTILINE):
        requirement = Requirement(entry.splitlines()[0].rstrip("\\ "))
        hashes = frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", entry))
        pins.append(Pin(canonicalize_name(requirement.name), requirement, hashes, entry))
    return pins


def read(name: str = BASE) -> list[Pin]:
    """The entries of one of the locks."""
    return parse((ROOT / name).read_text(encoding="utf-8"))


def floor() -> str:
    """The lowest Python that pyproject promises, as in 3.11.0."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return f"{project['requires-python'].removeprefix('>=')}.0"


def only_for_cuda(pins: list[Pin]) -> set[str]:
    """Names of the CUDA libraries and of what nothing else wants."""
    parents = re.compile(r"# +(?:via +)?([a-z0-9-]+)")
    wanted_by = {pin.name: set(parents.findall(pin.text)) - {"via"} for pin in pins}
    found = {pin.name for pin in pins if CUDA_NAMES.match(pin.name)}
    while True:
        more = {name for name, by in wanted_by.items() if name not in found and by and by <= found}
        if not more:
            return found
        found |= more


def resolve(uv: str, extras: tuple[str, ...], preferences: str) -> list[Pin]:
    """What uv makes of the ranges and `extras`, preferring the pins in `preferences`."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "lock"
        target.write_text(preferences, encoding="utf-8")
        command = [uv, "pip", "compile", "--quiet", "pyproject.toml", "--universal", "--generate-hashes"]
        command += ["--python-version", floor(), "--no-header", "--output-file", str(target)]
        for extra in extras:
            command += ["--extra", extra]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return parse(target.read_text(encoding="utf-8"))


def with_more_hashes(pin: Pin) -> str:
    """The text of an entry, with the hashes that the index does not know."""
    known = MORE_HASHES.get(f"{pin.name}=={pin.version}", [])
    more = [digest for digest in known if digest not in pin.hashes]
    first, rest = pin.text.split("\n", 1)
    return "\n".join([first, *(f"    --hash=sha256:{digest} \\" for digest in more), rest])


def main() -> int:
    """Write the three locks."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        print("error: making the locks needs uv: pip install uv", file=sys.stderr)
        return 2
    old = "".join((ROOT / name).read_text(encoding="utf-8") for name in HEADERS if (ROOT / name).exists())
    pins = resolve(uv, EXTRAS, old)
    cuda = only_for_cuda(pins)
    names = {pin.name for pin in pins}
    preferences = "".join(pin.text for pin in pins) + old
    more = [pin for pin in resolve(uv, (*EXTRAS, "measure"), preferences) if pin.name not in names]
    parts = {
        BASE: [pin for pin in pins if pin.name not in cuda],
        CUDA: [pin for pin in pins if pin.name in cuda],
        MEASURE: more,
    }
    for name, part in parts.items():
        text = HEADERS[name] + HOW + "".join(map(with_more_hashes, part))
        (ROOT / name).write_text(text, encoding="utf-8")
        print(f"{name}: {len(part)} pins")
    return 0


if __name__ == "__main__":
    sys.exit(main())
