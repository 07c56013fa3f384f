"""What a run tells while it goes on: the lines of progress and the estimate of the time that is left."""

import time
from collections.abc import Callable, Sequence

from nbpkg.paths import read_json
from nbpkg.progress import duration
from nbpkg.runner.execution import Execution

LINE_EVERY = 10.0  # seconds between two lines of one execution


class Reporter:
    """Prints a line of progress for one execution, not more often than every ten seconds."""

    def __init__(self, job: Execution, earlier: dict, echo: Callable[[str], None]):
        self.job, self.echo, self.last = job, echo, time.monotonic()
        # A warm run is one seed of several, and a failed run ended early: such times would mislead.
        whole = earlier.get("status") == "done" and not job.warm
        self.cells = earlier.get("cell_seconds", []) if whole else []
        seeds = ",".join(map(str, job.seeds))
        echo(f"{job.label}: started at {job.profile}" + ("" if job.warm else f", seeds {seeds}"))

    def report(self) -> None:
        """Print where the execution stands, if ten seconds have passed since the last line."""
        now = time.monotonic()
        if now - self.last < LINE_EVERY:
            return
        self.last = now
        if not (status := read_json(self.job.scratch / "progress.json")):  # the child's last word
            return
        elapsed, done, total = now - self.job.started, status["done"], status["total"]
        left = time_left(done, total, status["cell_seconds"], elapsed, self.cells)
        line = f"{self.job.label}: {done}/{total} cells in {duration(elapsed)}"
        line += f", about {duration(left)} left" if left else ""
        self.echo(line + (f" | {status['line']}" if status["line"] else ""))


def time_left(
    done: int, total: int, seconds: Sequence[float], elapsed: float, earlier: Sequence[float] = ()
) -> float | None:
    """Seconds until an execution ends, or None while nothing is known.

    `seconds` are those of the `done` cells now, `earlier` those of all cells in a run before; where that run
    has as many cells, what is left of it is scaled by how much slower or faster this one has been.
    """
    spent = sum(seconds)
    current = max(elapsed - spent, 0.0)
    if earlier and len(earlier) == total:
        before = sum(earlier[:done])
        pace = spent / before if before > 5 else 1.0
        later = sum(earlier[done + 1 :])
        now = max(earlier[done] * pace - current, 0.0) if done < total else 0.0
        return now + later * pace
    if done and 4 * done >= total:  # cells differ too much to go by the first few
        return max(spent / done * (total - done) - current, 0.0)
    return None
