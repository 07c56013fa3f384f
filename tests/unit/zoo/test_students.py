"""Students of a teacher against networks that are cut by hand, and how the zoo of them is built."""

import itertools
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from public import needs
from torch import nn
from torch.nn import functional as F

from nbpkg.zoo import loader, recipes, students, tables
from nbpkg.zoo import train as training
from nbpkg.zoo.students import FULL, NARROW, SLOTS, STEM, TEACHER, WIDTHS, Students, draw, losses, start
from nbpkg.zoo.tasks import Collection
from nbpkg.zoo.train import plan, train


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path / "cache"))


def worn(classes=5, seed=0):
    """A teacher's state as after training: norms and statistics are not those of the start."""
    g = torch.Generator().manual_seed(seed)
    state = {k: v.double() for k, v in start(classes, seed).items()}
    moved = {k: 0.3 * torch.rand(v.shape, generator=g, dtype=torch.float64) for k, v in state.items()}
    return {k: v + moved[k] * (("_" in k) or k == "bias") for k, v in state.items()}


def norm(state, name, channels):
    layer = nn.BatchNorm2d(channels).double()
    (layer.weight.data, layer.bias.data), (layer.running_mean, layer.running_var) = (
        [row[:channels].clone() for row in state[f"{name}_{what}"]] for what in ("norm", "seen")
    )
    return layer


class ByHand(nn.Module):
    """One student, cut out of a state with plain layers."""

    def __init__(self, student, state):
        super().__init__()
        self.plan, self.layers, before = [], nn.ModuleDict(), STEM
        self.add("stem", STEM, 3, 2, state)
        for slot, eighths in enumerate(student):
            if eighths:
                mine, stride = eighths * WIDTHS[slot] // FULL, 2 if slot in (3, 6) else 1
                self.add(f"a{slot}", mine, before, stride, state)
                self.add(f"b{slot}", mine, mine, 1, state)
                self.plan.append((slot, mine, stride))
                before = mine
        self.head = nn.Linear(before, len(state["bias"])).double()
        self.head.weight.data, self.head.bias.data = state["head"].clone(), state["bias"].clone()

    def add(self, name, c, before, stride, state):
        conv = nn.Conv2d(before, c, 3, stride, 1, bias=False).double()
        conv.weight.data = state[name][:c, :before].clone()
        self.layers[name] = nn.Sequential(conv, norm(state, name, c))

    def forward(self, x):
        x = F.relu(self.layers["stem"](x))
        for slot, c, stride in self.plan:
            y = self.layers[f"b{slot}"](F.relu(self.layers[f"a{slot}"](x)))
            x = F.max_pool2d(x, 2) if stride == 2 else x
            x = torch.cat([x, x.new_zeros(len(x), max(0, c - x.shape[1]), *x.shape[2:])], 1)[:, :c]
            x = F.relu(y + x)
        return self.head(x.mean((2, 3)))


def images(n=12):
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_students_are_different_and_keep_to_the_rules():
    found = draw(200, 0)
    more = draw(50, 1, found)
    assert len({*found, *more}) == 250 and draw(20, 0) == found[:20]
    for student in found:
        for stage in np.reshape(student, (-1, SLOTS)):
            depth = (stage > 0).sum()
            assert depth >= 1 and not stage[depth:].any()
            assert stage[:depth].min() >= NARROW and stage.max() <= FULL
        assert np.reshape(student, (-1, SLOTS))[-1][np.reshape(student, (-1, SLOTS))[-1] > 0][-1] == FULL


def test_the_whole_student_is_the_teacher_and_gives_its_state_back():
    state = worn()
    net = Students([TEACHER], state)
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    torch.testing.assert_close(net.eval()(images())[:, 0], ByHand(TEACHER, state).eval()(images()))


@pytest.mark.parametrize("training", [True, False])
def test_a_stack_is_its_students_cut_by_hand(training):
    state, chosen = worn(), draw(12, 3)
    together = Students(chosen, state).train(training)(images())
    for group, student in enumerate(chosen):
        alone = ByHand(student, state).train(training)(images())
        torch.testing.assert_close(together[:, group], alone)


