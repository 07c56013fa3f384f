"""Soft labels between language models, and the weights of one model in another of other sizes.

The two losses of Lee et al. (2023), at the places that are predicted: with student and teacher
probabilities p = softmax(z / tau),

    hard = mean over places of  - log p_student(target)            (tau = 1)
    soft = mean over places of  KL(p_teacher || p_student)

The teacher's logits are constants: no gradient reaches them.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbpkg.errors import NbpkgError
from nbpkg.nets.bert import Bert, bert


def device_of(model: nn.Module) -> torch.device:
    """Where a model's weights lie: what it reads is moved there."""
    return next(model.parameters()).device


def _check(student: Tensor, teacher: Tensor, temperature: float) -> None:
    if student.shape != teacher.shape or student.dim() != 2 or not len(student):
        raise NbpkgError(
            f"logits must be (places, vocabulary) alike, not {tuple(student.shape)}, {tuple(teacher.shape)}"
        )
    if not temperature > 0:
        raise NbpkgError(f"a temperature must be above 0, got {temperature}")


def losses(
    student: Tensor, targets: Tensor, teacher: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(hard, soft) of the student's logits (n, v), the targets (n,) and the teacher's logits (n, v): () each.

    In nats and float32. The hard loss is at temperature 1 always, the soft one not multiplied by tau squared.
    Of two models that teach each other, each is the other's teacher. Raises NbpkgError for shapes that differ
    and a temperature that is not above 0.
    """
    _check(student, teacher, temperature)
    student, teacher = student.float(), teacher.detach().float()
    log_p = F.log_softmax(student, -1)
    hard = F.nll_loss(log_p, targets)
    log_p = log_p if temperature == 1 else F.log_softmax(student / temperature, -1)
    # "batchmean" divides by the number of places; "mean" would divide by the vocabulary as well.
    log_q = F.log_softmax(teacher / temperature, -1)
    return hard, F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def init_from(source: Bert, layers: int) -> Bert:
    """A new model with so many layers that starts from the weights of `source`, where `source` is.

    Layer by layer, and those beyond the end from the last one (Fang et al., 2020), as in the study of weak
    teachers; embeddings and head as well.
    """
    model, last = bert(replace(source.config, layers=layers)), source.config.layers - 1

    def of(name: str) -> str:
        kind, number, rest = name.split(".", 2) if name.startswith("layers.") else (name, "0", "")
        return f"{kind}.{min(int(number), last)}.{rest}" if rest else name

    model.load_state_dict({name: source.state_dict()[of(name)] for name in model.state_dict()})
    return model.to(device_of(source))
