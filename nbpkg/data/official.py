"""Image sets as their makers publish them: CIFAR-10 and -100, MNIST, Tiny-ImageNet.

Each reader takes the published archive or archives and returns what `nbpkg.data.images` works with: images
uint8 (n, channels, h, w), labels int64 (n,), class names, and train bool (n,), True for the official
training split. Raises NbpkgError, one line that names the file, for whatever does not fit the format.
"""

import io
import math
import re
import struct
from pathlib import Path, PurePosixPath

import numpy as np

from nbpkg.data import plain_pickle
from nbpkg.data.archives import MiB, read_gzip, read_tar, read_zip
from nbpkg.untrusted import refuse

Read = tuple[np.ndarray, np.ndarray, tuple[str, ...], np.ndarray]

_TINY = "tiny-imagenet-200/"
_TINY_TRAIN = re.compile(_TINY + r"train/(n\d{8})/images/\1_\d+\.JPEG")
_TINY_LIMITS = {"limit": 16 * MiB, "total": 1024 * MiB}


def _finished(path, images: list, labels, names, train) -> Read:
    """The four parts as arrays; refuses a set with a class or a split that holds no image.

    images: blocks (n, channels, h, w) with n of any size.
    """
    labels, train = np.asarray(labels, np.int64), np.asarray(train, bool)
    if lacking := set(range(len(names))) - set(labels.tolist()):
        refuse(path, f"holds no image of class {names[min(lacking)]!r}")
    if not train.any() or train.all():
        refuse(path, f"holds no {'test' if train.any() else 'training'} images")
    return np.concatenate(images), labels, tuple(names), train


def read_cifar10(path: str | Path) -> Read:
    """`cifar-10-python.tar.gz`: 32x32 RGB, ten classes."""
    root = "cifar-10-batches-py/"
    batches = {f"{root}data_batch_{i}": True for i in range(1, 6)} | {f"{root}test_batch": False}
    return _cifar(path, batches, f"{root}batches.meta", "labels", "label_names", 10)


def read_cifar100(path: str | Path) -> Read:
    """`cifar-100-python.tar.gz`: 32x32 RGB, the hundred fine classes."""
    batches = {"cifar-100-python/train": True, "cifar-100-python/test": False}
    return _cifar(path, batches, "cifar-100-python/meta", "fine_labels", "fine_label_names", 100)


def _cifar(path, batches: dict[str, bool], meta: str, label_key: str, name_key: str, classes: int) -> Read:
    members = read_tar(path, {*batches, meta}, limit=256 * MiB)
    class_names = plain_pickle.names(path, plain_pickle.loads(path, members.pop(meta)).get(name_key), classes)
    images, labels, train = [], [], []
    for member, training in batches.items():
        batch = plain_pickle.loads(path, members.pop(member))
        pixels = batch.get("data")
        if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != 3072:
            refuse(path, f"{member} holds no images of 3,072 bytes")
        images.append(pixels.reshape(-1, 3, 32, 32))
        labels.extend(plain_pickle.labels(path, batch.get(label_key), len(pixels), classes))
        train.extend([training] * len(pixels))
    return _finished(path, images, labels, class_names, train)


def read_mnist(train_images, train_labels, test_images, test_labels) -> Read:
    """The four `...-idx3-ubyte.gz` and `...-idx1-ubyte.gz` of MNIST: 28x28 grey, ten digits."""
    images, labels, train = [], [], []
    parts = ((train_images, train_labels, True), (test_images, test_labels, False))
    for pictures, answers, training in parts:
        x, y = _idx(pictures, 3), _idx(answers, 1)
        if x.shape[1:] != (28, 28):
            refuse(pictures, f"its images are {x.shape[1:]} pixels, 28 by 28 are due")
        if len(y) != len(x):
            refuse(answers, f"holds {len(y):,} labels for {len(x):,} images")
        if y.max() > 9:
            refuse(answers, "holds labels outside 0 to 9")
        images.append(x[:, None])
        labels.extend(y)
        train.extend([training] * len(x))
    return _finished(train_labels, images, labels, [str(digit) for digit in range(10)], train)


