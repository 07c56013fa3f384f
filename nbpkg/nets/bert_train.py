"""How language models are pre-trained: several seeds at once, with Muon or as BERT was, on their device.

    nets = Together([bert(config, seed) for seed in seeds], device)
    pretrain([nets], rows, seeds, Recipe(steps=1_200, batch=32, lr=0.01))
    held_out_losses(nets, held).mean(1)                                     # (seeds,), in nats

`pretrain` trains models of several sizes side by side (a student and its co-trained partner, say) on the same
masked batches; what they learn from is its argument `loss`.
"""

import contextlib
import importlib.util
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nbpkg.data.masking import Batches, Masked, side_by_side
from nbpkg.errors import NbpkgError
from nbpkg.nets.bert import precision
from nbpkg.nets.muon import Muon
from nbpkg.nets.together import Together

#: From each model's logits (seeds * n, v), the batch and the progress from 0 to 1 to a mean over places, ().
Loss = Callable[[list[Tensor], Masked, float], Tensor]

_EVALUATION_BATCH = 128


def linear_warmup_decay(step: int, steps: int, share: float = 0.05) -> float:
    """Factor of the learning rate at a step: up linearly over `share` of the steps, then linearly to 0.

    step: from 0 to steps - 1; the factor is positive at each. Raises NbpkgError for other steps and shares.
    """
    if not 0 <= step < steps or not 0 <= share < 1:
        raise NbpkgError(f"no learning rate at step {step} of {steps} with warm-up {share}")
    rising = max(1, round(share * steps))
    return min((step + 1) / rising, (steps - step) / max(1, steps - rising + 1))


def take_step(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """A step at `factor` times the first learning rate; gradients are cleared."""
    for group in optimiser.param_groups:
        group["lr"] = group.setdefault("first_lr", group["lr"]) * factor
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


@dataclass(frozen=True)
class Recipe:
    """How models are pre-trained: the rate rises over 5 % of the steps and falls to 0; gradients are clipped.

    batch: rows a step. rate: share of places hidden (BERT has 0.15; more teach faster). optimiser: "muon",
    for the matrices of layers and head, with AdamW for embeddings, biases and norms; or "adamw" for all.
    fast: on a GPU, in bfloat16 and by `torch.compile`; worth its minute from a width of 256 on.
    """

    steps: int
    batch: int = 64
    lr: float = 0.02
    rate: float = 0.3
    optimiser: str = "muon"
    fast: bool = False


def optimisers(nets: Together, lr: float, kind: str = "muon") -> list[torch.optim.Optimizer]:
    """The optimisers of a `Recipe`. Matrices decay by 0.1 with Muon and 0.01 with AdamW; vectors do not."""
    if kind not in ("muon", "adamw"):
        raise NbpkgError(f"the optimiser of a recipe is 'muon' or 'adamw', not {kind!r}")
    named = nets.named_parameters()
    tables = {"tokens.weight", "position_embedding.weight"} if kind == "muon" else set(named)
    matrices = [p for name, p in named.items() if p.dim() == 3 and name not in tables]
    decayed = [p for name, p in named.items() if p.dim() == 3 and name in tables]
    free = [p for p in named.values() if p.dim() < 3]  # the first dimension is the networks'
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": free, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr, fused=True)
    return [adam, Muon(matrices, lr)] if kind == "muon" else [adam]


def clip(nets: Together, most: float = 1.0) -> None:
    """Scale the gradients of each network to a norm of at most `most`, (networks,) norms in all."""
    weights = [p for p in nets.parameters() if p.grad is not None]
    norms = torch.stack([p.grad.flatten(1).norm(dim=1) for p in weights]).norm(dim=0)
    scale = (most / (norms + 1e-6)).clamp(max=1.0)
    for p in weights:
        p.grad.mul_(scale.view(-1, *[1] * (p.dim() - 1)))


def hard_loss(logits: list[Tensor], batch: Masked, progress: float) -> Tensor:
    """The loss of masked-language modelling, of each model by itself."""
    return sum(F.cross_entropy(z, batch.targets.flatten()) for z in logits)


def pretrain(
    models: Sequence[Together], rows: Sequence[np.ndarray], seeds: Sequence[int], recipe: Recipe,
    loss: Loss = hard_loss, look: Callable[[int], Any] | None = None, at: Container[int] = (),
) -> list[Any]:  # fmt: skip
    """Train `models` side by side where they are: each a network a seed, its own optimisers and clipping.

    rows: training text (n, length), one array a seed. seeds: of the order of rows and the masks, which all
    models of a seed share. look(step): called before the steps (and, for `recipe.steps`, after the last) that
    `at` holds; what it returns is returned in a list. Between looks the host never waits for the device.
    """
    vocabulary, device = models[0].named_parameters()["bias"].shape[1], models[0].device
    narrow = precision(device) if recipe.fast else contextlib.nullcontext()
    compiled = recipe.fast and device.type == "cuda" and importlib.util.find_spec("triton") is not None
    batches = [Batches(x, vocabulary, recipe.batch, i, recipe.rate) for x, i in zip(rows, seeds, strict=True)]
    update = [optimisers(nets, recipe.lr, recipe.optimiser) for nets in models]
    run = [torch.compile(nets.__call__) if compiled else nets for nets in models]
    looks = [look(0)] if 0 in at else []
    for step, batch in enumerate(side_by_side(batches, recipe.steps, device)):
        with narrow:
            logits = [nets(batch.inputs, batch.positions).float().flatten(0, 1) for nets in run]
            mean = loss(logits, batch, step / max(1, recipe.steps - 1))
        # A mean over the places of all seeds, times their number: each network gets its own gradient.
        (len(seeds) * mean).backward()
        for nets, each in zip(models, update, strict=True):
            clip(nets)
            for one in each:
                take_step(one, linear_warmup_decay(step, recipe.steps))
        looks += [look(step + 1)] if step + 1 in at else []
    return looks


def log_probabilities(nets: Together, masked: Masked) -> Iterator[tuple[Tensor, Tensor]]:
    """Of every network at the predicted places, part by part: log p (networks, n, v) and targets (n,)."""
    with torch.no_grad():
        for low in range(0, len(masked), _EVALUATION_BATCH):
            part = masked.rows(low, low + _EVALUATION_BATCH).to(nets.device)
            yield nets(part.inputs, part.positions, shared=True).log_softmax(-1), part.targets


def held_out_losses(nets: Together, masked: Masked) -> Tensor:
    """Hard loss of every network at each predicted place in nats, float64 (networks, n) on the CPU."""
    parts = log_probabilities(nets, masked)
    found = [-p.gather(2, y.expand(len(p), -1)[..., None])[..., 0] for p, y in parts]
    return torch.cat(found, 1).double().cpu()
