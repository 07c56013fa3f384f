"""Whose code it is: the project's and its readers' own, or that of the standard library and installed
packages.
"""

import functools
import inspect
import sys
import sysconfig
import types
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from nbpkg.memo import source_text
from nbpkg.memo.values import Parts

_VERSIONED = ("torch", "numpy")
_STDLIB = tuple({str(Path(sysconfig.get_paths()[key])) for key in ("stdlib", "platstdlib")})


@lru_cache(maxsize=4096)
def _is_foreign(name: str) -> bool:
    top = name.partition(".")[0]
    if top in ("nbpkg", "__main__", "__mp_main__"):
        return False
    if top in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(name), "__file__", None) or getattr(sys.modules.get(top), "__file__", None)
    return bool(file) and (
        bool({"site-packages", "dist-packages"} & set(Path(file).parts)) or file.startswith(_STDLIB)
    )


def foreign(name: Any) -> bool:
    """Does a module of this name belong to the standard library or an installed package other than nbpkg?"""
    return isinstance(name, str) and _is_foreign(name)


def own_module(value: Any) -> bool:
    return isinstance(value, types.ModuleType) and not foreign(value.__name__)


def foreign_name(module: Any, name: str) -> Parts:
    top = str(module or "").partition(".")[0]
    version = getattr(sys.modules.get(top), "__version__", "") if top in _VERSIONED else ""
    return ["foreign", top, str(version), name]


def underlying(value: Any) -> Callable | None:
    """The plain function in a class's attribute, None when there is none."""
    value = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
    return value if isinstance(value, types.FunctionType) else None


def written(function: Callable) -> bool:
    """Did a person write this method? dataclass, NamedTuple and Enum make theirs without source, or lend
    their own.
    """
    function = inspect.unwrap(function)
    if foreign(function.__globals__.get("__name__")):
        return False
    return source_text.file_tree(function.__code__.co_filename, function.__globals__) is not None


def attributes(value: Any) -> dict[str, Any]:
    """An object's attributes, without what functools.cached_property leaves there."""
    kind = type(value)
    members = [item for base in kind.__mro__ for item in vars(base).items()]
    slots = [name for name, member in members if isinstance(member, types.MemberDescriptorType)]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    found |= getattr(value, "__dict__", {})
    cached = {name for name, member in members if isinstance(member, functools.cached_property)}
    return {name: found[name] for name in sorted(found) if name not in cached}


def network(module: Any) -> dict[str, Any]:
    """A torch module's weights, buffers, parts and plain attributes."""
    state = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return {"state": dict(module.state_dict()), "parts": dict(module._modules), "own": state}
