"""Image sets: a selection of the originals' pictures, cut to one size, as lossless WebP in a Parquet table.

A recipe takes the originals as a dictionary from name to path and a folder, and writes the set's file there.
Where a set has two originals, the makers' archive and a copy of single pictures, either gives the same rows.
The makers' archives are registered with a checksum, so that what they hold is known; the copies are not.
The file's bytes are the registered ones with the locked pyarrow and Pillow; what is pinned for every reader
is the digest of its values: pixels, labels, class names and splits, in order.
"""

import gzip
import io
import re
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np

from nbpkg.data import plain_pickle
from nbpkg.data.archives import MiB, read_zip, walk_tar
from nbpkg.untrusted import refuse

Sources = dict[str, Path]
#: One picture before it is read: whether it is of the test split, its class, its file name.
Key = tuple[bool, str, str]

_TOTAL = 2048 * MiB  # what an archive may unpack to
_LARGEST = 10_000  # pixels of a picture's longer side
_ROWS = 4096  # of a row group


def _write(path: Path, rows: Iterable[tuple[str, bool, np.ndarray]], names: list[str]) -> None:
    """A table of (class, test?, pixels uint8 (h, w, 3)); a label is the class's position in `names`."""
    import pyarrow as pa
    from PIL import Image
    from pyarrow import parquet

    blobs, labels, tests = [], [], []
    for name, test, pixels in rows:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "WEBP", lossless=True, quality=60, method=4)
        blobs.append(stream.getvalue())
        labels.append(names.index(name))
        tests.append("test" if test else "train")
    table = pa.table({
        "image": pa.array(blobs, pa.binary()),
        "label": pa.array(labels, pa.int32()),
        "class_name": pa.array([names[label] for label in labels]).dictionary_encode(),
        "split": pa.array(tests).dictionary_encode(),
    })  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, compression="zstd", compression_level=3, row_group_size=_ROWS)


def _first(keys: Iterable[Key], train: int, test: int) -> list[Key]:
    """Of each split and class the first so many file names in sorted order; training split first."""
    groups = defaultdict(list)
    for key in keys:
        groups[key[:2]].append(key)
    return [key for group in sorted(groups) for key in sorted(groups[group])[: test if group[0] else train]]


def _rgb(path: Path, blob: bytes, side: int | None = None) -> np.ndarray:
    """A picture's pixels (h, w, 3); with `side` its centre square, scaled down by Lanczos' filter."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(blob), formats=["PNG", "JPEG"]) as picture:
            # The size stands in the header: a picture that would unpack to gigabytes is never unpacked.
            if max(picture.size) > _LARGEST:
                raise ValueError(f"{picture.size} pixels")
            picture = picture.convert("RGB")
    except Exception as error:  # a damaged picture can fail in many ways
        refuse(path, f"holds a picture that cannot be read ({error})", error)
    if side is not None:
        width, height = picture.size
        short = min(picture.size)
        left, top = (width - short) // 2, (height - short) // 2
        picture = picture.crop((left, top, left + short, top + short))
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def _members(path: Path, pattern: str) -> list[re.Match]:
    """The names of the archive's files that `pattern` fits, as matches."""
    found: list[re.Match | None] = []
    # The predicate wants nothing: `append` gives None, so that no content is read.
    list(walk_tar(path, lambda name: found.append(re.fullmatch(pattern, name)), _TOTAL))
    return list(filter(None, found))


def _folders(path: Path, train: int, test: int) -> list[tuple[str, bool, np.ndarray]]:
    """Rows from a copy with members .../{train,test}/CLASS/NAME.png."""
    found = _members(path, r"[^/]+/(train|test)/([^/]+)/([^/]+\.png)")
    members = {(match[1] == "test", match[2], match[3]): match[0] for match in found}
    keys = _first(members, train, test)
    wanted = {members[key] for key in keys}
    pictures = {name: _rgb(path, blob) for name, blob in walk_tar(path, wanted.__contains__, _TOTAL)}
    return [(key[1], key[0], pictures[members[key]]) for key in keys]


