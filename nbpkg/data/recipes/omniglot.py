"""Omniglot at 28x28: every drawing, the characters in the order in which the published runs had them."""

import hashlib
import io
import re
from importlib import resources
from pathlib import Path

import numpy as np

from nbpkg.data.archives import read_zip

_DRAWING = re.compile(r"images_(?:background|evaluation)/([^/]+/character\d+)/\d+_\d+\.png")
#: First 8 bytes of the SHA-256 of each character's first drawing, as pixels: `TRAIN` of the background set,
#: then those of the evaluation set.
_ORDER = "omniglot_order.bin"
TRAIN = 964


def omniglot(sources: dict[str, Path], out: Path, order: bytes | None = None, train: int = TRAIN) -> None:
    """`omniglot_28x28.npz`: images uint8 (1623, 20, 28, 28) with the ink bright, train_classes, test_classes.

    brendenlake/omniglot (MIT). A drawing is made grey, inverted, passed through a JPEG of quality 75, as the
    published runs had it, and averaged down from 105x105. The drawings of a character stand by file name; the
    characters stand in an order of their own, which a list of digests of their first drawings says.
    Pinned for every reader are the arrays; the file's bytes are those of the locked numpy.
    """
    if order is None:
        order = resources.files(__package__).joinpath(_ORDER).read_bytes()
    places = {order[at : at + 8]: at // 8 for at in range(0, len(order), 8)}
    characters: dict[str, list[np.ndarray]] = {}
    for path in sources.values():
        for name, blob in read_zip(path, _DRAWING.fullmatch):
            characters.setdefault(_DRAWING.fullmatch(name)[1], []).append(_drawing(blob))
    images = np.zeros((len(places), 20, 28, 28), np.uint8)
    for drawings in characters.values():
        images[places[hashlib.sha256(drawings[0].tobytes()).digest()[:8]]] = drawings
    out.mkdir(parents=True, exist_ok=True)
    classes = np.arange(len(images))
    np.savez_compressed(
        out / "omniglot_28x28.npz", images=images, train_classes=classes[:train], test_classes=classes[train:]
    )


def _drawing(blob: bytes) -> np.ndarray:
    """One drawing as (28, 28)."""
    from PIL import Image, ImageOps

    stream = io.BytesIO()
    with Image.open(io.BytesIO(blob), formats=["PNG"]) as picture:
        ImageOps.invert(picture.convert("L")).save(stream, "JPEG", quality=75)
    with Image.open(stream) as picture:
        return np.asarray(picture.resize((28, 28), Image.Resampling.BOX))
