"""Soft labels between language models, and the weights of one model in another of other sizes.

The two losses of Lee et al. (2023), at the places that are predicted: with student and teacher
probabilities p = softmax(z / tau),

    hard = mean over places of  - log p_student(target)            (tau = 1)
    soft = mean over places of  KL(p_teacher || p_student)

The teacher's logits are constants: no gradient reaches them.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from nbpkg.errors import NbpkgError
from nbpkg.nets.bert import Bert, BertConfig, bert


def _check(student: Tensor, teacher: Tensor, temperature: float) -> None:
    if student.shape != teacher.shape or student.dim() != 2 or not len(student):
        raise NbpkgError(
            f"logits must be (places, vocabulary) alike, not {tuple(student.shape)}, {tuple(teacher.shape)}"
        )
    if not temperature > 0:
        raise NbpkgError(f"a temperature must be above 0, got {temperature}")


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

    Raises NbpkgError for other vocabularies, norms or widths of a head, and for an unknown `extra`.
    """
    old = source.config
    if old.vocabulary != config.vocabulary or old.norm != config.norm:
        raise NbpkgError("weights go only between models of one vocabulary and one kind of norm")
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