def test_steps_of_a_stack_are_those_of_its_students():
    state, chosen, x, g = worn(), draw(5, 4), images(), torch.Generator().manual_seed(1)
    target, soft = torch.rand(2, 12, 5, generator=g, dtype=torch.float64).softmax(-1)

    def step(net):
        return torch.optim.SGD(net.parameters(), 0.05, 0.9, weight_decay=0.01, nesterov=True)

    together = Students(chosen, state).train()
    optimiser = step(together)
    for _ in range(4):
        optimiser.zero_grad()
        losses(together(x), target, soft).sum().backward()
        optimiser.step()
    for group, student in enumerate(chosen):
        alone = ByHand(student, state).train()
        optimiser = step(alone)
        for _ in range(4):
            optimiser.zero_grad()
            z = alone(x)
            hard, tempered = F.cross_entropy(z, target), F.cross_entropy(z / 6, soft)
            (0.5 * 36 * tempered + 0.5 * hard).backward()
            optimiser.step()
        torch.testing.assert_close(together.eval()(x)[:, group], alone.eval()(x), rtol=1e-8, atol=1e-8)
        together.train()


def test_the_loss_is_its_closed_form():
    z, t = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(6) % 4
    hard = F.one_hot(y, 4).double()
    torch.testing.assert_close(losses(z[:, None], hard)[0], F.cross_entropy(z, y))
    smooth = 0.9 * hard + 0.1 / 4
    torch.testing.assert_close(losses(z[:, None], smooth)[0], F.cross_entropy(z, y, label_smoothing=0.1))
    soft = (t / 6).softmax(-1)
    both = 0.5 * F.cross_entropy(z, y) + 0.5 * 36 * F.cross_entropy(z / 6, soft)
    torch.testing.assert_close(losses(z[:, None], hard, soft)[0], both)


def jobs_of(profile="smoke"):
    tasks, parts = recipes.ZOOS["students"].parts(profile)
    return tasks, parts


def test_neighbours_do_not_change_a_student():
    same = [job for job in jobs_of()[1][1] if job.task.role == "train"][:3]
    stack = students._train(same, torch.device("cpu"))
    for row, job in enumerate(same):
        alone = students._train([job], torch.device("cpu"))
        for name in ("curve", "numbers"):
            np.testing.assert_allclose(stack[name][row], alone[name][0], rtol=0.05)


def test_a_teacher_is_trained_once_and_what_is_done_is_kept(tmp_path):
    _, parts = jobs_of()
    some = [job for job in (*parts[0], *parts[1]) if job.task == parts[0][0].task]
    first = train(some, "cpu")
    kept = [path for path in (tmp_path / "cache" / "zoo" / "teachers").iterdir() if path.suffix == ".memo"]
    assert len(kept) == 1
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "zoo").rglob("*.memo")}
    again = train(some, "cpu")
    np.testing.assert_array_equal(first.valid, again.valid)
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "zoo").rglob("*.memo")}
    assert now == written


