"""Results of a zoo as a file: Parquet with a row a job, the tasks and how it was made in its metadata.

A table holds accuracies and losses, not weights: it is small, and may be committed with the package.
"""

import datetime
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from nbpkg import machine, paths
from nbpkg.errors import NbpkgError
from nbpkg.zoo.fit import Recipe
from nbpkg.zoo.specs import CellNet, Spec, TinySpec
from nbpkg.zoo.students import StudentNet
from nbpkg.zoo.tasks import Collection
from nbpkg.zoo.train import Trained, TrainingJob

FORMAT = 1
_NUMBERS = ("valid", "test", "valid_loss", "test_loss", "cpu_seconds")
_SPECS = {kind.__name__: kind for kind in (CellNet, TinySpec, StudentNet)}
_LIMIT = 1_000_000


def made_by(trained: Trained) -> dict:
    """How results came about, for a table's description: date, versions, CPU seconds."""
    return {
        "date": datetime.date.today().isoformat(),
        "versions": machine.versions(),
        "networks": len(trained.jobs),
        "cpu_seconds": round(float(trained.cpu_seconds.sum()), 1),
    }


def write(path: str | Path, collection: Collection, trained: Trained, metadata: Mapping[str, object]) -> None:
    """Write the results on the collection's tasks; whole or not at all.

    metadata: what the description says beside what follows from the jobs, the device for one. Raises
    NbpkgError for a task that is not in the collection and for a spec of another module.
    """
    import pyarrow
    from pyarrow import parquet

    path = Path(path)
    tasks = {task: number for number, task in enumerate(collection.tasks)}
    for job in trained.jobs:
        if job.task not in tasks:
            raise NbpkgError(f"{path.name}: task {job.task.name!r} is not in the collection")
        if type(job.spec) not in _SPECS.values():
            raise NbpkgError(f"{path.name}: networks of kind {type(job.spec).__name__} cannot be written")
    recipes = list(dict.fromkeys(job.recipe for job in trained.jobs))
    columns = {
        "task": np.array([tasks[job.task] for job in trained.jobs], np.int16),
        "spec": [json.dumps([type(job.spec).__name__, asdict(job.spec)]) for job in trained.jobs],
        "seed": np.array([job.seed for job in trained.jobs], np.int64),
        "recipe": np.array([recipes.index(job.recipe) for job in trained.jobs], np.int16),
    }
    columns |= {name: getattr(trained, name).astype(np.float32) for name in _NUMBERS}
    description = {
        "format": FORMAT, **made_by(trained), **metadata, "recipes": [asdict(recipe) for recipe in recipes],
        "tasks": json.loads(collection.to_json()),
    }  # fmt: skip
    table = pyarrow.table(columns).replace_schema_metadata({"nbpkg": json.dumps(description)})
    with paths.replacing(path) as temporary:
        parquet.write_table(table, temporary, compression="zstd", compression_level=19)


def read(path: str | Path) -> tuple[Collection, Trained, dict]:
    """The collection, the results and the description that `write` put into a file.

    The results hold no weights and no curves. Raises NbpkgError that names the file when it is absent,
    damaged or holds anything else.
    """
    from pyarrow import parquet

    path = Path(path)
    try:
        file = parquet.ParquetFile(paths.intact(path))
        if file.metadata.num_rows > _LIMIT:
            raise ValueError(f"it has more than {_LIMIT:,} rows")
        table = file.read()
        metadata = json.loads(table.schema.metadata[b"nbpkg"])
        if metadata["format"] != FORMAT:
            raise ValueError(f"it is of format {metadata['format']}, not {FORMAT}")
        collection = Collection.from_json(json.dumps(metadata.pop("tasks")))
        recipes = [Recipe(**fields) for fields in metadata["recipes"]]
        specs = {text: _spec(*json.loads(text)) for text in set(table["spec"].to_pylist())}
        rows = zip(*(table[name].to_pylist() for name in ("task", "spec", "seed", "recipe")), strict=True)
        tasks = collection.tasks
        jobs = tuple(TrainingJob(specs[text], tasks[t], seed, recipes[r]) for t, text, seed, r in rows)
        numbers = {name: table[name].to_numpy().astype(np.float64) for name in _NUMBERS}
        if not all(np.isfinite(numbers["test"])) or numbers["test"].min() < 0 or numbers["test"].max() > 100:
            raise ValueError("it holds a test accuracy that is none")
    except FileNotFoundError:
        raise NbpkgError(f"{path.name}: there is no such table") from None
    except Exception as error:  # a damaged file can fail in many ways
        raise NbpkgError(f"{path.name}: no table of a zoo ({' '.join(str(error).split())[:160]})") from None
    curve = np.full((len(jobs), 0), np.nan)
    return collection, Trained(jobs, **numbers, curve=curve, _locations=()), metadata


def _spec(kind: str, fields: dict) -> Spec:
    return _SPECS[kind](**{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()})
