"""Code that has moved since a published run, and what shows that it still measures the same.

A chapter's published outputs belong to the code that made them. Where the package is rearranged, calls in a
chapter change their form and nothing else. `results/moved.json` names such changes with their evidence: by
chapter the hash of the code that was run ("run"), that of the code now ("now"), and how many smoke metrics
of the two are equal to the last bit ("metrics"). `tests/references.py --same-as` writes it, from records.
"commit" is that of the package as it was run, where the history has it.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from nbpkg import chapters
from nbpkg.paths import root


def path() -> Path:
    """Where the entries stand; there need not be such a file."""
    return root() / "results" / "moved.json"


def entries() -> dict[str, dict]:
    """The entries by chapter."""
    return json.loads(path().read_text(encoding="utf-8")) if path().is_file() else {}


def covers(chapter: str, said: Mapping) -> bool:
    """Whether the code of a chapter has only moved since the run of which its notebook says `said`."""
    entry, now = entries().get(chapter, {}), chapters.code_sha256(chapter)
    return (entry.get("run"), entry.get("now")) == (said.get("source_sha256"), now)
