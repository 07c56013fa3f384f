"""Omniglot at 28x28: every drawing, the characters in the order in which the published runs had them."""

import hashlib
import io
import re
from importlib import resources
from pathlib import Path

import numpy as np

from nbpkg.data.archives import MiB, read_zip
from nbpkg.untrusted import refuse

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
        for name, blob in read_zip(path, _DRAWING.fullmatch, limit=MiB, total=128 * MiB):
            characters.setdefault(_DRAWING.fullmatch(name)[1], []).append(_drawing(path, blob))
    images = np.zeros((len(places), 20, 28, 28), np.uint8)
    for name, drawings in characters.items():
        place = places.pop(hashlib.sha256(drawings[0].tobytes()).digest()[:8], None)
        if place is None or len(drawings) != 20:
            refuse(path, f"{name} is not among the characters known, or has not 20 drawings")
        images[place] = drawings
    if places:
        refuse(path, f"{len(places)} characters are lacking")
    out.mkdir(parents=True, exist_ok=True)
    classes = np.arange(len(images))
    np.savez_compressed(
        out / "omniglot_28x28.npz", images=images, train_classes=classes[:train], test_classes=classes[train:]
    )


def _drawing(path: Path, blob: bytes) -> np.ndarray:
    """One drawing as (28, 28)."""
    from PIL import Image, ImageOps

    stream = io.BytesIO()
    try:
        with Image.open(io.BytesIO(blob), formats=["PNG"]) as picture:
            # The size stands in the header: a picture that would unpack to gigabytes is never unpacked.
            if picture.size != (105, 105):
                raise ValueError(f"{picture.size} pixels")
            ImageOps.invert(picture.convert("L")).save(stream, "JPEG", quality=75)
    except Exception as error:  # a damaged picture can fail in many ways
        refuse(path, f"holds a picture that cannot be read ({error})", error)
    with Image.open(stream) as picture:
        return np.asarray(picture.resize((28, 28), Image.Resampling.BOX))
