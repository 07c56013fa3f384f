"""Recipes of image sets on small made-up originals: the makers' archive and the copy give the same rows."""

import hashlib
import itertools

import makers
import numpy as np
import pytest
from makers import picture, random, tar_gz, zipped

from nbpkg.data import images, registry, values
from nbpkg.data.recipes import images as recipes
from nbpkg.data.recipes import omniglot
from nbpkg.errors import NbpkgError


def folders(pixels, labels, tests, names) -> dict[str, bytes]:
    """Members of a copy: repo-0/{train,test}/LABEL/NAME.png."""
    return {
        f"repo-0/{'test' if test else 'train'}/{label}/{name}.png": picture(row, "PNG")
        for row, label, test, name in zip(pixels, labels, tests, names, strict=True)
    }


def rows(path, side):
    """Pixels as (n, side, side, 3) or (n, side, side), labels, names, training?"""
    pixels, *rest = images.read_parquet(path, side, 3)
    return pixels.transpose(0, 2, 3, 1), *rest


def test_cifar_is_the_same_from_archive_and_copy(tmp_path):
    root, pixels = "cifar-10-batches-py/", random(12, 3072)
    labels, names = [1, 0] * 6, [f"s_{number:02d}" for number in np.random.default_rng(0).permutation(12)]
    files = {f"{root}batches.meta": makers.python2_pickle({b"label_names": [b"cat", b"dog"]})}
    for number in range(6):
        part = slice(2 * number, 2 * number + 2)
        files[root + (f"data_batch_{number + 1}" if number < 5 else "test_batch")] = makers.python2_pickle({
            b"labels": labels[part], b"data": pixels[part],
            b"filenames": [f"{name}.png".encode() for name in names[part]],
        })  # fmt: skip
    archive = tar_gz(tmp_path / "cifar-10-python.tar.gz", files)
    shaped = pixels.reshape(12, 3, 32, 32).transpose(0, 2, 3, 1)
    said = [("cat", "dog")[label] for label in labels]
    copy = tar_gz(tmp_path / "copy.tar.gz", folders(shaped, said, [False] * 10 + [True] * 2, names))
    digests = set()
    for path in (archive, copy):
        recipes.cifar10({"any name": path}, tmp_path)
        digests.add(values.digest(tmp_path / "cifar10.parquet"))
    assert len(digests) == 1
    found, answers, classes, train = rows(tmp_path / "cifar10.parquet", 32)
    order = sorted(range(12), key=lambda at: (at >= 10, said[at], names[at]))
    assert np.array_equal(found, shaped[order]) and answers.tolist() == [labels[at] for at in order]
    assert classes == ("cat", "dog") and train.tolist() == [True] * 10 + [False] * 2


def test_the_first_names_of_each_class_are_taken():
    keys = [(test, name, f"{number}") for number in (2, 10, 1) for name in "ba" for test in (True, False)]
    taken = recipes._first(keys, 2, 1)
    assert taken == [(False, "a", "1"), (False, "a", "10"), (False, "b", "1"), (False, "b", "10"),
                     (True, "a", "1"), (True, "b", "1")]  # fmt: skip


def test_mnist_is_the_same_from_archive_and_copy(tmp_path):
    files, pixels, labels = makers.mnist(tmp_path)
    recipes.mnist({path.name: path for path in files}, tmp_path / "one")
    copy = folders(pixels, labels, [False] * 20 + [True] * 10, range(30))
    recipes.mnist({"copy": tar_gz(tmp_path / "copy.tar.gz", copy)}, tmp_path / "two")
    one, two = (values.digest(tmp_path / name / "mnist.parquet") for name in ("one", "two"))
    assert one == two
    found, answers, _, _ = rows(tmp_path / "one" / "mnist.parquet", 28)
    # Numbers are sorted as text: "10" comes before "0"'s next, 20 is the first of the test images.
    assert np.array_equal(found[:2, :, :, 0], pixels[[0, 10]]) and answers.tolist()[:2] == [0, 0]


def test_the_whole_set_is_all_of_it_under_a_name_of_its_own(tmp_path):
    files, _, labels = makers.mnist(tmp_path)
    recipes.mnist_full({path.name: path for path in files}, tmp_path)
    found, answers, _, train = rows(tmp_path / "mnist_full.parquet", 28)
    assert len(found) == 30 and sorted(answers.tolist()) == sorted(labels.tolist()) and sum(train) == 20
    for name in ("cifar10", "cifar100", "tiny_imagenet", "mnist"):
        dataset = registry.get(f"image-{name.replace('_', '-')}-full")
        part = registry.get(f"image-{name.replace('_', '-')}")
        assert dataset.recipe == f"images.{name}_full" and len(dataset.ways) == len(part.ways)
        assert [file.sha256 for way in dataset.ways for file in way] == [
            file.sha256 for way in part.ways for file in way
        ]


