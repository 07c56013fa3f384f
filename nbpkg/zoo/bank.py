"""Students of many teachers as tables: what each has learnt, and what its teacher tells of it beforehand.

    bank = load("standard", "cpu")
    bank.students            a row a student of a teacher; bank.eighths and bank.maps in the same order
    bank.teachers            a row a teacher; bank.above in the same order

Labels are cross-entropies on held-out images times -1, in nats: the larger, the better. Two trainings that
differ in their seed agree far better on the order of students by them than by accuracies, which stand beside.

At `standard` two files of the package are read: the trainings (`nbpkg.zoo.tables`), and what the teachers'
weights tell (`write`); `nbpkg zoo build students --out FILE` makes both. `smoke` reads a part of them. At
`paper` the zoo is trained.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nbpkg import paths
from nbpkg.seeding import rng
from nbpkg.zoo import loader, recipes
from nbpkg.zoo import students as zoo
from nbpkg.zoo.fit import _scaled
from nbpkg.zoo.students import FULL, SLOTS, STEM, TEACHER, WIDTHS, Students
from nbpkg.zoo.tasks import ROLES
from nbpkg.zoo.train import STACK, Trained, TrainingJob

IMAGES = 128  # that NASWOT looks at
SCRATCH = 10  # the seed of networks at random weights
#: Tasks of smoke, and students of each.
SMOKE = (
    "cifar100-0", "cifar100-1", "cifar10-0", "cifar100-3",
    "cifar100-4", "tiny-imagenet-1", "mnist-0", "digits-0",
), 20  # fmt: skip
_TOLD = ("valid", "test", "valid_loss", "test_loss", "naswot", "naswot_random")
_TASK = ("task", "role", "source", "ways", "teacher")
_COSTS = ("weights", "products")
_LABELS = ("distilled", "again", "longer", "scratch", "tested", "zero_shot")
_LEARNT = [name + what for name in _LABELS for what in ("", "_accuracy")]
_STUDENT = ("number", *_LEARNT, *_COSTS, "naswot", "naswot_random")
_TEACHER = ("support", "support_accuracy", "valid", "valid_accuracy", *_COSTS)


@dataclass(frozen=True, eq=False)
class Bank:
    """Students and teachers of a profile; `load` says more. Role `first`: unseen tasks of the first look.

    students: task, role, source, ways, teacher (its seed), number (the first ones are in all tasks); labels
    distilled, again (another seed), longer (a third seed, twice the steps), scratch, tested (distilled, on
    test images) and zero_shot (remapped, not trained), with _accuracy in percent; weights, products
    (multiply-adds), naswot (remapped), naswot_random. NaN: not trained; `again` are all students of unseen
    tasks, and the first ones of others. eighths: int64 (rows, 9). maps: last activations of the remapped
    students on `noise`, float32 (rows, 32, 2, 2).
    teachers: task, role, source, ways, teacher; labels support (on test images) and valid, with _accuracy;
    weights, products. above: their maps.
    """

    students: pd.DataFrame
    eighths: np.ndarray
    maps: np.ndarray
    teachers: pd.DataFrame
    above: np.ndarray


def noise(resolution: int = 16) -> Tensor:
    """The one input that maps are made of: (1, 3, r, r)."""
    return torch.randn(1, 3, resolution, resolution, generator=rng(0, "noise"))


def costs(student: Sequence[int], classes: int, resolution: int = 16) -> tuple[int, int]:
    """Weights and multiply-adds of convolutions and head."""
    side, before = resolution // 2, STEM
    weights, products = 27 * STEM, 27 * STEM * side**2
    for block, eighths in enumerate(student):
        side //= 1 + (block in (SLOTS, 2 * SLOTS))
        if wide := eighths * WIDTHS[block] // FULL:
            weights += (more := 9 * wide * (before + wide))
            products, before = products + more * side**2, wide
    return weights + before * classes, products + before * classes


@torch.no_grad()
def naswot(net: Students, x: Tensor) -> Tensor:
    """log|det K| of each student, K counting the ReLUs that treat two images alike: float64 (G,)."""
    seen: list[tuple[Tensor, Tensor]] = []
    net.map(x, seen)
    alike = 0
    for values, has in seen:
        on = (values > 0).float().unflatten(1, (net.groups, -1)).transpose(0, 1).flatten(2)
        has = has.expand(values.shape[1:]).unflatten(0, (net.groups, -1)).flatten(1)[:, None]
        alike = alike + (on * has) @ on.mT + ((1 - on) * has) @ (1 - on).mT
    return torch.linalg.slogdet(alike.double())[1]


def _taught(jobs: Sequence[TrainingJob]) -> dict[TrainingJob, list[tuple[int, ...]]]:
    """Each teacher's job with its students, itself the first of them."""
    found: dict[TrainingJob, list[tuple[int, ...]]] = {}
    for job in jobs:
        if job.spec.epochs:
            students = found.setdefault(zoo.teacher_of(job), [TEACHER])
            students += [job.spec.student] * (job.spec.student not in students)
    return found