def _only(sources: Sources) -> Path:
    (path,) = sources.values()
    return path


def cifar10(sources: Sources, out: Path, name: str = "cifar10", train: int = 2500, test: int = 500) -> None:
    """`cifar10.parquet`: of each class the first 2,500 training and 500 test pictures by file name.

    Krizhevsky 2009 (no licence stated): his archive, or the pictures in cyizhuo/CIFAR-10-dataset.
    """
    batches = {f"cifar-10-batches-py/data_batch_{i}": False for i in range(1, 6)}
    batches["cifar-10-batches-py/test_batch"] = True
    rows = _cifar(_only(sources), batches, "cifar-10-batches-py/batches.meta", "label", train, test)
    _write(out / f"{name}.parquet", rows, sorted({row[0] for row in rows}))


def cifar100(sources: Sources, out: Path, name: str = "cifar100", train: int = 250, test: int = 50) -> None:
    """`cifar100.parquet`: of each class the first 250 training and 50 test pictures by file name.

    Krizhevsky 2009 (no licence stated): his archive, or the pictures in cyizhuo/CIFAR-100-dataset.
    """
    batches = {"cifar-100-python/train": False, "cifar-100-python/test": True}
    rows = _cifar(_only(sources), batches, "cifar-100-python/meta", "fine_label", train, test)
    _write(out / f"{name}.parquet", rows, sorted({row[0] for row in rows}))


def _cifar(path: Path, batches: dict[str, bool], meta: str, label: str, train: int, test: int) -> list:
    if not path.name.endswith("-python.tar.gz"):
        return _folders(path, train, test)
    members = dict(walk_tar(path, {*batches, meta}.__contains__, _TOTAL))
    names = plain_pickle.loads(path, members.pop(meta))[f"{label}_names"]
    pictures = {}
    for member, is_test in batches.items():
        batch = plain_pickle.loads(path, members.pop(member))
        pixels = batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        for picture, number, file in zip(pixels, batch[f"{label}s"], batch["filenames"], strict=True):
            pictures[is_test, names[number].decode(), file.decode()] = picture
    return [(key[1], key[0], pictures[key]) for key in _first(pictures, train, test)]


def mnist(sources: Sources, out: Path, name: str = "mnist", train: int = 2500, test: int = 500) -> None:
    """`mnist.parquet`: of each digit the first 2,500 training and 500 test pictures, their numbers as text.

    LeCun, Cortes and Burges (no licence stated): the four files, or the pictures in rasbt/mnist-pngs (MIT).
    A picture's number is its position among the training images, then among the test images after them.
    """
    if len(sources) == 1:
        rows = _folders(_only(sources), train, test)
    else:
        order = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
        x, y, tests, answers = (_idx(sources[f"{name}-ubyte.gz"], int(name[-1])) for name in order)
        images, labels = np.concatenate([x, tests]), np.concatenate([y, answers])
        keys = [(n >= len(x), str(label), str(n)) for n, label in enumerate(labels)]
        rows = [
            (digit, is_test, images[int(number), :, :, None].repeat(3, axis=2))
            for is_test, digit, number in _first(keys, train, test)
        ]
    _write(out / f"{name}.parquet", rows, [str(digit) for digit in range(10)])


