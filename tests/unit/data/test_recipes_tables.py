"""Recipes of tables on made-up originals, and pickles that would run something."""

import itertools
import json
import os
import pickle
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch

from nbpkg.data import plain_pickle, values
from nbpkg.data.recipes import tables
from nbpkg.errors import NbpkgError

ARCHS = [
    "|none~0|+|nor_conv_1x1~0|none~1|+|nor_conv_3x3~0|nor_conv_3x3~1|skip_connect~2|",
    "|avg_pool_3x3~0|+|none~0|none~1|+|none~0|none~1|none~2|",
]


class DataFrame:
    pass


class BlockManager(DataFrame):
    pass


class Graph:
    def __reduce__(self):
        return Graph, (3, "edges")

    def __init__(self, *_):
        pass


def _new_Index(kind, state):
    raise AssertionError("must not be called")


class Index:
    def __init__(self, data):
        self.data = data

    def __reduce__(self):
        return _new_Index, (Index, {"data": self.data, "name": None})


def numpy1(value, **homes: str) -> bytes:
    """A pickle as numpy 1 wrote it, in which the classes of this test come from the modules named."""
    content = pickle.dumps(value, 3).replace(b"numpy._core", b"numpy.core")
    for name, home in homes.items():
        content = content.replace(f"c{__name__}\n{name}\n".encode(), f"c{home}\n{name}\n".encode())
    return content


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "nats_bench.csv"
    columns = {
        f"{name}TestAccuracy200Epochs": [50 + 1 / 3, 60.0] for name in ("CIFAR10", "CIFAR100", "ImageNet")
    }
    columns |= {"ArchitectureString": ARCHS, "UniqueString": ["a", "b"]}
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def twelve(path, archs):
    pairs = itertools.product(("cifar10", "cifar100", "imagenet"), ("test", "val"))
    names = ["arch", "cellstr", *map("-".join, pairs)]
    numbers = np.arange(12.0).reshape(6, 2)
    blocks = [
        {"values": numbers, "mgr_locs": slice(2, 8, 1)},
        {"values": np.array([archs], object), "mgr_locs": slice(1, 2, 1)},
    ]
    manager, frame = BlockManager(), DataFrame()
    axes = [Index(np.array(names, object))]
    frame.__dict__ |= {"_data": manager}
    BlockManager.__getstate__ = lambda self: (axes, [], [], {"0.14.1": {"axes": axes, "blocks": blocks}})
    base = "pandas.core."
    homes = {"DataFrame": f"{base}frame", "BlockManager": f"{base}internals.managers",
             "_new_Index": f"{base}indexes.base", "Index": f"{base}indexes.base"}  # fmt: skip
    path.write_bytes(numpy1(frame, **homes))
    return path


def test_nb201_joins_by_its_equations(csv, tmp_path):
    seconds, loss = np.array([1.5, 1.5, 2.25]), np.array([40.0, 41.0, 30.0])
    runs = {name: {"loss": loss, "runtime": seconds} for name in ("cifar10", "cifar100", "imagenet")}
    (tmp_path / "metric_vals.pkl").write_bytes(numpy1(runs))
    frame = twelve(tmp_path / "mini-bench-arch-cell-accs.pd", ARCHS)
    originals = {path.name: path for path in (csv, tmp_path / "metric_vals.pkl", frame)}
    tables.nb201_joined(originals, tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "nb201.parquet")
    assert table["cifar10_test_200"].tolist() == [50.333333, 60]
    assert table["cifar10_valid_200"].tolist() == [59.5, 70]
    assert table["cifar100_valid_200"].tolist() == [68.666667, 80]
    assert table["n_runs"].tolist() == [2, 1] and table["train_seconds_cifar100"].tolist() == [1.5, 2.25]
    assert table["cifar100_valid_12"].tolist() == [6, 7] and table["imagenet16_test_12"].tolist() == [8, 9]
    assert table["params_m"].tolist() == [(73306 + 28000 + 2 * 243040) / 1e6, 0.073306]
    assert table["flops_m"].tolist() == [(7783040 + 3932160 + 2 * 35389440) / 1e6, 7.78304]
    twelve(frame, ARCHS[::-1])
    with pytest.raises(NbpkgError, match=r"mini-bench.*another order"):
        tables.nb201_joined(originals, tmp_path / "out")


