"""Cells for images of one's own, in seconds: the networks that chapter `02_metad2a` trained, ready to use.

    from nbpkg.apps.search import read_folder, search

    images, labels = read_folder("pictures")   # one subfolder a class
    for found in search(images, labels)[:5]:
        print(found.score, found.architecture)

Nothing is trained. How far such an answer can be trusted, and what answers without looking at the images are
as good, is what the chapter measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nbpkg import data, machine
from nbpkg.apps import weights_file
from nbpkg.data.images import resize
from nbpkg.errors import NbpkgError
from nbpkg.nb201 import costs, space
from nbpkg.nets import cellgraphs
from nbpkg.nets.metad2a import Generator, Predictor
from nbpkg.zoo import features

FILE = "metad2a.safetensors"
FORMAT = 1
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
#: Images of a class that are read at most; a search draws from them.
MOST_IMAGES = 40
_SIDE = 64  # pixels a side that `read_folder` keeps, more than any extractor's training saw
_PLAIN = ("extractor", "resolution", "images", "scale", "generator_sizes", "predictor_sizes")
_BATCH = 64


@dataclass(frozen=True)
class Found:
    """A cell for a data set: its string in the benchmark's form, its number by ``space.index``, its score.

    score: predicted cross-entropy in nats, its sign turned, of a small network of that cell on a ten-way task
    like those of the meta-training: larger is better; good for comparing cells, not a promise. params, flops:
    of the benchmark's network (C = 16, N = 5, 32x32 pixels) with as many classes as were given.
    """

    architecture: str
    cell: int
    score: float
    params: int
    flops: int


# ------------------------------------------------------------------------------ images


def read_folder(path: str | Path, most: int = MOST_IMAGES) -> tuple[Tensor, Tensor]:
    """Images and labels of a folder with a subfolder for each class: uint8 (n, 3, 64, 64), int64 (n,).

    Subfolders in the order of their names are classes 0, 1, ...; hidden files and files of other kinds are
    passed over. Of a class, `most` images are read, spread evenly over its sorted names. Raises NbpkgError
    when the folder is none, holds fewer than two classes, a class without images, or a file that is no image.
    """
    from PIL import Image

    path = Path(path)
    if not path.is_dir():
        raise NbpkgError(f"{path}: there is no such folder of images")
    classes = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        raise NbpkgError(f"{path}: needs a subfolder for each class, two or more; it has {len(classes)}")
    images, labels = [], []
    for label, folder in enumerate(classes):
        names = sorted(
            entry for entry in folder.iterdir()
            if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".")
        )  # fmt: skip
        if not names:
            raise NbpkgError(f"{folder}: holds no image ({', '.join(SUFFIXES)})")
        for place in np.unique(np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int)):
            try:
                with Image.open(names[place]) as picture:
                    small = picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                raise NbpkgError(f"{names[place]}: cannot be read as an image ({error})") from None
            images.append(torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1))
            labels.append(label)
    return torch.stack(images), torch.tensor(labels)


def _checked(images: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """uint8 (n, 3, h, w) and labels 0..C-1 (n,), from tensors or arrays; channels may stand last."""
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


def _bank(images: Tensor, labels: Tensor, weights: Mapping[str, Any], device: torch.device) -> Tensor:
    """Reduced features, class by class: (1, classes, images, d), as many a class as the smallest has."""
    count = min(int(torch.bincount(labels).min()), MOST_IMAGES)
    rows = torch.stack([torch.where(labels == label)[0][:count] for label in range(int(labels.max()) + 1)])
    network = features.get(weights["extractor"]).network(device)
    pixels = resize(images[rows.flatten()], weights["resolution"])
    found = torch.cat([network(part) for part in pixels.split(_BATCH)]).cpu()
    return ((found - weights["mean"]) @ weights["basis"]).view(1, *rows.shape, -1)


def _sets(bank: Tensor, count: int, images: int, draws: torch.Generator) -> Tensor:
    """Random sets of a target: `images` of each class, or all there are; (count, classes, images, d)."""
    order = torch.rand(count, *bank.shape[1:3], generator=draws).argsort(-1)[..., :images]
    return bank.expand(count, -1, -1, -1).gather(2, order[..., None].expand(-1, -1, -1, bank.shape[-1]))


# ------------------------------------------------------------------------------ the search


def search(
    images: Any, labels: Any, n: int = 500, seed: int = 0, max_params: int | None = None,
    max_flops: int | None = None, device: str = "auto", weights: str | Path | Mapping[str, Any] | None = None,
) -> list[Found]:  # fmt: skip
    """Cells for a labelled data set, best first: n distinct candidates of the generator, by predicted score.

    images: uint8 (n, 3, h, w) or (n, h, w, 3), any size; labels: whole numbers (n,). Ten random sets of the
    images serve to draw and ten to score, as in the chapter. max_params, max_flops: candidates above are left
    out, so that fewer than n may come. weights: by default the chapter's; a file that `write_weights` made,
    or what the chapter's artefact "search" holds.

    Raises NbpkgError for images and labels that do not fit, when no candidate is within the limits, and when
    the weights or the package that extracts features are absent.
    """
    images, labels = _checked(images, labels)
    weights = weights if isinstance(weights, Mapping) else read_weights(weights)
    where = machine.device(device)
    draws = torch.Generator().manual_seed(seed)
    bank = _bank(images, labels, weights, where)
    nets = []
    for kind, name in ((Generator, "generator"), (Predictor, "predictor")):
        net = kind(**weights[f"{name}_sizes"])
        net.load_state_dict({key: value.float() for key, value in weights[name].items()})
        nets.append(net.to(where).eval())
    generator, predictor = nets
    drawn = generator.draw(_sets(bank, 10, weights["images"], draws).to(where), n, draws)
    counted = costs.costs(drawn.ops, num_classes=bank.shape[1])
    fits = np.ones(len(drawn.ops), bool)
    for count, most in zip(counted, (max_params, max_flops), strict=True):
        fits &= True if most is None else count <= most
    if not fits.any():
        raise NbpkgError(f"none of {n} candidates is within the limits; draw more, or allow more")
    ops, params, flops = drawn.ops[fits], counted[0][fits], counted[1][fits]
    with torch.no_grad():
        sets = _sets(bank, 10, weights["images"], draws).to(where)
        score = predictor(sets, cellgraphs.types_of(ops).to(where), cellgraphs.topology().to(where))
    mean, deviation = weights["scale"]
    score = mean + deviation * score.double().cpu().numpy()
    strings, cells = space.decode(ops), space.index(ops)
    return [
        Found(strings[i], int(cells[i]), round(float(score[i]), 4), int(params[i]), int(flops[i]))
        for i in np.argsort(-score, kind="stable")
    ]


# ------------------------------------------------------------------------------ weights


def write_weights(path: str | Path, made: Mapping[str, Any]) -> Path:
    """Write what the chapter's artefact "search" holds, in half precision; whole or not at all."""
    tensors = {name: made[name] for name in ("mean", "basis")}
    for part in ("generator", "predictor"):
        tensors |= {f"{part}/{name}": value for name, value in made[part].items()}
    return weights_file.write(path, tensors, {name: made[name] for name in _PLAIN}, FORMAT)


def read_weights(path: str | Path | None = None) -> dict[str, Any]:
    """The chapter's weights, or a file's. Raises NbpkgError that names a file that is absent or no such."""
    def built(said: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
        made = {name: said[name] for name in _PLAIN} | {name: tensors.pop(name) for name in ("mean", "basis")}
        for part in ("generator", "predictor"):
            made[part] = {name.split("/", 1)[1]: x for name, x in tensors.items() if name.startswith(part)}
        return made

    return weights_file.read(data.embedded(FILE) if path is None else Path(path), FORMAT, "search", built)


def lines(found: Sequence[Found], top: int) -> list[list[str]]:
    """The first `top` results as rows of a table: rank, score, parameters, FLOPs, architecture."""
    return [
        [str(i), f"{one.score:.3f}", f"{one.params / 1e6:.3f}", f"{one.flops / 1e6:.1f}", one.architecture]
        for i, one in enumerate(found[:top], 1)
    ]
