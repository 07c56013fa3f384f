"""Students of a teacher: residual networks that keep some of its blocks, and the first channels of each.

A student is nine numbers: for each of three blocks in three stages the eighths of the teacher's channels, 0
for a block that it lacks. Students of a task are trained as one stack and see the same images in the same
order. They are judged on the validation images; test images give the teacher's own label.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbpkg import machine
from nbpkg.data.images import augment
from nbpkg.memo import Entry, cached, key_of
from nbpkg.memo.fingerprint import content_hash
from nbpkg.seeding import rng
from nbpkg.zoo.fit import _scaled
from nbpkg.zoo.tasks import ROLES

STEM, SLOTS, NARROW, FULL = 16, 3, 4, 8  # channels; blocks of a stage; widths in eighths
WIDTHS = (8, 8, 8, 16, 16, 16, 32, 32, 32)  # a teacher's channels, block by block
TEACHER = (FULL,) * len(WIDTHS)
TEMPERATURE, HARD, SMOOTHING = 6.0, 0.5, 0.1


def draw(n: int, seed: int, known: Sequence[tuple] = ()) -> list[tuple]:
    """n different students, none of them in `known`; the head reads the last block, so that is whole."""
    stream, found = np.random.default_rng(seed), []
    while len(found) < n:
        depths = stream.integers(1, SLOTS + 1, 3)
        eighths = stream.integers(NARROW, FULL + 1, (3, SLOTS)) * (np.arange(SLOTS) < depths[:, None])
        eighths[-1, depths[-1] - 1] = FULL
        if (student := tuple(eighths.ravel().tolist())) not in {*found, *known}:
            found.append(student)
    return found


def start(classes: int, seed: int) -> dict[str, Tensor]:
    """Random weights of a teacher; norms: (factors, shifts), and what they have seen: (means, variances)."""
    stream, state, before = rng(seed, "students"), {}, 3
    for slot, wide in enumerate((STEM, *WIDTHS), -1):
        for name in (f"a{slot}", f"b{slot}") if slot >= 0 else ("stem",):
            state[name] = torch.randn(wide, before, 3, 3, generator=stream) * math.sqrt(2 / (9 * wide))
            state[f"{name}_norm"] = torch.eye(2)[:, :1].repeat(1, wide)
            state[f"{name}_seen"] = torch.eye(2)[:, 1:].repeat(1, wide)
            before = wide
    head = torch.randn(classes, before, generator=stream) / math.sqrt(before)
    return state | {"head": head, "bias": torch.zeros(classes)}


class Students(nn.Module):
    """G students side by side as grouped convolutions: images (n, 3, r, r) -> logits (n, G, classes).

    state: a teacher's `state_dict()`, or `start`: of it each student gets the first channels of its blocks.
    All are as wide as the widest; masks close what the others lack.
    """

    def __init__(self, students: Sequence[tuple], state: dict[str, Tensor]):
        super().__init__()
        self.groups, self.slots, width = len(students), [], STEM
        own = torch.tensor(students) * torch.tensor(WIDTHS) // FULL
        after = own[:, 0]
        self._take(state, "stem", STEM, 3)
        for slot, mine in enumerate(own.T):
            if mine.any():
                after = torch.where(mine > 0, mine, after)
                wide = int(after.max())
                self._take(state, f"a{slot}", wide, width)
                self._take(state, f"b{slot}", wide, wide)
                # Which channels the block adds to, and which it passes on.
                ends = torch.stack([mine, torch.where(mine > 0, mine, wide)])
                mask = (torch.arange(wide) < ends[..., None]).float().flatten(1)[..., None, None]
                self.register_buffer(f"open{slot}", mask, persistent=False)
                self.slots.append(slot)
                width = wide
        self.head = nn.Parameter(state["head"].repeat(self.groups, 1))
        self.bias = nn.Parameter(state["bias"].repeat(self.groups))

    def _take(self, state: dict[str, Tensor], name: str, wide: int, width: int) -> None:
        weight, norm, seen = state[name][:wide, :width], state[f"{name}_norm"], state[f"{name}_seen"]
        self.register_parameter(name, nn.Parameter(weight.repeat(self.groups, 1, 1, 1)))
        self.register_parameter(f"{name}_norm", nn.Parameter(norm[:, :wide].repeat(1, self.groups)))
        self.register_buffer(f"{name}_seen", seen[:, :wide].repeat(1, self.groups))

    def _unit(self, name: str, x: Tensor, stride: int, groups: int) -> Tensor:
        y = F.conv2d(x, getattr(self, name), None, stride, 1, 1, groups)
        return F.batch_norm(y, *getattr(self, f"{name}_seen"), *getattr(self, f"{name}_norm"), self.training)

    def map(self, x: Tensor, seen: list | None = None) -> Tensor:
        """The last stage's activations: (n, 3, r, r) -> (n, G, 32, r/8, r/8).

        seen: gets what every ReLU lets through, (n, G*c, ...), with the channels that a student has of it.
        """
        groups, x, seen = self.groups, F.relu(self._unit("stem", x, 2, 1)), [] if seen is None else seen
        seen.append((x, x.new_ones(x.shape[1], 1, 1)))
        for slot in self.slots:
            stride, (mine, passed) = 1 + (slot in (SLOTS, 2 * SLOTS)), getattr(self, f"open{slot}")
            y = F.relu(self._unit(f"a{slot}", x, stride, groups)) * mine
            seen.append((y, mine))
            y = self._unit(f"b{slot}", y, 1, groups) * mine
            x = F.max_pool2d(x, 2) if stride == 2 else x
            if more := (y.shape[1] - x.shape[1]) // groups:  # negative: the last channels are dropped
                x = F.pad(x.unflatten(1, (groups, -1)), (0, 0, 0, 0, 0, more)).flatten(1, 2)
            x = F.relu(y + x * passed)
            seen.append((x, mine))
        return x.unflatten(1, (groups, -1))

    def forward(self, x: Tensor) -> Tensor:
        head, bias = (value.unflatten(0, (self.groups, -1)) for value in (self.head, self.bias))
        return torch.einsum("ngc,gkc->ngk", self.map(x).mean((3, 4)), head) + bias


def losses(logits: Tensor, target: Tensor, soft: Tensor | None = None) -> Tensor:
    """Each student's loss (G,): logits (n, G, k), targets and a teacher's softened outputs (n, k)."""
    hard = -(logits.log_softmax(-1) * target[:, None]).sum(-1).mean(0)
    if soft is None:
        return hard
    entropy = -((logits / TEMPERATURE).log_softmax(-1) * soft[:, None]).sum(-1).mean(0)
    return HARD * hard + (1 - HARD) * TEMPERATURE**2 * entropy


@dataclass(frozen=True, order=True)
class StudentNet:
    """A student to train on a task: distilled, or (soft=False) on smoothed labels alone.

    teacher: the seed that trained its teacher; epochs: how long, 0 if there is none. remapped: it starts from
    the teacher's weights, else from random ones of the job's seed.
    """

    epochs: int = 0
    teacher: int = 0
    remapped: bool = False
    soft: bool = False
    student: tuple[int, ...] = TEACHER

    def stack_key(self) -> tuple:
        return ("student",)

    def floats(self, resolution: int) -> int:
        return 7 * sum(w * resolution**2 // 4 ** (1 + i // SLOTS) for i, w in enumerate(WIDTHS))

    def params(self, num_classes: int) -> int:
        return sum(value.numel() for value in start(num_classes, 0).values())

    @staticmethod
    def fit(jobs: Sequence, weights: bool, device: torch.device) -> dict:
        """Train a stack for `nbpkg.zoo.train`; only teachers' weights are kept, by `trained`."""
        alike = itertools.groupby(jobs, lambda job: (job.task, job.seed, replace(job.spec, student=TEACHER)))
        made = [trained([*same], device) for _, same in alike]
        return {k: np.concatenate([m[k] for m in made]) for k in ("numbers", "curve")} | {"weights": None}


