"""Calls that do not depend on each other, spread over processes or over a Dask cluster.

    for number, result in unordered(function, calls, workers=2): ...
    for number, result in unordered(function, calls, cluster="tcp://scheduler:8786"): ...

Local processes are joblib's, which need no guarded main module and so serve scripts and notebooks alike. A
worker that dies, killed by the system for its memory, say, costs what it was at: the call is made again.
"""

import importlib.util
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from nbpkg.errors import NbpkgError

#: How often workers may die in a row without any call being finished.
DEATHS = 3


def unordered(
    function: Callable, calls: Sequence[tuple], workers: int = 1, cluster: str | None = None
) -> Iterator[tuple[int, Any]]:
    """(position in `calls`, function(*call)) of every call, in the order in which they are finished.

    workers: processes on this machine; 1 calls the function here. cluster: None; "local" (a Dask
    `LocalCluster` of `workers` processes), "slurm" (workers as SLURM jobs, configured by Dask's own
    `jobqueue.slurm`), or the address of a Dask scheduler. Calls and results are pickled; every worker needs
    the same nbpkg.

    An exception of the function ends the iteration and is raised here; calls that were not begun are not
    made. Raises NbpkgError when workers keep dying, and for a cluster that cannot be reached.
    """
    if workers < 1:
        raise NbpkgError(f"workers must be 1 or more, got {workers}")
    if cluster is not None:
        yield from _on_cluster(function, calls, workers, cluster)
    elif workers == 1 or len(calls) < 2:
        for number, call in enumerate(calls):
            yield number, function(*call)
    else:
        yield from _in_processes(function, calls, min(workers, len(calls)))


def leave_with_parent(parent: int | None = None) -> None:
    """End this process soon after its parent is gone, whatever killed it; kernels do the same.

    parent: its process id, where it may be gone before this is called.
    """
    parent = parent or os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def check_cluster(cluster: str | None) -> None:
    """Raises NbpkgError for what names no Dask cluster (None: none is wanted), and without Dask."""
    if not re.fullmatch(r"local|slurm|[a-z]+://\S+|[^\s:/]+:\d+", cluster or "local"):
        raise NbpkgError(f"--cluster {cluster!r} is none of local, slurm or an address like tcp://host:8786")
    needed = ["distributed"] * (cluster is not None) + ["dask_jobqueue"] * (cluster == "slurm")
    if not all(map(importlib.util.find_spec, needed)):
        raise NbpkgError(f"a cluster needs {' and '.join(needed)}: pip install 'nbpkg[cluster]'")


def _numbered(function: Callable, number: int, call: tuple) -> tuple[int, Any]:
    return number, function(*call)


def _in_processes(function: Callable, calls: Sequence[tuple], workers: int) -> Iterator[tuple[int, Any]]:
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    left, deaths = dict(enumerate(calls)), 0
    while left:
        pending = [joblib.delayed(_numbered)(function, number, call) for number, call in left.items()]
        try:
            with joblib.parallel_config(backend="loky", inner_max_num_threads=1), warnings.catch_warnings():
                # A worker that has kept much memory for reuse is replaced by a new one, which is no concern.
                warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
                pool = joblib.Parallel(workers, batch_size=1, pre_dispatch="2*n_jobs",
                                       return_as="generator_unordered")  # fmt: skip
                for number, result in pool(pending):
                    deaths = 0
                    del left[number]
                    yield number, result
        except TerminatedWorkerError:
            deaths += 1
            if deaths == DEATHS:
                raise NbpkgError(
                    f"worker processes died {DEATHS} times in a row, most likely for want of memory; "
                    "take fewer workers or smaller stacks"
                ) from None


def _on_cluster(function, calls, workers: int, cluster: str) -> Iterator[tuple[int, Any]]:
    check_cluster(cluster)
    from distributed import Client, LocalCluster, as_completed
    from distributed.scheduler import KilledWorker

    with ExitStack() as own:  # what is started here is closed here
        if cluster == "local":
            options = {"threads_per_worker": 1, "dashboard_address": None, "host": "127.0.0.1"}
            cluster = own.enter_context(LocalCluster(n_workers=workers, **options))
        elif cluster == "slurm":
            cluster = own.enter_context(slurm_cluster(workers))
        try:
            client = own.enter_context(Client(cluster, timeout="30s", set_as_default=False))
        except (OSError, ValueError, TypeError) as error:
            raise NbpkgError(f"cluster {cluster}: no Dask scheduler answers there ({error})") from None
        own.enter_context(client.as_current())
        # pure=False: every call is its own, whatever other calls the cluster remembers.
        futures = {client.submit(function, *call, pure=False): number for number, call in enumerate(calls)}
        own.callback(lambda: client.cancel(list(futures)))
        try:
            for future in as_completed(list(futures)):
                # Taken at once and let go: what the parent holds is safe from the death of a worker.
                result = future.result()
                number = futures.pop(future)
                future.release()
                yield number, result
        except KilledWorker:
            raise NbpkgError(
                "workers of the cluster died again and again at one call, most likely for want of memory; "
                "take smaller stacks"
            ) from None


def slurm_cluster(workers: int, **settings):
    """A Dask cluster of `workers` SLURM jobs of one core; queue, memory and time from Dask's configuration.

    settings go to `dask_jobqueue.SLURMCluster` as they are.
    """
    from dask_jobqueue import SLURMCluster

    cluster = SLURMCluster(**{"cores": 1, "processes": 1, "memory": "4GB"} | settings)
    cluster.scale(jobs=workers)
    return cluster
