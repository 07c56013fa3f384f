"""What the documents say is what there is: commands, lock, environments, the Makefile's promises."""

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import threading
import time
import tomllib

import lock
import lowest
import pytest
import typer
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nbpkg.cli import app
from nbpkg.paths import root

ROOT = root()
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "book").glob("*.md"))]
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not on this machine")


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def targets():
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def commands(text, word):
    """Every `word ...` that stands in a code block or between back quotes."""
    blocks = re.findall(r"```(?:bash|console|sh)?\n(.*?)```", text, re.DOTALL)
    lines = [part for block in blocks for line in block.splitlines() for part in re.split(r"&&|;|\|", line)]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found = [line.split("#")[0].strip().removeprefix("$ ") for line in lines]
    return [line for line in found if re.match(rf"{word}\s+[a-z-]", line)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_command_has_a_target(path):
    for line in commands(path.read_text(), "make"):
        named = [word for word in shlex.split(line)[1:] if "=" not in word]
        assert set(named) <= targets(), line


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_nbpkg_command_and_option_exists(path):
    for line in commands(path.read_text(), "nbpkg"):
        command, words = typer.main.get_command(app), shlex.split(line)[1:]
        while words and hasattr(command, "commands"):
            assert words[0] in command.commands or words[0] == "load", line
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        for word in words:
            assert not word.startswith("--") or word.split("=")[0] in options, line


def test_readme_names_the_two_commands_and_ci_runs_them():
    named = commands((ROOT / "README.md").read_text(), "make")
    assert {"make book", "make test"} <= set(named)
    script = (ROOT / ".ci" / "run").read_text()
    assert "make test" in script and "make site STRICT=1" in script
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)


def workflows():
    return {
        path.stem: yaml.safe_load(path.read_text())
        for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    }


def test_the_workflows_run_what_readme_says():
    made = {}
    for name, workflow in workflows().items():
        steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
        made[name] = {word for run in steps for word in re.findall(r"\bmake ([a-z-]+)", run)}
        assert made[name] and made[name] <= targets()
    assert "test" in made["publish"] and "lowest" in made["lowest"] and "test-device" in made["device"]


def test_pages_wait_for_the_tests_alone():
    jobs = workflows()["publish"]["jobs"]
    assert "test" in jobs["site"]["needs"] and "lowest" not in jobs
    assert jobs["test"]["strategy"]["matrix"]["cpu"] == ["plain", "avx2"]


@pytest.mark.parametrize("name", list(lock.HEADERS))
def test_a_lock_pins_everything_exactly_once_with_hashes(name):
    found = lock.read(name)
    assert all(re.fullmatch(r"==[\w.]+", str(pin.requirement.specifier)) and pin.hashes for pin in found)
    names = [pin.name for pin in found]
    assert names == sorted(names) and "nbpkg" not in names
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and line[0] not in "# "]
    assert len(lines) == len(found)
    for pin in found:
        alike = [other.requirement.marker for other in found if other.name == pin.name]
        assert len(set(map(str, alike))) == len(alike) and (len(alike) == 1 or None not in alike)


def test_no_package_is_in_two_locks():
    names = [{pin.name for pin in lock.read(name)} for name in lock.HEADERS]
    assert len(set.union(*names)) == sum(map(len, names))


@pytest.mark.parametrize("extra", ["", "book", "cluster", "features", "measure", "test"])
def test_the_lock_satisfies_pyproject(extra):
    wanted = project()["optional-dependencies"][extra] if extra else project()["dependencies"]
    locked = {pin.name: pin for pin in lock.read() + lock.read(lock.MEASURE)}
    for requirement in map(Requirement, wanted):
        version = locked[canonicalize_name(requirement.name)].version
        assert requirement.specifier.contains(version, prereleases=True), (str(requirement), version)


def test_the_build_backend_is_in_the_lock():
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    locked = {pin.name for pin in lock.read()}
    assert {canonicalize_name(Requirement(line).name) for line in backend} <= locked


def test_every_lower_bound_can_be_tried():
    pins = {canonicalize_name(pin.name): pin.specifier for pin in map(Requirement, lowest.lowest())}
    for requirement in map(Requirement, project()["dependencies"]):
        version = next(iter(pins[canonicalize_name(requirement.name)])).version
        assert requirement.specifier.contains(version)
        assert f">={version}" in str(requirement.specifier)
    assert "torch==9.9" in lowest.lowest("9.9")


def test_environment_yml_is_python_and_the_locks():
    made = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, last = made["dependencies"]
    assert last == {"pip": ["-r requirements.lock", "-r requirements-cuda.lock"]} and "pip" in conda
    assert "pip install --no-deps -e ." in (ROOT / "environment.yml").read_text()
    assert made["name"] == project()["name"]


def test_the_lowest_python_is_said_alike_everywhere():
    floor = project()["requires-python"].removeprefix(">=")
    assert re.fullmatch(r"3\.\d+", floor) and lock.floor() == f"{floor}.0"
    for name in ("README.md", "book/how-to-use.md", "Makefile"):
        said = re.findall(r"Python (3\.\d+(?:\.\d+)?) or newer", (ROOT / name).read_text())
        assert said == [floor], name
    refused = re.findall(r"sys\.version_info < \((.*?)\)", (ROOT / "Makefile").read_text())
    assert refused == [floor.replace(".", ", ")]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert [line for line in conda if str(line).startswith("python")] == [f"python>={floor}"]
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    assert ruff["target-version"] == "py" + floor.replace(".", "")
    jobs = [job for workflow in workflows().values() for job in workflow["jobs"].values()]
    setups = [step["with"] for job in jobs for step in job["steps"] if "setup-python" in step.get("uses", "")]
    assert {setup["python-version"] for setup in setups} == {floor}