def trained(jobs: Sequence, device: torch.device) -> dict:
    """Numbers and curves of jobs that differ in the student alone, and the state of a single one.

    One without a teacher may be a teacher: it is kept, for its students on whatever worker.
    """
    if len(jobs) > 1 or jobs[0].spec.epochs:
        return _train(jobs, device)
    job, made = jobs[0], [content_hash(_train), machine.device_key(device)]
    key = key_of(*made, asdict(job.recipe), asdict(job.spec), job.task.key(), job.seed)
    return cached(Entry("zoo/teachers", job.task.name, key, "zoo: a teacher"), lambda: _train(jobs, device))


def teacher_of(job):
    """The job that trains the teacher of a student's job."""
    recipe = replace(job.recipe, epochs=job.spec.epochs)
    return replace(job, spec=StudentNet(), seed=job.spec.teacher, recipe=recipe)


def _train(jobs: Sequence, device: torch.device) -> dict:
    spec, task, recipe, stream = jobs[0].spec, jobs[0].task, jobs[0].recipe, rng(jobs[0].seed, "images")
    state, above = start(task.num_classes, jobs[0].seed), None
    if spec.epochs:
        taught = trained([teacher_of(jobs[0])], device)["state"]
        state, above = taught if spec.remapped else state, Students([TEACHER], taught).to(device).eval()
    net = Students([job.spec.student for job in jobs], state).to(device, memory_format=torch.channels_last)
    how = {"weight_decay": recipe.weight_decay, "nesterov": True, "foreach": True}
    optimiser = torch.optim.SGD(net.parameters(), recipe.lr, recipe.momentum, **how)
    (x, y), *held_out = ([v[0] for v in _scaled([task.data()], split, device)] for split in ROLES)
    hard = F.one_hot(y, task.num_classes).float()
    hard = hard if spec.soft else (1 - SMOOTHING) * hard + SMOOTHING / task.num_classes
    batch = min(recipe.batch, len(y))
    steps, curve = len(y) // batch, torch.zeros(len(jobs), recipe.epochs, device=device)
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(y), generator=stream)[: steps * batch].to(device)
        seen, soft = augment(x[order], recipe.pad, recipe.flip, stream), [None] * steps
        if spec.soft:
            with torch.no_grad():
                soft = (above(seen)[:, 0] / TEMPERATURE).softmax(-1).split(batch)
        parts = zip(seen.split(batch), hard[order].split(batch), soft, strict=True)
        for step, (images, target, outputs) in enumerate(parts, epoch * steps):
            cosine = math.cos(math.pi * step / (recipe.epochs * steps))
            optimiser.param_groups[0]["lr"] = recipe.lr * (1 + cosine) / 2
            loss = losses(net(images.contiguous(memory_format=torch.channels_last)), target, outputs)
            optimiser.zero_grad()
            loss.sum().backward()  # the sum: no student's gradient depends on its neighbours
            optimiser.step()
            curve[:, epoch] += loss.detach() / steps
    rows = torch.stack(_judged(net.eval(), *held_out), 1), curve
    numbers, curve = (row.double().cpu().numpy() for row in rows)
    state = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    return {"numbers": numbers, "curve": curve, "state": state if len(jobs) == 1 else {}}


@torch.no_grad()
def _judged(net: Students, *splits: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Accuracies in percent on each split, then cross-entropies: (G,) each."""
    made = [(torch.cat([net(part) for part in x.split(250)]), y) for x, y in splits]
    right = [100 * (z.argmax(-1) == y[:, None]).float().mean(0) for z, y in made]
    return right + [losses(z, F.one_hot(y, z.shape[-1])) for z, y in made]