def _idx(path: Path, dimensions: int) -> np.ndarray:
    """An IDX file of bytes: four bytes, the length of each dimension, big end first, then the numbers."""
    content = gzip.decompress(path.read_bytes())
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def tiny_imagenet(
    sources: Sources, out: Path, name: str = "tiny_imagenet", train: int = 100, test: int = 20
) -> None:
    """`tiny_imagenet.parquet`: of each class 100 training and 20 validation pictures, 64x64 scaled to 32x32.

    Stanford CS231n (ImageNet's terms): the archive, or the pictures in rangeetpan/IMagenet with the lists of
    DhanashriPalodkar/imageet32x32. Classes by WordNet id, named "id words"; training pictures are the first
    by file name, validation pictures, as test split, the first in val_annotations.txt. Lanczos' filter.
    """
    archive = next(path for name, path in sources.items() if not name.endswith(".txt"))
    names = ("wnids.txt", "words.txt", "val_annotations.txt")
    if len(sources) == 1:
        inside = {"tiny-imagenet-200/" + name.replace("val_", "val/val_"): name for name in names}
        texts = {inside[member]: blob for member, blob in read_zip(archive, inside.__contains__)}
    else:
        texts = {name: sources[name].read_bytes() for name in names}
    ids, words, answers = (texts[name].decode("utf-8", "replace").splitlines() for name in names)
    words = dict(line.split("\t", 1) for line in words if "\t" in line)
    titles = {item: f"{item} {words[item]}" for item in sorted(ids)}
    chosen = _tiny_members(titles, answers, train, test)
    if len(sources) == 1:
        blobs = read_zip(archive, chosen.__contains__)
    else:
        # The copy's archive lies in a folder of its own.
        blobs = walk_tar(archive, lambda name: name.partition("/")[2] in chosen, _TOTAL)
    pictures = {name[name.index("tiny-") :]: _rgb(archive, blob, 32) for name, blob in blobs}
    rows = ((titles[item], "/val/" in name, pictures[name]) for name, item in chosen.items())
    _write(out / f"{name}.parquet", rows, list(titles.values()))


def _tiny_members(ids: Iterable[str], answers: list[str], train: int, test: int) -> dict[str, str]:
    """Name of a picture in the archive -> its WordNet id, in the set's order; there are 500 a class."""
    chosen, taken = {}, defaultdict(int)
    for item in ids:
        for name in sorted(f"{item}_{number}.JPEG" for number in range(500))[:train]:
            chosen[f"tiny-imagenet-200/train/{item}/images/{name}"] = item
    for line in answers:
        name, item = line.split("\t")[:2]
        taken[item] += 1
        if taken[item] <= test:
            chosen[f"tiny-imagenet-200/val/images/{name}"] = item
    return chosen


def whole(recipe: Callable) -> Callable[[Sources, Path], None]:
    """`NAME_full.parquet`: all pictures of a set of which the recipe takes the first of each class."""
    return partial(recipe, name=f"{recipe.__name__}_full", train=100_000, test=100_000)


cifar10_full, cifar100_full, mnist_full = whole(cifar10), whole(cifar100), whole(mnist)
tiny_imagenet_full = partial(tiny_imagenet, name="tiny_imagenet_full", train=500, test=50)


def dtd10(sources: Sources, out: Path) -> None:
    """`dtd10.parquet`: all pictures of ten texture classes, centre square scaled to 32x32 by Lanczos' filter.

    Cimpoi et al. 2014 (research use): pan8915/DeepTexture, or the authors' archive. The first ten classes by
    name, pictures by file name; of each class the pictures 0, 5, 10, ... are the test split.
    """
    path = _only(sources)
    _squares(path, r"[^/]+/images/([a-z]+)/([^/]+\.jpg)", out / "dtd10.parquet")


def sign_digits(sources: Sources, out: Path) -> None:
    """`sign_digits.parquet`: all pictures, 100x100 scaled to 32x32 by Lanczos' filter.

    ardamavi/Sign-Language-Digits-Dataset (Apache-2.0). Pictures by file name; of each digit the pictures
    0, 5, 10, ... are the test split.
    """
    _squares(_only(sources), r"[^/]+/Dataset/(\d)/([^/]+\.JPG)", out / "sign_digits.parquet")


def _squares(path: Path, pattern: str, file: Path) -> None:
    found = sorted((match[1], match[2], match[0]) for match in _members(path, pattern))
    names = sorted({name for name, _, _ in found})[:10]
    members = {name: [member for other, _, member in found if other == name] for name in names}
    wanted = set().union(*members.values())
    pictures = {name: _rgb(path, blob, 32) for name, blob in walk_tar(path, wanted.__contains__, _TOTAL)}
    rows = [
        (name, number % 5 == 0, pictures[member])
        for name in names
        for number, member in enumerate(members[name])
    ]
    _write(file, rows, names)
