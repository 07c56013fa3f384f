"""Tables of cells: what was written comes back exactly, whatever the file, and nothing half-read is used."""

import itertools
import pickle
import zipfile

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from nbpkg.errors import NbpkgError
from nbpkg.nb201 import space, table
from tests.public import needs

CELLS = space.random(5, seed=11)
STRINGS = space.decode(CELLS)
OWN = [40, 7, 15_624, 0, 3]


def columns(**changes):
    """A light table of five cells on the images called digits."""
    given = {
        "index": OWN,
        "arch": STRINGS,
        "digits_test_8": [91.25, 10.0, 88.5, 90.125, 99.0],
        "digits_valid_8": [90.0, 11.0, None, 89.0, 97.0],
        "params_m": [0.1, 0.2, 0.3, 0.4, 0.5],
        "train_seconds_digits": [1.5, 2.5, 3.5, 4.5, 5.5],
        "isomorphism": space.unique_string(CELLS),
        "note": ["a", "b", "c", "d", "e"],
    }
    return {name: values for name, values in (given | changes).items() if values is not None}


WRITERS = {".csv": (csv.write_csv, table.read_csv), ".parquet": (parquet.write_table, table.read_parquet)}


@pytest.fixture(params=sorted(WRITERS))
def light(request, tmp_path):
    """A function that writes columns as one kind of light table and reads them back."""
    write, read = WRITERS[request.param]

    def through(**changes):
        path = tmp_path / f"mine{request.param}"
        write(pa.table(columns(**changes)), path)
        return read(path)

    return through


# --- light tables


def test_a_light_table_comes_back_aligned_with_the_canonical_index(light):
    found = light()
    numbers = space.index(CELLS)
    assert found.n == 5 and found.rows.tolist() == sorted(numbers.tolist())
    np.testing.assert_array_equal(found.ops, CELLS[np.argsort(numbers)])
    assert found.splits() == [("digits", "test", 8), ("digits", "valid", 8)]
    test, valid = found.accuracy("digits", "test", 8), found.accuracy("Digits", "valid", epochs=8)
    assert test.shape == valid.shape == (15_625,)
    np.testing.assert_array_equal(test[numbers], columns()["digits_test_8"])
    np.testing.assert_array_equal(valid[numbers], [90.0, 11.0, np.nan, 89.0, 97.0])
    np.testing.assert_array_equal(found.params[numbers], columns()["params_m"])
    np.testing.assert_array_equal(found.seconds("digits")[numbers], columns()["train_seconds_digits"])
    elsewhere = np.setdiff1d(np.arange(15_625), numbers)
    assert np.isnan(test[elsewhere]).all() and (found.benchmark_index[elsewhere] == -1).all()
    with pytest.raises(ValueError, match="read-only"):
        test[0] = 1.0


def test_the_tables_own_numbers_translate_both_ways(light):
    found = light()
    numbers = space.index(CELLS)
    np.testing.assert_array_equal(found.benchmark_index[numbers], OWN)
    np.testing.assert_array_equal(found.canonical(OWN), numbers)
    assert found.canonical(15_624) == numbers[2] and isinstance(found.canonical(15_624), int)
    for wrong in (1, -1, 15_625, [40, 41], 1.0):
        with pytest.raises(NbpkgError, match=r"mine\.\w+"):
            found.canonical(wrong)


def test_without_a_column_of_numbers_the_row_is_the_number(light):
    assert light(index=None).benchmark_index[space.index(CELLS)].tolist() == [0, 1, 2, 3, 4]


def test_cells_are_found_by_string_and_by_operations(light):
    found = light()
    numbers = space.index(CELLS)
    np.testing.assert_array_equal(found.index_of(STRINGS), numbers)
    np.testing.assert_array_equal(found.index_of(CELLS), numbers)
    np.testing.assert_array_equal(found.index_of(np.array(STRINGS)), numbers)
    assert found.index_of(STRINGS[1]) == found.index_of(CELLS[1]) == numbers[1]
    absent = space.ops_of(next(i for i in range(15_625) if i not in numbers))
    with pytest.raises(NbpkgError) as caught:
        found.index_of(np.stack([CELLS[0], absent]))
    assert space.decode(absent) in str(caught.value)
    with pytest.raises(NbpkgError, match="no row"):
        found.index_of(space.decode(absent))


