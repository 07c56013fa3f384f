"""Executes one chapter once, in a process of its own: `python -m nbpkg.runner.child JOB.json`.

A process for each execution keeps threads and memory apart, and can be ended as a whole.
The job names every file; the result file is written whether the chapter succeeds or fails.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
import types
from pathlib import Path

from nbpkg import chapters
from nbpkg.book import notebook
from nbpkg.book.notebook import headline
from nbpkg.paths import write_text


class Progress:
    """Keeps one small file up to date with the cells done and the chapter's own last line."""

    def __init__(self, path: str, total: int):
        self.path, self.total = Path(path), total
        self.done, self.line, self.cell_seconds = 0, "", []
        self.started = self.mark = time.monotonic()
        self.written = 0.0
        self.write(force=True)

    def cell_done(self) -> None:
        now = time.monotonic()
        self.cell_seconds.append(round(now - self.mark, 3))
        self.mark = now
        self.done += 1
        self.line = ""
        self.write()

    def say(self, text: str) -> None:
        lines = [line for line in text.splitlines() if line.strip()]
        if lines:
            self.line = lines[-1].strip()[:100]
            self.write()

    def write(self, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self.written < 0.2 and self.done < self.total:
            return
        self.written = now
        state = {
            "done": self.done,
            "total": self.total,
            "line": self.line,
            "cell_seconds": self.cell_seconds,
            "elapsed": round(now - self.started, 3),
        }
        write_text(self.path, json.dumps(state))


class _Stream:
    """What papermill takes for a file: passes the chapter's printed lines on to the progress."""

    def __init__(self, progress: Progress):
        self.write = progress.say

    def flush(self) -> None:
        """Nothing is held back."""


def execute_notebook(job: dict) -> dict:
    """Execute the notebook of `job` through papermill; returns the result without its seconds."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.engines import NBClientEngine, papermill_engines
    from papermill.exceptions import PapermillExecutionError

    total = len(notebook.read(Path(job["input"])).cells) + 1  # papermill puts one cell in
    progress = Progress(job["progress"], total)
    current = {"source": ""}

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, **options):
            start, complete = nb_man.cell_start, nb_man.cell_complete

            def cell_start(cell, *rest, **more):
                current["source"] = cell.source
                start(cell, *rest, **more)

            def cell_complete(*rest, **more):
                complete(*rest, **more)
                progress.cell_done()

            nb_man.cell_start, nb_man.cell_complete = cell_start, cell_complete
            return super().execute_managed_notebook(nb_man, kernel_name, **options)

    papermill_engines.register("nbpkg", Engine)
    try:
        executed = papermill.execute_notebook(
            job["input"],
            job["output"],
            parameters=job["parameters"],
            engine_name="nbpkg",
            kernel_name="python3",
            progress_bar=False,
            autosave_cell_every=0,
            cwd=job["cwd"],
            start_timeout=180,
            execution_timeout=job.get("cell_timeout"),
            stdout_file=_Stream(progress),
        )
    except PapermillExecutionError as error:
        return _failure(error.source, f"{error.ename}: {headline(error.evalue, 200)}")
    except CellTimeoutError:
        return _failure(current["source"], f"took longer than {job['cell_timeout']} s")
    except DeadKernelError:
        return _failure(current["source"], "the kernel died; was there enough memory?")
    # papermill takes a cell that leaves by sys.exit() for a success and never looks at the cells after it.
    for cell in executed.cells:
        if cell.cell_type == "code" and cell.source.strip():
            if any(output.output_type == "error" for output in cell.outputs):
                return _failure(cell.source, "the cell left the program")
            if cell.execution_count is None:
                return _failure(cell.source, "the cell was never executed")
    return {"status": "done", "cell_seconds": progress.cell_seconds}


def execute_script(job: dict) -> dict:
    """Execute the twin of `job` cell by cell in a fresh `__main__`, without Jupyter."""
    code = [cell for cell in chapters.cells(job["chapter"]) if cell.kind == "code"]
    progress = Progress(job["progress"], len(code))
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
            return _failure(cell.source, f"{type(error).__name__}: {headline(str(error), 200)}")
        if "parameters" in cell.tags:
            vars(module).update(job["parameters"])
        progress.cell_done()
    return {"status": "done", "cell_seconds": progress.cell_seconds}


def _failure(source: str, error: str) -> dict:
    return {"status": "failed", "cell": headline(source), "error": error.rstrip(": ")}


def _leave_with_parent() -> None:
    """End this process soon after its parent is gone, whatever killed it; kernels do the same."""
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(path: str) -> int:
    """Run the job described by the JSON file at `path`; returns 0 when a result was written."""
    _leave_with_parent()
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    started = time.monotonic()
    try:
        result = execute_script(job) if job["mode"] == "script" else execute_notebook(job)
    except Exception as error:
        traceback.print_exc()
        result = {
            "status": "failed",
            "cell": "",
            "error": f"{type(error).__name__}: {headline(str(error), 200)}",
        }
    result["seconds"] = round(time.monotonic() - started, 2)
    write_text(Path(job["result"]), json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
