"""What the zoos of the book hold: tasks, networks and how they are trained, at every profile.

    collection, trained = get("cells", "standard", workers=2)
    trained.network(7)                                          where the zoo keeps weights

| zoo | a row is | for chapters |
|---|---|---|
| `digits` | a cell and a seed, on all ten digits | all, as the embedded benchmark (`nbpkg.nb201.digits`) |
| `cells` | a task and a cell | 02, 04 |
| `networks` | a task and a network with its weights | 05 |
| `tiny` | a task, a learning rate and a seed, with weights | 06 |

A zoo whose table is committed is read from it; the others are trained when they are asked for, and kept in
the user's cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nbpkg import machine, paths
from nbpkg.chapters import PROFILES
from nbpkg.errors import NbpkgError
from nbpkg.nb201 import digits, space
from nbpkg.zoo import tables
from nbpkg.zoo.fit import Recipe
from nbpkg.zoo.specs import CellNet, TinySpec
from nbpkg.zoo.tasks import Collection, Task, sample_tasks, split_classes
from nbpkg.zoo.train import Trained, TrainingJob, concatenate, plan, train

#: Sources that no task of meta-training or meta-validation uses.
HELD_OUT = ("cifar10", "mnist", "dtd10", "sign-digits")
_FRACTIONS = {"train": 0.6, "valid": 0.2, "test": 0.2}


@dataclass(frozen=True)
class Zoo:
    """A zoo by name: its tasks and trainings at a profile, and whether weights are kept.

    The trainings come in parts, each of them a call of `train`: what is built first can be used first, and a
    part that is added leaves the others as they are.
    """

    name: str
    what: str
    parts: Callable[[str], tuple[Collection, list[list[TrainingJob]]]]
    weights: bool = False


# ------------------------------------------------------------------------------ the embedded benchmark

DIGITS_TASK = Task(
    "digits", "digits", tuple(range(10)), n_train=90, n_valid=34, n_test=50, resolution=digits.RESOLUTION
)
# Digits that stand still are too easy: nearly every cell gets 95 % of them right, and seeds disagree on the
# order. Shifted by up to two pixels they tell cells apart, and are tested in five places each.
DIGITS_RECIPE = Recipe(epochs=digits.EPOCHS, batch=50, lr=0.2, pad=2, corners=True)


def _digits(profile: str) -> tuple[Collection, list[list[TrainingJob]]]:
    cells = digits.cells()
    if profile == "smoke":
        cells = cells[:: len(cells) // 8]
    # A part for each seed: one more seed leaves what was trained as it is.
    seeds = {"smoke": 1, "standard": 2, "paper": 5}[profile]
    specs = [CellNet(int(cell), digits.C, digits.N) for cell in cells]
    return Collection((DIGITS_TASK,), (), ()), [
        [TrainingJob(spec, DIGITS_TASK, seed, DIGITS_RECIPE) for spec in specs] for seed in range(seeds)
    ]


# ------------------------------------------------------------------------------ tasks of meta-learning


def collection(profile: str, tasks: tuple[int, int, int] | None = None, seed: int = 0) -> Collection:
    """The tasks that the zoos share: classes of one role are in no other, and whole sources are held out.

    tasks: how many of meta-training, meta-validation and meta-test, beside those of HELD_OUT; by default the
    profile's. smoke: two-way tasks of digits, since ten digits in three roles make too few three-way ones.
    Others: ten-way tasks of Tiny-ImageNet and, a third of them, CIFAR-100 at 16x16 pixels, with 40 + 20
    images of each class to learn from and 20 to test on.
    """
    _known_profile(profile)
    if profile == "smoke":
        n = tasks or (6, 1, 2)
        pools = {"train": range(4), "valid": range(4, 7), "test": range(7, 10)}
        sizes = {"n_train": 20, "n_valid": 10, "n_test": 20, "resolution": 8}
        made = {
            role: sample_tasks("digits", role, count, pools[role], 2, seed, **sizes)
            for role, count in zip(pools, n, strict=True)
        }
        return Collection(*(tuple(made[role]) for role in ("train", "valid", "test")))
    n = tasks or (150, 15, 12)
    sizes = {"n_train": 40, "n_valid": 20, "n_test": 20, "resolution": 16}
    made = {role: [] for role in _FRACTIONS}
    for source, share in (("tiny-imagenet", 2 / 3), ("cifar100", 1 / 3)):
        pools = split_classes(source, _FRACTIONS, seed)
        for role, count in zip(_FRACTIONS, n, strict=True):
            made[role] += sample_tasks(source, role, round(share * count), pools[role], 10, seed, **sizes)
    made["test"] += [Task(source, source, tuple(range(10)), "test", seed, **sizes) for source in HELD_OUT]
    return Collection(*(tuple(made[role]) for role in ("train", "valid", "test")))


def _live_cells(n: int, seed: int) -> np.ndarray:
    """n cells with a live path that compute different functions: canonical indices in random order."""
    order = np.random.default_rng(seed).permutation(digits.cells())
    return order[~space.is_dead(space.ops_of(order))][:n]


def _cells(profile: str) -> tuple[Collection, list[list[TrainingJob]]]:
    tasks = collection(profile)
    per_task, recipe = 12, Recipe(epochs=12, batch=40, lr=0.1, pad=2, flip=True)
    if profile == "smoke":
        per_task, recipe = 4, Recipe(epochs=2, batch=20, pad=1)
    size = {"C": 8, "N": 1} if profile != "smoke" else {"C": 4, "N": 1}
    jobs = [
        TrainingJob(CellNet(int(cell), **size), task, 0, recipe)
        for number, task in enumerate(tasks.tasks)
        for cell in _live_cells(per_task, 1_000 + number)
    ]
    return tasks, [jobs]


def _networks(profile: str) -> tuple[Collection, list[list[TrainingJob]]]:
    tasks = collection(profile, None if profile == "smoke" else (40, 4, 8))
    per_task, recipe = 20, Recipe(epochs=20, batch=40, lr=0.1, pad=2, flip=True)
    if profile == "smoke":
        per_task, recipe = 4, Recipe(epochs=2, batch=20, pad=1)
    widths = (4,) if profile == "smoke" else (4, 8)
    jobs = []
    for number, task in enumerate(tasks.train):
        cells = _live_cells(per_task, 2_000 + number)
        jobs += [
            TrainingJob(CellNet(int(cell), widths[i % len(widths)], 1), task, number, recipe)
            for i, cell in enumerate(cells)
        ]
    return tasks, [jobs]


def _tiny(profile: str) -> tuple[Collection, list[list[TrainingJob]]]:
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
        sizes = {"n_train": 40, "n_valid": 20, "n_test": 20, "resolution": 16}
        shown = [tuple(range(10)), (*range(5, 10), *range(5))]
        digits_ = [Task(f"digits-train-{i:03d}", "digits", c, **sizes) for i, c in enumerate(shown)]
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


ZOOS = {
    zoo.name: zoo
    for zoo in (
        Zoo("digits", "what all cells compute, on scikit-learn's digits: the embedded benchmark", _digits),
        Zoo("cells", "accuracies of random cells on many tasks", _cells),
        Zoo("networks", "trained networks of random cells for many tasks", _networks, weights=True),
        Zoo("tiny", "many trainings of one tiny network for many tasks", _tiny, weights=True),
    )
}

# ------------------------------------------------------------------------------ making and reading


def find(name: str) -> Zoo:
    """The zoo called `name`; NbpkgError that lists them for another name."""
    if name not in ZOOS:
        raise NbpkgError(f"no zoo is called {name!r}; known: {', '.join(ZOOS)}")
    return ZOOS[name]


def committed(name: str, profile: str) -> Path:
    """Where the table of a zoo would be committed; there need not be one."""
    return paths.embedded(f"zoo-{find(name).name}-{profile}.parquet")


def state(name: str, profile: str) -> list[str]:
    """How many networks and tasks a zoo has, and how much of it is there: three short texts.

    Raises NbpkgError as `get` does.
    """
    zoo = find(name)
    tasks, parts = zoo.parts(profile)
    n = sum(map(len, parts))
    table = digits.default() if name == "digits" else committed(name, profile)
    if not zoo.weights and profile == "standard" and table.is_file():
        there = "shipped"
    else:
        kind = machine.device("auto").type
        stacks = [stack for part in parts for stack in plan(part, zoo.weights, kind)]
        done = sum(len(stack.jobs) for stack in stacks if stack.entry().path.is_file())
        there = f"{100 * done // n} % in the cache" if done else "to be built"
    return [str(n), str(len(tasks.tasks)), there]


def get(name: str, profile: str, workers: int = 1, cluster=None, device: str = "auto"):
    """(collection, trained) of a zoo: from its committed table, else from the cache, else trained now.

    workers, cluster, device: see `nbpkg.zoo.train.train`. A table is used only if it holds just the jobs that
    the recipe asks for; the embedded benchmark has a form and a reader of its own, `nbpkg.nb201.digits`, and
    is trained anew here. Raises NbpkgError for unknown names and absent image sets.
    """
    zoo = find(name)
    _known_profile(profile)
    tasks, parts = zoo.parts(profile)
    if not zoo.weights and committed(name, profile).is_file():
        _, trained, _ = tables.read(committed(name, profile))
        if trained.jobs == tuple(itertools.chain(*parts)):
            return tasks, trained
    return tasks, _trained(zoo, parts, workers, cluster, device)


def _trained(zoo: Zoo, parts: list[list[TrainingJob]], workers: int, cluster, device: str) -> Trained:
    done = []
    for number, part in enumerate(parts, 1):
        label = f"zoo {zoo.name}, part {number} of {len(parts)}"
        done.append(train(part, zoo.weights, workers, cluster, device, label=label))
    return concatenate(done)


def build(
    name: str, profile: str, workers: int = 1, cluster=None, device: str = "auto",
    out: str | Path | None = None,
) -> tuple[Trained, Path | None]:  # fmt: skip
    """Train what the cache lacks of a zoo and, given `out` (or for `digits` at standard), write its table.

    Returns the results and the table's path. Raises NbpkgError as `get` does.
    """
    zoo = find(name)
    _known_profile(profile)
    tasks, parts = zoo.parts(profile)
    trained = _trained(zoo, parts, workers, cluster, device)
    said = {"what": zoo.what, "command": f"nbpkg zoo build {name} --profile {profile}"}
    if name == "digits" and profile != "smoke":
        path = Path(out or digits.default())
        _write_digits(path, trained, said)
    elif out is not None:
        path = Path(out)
        tables.write(path, tasks, trained, said)
    else:
        path = None
    return trained, path


def _write_digits(path: Path, trained: Trained, said: dict) -> None:
    """The embedded benchmark in the form of its own reader."""
    seeds = sorted({job.seed for job in trained.jobs})
    # By seed, then by cell: (seeds, cells).
    order = sorted(range(len(trained.jobs)), key=lambda i: (trained.jobs[i].seed, trained.jobs[i].spec.cell))
    cells = np.array([trained.jobs[i].spec.cell for i in order]).reshape(len(seeds), -1)
    results = {name: getattr(trained, name) for name in digits.QUANTITIES[:-1]}
    results["train_loss"] = trained.curve.mean(1)
    values = {name: result[order].reshape(cells.shape) for name, result in results.items()}
    task = {key: value for key, value in asdict(DIGITS_TASK).items() if key != "name"}
    said = {**said, **tables.made_by(trained), "task": task, "recipe": asdict(DIGITS_RECIPE)}
    digits.write(path, cells[0], seeds, values, said)


def _known_profile(profile: str) -> None:
    if profile not in PROFILES:
        raise NbpkgError(f"profile {profile!r} is none of {', '.join(PROFILES)}")
