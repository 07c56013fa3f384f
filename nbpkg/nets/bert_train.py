"""What every training of a `Bert` needs beside its loss: optimiser, schedules, clipping, held-out loss."""

import bisect
import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbpkg.data.masking import Masked
from nbpkg.errors import NbpkgError
from nbpkg.nets.bert import Bert, device_of, precision

_EVALUATION_BATCH = 128


def optimiser(model: nn.Module, lr: float = 5e-4) -> torch.optim.AdamW:
    """AdamW with (0.9, 0.999); matrices and embeddings decay by 0.01, biases and layer norms do not.

    For two models, make two: neither then depends on the other.
    """
    decayed = [p for p in model.parameters() if p.dim() > 1]
    free = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr, fused=True)


def linear_warmup_decay(step: int, steps: int, share: float = 0.05) -> float:
    """Factor of the learning rate at a step: up linearly over `share` of the steps, then linearly to 0.

    step: from 0 to steps - 1; the factor is positive at each. Raises NbpkgError for other steps and shares.
    """
    if not 0 <= step < steps or not 0 <= share < 1:
        raise NbpkgError(f"no learning rate at step {step} of {steps} with warm-up {share}")
    rising = max(1, round(share * steps))
    return min((step + 1) / rising, (steps - step) / max(1, steps - rising + 1))


def ramp(*points: tuple[float, float]) -> Callable[[float], float]:
    """A schedule through (progress, value) points, progress from 0 to 1, straight between them.

    `ramp((0, 4), (1, 1))` falls from 4 to 1; `ramp((0, 1), (0.5, 1), (0.5, 0))` is switched off half way. At
    a progress named twice, the later value holds. Raises NbpkgError when progress goes back or leaves 0 to 1.
    """
    at = [float(x) for x, _ in points]
    if not at or sorted(at) != at or at[0] < 0 or at[-1] > 1:
        raise NbpkgError(f"the points of a schedule must go from progress 0 to 1, not {at}")

    def value(progress: float) -> float:
        reached = bisect.bisect_right(at, progress)
        (before, low), (after, high) = points[max(reached - 1, 0)], points[min(reached, len(at) - 1)]
        share = (progress - before) / (after - before) if after > before else 0.0
        return low + share * (high - low)

    return value


def clip_and_step(
    model: nn.Module, optimiser: torch.optim.Optimizer, factor: float, clip: float = 1.0
) -> Tensor:
    """Clip the model's gradients to norm `clip`, take a step and clear them; the norm before clipping, ().

    factor: of the optimiser's first learning rate, from `linear_warmup_decay`. The norm is over this model
    alone: clipping two models together would couple them.
    """
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
    for group in optimiser.param_groups:
        group["lr"] = group.setdefault("first_lr", group["lr"]) * factor
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return norm


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode and no gradients are kept; afterwards its mode is as before."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def held_out_loss(model: Bert, masked: Masked) -> Tensor:
    """Hard loss at each predicted place in nats, float64 (n,) on the CPU; the mean is the held-out loss."""
    losses, device = [], device_of(model)
    with evaluating(model):
        for low in range(0, len(masked), _EVALUATION_BATCH):
            part = masked.rows(low, low + _EVALUATION_BATCH).to(device)
            with precision(device):
                logits = model(part.inputs, part.positions)
            losses.append(F.cross_entropy(logits.float(), part.targets, reduction="none").double().cpu())
    return torch.cat(losses)
