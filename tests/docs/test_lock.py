"""The locks install on every promised Python and platform: pip's dry run says which files it would take."""

import itertools
import json
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import lock
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

PYTHONS = (lock.floor(), "3.12.0", "3.13.0", "3.14.0")
PLATFORMS = ("linux-x86_64", "linux-aarch64", "macos-arm64")
OFFLINE = re.compile(r"connection broken by|Network is unreachable|name resolution|Max retries", re.I)
CASES = list(itertools.product(PYTHONS, PLATFORMS))
IDS = [f"{python}-{platform}" for python, platform in CASES]


class Resolved(NamedTuple):
    """What pip would install in one environment, and what it said."""

    code: int
    said: str
    wanted: list[lock.Pin]
    chosen: dict[str, dict]


def environment(python, platform):
    """The variables of markers, and pip's names of the files that fit: pip takes them literally."""
    system, machine = platform.split("-")
    variables = {
        "implementation_name": "cpython",
        "implementation_version": python,
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": {"linux": "Linux", "macos": "Darwin"}[system],
        "platform_version": "",
        "python_full_version": python,
        "python_version": python.rsplit(".", 1)[0],
        "sys_platform": {"linux": "linux", "macos": "darwin"}[system],
    }
    if system == "linux":
        tags = [f"manylinux_2_{minor}_{machine}" for minor in range(28, 4, -1)]
        tags += [f"manylinux{name}_{machine}" for name in ("2014", "2010", "1")]
    else:
        tags = [f"macosx_{major}_0_{kind}" for major in (14, 13, 12, 11) for kind in ("arm64", "universal2")]
        tags += [f"macosx_10_{minor}_universal2" for minor in range(16, 8, -1)]
    return variables, tags


def counting(case):
    """The pins that count in one environment."""
    names = [lock.BASE] + [lock.CUDA] * case[1].startswith("linux")
    return [pin for name in names for pin in lock.read(name) if pin.counts(environment(*case)[0])]


def resolve(case, folder, known=()):
    """pip's dry run of the pins that count in one environment; `known` has files that fit every one.

    The list has no hashes, and only what describes a file is fetched: with hashes pip downloads every file.
    """
    python, platform = case
    wanted = counting(case)
    chosen = {pin.name: known[pin.name, pin.version] for pin in wanted if (pin.name, pin.version) in known}
    pins, report = folder / f"{python}-{platform}.txt", folder / f"{python}-{platform}.json"
    pins.write_text("".join(f"{pin.name}=={pin.version}\n" for pin in wanted if pin.name not in chosen))
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    command += [f"--platform={tag}" for tag in environment(*case)[1]]
    command += ["--use-feature=fast-deps", "--retries=2", "--quiet"]
    command += [f"--target={folder / 'target'}", f"--report={report}", f"--requirement={pins}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        for entry in json.loads(report.read_text())["install"]:
            chosen[canonicalize_name(entry["metadata"]["name"])] = entry
    return Resolved(done.returncode, done.stderr, wanted, chosen)


def files(found, fitting):
    """The chosen files whose names match `fitting`, by package and version."""
    return {
        (pin.name, pin.version): found.chosen[pin.name]
        for pin in found.wanted
        if found.code == 0 and re.search(fitting, found.chosen[pin.name]["download_info"]["url"])
    }


@pytest.fixture(scope="module")
def resolved(tmp_path_factory):
    """Every environment, without asking again for a file that was chosen before and fits here too.

    The first is resolved in full; other platforms take over its pure Python files, and later Pythons the
    files of their platform that are not for one Python alone.
    """
    folder, first = tmp_path_factory.mktemp("resolved"), CASES[0]
    found = {first: resolve(first, folder)}
    if found[first].code != 0:
        return found
    pure = files(found[first], r"-none-any\.whl$")
    with ThreadPoolExecutor(4) as pool:
        lowest, later = CASES[1 : len(PLATFORMS)], CASES[len(PLATFORMS) :]
        found |= zip(lowest, pool.map(lambda case: resolve(case, folder, pure), lowest), strict=True)
        known = {case[1]: pure | files(found[case], r"-(none|abi3)-[^-]+\.whl$") for case in found}
        found |= zip(later, pool.map(lambda case: resolve(case, folder, known[case[1]]), later), strict=True)
    return found


def outcome(resolved, case):
    """What pip found, or a skip where it could not ask."""
    found = resolved.get(case, resolved[CASES[0]])  # the first failed, so the others were not tried
    if found.code != 0 and OFFLINE.search(found.said):
        pytest.skip("the package index cannot be reached, so the lock cannot be resolved")
    assert found.code == 0, found.said
    return found


def closure(chosen, variables):
    """Names of all that the extras of `make book` and `make test` need, by what the chosen files say."""
    project = tomllib.loads((lock.ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [
        line for extra in lock.EXTRAS for line in project["optional-dependencies"][extra]
    ]
    todo, seen = [(line, "") for line in lines], set()
    while todo:
        line, extra = todo.pop()
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({**variables, "extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        assert name in chosen, f"{line} is not in the lock"
        metadata = chosen[name]["metadata"]
        assert requirement.specifier.contains(metadata["version"].split("+")[0], prereleases=True), line
        for wanted in {"", *requirement.extras}:
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                todo += [(more, wanted) for more in metadata.get("requires_dist", [])]
    return {name for name, _ in seen}


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_pip_finds_a_listed_file_for_every_pin(resolved, case):
    found = outcome(resolved, case)
    assert set(found.chosen) == {pin.name for pin in found.wanted}
    for pin in found.wanted:
        archive = found.chosen[pin.name]["download_info"]["archive_info"]
        digest = archive.get("hashes", {}).get("sha256") or archive["hash"].removeprefix("sha256=")
        assert digest in pin.hashes, f"{found.chosen[pin.name]['download_info']['url']} is not listed"
        runs_on = SpecifierSet(found.chosen[pin.name]["metadata"].get("requires_python", ""))
        assert runs_on.contains(case[0]), f"{pin.name} {pin.version} needs Python {runs_on}"


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_the_lock_is_complete(resolved, case):
    found = outcome(resolved, case)
    needed = closure(found.chosen, environment(*case)[0])
    cuda = {pin.name for pin in lock.read(lock.CUDA)}
    assert {pin.name for pin in found.wanted} - cuda == needed - cuda
    assert cuda & set(found.chosen) == needed & cuda or not needed & cuda  # a CPU build wants none of them
