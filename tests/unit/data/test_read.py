"""Readers of foreign files: what is right comes through unchanged, anything else is refused by name."""

import contextlib
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from public import needs

from nbpkg import data
from nbpkg.data import read
from nbpkg.errors import NbpkgError


@pytest.fixture
def saved(tmp_path):
    def save(thing, name="thing.pt"):
        torch.save(thing, tmp_path / name)
        return tmp_path / name

    return save


def refused(reader, path, *words, **options):
    with pytest.raises(NbpkgError) as caught:
        reader(path, **options)
    message = str(caught.value)
    assert path.name in message and "\n" not in message and "refused" in message
    for word in words:
        assert word in message


def latencies(path, length):
    return read.read_numbers(path, (length,), *read.LATENCY)


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("plain", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path, saved, plain):
    marker = tmp_path / "ran"
    if plain:
        path = tmp_path / "hostile.pt"
        path.write_bytes(pickle.dumps([Hostile(marker)], protocol=2))
    else:
        path = saved([1.0, Hostile(marker)], "hostile.pt")
    for reader in (read.read_torch, read.read_arch_index):
        refused(reader, path, "run code")
    refused(latencies, path, "run code", length=2)
    with pytest.raises(NbpkgError):
        read.read_torch(path, numpy_scalars=True)
    assert not marker.exists()
    # The file is a weapon indeed: an unrestricted reader sets it off.
    with contextlib.suppress(RuntimeError):
        torch.load(path, weights_only=False)
    assert marker.exists()


def test_a_file_truncated_anywhere_is_refused(tmp_path, saved):
    whole = saved([float(i) for i in range(1, 200)]).read_bytes()
    path = tmp_path / "short.pt"
    for keep in [0, 1, 4, 100, len(whole) // 2, len(whole) - 30, len(whole) - 1]:
        path.write_bytes(whole[:keep])
        refused(latencies, path, length=199)


def test_text_or_a_missing_file_is_refused(tmp_path):
    path = tmp_path / "page.pt"
    refused(latencies, path, "no such file", length=3)
    path.write_text("<html>404: Not Found</html>")
    refused(latencies, path, length=199)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2 << 20))
    assert path.stat().st_size < 10_000
    refused(read.read_torch, path, "unpacks to 2,097,152 bytes", limit=1 << 20)


def test_a_list_of_integers_and_floats_comes_as_float64(saved):
    values = latencies(saved([1, 2.5, 3]), 3)
    assert values.dtype == np.float64 and values.tolist() == [1, 2.5, 3]


@pytest.mark.parametrize(
    ("thing", "word"),
    [
        ([1.0, 2.0], "2 values where 3"),
        ([1.0, 2.0, float("nan")], "nan (position 2)"),
        ([1.0, float("inf"), 3.0], "inf (position 1), outside"),
        ([1.0, 0.0, 3.0], "0.0 (position 1)"),
        ([1.0, -2.0, 3.0], "-2.0 (position 1)"),
        ([1.0, True, 3.0], "bool"),
        ([1.0, "2", 3.0], "str"),
        ([1.0, [2.0], 3.0], "list"),
        ([1, 10**400, 3], "too large"),
        ((1.0, 2.0, 3.0), "tuple"),
        ({"a": 1.0}, "dict"),
        (torch.ones(3), "Tensor"),
    ],
)
def test_a_list_that_is_not_what_it_should_be_is_refused(saved, thing, word):
    refused(latencies, saved(thing), word, length=3)


def test_rows_have_one_shape_and_bounds(saved):
    rows = read.read_numbers(saved([[0, 1], [2, 3], [8, 0]]), (3, 2), 0, 8)
    assert rows.dtype == np.int64 and rows.tolist() == [[0, 1], [2, 3], [8, 0]]
    refused(read.read_numbers, saved([4, 0, 4]), "twice", shape=(3,), low=0, high=4, distinct=True)
    for thing, word in (
        ([[0, 1], [2]], "1 values where 2"),
        ([[0, 1]], "1 values where 2"),
        ([[0, 1], [0, 9]], "holds 9 (position 3), outside 0 to 8"),
        ([[0, 1], [0, -1]], "outside"),
        ([[0, 1], [0, 1.5]], "float"),
        ([[0, 1], [0, 2**70]], "too large"),
        ([], "0 values where 2"),
        ([1, 2], "int where a list"),
    ):
        refused(read.read_numbers, saved(thing), word, shape=(2, 2), low=0, high=8)


