"""Official archives of image sets: whole ones round trip, others are refused with the file's name."""

import gzip
import io

import makers
import numpy as np
import pytest
import torch
from makers import picture, random, tar_gz, zipped
from PIL import Image
from public import needs

from nbpkg.data import images, official, registry
from nbpkg.errors import NbpkgError

TINY = "tiny-imagenet-200/"
IDS = ["n02124075", "n01443537", "n04067472"]


@pytest.mark.parametrize(
    ("members", "reader", "classes", "train"),
    [
        (makers.cifar10_files, official.read_cifar10, 10, 50),
        (makers.cifar100_files, official.read_cifar100, 100, 100),
    ],
)
def test_cifar_round_trips(tmp_path, members, reader, classes, train):
    files, pixels, labels = members()
    found, answers, names, split = reader(tar_gz(tmp_path / "cifar.tar.gz", files))
    assert found.dtype == np.uint8 and np.array_equal(found, pixels.reshape(-1, 3, 32, 32))
    assert answers.dtype == np.int64 and np.array_equal(answers, labels)
    assert split.tolist() == [True] * train + [False] * (len(labels) - train)
    prefix = "class " if classes == 10 else "fine_"
    assert names == tuple(f"{prefix}{number}" for number in range(classes))
    assert found.flags.writeable and answers.flags.writeable


def batch(**changed) -> bytes:
    content = {"labels": [*range(10)], "data": random(10, 3072)} | changed
    return makers.python2_pickle({key.encode(): value for key, value in content.items()})


@pytest.mark.parametrize(
    ("member", "content", "problem"),
    [
        ("data_batch_3", None, "lacks 'cifar-10-batches-py/data_batch_3'"),
        ("data_batch_3", batch(data=random(10, 3071)), "data_batch_3 holds no images of 3,072"),
        ("data_batch_3", batch(data=random(3072)), "data_batch_3 holds no images"),
        ("data_batch_3", batch(data=[1, 2]), "data_batch_3 holds no images"),
        ("data_batch_3", batch(labels=[0] * 9), "does not hold 10 labels"),
        ("data_batch_3", batch(labels=[0] * 9 + [10]), "labels outside 0 to 9"),
        ("data_batch_3", batch()[:-9], "truncated or damaged"),
        ("data_batch_3", b"cos\nsystem\n(S'echo'\ntR.", "would run code"),
        ("batches.meta", makers.protocol0_names(b"label_names", [b"a"] * 10), "names a class twice"),
        ("batches.meta", makers.protocol0_names(b"names", [b"a", b"b"]), "does not hold 10 names"),
    ],
)
def test_another_cifar_is_refused(tmp_path, member, content, problem):
    files, _, _ = makers.cifar10_files()
    name = f"cifar-10-batches-py/{member}"
    files = files | {name: content} if content is not None else {k: v for k, v in files.items() if k != name}
    with pytest.raises(NbpkgError, match=rf"/cifar\.tar\.gz: .*{problem}"):
        official.read_cifar10(tar_gz(tmp_path / "cifar.tar.gz", files))


def test_mnist_round_trips(tmp_path):
    files, pixels, labels = makers.mnist(tmp_path)
    found, answers, names, train = official.read_mnist(*files)
    assert np.array_equal(found[:, 0], pixels) and np.array_equal(answers, labels)
    assert names == tuple("0123456789") and train.tolist() == [True] * 20 + [False] * 10


@pytest.mark.parametrize(
    ("which", "array", "problem"),
    [
        (0, random(20, 28), "no IDX file of bytes in 3 dimensions"),
        (0, random(20, 28, 27), "28 by 28 are due"),
        (0, random(0, 28, 28), "and holds 0 bytes"),
        (1, random(19, high=10), "19 labels for 20 images"),
        (1, np.full(20, 10, np.uint8), "labels outside 0 to 9"),
        (1, random(20, 1, high=10), "no IDX file of bytes in 1 dimensions"),
    ],
)
def test_another_mnist_is_refused(tmp_path, which, array, problem):
    files, _, _ = makers.mnist(tmp_path)
    makers.idx_gz(files[which], array)
    with pytest.raises(NbpkgError, match=f"/{files[which].name}: .*{problem}"):
        official.read_mnist(*files)


def test_an_idx_file_that_lies_or_lacks_a_class_is_refused(tmp_path):
    files, _, labels = makers.mnist(tmp_path)
    whole = gzip.decompress(files[0].read_bytes())
    for content in (whole[:-1], whole + b"\0", whole[:7], b"", whole[:4] + b"\xff" * 12 + whole[16:]):
        files[0].write_bytes(gzip.compress(content))
        with pytest.raises(NbpkgError, match=rf"/{files[0].name}: "):
            official.read_mnist(*files)
    makers.mnist(tmp_path)
    makers.idx_gz(files[1], np.where(labels == 3, 4, labels).astype(np.uint8)[:20])
    makers.idx_gz(files[3], np.where(labels == 3, 4, labels).astype(np.uint8)[20:])
    with pytest.raises(NbpkgError, match=f"/{files[1].name}: .*no image of class '3'"):
        official.read_mnist(*files)