# The second line is a string to Python, a command to the shell: a first line takes no path with a space.
STUB = """\
#!/bin/sh
"exec" "{python}" "$0" "$@"
import os, pathlib, shutil, sys
arguments = sys.argv[1:]
if arguments[0] == "-c":
    answer = "STUB_NO_CUDA" if "torch" in arguments[1] else "STUB_OLD"
    sys.exit(int(os.environ.get(answer, "0")))
with open(os.environ["STUB_LOG"], "a") as log:
    log.write(" ".join(arguments) + "\\n")
if arguments[:2] == ["-m", "venv"]:
    assert "--clear" in arguments
    shutil.rmtree(".venv", ignore_errors=True)
    pathlib.Path(".venv/bin").mkdir(parents=True)
    shutil.copy(__file__, ".venv/bin/python")
if arguments[:2] == ["-m", "pip"]:
    sys.exit(int(os.environ.get("STUB_PIP", "0")))
"""


@pytest.fixture
def clone(tmp_path):
    """A folder with the Makefile and an interpreter that only notes what it is asked to do."""
    folder = tmp_path / "my book"
    folder.mkdir()
    for name in ("Makefile", "requirements.lock", "requirements-cuda.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    stub = tmp_path / "python stub"
    stub.write_text(STUB.format(python=sys.executable))
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    log = tmp_path / "log"

    def make(target="venv", **env):
        log.write_text("")
        done = subprocess.run(
            ["make", "-C", folder, "-s", target, f"PYTHON={stub}"],
            env={**os.environ, "STUB_LOG": str(log), "STUB_NO_CUDA": "1", "MAKEFLAGS": "", **env},
            capture_output=True,
            text=True,
        )
        return done, [line.removeprefix("-m ") for line in log.read_text().splitlines()]

    make.folder = folder
    return make


def modules(steps):
    return [step.split()[0] for step in steps]


@needs_make
def test_the_environment_is_made_once_also_in_a_folder_with_a_space(clone):
    done, steps = clone()
    assert done.returncode == 0 and modules(steps) == ["venv", *["pip"] * 4], done.stderr
    assert clone()[1] == []


@needs_make
def test_locks_are_installed_with_hashes_and_cuda_where_torch_asks_for_it(clone):
    hashed = "pip install --quiet --no-deps --require-hashes "
    torch = next(pin for pin in lock.read() if pin.name == "torch")
    first = [
        f"pip download --quiet --no-deps --dest .venv/torch torch=={torch.version}",
        hashed + "--no-index --find-links .venv/torch -r .venv/torch/lock",
        hashed + "-r requirements.lock",
    ]
    package = "pip install --quiet --quiet --no-deps --no-build-isolation -e ."
    assert clone()[1][1:] == [*first, package]
    (clone.folder / ".venv" / ".installed").unlink()
    assert clone(STUB_NO_CUDA="0")[1][1:] == [*first, hashed + "-r requirements-cuda.lock", package]


@needs_make
def test_an_interrupted_installation_starts_afresh(clone):
    done, _ = clone(STUB_PIP="1")
    assert done.returncode != 0
    assert modules(clone()[1]) == ["venv", *["pip"] * 4]
    assert clone()[1] == []


@needs_make
def test_a_second_make_waits_for_the_first_and_not_for_a_dead_one(clone):
    held = clone.folder / ".venv.lock"
    held.symlink_to("99999999")
    assert modules(clone()[1]) == ["venv", *["pip"] * 4] and not held.is_symlink()
    (clone.folder / ".venv" / ".installed").unlink()
    held.symlink_to(str(os.getpid()))
    threading.Timer(0.5, held.unlink).start()
    begun = time.monotonic()
    done, steps = clone()
    assert "waiting for another make" in done.stdout and time.monotonic() - begun > 0.5
    assert modules(steps) == ["venv", *["pip"] * 4] and not held.is_symlink()


@needs_make
def test_a_changed_lock_is_installed_over_the_old_one(clone):
    clone()
    for name in (lock.BASE, lock.CUDA):
        with open(clone.folder / name, "a") as file:
            file.write("# more\n")
        assert modules(clone()[1]) == ["pip"] * 4


@needs_make
def test_an_old_python_is_refused_in_one_line(clone):
    done, steps = clone(STUB_OLD="1")
    assert done.returncode != 0 and steps == []
    assert "Python 3.11 or newer is needed" in done.stderr


@needs_make
def test_book_runs_then_builds_and_site_run_shows_the_run(clone):
    clone()
    runs, site = "nbpkg.cli run --profile smoke", "nbpkg.cli site --from {} --profile smoke"
    assert clone("book")[1] == [runs, site.format("published")]
    assert clone("book", SITE="run", JOBS="2")[1] == [f"{runs} --jobs 2", site.format("run")]
    assert clone("site", STRICT="1")[1] == [site.format("published") + " --strict"]
    assert [step.split()[0] for step in clone("lint")[1]] == ["ruff"]
