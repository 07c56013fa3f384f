"""The chapters: their list, the cells of a twin, the hashes of its code, its method as a module."""

from nbpkg.chapters.catalogue import CHAPTERS, PROFILES, Chapter, existing, get
from nbpkg.chapters.hashes import ASIDE, TOOLING, code_sha256, hash_sources, hashed_files, package_sha256
from nbpkg.chapters.load import execute, load, register
from nbpkg.chapters.runs import file_sha256, keys, runs_dir, state
from nbpkg.chapters.twin import PARAMETERS, Cell, cells, check_parameters, parse

__all__ = [
    "ASIDE", "CHAPTERS", "PARAMETERS", "PROFILES", "TOOLING", "Cell", "Chapter", "cells", "check_parameters",
    "code_sha256", "execute", "existing", "file_sha256", "get", "hash_sources", "hashed_files", "keys",
    "load", "package_sha256", "parse", "register", "runs_dir", "state",
]  # fmt: skip
