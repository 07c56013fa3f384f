"""One execution of a chapter as a child process: its environment, its files, its end with all it started."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from nbpkg.book import notebook
from nbpkg.chapters import Chapter
from nbpkg.paths import read_json, root, write_text

MARK = "NBPKG_RUN_MARK"  # an environment variable by which a run's processes are found again


@dataclass
class Execution:
    """One execution; `seeds` is a single seed for a warm run, which only fills the memo store."""

    chapter: Chapter
    profile: str
    seeds: list[int]
    device: str
    script: bool
    scratch: Path
    warm: bool = False
    cell_timeout: float | None = None
    variables: dict[str, str] = field(default_factory=dict)  # of its environment, beside `environment`
    process: subprocess.Popen | None = None
    started: float = 0.0
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self):
        self.label = f"{self.chapter.name} seed {self.seeds[0]}" if self.warm else self.chapter.name
        self.output, self.record = self.scratch / "executed.ipynb", self.scratch / "record.json"

    def start(self) -> None:
        """Write the job's files and start its process, out of reach of the terminal's Ctrl-C."""
        self.remove()
        self.scratch.mkdir(parents=True)
        if not self.script:
            write_text(self.scratch / "input.ipynb", notebook.text_of(notebook.from_twin(self.chapter)))
        job = {
            "mode": "script" if self.script else "notebook",
            "chapter": self.chapter.name,
            "parameters": {"PROFILE": self.profile, "SEEDS": self.seeds, "DEVICE": self.device},
            "cwd": str(root()),
            "cell_timeout": self.cell_timeout,
        }
        write_text(self.scratch / "job.json", json.dumps(job))
        self.started = time.monotonic()
        command = [sys.executable, "-m", "nbpkg.runner.child", str(self.scratch)]
        env = environment(self.scratch, self.script) | self.variables
        env |= {"NBPKG_RECORD": str(self.record), MARK: self.mark}
        with open(self.scratch / "log.txt", "wb") as log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
            self.process = subprocess.Popen(command, cwd=root(), env=env, start_new_session=True, **streams)

    def result(self) -> dict:
        """What became of the execution, once the process is gone."""
        result = read_json(self.scratch / "result.json")
        if not result:
            tail = notebook.headline("\n".join(reversed(self.log().splitlines())), 160)
            code = self.process.returncode
            why = f"ended by signal {-code}" if code < 0 else f"ended with exit status {code}"
            error = f"the process was {why}" + (f": {tail}" if tail else "")
            result = {"status": "failed", "cell": "", "error": error}
        elif result["status"] == "done" and not self.record.is_file():
            error = "no record was written: the last cell calls s.finish()"
            result = {"status": "failed", "cell": "", "error": error}
        return {"seconds": round(time.monotonic() - self.started, 2), **result}

    def remove(self) -> None:
        """Remove the execution's files."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def log(self) -> str:
        path = self.scratch / "log.txt"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def environment(scratch: Path, script: bool = False) -> dict[str, str]:
    """An execution's environment: one thread, this interpreter's kernel, nothing of the user's Jupyter."""
    kernel = scratch / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = notebook.KERNELSPEC | {"argv": [*command, "--HistoryManager.enabled=False"]}
    (kernel / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    # glibc would give large tensors back to the system after each step, and page them in again.
    return {
        **dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), str(10**11)),
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
        **dict.fromkeys(("PYTHONUNBUFFERED", "PYDEVD_DISABLE_FILE_VALIDATION"), "1"),
        "PYTHONHASHSEED": "0",
        "NBPKG_ROOT": str(root()),
        "MPLBACKEND": "agg" if script else "module://matplotlib_inline.backend_inline",
        "JUPYTER_PATH": str(scratch / "jupyter"),  # comes before the user's and the system's kernels
        "JUPYTER_RUNTIME_DIR": str(scratch / "runtime"),
        "IPYTHONDIR": str(scratch / "ipython"),
    }


def card(cards: list[str], running: list[Execution]) -> dict[str, str]:
    """The environment variable that gives an execution the card which the fewest others have."""
    name = "CUDA_VISIBLE_DEVICES"
    taken = Counter(job.variables.get(name) for job in running)
    return {name: min(cards, key=lambda card: taken[card])} if cards else {}


def end(jobs: list[Execution], grace: float = 3.0) -> None:
    """End the jobs' processes and all that they started, kernels included, first politely and then not."""
    import psutil

    marks = {job.mark for job in jobs if job.process is not None}
    if not marks:
        return
    for send in (signal.SIGTERM, signal.SIGKILL):
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.environ().get(MARK) in marks:
                    process.send_signal(send)
                    found.append(process)
            except (psutil.Error, OSError):
                continue  # gone in the meantime, or somebody else's
        psutil.wait_procs(found, timeout=grace)
    for job in jobs:
        if job.process is not None:
            job.process.wait()