def test_a_build_that_was_killed_goes_on_with_what_it_lacks(monkeypatch):
    _, parts = jobs_of()
    jobs, measured, begun = [*parts[0], *parts[1]], training.measured, []
    stacks = len(plan(jobs, "cpu", stack=2))

    def until_the_fourth(*given, **more):
        if len(begun) == 3:
            raise KeyboardInterrupt
        begun.append(given)
        return measured(*given, **more)

    monkeypatch.setattr(training, "measured", until_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        train(jobs, "cpu", stack=2)
    monkeypatch.setattr(training, "measured", measured)
    kept = [each for each in plan(jobs, "cpu", stack=2) if each.read() is not None]
    assert len(kept) == 3 < stacks
    written = [each.entry().path.stat().st_mtime_ns for each in kept]
    resumed = train(jobs, "cpu", stack=2)
    assert [each.entry().path.stat().st_mtime_ns for each in kept] == written
    monkeypatch.setenv("NBPKG_CACHE", os.environ["NBPKG_CACHE"] + "-fresh")
    np.testing.assert_array_equal(resumed.valid_loss, train(jobs, "cpu", stack=2).valid_loss)


def test_distilled_students_start_as_the_teacher_and_others_do_not():
    job = jobs_of()[1][1][0]
    still = replace(job, recipe=replace(job.recipe, lr=1e-9), spec=replace(job.spec, student=TEACHER))
    cpu = torch.device("cpu")
    teacher = students.trained([students.teacher_of(still)], cpu)["state"]
    mine = students._train([still], cpu)["state"]
    random = students._train([replace(still, spec=replace(still.spec, remapped=False))], cpu)["state"]
    for name in ("stem", "a0", "b8", "head"):
        torch.testing.assert_close(mine[name], teacher[name], atol=1e-5, rtol=0)
        assert not torch.allclose(random[name], teacher[name], atol=0.01)


def test_a_table_of_students_comes_back(tmp_path):
    trained, path = loader.build("students", "smoke", "cpu", out=tmp_path / "students.parquet")
    collection, read, _ = tables.read(path)
    assert (collection, read.jobs) == (jobs_of()[0], trained.jobs)
    np.testing.assert_allclose(read.test, trained.test, rtol=1e-6)
    np.testing.assert_allclose(read.valid, trained.valid, rtol=1e-6)


@needs(*(f"image-{name}" for name in ("tiny-imagenet", "cifar100", *recipes.HELD_OUT)))
def test_the_standard_database_has_the_sizes_that_chapter_8_asks_for():
    tasks, (teachers, distilled, scratch, again, other, more, longer, *new) = jobs_of("standard")
    known = {(task.source, label) for task in (*tasks.train, *tasks.valid) for label in task.classes}
    for look, (above, once, twice) in enumerate((new[:3], new[3:]), 1):
        late = [job.task for job in above]
        assert late == [task for task in tasks.tasks if recipes.late(task) == look] and len(late) >= 10
        assert [(job.task, job.spec.student) for job in once] == [
            (job.task, job.spec.student) for job in twice
        ]
        assert {job.spec.student for job in once}.isdisjoint(job.spec.student for job in again)
        for task in late:
            assert sum(job.task == task for job in once) == recipes.NEW_STUDENTS
            assert known.isdisjoint((task.source, label) for label in task.classes)
    tasks = Collection(tasks.train, tasks.valid, tuple(task for task in tasks.test if not recipes.late(task)))

    def count(jobs, task):
        return sum(job.task == task for job in jobs)

    assert len(tasks.train) >= 6 and len({task.source for task in tasks.train}) == 2
    assert len(tasks.test) >= 10 and len({task.source for task in tasks.test}) >= 5
    assert [job.task for job in teachers] == list(tasks.tasks)
    for task in tasks.tasks:
        assert count(distilled, task) >= (60 if task.role == "train" else 30)
        assert count(scratch, task) == count(again, task) >= count(distilled, task) / 5
        twice = count(distilled if task.role == "test" else again, task)
        assert count(again, task) + count(more, task) == twice
        task.data()
        steps = task.num_classes * task.n_train // 50
        mine = [job for job in (*distilled, *scratch) if job.task == task]
        assert all(job.recipe.epochs * steps >= 400 for job in mine)
    assert {job.spec.teacher for job in other} == {1} and {job.task for job in other} < set(tasks.test)
    assert {job.task for job in longer} == {job.task for job in other}
    assert {job.recipe.epochs for job in longer} == {2 * job.recipe.epochs for job in other}
    assert sorted({job.task.source for job in other}) == sorted({task.source for task in tasks.test})
    drawn = [job.spec.student for job in distilled]
    assert drawn.count(scratch[0].spec.student) == len(tasks.tasks)  # the first ones are every task's
    assert len(set(drawn)) > 0.95 * (len(drawn) - 12 * (len(tasks.tasks) - 1))  # others mostly new
    jobs = [*teachers, *distilled, *again, *scratch, *other, *more, *longer, *itertools.chain(*new)]
    assert len(set(jobs)) == len(jobs)
