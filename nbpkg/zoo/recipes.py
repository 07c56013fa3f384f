"""What the zoos of the book hold: tasks, networks and how they are trained, at every profile.

| zoo | a row is | for chapters |
|---|---|---|
| `digits` | a cell and a seed, on all ten digits | all, as the embedded benchmark (`nbpkg.nb201.digits`) |
| `cells` | a task and a cell | 02, 04 |
| `networks` | a task and a network with its weights | 05 |
| `tiny` | a task, a learning rate and a seed, with weights | 06 |
| `students` | a task, a student and how it was taught | 08 |

`nbpkg.zoo.loader` trains them or reads their tables.
"""

import itertools
import tomllib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nbpkg.chapters import PROFILES
from nbpkg.errors import NbpkgError
from nbpkg.nb201 import digits, space
from nbpkg.zoo.fit import Recipe
from nbpkg.zoo.specs import CellNet, TinySpec
from nbpkg.zoo.students import StudentNet, draw
from nbpkg.zoo.tasks import Collection, Task, sample_tasks, split_classes
from nbpkg.zoo.train import TrainingJob

Jobs = list[TrainingJob]
#: Tasks of a zoo, and its trainings in parts.
Parts = tuple[Collection, list[Jobs]]
#: Sources that no task of meta-training or meta-validation uses.
HELD_OUT = ("cifar10", "mnist", "dtd10", "sign-digits")
_FRACTIONS = {"train": 0.6, "valid": 0.2, "test": 0.2}
_SIZES = {"n_train": 40, "n_valid": 20, "n_test": 20, "resolution": 16}
_SMOKE_RECIPE = Recipe(epochs=2, batch=20, pad=1)


@dataclass(frozen=True)
class Zoo:
    """A zoo by name: its tasks and trainings at a profile, and whether weights are kept.

    The trainings come in parts, each of them a call of `train`: what is built first can be used first, and a
    part that is added leaves the others as they are.
    """

    name: str
    what: str
    make: Callable[[str], Parts]
    weights: bool = False

    def parts(self, profile: str) -> Parts:
        """Tasks and trainings at a profile. Raises NbpkgError for an unknown one and absent image sets."""
        _check(profile)
        return self.make(profile)


def _check(profile: str) -> None:
    if profile not in PROFILES:
        raise NbpkgError(f"profile {profile!r} is none of {', '.join(PROFILES)}")


DIGITS_TASK = Task(
    "digits", "digits", tuple(range(10)), n_train=90, n_valid=34, n_test=50, resolution=digits.RESOLUTION
)
# Digits that stand still are too easy: nearly every cell gets 95 % of them right, and seeds disagree on the
# order. Shifted by up to two pixels they tell cells apart, and are tested in five places each.
DIGITS_RECIPE = Recipe(epochs=digits.EPOCHS, batch=50, lr=0.2, pad=2, corners=True)


