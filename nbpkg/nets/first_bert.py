"""What chapters 09 and 10 of the first edition use of language models: losses in closed form, schedules.

One model at a time, as they were published; this stays until these chapters are written anew.
"""

import bisect
import contextlib
import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbpkg.data import glue, masking
from nbpkg.data.masking import Masked, generator, mask
from nbpkg.data.tokens import PAD, Tokenizer
from nbpkg.errors import NbpkgError
from nbpkg.nets.bert import Bert, precision
from nbpkg.nets.bert_train import linear_warmup_decay, take_step
from nbpkg.nets.distil import _check, device_of
from nbpkg.nets.downstream import FineTuning, _trimmed, pooled, sentences
from nbpkg.seeding import seeded

_EVALUATION_BATCH, _FEATURES_BATCH = 128, 256


class Batches(masking.Batches):
    """One batch at a time: `batches(step)` for any step from 0."""

    def __call__(self, step: int) -> Masked:
        return mask(self._rows(step), self.vocabulary, generator(self.seed, f"mask/{step}"), self.rate)

    def steps(self, count: int, first: int = 0) -> Iterator[Masked]:
        """The batches of steps first to first + count - 1."""
        return (self(step) for step in range(first, first + count))


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


class _Mixture(torch.autograd.Function):
    """hard and soft at tau = 1 from one softmax of either side, with the gradient in closed form.

    With log-sum-exponentials s and t of student's and teacher's logits z and w,

        KL = sum q (w - z) - t + s,   d hard / dz = (p - onehot) / n,   d soft / dz = (p - q) / n
    """

    @staticmethod
    def forward(ctx, student: Tensor, targets: Tensor, teacher: Tensor):
        p, q = student.softmax(-1), teacher.softmax(-1)
        # The largest probability is at least 1 / v: its logarithm is safe.
        s, t = (z.amax(-1) - soft.amax(-1).log() for z, soft in ((student, p), (teacher, q)))
        hard = (s - student.gather(1, targets[:, None])[:, 0]).mean()
        soft = ((teacher - student).mul_(q).sum(-1) - t + s).mean()
        ctx.save_for_backward(p, q, targets)
        return hard, soft

    @staticmethod
    def backward(ctx, d_hard: Tensor, d_soft: Tensor):
        p, q, targets = ctx.saved_tensors
        n = len(targets)
        gradient = (p * ((d_hard + d_soft) / n)).sub_(q * (d_soft / n))
        return gradient.scatter_add_(1, targets[:, None], (-d_hard / n).expand(n, 1)), None, None


