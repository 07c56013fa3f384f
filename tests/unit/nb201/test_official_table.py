"""The official benchmark file: exact values, parts of it, and files that are damaged or meant to harm.

The file is made here with the official package's own classes; the real one has the same form.
"""

import itertools
import pickle
import zipfile

import numpy as np
import pytest

from nbpkg.data import nb201
from nbpkg.errors import NbpkgError
from nbpkg.nb201 import space, table

CELLS = space.random(3, seed=11)
STRINGS = space.decode(CELLS)
OFFICIAL = ("cifar10-valid", "cifar10", "cifar100", "ImageNet16-120")
EVALS = {
    "cifar10-valid": ("x-valid", "ori-test"),
    "cifar10": ("ori-test",),
    "cifar100": ("x-valid", "x-test", "ori-test"),
    "ImageNet16-120": ("x-valid", "x-test", "ori-test"),
}
WHERE = {
    ("cifar10", "valid"): ("cifar10-valid", "x-valid"),
    ("cifar10", "test"): ("cifar10", "ori-test"),
    ("cifar100", "valid"): ("cifar100", "x-valid"),
    ("cifar100", "test"): ("cifar100", "x-test"),
    ("imagenet16", "valid"): ("ImageNet16-120", "x-valid"),
    ("imagenet16", "test"): ("ImageNet16-120", "x-test"),
}
SEEDS = (777, 888, 999)


def official(generator, datasets=OFFICIAL, evaluated=(2, 0), n=3):
    """A file of ``n`` architectures as its authors write it, and the mean accuracies of its last epochs."""
    from nas_201_api.api_utils import ArchResults, ResultsCount

    truth, infos = {}, {}
    for number, string in enumerate(STRINGS[:n]):
        infos[number] = {}
        for kind, epochs in (("less", 12), ("full", 200)):
            result = ArchResults(number, string)
            for dataset, seed in itertools.product(datasets, SEEDS[: 1 + number]):
                train = {i: float(generator.uniform(1, 99)) for i in range(epochs)}
                # numpy numbers, as the real file has them
                run = ResultsCount(
                    dataset, {"weight": None}, train, train, 0.1 * (number + 1), np.float64(15.5 + number),
                    {"arch_str": string, "channel": 16, "num_cells": 5, "class_num": 10}, seed, epochs, None,
                )  # fmt: skip
                run.update_train_info(train, train, train, {i: 0.5 + number for i in range(epochs)})
                keys = [f"{name}@{i}" for name in EVALS[dataset] for i in range(epochs)]
                values = {key: generator.uniform(1, 99) for key in keys}
                values = {key: np.float64(value) for key, value in values.items()}
                run.update_eval(values, values, dict.fromkeys(keys, 0.25))
                result.update(dataset, seed, run)
                for name in EVALS[dataset]:
                    last = values[f"{name}@{epochs - 1}"]
                    truth.setdefault((number, dataset, name, epochs), []).append(last)
            infos[number][kind] = result.state_dict()
    content = {"meta_archs": STRINGS[:n], "arch2infos": infos, "evaluated_indexes": list(evaluated)}
    return content, {key: np.mean(values) for key, values in truth.items()}


