"""Image sets: the embedded one as it is, prepared files as they should be and as they should not."""

import io

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from public import needs
from pyarrow import parquet
from torch.nn import functional

from nbpkg.data import images
from nbpkg.errors import NbpkgError


def webp(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "WEBP", lossless=True)
    return stream.getvalue()


def columns(n: int = 6, classes: int = 3, side: int = 8) -> tuple[np.ndarray, dict]:
    pixels = np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    labels = np.arange(n) % classes
    return pixels, {
        "image": [webp(picture) for picture in pixels],
        "label": labels.astype(np.int32),
        "class_name": [f"class {label}" for label in labels],
        "split": ["train"] * (n - classes) + ["test"] * classes,
    }


def write(folder, content: dict):
    parquet.write_table(pyarrow.table(content), folder / "toy.parquet")
    return folder / "toy.parquet"


def test_digits_are_all_there_and_split_by_class():
    digits = images.load("digits")
    assert digits.images.shape == (1797, 1, 8, 8) and digits.images.dtype == torch.uint8
    assert (digits.images.min(), digits.images.max()) == (0, 255)
    assert torch.bincount(digits.labels[~digits.train]).tolist() == [50] * 10
    assert int(digits.train.sum()) == 1297
    assert images.load("digits") is digits


def test_a_prepared_set_round_trips(tmp_path):
    pixels, content = columns()
    found, labels, names, train = images.read_parquet(write(tmp_path, content), 8, 3)
    assert np.array_equal(found, pixels.transpose(0, 3, 1, 2))
    assert labels.tolist() == [0, 1, 2, 0, 1, 2] and names == ("class 0", "class 1", "class 2")
    assert train.tolist() == [True] * 3 + [False] * 3
    grey, *_ = images.read_parquet(tmp_path / "toy.parquet", 8, 1)
    assert np.array_equal(grey[:, 0], pixels[..., 0])


def omniglot(folder):
    arrays = {
        "images": np.random.default_rng(0).integers(0, 256, (5, 4, 8, 8), dtype=np.uint8),
        "train_classes": np.array([0, 3, 4]),
        "test_classes": np.array([1, 2]),
    }
    np.savez(folder / "omniglot.npz", **arrays)
    return folder / "omniglot.npz", arrays["images"]


def test_omniglot_is_split_over_classes(tmp_path):
    path, drawings = omniglot(tmp_path)
    found, labels, names, train = images.read_omniglot(path)
    assert np.array_equal(found[labels == 3][:, 0], drawings[3])
    assert set(labels[train]) == {0, 3, 4} and set(labels[~train]) == {1, 2} and len(names) == 5


def test_unknown_names_are_told_the_known_ones():
    with pytest.raises(NbpkgError, match="digits"):
        images.load("imagenet")


@pytest.mark.parametrize("name", images.SOURCES[1:])
def test_an_absent_set_says_how_to_get_it(name, tmp_path, monkeypatch):
    monkeypatch.setenv("NBPKG_DATA", str(tmp_path))
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path / "cache"))
    with pytest.raises(NbpkgError, match=f"nbpkg data fetch image-{name}`"):
        images.load.__wrapped__(name)


@needs("image-dtd10", "image-sign-digits")
@pytest.mark.parametrize(("name", "n"), [("dtd10", 1200), ("sign-digits", 2062)])
def test_registered_sets_are_whole(name, n):
    found = images.load(name)
    assert found.images.shape == (n, 3, 32, 32) and found.labels.shape == found.train.shape == (n,)
    assert len(found.class_names) == 10 and 0 < int(found.train.sum()) < n


def test_resize_keeps_flat_colours_and_means():
    flat = torch.full((3, 3, 8, 8), 97, dtype=torch.uint8)
    assert torch.equal(images.resize(flat, 5), torch.full((3, 3, 5, 5), 97, dtype=torch.uint8))
    noise = torch.randint(0, 256, (4, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    small = images.resize(noise.to(torch.uint8), 16)
    assert small.dtype == torch.uint8
    np.testing.assert_allclose(small.float().mean((2, 3)), noise.float().mean((2, 3)), atol=2.5)
    assert images.resize(flat, 8) is flat
    with pytest.raises(NbpkgError):
        images.resize(flat.float(), 4)


def test_augment_by_brute_force():
    x = torch.randint(0, 256, (40, 2, 6, 7), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    found = images.augment(x, 2, True, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    dy, dx = torch.randint(0, 5, (2, 40), generator=generator)
    mirrored = torch.rand(40, generator=generator) < 0.5
    padded = functional.pad(x, (2, 2, 2, 2))
    for i in range(40):
        expected = padded[i, :, dy[i] : dy[i] + 6, dx[i] : dx[i] + 7]
        assert torch.equal(found[i], expected.flip(-1) if mirrored[i] else expected)
    assert mirrored.any() and not mirrored.all()
    assert torch.equal(images.augment(x, 0, False, generator), x)


def test_grey_becomes_rgb():
    grey = torch.arange(8).view(2, 1, 2, 2)
    assert torch.equal(images.to_rgb(grey)[:, 2], grey[:, 0])
    assert images.to_rgb(images.to_rgb(grey)).shape == (2, 3, 2, 2)
