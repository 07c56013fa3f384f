"""Cells for images of one's own, in seconds: the networks that chapter `02_metad2a` trained, ready to use.

    from nbpkg.apps.images import read_folder
    from nbpkg.apps.search import search

    images, labels = read_folder("pictures")   # one subfolder a class
    for found in search(images, labels)[:5]:
        print(found.score, found.architecture)

Nothing is trained. How far such an answer can be trusted, and what answers without looking at the images are
as good, is what the chapter measures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nbpkg import machine, paths
from nbpkg.apps import weights_file
from nbpkg.apps.images import MOST_IMAGES, check, extract
from nbpkg.errors import NbpkgError
from nbpkg.nb201 import costs, space
from nbpkg.nets import cellgraphs
from nbpkg.nets.metad2a import Generator, Predictor

FILE = "metad2a.safetensors"
FORMAT = 1
_PLAIN = ("extractor", "resolution", "images", "scale", "generator_sizes", "predictor_sizes")


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


def _bank(images: Tensor, labels: Tensor, weights: Mapping[str, Any], device: torch.device) -> Tensor:
    """Reduced features, class by class: (1, classes, images, d), as many a class as the smallest has."""
    count = min(int(torch.bincount(labels).min()), MOST_IMAGES)
    rows = torch.stack([torch.where(labels == label)[0][:count] for label in range(int(labels.max()) + 1)])
    found = extract(images[rows.flatten()], weights["extractor"], weights["resolution"], device)
    return ((found - weights["mean"]) @ weights["basis"]).view(1, *rows.shape, -1)


def _sets(bank: Tensor, count: int, images: int, draws: torch.Generator) -> Tensor:
    """Random sets of a target: `images` of each class, or all there are; (count, classes, images, d)."""
    order = torch.rand(count, *bank.shape[1:3], generator=draws).argsort(-1)[..., :images]
    return bank.expand(count, -1, -1, -1).gather(2, order[..., None].expand(-1, -1, -1, bank.shape[-1]))


def _network(kind: type, name: str, weights: Mapping[str, Any], device: torch.device) -> torch.nn.Module:
    net = kind(**weights[f"{name}_sizes"])
    net.load_state_dict({key: value.float() for key, value in weights[name].items()})
    return net.to(device).eval()


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
    images, labels = check(images, labels)
    weights = weights if isinstance(weights, Mapping) else read_weights(weights)
    where = machine.device(device)
    draws = torch.Generator().manual_seed(seed)
    bank = _bank(images, labels, weights, where)
    generator = _network(Generator, "generator", weights, where)
    predictor = _network(Predictor, "predictor", weights, where)
    ops = generator.draw(_sets(bank, 10, weights["images"], draws).to(where), n, draws).ops
    params, flops = costs.costs(ops, num_classes=bank.shape[1])
    limits = [np.inf if most is None else most for most in (max_params, max_flops)]
    fits = (params <= limits[0]) & (flops <= limits[1])
    if not fits.any():
        raise NbpkgError(f"none of {n} candidates is within the limits; draw more, or allow more")
    ops, params, flops = ops[fits], params[fits], flops[fits]
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


def write_weights(path: str | Path, made: Mapping[str, Any], **by: Any) -> Path:
    """Write what the chapter's artefact "search" holds, in half precision; by: `weights_file.write`."""
    tensors = {name: made[name] for name in ("mean", "basis")}
    for part in ("generator", "predictor"):
        tensors |= {f"{part}/{name}": value for name, value in made[part].items()}
    return weights_file.write(path, tensors, {name: made[name] for name in _PLAIN}, FORMAT, **by)


def read_weights(path: str | Path | None = None) -> dict[str, Any]:
    """The chapter's weights, or a file's. Raises NbpkgError that names a file that is absent or no such."""
    def built(said: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
        made = {name: said[name] for name in _PLAIN} | {name: tensors.pop(name) for name in ("mean", "basis")}
        for part in ("generator", "predictor"):
            made[part] = {name.split("/", 1)[1]: x for name, x in tensors.items() if name.startswith(part)}
        return made

    return weights_file.read(paths.embedded(FILE) if path is None else Path(path), FORMAT, "search", built)


def lines(found: Sequence[Found], top: int) -> list[list[str]]:
    """The first `top` results as rows of a table: rank, score, parameters, FLOPs, architecture."""
    return [
        [str(i), f"{one.score:.3f}", f"{one.params / 1e6:.3f}", f"{one.flops / 1e6:.1f}", one.architecture]
        for i, one in enumerate(found[:top], 1)
    ]
