"""A network description that leaves a trace of its work, importable by worker processes."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from nbpkg.zoo.specs import CellNet


@dataclass(frozen=True, order=True)
class Traced(CellNet):
    """Writes a line into `trace` for every network that is built.

    stop: while this file is not there, the worker that builds the cell makes it and is killed as the system
    kills for want of memory: without a word.
    """

    trace: str = ""
    stop: str = ""

    def build(self, num_classes, seed):
        with open(self.trace, "a") as file:
            file.write(f"{self.cell} {os.getpid()}\n")
        if self.stop and not Path(self.stop).exists():
            time.sleep(0.5)  # the other worker finishes something meanwhile
            Path(self.stop).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().build(num_classes, seed)

    def stack_key(self):
        return ("traced", self.C, self.N)
