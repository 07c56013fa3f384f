"""A trained network for images of one's own: the space and a part of the zoo of chapter `05_tans`.

    from nbpkg.apps.images import read_folder
    from nbpkg.apps.retrieve import retrieve

    images, labels = read_folder("pictures")   # one subfolder a class
    best = retrieve(images, labels, max_params=8_000)[0]
    net = best.network()                       # a new head for your classes; to be fine-tuned

Nothing is trained here. How good such an answer is, and which cheaper answers are as good, is what the
chapter measures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbpkg import machine, paths
from nbpkg.apps import weights_file
from nbpkg.apps.images import MOST_IMAGES, check, extract
from nbpkg.data.images import resize
from nbpkg.errors import NbpkgError
from nbpkg.nb201 import space
from nbpkg.zoo.specs import CellNet

FILE = "tans.safetensors"
FORMAT = 1
_PLAIN = ("extractor", "resolution", "classes", "networks")
_TENSORS = ("mean", "scale", "query", "query_bias", "head", "head_bias", "places")


@dataclass(frozen=True)
class Retrieved:
    """A network of the zoo for a data set.

    architecture, cell, C, N: its cell in the benchmark's form and by `space.index`, first width, cells per
    stage. params: with a head for the given classes. score: product with the data set in the learned space,
    at most 1. predicted: accuracy in 0..1 that the predictor expects. trained_on: the task that it was
    trained on. resolution: pixels a side that it was trained at.
    """

    architecture: str
    cell: int
    C: int
    N: int
    params: int
    score: float
    predicted: float
    trained_on: str
    resolution: int
    classes: int
    state: Mapping[str, Tensor] = field(repr=False, compare=False)

    def network(self, seed: int = 0) -> nn.Module:
        """The network in training mode, its last layer drawn from `seed`; for images from `prepare`."""
        net = CellNet(self.cell, self.C, self.N).build(self.classes, seed)
        body = {name: value for name, value in self.state.items() if not name.startswith("classifier")}
        net.load_state_dict(body, strict=False)
        return net


def prepare(images: Tensor, resolution: int) -> Tensor:
    """uint8 images (n, 3, h, w) as the networks want them: resized, each channel with mean 0, deviation 1."""
    x = resize(images, resolution).float() / 255
    std, mean = torch.std_mean(x, dim=(0, 2, 3), correction=0)
    return (x - mean[:, None, None]) / torch.where(std > 0, std, 1.0)[:, None, None]


def retrieve(
    images: Any, labels: Any, max_params: int | None = None, top: int = 10, device: str = "auto",
    weights: str | Path | Mapping[str, Any] | None = None,
) -> list[Retrieved]:  # fmt: skip
    """Trained networks for a labelled data set: the `top` by score, ordered by predicted accuracy.

    images: uint8 (n, 3, h, w) or (n, h, w, 3), any size; labels: whole numbers (n,); of a class at most 40
    images are looked at. max_params: networks with more parameters, their new head included, are left out.
    weights: by default the chapter's; a file that `write_weights` made, or what the chapter's artefact
    "retrieval" holds.

    Raises NbpkgError for images and labels that do not fit, a limit that no network keeps, and when the
    weights or the package that extracts features are absent.
    """
    if top < 1:
        raise NbpkgError(f"top must be at least 1, not {top}")
    images, labels = check(images, labels)
    made = weights if isinstance(weights, Mapping) else read_weights(weights)
    classes = int(labels.max()) + 1
    specs = [_spec(net) for net in made["networks"]]
    params = torch.tensor([spec.params(classes) for spec in specs])
    allowed = params <= (torch.inf if max_params is None else max_params)
    if not allowed.any():
        raise NbpkgError(f"no network has at most {max_params} parameters; the smallest has {params.min()}")
    q = _query(images, labels, made, machine.device(device))
    scores = (made["places"].float() @ q).masked_fill(~allowed, -torch.inf)
    found = scores.topk(min(top, int(allowed.sum()))).indices
    pairs = torch.cat([q.expand(len(found), -1), made["places"].float()[found]], 1)
    predicted = torch.sigmoid(pairs @ made["head"].float() + made["head_bias"].float())
    return [
        Retrieved(
            space.decode(space.ops_of(specs[i].cell)), specs[i].cell, specs[i].C, specs[i].N, int(params[i]),
            round(float(scores[i]), 4), round(float(predicted[at]), 4), made["networks"][i]["task"],
            made["resolution"], classes, made["states"][i],
        )
        for at, i in sorted(enumerate(found.tolist()), key=lambda pair: -float(predicted[pair[0]]))
    ]  # fmt: skip


def _query(images: Tensor, labels: Tensor, made: Mapping[str, Any], device: torch.device) -> Tensor:
    """The data set in the learned space, (d,): the mean feature of its images, centred, encoded."""
    rows = torch.cat([torch.where(labels == label)[0][:MOST_IMAGES] for label in labels.unique()])
    x = extract(images[rows], made["extractor"], made["resolution"], device).mean(0)
    x = (x - made["mean"].float()) / made["scale"].float()
    return F.normalize(made["query"].float() @ x + made["query_bias"].float(), dim=-1)


def _spec(net: Mapping[str, Any]) -> CellNet:
    return CellNet(net["cell"], net["C"], net["N"])


def _body(spec: CellNet) -> list[tuple[str, torch.Size]]:
    """Names and shapes of the numbers of a network, in order, its classifier and counters left out."""
    state = spec.build(2, 0).state_dict()
    body = [item for item in state.items() if not item[0].startswith("classifier")]
    return [(name, value.shape) for name, value in body if value.is_floating_point()]


def write_weights(path: str | Path, made: Mapping[str, Any], **by: Any) -> Path:
    """Write what the chapter's artefact "retrieval" holds, in half precision; by: `weights_file.write`."""
    tensors = {name: made[name] for name in _TENSORS}
    # One row a network: a name and a place for each of its tensors would take a fifth of the file.
    for i, (spec, state) in enumerate(zip(map(_spec, made["networks"]), made["states"], strict=True)):
        tensors[f"net/{i}"] = torch.cat([state[name].flatten() for name, _ in _body(spec)])
    return weights_file.write(path, tensors, {name: made[name] for name in _PLAIN}, FORMAT, **by)


def read_weights(path: str | Path | None = None) -> dict[str, Any]:
    """The chapter's weights, or a file's. Raises NbpkgError that names a file that is absent or no such."""
    def built(said: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
        made = {name: said[name] for name in _PLAIN} | {name: tensors.pop(name) for name in _TENSORS}
        states = []
        for i, spec in enumerate(map(_spec, made["networks"])):
            names, shapes = zip(*_body(spec), strict=True)
            parts = tensors[f"net/{i}"].split([shape.numel() for shape in shapes])
            states.append({n: x.view(shape) for n, x, shape in zip(names, parts, shapes, strict=True)})
        return made | {"states": states}

    return weights_file.read(paths.embedded(FILE) if path is None else Path(path), FORMAT, "retrieval", built)


def lines(found: Sequence[Retrieved]) -> list[list[str]]:
    """Results as rows of a table: rank, predicted accuracy, score, parameters, origin, architecture."""
    return [
        [str(i), f"{n.predicted:.2f}", f"{n.score:.2f}", f"{n.params:,}", n.trained_on, n.architecture]
        for i, n in enumerate(found, 1)
    ]
