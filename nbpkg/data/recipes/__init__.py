"""What makes a derived set of its sources: one function a set.

A recipe takes the sources as a dictionary from name to path, and a folder; it writes the set's files there,
under their names. Sources that are not what they should be make it raise an exception of any kind. The
registry names it "module.function".
"""

import importlib
from collections.abc import Callable
from pathlib import Path


def get(name: str) -> Callable[[dict[str, Path], Path], None]:
    """The recipe called `name`, such as "tables.nb201_joined"."""
    module, _, function = name.partition(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)
