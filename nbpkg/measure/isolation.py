"""Keeping a measurement undisturbed: cores, threads, priorities and the garbage collector."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from nbpkg.machine import usable_cpus


@contextmanager
def isolated_cores(threads: int) -> Iterator[Callable[[], object]]:
    """`threads` threads on as many of the last cores, the others kept busy, no garbage collection by itself.

    Gives the function that collects garbage, for between the measurements. What can be set depends on the
    system; what was set is as before afterwards.
    """
    cpus, torch_threads, collecting = usable_cpus(), torch.get_num_threads(), gc.isenabled()
    # More threads than cores would wait for each other, at a priority that nothing interrupts.
    threads = min(threads, len(cpus))
    pin = getattr(os, "sched_setaffinity", lambda process, cores: None)
    gc.disable()
    # What exists by now is left out of later collections, which take milliseconds then.
    gc.collect()
    gc.freeze()
    try:
        pin(0, cpus[-threads:])
        torch.set_num_threads(threads)
        with realtime_priority():
            # Starts the worker threads of this thread count, if any, with the same priority.
            torch.ones(1 << 22).sum()
        with occupy_cores(cpus[:-threads]):
            yield gc.collect
    finally:
        torch.set_num_threads(torch_threads)
        pin(0, cpus)
        gc.unfreeze()
        if collecting:
            gc.enable()


@contextmanager
def realtime_priority() -> Iterator[None]:
    """Real-time priority where the system permits it: no other program runs between readings of the clock.

    Meant for the tens of milliseconds of one setting, so that whoever shares the machine hardly notices.
    """
    try:
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        lowest = os.sched_get_priority_min(os.SCHED_FIFO)
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(lowest))
    except (AttributeError, OSError):
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


@contextmanager
def occupy_cores(cpus: Sequence[int]) -> Iterator[None]:
    """Keep these cores from idling, at the lowest priority there is, as long as the block runs.

    Cores share caches, memory and often execution units, so a core is faster while its neighbour idles;
    beside neighbours that never idle, its speed depends less on what else happens to run.
    """
    running = []
    try:
        if hasattr(os, "SCHED_IDLE") and hasattr(os, "sched_setaffinity"):
            for cpu in cpus:
                # Each ends by itself when this process is gone.
                code = (
                    "import os; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0)); "
                    f"os.sched_setaffinity(0, [{cpu}])\n"
                    f"while os.getppid() == {os.getpid()}: sum(range(10000))"
                )
                running.append(subprocess.Popen([sys.executable, "-S", "-c", code]))
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()
