"""The simulated GPU for the tests: built once, in the user's cache, and chapters run on it, each once."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fakecuda
import lock
import pytest
import torch
from summary import overview

HERE = Path(__file__).parent
FOUND = pytest.StashKey[list]()
# What needs the device in its own process is run by test_ground.py, in another one.
collect_ignore = [] if os.environ.get("NBPKG_SIMULATED") else ["simulated"]


def pytest_addoption(parser):
    parser.addoption("--all-chapters", action="store_true", help="run every chapter on the simulated GPU")


def _locked_torch() -> str:
    return next(pin.version for pin in lock.read() if pin.name == "torch")


@pytest.fixture(scope="session")
def simulated_gpu() -> dict[str, str]:
    """The environment of a process that is to have the simulated GPU.

    Skips where it cannot be built; with the locked torch on the hosted machine that is a failure.
    """
    why = fakecuda.lacking()
    locked = torch.__version__.split("+")[0] == _locked_torch()
    if why and os.environ.get("CI") == "true" and locked:
        pytest.fail(why)
    if why:
        pytest.skip(why)
    try:
        fakecuda.build()
    except subprocess.CalledProcessError as error:
        text = f"the simulated GPU does not compile for torch {torch.__version__}: {error.stderr[-2000:]}"
        if locked:
            pytest.fail(text)
        pytest.skip(text.splitlines()[0])
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return os.environ | threads | {"NBPKG_SIMULATED": "1", "PYTHONHASHSEED": "0"}


@pytest.fixture(scope="session")
def on_device(simulated_gpu, tmp_path_factory, request) -> Callable[..., dict]:
    """`on_device(chapter, *options)`: what `run_chapter.py` found; the same is run once."""
    folder, done = tmp_path_factory.mktemp("device"), request.config.stash.setdefault(FOUND, [])

    @functools.cache
    def run(chapter: str, *options: str) -> dict:
        out = folder / "-".join([chapter, *options]).replace("--", "")
        command = [sys.executable, HERE / "run_chapter.py", chapter, "--out", out, *options]
        process = subprocess.run(command, env=simulated_gpu, capture_output=True, text=True)
        path = out / f"{chapter}.json"
        assert path.is_file(), process.stderr[-3000:]
        found = json.loads(path.read_text())
        if not options:
            done.append(found)
        return found

    return run


def pytest_terminal_summary(terminalreporter, config):
    """The table of shares."""
    if done := config.stash.get(FOUND, []):
        terminalreporter.section("chapters on the simulated GPU")
        for line in overview(done):
            terminalreporter.write_line(line)
