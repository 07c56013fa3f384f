"""What is looked at before a run starts: its options, the chapters' parameters, the cores there are."""

from __future__ import annotations

import ast
import os
from collections.abc import Sequence

from nbpkg import chapters
from nbpkg.chapters import Chapter
from nbpkg.errors import NbpkgError


def check_options(profile: str, seeds: Sequence[int], device: str) -> list[int]:
    """The seeds as a list. Raises NbpkgError for an unknown profile or device, or seeds that make no list."""
    if profile not in chapters.PROFILES:
        raise NbpkgError(f"no profile is called {profile!r}; there are {', '.join(chapters.PROFILES)}")
    if device not in chapters.DEVICES:
        raise NbpkgError(f"no device is called {device!r}; there are {', '.join(chapters.DEVICES)}")
    seeds = list(seeds)
    if not seeds or len(set(seeds)) < len(seeds) or any(type(seed) is not int or seed < 0 for seed in seeds):
        raise NbpkgError(f"seeds must be different whole numbers from 0, for example 0,1,2; not {seeds}")
    return seeds


def check_parameters(chapter: Chapter) -> None:
    """Raises NbpkgError unless one parameters cell of the chapter sets exactly PROFILE, SEEDS and DEVICE.

    papermill only warns of a parameter that the notebook does not know; the chapter would run with its own.
    """
    found = [cell for cell in chapters.cells(chapter.name) if "parameters" in cell.tags]
    if len(found) != 1:
        raise NbpkgError(f"{chapter.name}: there must be one cell tagged parameters, not {len(found)}")
    names = []
    for statement in ast.parse(found[0].source).body:
        if not isinstance(statement, ast.Assign):
            raise NbpkgError(f"{chapter.name}: the parameters cell may only set parameters")
        names += [target.id for target in statement.targets if isinstance(target, ast.Name)]
    if sorted(names) != sorted(chapters.PARAMETERS):
        known = ", ".join(chapters.PARAMETERS)
        raise NbpkgError(
            f"{chapter.name}: the parameters cell must set {known}, not {', '.join(names) or 'nothing'}"
        )


def usable_cores() -> int:
    """The number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
