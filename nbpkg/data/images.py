"""Whole image sets as tensors of bytes: small enough to be held at once, on the device that trains on them.

    digits = load("digits")              scikit-learn's, inside its package: needs no file and no network
    cifar = load("cifar10")              a registered set; NbpkgError says how to get it when it is absent

"cifar10" is the part of CIFAR-10 that the book works with, "cifar10-full" is all of it. `ImageSet.registered`
is the set's name in the data registry. There is no loader that streams: parts fit in 100 MB, the largest
whole set in 340 MB, and cutting batches out of one tensor costs next to nothing.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nbpkg.data import registry, store
from nbpkg.errors import NbpkgError
from nbpkg.memo import Entry, cached, key_of

if TYPE_CHECKING:
    from torch import Tensor

# Of the first four the originals make the whole set too; its name is its own, it never stands for the part.
_PARTS = ("cifar10", "cifar100", "tiny-imagenet", "mnist", "dtd10", "sign-digits", "omniglot")
#: Names of all image sets; "digits" is always there, the others the registry knows as "image-NAME".
SOURCES = ("digits", *_PARTS, *(f"{name}-full" for name in _PARTS[:4]))

#: Part of the key of a decoded set: raised whenever a reader makes something else of the same files.
READERS = 1
_DIGITS_TEST = 50  # test images of each digit


@dataclass(frozen=True, eq=False)
class ImageSet:
    """All images of a set.

    images: uint8 (n, channels, h, w), channels 1 or 3. labels: int64 (n,), positions in `class_names`. train:
    bool (n,), True for the official training split. digest: "sha256:..." of the data. registered: the set's
    name in the data registry, None for what a package ships.
    """

    name: str
    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    train: Tensor
    digest: str
    registered: str | None


@functools.lru_cache(maxsize=len(SOURCES))
def load(name: str) -> ImageSet:
    """The image set called `name`, read and decoded once a process.

    Raises NbpkgError for an unknown name, for a file that is absent (the message says how to get it) and for
    one that is damaged. Its digest says whether it is: the readers below do not ask again.
    """
    if name not in SOURCES:
        raise NbpkgError(f"no image set is called {name!r}; known: {', '.join(SOURCES)}")
    if name == "digits":
        return _digits()
    dataset = registry.get(f"image-{name}")
    (path,) = (store.path(file.path) for file in dataset.files)

    def make():
        if name == "omniglot":
            return read_omniglot(path)
        return read_parquet(path, *((28, 1) if name.startswith("mnist") else (32, 3)))

    arrays = decoded(dataset.name, dataset.digest, make)
    return _image_set(name, arrays, dataset.digest, dataset.name)


def decoded(name: str, digest: str, make: Callable[[], tuple]) -> tuple:
    """What `make` returns for the set called `name`, as `read_parquet` does, kept in the cache.

    Decoding takes seconds, for all of Tiny-ImageNet most of a minute. digest: of the files that `make` reads.
    """
    return cached(Entry("images", name, key_of(name, digest, READERS), name), make)


def _image_set(name: str, arrays: tuple, digest: str, registered: str | None) -> ImageSet:
    import torch

    images, labels, class_names, train = arrays
    images, labels, train = map(torch.from_numpy, (images, labels, train))
    return ImageSet(name, images, labels, class_names, train, digest, registered)


def _digits() -> ImageSet:
    """The 1,797 digits of scikit-learn, 8x8 with 17 shades of grey, stretched to 0..255.

    They come without a split: the last 50 of each digit, in the package's order, are test images.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    train = np.ones(len(labels), bool)
    for digit in range(10):
        train[np.flatnonzero(labels == digit)[-_DIGITS_TEST:]] = False
    digest = "sha256:" + hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    names = tuple(str(digit) for digit in range(10))
    return _image_set("digits", (images, labels, names, train), digest, None)


