"""Where runs of chapters leave their results, and what a result follows from."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from nbpkg.chapters.catalogue import PROFILES, Chapter
from nbpkg.chapters.hashes import code_sha256, package_sha256
from nbpkg.errors import NbpkgError
from nbpkg.machine import DEVICES, device_key
from nbpkg.paths import read_json, root


def runs_dir(profile: str) -> Path:
    """Where runs at `profile` leave their notebook, record and state; never committed."""
    return root() / "runs" / profile


def state(chapter: Chapter, profile: str) -> dict:
    """The state file of a chapter's last run at `profile`; empty when there is none."""
    return read_json(runs_dir(profile) / f"{chapter.name}.state.json")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def keys(chapter: Chapter, profile: str, seeds: list[int], device: str) -> dict[str, str]:
    """The hashes "source_sha256" and "package_sha256", and "key": over all that a run's result follows from.

    That is code cells, claims file, package, libraries, profile, seeds and device: the one that is found
    here, for "auto" too. Raises NbpkgError for a CUDA that is absent.
    """
    source, package = code_sha256(chapter.name), package_sha256()
    bound = [file_sha256(chapter.claims)] if chapter.claims.is_file() else []
    libraries = [sys.version, version("torch"), version("numpy")]
    parts = json.dumps([source, package, profile, list(seeds), device_key(device), libraries, *bound])
    key = hashlib.sha256(parts.encode()).hexdigest()
    return {"key": key, "source_sha256": source, "package_sha256": package}


def check_options(profile: str, seeds: Sequence[int], device: str) -> list[int]:
    """The seeds as a list. Raises NbpkgError for an unknown profile or device, or seeds that make no list."""
    if profile not in PROFILES:
        raise NbpkgError(f"no profile is called {profile!r}; there are {', '.join(PROFILES)}")
    if device not in DEVICES:
        raise NbpkgError(f"no device is called {device!r}; there are {', '.join(DEVICES)}")
    seeds = list(seeds)
    if not seeds or len(set(seeds)) < len(seeds) or not all(type(n) is int and 0 <= n < 2**32 for n in seeds):
        raise NbpkgError(f"seeds are different whole numbers from 0 to {2**32 - 1}, as in 0,1; not {seeds}")
    return seeds
