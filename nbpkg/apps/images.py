"""Images of a user's own, from a folder or as arrays: read, checked, and turned into features."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nbpkg.data.images import resize
from nbpkg.errors import NbpkgError
from nbpkg.zoo import features

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
#: What a file may hold, whatever its name says: Pillow hands other formats to programs such as Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
#: Images of a class that are read, and looked at, at most.
MOST_IMAGES = 40
_SIDE = 64  # pixels a side that `read_folder` keeps, more than any extractor's training saw
_BATCH = 64


def read_folder(path: str | Path, most: int = MOST_IMAGES) -> tuple[Tensor, Tensor]:
    """Images and labels of a folder with a subfolder for each class: uint8 (n, 3, 64, 64), int64 (n,).

    Subfolders in the order of their names are classes 0, 1, ...; hidden files and files of other kinds are
    passed over. Of a class, `most` images are read, spread evenly over its sorted names. Raises NbpkgError
    when the folder is none, holds fewer than two classes, a class without images, or a file that is no image.
    """
    path = Path(path)
    if not path.is_dir():
        raise NbpkgError(f"{path}: there is no such folder of images")
    classes = sorted(entry for entry in path.glob("[!.]*") if entry.is_dir())
    if len(classes) < 2:
        raise NbpkgError(f"{path}: needs a subfolder for each class, two or more; it has {len(classes)}")
    images, labels = [], []
    for label, folder in enumerate(classes):
        names = sorted(entry for entry in folder.glob("[!.]*") if entry.suffix.lower() in SUFFIXES)
        if not names:
            raise NbpkgError(f"{folder}: holds no image ({', '.join(SUFFIXES)})")
        for place in np.unique(np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int)):
            images.append(_read(names[place]))
            labels.append(label)
    return torch.stack(images), torch.tensor(labels)


def _read(path: Path) -> Tensor:
    """An image file as uint8 (3, 64, 64). Raises NbpkgError that names a file that is no image."""
    from PIL import Image

    try:
        if not path.is_file():
            raise ValueError("it is no regular file")
        with warnings.catch_warnings(action="ignore"):
            # Pillow's limit for what might be a bomb: met by what the file says, before anything is decoded.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as picture:
                small = picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    except Exception as error:  # a decoder can fail in any way at all
        why = " ".join(str(error).split()) or type(error).__name__
        raise NbpkgError(f"{path}: cannot be read as an image ({why})") from None
    return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)


def check(images: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """uint8 (n, 3, h, w), from channels last too, and labels 0..C-1 (n,). Raises NbpkgError for a misfit."""
    images, labels = torch.as_tensor(images), torch.as_tensor(labels)
    if images.dim() != 4 or images.dtype != torch.uint8:
        raise NbpkgError(f"images must be uint8 (n, 3, h, w), not {images.dtype} {tuple(images.shape)}")
    if images.shape[1] != 3 and images.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2)
    if images.shape[1] != 3 or 0 in images.shape:
        raise NbpkgError(f"images must have three channels, not shape {tuple(images.shape)}")
    if labels.shape != images.shape[:1] or labels.is_floating_point() or labels.is_complex():
        raise NbpkgError(f"{len(images)} images need as many whole-number labels, not {tuple(labels.shape)}")
    kinds, labels = torch.unique(labels, return_inverse=True)
    if len(kinds) < 2:
        raise NbpkgError("a search needs images of two classes or more")
    return images, labels


def extract(images: Tensor, extractor: str, resolution: int, device: torch.device) -> Tensor:
    """Features (n, d), on CPU, of uint8 images (n, 3, h, w) resized to `resolution`, by a named extractor."""
    network = features.get(extractor).network(device)
    return torch.cat([network(part) for part in resize(images, resolution).split(_BATCH)]).cpu()