def losses(
    student: Tensor, targets: Tensor, teacher: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(hard, soft) of the student's logits (n, v), the targets (n,) and the teacher's logits (n, v): () each.

    In nats and float32. The hard loss is at temperature 1 always, the soft one not multiplied by tau squared.
    At temperature 1 both come from one softmax. Raises NbpkgError for shapes that differ and a temperature
    that is not above 0.
    """
    _check(student, teacher, temperature)
    student, teacher = student.float(), teacher.detach().float()
    if temperature == 1:
        return _Mixture.apply(student, targets, teacher)
    log_p, log_q = (F.log_softmax(logits / temperature, -1) for logits in (student, teacher))
    # "batchmean" divides by the number of places; "mean" would divide by the vocabulary as well.
    soft = F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
    return F.cross_entropy(student, targets), soft


class _Mutual(torch.autograd.Function):
    """hard and soft of two models at once: one softmax of each, at tau, from which all else follows.

    With u = log softmax(z / tau), p = exp(u) and s = sum p^tau, the probabilities at temperature 1 are
    p^tau / s. The gradients are d hard_a / da = (p_a^tau / s_a - onehot) / n, d soft_a / da = (p_a - p_b) /
    (n tau), and 0 for b.
    """

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, targets: Tensor, tau: float):
        at, n = targets[:, None], len(targets)
        u, v = (F.log_softmax(z if tau == 1 else z / tau, -1) for z in (a, b))
        p, q = u.exp(), v.exp()
        hard = [-tau * x.gather(1, at)[:, 0] for x in (u, v)]
        sums = [] if tau == 1 else [x.pow(tau).sum(-1) for x in (p, q)]
        hard = [(x + s.log() if tau != 1 else x).mean() for x, s in zip(hard, sums or hard, strict=True)]
        apart = u.sub_(v).flatten()
        ctx.save_for_backward(targets, p, q, *sums)
        ctx.tau = tau
        return hard[0], -(q.flatten() @ apart) / n, hard[1], p.flatten() @ apart / n

    @staticmethod
    def backward(ctx, d_hard_a: Tensor, d_soft_a: Tensor, d_hard_b: Tensor, d_soft_b: Tensor):
        targets, p, q, *sums = ctx.saved_tensors
        n, at, tau = len(targets), targets[:, None], ctx.tau
        apart = (p - q).div_(n * tau)
        found = []
        for i, (x, d_hard, d_soft) in enumerate(((p, d_hard_a, d_soft_a), (q, d_hard_b, -d_soft_b))):
            share = d_hard / n
            plain = x * share if tau == 1 else x.pow(tau).mul_((share / sums[i])[:, None])
            plain.addcmul_(apart, d_soft)
            found.append(plain.scatter_add_(1, at, (-share).expand(n, 1)))
        return *found, None, None


def mutual_losses(
    a: Tensor, b: Tensor, targets: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(hard_a, soft_a, hard_b, soft_b) of two models that teach each other: () each, from logits (n, v).

    `losses(a, targets, b)` and `losses(b, targets, a)` in one: what a model is told is a constant, the hard
    losses are at temperature 1, the soft ones are not multiplied by tau squared. Raises NbpkgError for shapes
    that differ and a temperature that is not above 0.
    """
    _check(a, b, temperature)
    return _Mutual.apply(a.float(), b.float(), targets, float(temperature))


def optimiser(model: nn.Module, lr: float = 5e-4) -> torch.optim.AdamW:
    """AdamW with (0.9, 0.999); matrices and embeddings decay by 0.01, biases and layer norms do not.

    For two models, make two: neither then depends on the other.
    """
    decayed = [p for p in model.parameters() if p.dim() > 1]
    free = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr, fused=True)


def clip_and_step(
    model: nn.Module, optimiser: torch.optim.Optimizer, factor: float, clip: float = 1.0
) -> Tensor:
    """Clip the model's gradients to norm `clip`, take a step and clear them; the norm before clipping, ().

    factor: of the optimiser's first learning rate, from `linear_warmup_decay`. The norm is over this model
    alone: clipping two models together would couple them.
    """
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
    take_step(optimiser, factor)
    return norm


def features(model: Bert, ids: np.ndarray, places: np.ndarray | None = None) -> np.ndarray:
    """Last states for a linear probe, float32 (n, width): their mean, or those at `places`.

    ids: int64 (n, length) from `tokens.padded`. places: column of each row's token in ids, (n,).
    """
    found, device = [], device_of(model)
    with torch.no_grad(), precision(device):
        for low in range(0, len(ids), _FEATURES_BATCH):
            rows = _trimmed(torch.as_tensor(ids[low : low + _FEATURES_BATCH])).to(device)
            if places is None:
                states = pooled(model, rows)
            else:
                at = torch.as_tensor(places[low : low + _FEATURES_BATCH])
                states = model.hidden(rows, rows != PAD)[torch.arange(len(rows)), at]
            found.append(states.float().cpu().numpy())
    return np.concatenate(found)


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


def fine_tune(
    model: Bert, ids: np.ndarray, labels: np.ndarray, ids_test: np.ndarray,
    recipe: FineTuning = FineTuning(), seed: int = 0,  # noqa: B008
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


def glue_scores(
    model: Bert, tokenizer: Tokenizer, task: str, recipe: FineTuning = FineTuning(), seed: int = 0  # noqa: B008
) -> dict[str, float]:  # fmt: skip
    """Official metrics in percent on the task's development set, of a copy fine-tuned on its training set."""
    train, dev = glue.read(task, "train"), glue.read(task, "dev")
    ids, ids_dev = (sentences(split, tokenizer, recipe.length) for split in (train, dev))
    predictions = fine_tune(model, ids, train.labels, ids_dev, recipe, seed)
    return glue.score(task, np.clip(predictions, 0, 5) if task == "STS-B" else predictions, dev.labels)
