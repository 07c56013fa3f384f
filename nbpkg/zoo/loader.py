"""The zoos of `nbpkg.zoo.recipes` with their results.

    collection, trained = load("cells", "standard", "cpu")
    trained.network(7)                                          where the zoo keeps weights

A zoo whose table is committed is read from it; the others are trained when they are asked for, and kept in
the user's cache. `build` trains with several workers.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from nbpkg import machine, paths
from nbpkg.nb201 import digits
from nbpkg.zoo import tables
from nbpkg.zoo.recipes import DIGITS_RECIPE, DIGITS_TASK, Zoo, definition
from nbpkg.zoo.tasks import Collection
from nbpkg.zoo.train import Trained, TrainingJob, concatenate, plan, train


def committed(name: str, profile: str) -> Path:
    """Where the table of a zoo would be committed; there need not be one."""
    return paths.embedded(f"zoo-{definition(name).name}-{profile}.parquet")


def state(name: str, profile: str, device: str | torch.device) -> list[str]:
    """How many networks and tasks a zoo has, and how much of it is there for a device: three short texts.

    Raises NbpkgError as `load` does.
    """
    zoo = definition(name)
    tasks, parts = zoo.parts(profile)
    n = sum(map(len, parts))
    table = paths.embedded(digits.FILE) if name == "digits" else committed(name, profile)
    if not zoo.weights and profile == "standard" and table.is_file():
        available = "shipped"
    else:
        stacks = [stack for part in parts for stack in plan(part, device, zoo.weights)]
        done = sum(len(stack.jobs) for stack in stacks if stack.entry().path.is_file())
        available = f"{100 * done // n} % in the cache" if done else "to be built"
    return [str(n), str(len(tasks.tasks)), available]


def load(name: str, profile: str, device: str | torch.device) -> tuple[Collection, Trained]:
    """The tasks of a zoo, and its results: from its committed table, else from the cache, else trained now.

    A table is used only if it holds just the jobs that the recipe asks for; the embedded benchmark has a form
    and a reader of its own, `nbpkg.nb201.digits`, and is trained anew here. Raises NbpkgError for unknown
    names and absent image sets.
    """
    zoo = definition(name)
    tasks, parts = zoo.parts(profile)
    if not zoo.weights and committed(name, profile).is_file():
        _, trained, _ = tables.read(committed(name, profile))
        if trained.jobs == tuple(itertools.chain(*parts)):
            return tasks, trained
    return tasks, _trained(zoo, parts, device)


def _trained(
    zoo: Zoo, parts: list[list[TrainingJob]], device: str | torch.device, workers: int = 1, cluster=None
) -> Trained:
    done = []
    for number, part in enumerate(parts, 1):
        label = f"zoo {zoo.name}, part {number} of {len(parts)}"
        done.append(train(part, device, zoo.weights, workers, cluster, label=label))
    return concatenate(done)


def build(
    name: str, profile: str, device: str | torch.device, workers: int = 1, cluster=None,
    out: str | Path | None = None,
) -> tuple[Trained, Path | None]:  # fmt: skip
    """Train what the cache lacks of a zoo and, given `out`, write its table.

    device, workers, cluster: see `nbpkg.zoo.train.train`. Returns the results and the table's path. Raises
    NbpkgError as `load` does.
    """
    zoo = definition(name)
    tasks, parts = zoo.parts(profile)
    trained = _trained(zoo, parts, device, workers, cluster)
    where = machine.device_name(torch.device(device)) if cluster is None else str(device)
    metadata = {"what": zoo.what, "command": f"nbpkg zoo build {name} --profile {profile}", "device": where}
    if name == "digits" and profile != "smoke" and out is not None:
        _write_digits(Path(out), trained, metadata)
    elif out is not None:
        tables.write(out, tasks, trained, metadata)
    return trained, None if out is None else Path(out)


def _write_digits(path: Path, trained: Trained, metadata: dict) -> None:
    """The embedded benchmark in the form of its own reader."""
    seeds = sorted({job.seed for job in trained.jobs})
    # By seed, then by cell: (seeds, cells).
    order = sorted(range(len(trained.jobs)), key=lambda i: (trained.jobs[i].seed, trained.jobs[i].spec.cell))
    cells = np.array([trained.jobs[i].spec.cell for i in order]).reshape(len(seeds), -1)
    results = {name: getattr(trained, name) for name in digits.QUANTITIES[:-1]}
    results["train_loss"] = trained.curve.mean(1)
    values = {name: result[order].reshape(cells.shape) for name, result in results.items()}
    task = {key: value for key, value in DIGITS_TASK.fields().items() if key != "name"}
    metadata = {**metadata, **tables.made_by(trained), "task": task, "recipe": asdict(DIGITS_RECIPE)}
    digits.write(path, cells[0], seeds, values, metadata)
