"""The bank of students: what it tells against oracles, its two files, and what each profile reads."""

import numpy as np
import pytest
import torch
from public import needs
from torch.nn import functional as F

from nbpkg import paths
from nbpkg.zoo import bank, loader, recipes, students, tables, train
from nbpkg.zoo.fit import _scaled
from nbpkg.zoo.students import TEACHER, Students, draw, start
from nbpkg.zoo.tasks import ROLES

TABLES = [paths.embedded(f"{name}-standard.parquet") for name in ("zoo-students", "students-told")]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def nothing_is_trained(monkeypatch):
    def refuse(*_):
        raise AssertionError("this trains")

    monkeypatch.setattr(students, "_train", refuse)
    monkeypatch.setattr(loader, "_trained", refuse)


def small(monkeypatch):
    """The zoo of smoke, as if it were that of paper."""
    parts = recipes.ZOOS["students"].make
    monkeypatch.setattr(recipes.Zoo, "parts", lambda self, _: parts("smoke"))
    return bank.load("paper", "cpu")


# ------------------------------------------------------------------------ what is told beforehand


def test_costs_are_those_of_the_network_layer_by_layer():
    for student in [TEACHER, *draw(20, 0)]:
        net = Students([student], start(10, 0)).eval()
        seen = []

        def counted(x, weight, *rest, f=F.conv2d, seen=seen):
            out = f(x, weight, *rest)
            seen.append(weight.numel() * out.shape[-1] * out.shape[-2])
            return out

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(F, "conv2d", counted)
            net(torch.zeros(1, 3, 16, 16))
        weights = sum(v.numel() for name, v in net.named_parameters() if name[-4:] not in ("norm", "bias"))
        assert bank.costs(student, 10) == (weights, sum(seen) + net.head.numel())


def test_naswot_is_counted_unit_by_unit():
    chosen, state, x = (
        draw(4, 1),
        start(5, 0),
        torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)),
    )
    found = bank.naswot(Students(chosen, state).eval(), x)
    assert found.dtype == torch.float64
    for row, student in enumerate(chosen):
        seen = []
        net = Students([student], state).eval()
        net.map(x, seen)
        # Alone, a student is as wide as itself at its widest: units that it lacks are dropped by their mask.
        codes = torch.cat([(v > 0)[:, (m > 0).flatten()].flatten(1) for v, m in seen], 1)
        kernel = (codes[:, None] == codes[None]).sum(-1).double()
        torch.testing.assert_close(found[row], torch.linalg.slogdet(kernel)[1])


def test_what_is_told_is_what_the_remapped_students_do(monkeypatch):
    found = small(monkeypatch)
    tasks, parts = recipes.ZOOS["students"].make("smoke")
    results = loader._trained(recipes.ZOOS["students"], parts, "cpu")
    teachers = list(bank._taught(results.jobs))
    assert [job.task.name for job in teachers[: len(tasks.tasks)]] == found.teachers.task.tolist()[
        : len(tasks.tasks)
    ]
    for place, job in enumerate(teachers):
        state = students.trained([job], torch.device("cpu"))["state"]
        still = bank.noise(job.task.resolution)
        whole = Students([TEACHER], state).eval()
        with torch.no_grad():
            np.testing.assert_allclose(found.above[place], whole.map(still)[0, 0], rtol=1e-4, atol=1e-5)
            x, y = (v[0] for v in _scaled([job.task.data()], "test", torch.device("cpu")))
            assert found.teachers.support[place] == pytest.approx(
                -float(F.cross_entropy(whole(x)[:, 0], y)), rel=1e-5
            )
            mine = (found.students.task == job.task.name) & (found.students.teacher == job.seed)
            for row in np.flatnonzero(mine):
                alone = Students([tuple(found.eighths[row])], state).eval()
                np.testing.assert_allclose(found.maps[row], alone.map(still)[0, 0], rtol=1e-4, atol=1e-5)


def test_labels_are_put_beside_their_students(monkeypatch):
    found = small(monkeypatch).students
    eighths = small(monkeypatch).eighths
    _, parts = recipes.ZOOS["students"].make("smoke")
    _, distilled, scratch, again, other, more, longer = (
        loader._trained(recipes.ZOOS["students"], [part], "cpu") for part in parts[:7]
    )
    assert not any(parts[7:])  # smoke has no new tasks
    assert found.task.nunique() == len({job.task for job in distilled.jobs})
    for way, made, teacher in [
        ("distilled", distilled, 0), ("scratch", scratch, 0), ("again", again, 0), ("distilled", other, 1),
        ("again", more, 0), ("longer", longer, 0),
    ]:  # fmt: skip
        for i, job in enumerate(made.jobs):
            same = (
                (found.task == job.task.name)
                & (found.teacher == teacher)
                & (eighths == job.spec.student).all(1)
            )
            assert same.sum() == 1
            row = found[same].iloc[0]
            # Stacks are cut otherwise here: equal up to rounding.
            assert row[way] == pytest.approx(-made.valid_loss[i], rel=0.05)
    assert found.scratch.notna().sum() == len(scratch.jobs)
    assert found.again.notna().sum() == len(again.jobs) + len(more.jobs)


