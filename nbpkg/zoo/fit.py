"""The training loop of the zoo: a stack of networks, each on its own task, with its own seed.

Every network sees the batches, shifts and flips that its own seed draws, whatever it is trained beside:
results do not depend on its neighbours or their order, up to rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbpkg.data.images import shifted
from nbpkg.errors import NbpkgError
from nbpkg.seeding import rng
from nbpkg.zoo.stack import stack, unstack
from nbpkg.zoo.tasks import TaskData

_EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD with Nesterov momentum, the learning rate falling to 0 by a cosine.

    lr falls from its value at the first step to 0 after the last. pad, flip: random shifts in pixels and
    mirroring. corners: evaluate every image in five places, as it is and shifted by `pad` pixels towards each
    corner, which a network finds harder than images that are all centred. Raises NbpkgError for sizes that
    train nothing.
    """

    epochs: int = 10
    batch: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    pad: int = 0
    flip: bool = False
    corners: bool = False

    def __post_init__(self):
        if min(self.epochs, self.batch) < 1 or min(self.pad, self.weight_decay) < 0 or self.lr <= 0:
            raise NbpkgError(f"this recipe trains nothing: {self}")
        if not 0 <= self.momentum < 1:
            raise NbpkgError(f"momentum must be from 0 to below 1, got {self.momentum}")


@dataclass(frozen=True, eq=False)
class Fit:
    """What came of one network: accuracies in percent, cross-entropies in nats, and the training curve.

    curve: mean training loss of each epoch, float64 (epochs,).
    """

    valid: float
    test: float
    valid_loss: float
    test_loss: float
    curve: Tensor


def _shifted(x: Tensor, dy: Tensor, dx: Tensor, mirrored: Tensor, pad: int) -> Tensor:
    """`shifted` of (G, batch, 3, h, w) by offsets (G, batch): the same shape."""
    flat = (values.flatten(0, 1) for values in (x, dy, dx, mirrored))
    return shifted(*flat, pad).unflatten(0, dy.shape)


def _scaled(data: Sequence[TaskData], split: str, device) -> tuple[Tensor, Tensor]:
    """Images of different tasks, float32 (T, n, 3, r, r) by each task's mean and std, and labels (T, n)."""
    images = []
    for task in data:
        mean, std = (values.to(device)[:, None, None] for values in (task.mean, task.std))
        images.append((getattr(task, f"x_{split}").to(device) / 255 - mean) / std)
    return torch.stack(images), torch.stack([getattr(task, f"y_{split}") for task in data]).to(device)


