"""Six tasks of GLUE (Wang et al., 2019): checked readers, and the official metrics.

    train, dev = glue.read("CoLA", "train"), glue.read("CoLA", "dev")
    glue.score("CoLA", predictions, dev.labels)["CoLA"]         # Matthews correlation, in percent

QNLI comes with its labelled development set only; `read` cuts a training and a development part from it,
which share no question, so its numbers compare with no others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nbpkg import data
from nbpkg.data.text import read_lines
from nbpkg.errors import NbpkgError
from nbpkg.untrusted import refuse


@dataclass(frozen=True)
class TaskInfo:
    """How a task's files are laid out.

    columns: number of columns of every line; header: the first line names them. first, second: the positions
    of the sentences (second: None for single sentences); label: that of the label. classes: what the labels
    are called, in the order of their numbers; None for a score from 0 to 5.
    """

    columns: int
    header: tuple[str, ...] | None
    first: int
    second: int | None
    label: int
    classes: tuple[str, ...] | None
    metrics: tuple[str, ...]


_YES = ("entailment", "not_entailment")
_STSB = (
    "index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2", "score"
)  # fmt: skip

TASKS = {
    "CoLA": TaskInfo(4, None, 3, None, 1, ("0", "1"), ("matthews",)),
    "SST-2": TaskInfo(2, ("sentence", "label"), 0, None, 1, ("0", "1"), ("accuracy",)),
    "MRPC": TaskInfo(
        5, ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"), 3, 4, 0, ("0", "1"), ("accuracy", "f1")
    ),
    "RTE": TaskInfo(4, ("index", "sentence1", "sentence2", "label"), 1, 2, 3, _YES, ("accuracy",)),
    "STS-B": TaskInfo(10, _STSB, 7, 8, 9, None, ("pearson", "spearman")),
    "QNLI": TaskInfo(4, ("index", "question", "sentence", "label"), 1, 2, 3, _YES, ("accuracy",)),
}

#: Share of QNLI's questions that `read("QNLI", "dev")` keeps.
QNLI_DEV = 0.25


@dataclass(frozen=True)
class Split:
    """Labelled sentences or pairs of a task.

    first, second: the sentences (second: None for tasks of single ones). labels: int64 (n,) class numbers,
    or float64 (n,) scores from 0 to 5.
    """

    task: str
    first: tuple[str, ...]
    second: tuple[str, ...] | None
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def take(self, rows: Sequence[int] | np.ndarray) -> Split:
        """The examples at the given positions, in that order."""
        picked = [int(row) for row in rows]
        second = None if self.second is None else tuple(self.second[row] for row in picked)
        return Split(self.task, tuple(self.first[row] for row in picked), second, self.labels[picked])


def info(task: str) -> TaskInfo:
    """The layout of the task; NbpkgError listing the known tasks otherwise."""
    if task not in TASKS:
        raise NbpkgError(f"no GLUE task is called {task!r}; known: {', '.join(TASKS)}")
    return TASKS[task]


def read_tsv(path: str | Path, task: str) -> Split:
    """A file of the task, in GLUE's tab-separated form, where quotation marks mean nothing.

    Raises NbpkgError naming file and line for a wrong header, an empty line, a wrong number of columns, an
    empty sentence, and a label that the task does not have.
    """
    layout = info(task)
    lines = read_lines(path)
    start = 0
    if layout.header is not None:
        start = 1
        found = tuple(lines[0].split("\t"))
        if found != layout.header:
            due = ", ".join(layout.header)
            refuse(path, f"its columns are {', '.join(found)[:80]!r} where {due!r} are due")
    if len(lines) == start:
        refuse(path, "holds no examples")
    first, second, labels = [], [], []
    for number, line in enumerate(lines[start:], start=start + 1):
        if not line.strip():
            refuse(path, f"line {number} is empty")
        parts = line.split("\t")
        if len(parts) != layout.columns:
            refuse(path, f"line {number} has {len(parts)} columns where {layout.columns} are due")
        sentences = [parts[i].strip() for i in (layout.first, layout.second) if i is not None]
        if not all(sentences):
            refuse(path, f"line {number} has an empty sentence")
        first.append(sentences[0])
        second.append(sentences[-1])
        labels.append(_label(path, number, parts[layout.label].strip(), layout.classes))
    dtype = np.float64 if layout.classes is None else np.int64
    pairs = None if layout.second is None else tuple(second)
    return Split(task, tuple(first), pairs, np.array(labels, dtype))


def _label(path, number: int, text: str, classes: tuple[str, ...] | None) -> float:
    if classes is not None:
        if text not in classes:
            refuse(path, f"line {number} has the label {text[:20]!r}, which is none of {', '.join(classes)}")
        return classes.index(text)
    try:
        value = float(text)
    except ValueError as error:
        refuse(path, f"line {number} has the score {text[:20]!r}, which is no number", error)
    if not 0 <= value <= 5:  # nan included
        refuse(path, f"line {number} has the score {text[:20]}, outside 0 to 5")
    return value


def read(task: str, split: str = "train") -> Split:
    """The task's "train" or "dev" set (QNLI: parts of its development set).

    Raises NbpkgError for another name and when the files are absent (the message says how to get them).
    """
    info(task)
    if split not in ("train", "dev"):
        raise NbpkgError(f"GLUE's {task} has no split {split!r} here; take 'train' or 'dev'")
    if task != "QNLI":
        return read_tsv(data.path(f"text/glue/{task}/{split}.tsv"), task)
    whole = read_tsv(data.path("text/glue/QNLI/dev.tsv"), task)
    questions = sorted(set(whole.first))
    kept = np.random.default_rng(0).permutation(len(questions))[: int(QNLI_DEV * len(questions))]
    dev = {questions[i] for i in kept}
    return whole.take([i for i, q in enumerate(whole.first) if (q in dev) == (split == "dev")])


def score(task: str, predictions: Sequence[float], labels: Sequence[float]) -> dict[str, float]:
    """The task's official metrics in percent, and under the task's name their mean, which GLUE averages.

    predictions, labels: class numbers, or scores for STS-B; (n,) each. CoLA: Matthews correlation; MRPC:
    accuracy and F1 of class 1; STS-B: Pearson and Spearman correlation; otherwise accuracy. Where a
    correlation is undefined (constant predictions), it is 0. Raises NbpkgError for lengths that differ, no
    examples and values that are not finite.
    """
    layout = info(task)
    given, true = np.asarray(predictions, float), np.asarray(labels, float)
    if given.shape != true.shape or given.ndim != 1 or not len(true):
        raise NbpkgError(f"{task}: predictions {given.shape} and labels {true.shape} make no score")
    if not (np.isfinite(given).all() and np.isfinite(true).all()):
        raise NbpkgError(f"{task}: predictions and labels must be finite")
    found = {metric: 100 * _METRICS[metric](given, true) for metric in layout.metrics}
    return found | {task: sum(found.values()) / len(found)}


def constant(task: str, train: Split, dev: Split) -> float:
    """The score of what needs no sentence: the commonest class (the mean score) of the training set."""
    if info(task).classes is None:
        guess = float(np.mean(train.labels))
    else:
        guess = float(np.bincount(train.labels.astype(int)).argmax())
    return score(task, np.full(len(dev), guess), dev.labels)[task]


def _accuracy(given: np.ndarray, true: np.ndarray) -> float:
    return float((given == true).mean())


def _f1(given: np.ndarray, true: np.ndarray) -> float:
    both = ((given == 1) & (true == 1)).sum()
    total = (given == 1).sum() + (true == 1).sum()
    return float(2 * both / total) if total else 0.0


def _correlation(given: np.ndarray, true: np.ndarray) -> float:
    """Pearson's; for two classes, numbered 0 and 1, it is Matthews'."""
    a, b = given - given.mean(), true - true.mean()
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / size if size > 1e-12 else 0.0


def _spearman(given: np.ndarray, true: np.ndarray) -> float:
    from scipy.stats import rankdata

    return _correlation(rankdata(given), rankdata(true))


_METRICS = {
    "accuracy": _accuracy, "f1": _f1, "matthews": _correlation, "pearson": _correlation, "spearman": _spearman
}  # fmt: skip
