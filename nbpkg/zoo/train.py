"""Training many small networks: jobs in, accuracies, curves and weights out; resumable, on any workers.

    recipe = Recipe(epochs=10)
    jobs = [TrainingJob(CellNet(cell), task, seed, recipe) for cell in cells for seed in (0, 1)]
    trained = train(jobs, "cpu", workers=2)
    trained.test.mean()

Jobs are sorted and cut into *stacks*, networks that are trained side by side (`nbpkg.zoo.fit`). The stacks
follow from the set of jobs alone, so that every job's result has the same bits whatever the order of the list
and whoever does the work; in another set of jobs a job has other neighbours, and agrees up to rounding.

A stack's result is kept in the user's cache as soon as it is there, under a key of its jobs, their images and
the code that trains them: what was interrupted goes on, and nothing is trained twice.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from nbpkg import machine, paths
from nbpkg.errors import NbpkgError
from nbpkg.memo import Computed, Entry, key_of, measured
from nbpkg.memo.fingerprint import content_hash
from nbpkg.parallel import unordered
from nbpkg.progress import progress
from nbpkg.zoo.fit import Recipe, fit
from nbpkg.zoo.specs import Spec
from nbpkg.zoo.tasks import Task

#: Networks of a stack at most, by kind of device: on a CPU more do not gain anything.
STACK = {"cpu": 16, "cuda": 256}
#: Memory in MB that a stack may take by the specs' estimate; it decides the stacks, not the machine.
MEMORY_MB = {"cpu": 512, "cuda": 8_000}
#: From so many numbers an image on (`Spec.floats`) a stack's networks are trained one by one: on a CPU the
#: arithmetic then takes longer than the calls that stacking saves.
ONE_BY_ONE = {"cpu": 65_000, "cuda": float("inf")}


@dataclass(frozen=True)
class TrainingJob:
    """One network to train on one task. seed: of the weights, of the order of images and of augmentation."""

    spec: Spec
    task: Task
    seed: int
    recipe: Recipe

    def __post_init__(self):
        if not 0 <= self.seed < 2**63:
            raise NbpkgError(f"a job's seed must be from 0 to 2**63 - 1, got {self.seed}")


@dataclass(frozen=True, eq=False)
class Trained:
    """What came of `jobs`, in their order.

    valid, test: accuracies in percent; valid_loss, test_loss: cross-entropies in nats; cpu_seconds: CPU
    seconds of its stack, shared out equally; all float64 (jobs,). curve: training loss of each epoch, float64
    (jobs, most epochs), NaN after a job's last. Validation is NaN for tasks without validation images.
    """

    jobs: tuple[TrainingJob, ...]
    valid: np.ndarray
    test: np.ndarray
    valid_loss: np.ndarray
    test_loss: np.ndarray
    curve: np.ndarray
    cpu_seconds: np.ndarray
    _locations: tuple[tuple[_Stack, int], ...]

    def weights(self, number: int) -> dict[str, Tensor]:
        """The state dict of job `number`, not to be changed. Raises NbpkgError when weights were not kept."""
        if not self._locations:
            raise NbpkgError("a table of results holds no weights: build the zoo to have them")
        stack, place = self._locations[number]
        return _kept_weights(stack)[place]

    def network(self, number: int) -> nn.Module:
        """The trained network of job `number`, on the CPU, in evaluation mode."""
        job = self.jobs[number]
        net = job.spec.build(job.task.num_classes, job.seed)
        net.load_state_dict(self.weights(number))
        return net.eval()


@dataclass(frozen=True)
class _Stack:
    """Jobs that are trained side by side, and where their result is kept.

    content: a hash of everything that the result follows from.
    """

    jobs: tuple[TrainingJob, ...]
    content: str
    weights: bool

    def entry(self, home: Path | None = None) -> Entry:
        """Where its result is kept, in the cache `home` or this process's own."""
        name = f"{self.jobs[0].spec.stack_key()[0]}-{self.jobs[0].task.name}"
        return Entry("zoo/stacks", name, key_of(self.content, self.weights), "zoo: a stack of networks", home)

    def read(self, home: Path | None = None) -> Computed | None:
        """The kept result, or None; one that was kept with its weights serves as well."""
        kept = self.entry(home).read()
        return kept if kept is not None or self.weights else replace(self, weights=True).read(home)


