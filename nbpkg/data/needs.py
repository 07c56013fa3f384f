"""What a chapter needs before it can run, and the one command that fetches it."""

import itertools
import os
import tomllib
from pathlib import Path

from nbpkg.data import download, registry, store
from nbpkg.data.registry import DataSet

CHAPTERS = Path(__file__).with_name("chapters.toml")


def sets(chapters: list[str], profile: str) -> list[DataSet]:
    """The sets that these chapters need at `profile`, each once.

    chapters: numbers or names, as in 02 or 02_metad2a; one that the table does not know needs nothing.
    """
    if profile == "smoke":
        return []
    table = tomllib.loads(CHAPTERS.read_text(encoding="utf-8"))
    of_number = {c[:2]: table.get(c[:2], []) + table.get(f"{c[:2]} {profile}", []) for c in chapters}
    needed = (table.get(chapter, of_number[chapter[:2]]) for chapter in chapters)
    names = dict.fromkeys(itertools.chain.from_iterable(needed))
    return [registry.get(name) for name in names]


def lacking(chapters: list[str], profile: str) -> str:
    """One line that names the command which fetches what is not on this machine; "" when all is.

    Files are looked at by name and size only.
    """
    absent = {
        chapter[:2]: [item for item in sets([chapter], profile) if not all(map(store.present, item.files))]
        for chapter in chapters
    }
    of = ",".join(sorted(number for number in absent if absent[number]))
    needed = {item.name: item for items in absent.values() for item in items}
    if not needed:
        return ""
    size = sum(map(download.to_download, needed.values())) / 1e6
    command = f"{'!' * _hosted()}nbpkg data fetch --for {of} --profile {profile}"
    return (
        f"data that chapter {of} needs at {profile} are not on this machine ({size:.0f} MB to download): "
        f"run `{command}` first"
    )


def _hosted() -> bool:
    """Whether this is a notebook of Colab or Kaggle, where a command line begins with "!"."""
    return any(name in os.environ for name in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"))