def test_what_a_table_does_not_have_is_answered_with_what_it_has(light):
    found = light()
    for asked in (("cifar10", "test", 8), ("digits", "train", 8), ("digits", "test", 200)):
        with pytest.raises(NbpkgError) as caught:
            found.accuracy(*asked)
        assert "it has: digits test 8, digits valid 8" in str(caught.value)
    with pytest.raises(NbpkgError, match="has no FLOPs; it has: params, seconds digits"):
        _ = found.flops
    with pytest.raises(NbpkgError, match="seconds digits"):
        found.seconds("cifar10")


BAD = {
    "a string that is no cell": ({"arch": [*STRINGS[:4], "|none~0|"]}, "architecture string 4"),
    "a cell twice": ({"arch": [*STRINGS[:4], STRINGS[0]], "isomorphism": None}, "row 4, number 3, "),
    "a number twice": ({"index": [0, 1, 2, 3, 1]}, "row 4, number 1, "),
    "a number too large": ({"index": [0, 1, 2, 3, 15_625]}, "from 0 to 15624"),
    "a negative number": ({"index": [0, 1, 2, 3, -1]}, "from 0 to 15624"),
    "a missing number": ({"index": [0, 1, 2, 3, None]}, "must be integers"),
    "numbers that are not whole": ({"index": [0, 1, 2, 3, 4.5]}, "column index is not int64"),
    "no cells": ({"arch": None}, "no column arch or ArchitectureString"),
    "nothing measured": ({"digits_test_8": None, "digits_valid_8": None}, "0 columns of accuracies"),
    "no rows": ({name: values[:0] for name, values in columns().items()}, "has 0 rows"),
    "more than 100 percent": ({"digits_test_8": [1, 2, 3, 4, 100.5]}, "digits test 8 is 100.5 in row 4"),
    "a negative accuracy": ({"digits_test_8": [1, 2, 3, -4, 5]}, "digits test 8 is -4.0 in row 3"),
    "infinity": ({"digits_test_8": [1, 2, float("inf"), 4, 5]}, "digits test 8 is inf in row 2"),
    "text for numbers": ({"digits_test_8": list("abcde")}, "column digits_test_8 is not float64"),
    "negative seconds": ({"train_seconds_digits": [1, 2, 3, 4, -5]}, "seconds digits is -5.0 in row 4"),
    "rows that have slipped": (
        {"isomorphism": [*space.unique_string(CELLS[1:]), "#"]},
        "in row 0 isomorphism string and cell do not agree",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_table_that_cannot_be_true_is_refused_with_its_name(light, case):
    changes, fault = BAD[case]
    if case == "no rows":
        changes = {name: pa.array(values, pa.array(columns()[name]).type) for name, values in changes.items()}
    with pytest.raises(NbpkgError) as caught:
        light(**changes)
    assert str(caught.value).startswith("mine.") and fault in str(caught.value)


def test_a_repeated_header_is_refused(tmp_path):
    path = tmp_path / "twice.csv"
    path.write_text(f"arch,a_test_1,a_test_1\n{STRINGS[0]},1,2\n")
    with pytest.raises(NbpkgError, match=r"twice\.csv: two columns have the same name"):
        table.read_csv(path)


@pytest.mark.parametrize("suffix", sorted(WRITERS))
def test_truncated_and_foreign_files_are_refused_with_their_name(tmp_path, suffix):
    write, read = WRITERS[suffix]
    path = tmp_path / f"cut{suffix}"
    write(pa.table(columns()), path)
    whole = path.read_bytes()
    contents = [b"", b"\x00" * 100, b"\xff\xfe\x00garbage,\xff\n\xff,1\n", whole[: len(whole) // 2]]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(NbpkgError, match=rf"cut\{suffix}"):
            read(path)
    with pytest.raises(NbpkgError, match="absent"):
        read(tmp_path / f"absent{suffix}")


def test_a_parquet_file_longer_than_the_space_is_refused_unread(tmp_path):
    path = tmp_path / "long.parquet"
    parquet.write_table(pa.table({"arch": ["x"] * 15_626}), path)
    with pytest.raises(NbpkgError, match=r"long\.parquet: has 15626 rows"):
        table.read_parquet(path)


def test_load_takes_paths_by_their_ending_and_refuses_what_it_does_not_know(tmp_path):
    for suffix, (write, _) in WRITERS.items():
        path = tmp_path / f"own{suffix}"
        write(pa.table(columns()), path)
        assert table.load(path).n == table.load(str(path)).n == 5
    for name, fault in (("table.txt", r"ends in \.csv"), ("nowhere/mine.pth", "no such file")):
        with pytest.raises(NbpkgError, match=fault):
            table.load(name)


def test_load_without_data_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("NBPKG_DATA", str(tmp_path))
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path))
    with pytest.raises(NbpkgError, match="nbpkg data fetch nats-bench-landscape"):
        table.load()


def test_dataset_names():
    names = ["CIFAR10", "cifar-100", "ImageNet16-120", "imagenet16_120", "ImageNet", "imagenet16", "digits"]
    expected = ["cifar10", "cifar100", *["imagenet16"] * 4, "digits"]
    assert [table.dataset_name(name) for name in names] == expected


# --- the official file

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
    found = table.load(path)
    numbers = space.index(CELLS[:3])
    assert found.n == 3 and found.benchmark_index[numbers].tolist() == [0, 1, 2]
    assert found.splits() == sorted((*key, epochs) for key in WHERE for epochs in (12, 200))
    for (dataset, split), (run, name) in WHERE.items():
        for epochs in (12, 200):
            values = found.accuracy(dataset, split, epochs)
            expected = [truth[number, run, name, epochs] for number in range(3)]
            assert values[numbers].tolist() == expected, "the mean over seeds, not one of them at random"
            assert np.isnan(values).sum() == 15_622
    np.testing.assert_allclose(found.params[numbers], [0.1, 0.2, 0.3])
    np.testing.assert_allclose(found.flops[numbers], [15.5, 16.5, 17.5])
    np.testing.assert_allclose(found.seconds("cifar100")[numbers], [100, 300, 500])


def test_only_what_was_evaluated_is_read_from_a_partial_file(saved):
    content, truth = official(np.random.default_rng(1), datasets=("cifar10-valid",))
    found = table.read_official(saved(content))
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
    with pytest.raises(NbpkgError, match=r"official\.pth: is no plain data file"):
        table.read_official(path)
    assert not mark.exists()
    path.write_bytes(pickle.dumps(Harmful(mark), protocol=2))
    with pytest.raises(NbpkgError, match=r"official\.pth"):
        table.read_official(path)
    assert not mark.exists()


def test_truncated_and_foreign_official_files_are_refused(saved, tmp_path):
    content, _ = official(np.random.default_rng(3), n=1, evaluated=(0,))
    path = saved(content)
    whole = path.read_bytes()
    for kept in (0, 10, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:kept])
        with pytest.raises(NbpkgError, match=r"official\.pth"):
            table.read_official(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "not torch")
    with pytest.raises(NbpkgError, match=r"official\.pth"):
        table.read_official(path)
    with pytest.raises(NbpkgError, match="no such file"):
        table.read_official(tmp_path / "absent.pth")


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
        table.read_official(path)
    assert str(caught.value).startswith("official.pth: ")


# --- the public tables

OPTIMA = {"cifar10": (94.3733, 6111), "cifar100": (73.5133, 9930), "imagenet16": (47.3111, 857)}


@needs("nats-bench-landscape")
def test_optima_of_the_landscape_table():
    found = table.load("nb201/nats_bench.csv")
    assert found.n == 15_625 and found.splits() == [(name, "test", 200) for name in sorted(OPTIMA)]
    for dataset, (best, number) in OPTIMA.items():
        values = found.accuracy(dataset, "test")
        assert abs(values.max() - best) < 1e-4
        assert values[found.canonical(number)] == values.max()
    # A list in the benchmark's order, re-ordered, meets the cells it was measured on.
    np.testing.assert_array_equal(np.arange(15_625)[found.benchmark_index], found.benchmark_index)
    np.testing.assert_array_equal(found.canonical(found.benchmark_index), np.arange(15_625))


@needs("nats-bench-landscape", "nb201-joined")
def test_the_joined_table_agrees_with_the_landscape_table_and_is_the_default():
    joined, landscape = table.load(), table.load("nb201/nats_bench.csv")
    assert joined.name == "nb201.parquet" and len(joined.splits()) == 12
    np.testing.assert_array_equal(joined.benchmark_index, landscape.benchmark_index)
    for dataset in OPTIMA:
        difference = joined.accuracy(dataset, "test") - landscape.accuracy(dataset, "test")
        assert np.abs(difference).max() < 1e-6
        for split, epochs in itertools.product(("test", "valid"), (12, 200)):
            assert np.isfinite(joined.accuracy(dataset, split, epochs)).all()
        assert (joined.seconds(dataset) > 0).all()
    # A 3x3 convolution in a place of a 1x1 one makes a network larger and slower, whatever the cell.
    cells = space.all_ops()
    thin = (cells == 2).any(axis=1)
    thick = space.index(np.where(cells[thin] == 2, 3, cells[thin]))
    for cost in (joined.params, joined.flops):
        assert (cost > 0).all() and (cost[thick] > cost[thin]).all()
