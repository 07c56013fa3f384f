"""Tasks cut from image sets: what they hold, what they never share, and what is refused."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from public import needs

from nbpkg.data import images
from nbpkg.errors import NbpkgError
from nbpkg.zoo.tasks import ROLES, Collection, Task, sample_tasks, split_classes

SIZES = {"n_train": 40, "n_valid": 10, "n_test": 20, "resolution": 8}


def task(**changed) -> Task:
    return replace(Task("three", "digits", (7, 2, 5), **SIZES), **changed)


def rows_of(x: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in x}


def test_a_task_holds_what_it_says():
    data = task().data()
    assert data.x_train.shape == (120, 3, 8, 8) and data.x_train.dtype == torch.uint8
    assert data.x_valid.shape == (30, 3, 8, 8) and data.x_test.shape == (60, 3, 8, 8)
    assert torch.bincount(data.y_train).tolist() == [40] * 3
    digits = images.load("digits")
    for label, wanted in enumerate(task().classes):
        known = rows_of(images.to_rgb(digits.images[digits.labels == wanted]))
        for x, y in ((data.x_train, data.y_train), (data.x_valid, data.y_valid), (data.x_test, data.y_test)):
            assert rows_of(x[y == label]) <= known
    scaled = (data.x_train / 255 - data.mean[:, None, None]) / data.std[:, None, None]
    np.testing.assert_allclose(scaled.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std((0, 2, 3), correction=0), 1, atol=1e-5)


def test_no_task_learns_from_anothers_test_images():
    tasks = [task(), task(seed=1), task(classes=(5, 2, 9), seed=2), task(n_train=80, n_valid=0)]
    learned, tested = set(), set()
    for one in tasks:
        data = one.data()
        own = rows_of(data.x_train), rows_of(data.x_valid)
        assert not own[0] & own[1]
        learned |= own[0] | own[1]
        tested |= rows_of(data.x_test)
    assert not learned & tested


def test_parts_share_no_image_and_the_first_is_the_task_without_parts():
    first, second = (task(part=part, n_train=20).data() for part in (0, 1))
    for role in ROLES:
        one, other = (rows_of(getattr(data, f"x_{role}")) for data in (first, second))
        assert len(other) == len(getattr(second, f"x_{role}")) and not one & other
    assert torch.equal(first.x_valid, task(n_train=20).data().x_valid)
    assert "part" not in task().fields() and Task(**task(part=2).fields()) == task(part=2)
    with pytest.raises(NbpkgError, match=r"images in its training split, 150 are asked for"):
        task(part=2).data()


def test_seeds_choose_images_and_order_chooses_labels_only():
    first, again, other = (task(seed=s).data().x_train for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    turned = task(classes=(5, 2, 7)).data()
    assert rows_of(turned.x_train[turned.y_train == 0]) == rows_of(first[80:])


def test_the_key_is_of_the_content_and_the_same_in_another_process():
    assert task().key() == task(name="other", role="test").key()
    changes = {
        "seed": 1,
        "classes": (7, 2),
        "n_train": 41,
        "n_valid": 11,
        "n_test": 21,
        "resolution": 16,
        "part": 1,
    }
    keys = {task(**{name: value}).key() for name, value in changes.items()} | {task().key()}
    assert len(keys) == len(changes) + 1
    code = f"from nbpkg.zoo.tasks import Task; print({task()!r}.key())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == task().key()


def test_resolutions_are_met():
    assert task(resolution=16).data().x_test.shape[-2:] == (16, 16)


@given(st.integers(0, 99), st.floats(0, 1), st.floats(0, 1))
def test_classes_are_dealt_out_once(seed, first, second):
    total = max(1.0, first + second)
    split = split_classes("digits", {"train": first / total, "test": second / total}, seed)
    together = split["train"] + split["test"]
    assert len(set(together)) == len(together) and set(together) <= set(range(10))
    assert len(split["train"]) in (int(first / total * 10), int(first / total * 10) + 1)


def collection(**changed) -> Collection:
    split = split_classes("digits", {"train": 0.4, "valid": 0.3, "test": 0.3}, 3)
    parts = {role: tuple(sample_tasks("digits", role, 3, split[role], 2, seed=1, **SIZES)) for role in ROLES}
    return Collection(**(parts | changed))


def test_sampled_tasks_use_their_roles_classes_and_do_not_depend_on_how_many_there_are():
    few, many = (sample_tasks("digits", "train", n, range(6), 3, seed=2, **SIZES) for n in (2, 9))
    assert few == many[:2]
    assert {label for one in many for label in one.classes} <= set(range(6))
    assert len({one.classes for one in many}) > 1


@given(st.data(), st.integers(2, 6), st.integers(0, 99))
def test_no_two_sampled_tasks_have_the_same_classes(data, size, seed):
    ways = data.draw(st.integers(2, size))
    there = math.comb(size, ways)
    made = sample_tasks("digits", "train", there, range(size), ways, seed)
    assert len({frozenset(one.classes) for one in made}) == len({one.name for one in made}) == there
    # A task is called by the draw that made it, so passing one over renames none.
    for one in made:
        draw = np.random.default_rng([seed, int(one.name[-3:])])
        assert one.classes == tuple(draw.permutation(range(size))[:ways])
    with pytest.raises(NbpkgError, match=f"{there + 1} different tasks .* make only {there}"):
        sample_tasks("digits", "train", there + 1, range(size), ways, seed)


def test_a_class_cannot_serve_two_roles():
    whole = collection()
    label = whole.train[0].classes[0]
    thief = Task("thief", "digits", (label, whole.test[0].classes[0]), "test", **SIZES)
    with pytest.raises(NbpkgError, match=f"class {label} of digits serves train and test"):
        collection(test=(*whole.test, thief))
    # The same label of another source is another class.
    other = Task("other", "mnist", (label, 9 - label if label != 9 - label else 0), "test", **SIZES)
    assert collection(test=(*whole.test, other)).held_out_sources == ("mnist",)
    assert whole.held_out_sources == ()


def test_a_collection_round_trips_and_is_checked_when_read():
    whole = collection()
    assert Collection.from_json(whole.to_json()) == whole
    for text in ("", "{}", '[{"name": "x"}]', "[1]", whole.to_json().replace('"digits"', '"nowhere"')):
        with pytest.raises(NbpkgError):
            Collection.from_json(text + " ]" if text == "{}" else text)
    # A role that was changed by hand brings a class to both sides.
    with pytest.raises(NbpkgError, match="serves"):
        Collection.from_json(whole.to_json().replace('"valid"', '"train"', 1).replace('"train"', '"test"', 1))


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"source": "imagenet"}, "no image set"),
        ({"role": "meta"}, "role"),
        ({"classes": (1,)}, "two or more"),
        ({"classes": (1, 1)}, "two or more"),
        ({"classes": (-1, 2)}, "two or more"),
        ({"n_train": 0}, "positive"),
        ({"resolution": 0}, "positive"),
    ],
)
def test_what_makes_no_task_is_refused(changed, problem):
    with pytest.raises(NbpkgError, match=problem):
        task(**changed)


def test_too_few_images_and_absent_classes_are_named():
    with pytest.raises(NbpkgError, match=r"class 7 of digits has \d+ images in its training split, 510"):
        task(n_train=500).data()
    with pytest.raises(NbpkgError, match="test split, 51"):
        task(n_test=51).data()
    with pytest.raises(NbpkgError, match="no class 10"):
        task(classes=(1, 10)).data()


@needs("image-dtd10")
def test_a_public_source_gives_tasks():
    data = Task("textures", "dtd10", (0, 3, 9), n_train=20, n_valid=5, n_test=5, resolution=16).data()
    assert data.x_train.shape == (60, 3, 16, 16) and float(data.std.min()) > 0