def _in_corners(x: Tensor, y: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """(T, n, 3, h, w) and (T, n) -> five times as many images: in place, and in the four corners."""
    places = [(pad, pad), (0, 0), (0, 2 * pad), (2 * pad, 0), (2 * pad, 2 * pad)]
    still = torch.zeros(y.shape, dtype=torch.bool, device=x.device)
    moved = [_shifted(x, torch.full_like(y, dy), torch.full_like(y, dx), still, pad) for dy, dx in places]
    return torch.cat(moved, 1), y.repeat(1, len(places))


def _side_by_side(x: Tensor) -> Tensor:
    """(G, batch, 3, h, w) -> (batch, G*3, h, w)."""
    return x.transpose(0, 1).flatten(1, 2)


@torch.no_grad()
def _evaluate(net: nn.Module, x: Tensor, y: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """Accuracy in percent and mean cross-entropy of each network, (G,) each; x (T, n, ...), y (T, n).

    which: the position of each network's task, (G,).
    """
    groups, n = len(which), y.shape[1]
    if n == 0:
        return torch.full((2, groups), float("nan")).unbind()
    net.eval()
    right, loss = torch.zeros(2, groups, device=x.device)
    for low in range(0, n, _EVALUATION_BATCH):
        target = y[which, low : low + _EVALUATION_BATCH].T
        images = _side_by_side(x[which, low : low + _EVALUATION_BATCH])
        logits = net(images).view(len(target), groups, -1)
        right += (logits.argmax(-1) == target).sum(0)
        losses = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        loss += losses.view(-1, groups).sum(0)
    net.train()
    return 100 * right / n, loss / n


def fit(
    networks: Sequence[nn.Module], data: Sequence[TaskData], seeds: Sequence[int], recipe: Recipe,
    device: str | torch.device,
) -> list[Fit]:  # fmt: skip
    """Train networks side by side, network g on data[g] with the order of images that seeds[g] draws.

    The networks are trained in place and end on the CPU. Tasks must have equal numbers of classes and images
    and one resolution. The last batch of an epoch is left out where it would be smaller than the others; with
    fewer images than a batch, all of them are one batch.

    Raises NbpkgError for networks or tasks that do not fit together.
    """
    networks, groups = list(networks), len(networks)
    if not groups or not groups == len(data) == len(seeds):
        raise NbpkgError(f"{groups} networks, {len(data)} tasks and {len(seeds)} seeds do not fit together")
    if len({(d.x_train.shape, d.x_valid.shape, d.x_test.shape) for d in data}) > 1:
        raise NbpkgError("tasks trained side by side must have equal numbers of images and one resolution")
    device = torch.device(device)
    # A network by itself: on a CPU the convolutions run 1.4 times faster with the channels innermost.
    layout = torch.channels_last if groups == 1 and device.type == "cpu" else torch.contiguous_format
    net = (networks[0] if groups == 1 else stack(networks)).to(device, memory_format=layout).train()
    # A task that several networks share is held once.
    tasks = list({id(d): d for d in data}.values())
    which = torch.tensor([next(i for i, d in enumerate(tasks) if d is mine) for mine in data], device=device)
    curve = _train(net, *_scaled(tasks, "train", device), which, seeds, recipe, layout)
    results = []
    for split in ("valid", "test"):
        images, labels = _scaled(tasks, split, device)
        if recipe.corners:
            images, labels = _in_corners(images, labels, recipe.pad)
        results += _evaluate(net, images, labels, which)
    net = net.to("cpu", memory_format=torch.contiguous_format)
    if groups > 1:
        unstack(net)
    valid, valid_loss, test, test_loss = (values.tolist() for values in results)
    return [Fit(valid[g], test[g], valid_loss[g], test_loss[g], curve[:, g].clone()) for g in range(groups)]


def _train(
    net: nn.Module, x: Tensor, y: Tensor, which: Tensor, seeds: Sequence[int], recipe: Recipe,
    layout: torch.memory_format,
) -> Tensor:  # fmt: skip
    """Train a stack of networks in place; mean training loss of each epoch, float64 (epochs, G), on the CPU.

    x (T, n, ...), y (T, n): the tasks' images and labels. which: the position of each network's task, (G,).
    """
    groups, n, rows = len(which), y.shape[1], which[:, None]
    batch = min(recipe.batch, n)
    steps = n // batch
    optimiser = torch.optim.SGD(
        net.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0, foreach=True,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs * steps)
    orders, shifts = ([rng(seed, purpose) for seed in seeds] for purpose in ("order", "shift"))
    curve = torch.zeros(recipe.epochs, groups, dtype=torch.float64)
    for epoch in range(recipe.epochs):
        order = torch.stack([torch.randperm(n, generator=g) for g in orders]).to(y.device)
        total = torch.zeros(groups, device=y.device)
        for picked in order[:, : steps * batch].split(batch, 1):
            images = _augmented(x[rows, picked], shifts, recipe)
            logits = net(_side_by_side(images).contiguous(memory_format=layout)).view(batch, groups, -1)
            target = y[rows, picked].T.flatten()
            losses = F.cross_entropy(logits.flatten(0, 1), target, reduction="none")
            losses = losses.view(batch, groups).mean(0)
            optimiser.zero_grad()
            # The sum: no network's gradient depends on how many there are.
            losses.sum().backward()
            optimiser.step()
            schedule.step()
            total += losses.detach()
        curve[epoch] = (total / steps).cpu()
    return curve


def _augmented(images: Tensor, shifts: list[torch.Generator], recipe: Recipe) -> Tensor:
    """Images (G, batch, 3, h, w), each network's shifted and mirrored at random by its own stream."""
    if not recipe.pad and not recipe.flip:
        return images
    batch = images.shape[1]
    offsets = [torch.randint(0, 2 * recipe.pad + 1, (2, batch), generator=g) for g in shifts]
    dy, dx = torch.stack(offsets, 1).to(images.device)
    coins = torch.stack([torch.rand(batch, generator=g) for g in shifts]).to(images.device)
    return _shifted(images, dy, dx, coins < (0.5 if recipe.flip else 0.0), recipe.pad)
