"""Tasks: named, seeded classification problems cut from image sets.

A `Task` only says what to cut: source, classes, images of each class, resolution, seed. `Task.data` cuts it.
Training and validation images come from the source's training split, test images from its test split, so
that no task's test images are another task's training images.

A `Collection` holds the tasks of meta-training, meta-validation and meta-test and refuses classes that two of
them share. Different sources may show the same things (CIFAR-10's cats, Tiny-ImageNet's): hold out whole
sources where that matters.
"""

import functools
import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from nbpkg.data import images
from nbpkg.errors import NbpkgError

ROLES = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class TaskData:
    """A task's images: x uint8 (n, 3, r, r), y int64 (n,), labels in the order of the task's classes.

    mean, std: float32 (3,), of the training images scaled to 0..1, per channel.
    """

    x_train: Tensor
    y_train: Tensor
    x_valid: Tensor
    y_valid: Tensor
    x_test: Tensor
    y_test: Tensor
    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class Task:
    """A classification problem over `classes`, which are labels in `source`.

    n_train, n_valid, n_test: images of each class. resolution: pixels a side. seed: which images. part: tasks
    that differ in it alone share no image. role: the part of meta-learning that the task serves, "train",
    "valid" or "test".

    Raises NbpkgError for an unknown source or role, classes named twice, and sizes that make no task.
    """

    name: str
    source: str
    classes: tuple[int, ...]
    role: str = "train"
    seed: int = 0
    n_train: int = 100
    n_valid: int = 25
    n_test: int = 50
    resolution: int = 32
    part: int = 0

    def __post_init__(self):
        object.__setattr__(self, "classes", tuple(int(c) for c in self.classes))
        where = f"task {self.name!r}"
        if self.source not in images.SOURCES:
            raise NbpkgError(f"{where}: no image set {self.source!r}; known: {', '.join(images.SOURCES)}")
        if self.role not in ROLES:
            raise NbpkgError(f"{where}: role {self.role!r} is none of {', '.join(ROLES)}")
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes) or min(self.classes) < 0:
            raise NbpkgError(f"{where}: needs two or more different classes, got {self.classes}")
        if min(self.n_train, self.n_test, self.resolution) < 1 or min(self.n_valid, self.seed, self.part) < 0:
            raise NbpkgError(f"{where}: images a class and resolution must be positive")

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    def fields(self) -> dict:
        """What it is made by; `part`, which is younger than the keys of stored results, where it is not 0."""
        return {name: value for name, value in asdict(self).items() if name != "part" or value}

    def key(self) -> str:
        """A hash of what decides the images, the source's own digest included, but not of name and role."""
        content = {k: v for k, v in self.fields().items() if k not in ("name", "role")}
        content["digest"] = images.load(self.source).digest
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def data(self) -> TaskData:
        """The task's images; a process keeps those of the 64 tasks that were used last.

        Raises NbpkgError when the source is absent, has no such class, or too few images of one.
        """
        return _cut(self)


@functools.lru_cache(maxsize=64)
def _cut(task: Task) -> TaskData:
    source = images.load(task.source)
    labels, train = source.labels.numpy(), source.train.numpy()
    picked: dict[str, list[np.ndarray]] = {role: [] for role in ROLES}
    splits = (("training", train, ("train", "valid")), ("test", ~train, ("test",)))
    for label, (split, inside, roles) in itertools.product(task.classes, splits):
        if label >= len(source.class_names):
            raise NbpkgError(f"task {task.name!r}: {task.source} has no class {label}")
        positions = np.flatnonzero((labels == label) & inside)
        ends = np.cumsum([getattr(task, f"n_{role}") for role in roles])
        if len(positions) < (asked := ends[-1] * (task.part + 1)):
            raise NbpkgError(
                f"task {task.name!r}: class {label} of {task.source} has {len(positions)} images in its "
                f"{split} split, {asked} are asked for"
            )
        # The class's own stream: which images it gives does not depend on the other classes of the task.
        order = np.random.default_rng([task.seed, label, split == "test"]).permutation(positions)
        order = order[ends[-1] * task.part :]
        for role, part in zip(roles, np.split(order, ends), strict=False):
            picked[role].append(part)
    cut = {}
    for role, parts in picked.items():
        rows = torch.from_numpy(np.concatenate(parts))
        cut[f"x_{role}"] = images.to_rgb(images.resize(source.images[rows], task.resolution)).contiguous()
        cut[f"y_{role}"] = torch.arange(task.num_classes).repeat_interleave(len(parts[0]))
    std, mean = torch.std_mean(cut["x_train"].float() / 255, dim=(0, 2, 3), correction=0)
    # A channel without any contrast is left as it is instead of being divided by zero.
    return TaskData(**cut, mean=mean, std=torch.where(std > 0, std, 1.0))


