"""Six tasks of GLUE (Wang et al., 2019): readers, and the official metrics.

    train, dev = glue.read("CoLA", "train"), glue.read("CoLA", "dev")
    glue.score("CoLA", predictions, dev.labels)["CoLA"]         # Matthews correlation, in percent

QNLI comes with its labelled development set only; `read` cuts a training and a development part from it,
which share no question, so its numbers compare with no others.
"""

from __future__ import annotations

import tomllib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nbpkg import data
from nbpkg.data.text import read_lines
from nbpkg.errors import NbpkgError


@dataclass(frozen=True)
class TaskInfo:
    """How a task's files are laid out.

    columns: their names; header: the first line gives them. sentences, label: positions of the columns
    of one or two sentences and of the label. classes: what the labels are called, in the order of their
    numbers; None for a score from 0 to 5.
    """

    columns: list[str]
    sentences: list[int]
    label: int
    metrics: list[str]
    classes: list[str] | None = None
    header: bool = True


_LAYOUTS = tomllib.loads(Path(__file__).with_name("glue.toml").read_text(encoding="utf-8"))
TASKS = {name: TaskInfo(**layout) for name, layout in _LAYOUTS.items()}

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
    """A registered file of the task, in GLUE's tab-separated form, where quotation marks mean nothing."""
    layout = info(task)
    rows = [line.split("\t") for line in read_lines(path)][layout.header :]
    sentences = [tuple(parts[column].strip() for parts in rows) for column in layout.sentences]
    labels = [parts[layout.label].strip() for parts in rows]
    numbers = [layout.classes.index(label) if layout.classes else float(label) for label in labels]
    first, second = (*sentences, None)[:2]
    return Split(task, first, second, np.array(numbers, np.int64 if layout.classes else np.float64))


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
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    measure = {
        "accuracy": accuracy_score,
        "f1": lambda true, given: f1_score(true, given, zero_division=0.0),
        "matthews": matthews_corrcoef,
        "pearson": lambda true, given: pearsonr(true, given).statistic,
        "spearman": lambda true, given: spearmanr(true, given).statistic,
    }
    with warnings.catch_warnings(action="ignore"):  # of predictions that are constant
        found = {name: 100 * float(np.nan_to_num(measure[name](true, given))) for name in layout.metrics}
    return found | {task: sum(found.values()) / len(found)}


def constant(task: str, train: Split, dev: Split) -> float:
    """The score of what needs no sentence: the commonest class (the mean score) of the training set."""
    if info(task).classes is None:
        guess = float(np.mean(train.labels))
    else:
        guess = float(np.bincount(train.labels.astype(int)).argmax())
    return score(task, np.full(len(dev.first), guess), dev.labels)[task]
