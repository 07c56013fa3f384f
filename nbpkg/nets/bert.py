"""A compact encoder of the BERT kind for masked-language modelling.

Devlin et al. (2019) at the sizes of this book: bidirectional self-attention, a head with the token
embedding's weights (tied), logits only where a token must be predicted. The classic configuration has layer
norms after each sum (norm="post") and learned position embeddings; the other one norms before each block and
at the end (norm="pre"), and turns queries and keys by their places (positions="rotary"; Su et al., 2021).
Left out: dropout, and segments and the pooled output, which serve next-sentence prediction.
"""

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbpkg.errors import NbpkgError
from nbpkg.seeding import seeded

_EPS = 1e-12  # of the layer norms, as published


@dataclass(frozen=True)
class BertConfig:
    """Sizes of a `Bert`.

    vocabulary: tokens; layers; width: of the hidden states; heads: of attention, which share the width;
    length: the longest sequence, in tokens; norm: "post" or "pre"; std: of the normal distribution of weights
    before training (0.02 is published for a width of 768; small widths learn faster from more, about
    0.5 / sqrt(width)); positions: "learned" or "rotary". Feed-forward blocks are four times as wide inside.

    Raises NbpkgError for sizes that make no network.
    """

    vocabulary: int
    layers: int = 6
    width: int = 128
    heads: int = 4
    length: int = 64
    norm: str = "post"
    std: float = 0.02
    positions: str = "learned"

    def __post_init__(self):
        if min(self.vocabulary, self.layers, self.width, self.heads, self.length) < 1:
            raise NbpkgError(f"these sizes make no encoder: {self}")
        if self.width % self.heads:
            raise NbpkgError(f"a width of {self.width} cannot be shared by {self.heads} heads")
        if self.norm not in ("post", "pre") or not self.std > 0:
            raise NbpkgError(f"no encoder has norm {self.norm!r} and weights of deviation {self.std}")
        if self.positions not in ("learned", "rotary"):
            raise NbpkgError(f"positions are 'learned' or 'rotary', not {self.positions!r}")
        if self.positions == "rotary" and self.width // self.heads % 2:
            raise NbpkgError(f"rotary positions need heads of an even width, not {self.width // self.heads}")

    def parameters(self) -> int:
        """Number of all parameters; the tied embedding counts once."""
        with torch.device("meta"):
            return sum(weight.numel() for weight in Bert(self).parameters())

    def flops(self, batch: int, predicted: int, length: int | None = None) -> int:
        """Floating-point operations of the matrix products of one forward pass, a multiplication and its
        addition counting as two: batch sequences, `predicted` logits in all. A training step takes three
        times as many (forward, and twice as much backward).
        """
        d, length = self.width, length or self.length
        layer = 2 * batch * length * (12 * d * d + 2 * length * d)
        return self.layers * layer + 2 * predicted * (d * d + d * self.vocabulary)


def turns(length: int, size: int) -> Tensor:
    """Cosines and signed sines of rotary positions for heads of `size` features: (2, length, size).

    Feature i of the first half and feature i of the second are a plane, which place m turns by the angle
    m / 10,000^(2 i / size).
    """
    angles = torch.arange(length)[:, None] * 10_000.0 ** (-torch.arange(0, size, 2) / size)
    return torch.stack([angles.cos().repeat(1, 2), torch.cat([-angles.sin(), angles.sin()], 1)])


def turned(x: Tensor, by: Tensor) -> Tensor:
    """Queries or keys (..., length, size), each turned by its place; by: (2, length, size) of `turns`."""
    return torch.addcmul(x * by[0], x.roll(x.shape[-1] // 2, -1), by[1])


class Layer(nn.Module):
    """Self-attention and a feed-forward block, each with a sum: (batch, length, width) to the same shape."""

    def __init__(self, config: BertConfig):
        super().__init__()
        width = config.width
        self.heads, self.pre = config.heads, config.norm == "pre"
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=_EPS) for _ in range(2))

    def attend(self, x: Tensor, mask: Tensor | None, by: Tensor | None = None) -> Tensor:
        """softmax(q k^T / sqrt(width / heads)) v for each head: (batch, length, width) to the same shape.

        mask: bool (batch, 1, 1, length), False where a sequence is padded. by: of rotary positions.
        """
        # (batch, length, 3 width) -> three of (batch, heads, length, width / heads)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if by is not None:
            q, k = turned(q, by), turned(k, by)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(seen.transpose(1, 2).flatten(-2))

    def feed(self, x: Tensor) -> Tensor:
        """The feed-forward block: (batch, length, width) to the same shape."""
        return self.down(F.gelu(self.up(x)))

    def forward(self, x: Tensor, mask: Tensor | None = None, by: Tensor | None = None) -> Tensor:
        if self.pre:
            x = x + self.attend(self.norm1(x), mask, by)
            return x + self.feed(self.norm2(x))
        x = self.norm1(x + self.attend(x, mask, by))
        return self.norm2(x + self.feed(x))


class Bert(nn.Module):
    """Token ids to logits at chosen places: (batch, length) and (n,) places -> (n, vocabulary).

    Weights are drawn from a normal distribution (config.std), biases are 0.
    """

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        width = config.width
        self.tokens = nn.Embedding(config.vocabulary, width)
        if config.positions == "learned":
            self.position_embedding = nn.Embedding(config.length, width)
        else:
            self.register_buffer("by", turns(config.length, width // config.heads), persistent=False)
        self.norm = nn.LayerNorm(width, eps=_EPS)  # of the embeddings (post) or of the last states (pre)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.transform, self.head_norm = nn.Linear(width, width), nn.LayerNorm(width, eps=_EPS)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=config.std)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def hidden(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """States after the last layer: (batch, length) -> (batch, length, width).

        mask: bool (batch, length), False where a sequence is padded. Padding changes no other state.
        Raises NbpkgError for ids of another shape and sequences that are too long.
        """
        if ids.dim() != 2 or ids.shape[1] > self.config.length:
            raise NbpkgError(
                f"ids must be (batch, up to {self.config.length} tokens), not {tuple(ids.shape)}"
            )
        x, length, by = self.tokens(ids), ids.shape[1], None
        if self.config.positions == "learned":
            x = x + self.position_embedding.weight[:length]
        else:
            by = self.by[:, :length]
        x = x if self.config.norm == "pre" else self.norm(x)
        attended = None if mask is None else mask[:, None, None, :]
        for layer in self.layers:
            x = layer(x, attended, by)
        return self.norm(x) if self.config.norm == "pre" else x

    def logits(self, states: Tensor) -> Tensor:
        """The head: (..., width) -> (..., vocabulary), with the token embedding's weights."""
        states = self.head_norm(F.gelu(self.transform(states)))
        return F.linear(states, self.tokens.weight, self.bias)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """positions: int64 (n,), places in the flattened ids; only these go through the head."""
        return self.logits(self.hidden(ids).flatten(0, 1)[positions])


def bert(config: BertConfig, seed: int = 0) -> Bert:
    """A `Bert` with weights drawn from `seed`; the global random state is left as it was."""
    with seeded(seed):
        return Bert(config)


def precision(device: str | torch.device):
    """The context to run a model in: bfloat16 where it pays, on a GPU that has it; else float32.

    Losses belong outside, in float32: what leaves the context there is converted by `.float()`.
    """
    if torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", torch.bfloat16)
    return contextlib.nullcontext()
