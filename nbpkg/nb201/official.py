"""Reader of the original NAS-Bench-201 file, through the ``nas_201_api`` package of its authors."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nbpkg.errors import NbpkgError
from nbpkg.untrusted import read_torch

#: (dataset, split) -> what the official interface calls the training run.
_RUNS = {(name, split): name for name in ("cifar10", "cifar100") for split in ("valid", "test")}
_RUNS |= {("cifar10", "valid"): "cifar10-valid"}
_RUNS |= {("imagenet16", split): "ImageNet16-120" for split in ("valid", "test")}
_KEYS = ("meta_archs", "arch2infos", "evaluated_indexes")


class _Owned(dict):
    """Content that the official class does not copy: it deep-copies what it is given, several gigabytes."""

    def __deepcopy__(self, memo):
        return self


def read(path: Path) -> dict:
    """The arguments of ``table.build`` for the cells that the file says were evaluated."""
    # Loaded here and not by the interface, whose bare torch.load would run code under older torch.
    content = _checked(path.name, read_torch(path, numpy_scalars=True, limit=None))
    from nas_201_api import NASBench201API

    try:
        return _columns(NASBench201API(content, verbose=False))
    except Exception as error:
        # The interface asserts, indexes and calls its way through a foreign structure: any error means that.
        raise NbpkgError(
            f"{path.name}: not as NAS-Bench-201 writes it ({type(error).__name__}: {error})"
        ) from None


def _checked(name: str, content) -> dict:
    if not isinstance(content, dict) or any(key not in content for key in _KEYS):
        raise NbpkgError(f"{name}: is no NAS-Bench-201 file; it must be a dictionary of {', '.join(_KEYS)}")
    archs, infos, evaluated = (content[key] for key in _KEYS)
    evaluated = list(evaluated) if isinstance(evaluated, (list, tuple, set)) else None
    plain = isinstance(archs, list) and isinstance(infos, dict) and evaluated is not None
    if not plain or not all(type(i) is int and 0 <= i < len(archs) for i in evaluated):
        raise NbpkgError(f"{name}: its evaluated indexes must be integers that number its architectures")
    lacking = [i for i in evaluated if i not in infos]
    if lacking:
        raise NbpkgError(f"{name}: says that architecture {lacking[0]} was evaluated, but lacks its results")
    # Results of other cells are left aside: nothing may be read from what was not finished.
    return _Owned(meta_archs=archs, arch2infos={i: infos[i] for i in evaluated}, evaluated_indexes=evaluated)


def _columns(interface) -> dict:
    indices = interface.evaluated_indexes
    accuracies = {}
    for row, index in enumerate(indices):
        for epochs in (12, 200):
            hp = str(epochs)
            trained = set(interface.arch2infos_dict[index][hp].get_dataset_names())
            more = {
                run: interface.get_more_info(index, run, hp=hp, is_random=False)
                for run in trained & set(_RUNS.values())
            }
            for (dataset, split), run in _RUNS.items():
                value = more.get(run, {}).get(f"{split}-accuracy")
                if value is not None:
                    column = accuracies.setdefault((dataset, split, epochs), np.full(len(indices), np.nan))
                    column[row] = value
    strings = [interface.arch(index) for index in indices]
    return {"strings": strings, "own": np.array(indices, np.int64), "accuracies": accuracies}
