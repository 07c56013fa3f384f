"""Results of a zoo as a file: Parquet with a row a job, the tasks and how it was made in its metadata.

A table holds accuracies and losses, not weights: it is small, and may be committed with the package.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from nbpkg import machine
from nbpkg.errors import NbpkgError
from nbpkg.paths import replacing
from nbpkg.zoo.fit import Recipe
from nbpkg.zoo.specs import CellNet, TinySpec
from nbpkg.zoo.tasks import Collection
from nbpkg.zoo.train import Job, Trained

FORMAT = 1
_NUMBERS = ("valid", "test", "valid_loss", "test_loss", "cpu_seconds")
_SPECS = {kind.__name__: kind for kind in (CellNet, TinySpec)}
_LIMIT = 1_000_000


def made_by(trained: Trained) -> dict:
    """How results came about, for a table's description: date, processor, versions, CPU seconds."""
    return {
        "date": datetime.date.today().isoformat(),
        "device": machine.device_name(machine.device("auto")),
        "versions": machine.versions(),
        "networks": len(trained.jobs),
        "cpu_seconds": round(float(trained.cpu_seconds.sum()), 1),
    }


def write(path: str | Path, collection: Collection, trained: Trained, said: Mapping[str, object]) -> None:
    """Write the results on the collection's tasks; whole or not at all.

    said: what the description says beside what follows from the jobs. Raises NbpkgError for a task that is
    not in the collection and for a spec of another module.
    """
    import pyarrow
    from pyarrow import parquet

    path = Path(path)
    names = {task: number for number, task in enumerate(collection.tasks)}
    recipes: dict[Recipe, int] = {}
    rows: dict[str, list] = {"task": [], "spec": [], "seed": [], "recipe": []}
    for job in trained.jobs:
        if job.task not in names:
            raise NbpkgError(f"{path.name}: task {job.task.name!r} is not in the collection")
        kind = type(job.spec).__name__
        if type(job.spec) is not _SPECS.get(kind):
            raise NbpkgError(f"{path.name}: networks of kind {kind} cannot be written")
        rows["task"].append(names[job.task])
        rows["spec"].append(json.dumps([kind, asdict(job.spec)]))
        rows["seed"].append(job.seed)
        rows["recipe"].append(recipes.setdefault(job.recipe, len(recipes)))
    columns = {"task": pyarrow.array(rows["task"], "int16"), "spec": pyarrow.array(rows["spec"])}
    columns["seed"] = pyarrow.array(rows["seed"], "int64")
    columns["recipe"] = pyarrow.array(rows["recipe"], "int16")
    columns |= {name: pyarrow.array(getattr(trained, name).astype(np.float32)) for name in _NUMBERS}
    description = {
        "format": FORMAT, **made_by(trained), **said, "recipes": [asdict(recipe) for recipe in recipes],
        "tasks": json.loads(collection.to_json()),
    }  # fmt: skip
    frame = pyarrow.table(columns).replace_schema_metadata({"nbpkg": json.dumps(description)})
    with replacing(path) as partial:
        parquet.write_table(frame, partial, compression="zstd", compression_level=19)


def read(path: str | Path) -> tuple[Collection, Trained, dict]:
    """The collection, the results and the description that `write` put into a file.

    The results hold no weights and no curves. Raises NbpkgError that names the file when it is absent,
    damaged or holds anything else.
    """
    from pyarrow import parquet

    path = Path(path)
    try:
        file = parquet.ParquetFile(path)
        if file.metadata.num_rows > _LIMIT:
            raise ValueError(f"it has more than {_LIMIT:,} rows")
        frame = file.read()
        said = json.loads(frame.schema.metadata[b"nbpkg"])
        if said["format"] != FORMAT:
            raise ValueError(f"it is of format {said['format']}, not {FORMAT}")
        collection = Collection.from_json(json.dumps(said.pop("tasks")))
        recipes = [Recipe(**fields) for fields in said["recipes"]]
        known: dict[str, object] = {}
        for text in set(frame["spec"].to_pylist()):
            kind, fields = json.loads(text)
            listed = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
            known[text] = _SPECS[kind](**listed)
        rows = zip(*(frame[name].to_pylist() for name in ("task", "spec", "seed", "recipe")), strict=True)
        tasks = collection.tasks
        jobs = tuple(Job(known[spec], tasks[task], seed, recipes[r]) for task, spec, seed, r in rows)
        numbers = {name: frame[name].to_numpy().astype(np.float64) for name in _NUMBERS}
        if not all(np.isfinite(numbers["test"])) or numbers["test"].min() < 0 or numbers["test"].max() > 100:
            raise ValueError("it holds a test accuracy that is none")
    except FileNotFoundError:
        raise NbpkgError(f"{path.name}: there is no such table") from None
    except Exception as error:  # a damaged file can fail in many ways
        raise NbpkgError(f"{path.name}: no table of a zoo ({' '.join(str(error).split())[:160]})") from None
    curve = np.full((len(jobs), 0), np.nan)
    seconds = numbers.pop("cpu_seconds")
    return collection, Trained(jobs, **numbers, curve=curve, cpu_seconds=seconds, _places=()), said
