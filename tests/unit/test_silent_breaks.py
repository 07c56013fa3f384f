"""What would change its meaning in silence when a file of the package moves: hashes, keys, shipped files."""

import importlib
import pkgutil
import shutil
import subprocess
import sys
import tomllib
import types
from fnmatch import fnmatch
from pathlib import Path

import pytest

import nbpkg
from nbpkg import chapters, paths
from nbpkg.errors import NbpkgError
from nbpkg.memo.fingerprint import content_hash, fingerprint
from nbpkg.memo.values import leaf
from nbpkg.session import Session

HOME = Path(nbpkg.__file__).parent


def modules():
    """Every module of the package that can be imported here, with the name of its file."""
    for found in pkgutil.walk_packages(nbpkg.__path__, "nbpkg."):
        if found.name.rpartition(".")[2] != "__main__":
            yield importlib.import_module(found.name)


# 1. The hash of the package is of the whole package but its tooling.


def test_the_package_hash_covers_every_file_but_tooling():
    every = {path.relative_to(HOME).as_posix() for path in HOME.rglob("*") if path.is_file()}
    every = {name for name in every if "__pycache__" not in name}
    tooling = {name for name in every if any(fnmatch(name, pattern) for pattern in chapters.TOOLING)}
    assert set(chapters.hashed_files()) == every - tooling
    for pattern in chapters.TOOLING:
        assert any(fnmatch(name, pattern) for name in every), f"{pattern} names no file any more"


def test_all_that_a_session_and_the_trainings_load_is_in_the_hash_or_named_as_tooling():
    code = (
        "import sys, nbpkg.session, nbpkg.zoo.loader, nbpkg.zoo.features, nbpkg.nets.downstream\n"
        "print(*(m.__file__ for n, m in list(sys.modules.items()) if n.split('.')[0] == 'nbpkg'), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {Path(line).relative_to(HOME).as_posix() for line in done.stdout.splitlines()}
    numberless = {"progress.py", "report/tables.py"}
    assert loaded - set(chapters.hashed_files()) <= numberless


# 2. A session stands for itself in keys, wherever its class is defined.


def test_a_session_is_left_out_of_fingerprints_and_refused_in_configurations():
    def train(session):
        return session.profile

    sessions = [Session("03_help", seeds=[seed]) for seed in (0, 1)]
    prints = [fingerprint(types.MethodType(train, session)) for session in sessions]
    assert prints[0] == prints[1]
    with pytest.raises(NbpkgError, match="a session cannot be part of a configuration"):
        content_hash(sessions[0])


# 3. Keys name a file of the package relative to the package.


def test_a_path_of_the_package_counts_the_same_wherever_it_is_installed():
    assert leaf(HOME / "data" / "embedded" / "latency.csv") == ["package path", "data/embedded/latency.csv"]
    assert leaf(HOME.parent / "README.md")[0] == "path"


# 4. Shipped tables lie where everybody looks for them.


def test_every_default_place_of_a_shipped_table_holds_it():
    from nbpkg.apps import retrieve, search
    from nbpkg.data import latency_table
    from nbpkg.nb201 import digits
    from nbpkg.zoo import loader

    for path in (
        paths.embedded(digits.FILE),
        latency_table.EMBEDDED,
        paths.embedded(search.FILE),
        paths.embedded(retrieve.FILE),
    ):
        assert path.is_file() and path.parent == HOME / "data" / "embedded"
    assert loader.committed("cells", "standard").parent == HOME / "data" / "embedded"
    assert paths.package() == HOME.resolve()


def test_the_list_of_checksums_names_every_shipped_file_and_damage_is_seen(tmp_path, monkeypatch):
    home = paths.embedded("")
    names = {path.name for path in home.iterdir()} - {"SHA256SUMS"}
    assert paths._sums().keys() == names
    for name in names:
        assert paths.intact(home / name).name == name
    monkeypatch.setattr(paths, "package", lambda: tmp_path)
    shutil.copytree(home, paths.embedded(""))
    for name in names:
        content = bytearray(paths.embedded(name).read_bytes())
        content[len(content) // 2] ^= 1
        paths.embedded(name).write_bytes(content)
        with pytest.raises(NbpkgError, match=f"{name}: its checksum"):
            paths.intact(paths.embedded(name))


# 5. Everything that is not code is packaged.


def test_package_data_names_every_file_that_is_no_module():
    project = tomllib.loads((paths.root() / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["nbpkg"]
    other = {path.relative_to(HOME).as_posix() for path in HOME.rglob("*") if path.is_file()}
    other = {name for name in other if not name.endswith((".py", ".pyc", ".part"))}
    assert other and all(any(fnmatch(name, pattern) for pattern in patterns) for name in other)
    for pattern in patterns:
        assert any(fnmatch(name, pattern) for name in other), f"{pattern} names no file any more"


# 6. Lower-case dicts, lists and sets of a module are caches, and left out of keys: there are only these.

CACHES = {"_loaded", "_nodes", "_texts"}


def test_only_known_caches_are_left_out_of_keys():
    kinds = (dict, list, set)
    found = {
        name
        for module in modules()
        for name, value in vars(module).items()
        if isinstance(value, kinds) and not name.isupper() and not name.startswith("__")
    }
    assert found <= CACHES, f"{found - CACHES} would be left out of memo keys: constants are in capitals"
