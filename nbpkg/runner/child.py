"""Executes one chapter once, in a process of its own: `python -m nbpkg.runner.child FOLDER`.

A process for each execution keeps threads and memory apart, and can be ended as a whole.
The folder holds `job.json` and gets every file that is made; `result.json` is written whether the chapter
succeeds or fails.
"""

import json
import math
import os
import sys
import time
import traceback
import types
from pathlib import Path

from nbpkg import chapters
from nbpkg.book import notebook
from nbpkg.parallel import leave_with_parent
from nbpkg.paths import write_text


class CellProgress:
    """Keeps one small file up to date with the cells done and the chapter's own last line."""

    def __init__(self, path: Path, total: int):
        self.path, self.total = path, total
        self.source, self.line, self.cell_seconds = "", "", []
        self.mark, self.written = time.monotonic(), -math.inf
        self._write()

    def cell_started(self, cell, cell_index: int) -> None:
        """nbclient's hook `on_cell_start`, which cells of text reach too: the cell before is done."""
        if cell_index:
            self.cell_done()
        self.source = cell.source

    def cell_done(self) -> None:
        now = time.monotonic()
        self.cell_seconds.append(round(now - self.mark, 3))
        self.mark, self.line = now, ""
        self._write()

    def write(self, text: str) -> None:
        """Take a printed text, as a file does: its last line is shown."""
        if text.strip():
            self.line = text.strip().splitlines()[-1].strip()[:100]
            self._write()

    def flush(self) -> None:
        """Nothing is held back."""

    def _write(self) -> None:
        now, done = time.monotonic(), len(self.cell_seconds)
        if now - self.written < 0.2 and done < self.total:
            return
        self.written = now
        state = {"done": done, "total": self.total, "line": self.line, "cell_seconds": self.cell_seconds}
        write_text(self.path, json.dumps(state))


def execute_notebook(job: dict, folder: Path) -> dict:
    """Execute `input.ipynb` of the folder through papermill; returns the result without its seconds."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    # papermill puts one cell in.
    source = folder / "input.ipynb"
    progress = CellProgress(folder / "progress.json", len(notebook.read(source).cells) + 1)
    times = {"start_timeout": 180, "execution_timeout": job["cell_timeout"], "autosave_cell_every": 0}
    shown = {"progress_bar": False, "stdout_file": progress, "on_cell_start": progress.cell_started}
    where = {"kernel_name": "python3", "cwd": job["cwd"]}
    try:
        executed = papermill.execute_notebook(
            source, folder / "executed.ipynb", job["parameters"], **times, **shown, **where
        )
    except PapermillExecutionError as error:
        said = f"{error.ename}: {notebook.headline(error.evalue, 200)}"
        if error.ename == "CellExecutionError":  # an unknown magic: the reason is printed
            cells = notebook.read(folder / "executed.ipynb").cells
            printed = [o.text for cell in cells for o in cell.get("outputs", ()) if o.get("name") == "stderr"]
            said = notebook.headline("".join(printed[-1:]), 200)
        return _failure(error.source, said)
    except CellTimeoutError:
        return _failure(progress.source, f"took longer than {job['cell_timeout']} s")
    except DeadKernelError:
        return _failure(progress.source, "the kernel died; was there enough memory?")
    # papermill takes a cell that leaves by sys.exit() for a success and never looks at the cells after it.
    for cell in (cell for cell in executed.cells if cell.cell_type == "code" and cell.source.strip()):
        if any(output.output_type == "error" for output in cell.outputs):
            return _failure(cell.source, "the cell left the program")
        if cell.execution_count is None:
            return _failure(cell.source, "the cell was never executed")
    progress.cell_done()
    return {"status": "done", "cell_seconds": progress.cell_seconds}


def execute_script(job: dict, folder: Path) -> dict:
    """Execute the twin of `job` cell by cell in a fresh `__main__`, without Jupyter."""
    code = [cell for cell in chapters.cells(job["chapter"]) if cell.kind == "code"]
    progress = CellProgress(folder / "progress.json", len(code))
    module = types.ModuleType("__main__")
    digest = chapters.hash_sources([cell.source for cell in code])
    module.__file__ = chapters.register(job["chapter"], code, digest)
    sys.modules["__main__"] = module
    os.chdir(job["cwd"])
    for cell in code:
        try:
            chapters.execute(cell, module)
        except BaseException as error:  # sys.exit() inside a cell must not pass for success
            traceback.print_exc()
            return _failure(cell.source, f"{type(error).__name__}: {notebook.headline(str(error), 200)}")
        if "parameters" in cell.tags:
            vars(module).update(job["parameters"])
        progress.cell_done()
    return {"status": "done", "cell_seconds": progress.cell_seconds}


def _failure(source: str, error: str) -> dict:
    return {"status": "failed", "cell": notebook.headline(source), "error": error.rstrip(": ")}


def main(folder: Path) -> int:
    """Run the job described in the folder; returns 0 when a result was written."""
    leave_with_parent()
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    started = time.monotonic()
    try:
        result = (execute_script if job["mode"] == "script" else execute_notebook)(job, folder)
    except Exception as error:
        traceback.print_exc()
        result = _failure("", f"{type(error).__name__}: {notebook.headline(str(error), 200)}")
    result["seconds"] = round(time.monotonic() - started, 2)
    write_text(folder / "result.json", json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
