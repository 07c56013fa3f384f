"""A small book of its own for tests of the tools: a temporary repository with one or two tiny chapters."""

from __future__ import annotations

import json
from pathlib import Path

HEADER = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A tiny chapter
#
# It adds numbers.

# %% tags=["parameters"]
PROFILE = "smoke"
SEEDS = [0]
DEVICE = "auto"

# %% tags=["imports"]
import json
import os
from dataclasses import dataclass

from nbpkg import chapters
from nbpkg.report.record import Claim, Metric, Record
"""

METHOD = """\

# %% tags=["method"]
@dataclass
class Adder:
    step: int

    def __call__(self, x):
        return x + self.step

# %% tags=["nbval-check-output"]
add = Adder(step=2)
add(3)
"""

FINISH = """\

# %%
record = Record(
    chapter="{name}", profile=PROFILE, seeds=SEEDS, device="cpu", threads=1,
    source_sha256=chapters.code_sha256("{name}"), package_sha256=chapters.package_sha256(),
    versions={{"python": "3", "nbpkg": "0"}}, seconds={{"total": 1.5}}, cpu_seconds={{"total": 1.5}},
    peak_memory_mb=100.0,
    metrics={{"sum": Metric(float(add(sum(SEEDS))))}},
    claims=[Claim("adds", "It adds.", ("sum",), "by eye", "reproduced")],
)
record.save(os.environ["NBPKG_RECORD"])
print(f"seeds {{SEEDS}}")

# %% [markdown]
# That was all.
"""


class Book:
    """A repository in a temporary folder; `write` makes a chapter out of the parts above and `middle`."""

    def __init__(self, root: Path):
        self.root = root
        (root / "notebooks" / "src").mkdir(parents=True)
        (root / "_toc.yml").write_text("format: jb-book\nroot: README\n")
        (root / "README.md").write_text("# Book\n\n<!-- scoreboard:start -->\n<!-- scoreboard:end -->\n")

    def write(
        self, name: str = "03_help", middle: str = "", method: str = METHOD, finish: str = FINISH
    ) -> Path:
        path = self.root / "notebooks" / "src" / f"{name}.py"
        path.write_text(HEADER + method + middle + finish.format(name=name))
        return path

    def edit(self, old: str, new: str, name: str = "03_help") -> None:
        path = self.root / "notebooks" / "src" / f"{name}.py"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def state(self, name: str = "03_help", profile: str = "smoke") -> dict:
        return json.loads((self.root / "runs" / profile / f"{name}.state.json").read_text())

    def runs(self, profile: str = "smoke") -> set[str]:
        folder = self.root / "runs" / profile
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def finished_run(
    book: Book, profile: str = "standard", name: str = "03_help", outputs=None, record=None
) -> None:
    """Lay down what a finished run leaves: `outputs` by the code cell's number, `record` replaces fields."""
    import nbformat

    from nbpkg import chapters
    from nbpkg.book import notebook
    from nbpkg.report.record import Claim, Metric, Record

    chapter = chapters.get(name)
    keys = chapters.keys(chapter, profile, [0, 1, 2], "auto")
    executed = notebook.from_twin(chapter)
    for number, cell in enumerate(notebook.code_cells(executed)):
        cell.execution_count = number + 2  # the injected cell took a number
        cell.outputs = [nbformat.from_dict(output) for output in (outputs or {}).get(number, [])]
    injected = nbformat.v4.new_code_cell('PROFILE = "standard"', metadata={"tags": [notebook.INJECTED]})
    executed.cells.insert(2, injected)
    executed.metadata["papermill"] = {"input_path": "input.ipynb"}
    folder = chapters.runs_dir(profile)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.ipynb").write_text(notebook.text_of(executed))
    fields = {
        "chapter": name,
        "profile": profile,
        "seeds": [0, 1, 2],
        "device": "cpu (test)",
        "threads": 1,
        "source_sha256": keys["source_sha256"],
        "package_sha256": keys["package_sha256"],
        "versions": {"python": "3", "nbpkg": "0"},
        "seconds": {"total": 90.0},
        "cpu_seconds": {"total": 80.0},
        "metrics": {
            "sum": Metric(3.0, 2.5, 3.5, 3, paper=3.1, unit="ms"),
            "rest": Metric(0.5, paper=0.4),
        },
        "claims": [
            Claim("adds", "It adds | well.", ("sum",), "a t-interval", "reproduced"),
            Claim("rests", "It rests.", ("sum", "rest"), "by eye", "contradicted", "one run"),
        ],
    }
    path = Record(**{**fields, **(record or {})}).save(folder / f"{name}.json")
    state = {
        "status": "done",
        "mode": "notebook",
        "profile": profile,
        "seeds": [0, 1, 2],
        "seconds": 90.0,
        "record_sha256": chapters.file_sha256(path),
        **keys,
    }
    (folder / f"{name}.state.json").write_text(json.dumps(state))
