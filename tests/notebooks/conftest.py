"""Executes every chapter at smoke once for all tests, or takes what `make book` has left."""

from __future__ import annotations

import pytest

from nbpkg import runner

BUDGET = {"seconds": 45, "MB": 2000}  # a chapter at smoke, on one core
_told: list[str] = []


@pytest.fixture(scope="session")
def smoke_runs() -> dict[str, runner.Outcome]:
    """What became of each written chapter at profile smoke, by name."""
    outcomes = runner.run(profile="smoke", echo=lambda line: None)
    for outcome in outcomes:
        if outcome.record:
            seconds, memory = outcome.record["seconds"]["total"], outcome.record["peak_memory_mb"]
            _told.append(
                f"{outcome.chapter} at smoke: {seconds:.0f} s of {BUDGET['seconds']}, "
                f"{memory:.0f} MB of {BUDGET['MB']}"
            )
    return {outcome.chapter: outcome for outcome in outcomes}


def pytest_terminal_summary(terminalreporter):
    for line in _told:
        terminalreporter.write_line(line)
