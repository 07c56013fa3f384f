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


def drawing(seed: int) -> bytes:
    """A black stroke on white, one bit a pixel."""
    pixels = np.full((105, 105), 255, np.uint8)
    pixels[20 + seed : 40 + seed, 30:60] = 0
    return picture(pixels, "PNG", "1")


def omniglot(folder, background: dict | None = None, evaluation: dict | None = None):
    """Two characters of two drawings in the background set, one in the evaluation set."""
    first = {f"Greek/character0{c}/000{c}_0{i}.png": drawing(c + i) for c in (1, 2) for i in (1, 2)}
    second = {"Tengwar/character01/0965_01.png": drawing(9), "Tengwar/character01/0965_02.png": drawing(30)}
    parts = (("background", first | (background or {})), ("evaluation", second | (evaluation or {})))
    return [
        zipped(
            folder / f"images_{part}.zip",
            {f"images_{part}/": b"", "__MACOSX/images/x.png": b""}
            | {f"images_{part}/{name}": content for name, content in files.items() if content is not None},
        )
        for part, files in parts
    ]


def test_omniglot_is_split_over_classes_with_bright_ink(tmp_path):
    found, labels, names, train = official.read_omniglot(*omniglot(tmp_path))
    assert found.shape == (6, 1, 28, 28) and found.dtype == np.uint8
    assert names == ("Greek/character01", "Greek/character02", "Tengwar/character01")
    assert labels.tolist() == [0, 0, 1, 1, 2, 2] and train.tolist() == [True] * 4 + [False] * 2
    assert found[0, 0, 0, 0] == 0 and found[0, 0, 8, 12] == 255
    np.testing.assert_allclose(found.mean((1, 2, 3)), 255 * 600 / 105**2, rtol=0.05)


@pytest.mark.parametrize(
    ("background", "evaluation", "problem"),
    [
        ({"Greek/character02/0002_01.png": picture(random(28, 28), "PNG")}, {}, r"background\.zip: 0002_01"),
        (
            {"Greek/character02/0002_01.png": b"no picture"},
            {},
            r"background\.zip: 0002_01.*not a readable PNG",
        ),
        ({}, {"Greek/character02/0002_03.png": drawing(3)}, r"evaluation\.zip: .*of the background set"),
        ({}, {f"Tengwar/character01/0965_0{i}.png": None for i in (1, 2)}, r"evaluation\.zip: .*no drawing"),
    ],
)
def test_another_omniglot_is_refused(tmp_path, background, evaluation, problem):
    files = omniglot(tmp_path, background, evaluation)
    with pytest.raises(NbpkgError, match=f"/images_{problem}"):
        official.read_omniglot(*files)
    with pytest.raises(NbpkgError, match=r"/images_evaluation\.zip: .*no drawing of the background set"):
        official.read_omniglot(*reversed(files))


def test_the_registry_lists_files_in_the_order_that_readers_take_them():
    due = {"mnist": ["train-images", "train-labels", "t10k-images", "t10k-labels"],
           "omniglot": ["images_background", "images_evaluation"]}  # fmt: skip
    for name, starts in due.items():
        paths = [file.path for file in registry.get(f"image-{name}-full").files]
        assert [path.split("/")[-1].startswith(s) for path, s in zip(paths, starts, strict=True)] == [
            True
        ] * len(starts)


COUNTS = {
    "cifar10": 60_000,
    "cifar100": 60_000,
    "mnist": 70_000,
    "tiny-imagenet": 110_000,
    "omniglot": 32_460,
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