def _digits(profile: str) -> Parts:
    cells = digits.cells()
    if profile == "smoke":
        cells = cells[:: len(cells) // 8]
    # A part for each seed: one more seed leaves what was trained as it is.
    seeds = {"smoke": 1, "standard": 2, "paper": 5}[profile]
    specs = [CellNet(int(cell), digits.C, digits.N) for cell in cells]
    return Collection((DIGITS_TASK,), (), ()), [
        [TrainingJob(spec, DIGITS_TASK, seed, DIGITS_RECIPE) for spec in specs] for seed in range(seeds)
    ]


def collection(profile: str, tasks: tuple[int, int, int] | None = None, seed: int = 0) -> Collection:
    """The tasks that the zoos share: classes of one role are in no other, and whole sources are held out.

    tasks: how many of meta-training, meta-validation and meta-test, beside those of HELD_OUT; by default the
    profile's. smoke: two-way tasks of digits, since ten digits in three roles make too few three-way ones.
    Others: ten-way tasks of Tiny-ImageNet and, a third of them, CIFAR-100 at 16x16 pixels, with 40 + 20
    images of each class to learn from and 20 to test on.
    """
    _check(profile)
    if profile == "smoke":
        pools = {"train": range(4), "valid": range(4, 7), "test": range(7, 10)}
        sizes = {"n_train": 20, "n_valid": 10, "n_test": 20, "resolution": 8}
        sampled = [
            tuple(sample_tasks("digits", role, count, pools[role], 2, seed, **sizes))
            for role, count in zip(pools, tasks or (6, 1, 2), strict=True)
        ]
        return Collection(*sampled)
    sampled = [[], [], []]
    for source, share in (("tiny-imagenet", 2 / 3), ("cifar100", 1 / 3)):
        pools = split_classes(source, _FRACTIONS, seed)
        for role, count, of_role in zip(_FRACTIONS, tasks or (150, 15, 12), sampled, strict=True):
            of_role += sample_tasks(source, role, round(share * count), pools[role], 10, seed, **_SIZES)
    sampled[-1] += [Task(source, source, tuple(range(10)), "test", seed, **_SIZES) for source in HELD_OUT]
    return Collection(*map(tuple, sampled))


def _trainings(profile: str, task: Task, cells: int, seed: int, widths: tuple[int, ...], epochs: int) -> Jobs:
    """A training for each of so many cells drawn by `seed`, with the widths in turn.

    The cells have a live path and compute different functions.
    """
    recipe = Recipe(epochs=epochs, batch=40, lr=0.1, pad=2, flip=True)
    if profile == "smoke":
        cells, widths, recipe = 4, (4,), _SMOKE_RECIPE
    order = np.random.default_rng(seed).permutation(digits.cells())
    live = order[~space.is_dead(space.ops_of(order))][:cells]
    specs = zip(live, itertools.cycle(widths), strict=False)
    return [TrainingJob(CellNet(int(cell), width, 1), task, 0, recipe) for cell, width in specs]


def _cells(profile: str) -> Parts:
    tasks = collection(profile)
    jobs = [_trainings(profile, task, 12, 1_000 + i, (8,), 12) for i, task in enumerate(tasks.tasks)]
    return tasks, [list(itertools.chain(*jobs))]


def _networks(profile: str) -> Parts:
    tasks = collection(profile, None if profile == "smoke" else (40, 4, 8))
    jobs = [_trainings(profile, task, 20, 2_000 + i, (4, 8), 20) for i, task in enumerate(tasks.train)]
    return tasks, [[replace(job, seed=i) for i, of_task in enumerate(jobs) for job in of_task]]


def _tiny(profile: str) -> Parts:
    """Five starts, five orders of the images, two learning rates for a task; some with a start of their own.

    Beside photographs: scikit-learn's digits in their order, and beginning with the five.
    """
    tasks = collection(profile, None if profile == "smoke" else (18, 3, 3))
    starts, orders, rates, recipe = 5, 5, (0.04, 0.08), {"epochs": 40, "batch": 40, "pad": 2}
    free_tasks, free = 4, range(25)
    if profile == "smoke":
        starts, orders, rates, recipe = 2, 2, rates[1:], {"epochs": 20, "batch": 20}
        free_tasks, free = 2, range(4)
    else:
        shown = [tuple(range(10)), (*range(5, 10), *range(5))]
        digits_ = [Task(f"digits-train-{i:03d}", "digits", c, **_SIZES) for i, c in enumerate(shown)]
        tasks = Collection((*tasks.train, *digits_), tasks.valid, tasks.test)
    jobs = [
        TrainingJob(TinySpec(first=start), task, 100 * start + order, _tiny_recipe(task, lr, recipe))
        for task in tasks.train
        for start in range(starts)
        for order in range(orders)
        for lr in rates
    ]
    jobs += [
        TrainingJob(TinySpec(), task, 1_000 + seed, _tiny_recipe(task, rates[-1], recipe))
        for task in tasks.train[:: len(tasks.train) // free_tasks][:free_tasks]
        for seed in free
    ]
    return tasks, [jobs]


def _tiny_recipe(task: Task, lr: float, recipe: dict) -> Recipe:
    return Recipe(lr=lr, flip=task.source != "digits", **recipe)  # a mirrored digit is another thing


_STUDENT_TASKS = tomllib.loads(Path(__file__).with_name("students.toml").read_text(encoding="utf-8"))
# Steps of a student and of a teacher; students of a task by role; how many of them every task has.
_STUDENT_SIZES = {
    "smoke": (8, 16, {"train": 3, "valid": 3, "test": 3}, 1),
    "standard": (400, 800, {"train": 60, "valid": 30, "test": 30}, 12),
    "paper": (800, 1_600, {"train": 200, "valid": 200, "test": 200}, 40),
}
NEW_STUDENTS = 20  # of a new task, none of them in all tasks


def _student_tasks(profile: str) -> Collection:
    """Of two sources, CIFAR-100 and CIFAR-10, for meta-training; most unseen tasks are of others."""
    if profile == "smoke":
        return collection("smoke", (2, 1, 2))
    sampled: dict[str, list[Task]] = {"train": [], "valid": [], "test": []}
    for source, known in _STUDENT_TASKS.items():
        ways, own = known["ways"], "classes" in known
        order = np.random.default_rng(8).permutation(known.get("classes", ways))
        for number, role in enumerate(known["roles"]):
            classes = order[ways * number :][:ways].tolist() if own else range(ways)
            cut = (*known["images"], 16, 0 if own else number)
            sampled[role].append(Task(f"{source}-{number}", source, tuple(classes), role, 0, *cut))
    return Collection(tuple(sampled["train"]), tuple(sampled["valid"]), (*sampled["test"], *_new_tasks()))


def late(task: Task) -> int:
    """At which look after the first an unseen task judges: 1 if new, 2 if one more, 0 otherwise."""
    return 1 * ("-new" in task.name) + 2 * ("-more" in task.name)


def _new_tasks() -> Iterator[Task]:
    """Other classes together, or other images, or another cut of the same ones."""
    streams = {source: np.random.default_rng(9) for source in _STUDENT_TASKS}
    for look, word in enumerate(("new", "more")):
        for source, known in _STUDENT_TASKS.items():
            counts = known.get("new", {}).get("counts", (0, 0))
            for number in range(counts[0] * look, sum(counts[: look + 1])):
                classes = range(10)
                if "classes" in known:
                    used = known["ways"] * sum(role != "test" for role in known["roles"])
                    free = np.random.default_rng(8).permutation(known["classes"])[used:]
                    classes = streams[source].permutation(free)[: known["new"]["ways"]].tolist()
                # Of MNIST three parts are left that no task has used; all others are cut anew.
                fresh = source == "mnist" and number < 3
                seed, part = (0, 2 + number) if fresh else (1 + number, 0)
                cut = (*known["images"], 16, part)
                yield Task(f"{source}-{word}{number}", source, tuple(classes), "test", seed, *cut)


def _students(profile: str) -> Parts:
    """Teachers (seed 0); their students (seeds from 10 on), a task's first ones being in all tasks.

    Those are trained in further ways: from scratch, again, and on an unseen task of each source from a
    teacher of seed 1 and for twice the steps. All students of unseen tasks are distilled twice: what judges
    should be known best. Those of later looks have teachers and students in parts of their own.
    """
    tasks, (steps, taught, counts, shared) = _student_tasks(profile), _STUDENT_SIZES[profile]
    common, parts = draw(shared, 8), [[] for _ in range(13)]
    first = {task.source: task for task in reversed(tasks.test)}.values()
    for task in tasks.tasks:
        # From the task's name: what other tasks there are changes nothing.
        own = draw(counts[task.role] - shared, zlib.crc32(task.name.encode()), common)
        of_epoch = max(1, task.num_classes * task.n_train // 50)
        flip = task.source in ("cifar10", "cifar100", "tiny-imagenet", "dtd10")
        recipe = Recipe(-(-steps // of_epoch), 50, 0.05, weight_decay=3e-5, pad=2, flip=flip)
        teaching = replace(recipe, epochs=-(-taught // of_epoch))
        ways = [
            ([*common, *own], 10, (teaching.epochs, 0, True, True)),
            (common, 10, (0, 0, False, False)),
            (common, 11, (teaching.epochs, 0, True, True)),
            (common if task in first else (), 10, (teaching.epochs, 1, True, True)),
            (own if task.role == "test" else (), 11, (teaching.epochs, 0, True, True)),
            (common if task in first else (), 12, (teaching.epochs, 0, True, True)),
        ]
        if look := late(task):
            students = draw(NEW_STUDENTS, zlib.crc32(task.name.encode()), common)
            specs = [StudentNet(teaching.epochs, 0, True, True, student) for student in students]
            mine = parts[4 + 3 * look : 7 + 3 * look]
            mine[0].append(TrainingJob(StudentNet(), task, 0, teaching))
            for part, seed in zip(mine[1:], (10, 11), strict=True):
                part += [TrainingJob(spec, task, seed, recipe) for spec in specs]
            continue
        parts[0].append(TrainingJob(StudentNet(), task, 0, teaching))
        for part, (students, seed, way) in zip(parts[1:7], ways, strict=True):
            long = replace(recipe, epochs=2 * recipe.epochs) if seed == 12 else recipe
            part += [TrainingJob(StudentNet(*way, student), task, seed, long) for student in students]
    return tasks, parts


ZOOS = {
    zoo.name: zoo
    for zoo in (
        Zoo("digits", "what all cells compute, on scikit-learn's digits: the embedded benchmark", _digits),
        Zoo("cells", "accuracies of random cells on many tasks", _cells),
        Zoo("networks", "trained networks of random cells for many tasks", _networks, weights=True),
        Zoo("tiny", "many trainings of one tiny network for many tasks", _tiny, weights=True),
        Zoo("students", "students distilled from the teachers of many tasks", _students),
    )
}


def definition(name: str) -> Zoo:
    """The zoo called `name`; NbpkgError that lists them for another name."""
    if name not in ZOOS:
        raise NbpkgError(f"no zoo is called {name!r}; known: {', '.join(ZOOS)}")
    return ZOOS[name]