@functools.lru_cache(maxsize=4)
def _kept_weights(stack: _Stack) -> list[dict[str, Tensor]]:
    """State dicts of a stack's networks; kept, since whoever asks for one asks for its neighbours next."""
    found = stack.read()
    if found is None or not found.value["weights"]:
        raise NbpkgError("these weights were not kept: call train again with weights=True")
    return found.value["weights"]


def _group(job: TrainingJob) -> tuple:
    """What jobs must have in common to be trained side by side."""
    task = job.task
    sizes = (task.num_classes, task.n_train, task.n_valid, task.n_test, task.resolution)
    return (type(job.spec).__name__, *map(str, job.spec.stack_key()), sizes, astuple(job.recipe))


def _order(job: TrainingJob) -> tuple:
    return (_group(job), astuple(job.task), job.seed, astuple(job.spec))


def _stack_size(job: TrainingJob, kind: str, most: int | None, memory_mb: float | None) -> int:
    task = job.task
    batch = min(job.recipe.batch, task.num_classes * task.n_train)
    numbers = batch * job.spec.floats(task.resolution)
    # The images of a task of its own, as floats; and weight, gradient, momentum.
    images = task.num_classes * (task.n_train + task.n_valid + task.n_test)
    numbers += 3 * task.resolution**2 * images + 3 * job.spec.params(task.num_classes)
    fits = (MEMORY_MB[kind] if memory_mb is None else memory_mb) * 1e6 // (4 * numbers)
    return int(max(1, min(STACK[kind] if most is None else most, fits)))


