"""Muon: momentum made orthogonal, an optimiser of matrices (Jordan et al., 2024).

With a momentum M, the step is not M but the matrix nearest to it all of whose singular values are 1, so that
rare directions move as far as common ones. It is `torch.optim.Muon` with adjust_lr_fn="match_rms_adamw",
which newer torch has; this one works from torch 2.6, does matrices of one shape together, and takes leading
dimensions, such as the seeds of `nbpkg.nets.together.Together`.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def orthogonal(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Matrices (..., m, n) with their singular vectors kept and singular values about 1 (0.7 to 1.2).

    By Newton and Schulz's iteration: an odd polynomial of the matrix, applied again and again, pushes every
    singular value towards 1.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum 0.95, made orthogonal; a step has the size that AdamW's would have at this rate.

    params: matrices, (..., m, n) each. Weights decay by lr * decay a step. The iteration is in float32 on a
    CPU and in bfloat16 on a GPU.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, decay: float = 0.1):
        super().__init__(params, dict(lr=lr, momentum=momentum, decay=decay))

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                alike.setdefault(p.shape, []).append(p)
            for weights in alike.values():
                self._step(weights, group)

    def _step(self, weights: list[Tensor], group: dict) -> None:
        """One step of matrices of one shape; their momenta are kept stacked, with the first of them."""
        gradients, state = torch.stack([p.grad for p in weights]), self.state[weights[0]]
        if not state:
            state["momentum"] = torch.zeros_like(gradients)
        state["momentum"].lerp_(gradients, 1 - group["momentum"])
        ahead = gradients.lerp_(state["momentum"], group["momentum"])
        dtype = torch.bfloat16 if ahead.is_cuda else ahead.dtype
        moves = orthogonal(ahead.to(dtype)).to(ahead.dtype)
        size = 0.2 * max(weights[0].shape[-2:]) ** 0.5
        for p, move in zip(weights, moves.unbind(0), strict=True):
            p.mul_(1 - group["lr"] * group["decay"]).add_(move, alpha=-group["lr"] * size)
