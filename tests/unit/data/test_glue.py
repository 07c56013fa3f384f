"""GLUE: files are read as they stand, metrics agree with scikit-learn and SciPy."""

import numpy as np
import pytest
from public import needs
from scipy import stats
from sklearn import metrics

from nbpkg.data import glue
from nbpkg.errors import NbpkgError

LINES = {
    "CoLA": ["gj04\t1\t\tIt's fine.", 'gj04\t0\t*\t"Is fine it.'],
    "SST-2": ["sentence\tlabel", "good \t1", "bad\t0"],
    "MRPC": ["\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", '1\t5\t6\t" A\tB "', "0\t5\t6\tA\tC"],
    "RTE": ["index\tsentence1\tsentence2\tlabel", "0\tA\tB\tnot_entailment", "1\tA\tA\tentailment"],
    "QNLI": ["index\tquestion\tsentence\tlabel", "0\tA?\tB\tnot_entailment", "1\tA?\tA\tentailment"],
    "STS-B": ["\t".join(glue.TASKS["STS-B"].columns), "0\t" * 7 + "A\tB\t2.5", "1\t" * 7 + "C\tD\t0"],
}


def write(tmp_path, lines):
    path = tmp_path / "part.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("task", glue.TASKS)
def test_a_file_is_read_as_it_stands(tmp_path, task):
    split = glue.read_tsv(write(tmp_path, LINES[task]), task)
    assert len(split.first) == 2 and split.task == task
    assert split.labels.tolist() == {"STS-B": [2.5, 0], "MRPC": [1, 0], "CoLA": [1, 0]}.get(task, [1, 0])
    assert (split.second is None) == (task in ("CoLA", "SST-2"))
    if task == "CoLA":
        assert split.first == ("It's fine.", '"Is fine it.')
    if task == "MRPC":
        assert (split.first, split.second) == (('" A', "A"), ('B "', "C"))
    assert split.take([1]).first == split.first[1:] and split.take([1]).labels.tolist() == [0]


def test_scores_are_the_libraries_own():
    rng = np.random.default_rng(0)
    given, true = rng.integers(0, 2, 200), rng.integers(0, 2, 200)
    a, b = rng.random(200).round(1), rng.random(200).round(1)
    accuracy = 100 * metrics.accuracy_score(true, given)
    assert glue.score("RTE", given, true) == pytest.approx({"accuracy": accuracy, "RTE": accuracy})
    f1 = 100 * metrics.f1_score(true, given)
    expected = {"accuracy": accuracy, "f1": f1, "MRPC": (accuracy + f1) / 2}
    assert glue.score("MRPC", given, true) == pytest.approx(expected)
    matthews = 100 * metrics.matthews_corrcoef(true, given)
    assert glue.score("CoLA", given, true)["CoLA"] == pytest.approx(matthews)
    pearson, spearman = 100 * stats.pearsonr(a, b)[0], 100 * stats.spearmanr(a, b)[0]
    expected = {"pearson": pearson, "spearman": spearman, "STS-B": (pearson + spearman) / 2}
    assert glue.score("STS-B", a, b) == pytest.approx(expected)


def test_constant_predictions_score_what_they_are_worth():
    assert glue.score("CoLA", [1, 1, 1], [0, 1, 1])["CoLA"] == 0
    assert glue.score("STS-B", [2.5, 2.5], [0, 5])["STS-B"] == 0
    assert glue.score("MRPC", [0, 0], [1, 0])["f1"] == 0
    train = glue.Split("RTE", ("a",) * 3, ("b",) * 3, np.array([1, 1, 0]))
    assert glue.constant("RTE", train, train.take([0, 2])) == 50


def test_what_makes_no_score_is_refused():
    for task, given, true in (
        ("WNLI", [1], [1]),
        ("RTE", [1], [1, 0]),
        ("RTE", [], []),
        ("RTE", [np.nan], [1]),
    ):
        with pytest.raises(NbpkgError, match=task):
            glue.score(task, given, true)
    with pytest.raises(NbpkgError, match="no split"):
        glue.read("RTE", "test")


@needs("text-glue")
def test_the_real_files_have_their_sizes():
    sizes = {"CoLA": (8_551, 1_043), "SST-2": (67_349, 872), "MRPC": (3_668, 408), "RTE": (2_490, 277)}
    for task, expected in sizes.items():
        assert tuple(len(glue.read(task, split).first) for split in ("train", "dev")) == expected
    train, dev = glue.read("QNLI", "train"), glue.read("QNLI", "dev")
    assert len(train) + len(dev) == 5_463 and not set(train.first) & set(dev.first)
