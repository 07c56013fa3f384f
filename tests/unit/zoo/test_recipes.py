"""What the zoos hold, that they are built once, and that their tables come back as they were."""

import hashlib
import json
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from public import needs

from nbpkg import paths
from nbpkg.cli import main
from nbpkg.data import images
from nbpkg.errors import NbpkgError
from nbpkg.nb201 import costs, digits, space
from nbpkg.zoo import loader, recipes, tables
from nbpkg.zoo.fit import Recipe
from nbpkg.zoo.specs import CellNet
from nbpkg.zoo.tasks import Collection, Task
from nbpkg.zoo.train import TrainingJob, train

SMALL = [name for name in recipes.ZOOS if name != "digits"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path / "cache"))


def classes(tasks):
    return {(task.source, label) for task in tasks for label in task.classes}


@pytest.mark.parametrize("name", recipes.ZOOS)
def test_smoke_zoos_are_small_named_and_disjoint(name):
    tasks, parts = recipes.ZOOS[name].parts("smoke")
    jobs = [job for part in parts for job in part]
    assert 4 <= len(jobs) <= 40 and len(set(jobs)) == len(jobs)
    assert {job.task for job in jobs} <= set(tasks.tasks)
    assert classes(tasks.train).isdisjoint(classes(tasks.test))
    assert recipes.ZOOS[name].parts("smoke") == (tasks, parts)


@pytest.mark.parametrize("sizes", [None, (6, 3, 3)])
def test_no_two_smoke_tasks_of_a_role_are_the_same(sizes):
    tasks = recipes.collection("smoke", sizes)
    for role in (tasks.train, tasks.valid, tasks.test):
        assert len({frozenset(task.classes) for task in role}) == len(role)


# SHA-256 of the collections' JSON when the first edition was published.
STANDARD = {
    None: "b4643882fe7ca2665d54921be03c31a2da5a442ec5bc307389c25d8db2081c91",
    (40, 4, 8): "6b812255e0cc337d0bffb26195b0846deacaf2519a3dd8c4d72c1b1c20372921",
    (18, 3, 3): "b855390e2d6abfefa4637d0867850f185d5d19de280bbb545ad8b8eda05ae948",
}


@pytest.mark.parametrize("sizes", STANDARD)
def test_the_tasks_of_published_runs_are_what_they_were(sizes, monkeypatch):
    sources = {"tiny-imagenet": 200, "cifar100": 100}
    monkeypatch.setattr(images, "load", lambda name: SimpleNamespace(class_names=range(sources[name])))
    text = recipes.collection("standard", sizes).to_json()
    assert hashlib.sha256(text.encode()).hexdigest() == STANDARD[sizes]


def test_the_embedded_benchmark_trains_every_function_once_a_seed():
    _, parts = recipes.ZOOS["digits"].parts("standard")
    for seed, part in enumerate(parts):
        functions = space.function_class(space.ops_of([job.spec.cell for job in part]))
        assert {job.seed for job in part} == {seed} and len(np.unique(functions)) == len(part) == 4_930


def test_cells_of_one_function_are_one_network_but_for_shared_weights():
    # What the module says of the cells that were not trained.
    ops = space.all_ops()
    params = costs.costs(ops, live_only=True)[0]
    first, member = np.unique(space.function_class(ops), return_index=True, return_inverse=True)[1:]
    same = params == params[first][member]
    assert 0.96 < same.mean() < 0.97
    strings = np.unique(space.unique_class(ops), return_index=True)[1]
    further = np.setdiff1d(strings, first)
    assert (len(further), (~same[further]).sum()) == (1_536, 63)


@needs(*(f"image-{name}" for name in ("tiny-imagenet", "cifar100", *recipes.HELD_OUT)))
def test_standard_zoos_have_the_sizes_that_the_chapters_ask_for():
    tasks, (jobs,) = recipes.ZOOS["cells"].parts("standard")
    assert len(tasks.train) >= 150 and len(tasks.valid) >= 10 and len(tasks.test) >= 12
    assert tasks.held_out_sources == tuple(sorted(recipes.HELD_OUT))
    per_task = np.bincount([tasks.tasks.index(job.task) for job in jobs])
    assert per_task.min() >= 12 and not space.is_dead(space.ops_of([job.spec.cell for job in jobs])).any()
    tasks, (jobs,) = recipes.ZOOS["networks"].parts("standard")
    assert len(tasks.train) >= 40 and len(jobs) >= 20 * len(tasks.train)
    tasks, (jobs,) = recipes.ZOOS["tiny"].parts("standard")
    assert len(tasks.train) >= 20 and len(jobs) >= 50 * len(tasks.train)
    for task in tasks.test:
        task.data()


def test_load_builds_once_and_weights_make_networks(capsys):
    tasks, first = loader.load("networks", "smoke", "cpu")
    assert first.network(0).num_classes == tasks.train[0].num_classes
    capsys.readouterr()
    _, again = loader.load("networks", "smoke", "cpu")
    assert "zoo" not in capsys.readouterr().out
    np.testing.assert_array_equal(again.test, first.test)