def read_parquet(path: str | Path, side: int, channels: int):
    """A part of a set: uint8 (n, channels, side, side), int64 (n,), names, bool (n,) as in `ImageSet`.

    Columns image (bytes of a WebP file of side x side pixels), label, class_name, split ("train" or "test").
    """
    from PIL import Image
    from pyarrow import parquet

    # ParquetFile reads this one file; read_table would also take a folder, or a remote address.
    table = parquet.ParquetFile(path).read(columns=["image", "label", "class_name", "split"])
    labels = table["label"].cast("int64").to_numpy().copy()
    names, splits, blobs = (table[name].to_pylist() for name in ("class_name", "split", "image"))
    images = np.empty((len(labels), channels, side, side), np.uint8)
    for row, blob in enumerate(blobs):
        with Image.open(io.BytesIO(blob), formats=["WEBP"]) as picture:
            # Of a grey picture, stored as RGB, the first channel.
            images[row] = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)[:channels]
    classes = sorted(set(zip(labels.tolist(), names, strict=True)))
    return images, labels, tuple(name for _, name in classes), np.array(splits) == "train"


def read_omniglot(path: str | Path):
    """Omniglot's arrays in the form of `read_parquet`: here training and test split have different classes.

    The file holds images (classes, 20, side, side), train_classes and test_classes.
    """
    with np.load(path, allow_pickle=False) as file:
        drawings, first = file["images"], file["train_classes"]
    classes, per_class, side, _ = drawings.shape
    names = tuple(f"character {number:04d}" for number in range(classes))
    train = np.isin(np.arange(classes), first).repeat(per_class)
    images = np.ascontiguousarray(drawings.reshape(-1, 1, side, side))
    return images, np.arange(classes).repeat(per_class), names, train


def to_rgb(images: Tensor) -> Tensor:
    """(n, 1 or 3, h, w) -> (n, 3, h, w): grey is repeated."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def resize(images: Tensor, resolution: int) -> Tensor:
    """uint8 (n, c, h, w) -> uint8 (n, c, resolution, resolution), bilinear and without aliasing.

    Raises NbpkgError for another dtype or a resolution below 1.
    """
    import torch
    from torch.nn import functional

    if images.dtype != torch.uint8 or resolution < 1:
        raise NbpkgError(f"resize takes uint8 images and a resolution of 1 or more, got {images.dtype}")
    if images.shape[-2:] == (resolution, resolution):
        return images
    size = (resolution, resolution)
    # In chunks: as floats, a whole set would take four times its memory, and more while it is scaled.
    chunks = [
        functional.interpolate(part.float(), size, mode="bilinear", antialias=True).round().clamp(0, 255)
        for part in images.split(4096)
    ]
    return torch.cat([part.to(torch.uint8) for part in chunks])


def shifted(images: Tensor, dy: Tensor, dx: Tensor, mirrored: Tensor, pad: int) -> Tensor:
    """Each image padded by `pad` zeros on every side and cut out at its offset, mirrored where it is asked.

    (n, c, h, w); dy, dx (n,) from 0 to 2 pad, pad being in place; mirrored bool (n,) -> same shape and dtype.
    """
    import torch
    from torch.nn import functional

    n, _, h, w = images.shape
    columns = torch.arange(w, device=images.device)
    columns = dx[:, None] + torch.where(mirrored[:, None], columns.flip(0), columns)
    rows = dy[:, None] + torch.arange(h, device=images.device)
    padded = functional.pad(images, (pad, pad, pad, pad))
    which = torch.arange(n, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def augment(images: Tensor, pad: int, flip: bool, generator) -> Tensor:
    """Each image shifted by up to `pad` pixels, zeros moving in, and mirrored with probability 1/2 if `flip`.

    (n, c, h, w) -> same shape and dtype. Random numbers come from `generator`, a torch generator on the CPU,
    so that a GPU sees the same images. Raises NbpkgError for a negative `pad`.
    """
    import torch

    if pad < 0:
        raise NbpkgError(f"pad must be 0 or more, got {pad}")
    dy, dx = torch.randint(0, 2 * pad + 1, (2, len(images)), generator=generator).to(images.device)
    mirrored = torch.rand(len(images), generator=generator).to(images.device) < (0.5 if flip else 0.0)
    return shifted(images, dy, dx, mirrored, pad)
