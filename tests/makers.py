"""Tiny archives of images in the official formats, as Python 2 and the makers' tools wrote them."""

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def python2_pickle(value) -> bytes:
    """`value` as cPickle of Python 2 writes it with protocol 2: bytes are its str, arrays are numpy 1's."""
    count = [0]

    def put() -> bytes:
        count[0] += 1
        return b"q" + bytes([count[0]]) if count[0] < 256 else b"r" + struct.pack("<I", count[0])

    def write(item) -> bytes:
        if type(item) is bytes:
            head = b"U" + bytes([len(item)]) if len(item) < 256 else b"T" + struct.pack("<i", len(item))
            return head + item + put()
        if type(item) is int:
            if 0 <= item < 65536:
                return b"K" + bytes([item]) if item < 256 else b"M" + struct.pack("<H", item)
            return b"J" + struct.pack("<i", item)
        if type(item) is list:
            parts = [b"]" + put()]
            for start in range(0, len(item), 1000):
                parts += [b"(", *map(write, item[start : start + 1000]), b"e"]
            return b"".join(parts)
        if type(item) is dict:
            start = b"}" + put()
            return start + b"(" + b"".join(write(part) for pair in item.items() for part in pair) + b"u"
        assert isinstance(item, np.ndarray) and item.flags.c_contiguous
        kind = item.dtype.str[1:].encode()
        shape = b"".join(map(write, item.shape)) + {1: b"\x85", 2: b"\x86"}[item.ndim]
        made = b"cnumpy.core.multiarray\n_reconstruct\n" + put() + b"cnumpy\nndarray\n" + put()
        made += b"K\x00\x85" + put() + b"U\x01b" + put() + b"\x87" + put() + b"R" + put()
        dtype = b"cnumpy\ndtype\n" + put() + write(kind) + b"K\x00K\x01\x87" + put() + b"R" + put()
        dtype += b"(K\x03U\x01|" + put() + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00t" + put() + b"b"
        state = b"(K\x01" + shape + put() + dtype + b"\x89" + write(item.tobytes()) + b"t" + put()
        return made + state + b"b"

    return b"\x80\x02" + write(value) + b"."


def protocol0_names(key: bytes, names: list[bytes]) -> bytes:
    """A dictionary of a number and a list of names in protocol 0, as CIFAR-10's `batches.meta`."""
    items = b"".join(b"S'%s'\np%d\na" % (name, number) for number, name in enumerate(names, start=5))
    return b"(dp1\nS'num_cases_per_batch'\np2\nI10000\nsS'%s'\np3\n(lp4\n%ss." % (key, items)


def tar_gz(path: Path, files: dict[str, bytes], *extra: tarfile.TarInfo) -> Path:
    """A .tar.gz of `files`, and of `extra` members without content."""
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in extra:
            archive.addfile(info)
    return path


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    """A deflated .zip of `files`; a name that ends in / makes a folder."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def idx_gz(path: Path, array: np.ndarray) -> Path:
    """An IDX file of bytes, compressed."""
    head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes(), 1))
    return path


def picture(pixels: np.ndarray, kind: str, mode: str | None = None) -> bytes:
    """An array of pixels as an image file; `mode` "1" makes it black and white."""
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(stream, kind)
    return stream.getvalue()


def random(*shape: int, seed: int = 0, high: int = 256) -> np.ndarray:
    """Random bytes below `high`."""
    return np.random.default_rng(seed).integers(0, high, shape).astype(np.uint8)


def mnist(folder: Path, train: int = 20, test: int = 10) -> tuple[list[Path], np.ndarray, np.ndarray]:
    """The four files of MNIST, their images and labels (training first); every digit is in each part."""
    images, labels = random(train + test, 28, 28), (np.arange(train + test) % 10).astype(np.uint8)
    parts = [images[:train], labels[:train], images[train:], labels[train:]]
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    files = [idx_gz(folder / f"{name}-ubyte.gz", part) for name, part in zip(names, parts, strict=True)]
    return files, images, labels


def cifar10_files() -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    """Members of `cifar-10-python.tar.gz` with ten images a batch, all images (60, 3072) and labels (60,)."""
    root = "cifar-10-batches-py/"
    images, labels = (
        random(60, 3072),
        np.random.default_rng(1).permuted(np.tile(np.arange(10), (6, 1)), axis=1),
    )
    names = [b"class %d" % number for number in range(10)]
    files = {f"{root}batches.meta": protocol0_names(b"label_names", names), f"{root}readme.html": b"<html>"}
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        files[root + name] = python2_pickle({
            b"batch_label": b"batch", b"labels": labels[i].tolist(), b"data": images[10 * i : 10 * i + 10],
            b"filenames": [b"%d.png" % number for number in range(10)],
        })  # fmt: skip
    return files, images, labels.ravel()


def cifar100_files() -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    """Members of `cifar-100-python.tar.gz` with one image a class and part, all images and fine labels."""
    root = "cifar-100-python/"
    images, labels = random(200, 3072), np.concatenate([np.arange(100), np.arange(100)[::-1]])
    files = {
        f"{root}meta": python2_pickle({
            b"fine_label_names": [b"fine_%d" % number for number in range(100)],
            b"coarse_label_names": [b"coarse_%d" % number for number in range(20)],
        })
    }  # fmt: skip
    for name, part in (("train", slice(0, 100)), ("test", slice(100, 200))):
        fine = labels[part].tolist()
        files[root + name] = python2_pickle({
            b"filenames": [b"%d.png" % number for number in range(100)], b"batch_label": b"all of it",
            b"fine_labels": fine, b"coarse_labels": [number // 5 for number in fine], b"data": images[part],
        })  # fmt: skip
    return files, images, labels