def tiny(**changed) -> dict[str, bytes]:
    """Three classes of two training images and one validation image, colour and grey."""
    files = {
        "wnids.txt": "\n".join(IDS).encode() + b"\n",
        "words.txt": b"n00001740\tentity\nn01443537\tgoldfish, Carassius auratus\nn02124075\tcaf\xe9 cat\n",
        "test/images/test_0.JPEG": b"without a label, and never opened",
    }
    said = ""
    for number, item in enumerate(IDS):
        for i in range(2):
            flat = np.full((64, 64, 3), (20 * number + 10, 100, 40 * i), np.uint8)
            files[f"train/{item}/images/{item}_{i}.JPEG"] = picture(flat, "JPEG")
        files[f"train/{item}/{item}_boxes.txt"] = b"n01443537_0.JPEG\t0\t10\t63\t58\n"
        files[f"val/images/val_{number}.JPEG"] = picture(random(64, 64, seed=number), "JPEG")
        said += f"val_{number}.JPEG\t{item}\t0\t32\t44\t62\n"
    files["val/val_annotations.txt"] = said.encode()
    files = {TINY + name: content for name, content in files.items()}
    files |= {TINY + name: content for name, content in changed.items()}
    return {name: content for name, content in files.items() if content is not None}


def test_tiny_imagenet_is_scaled_and_its_validation_images_are_the_test_split(tmp_path):
    files = tiny()
    found, labels, names, train = official.read_tiny_imagenet(zipped(tmp_path / "tiny.zip", files))
    assert found.shape == (9, 3, 32, 32) and found.dtype == np.uint8
    assert names == ("n01443537 goldfish, Carassius auratus", "n02124075 caf\ufffd cat", "n04067472")
    # Members sorted by name: training images by id, then validation images in the order of their names.
    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 1, 0, 2] and train.tolist() == [True] * 6 + [False] * 3
    for position, name in ((0, "train/n01443537/images/n01443537_0.JPEG"), (8, "val/images/val_2.JPEG")):
        whole = np.asarray(Image.open(io.BytesIO(files[TINY + name])).convert("RGB")).transpose(2, 0, 1)
        due = images.resize(torch.from_numpy(whole.copy())[None], 32)[0].numpy()
        assert np.abs(found[position].astype(int) - due).max() <= 1


VALIDATION = "val/val_annotations.txt"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("wnids.txt", None, "lacks 'tiny-imagenet-200/wnids.txt'"),
        ("wnids.txt", b"n01443537\nn01443537\n", "different WordNet ids"),
        ("wnids.txt", b"../../etc\n", "different WordNet ids"),
        ("wnids.txt", "\n".join([*IDS, "n09999999"]).encode(), "no image of class 'n09999999'"),
        (VALIDATION, b"val_0.JPEG\tn09999999\t0\n", "belongs to no class"),
        (VALIDATION, b"val_0.JPEG\n", "belongs to no class"),
        (VALIDATION, b"val_0.JPEG\tn02124075\nval_0.JPEG\tn02124075\n", "there twice"),
        (VALIDATION, b"val_7.JPEG\tn02124075\n", "lacks images"),
        (VALIDATION, b"", "holds no test images"),
        ("val/images/val_1.JPEG", None, "lacks images"),
        ("val/images/val_1.JPEG", picture(random(64, 63), "JPEG"), "val_1.JPEG: a picture of"),
        ("val/images/val_1.JPEG", picture(random(64, 64), "PNG"), "val_1.JPEG: not a readable JPEG"),
        ("val/images/val_1.JPEG", picture(random(64, 64), "JPEG")[:300], "val_1.JPEG: not a readable JPEG"),
        ("val/images/val_1.JPEG", bytes(16 * 2**20 + 1), "are allowed"),
    ],
)
def test_another_tiny_imagenet_is_refused(tmp_path, name, content, problem):
    path = zipped(tmp_path / "tiny.zip", tiny(**{name: content}))
    with pytest.raises(NbpkgError, match=rf"/tiny\.zip: .*{problem}"):
        official.read_tiny_imagenet(path)


def test_the_registry_lists_files_in_the_order_that_readers_take_them():
    starts = ["train-images", "train-labels", "t10k-images", "t10k-labels"]
    paths = [file.path for file in registry.get("image-mnist-full").files]
    assert all(path.split("/")[-1].startswith(s) for path, s in zip(paths, starts, strict=True))


COUNTS = {
    "cifar10": 60_000,
    "cifar100": 60_000,
    "mnist": 70_000,
    "tiny-imagenet": 110_000,
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs(f"image-{name}-full")) for name in COUNTS]
)
def test_the_real_archives_are_whole(name):
    from nbpkg.data import store

    files = [store.path(file.path) for file in registry.get(f"image-{name}-full").files]
    found, labels, names, train = images._FULL[f"{name}-full"](*files)
    assert len(found) == len(labels) == len(train) == COUNTS[name]
    assert found.shape[1:] == (images._FILES[name][2], *[images._FILES[name][1]] * 2)
    assert len(names) == images._FILES[name][3]
