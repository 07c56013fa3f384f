"""How students of chapter 09 of the first edition start from a teacher's weights.

This stays until the chapter is written anew.
"""

import torch
from torch import Tensor

from nbpkg.errors import NbpkgError
from nbpkg.nets.bert import Bert, BertConfig, bert


def layer_map(old: int, new: int, rule: str = "last") -> list[int | None]:
    """Which of `old` layers each of `new` layers starts from; None: from none.

    rule: "last": layer by layer, and those beyond the end from the old model's last (Fang et al., 2020), as
    in the study of weak teachers; "first": layer by layer, those beyond the end from none. Raises NbpkgError
    for other rules and fewer than one layer.
    """
    if min(old, new) < 1:
        raise NbpkgError(f"no layers can be mapped from {old} to {new}")
    if rule not in ("last", "first"):
        raise NbpkgError(f"no rule is called {rule!r}; take 'last' or 'first'")
    beyond = old - 1 if rule == "last" else None
    return [i if i < old else beyond for i in range(new)]


def init_from(
    source: Bert, config: BertConfig, seed: int = 0, layers: str | None = "last", extra: str = "random"
) -> Bert:
    """A new model of `config` that starts from the weights of another one; the source is left as it is.

    Embeddings and head are copied. layers: the rule of `layer_map`, or None for no layers. What is not copied
    is drawn from `seed` as in `bert(config, seed)`, save that extra="zero" makes the outputs of layers
    without a source zero: with norm "pre", the model then computes what the source does. Where widths differ,
    the first hidden features and heads are copied, and the rest stays as drawn.

    Raises NbpkgError for other vocabularies, norms, positions or widths of a head, and an unknown `extra`.
    """
    old = source.config
    if any(getattr(old, kind) != getattr(config, kind) for kind in ("vocabulary", "norm", "positions")):
        raise NbpkgError("weights go only between models of one vocabulary, kind of norm and of positions")
    sizes = old.width // old.heads, config.width // config.heads
    if sizes[0] != sizes[1]:
        raise NbpkgError(f"heads of {sizes[0]} and {sizes[1]} features cannot be mapped")
    if extra not in ("random", "zero"):
        raise NbpkgError(f"layers without a source can be 'random' or 'zero', not {extra!r}")
    model = bert(config, seed)
    given = source.state_dict()
    mapped = [] if layers is None else layer_map(old.layers, config.layers, layers)
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            if not name.startswith("layers."):
                _copy(weight, given[name])
        for i, j in enumerate(mapped):
            for name, weight in model.layers[i].state_dict().items():
                if j is not None:
                    _copy(weight, given[f"layers.{j}.{name}"], 3 if name.startswith("qkv") else 1)
                elif extra == "zero" and name.startswith(("out.", "down.")):
                    weight.zero_()
    return model


def _copy(weight: Tensor, given: Tensor, blocks: int = 1) -> None:
    """Copies into `weight` the corner that both have, for each of `blocks` parts of the first dimension."""
    for to, of in zip(weight.chunk(blocks), given.chunk(blocks), strict=True):
        corner = tuple(slice(0, min(a, b)) for a, b in zip(to.shape, of.shape, strict=True))
        to[corner] = of[corner]
