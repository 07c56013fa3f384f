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
    for reader in (data.read_torch_list, data.read_torch, data.read_torch_dict, data.read_arch_index):
        refused(reader, path, "run code")
    with pytest.raises(NbpkgError):
        data.read_torch(path, numpy_scalars=True)
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
        refused(data.read_torch_list, path)


def test_text_or_a_missing_file_is_refused(tmp_path):
    path = tmp_path / "page.pt"
    refused(data.read_torch_list, path, "no such file")
    path.write_text("<html>404: Not Found</html>")
    refused(data.read_torch_list, path)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "MAX_BYTES", 1 << 20)
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2 << 20))
    assert path.stat().st_size < 10_000
    refused(data.read_torch_list, path, "unpacks to 2,097,152 bytes")


def test_a_list_of_integers_and_floats_comes_as_float64(saved):
    values = data.read_torch_list(saved([1, 2.5, 3]), length=3)
    assert values.dtype == np.float64 and values.tolist() == [1, 2.5, 3]


@pytest.mark.parametrize(
    ("thing", "word"),
    [
        ([1.0, 2.0], "2 values where 3"),
        ([1.0, 2.0, float("nan")], "not finite (position 2)"),
        ([1.0, float("inf"), 3.0], "not finite (position 1)"),
        ([1.0, 0.0, 3.0], "not positive (position 1)"),
        ([1.0, -2.0, 3.0], "not positive"),
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
    refused(data.read_torch_list, saved(thing), word, length=3)


def test_sign_is_free_on_request(saved):
    assert data.read_torch_list(saved([-1.0, 0.0]), positive=False).tolist() == [-1, 0]


def test_indices_are_distinct_and_in_range(saved):
    assert data.read_torch_indices(saved([4, 0, 2]), 3, 5).tolist() == [4, 0, 2]
    refused(data.read_torch_indices, saved([4, 0, 4]), "twice", high=5)
    refused(data.read_torch_indices, saved([5, 0]), "outside 0 to 4", high=5)
    refused(data.read_torch_indices, saved([-1, 0]), "outside", high=5)
    refused(data.read_torch_indices, saved([1.0, 0]), "float")
    refused(data.read_torch_indices, saved([2**70]), "too large")


def test_rows_have_one_shape_and_bounds(saved):
    rows = data.read_torch_rows(saved([[0, 1], [2, 3], [8, 0]]), (3, 2), 0, 8)
    assert rows.shape == (3, 2) and rows[2, 0] == 8
    refused(data.read_torch_rows, saved([[0, 1], [2]]), "unequal")
    refused(data.read_torch_rows, saved([[0, 1]]), "wrong length", shape=(2, 2))
    refused(data.read_torch_rows, saved([[0, 9]]), "outside 0 to 8", low=0, high=8)
    refused(data.read_torch_rows, saved([[0, 1.5]]), "float")
    refused(data.read_torch_rows, saved([]), "rows")
    refused(data.read_torch_rows, saved([1, 2]), "rows")


def test_a_tensor_has_shape_type_and_bounds(saved):
    path = saved(torch.arange(6.0).reshape(2, 3))
    assert torch.equal(
        data.read_torch_tensor(path, (2, None), torch.float32, 0, 5), torch.arange(6.0).reshape(2, 3)
    )
    refused(data.read_torch_tensor, path, "(3, 2)", shape=(3, 2))
    refused(data.read_torch_tensor, path, "shape", shape=(2,))
    refused(data.read_torch_tensor, path, "int64", dtype=torch.int64)
    refused(data.read_torch_tensor, path, "outside", high=4)
    refused(data.read_torch_tensor, saved(torch.tensor([1.0, float("nan")])), "finite")
    refused(data.read_torch_tensor, saved([1.0]), "list")
    refused(data.read_torch_tensor, saved(torch.eye(2).to_sparse()), "dense")


def test_a_dictionary_has_its_keys(saved):
    assert data.read_torch_dict(saved({"a": 1, "b": 2}), {"a", "b"}) == {"a": 1, "b": 2}
    refused(data.read_torch_dict, saved({"a": 1}), "keys", keys={"a", "b"})
    refused(data.read_torch_dict, saved({1: "a"}), "text keys")


def test_numpy_scalars_only_on_request(saved):
    path = saved({"r": np.int64(204)})
    refused(data.read_torch_dict, path, "run code")
    assert data.read_torch_dict(path, numpy_scalars=True) == {"r": 204}
    refused(data.read_torch_dict, path, "run code")


def test_arch_index_is_one_to_one(saved):
    assert data.read_arch_index(saved({"|a|": 1, "|b|": 0}), length=2) == {"|a|": 1, "|b|": 0}
    for wrong in ({"|a|": 1, "|b|": 1}, {"|a|": 1, "|b|": 2}, {"|a|": 0}, {"|a|": 0, "|b|": "1"}):
        refused(data.read_arch_index, saved(wrong), length=2)


def metainfo(rows):
    names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"]
    archs = [{"op_idx_list": row, "arch_str": [names[i] for i in row]} for row in rows]
    return {"dataset": "cifar100", "num_classes": 100, "arch": archs}


def test_fbnet_metainfo_names_agree_with_indices(saved):
    rows = [[(i + j) % 9 for j in range(22)] for i in range(3)]
    indices, names = data.read_fbnet_metainfo(saved(metainfo(rows)), rows=3)
    assert indices.tolist() == rows and names == tuple("abcdefghi")
    for damage in ("rename", "shorten", "retype"):
        table = metainfo(rows)
        words = table["arch"][1]["arch_str"]
        if damage == "rename":
            words[3] = "a"
        elif damage == "shorten":
            words.pop()
        else:
            words[3] = 5
        refused(data.read_fbnet_metainfo, saved(table), rows=3)


def test_metad2a_lines_are_parsed_and_checked(tmp_path):
    path = tmp_path / "generated.txt"
    path.write_text("1.5\n|a|+|b|, 70.5, 0.25\n|c|, 60, -1e-3\n")
    seconds, strings, accuracy, score = data.read_metad2a(path)
    assert (seconds, strings) == (1.5, ("|a|+|b|", "|c|"))
    assert accuracy.tolist() == [70.5, 60] and score.tolist() == [0.25, -0.001]
    for text, word in {
        "1.5\n|a|, 70.5\n": "line 2",
        "1.5\n|a|, 70.5, x\n": "line 2",
        "1.5\n|a|, nan, 0.1\n": "line 2",
        "1.5, 2\n|a|, 70, 0.1\n": "line 1",
        "1.5\n|a|, 101, 0.1\n": "outside 0 to 100",
        "1.5\na, 70, 0.1\n": "architecture strings",
        "1.5\n": "no architecture",
        "": "no architecture",
    }.items():
        path.write_text(text)
        refused(data.read_metad2a, path, word)
    path.write_bytes(b"\xff\xfe")
    refused(data.read_metad2a, path, "text")


@needs("help-nasbench201", "help-fbnet", "help-ofa")
def test_the_real_files_pass_and_agree_with_each_other():
    for space, length in {"nasbench201": 15_625, "fbnet": 5_000, "ofa": 5_000}.items():
        files = [file.path for item in data.sets() if item.name == f"help-{space}" for file in item.files]
        for name in files:
            if "/latency/" in name:
                assert data.read_torch_list(data.path(name), length).shape == (length,)
        indices = data.read_torch_indices(data.path(f"help/{space}/hardware_embedding_index.pt"), 10, length)
        assert indices.shape == (10,)
    rows = data.read_torch_rows(data.path("help/fbnet/arch.pt"), (5_000, 22), 0, 8)
    again, names = data.read_fbnet_metainfo(data.path("help/fbnet/metainfo.pt"))
    assert np.array_equal(rows, again)
    assert names == ("k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip")
    ofa = data.read_torch_dict(data.path("help/ofa/ofa_archs.pt"), numpy_scalars=True)
    assert len(ofa["arch"]) == 5_000 and set(ofa["arch"][0]) == {"ks", "e", "d", "r"}
    index = data.read_arch_index(data.path("help/nasbench201/str_arch2idx.pt"))
    _, strings, accuracy, score = data.read_metad2a(
        data.path("help/nasbench201/arch_generated_by_metad2a.txt")
    )
    assert len(strings) == len(set(strings)) == 500 and set(strings) <= set(index)
    assert accuracy.max() == pytest.approx(73.5133, abs=1e-3) and (np.diff(score) <= 0).all()