def test_numpy_scalars_only_on_request(saved):
    path = saved({"r": np.int64(204)})
    refused(read.read_torch, path, "run code")
    assert read.read_torch(path, numpy_scalars=True) == {"r": 204}
    refused(read.read_torch, path, "run code")


def test_arch_index_is_one_to_one(saved):
    assert read.read_arch_index(saved({"|a|": 1, "|b|": 0}), length=2) == {"|a|": 1, "|b|": 0}
    for wrong in ({"|a|": 1, "|b|": 1}, {"|a|": 1, "|b|": 2}, {"|a|": 0}, {"|a|": 0, "|b|": "1"}):
        refused(read.read_arch_index, saved(wrong), length=2)
    refused(read.read_arch_index, saved({1: 0, 2: 1}), "text keys", length=2)


def test_metad2a_lines_are_parsed_and_checked(tmp_path):
    path = tmp_path / "generated.txt"
    path.write_text("1.5\n|a|+|b|, 70.5, 0.25\n|c|, 60, -1e-3\n")
    seconds, strings, accuracy, score = read.read_metad2a(path)
    assert (seconds, strings) == (1.5, ("|a|+|b|", "|c|"))
    assert accuracy.tolist() == [70.5, 60] and score.tolist() == [0.25, -0.001]
    for text, word in {
        "1.5\n|a|, 70.5\n": "line 2",
        "1.5\n|a|, 70.5, x\n": "line 2",
        "1.5\n|a|, nan, 0.1\n": "line 2",
        "1.5, 2\n|a|, 70, 0.1\n": "line 1",
        "1.5\n|a|, 101, 0.1\n": "line 2 is not '|cell|, accuracy from 0 to 100",
        "1.5\n|a|, 70, inf\n": "line 2",
        "1.5\na, 70, 0.1\n": "line 2",
        "nan\n|a|, 70, 0.1\n": "no number",
        "1.5\n": "no architecture",
        "": "no text",
    }.items():
        path.write_text(text)
        refused(read.read_metad2a, path, word)
    path.write_bytes(b"\xff\xfe")
    refused(read.read_metad2a, path, "text")


@needs("help-nasbench201", "help-fbnet", "help-ofa")
def test_the_real_files_pass_and_agree_with_each_other():
    for space, length in {"nasbench201": 15_625, "fbnet": 5_000, "ofa": 5_000}.items():
        files = [file.path for item in data.sets() if item.name == f"help-{space}" for file in item.files]
        for name in files:
            if "/latency/" in name:
                assert latencies(data.path(name), length).shape == (length,)
        path = data.path(f"help/{space}/hardware_embedding_index.pt")
        assert len(np.unique(read.read_numbers(path, (10,), 0, length - 1))) == 10
    rows = read.read_numbers(data.path("help/fbnet/arch.pt"), (5_000, 22), 0, 8)
    assert rows.shape == (5_000, 22)
    ofa = read.read_torch(data.path("help/ofa/ofa_archs.pt"), numpy_scalars=True)
    assert len(ofa["arch"]) == 5_000 and set(ofa["arch"][0]) == {"ks", "e", "d", "r"}
    index = read.read_arch_index(data.path("help/nasbench201/str_arch2idx.pt"))
    _, strings, accuracy, score = read.read_metad2a(
        data.path("help/nasbench201/arch_generated_by_metad2a.txt")
    )
    assert len(strings) == len(set(strings)) == 500 and set(strings) <= set(index)
    assert accuracy.max() == pytest.approx(73.5133, abs=1e-3) and (np.diff(score) <= 0).all()