def test_a_table_comes_back_as_it_was(tmp_path):
    tasks, found = loader.load("cells", "smoke", "cpu")
    path = tmp_path / "zoo.parquet"
    tables.write(path, tasks, found, {"what": "a test"})
    collection, read, said = tables.read(path)
    assert (collection, read.jobs, said["what"]) == (tasks, found.jobs, "a test")
    np.testing.assert_allclose(read.test, found.test, rtol=1e-6)
    np.testing.assert_allclose(read.valid_loss, found.valid_loss, rtol=1e-6)
    assert said["networks"] == len(found.jobs) and [f.name for f in tmp_path.glob("*.part")] == []
    with pytest.raises(NbpkgError, match="holds no weights"):
        read.weights(0)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(NbpkgError, match=r"zoo.parquet: no table of a zoo"):
        tables.read(path)
    with pytest.raises(NbpkgError, match="no such table"):
        tables.read(tmp_path / "absent.parquet")


def test_a_committed_table_is_used_only_for_the_jobs_that_it_holds(tmp_path, monkeypatch):
    tasks, found = loader.load("cells", "smoke", "cpu")
    path = tmp_path / "committed.parquet"
    monkeypatch.setattr(loader, "committed", lambda name, profile: path)
    tables.write(path, tasks, replace(found, test=found.test * 0 + 50.0), {})
    assert (loader.load("cells", "smoke", "cpu")[1].test == 50.0).all()
    other = replace(found, jobs=(*found.jobs[1:], found.jobs[0]))
    tables.write(path, tasks, replace(other, test=found.test * 0 + 50.0), {})
    np.testing.assert_array_equal(loader.load("cells", "smoke", "cpu")[1].test, found.test)


@dataclass(frozen=True)
class Foreign(CellNet):
    pass


def test_what_a_table_cannot_hold_is_refused(tmp_path):
    task = Task("a", "digits", (0, 1), n_train=4, n_valid=2, n_test=2, resolution=8)
    jobs = [TrainingJob(Foreign(7_000, 4, 1), task, 0, Recipe(epochs=1, batch=8))]
    found = train(jobs, "cpu")
    with pytest.raises(NbpkgError, match="Foreign cannot be written"):
        tables.write(tmp_path / "t.parquet", Collection((task,), (), ()), found, {})
    with pytest.raises(NbpkgError, match="'a' is not in the collection"):
        tables.write(tmp_path / "t.parquet", Collection((), (), ()), found, {})
    assert list(tmp_path.glob("t*")) == []


def test_commands(capsys, tmp_path):
    out = tmp_path / "cells.parquet"
    assert main(["zoo", "build", "cells", "--workers", "1", "--out", str(out)]) == 0
    assert "36 networks" in capsys.readouterr().out and out.is_file()
    assert main(["zoo", "list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    row = next(line for line in lines if line[:2] == ["cells", "smoke"])
    assert row[2:5] == ["36", "9", "100"]
    assert main(["zoo", "build", "nothing"]) == 2
    assert "known: digits, cells, networks, tiny" in capsys.readouterr().err


def write_digits(path, **changed):
    cells = digits.cells()
    rng = np.random.default_rng(0)
    values = {name: rng.uniform(0, 100, (2, len(cells))) for name in digits.QUANTITIES}
    digits.write(path, cells, (0, 1), values | changed, {"what": "a test"})
    return values


def test_the_embedded_benchmark_gives_every_cell_the_value_of_its_function(tmp_path):
    path = tmp_path / "digits.parquet"
    values = write_digits(path)
    found = digits.load(path)
    label = space.function_class(space.all_ops())
    first = np.searchsorted(digits.cells(), np.unique(label, return_index=True)[1])
    expected = values["test"][:, first][:, label]
    np.testing.assert_allclose(found.test, expected, rtol=1e-6)
    np.testing.assert_allclose(found.table.accuracy("digits", "valid", 10), found.valid.mean(0))
    assert len(found.table.rows) == space.N_CELLS and found.seeds == (0, 1)
    assert found.provenance["what"] == "a test"
    assert not found.test.flags.writeable


def test_a_benchmark_that_cannot_be_right_is_refused(tmp_path):
    path = tmp_path / "digits.parquet"
    n = len(digits.cells())
    for wrong, message in (
        ({"test": np.full((2, n), 101.0)}, "outside 0 to 100"),
        ({"valid_loss": np.full((2, n), np.nan)}, "not finite"),
    ):
        write_digits(path, **wrong)
        with pytest.raises(NbpkgError, match=f"digits.parquet: .*{message}"):
            digits.load(path)
    with pytest.raises(NbpkgError, match="are not one of each function"):
        digits.write(path, digits.cells()[1:], (0,), {}, {})
    write_digits(path)
    said = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(said | {"sha256": "0" * 64}))
    with pytest.raises(NbpkgError, match="checksum"):
        digits.load(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(NbpkgError, match=r"digits.json: there is no such file"):
        digits.load(path)


def test_the_table_that_is_shipped():
    found = digits.load()
    assert len(found.trained) == 4_930 and len(found.seeds) >= 2
    dead = space.is_dead(space.all_ops())
    assert (found.test[:, dead] == 10.0).all() and found.test[:, ~dead].mean() > 50
    assert paths.embedded(digits.FILE).stat().st_size < 1_000_000
    assert found.provenance["recipe"]["epochs"] == digits.EPOCHS
    # Some rows again, on whatever machine this is: equal up to rounding, which training can blow up to a good
    # part of what another seed would change; untrained or mistaken networks would be 50 points away.
    task, recipe = recipes.DIGITS_TASK, recipes.DIGITS_RECIPE
    cells = [int(cell) for cell in found.trained[[40, 3_000]]]
    again = train([TrainingJob(CellNet(cell, digits.C, digits.N), task, 0, recipe) for cell in cells], "cpu")
    assert np.abs(again.test - found.test[0, cells]).max() < 15
