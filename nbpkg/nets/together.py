"""Several small networks of one shape, one for each seed say, trained as one: a GPU is wasted on each alone.

    nets = Together([bert(config, seed) for seed in seeds], device)
    adam = torch.optim.Adam(nets.parameters(), 1e-3)
    loss = F.mse_loss(nets(x), y, reduction="none").flatten(1).mean(1)      # (networks,)
    loss.sum().backward()

The sum gives each network the gradient of its own loss, and optimisers that work number by number (SGD, Adam)
step each as if it were alone, up to rounding. For stacks of convolutions see ``nbpkg.zoo.stack``. Attention
on a CPU is still done one network after the other; a single network is run as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Together:
    """Networks with their weights side by side on `device`, (networks, ...); the given ones stay as they are.

    Batch norm in training mode writes its statistics in place and cannot be among their layers.
    """

    def __init__(self, nets: Sequence[nn.Module], device: str | torch.device):
        here = [copy.deepcopy(net).to(device) for net in nets]
        self._weights, self._buffers = torch.func.stack_module_state(here)
        self._net = here[0].to("meta")  # the code alone

    def parameters(self) -> list[Tensor]:
        """For an optimiser: every parameter of all networks, (networks, ...)."""
        return list(self._weights.values())

    def named_parameters(self) -> dict[str, Tensor]:
        """The same by name."""
        return self._weights

    def __len__(self) -> int:
        return len(next(iter(self._weights.values())))

    @property
    def device(self) -> torch.device:
        """Where the networks are, and their inputs must be."""
        return next(iter(self._weights.values())).device

    def __call__(self, *inputs: Tensor, shared: bool = False) -> Tensor:
        """What every network makes of its inputs, (networks, ...); shared: all read the same ones."""

        def one(weights, buffers, *given):
            return torch.func.functional_call(self._net, (weights, buffers), given)

        if len(self) == 1:
            alone = [{k: v.squeeze(0) for k, v in part.items()} for part in (self._weights, self._buffers)]
            return one(*alone, *(x if shared else x[0] for x in inputs))[None]
        places = (0, 0, *[None if shared else 0] * len(inputs))
        return torch.vmap(one, places, randomness="different")(self._weights, self._buffers, *inputs)

    def states(self) -> list[dict[str, Tensor]]:
        """The state dict of each network, on the CPU."""
        kept = self._net.state_dict()  # without buffers that are not kept
        whole = {k: v.detach().cpu() for k, v in (self._weights | self._buffers).items() if k in kept}
        return [{name: value[i].clone() for name, value in whole.items()} for i in range(len(self))]