def split_classes(source: str, fractions: Mapping[str, float], seed: int = 0) -> dict[str, tuple[int, ...]]:
    """The source's classes dealt out to roles, such as {"train": .6, "valid": .2, "test": .2}: disjoint.

    Of a source whose own split is over classes (Omniglot) no task can be made this way, since a class has no
    test images. Raises NbpkgError for unknown roles, and fractions that are negative or exceed 1 together.
    """
    if set(fractions) - set(ROLES) or min(fractions.values(), default=0) < 0:
        raise NbpkgError(f"fractions are given to {', '.join(ROLES)} and not negative, got {dict(fractions)}")
    if sum(fractions.values()) > 1 + 1e-9:
        raise NbpkgError(f"fractions exceed 1 together: {dict(fractions)}")
    n = len(images.load(source).class_names)
    order = np.random.default_rng(seed).permutation(n)
    ends = np.floor(np.cumsum(list(fractions.values())) * n + 1e-9).astype(int)
    parts = np.split(order, ends)  # the last of them is what no role is given
    return {role: tuple(sorted(part.tolist())) for role, part in zip(fractions, parts, strict=False)}


def sample_tasks(
    source: str, role: str, n: int, classes: Iterable[int], ways: int, seed: int = 0, **sizes: int
) -> list[Task]:
    """n tasks of `ways` classes each, drawn from `classes`; `sizes` are Task's n_train, resolution and so on.

    No two tasks have the same classes: a draw that repeats an earlier one, in whatever order, is passed over.
    The i-th task is the same whatever n is; its name ends in the number of its draw. Raises NbpkgError when
    there are fewer classes than ways, or fewer sets of classes than tasks.
    """
    pool = sorted(set(classes))
    if len(pool) < ways:
        raise NbpkgError(f"{source}: {len(pool)} classes for role {role}, tasks need {ways}")
    if n > (sets := math.comb(len(pool), ways)):
        raise NbpkgError(
            f"{source}: {n} different tasks of {ways} classes for role {role}, "
            f"but {len(pool)} classes make only {sets}"
        )
    tasks: dict[frozenset[int], Task] = {}
    for i in itertools.count():
        if len(tasks) == n:
            return list(tasks.values())
        drawn = np.random.default_rng([seed, i]).permutation(pool)[:ways].tolist()
        if frozenset(drawn) not in tasks:
            name = f"{source}-{role}-{i:03d}"
            tasks[frozenset(drawn)] = Task(name, source, tuple(drawn), role, seed, **sizes)


@dataclass(frozen=True)
class Collection:
    """The tasks of meta-training, meta-validation and meta-test; no class serves two of them.

    Raises NbpkgError that names the classes that do, a task in the wrong place, or a name given twice.
    """

    train: tuple[Task, ...]
    valid: tuple[Task, ...]
    test: tuple[Task, ...]

    def __post_init__(self):
        used: dict[tuple[str, int], str] = {}
        names: set[str] = set()
        placed = [(role, task) for role in ROLES for task in getattr(self, role)]
        for role, task in placed:
            if task.role != role:
                raise NbpkgError(f"task {task.name!r} has role {task.role}, but stands among {role}")
            if task.name in names:
                raise NbpkgError(f"two tasks are called {task.name!r}")
            names.add(task.name)
            for label in task.classes:
                if (other := used.setdefault((task.source, label), role)) != role:
                    raise NbpkgError(
                        f"class {label} of {task.source} serves {other} and {role} (task {task.name!r}): "
                        "meta-training must not see it"
                    )

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All tasks, those of meta-training first."""
        return self.train + self.valid + self.test

    @property
    def held_out_sources(self) -> tuple[str, ...]:
        """Sources that meta-test alone uses."""
        seen = {task.source for task in self.train + self.valid}
        return tuple(sorted({task.source for task in self.test} - seen))

    def to_json(self) -> str:
        """The collection as text; `from_json` reads it back."""
        return json.dumps([task.fields() for task in self.tasks], indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The collection that `to_json` wrote, checked again. Raises NbpkgError for anything else."""
        try:
            tasks = [Task(**entry) for entry in json.loads(text)]
        except (ValueError, TypeError) as error:
            raise NbpkgError(f"this text is no collection of tasks ({error})") from None
        return cls(*(tuple(task for task in tasks if task.role == role) for role in ROLES))