@pytest.fixture
def saved(tmp_path):
    """A function that saves an object as a torch file and returns its path."""
    import torch

    def save(content, name="official.pth"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save


def test_every_accuracy_of_the_official_file_comes_back_exactly(saved):
    content, truth = official(np.random.default_rng(0), evaluated=(0, 1, 2))
    path = saved(content)
    assert path.stat().st_size < 4_000_000
    found = nb201.load(path)
    numbers = space.index(CELLS[:3])
    assert len(found.rows) == 3 and found.benchmark_index[numbers].tolist() == [0, 1, 2]
    assert found.splits() == sorted((*key, epochs) for key in WHERE for epochs in (12, 200))
    for (dataset, split), (run, name) in WHERE.items():
        for epochs in (12, 200):
            values = found.accuracy(dataset, split, epochs)
            expected = [truth[number, run, name, epochs] for number in range(3)]
            assert values[numbers].tolist() == expected, "the mean over seeds, not one of them at random"
            assert np.isnan(values).sum() == 15_622


def test_only_what_was_evaluated_is_read_from_a_partial_file(saved):
    content, truth = official(np.random.default_rng(1), datasets=("cifar10-valid",))
    found = table.read(saved(content))
    assert found.rows.tolist() == sorted(space.index(CELLS[[0, 2]]))
    assert found.splits() == [("cifar10", "valid", 12), ("cifar10", "valid", 200)]
    values = found.accuracy("cifar10", "valid")[space.index(CELLS[:3])]
    np.testing.assert_array_equal(values[[0, 2]], [truth[i, "cifar10-valid", "x-valid", 200] for i in (0, 2)])
    assert np.isnan(values[1])
    with pytest.raises(NbpkgError, match="it has: cifar10 valid 12, cifar10 valid 200"):
        found.accuracy("cifar100", "test")


class Harmful:
    """Would leave a mark if the file were unpickled without restraint."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def test_a_file_that_would_run_code_is_refused_and_runs_none(saved, tmp_path, monkeypatch):
    content, _ = official(np.random.default_rng(2), datasets=("cifar10",), n=1, evaluated=(0,))
    mark = tmp_path / "mark"
    path = saved(content | {"extra": Harmful(mark)})
    # The restraint must not hang on torch's default, which this variable lifts.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(NbpkgError, match=r"official\.pth: .*would have to run code"):
        table.read(path)
    assert not mark.exists()
    path.write_bytes(pickle.dumps(Harmful(mark), protocol=2))
    with pytest.raises(NbpkgError, match=r"official\.pth"):
        table.read(path)
    assert not mark.exists()


def test_truncated_and_foreign_official_files_are_refused(saved, tmp_path):
    content, _ = official(np.random.default_rng(3), n=1, evaluated=(0,))
    path = saved(content)
    whole = path.read_bytes()
    for kept in (0, 10, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:kept])
        with pytest.raises(NbpkgError, match=r"official\.pth"):
            table.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "not torch")
    with pytest.raises(NbpkgError, match=r"official\.pth"):
        table.read(path)
    with pytest.raises(NbpkgError, match="no such file"):
        table.read(tmp_path / "absent.pth")


def broken(change):
    content, _ = official(np.random.default_rng(4), datasets=("cifar10",), n=2, evaluated=(0, 1))
    change(content)
    return content


def in_first(content):
    return content["arch2infos"][0]["full"]


SPOILT = {
    "a list": lambda: [1, 2, 3],
    "no results": lambda: broken(lambda c: c.pop("arch2infos")),
    "an index beyond the list": lambda: broken(lambda c: c["evaluated_indexes"].append(9)),
    "an index that is text": lambda: broken(lambda c: c["evaluated_indexes"].append("0")),
    "results lacking": lambda: broken(lambda c: c["arch2infos"].pop(1)),
    "one training lacking": lambda: broken(lambda c: c["arch2infos"][1].pop("less")),
    "a string that is no cell": lambda: broken(lambda c: c["meta_archs"].__setitem__(0, "|none~0|")),
    "a cell twice": lambda: broken(lambda c: c["meta_archs"].__setitem__(0, STRINGS[1])),
    "nothing evaluated": lambda: broken(lambda c: c["evaluated_indexes"].clear()),
    "runs lacking": lambda: broken(lambda c: in_first(c)["all_results"].clear()),
    "methods replaced": lambda: broken(lambda c: in_first(c).update(get_metrics="text")),
    "accuracy out of range": lambda: broken(
        lambda c: in_first(c)["all_results"]["cifar10", 777]["eval_acc1es"].update({"ori-test@199": 1e6})
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_an_official_file_with_a_foreign_structure_is_refused(saved, case):
    path = saved(SPOILT[case]())
    with pytest.raises(NbpkgError) as caught:
        table.read(path)
    assert str(caught.value).startswith("official.pth: ")
