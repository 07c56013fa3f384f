"""What a pre-trained `Bert` is good for: agreement of hidden verbs, fine-tuning on sentences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbpkg.data import glue
from nbpkg.data.masking import Masked, generator
from nbpkg.data.tokens import PAD, Tokenizer, padded
from nbpkg.errors import NbpkgError
from nbpkg.nets.bert import Bert
from nbpkg.nets.bert_train import clip, linear_warmup_decay, log_probabilities, optimisers, take_step
from nbpkg.nets.together import Together
from nbpkg.seeding import seeded

_EVALUATION_BATCH = 256


def pooled(model: Bert, ids: Tensor) -> Tensor:
    """Mean of the last states over the tokens that are no padding: (batch, length) -> (batch, width)."""
    mask = ids != PAD
    states = model.hidden(ids, mask)
    weights = mask[..., None].to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)


def _trimmed(ids: Tensor) -> Tensor:
    """Ids (batch, length) without the columns in which all rows are padded."""
    return ids[:, : int((ids != PAD).sum(1).max())]


def agreement(nets: Together, masked: Masked, numbers: np.ndarray) -> np.ndarray:
    """Percent of a hidden verb's probability that is in the verb's number, of every network, (networks,).

    Of the probability that goes to verbs at all, as a mean over the hidden verbs: 50 knows nothing of number.
    numbers: of each token 1 (singular) or 2 (plural), 0 if it is no verb, (vocabulary,).
    """
    kinds = torch.as_tensor(numbers, device=nets.device)
    of_kind, right, verbs = F.one_hot(kinds, 3).float(), 0, 0
    for log_p, targets in log_probabilities(nets, masked):
        mass, wanted = log_p.exp() @ of_kind, kinds[targets]  # (networks, n, 3), (n,)
        share = mass.gather(2, wanted.expand(len(nets), -1)[..., None])[..., 0] / mass[..., 1:].sum(2)
        right, verbs = right + (share * (wanted > 0)).double().sum(1), verbs + (wanted > 0).sum()
    return (100 * right / verbs).cpu().numpy()


@dataclass(frozen=True)
class FineTuning:
    """How a copy of a model is fine-tuned: AdamW, warm-up, linear decay to 0, the last step's weights.

    length: tokens a sentence or pair may have. limit: training examples used, drawn by the seed (0: all).
    Raises NbpkgError for sizes that train nothing.
    """

    epochs: int = 3
    batch: int = 32
    lr: float = 3e-4
    length: int = 64
    limit: int = 0

    def __post_init__(self):
        if min(self.epochs, self.batch) < 1 or self.limit < 0 or self.lr <= 0:
            raise NbpkgError(f"this recipe trains nothing: {self}")


class Classifier(nn.Module):
    """A `Bert` and a linear layer on the mean of its last states: ids (batch, length) -> (batch, outputs)."""

    def __init__(self, body: Bert, outputs: int, seed: int):
        super().__init__()
        self.body = body
        with seeded(seed):
            self.top = nn.Linear(body.config.width, outputs)

    def forward(self, ids: Tensor) -> Tensor:
        return self.top(pooled(self.body, ids))


def fine_tune(
    models: Sequence[Bert], ids: np.ndarray, labels: np.ndarray, ids_test: np.ndarray,
    recipe: FineTuning = FineTuning(), seeds: Sequence[int] = (0,), device: str | torch.device = "cpu",
) -> np.ndarray:  # fmt: skip
    """Predictions (models, n_test) of copies of the models, one for each of `seeds`, trained together.

    ids, ids_test: int64 (n, length). labels: integers, classes 0, 1, ... (predictions are classes), or floats
    (predictions are numbers; squared error in units of their standard deviation). seeds: of the new layers,
    the orders and the examples kept. The models are left as they are. Raises NbpkgError for numbers that
    differ.
    """
    if not len(models) == len(seeds) or not 0 < len(ids) == len(labels) or not len(ids_test):
        raise NbpkgError(f"{len(ids)} sentences, {len(labels)} labels, {len(seeds)} seeds: no training")
    numbers = np.issubdtype(labels.dtype, np.floating)
    centre, scale = (float(labels.mean()), float(labels.std()) or 1.0) if numbers else (0.0, 1.0)
    outputs = 1 if numbers else int(labels.max()) + 1
    nets = Together([Classifier(m, outputs, i) for m, i in zip(models, seeds, strict=True)], device)
    y = torch.as_tensor((labels - centre) / scale).float() if numbers else torch.as_tensor(labels).long()
    x, y, width = torch.as_tensor(ids).to(device), y.to(device), (ids != PAD).sum(1)
    orders, update = _orders(len(ids), recipe, seeds), optimisers(nets, recipe.lr, "adamw")[0]
    for step, rows in enumerate(orders):
        here, longest = rows.to(device, non_blocking=True), width[rows.numpy()].max()
        out, wanted = nets(x[here, :longest]).flatten(0, 1), y[here].flatten()
        loss = F.mse_loss(out[:, 0], wanted) if numbers else F.cross_entropy(out, wanted)
        (len(seeds) * loss).backward()
        clip(nets)
        take_step(update, linear_warmup_decay(step, len(orders), 0.1))
    with torch.no_grad():
        parts = torch.as_tensor(ids_test).split(_EVALUATION_BATCH)
        out = torch.cat([nets(_trimmed(part).to(device), shared=True) for part in parts], 1).cpu()
    return (out[..., 0].double() * scale + centre).numpy() if numbers else out.argmax(2).numpy()


def _orders(count: int, recipe: FineTuning, seeds: Sequence[int]) -> list[Tensor]:
    """For each step the examples of each seed, int64 (seeds, batch)."""
    found = []
    for seed in seeds:
        rng = generator(seed, "fine-tuning")
        kept = torch.randperm(count, generator=rng)[: recipe.limit or count]
        found.append([kept[torch.randperm(len(kept), generator=rng)] for _ in range(recipe.epochs)])
    epochs = (torch.stack(one) for one in zip(*found, strict=True))
    return [rows for epoch in epochs for rows in epoch.split(recipe.batch, 1)]


def sentences(split: glue.Split, tokenizer: Tokenizer, length: int = 64) -> np.ndarray:
    """Token ids of a task's sentences or pairs, int64 (n, length)."""
    first = tokenizer.encode(split.first)
    second = None if split.second is None else tokenizer.encode(split.second)
    return padded(first, second, length)


def glue_scores(
    models: Sequence[Bert], tokenizer: Tokenizer, task: str, recipe: FineTuning = FineTuning(),
    seeds: Sequence[int] = (0,), device: str | torch.device = "cpu",
) -> list[dict[str, float]]:  # fmt: skip
    """Official metrics in percent on the task's development set, of copies fine-tuned on its training set."""
    train, dev = glue.read(task, "train"), glue.read(task, "dev")
    ids, ids_dev = (sentences(split, tokenizer, recipe.length) for split in (train, dev))
    found = fine_tune(models, ids, train.labels, ids_dev, recipe, seeds, device)
    found = np.clip(found, 0, 5) if task == "STS-B" else found
    return [glue.score(task, predictions, dev.labels) for predictions in found]
