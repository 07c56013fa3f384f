"""Light tables of cells: what was written comes back exactly, and what cannot be true is refused."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from nbpkg.data import nb201
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


WRITERS = {".csv": (csv.write_csv, table.read), ".parquet": (parquet.write_table, table.read)}


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
    assert len(found.rows) == 5 and found.rows.tolist() == sorted(numbers.tolist())
    assert found.splits() == [("digits", "test", 8), ("digits", "valid", 8)]
    test, valid = found.accuracy("digits", "test", 8), found.accuracy("Digits", "valid", epochs=8)
    assert test.shape == valid.shape == (15_625,)
    np.testing.assert_array_equal(test[numbers], columns()["digits_test_8"])
    np.testing.assert_array_equal(valid[numbers], [90.0, 11.0, np.nan, 89.0, 97.0])
    elsewhere = np.setdiff1d(np.arange(15_625), numbers)
    assert np.isnan(test[elsewhere]).all() and (found.benchmark_index[elsewhere] == -1).all()
    with pytest.raises(ValueError, match="read-only"):
        test[0] = 1.0


def test_the_tables_own_numbers_are_kept(light):
    np.testing.assert_array_equal(light().benchmark_index[space.index(CELLS)], OWN)


def test_without_a_column_of_numbers_the_row_is_the_number(light):
    assert light(index=None).benchmark_index[space.index(CELLS)].tolist() == [0, 1, 2, 3, 4]


def test_what_a_table_does_not_have_is_answered_with_what_it_has(light):
    found = light()
    for asked in (("cifar10", "test", 8), ("digits", "train", 8), ("digits", "test", 200)):
        with pytest.raises(NbpkgError) as caught:
            found.accuracy(*asked)
        assert "it has: digits test 8, digits valid 8" in str(caught.value)


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


def test_a_saved_table_is_the_same_table(light, tmp_path):
    found = light()
    found.save(tmp_path / "saved.parquet")
    again = nb201.load(tmp_path / "saved.parquet")
    assert [path.name for path in tmp_path.glob("saved*")] == ["saved.parquet"]
    np.testing.assert_array_equal(again.benchmark_index, found.benchmark_index)
    assert again.splits() == found.splits()
    for key in found.splits():
        np.testing.assert_array_equal(again.accuracy(*key), found.accuracy(*key))


def test_a_repeated_header_is_refused(tmp_path):
    path = tmp_path / "twice.csv"
    path.write_text(f"arch,a_test_1,a_test_1\n{STRINGS[0]},1,2\n")
    with pytest.raises(NbpkgError, match=r"twice\.csv: two columns have the same name"):
        table.read(path)


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
        table.read(path)


def test_load_takes_paths_by_their_ending_and_refuses_what_it_does_not_know(tmp_path):
    for suffix, (write, _) in WRITERS.items():
        path = tmp_path / f"own{suffix}"
        write(pa.table(columns()), path)
        assert len(nb201.load(path).rows) == len(nb201.load(str(path)).rows) == 5
    (tmp_path / "table.txt").write_text("arch\n")
    for name, fault in ((tmp_path / "table.txt", r"ends in \.csv"), ("nowhere/mine.pth", "no such file")):
        with pytest.raises(NbpkgError, match=fault):
            nb201.load(name)


def test_load_without_data_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("NBPKG_DATA", str(tmp_path))
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path))
    with pytest.raises(NbpkgError, match="nbpkg data fetch nats-bench-landscape"):
        nb201.load()


def test_dataset_names():
    names = ["CIFAR10", "cifar-100", "ImageNet16-120", "imagenet16_120", "ImageNet", "imagenet16", "digits"]
    expected = ["cifar10", "cifar100", *["imagenet16"] * 4, "digits"]
    assert [table.dataset_name(name) for name in names] == expected


# --- the public tables

OPTIMA = {"cifar10": (94.3733, 6111), "cifar100": (73.5133, 9930), "imagenet16": (47.3111, 857)}


@needs("nats-bench-landscape")
def test_optima_of_the_landscape_table():
    found = nb201.load("nb201/nats_bench.csv")
    assert len(found.rows) == 15_625 and found.splits() == [(name, "test", 200) for name in sorted(OPTIMA)]
    for dataset, (best, number) in OPTIMA.items():
        values = found.accuracy(dataset, "test")
        assert abs(values.max() - best) < 1e-4
        assert values[found.benchmark_index == number] == [values.max()]
    # A list in the benchmark's order, re-ordered, meets the cells it was measured on.
    np.testing.assert_array_equal(np.arange(15_625)[found.benchmark_index], found.benchmark_index)


@needs("nats-bench-landscape", "nb201-joined")
def test_the_joined_table_agrees_with_the_landscape_table_and_is_the_default():
    joined, landscape = nb201.load(), nb201.load("nb201/nats_bench.csv")
    assert joined.name == "nb201.parquet" and len(joined.splits()) == 12
    np.testing.assert_array_equal(joined.benchmark_index, landscape.benchmark_index)
    for dataset in OPTIMA:
        difference = joined.accuracy(dataset, "test") - landscape.accuracy(dataset, "test")
        assert np.abs(difference).max() < 1e-6
        for split, epochs in itertools.product(("test", "valid"), (12, 200)):
            assert np.isfinite(joined.accuracy(dataset, split, epochs)).all()
