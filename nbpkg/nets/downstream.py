"""What a pre-trained `Bert` is good for: linear probes of its states, fine-tuning on sentences."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbpkg.data import glue
from nbpkg.data.masking import Masked, generator
from nbpkg.data.tokens import PAD, Tokenizer, padded
from nbpkg.errors import NbpkgError
from nbpkg.nets.bert import Bert, device_of, precision
from nbpkg.nets.bert_train import clip_and_step, linear_warmup_decay, log_probabilities, optimiser
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


def features(model: Bert, ids: np.ndarray, places: np.ndarray | None = None) -> np.ndarray:
    """Last states for a linear probe, float32 (n, width): their mean, or those at `places`.

    ids: int64 (n, length) from `tokens.padded`. places: column of each row's token in ids, (n,).
    """
    found, device = [], device_of(model)
    with torch.no_grad(), precision(device):
        for low in range(0, len(ids), _EVALUATION_BATCH):
            rows = _trimmed(torch.as_tensor(ids[low : low + _EVALUATION_BATCH])).to(device)
            if places is None:
                states = pooled(model, rows)
            else:
                at = torch.as_tensor(places[low : low + _EVALUATION_BATCH])
                states = model.hidden(rows, rows != PAD)[torch.arange(len(rows)), at]
            found.append(states.float().cpu().numpy())
    return np.concatenate(found)


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


def probe(
    x: np.ndarray, labels: np.ndarray, x_test: np.ndarray, labels_test: np.ndarray, penalty: float = 1.0
) -> float:
    """Test accuracy in percent of logistic regression on standardised features, (n, width) and (n,) each.

    penalty: inverse of the regularisation, scikit-learn's C; choose it on other data than the test's.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=2_000)).fit(x, labels)
    return 100 * float(fitted.score(x_test, labels_test))


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


def fine_tune(
    model: Bert, ids: np.ndarray, labels: np.ndarray, ids_test: np.ndarray,
    recipe: FineTuning = FineTuning(), seed: int = 0,
) -> np.ndarray:  # fmt: skip
    """Predictions (n_test,) of a copy of the model, trained with a linear layer on its pooled states.

    ids, ids_test: int64 (n, length). labels: integers, classes 0, 1, ... (predictions are classes), or floats
    (predictions are numbers; squared error in units of their standard deviation). seed: draws the new layer,
    the order and the examples kept. The model is left as it is; the copy is trained where it lies. Raises
    NbpkgError for numbers that differ.
    """
    if len(ids) != len(labels) or not len(ids) or not len(ids_test):
        raise NbpkgError(
            f"{len(ids)} sentences, {len(labels)} labels, {len(ids_test)} to predict: no training"
        )
    numbers = np.issubdtype(labels.dtype, np.floating)
    centre, scale = (float(labels.mean()), float(labels.std()) or 1.0) if numbers else (0.0, 1.0)
    net, device = copy.deepcopy(model).train(), device_of(model)
    with seeded(seed):
        top = nn.Linear(model.config.width, 1 if numbers else int(labels.max()) + 1)
    top = top.to(device)
    y = torch.as_tensor((labels - centre) / scale).float() if numbers else torch.as_tensor(labels).long()
    _fit(net, top, torch.as_tensor(ids), y, recipe, generator(seed, "fine-tuning"))
    states = torch.from_numpy(features(net, ids_test)).to(device)
    with torch.no_grad():
        out = top(states).cpu()
    return (out[:, 0].double() * scale + centre).numpy() if numbers else out.argmax(1).numpy()


def _fit(net: Bert, top: nn.Linear, x: Tensor, y: Tensor, recipe: FineTuning, rng: torch.Generator) -> None:
    """Train net and top in place on ids x (n, length): classes y int64 (n,), or numbers y float32 (n,)."""
    whole, device = nn.ModuleList([net, top]), device_of(net)
    kept = torch.randperm(len(x), generator=rng)[: recipe.limit or len(x)]
    steps, step = recipe.epochs * -(-len(kept) // recipe.batch), 0
    adam = optimiser(whole, recipe.lr)
    for _ in range(recipe.epochs):
        for rows in kept[torch.randperm(len(kept), generator=rng)].split(recipe.batch):
            with precision(device):
                out = top(pooled(net, _trimmed(x[rows]).to(device))).float()
            target = y[rows].to(device)
            loss = F.mse_loss(out[:, 0], target) if y.is_floating_point() else F.cross_entropy(out, target)
            loss.backward()
            clip_and_step(whole, adam, linear_warmup_decay(step, steps, 0.1))
            step += 1


def sentences(split: glue.Split, tokenizer: Tokenizer, length: int = 64) -> np.ndarray:
    """Token ids of a task's sentences or pairs, int64 (n, length)."""
    first = tokenizer.encode(split.first)
    second = None if split.second is None else tokenizer.encode(split.second)
    return padded(first, second, length)


def glue_scores(
    model: Bert, tokenizer: Tokenizer, task: str, recipe: FineTuning = FineTuning(), seed: int = 0
) -> dict[str, float]:  # fmt: skip
    """Official metrics in percent on the task's development set, of a copy fine-tuned on its training set."""
    train, dev = glue.read(task, "train"), glue.read(task, "dev")
    ids, ids_dev = (sentences(split, tokenizer, recipe.length) for split in (train, dev))
    predictions = fine_tune(model, ids, train.labels, ids_dev, recipe, seed)
    return glue.score(task, np.clip(predictions, 0, 5) if task == "STS-B" else predictions, dev.labels)