def test_supernets_are_in_the_order_of_the_benchmark(csv, tmp_path):
    key = "[(('none', 0),), (('nor_conv_1x1', 0), ('none', 1)), " \
          "(('nor_conv_3x3', 0), ('nor_conv_3x3', 1), ('skip_connect', 2))]"  # fmt: skip
    other = "[(('avg_pool_3x3', 0),), (('none', 0), ('none', 1)), (('none', 0), ('none', 1), ('none', 2))]"
    originals = {"nats_bench.csv": csv}
    for number, name in enumerate(("nasbench201", "one-shot-supernet", "few-shot-supernet")):
        originals[name] = tmp_path / name
        originals[name].write_text(json.dumps({other: 10 + number, key: 20 + number}))
    tables.published_supernets(originals, tmp_path)
    table = pd.read_parquet(tmp_path / "published_supernets.parquet")
    assert table["oneshot"].tolist() == [21, 11] and table["true_cifar10"].tolist() == [20, 10]


def metad2a(path, extra=None):
    rows = {"acc": [50.0, 60.0], "task": [1, 0], "str": ARCHS, "g": [Graph(), Graph()],
            "flops": [np.float64(1), extra]}  # fmt: skip
    content = pickle.dumps(rows, 2).replace(b"numpy._core", b"numpy.core")
    content = content.replace(f"c{__name__}\n".encode(), b"cigraph\n")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rows/data.pkl", content)
    return path


def test_metad2a_rows_carry_their_tasks_classes(tmp_path):
    torch.save([[3, 1], [2, 5]], tmp_path / "list.pt")
    originals = {"meta_train_tasks_predictor.pt": metad2a(tmp_path / "rows.pt"),
                 "meta_train_task_lst.pt": tmp_path / "list.pt"}  # fmt: skip
    tables.metad2a_rows(originals, tmp_path)
    table = pd.read_parquet(tmp_path / "predictor_rows.parquet")
    assert table["classes"].tolist() == ["2 5", "3 1"] and table["accuracy"].tolist() == [50, 60]
    assert table["row"].tolist() == [0, 1] and table["arch"].tolist() == ARCHS


class Evil:
    def __reduce__(self):
        return os.system, ("echo run > evil",)


def test_a_pickle_that_would_run_something_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pkl"
    for content in (pickle.dumps(Evil(), 3), b"cbuiltins\neval\n(S'1'\ntR.", b"cnumpy\nload\n(S'x'\ntR."):
        path.write_bytes(content)
        with pytest.raises(NbpkgError, match=r"a\.pkl: .*would run code"):
            plain_pickle.load(path, tables._PANDAS)
    with pytest.raises(NbpkgError, match=r"rows\.pt: .*would run code"):
        plain_pickle.load_torch(metad2a(tmp_path / "rows.pt", Evil()), tables._METAD2A)
    assert not (tmp_path / "evil").exists()
    whole = numpy1({"a": np.arange(5.0)})
    for content in (whole[:-9], b"", b"<html>"):
        path.write_bytes(content)
        with pytest.raises(NbpkgError, match=r"a\.pkl: .*truncated or damaged"):
            plain_pickle.load(path, tables._NUMPY)
        with pytest.raises(NbpkgError, match=r"a\.pkl: "):
            plain_pickle.load_torch(path, tables._NUMPY)


def test_the_digest_is_of_values_not_of_bytes(tmp_path):
    frame, found = pd.DataFrame({"a": [1, 2], "b": [0.5, None], "c": ["x", "y"]}), set()
    for codec in ("zstd", "gzip", None):
        frame.to_parquet(tmp_path / "a.parquet", compression=codec)
        found.add(values.digest(tmp_path / "a.parquet"))
    assert len(found) == 1
    other = [
        frame.assign(a=[1, 3]),
        frame.assign(c=["y", "x"]),
        frame.rename(columns={"a": "d"}),
        frame[::-1],
    ]
    for changed in other:
        changed.to_parquet(tmp_path / "a.parquet")
        assert values.digest(tmp_path / "a.parquet") not in found