def _idx(path: str | Path, dimensions: int) -> np.ndarray:
    """An IDX file of bytes with so many dimensions, none of them empty."""
    content = read_gzip(path, limit=64 * MiB)
    head = 4 + 4 * dimensions
    # Two zero bytes, 8 for unsigned bytes, the number of dimensions; then each of them, big end first.
    if len(content) < head or content[:4] != bytes((0, 0, 8, dimensions)):
        refuse(path, f"is no IDX file of bytes in {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", content[4:head])
    if 0 in shape or len(content) - head != math.prod(shape):
        refuse(path, f"says {shape} and holds {len(content) - head:,} bytes")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def picture(path, name: str, blob: bytes, kind: str, mode: str, side: int, resolution: int) -> np.ndarray:
    """One picture of side x side pixels, scaled down: (1, channels, resolution, resolution), L being grey.

    Bilinear and without aliasing, as `images.resize` does it; so it is never held in its full size. Raises
    NbpkgError naming the file `path` and the picture `name` in it when it is damaged or of another size.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(blob), formats=[kind]) as picture:
            size, pixels = picture.size, None
            # The size stands in the header: a picture that would unpack to gigabytes is never unpacked.
            if size == (side, side):
                small = picture.convert(mode).resize((resolution, resolution), Image.Resampling.BILINEAR)
                pixels = np.asarray(small)
    except Exception as error:  # a damaged picture can fail in many ways
        refuse(path, f"{PurePosixPath(name).name}: not a readable {kind} picture", error)
    if pixels is None:
        refuse(path, f"{PurePosixPath(name).name}: a picture of {size} pixels where {(side, side)} is due")
    return pixels.reshape(1, resolution, resolution, -1).transpose(0, 3, 1, 2)


def read_tiny_imagenet(path: str | Path) -> Read:
    """`tiny-imagenet-200.zip`: RGB of 64x64, scaled to 32x32.

    The official validation images are the test split; the official test images carry no labels and are left
    out. Classes are in the order of their WordNet ids and named "id words".
    """
    ids, words, answers = _tiny_tables(path)
    label = {item: number for number, item in enumerate(ids)}

    def class_id(name: str) -> str | None:
        found = _TINY_TRAIN.fullmatch(name)
        return found[1] if found else answers.get(name)

    images, labels, train = [], [], []
    for name, blob in read_zip(path, lambda name: class_id(name) in label, **_TINY_LIMITS):
        images.append(picture(path, name, blob, "JPEG", "RGB", 64, 32))
        labels.append(label[class_id(name)])
        train.append(name not in answers)
    if train.count(False) != len(answers):
        refuse(path, "lacks images that val_annotations.txt names")
    return _finished(path, images, labels, [f"{item} {words.get(item, '')}".strip() for item in ids], train)


def _tiny_tables(path) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """The sorted WordNet ids, the words of each id, and the id of each validation image by member name."""
    tables = [_TINY + name for name in ("wnids.txt", "words.txt", "val/val_annotations.txt")]
    texts = {
        # Words are only shown, so that a stray byte in them does no harm.
        name: blob.decode("utf-8", "replace").splitlines()
        for name, blob in read_zip(path, tables.__contains__, **_TINY_LIMITS)
    }
    if lacking := [name for name in tables if name not in texts]:
        refuse(path, f"lacks {lacking[0]!r}")
    ids = sorted(line for line in texts[tables[0]] if line)
    if not ids or len(set(ids)) != len(ids) or not all(re.fullmatch(r"n\d{8}", item) for item in ids):
        refuse(path, "wnids.txt does not hold different WordNet ids")
    words = dict(line.split("\t", 1) for line in texts[tables[1]] if "\t" in line)
    answers = {}
    for line in filter(None, texts[tables[2]]):
        # Name, id, and four numbers of a box that is not used here.
        name, item = (*line.split("\t"), "")[:2]
        member = f"{_TINY}val/images/{name}"
        if item not in ids or member in answers:
            refuse(path, f"val_annotations.txt: {name[:40]!r} belongs to no class or is there twice")
        answers[member] = item
    return ids, words, answers