@torch.no_grad()
def _tell(teacher: TrainingJob, students: list, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Of stacks of students before they are trained: `_TOLD`, float64 (G, 6), and maps (G, 32, 2, 2)."""
    state, task = zoo.trained([teacher], device)["state"], teacher.task
    (x, _), *held_out = ([v[0] for v in _scaled([task.data()], split, device)] for split in ROLES)
    x, still = x[:: max(1, len(x) // IMAGES)][:IMAGES], noise(task.resolution).to(device)
    for low in range(0, len(students), STACK[device.type]):
        some = students[low : low + STACK[device.type]]
        net = Students(some, state).to(device).eval()
        random = Students(some, zoo.start(task.num_classes, SCRATCH)).to(device).train()
        numbers = [*zoo._judged(net, *held_out), naswot(net, x), naswot(random, x)]
        yield torch.stack([row.double() for row in numbers], 1), net.map(still)[0]


def tell(results: Trained, device: str | torch.device) -> tuple[np.ndarray, np.ndarray]:
    """What the teachers of a zoo tell of their students, a row each, and their maps."""
    each = _taught(results.jobs).items()
    rows = [row for teacher, students in each for row in _tell(teacher, students, torch.device(device))]
    numbers, maps = (torch.cat(part).cpu().numpy() for part in zip(*rows, strict=True))
    return numbers, maps.astype(np.float32)


def beside(table: Path) -> Path:
    """Where `write` puts what belongs to the table of trainings."""
    return table.with_name(table.name.replace("zoo-students", "students-told"))


def _names(jobs: Sequence[TrainingJob]) -> str:
    """A hash of teachers and students: what a file's rows are of."""
    rows = [(teacher.task.name, teacher.seed, students) for teacher, students in _taught(jobs).items()]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def write(path: Path, results: Trained, told: tuple[np.ndarray, np.ndarray]) -> None:
    """What `tell` found as a file: maps in 255 steps of their largest value."""
    import pyarrow
    from pyarrow import parquet

    numbers, maps = told
    columns = {name: numbers[:, i].astype(np.float32) for i, name in enumerate(_TOLD)}
    columns["largest"] = (most := maps.reshape(len(maps), -1).max(1)).astype(np.float32)
    steps = np.rint(255 * maps / np.maximum(most, 1e-12)[:, None, None, None])
    columns["map"] = [row.astype(np.uint8).tobytes() for row in steps]
    table = pyarrow.table(columns).replace_schema_metadata({"of": _names(results.jobs)})
    with paths.replacing(path) as temporary:
        parquet.write_table(table, temporary, compression="zstd", compression_level=19)


def _read(path: Path, results: Trained) -> tuple[np.ndarray, np.ndarray] | None:
    """What `write` put into a file; None if there is none, or it is of other students."""
    from pyarrow import parquet

    if not path.is_file():
        return None
    table = parquet.read_table(paths.intact(path))
    if table.schema.metadata[b"of"].decode() != _names(results.jobs):
        return None
    maps = np.stack([np.frombuffer(row, np.uint8) for row in table["map"].to_pylist()])
    maps = maps / np.float32(255) * table["largest"].to_numpy()[:, None]
    numbers = np.stack([table[name].to_numpy() for name in _TOLD], 1).astype(np.float64)
    side = math.isqrt(maps.shape[1] // WIDTHS[-1])
    return numbers, maps.reshape(len(maps), -1, side, side).astype(np.float32)


def load(profile: str, device: str | torch.device) -> Bank:
    """The students of a profile. Raises NbpkgError as `nbpkg.zoo.loader.load` does."""
    stored = "standard" if profile == "smoke" else profile
    _, results = loader.load("students", stored, device)
    numbers, maps = _read(beside(loader.committed("students", stored)), results) or tell(results, device)
    whole = _rows(results, numbers)
    if profile == "smoke":
        names, most = SMOKE
        whole = whole[whole.task.isin(names) & (whole.number < most)]
    first = whole.number < 0
    teachers = whole[first].rename(columns={"zero_shot": "valid", "zero_shot_accuracy": "valid_accuracy"})
    parts = [(whole[~first], _STUDENT), (teachers, _TEACHER)]
    tables = [part[[*_TASK, *columns]].reset_index(drop=True) for part, columns in parts]
    eighths = np.stack([*whole[~first].student])
    return Bank(tables[0], eighths, maps[whole.index[~first]], tables[1], maps[whole.index[first]])


def _learnt(results: Trained) -> dict[tuple, dict[str, float]]:
    """Labels and accuracies of the students of a task and teacher."""
    found: dict[tuple, dict[str, float]] = defaultdict(dict)
    for i, job in enumerate(results.jobs):
        way = {10: "distilled", 11: "again", 12: "longer"}[job.seed] if job.spec.epochs else "scratch"
        row = found[job.task.name, job.spec.teacher, job.spec.student]
        row |= {way: -results.valid_loss[i], f"{way}_accuracy": results.valid[i]}
        if way == "distilled":
            row |= {"tested": -results.test_loss[i], "tested_accuracy": results.test[i]}
    return found


def _rows(results: Trained, numbers: np.ndarray) -> pd.DataFrame:
    """A row a student in the order of what is told; a teacher has the number -1."""
    rows, learnt = [], _learnt(results)
    for teacher, students in _taught(results.jobs).items():
        task = teacher.task
        for number, student in enumerate(students, -1):
            valid, test, valid_loss, test_loss, remapped, random = numbers[len(rows)]
            # Unseen tasks of the first look, and new ones: see `nbpkg.zoo.recipes`.
            role = "first" if task.role == "test" and not recipes.late(task) else task.role
            row = {"task": task.name, "role": role, "source": task.source, "ways": task.num_classes}
            row |= {"teacher": teacher.seed, "number": number, "student": student}
            row |= learnt[task.name, teacher.seed, student] if number >= 0 else {}
            row |= {"zero_shot": -valid_loss, "zero_shot_accuracy": valid}
            row |= {"support": -test_loss, "support_accuracy": test}
            row |= dict(zip(_COSTS, costs(student, task.num_classes, task.resolution), strict=True))
            rows.append(row | {"naswot": remapped, "naswot_random": random})
    return pd.DataFrame(rows)
