"""NAS-Bench-201's table of accuracies, from the registered files or a file of one's own."""

from pathlib import Path

from nbpkg.data import registry, store
from nbpkg.errors import NbpkgError
from nbpkg.nb201 import table


def load(name: str | Path | None = None) -> table.Table:
    """The table called ``name``: a registered file ("nb201/nats_bench.csv"), or a path to one's own.

    Files that end in .csv and .parquet are light tables, .pth is the official benchmark. Without a name it
    is the joined table "nb201/nb201.parquet" where it is at hand, else "nb201/nats_bench.csv", which holds
    only the test accuracies. Raises NbpkgError when the file is absent, saying how to get it, or cannot be
    trusted.
    """
    if name is None:
        name = "nb201/nb201.parquet" if store.available("nb201-joined") else "nb201/nats_bench.csv"
    path = Path(name)
    if not path.is_file():
        if str(name) not in {file.path for known in registry.load().values() for file in known.files}:
            raise NbpkgError(f"{name}: there is no such file, and no registered table of this name")
        path = store.path(str(name))
    return table.read(path)