def plan(
    jobs: Iterable[TrainingJob], device: str | torch.device, weights: bool = False, stack: int | None = None,
    memory_mb: float | None = None, elsewhere: bool = False,
) -> list[_Stack]:  # fmt: skip
    """The stacks of a set of jobs, the same for every order of the list; repeated jobs are one.

    elsewhere: other machines will train them, whose cards are not known here.
    """
    kind = torch.device(device).type
    card = kind if elsewhere else machine.device_key(device)
    digest = functools.cache(Task.key)
    code = functools.cache(lambda family: content_hash([getattr(family, "fit", _fit), family]))
    stacks = []
    for _, members in itertools.groupby(sorted(set(jobs), key=_order), key=_group):
        members = list(members)
        size = _stack_size(max(members, key=_numbers), kind, stack, memory_mb)
        # Stacks of nearly equal size: none is left over with a single network.
        for part in np.array_split(np.arange(len(members)), -(-len(members) // size)):
            chosen = tuple(members[i] for i in part)
            described = [[astuple(job.spec), digest(job.task), job.seed] for job in chosen]
            content = key_of(code(type(chosen[0].spec)), asdict(chosen[0].recipe), card, described)
            stacks.append(_Stack(chosen, content, bool(weights)))
    return stacks


def _numbers(job: TrainingJob) -> int:
    return job.spec.floats(job.task.resolution)


def _fit(jobs: Sequence[TrainingJob], weights: bool, device: torch.device) -> dict:
    """Train one stack. The dictionary that is kept: arrays with one row a job, and state dicts if asked."""
    networks = [job.spec.build(job.task.num_classes, job.seed) for job in jobs]
    data, seeds = [job.task.data() for job in jobs], [job.seed for job in jobs]
    recipe = jobs[0].recipe
    if max(map(_numbers, jobs)) < ONE_BY_ONE[device.type]:
        fits = fit(networks, data, seeds, recipe, device)
    else:
        each = zip(networks, data, seeds, strict=True)
        fits = [fit([net], [its_data], [seed], recipe, device)[0] for net, its_data, seed in each]
    numbers = np.array([[f.valid, f.test, f.valid_loss, f.test_loss] for f in fits])
    return {
        "numbers": numbers,
        "curve": torch.stack([f.curve for f in fits]).numpy(),
        "weights": [dict(net.state_dict()) for net in networks] if weights else None,
    }


def _work(stack: _Stack, device: str, home: Path | None) -> Computed:
    """What a worker does: train the stack unless it is kept already, keep it, and return it.

    home: the cache that worker and caller share, where the caller finds the weights, so that they are not
    returned; None for the worker's own. On a cluster whose workers share a cache, what a worker finished
    before it died is found there.
    """
    kept = stack.read(home)
    if kept is None:
        _prepare()
        where = machine.device(device)
        work = getattr(stack.jobs[0].spec, "fit", _fit)  # a family may have a training of its own
        kept = measured(work, stack.jobs, stack.weights, where, device=where)
        stack.entry(home).write(kept)
    return kept if home is None else _without_weights(kept)


def _without_weights(trained: Computed) -> Computed:
    return replace(trained, value=trained.value | {"weights": None})


def _prepare() -> None:
    """One thread, and memory that is kept for the next step instead of being returned to the system.

    A stack's activations come and go by the megabyte; with glibc's defaults each costs a tenth of the
    training in page faults. Elsewhere than with glibc nothing is done.
    """
    torch.set_num_threads(1)
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        mmap_threshold, trim_threshold = -3, -1  # from malloc.h
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)


def train(
    jobs: Iterable[TrainingJob], device: str | torch.device, weights: bool = False, workers: int = 1,
    cluster=None, stack: int | None = None, memory_mb: float | None = None, label: str = "train",
) -> Trained:  # fmt: skip
    """Train every job that the cache does not have, and return all results.

    device: "cpu" or "cuda", where the workers train. weights: keep the trained weights too. workers:
    processes on this machine, one thread each; a card is one worker's, since the networks of a stack run
    together, so on a GPU `workers` counts as 1. cluster: see `nbpkg.parallel.unordered`. stack, memory_mb:
    networks of a stack at most, and their memory by the specs' estimate; by default `STACK` and `MEMORY_MB`
    of the device.

    A full disk costs a line and the weights. Raises NbpkgError when a task's images are absent or workers
    keep dying.
    """
    jobs = tuple(jobs)
    where = torch.device(device).type
    if cluster is None and where == "cuda":
        workers = 1
    stacks = plan(jobs, where, weights, stack, memory_mb, elsewhere=cluster is not None)
    # Only accuracies and curves are held: weights stay on disk until they are asked for.
    found = {each: _without_weights(kept) for each in stacks if (kept := each.read()) is not None}
    missing = [each for each in stacks if each not in found]
    if missing:
        # Local processes outlive a call, and with it the environment that they were started in.
        home = paths.cache_dir() if cluster is None else None
        done = unordered(_work, [(each, where, home) for each in missing], workers, cluster)
        for number, trained in progress(done, f"{label}: stacks of networks", len(missing)):
            if home is None and missing[number].read() is None:  # the workers' cache is another
                missing[number].entry().write(trained)
            found[missing[number]] = _without_weights(trained)
    return _gathered(jobs, stacks, found)


def concatenate(parts: Sequence[Trained]) -> Trained:
    """The results of several calls as one, in their order."""
    epochs = max((part.curve.shape[1] for part in parts), default=0)
    curves = [np.full((len(part.jobs), epochs), np.nan) for part in parts]
    for curve, part in zip(curves, parts, strict=True):
        curve[:, : part.curve.shape[1]] = part.curve
    columns = ("valid", "test", "valid_loss", "test_loss")
    numbers = [np.concatenate([getattr(part, name) for part in parts]) for name in columns]
    seconds = np.concatenate([part.cpu_seconds for part in parts])
    jobs, locations = (sum((getattr(part, name) for part in parts), ()) for name in ("jobs", "_locations"))
    return Trained(jobs, *numbers, np.concatenate(curves), seconds, locations)


def _gathered(jobs: tuple[TrainingJob, ...], stacks: list[_Stack], found: dict[_Stack, Computed]) -> Trained:
    locations = {job: (stack, place) for stack in stacks for place, job in enumerate(stack.jobs)}
    epochs = max((job.recipe.epochs for job in jobs), default=0)
    numbers, curve = np.full((len(jobs), 4), np.nan), np.full((len(jobs), epochs), np.nan)
    seconds = np.zeros(len(jobs))
    for row, job in enumerate(jobs):
        stack, place = locations[job]
        numbers[row] = found[stack].value["numbers"][place]
        curve[row, : job.recipe.epochs] = found[stack].value["curve"][place]
        seconds[row] = found[stack].cpu_seconds / len(stack.jobs)
    return Trained(jobs, *numbers.T, curve, seconds, tuple(locations[job] for job in jobs))