def tiny() -> dict[str, bytes]:
    """Two classes of the archive with 101 training and 21 validation pictures each."""
    ids = ["n00000002", "n00000001"]
    files = {"wnids.txt": "\n".join(ids).encode(), "words.txt": b"n00000001\tone\nn00000002\ttwo, too\n"}
    files["words.txt"] += b"n00001740\tentity\n" * 70_000  # as long as the real one
    for item in ids:
        for name in sorted(f"{item}_{number}.JPEG" for number in range(500))[:101]:
            flat = np.full((64, 64), int(name[10:-5]) % 256, np.uint8)
            files[f"train/{item}/images/{name}"] = picture(flat, "JPEG")
    said = [f"val_{number}.JPEG\t{ids[number % 2]}\t0\t0\t9\t9\n" for number in range(42)]
    files["val/val_annotations.txt"] = "".join(said).encode()
    for number in range(42):
        files[f"val/images/val_{number}.JPEG"] = picture(random(64, 64, 3, seed=number), "JPEG")
    return {f"tiny-imagenet-200/{name}": content for name, content in files.items()}


def test_tiny_imagenet_is_the_same_from_archive_and_copy(tmp_path):
    files = tiny()
    recipes.tiny_imagenet({"zip": zipped(tmp_path / "a.zip", files)}, tmp_path / "one")
    inside = {f"repo-0/{name}": data for name, data in files.items()}
    originals = {"copy": tar_gz(tmp_path / "c.tar.gz", inside)}
    for name in ("wnids.txt", "words.txt", "val/val_annotations.txt"):
        path = tmp_path / name.rpartition("/")[2]
        path.write_bytes(files[f"tiny-imagenet-200/{name}"])
        originals[path.name] = path
    recipes.tiny_imagenet(originals, tmp_path / "two")
    one, two = (tmp_path / name / "tiny_imagenet.parquet" for name in ("one", "two"))
    assert values.digest(one) == values.digest(two)
    found, labels, names, train = rows(one, 32)
    assert names == ("n00000001 one", "n00000002 two, too")
    assert train.tolist() == [True] * 200 + [False] * 40 and labels[:200].tolist() == [0] * 100 + [1] * 100
    assert labels[200:].tolist() == [1, 0] * 20
    assert found[3].mean() == 100 and found[2].mean() == 10  # 0, 1, 10, 100 in the order of text


def test_squares_take_the_centre_and_every_fifth_for_the_test(tmp_path):
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = (200, 100, 50)
    names, blob = "bcadefghijk", picture(wide, "JPEG")
    files = {f"repo-0/images/{name}x/{n}.jpg": blob for name in names for n in range(6)}
    files |= {"repo-0/README.md": b"none of these", "repo-0/images/x.txt": b"nor this"}
    recipes.dtd10({"copy": tar_gz(tmp_path / "a.tar.gz", files)}, tmp_path)
    found, labels, classes, train = rows(tmp_path / "dtd10.parquet", 32)
    assert classes == tuple(f"{letter}x" for letter in "abcdefghij")
    assert train.tolist() == [False, True, True, True, True, False] * 10 and labels[6] == 1
    assert np.abs(found[:, 8:24, 8:24].astype(int) - (200, 100, 50)).max() < 4
    digits = {f"repo-0/Dataset/{n}/IMG_{n}.JPG": picture(random(100, 100, 3), "JPEG") for n in range(10)}
    recipes.sign_digits({"copy": tar_gz(tmp_path / "b.tar.gz", digits)}, tmp_path)
    assert len(rows(tmp_path / "sign_digits.parquet", 32)[0]) == 10


def drawings(count: int) -> dict[str, bytes]:
    """`count` characters of the background set and as many of the evaluation set, 20 drawings each."""
    files = {}
    for part, alphabet in (("background", "A"), ("evaluation", "B")):
        for n, d in itertools.product(range(count), range(1, 21)):
            ink = random(105, 105, seed=100 * n + d + 50 * (alphabet == "B")) > 30
            name = f"images_{part}/{alphabet}/character{n:02d}/{n:04d}_{d:02d}.png"
            files[name] = picture(255 * ink.astype(np.uint8), "PNG", "1")
    return files


def test_omniglot_places_characters_by_their_first_drawing(tmp_path):
    files = drawings(2)
    path = zipped(tmp_path / "a.zip", files)
    firsts = [name for name in sorted(files) if name.endswith("_01.png")]
    made = [omniglot._drawing(files[name]) for name in firsts]
    order = [2, 0, 3, 1]
    told = b"".join(hashlib.sha256(made[at].tobytes()).digest()[:8] for at in order)
    omniglot.omniglot({"zip": path}, tmp_path, told, train=3)
    found = np.load(tmp_path / "omniglot_28x28.npz")
    assert found["images"].shape == (4, 20, 28, 28) and found["test_classes"].tolist() == [3]
    assert all(np.array_equal(found["images"][place, 0], made[at]) for place, at in enumerate(order))


def test_ink_is_bright(tmp_path):
    paper = np.full((105, 105), 255, np.uint8)
    paper[:, 50:56] = 0
    small = omniglot._drawing(picture(paper, "PNG", "1"))
    assert small.shape == (28, 28) and small[:, 0].max() < 10 and small[:, 13].min() > 150


def test_a_picture_that_is_none_or_far_too_large_is_refused(tmp_path):
    for blob in (picture(np.zeros((1, 10_001), np.uint8), "PNG"), b"no picture"):
        with pytest.raises(NbpkgError, match="cannot be read"):
            recipes._rgb(tmp_path, blob)


def test_the_list_of_omniglot_names_each_character_once():
    from importlib import resources

    told = resources.files("nbpkg.data.recipes").joinpath("omniglot_order.bin").read_bytes()
    assert len({told[at : at + 8] for at in range(0, len(told), 8)}) == 1623 == len(told) // 8