# ------------------------------------------------------------------------ files


def test_a_file_comes_back_and_is_refused_for_other_students(tmp_path):
    _, parts = recipes.ZOOS["students"].make("smoke")
    results = train.train([*parts[0], *parts[1]], "cpu")
    told = bank.tell(results, "cpu")
    bank.write(tmp_path / "told.parquet", results, told)
    numbers, maps = bank._read(tmp_path / "told.parquet", results)
    np.testing.assert_allclose(numbers, told[0], rtol=1e-6)
    largest = told[1].max((1, 2, 3), keepdims=True)
    assert np.all(np.abs(maps - told[1]) <= largest / 509) and np.allclose(
        maps.max((1, 2, 3)), largest.ravel()
    )
    fewer = train.train(parts[1][:-1], "cpu")
    assert bank._read(tmp_path / "told.parquet", fewer) is None
    assert bank._read(tmp_path / "absent.parquet", results) is None


def test_the_files_of_the_package_are_small_and_of_the_recipe():
    assert sum(path.stat().st_size for path in TABLES) <= 300_000
    tasks, parts = recipes.ZOOS["students"].parts("standard")
    read, trained, made = tables.read(TABLES[0])
    assert read == tasks and trained.jobs == tuple(job for part in parts for job in part)
    assert made["networks"] == len(trained.jobs) and made["cpu_seconds"] > 1_000
    for name in ("valid", "test"):
        assert np.all((getattr(trained, name) >= 0) & (getattr(trained, name) <= 100))
        assert np.all(np.isfinite(getattr(trained, f"{name}_loss")) & (getattr(trained, f"{name}_loss") > 0))


@pytest.mark.parametrize("profile", ["smoke", "standard"])
def test_what_is_shipped_needs_neither_data_nor_training(profile, monkeypatch, tmp_path, nothing_is_trained):
    monkeypatch.setenv("NBPKG_DATA", str(tmp_path))
    found = bank.load(profile, "cpu")
    table, maps = found.students, found.maps
    assert len(table) == len(found.eighths) == len(maps) and maps.shape[1:] == (32, 2, 2)
    assert len(found.teachers) == len(found.above)
    first = table[table.teacher == 0].groupby("task")
    role = first.role.first()
    assert set(role) == {"train", "valid", "first"} | ({"test"} if profile == "standard" else set())
    assert table.distilled.notna().all()
    assert (first.scratch.count() >= first.distilled.count() / 5)[role != "test"].all()
    due = first.distilled.count().where(role.isin(["first", "test"]), first.scratch.count())
    assert (first.again.count() == due).all()
    for name in [name for name in table if name.endswith("_accuracy")]:
        assert table[name].dropna().between(0, 100).all()
    # Common students have the same numbers in all tasks but the new ones, and no task has one twice.
    for _, same in table[(table.number < 12) & (table.role != "test")].groupby("number"):
        assert len(np.unique(found.eighths[same.index], axis=0)) == 1
    for _, same in table.groupby(["task", "teacher"]):
        assert len(np.unique(found.eighths[same.index], axis=0)) == len(same)
    # Maps are those of different students of different teachers.
    assert (
        np.isfinite(maps).all()
        and (maps >= 0).all()
        and len(np.unique(maps.reshape(len(maps), -1), axis=0)) > 0.9 * len(maps)
    )


def test_a_part_of_the_standard_bank_is_smokes(nothing_is_trained):
    some, whole = bank.load("smoke", "cpu"), bank.load("standard", "cpu")
    key = ["task", "teacher", "number"]
    both = some.students.merge(whole.students, on=key)
    assert len(both) == len(some.students) < len(whole.students)
    assert np.array_equal(both.distilled_x, both.distilled_y)


def test_students_of_the_shipped_table_can_be_told_apart(nothing_is_trained):
    """Two seeds agree on the order of students by their labels, and capacity does not give the label away."""
    table = bank.load("standard", "cpu").students
    both = table[table.again.notna()]
    centred = both[["distilled", "again"]] - both.groupby("task")[["distilled", "again"]].transform("mean")
    centred /= both.groupby("task")[["distilled", "again"]].transform("std")
    assert np.corrcoef(centred.distilled, centred.again)[0, 1] > 0.6


@needs(*(f"image-{name}" for name in ("tiny-imagenet", "cifar100", *recipes.HELD_OUT)))
@pytest.mark.parametrize("new", [False, True])
def test_unseen_tasks_share_no_image_with_others(new):
    """Those of the first look with any other, new ones with what learns and with themselves."""
    tasks, _ = recipes.ZOOS["students"].parts("standard")
    late = [task for task in tasks.test if task.name.endswith("-new0") or "mnist-new" in task.name]
    first = [task for task in tasks.test if not recipes.late(task)]
    owner: dict[tuple, set] = {}
    for task in (*tasks.train, *tasks.valid, *(late if new else first)):
        data = task.data()
        for part in ROLES:
            for image in getattr(data, f"x_{part}"):
                owner.setdefault((task.source, image.numpy().tobytes()), set()).add((task.name, part))
    # A few sets hold the same picture twice.
    twice = [places for places in owner.values() if len(places) > 1]
    assert len(twice) < 0.002 * len(owner)
