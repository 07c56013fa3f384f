"""A hash of live code and data: what a stored result was made by.

`fingerprint(function)` covers the function's source and everything that it can reach: functions, classes and
constants through its globals, closure, defaults and bound self, in `nbpkg` and wherever else outside the
standard library and site-packages (a notebook, a script, a loaded chapter). Comments, formatting and
docstrings do not count, nor does the name of the module, so a cell has the same fingerprint in a notebook, in
a script and through `nbpkg.chapters.load`. Other packages count by the name that was used, torch and numpy by
their version too.

It cannot see these, so no method may depend on them: functions that are picked at run time by a computed name
(though a module of nbpkg that is handed around as a value counts as a whole); attributes set on functions;
the state of random generators and other foreign objects; files that the code reads. In modules of `nbpkg`,
dicts, lists and sets with a lower-case name and names that a function rebinds by `global` are caches, and are
left out.
"""

import dataclasses
import enum
import functools
import hashlib
import struct
import sys
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

from nbpkg.errors import NbpkgError
from nbpkg.memo import source_text
from nbpkg.memo.source_text import foreign
from nbpkg.memo.values import Parts, attributes, leaf

_VERSIONED = ("torch", "numpy")
_WRAPPERS = (property, staticmethod, classmethod, functools.cached_property, functools.partialmethod)


def fingerprint(function: Any) -> str:
    """The fingerprint of a function, method, partial, class or callable object, 64 hex digits.

    Raises NbpkgError in one line when the source of something that it reaches cannot be found, or was edited
    since it was loaded: a wrong hash would pass for a right one.
    """
    return _Walk(strict=False).digest(function).hex()


def content_hash(value: Any) -> str:
    """A hash of a configuration value by content, 64 hex digits.

    Numbers, str, bytes, None, arrays, tensors, dataclasses, enums, paths, nested dict, list, tuple and set;
    functions and classes by their fingerprint, objects of classes outside site-packages by class and
    attributes. A numpy scalar equals the Python number of the same value; 1, 1.0 and True differ. Raises
    NbpkgError for any other type.
    """
    return _Walk(strict=True).digest(value).hex()


def _hash(parts: Parts) -> bytes:
    hasher = hashlib.sha256()
    for part in parts:
        part = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        hasher.update(struct.pack("<Q", len(part)) + part)
    return hasher.digest()


def _foreign_name(module: Any, name: str) -> Parts:
    top = str(module or "").partition(".")[0]
    version = getattr(sys.modules.get(top), "__version__", "") if top in _VERSIONED else ""
    return ["foreign", top, str(version), name]


def _own_module(value: Any) -> bool:
    return isinstance(value, types.ModuleType) and not foreign(value.__name__)


def _dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


class _Walk:
    """One traversal; `strict` refuses foreign objects of unknown type, which else count by their type."""

    def __init__(self, strict: bool):
        self.strict = strict
        self.known: dict[int, bytes] = {}
        self.alive: list[Any] = []  # an id stays valid only while its object lives
        self.depth = 0

    def digest(self, value: Any) -> bytes:
        if id(value) not in self.known:
            self.alive.append(value)
            # A cycle is closed by how deep its object lies, which no caching of equal values changes.
            self.known[id(value)] = _hash(["cycle", str(self.depth)])
            self.depth += 1
            self.known[id(value)] = _hash(leaf(value) or self._parts(value))
            self.depth -= 1
        return self.known[id(value)]

    def _parts(self, value: Any) -> Parts:
        code = {type: self._class, types.FunctionType: self._function, types.ModuleType: self._module}
        for kind, make in code.items():
            if isinstance(value, kind):
                strict, self.strict = self.strict, False  # it is for the data of a configuration only
                parts = make(value)
                self.strict = strict
                return parts
        if isinstance(value, types.MethodType):
            return ["method", self.digest(value.__func__), self.digest(value.__self__)]
        if isinstance(value, functools.partial):
            return ["partial", self.digest(value.func), self.digest(value.args), self.digest(value.keywords)]
        if isinstance(value, enum.Enum):
            return ["enum", self._kind(value), value.name, self.digest(value.value)]
        if isinstance(value, (list, tuple, deque)):
            return [self._kind(value), *map(self.digest, value)]
        if isinstance(value, (set, frozenset)):
            return [self._kind(value), *sorted(map(self.digest, value))]
        if isinstance(value, (dict, types.MappingProxyType)):
            return [self._kind(value), *(self.digest(item) for pair in value.items() for item in pair)]
        return self._object(value)

    def _kind(self, value: Any) -> str | bytes:
        kind = type(value)
        return kind.__name__ if foreign(kind.__module__) else self.digest(kind)

    def _function(self, function: types.FunctionType) -> Parts:
        code, scope = function.__code__, function.__globals__
        inner = [*self._cells(function)]
        if hasattr(function, "__wrapped__"):
            inner.append(self.digest(function.__wrapped__))
        # functools.wraps lends a wrapper the module of what it wraps; its globals say where its own code
        # lives.
        if foreign(scope.get("__name__")):
            own = function.__module__ == scope["__name__"]
            return [*_foreign_name(scope["__name__"], function.__qualname__ if own else code.co_name), *inner]
        node = source_text.function_node(function)
        chains, imports = source_text.uses(node)
        names = source_text.global_names(code)
        if str(scope.get("__name__")).partition(".")[0] == "nbpkg":  # caches: see the module's docstring
            names = names - source_text.rebound_globals(source_text.file_tree(code.co_filename, scope))
            names = {n for n in names if n.isupper() or not isinstance(scope.get(n), (dict, list, set))}
        # Names with two underscores, such as __file__, say where the code lies and not what it does.
        reachable = {name: scope[name] for name in names if name in scope and not _dunder(name)}
        reachable |= source_text.bound_by_imports(imports, scope)
        parts = ["function", source_text.normalised(node)]
        parts += [self.digest(function.__defaults__), self.digest(function.__kwdefaults__)]
        for name, *path in sorted(chains):
            if name in reachable:
                parts += [".".join([name, *path]), self._reached(reachable[name], path)]
        return [*parts, *inner]

    def _reached(self, value: Any, path: list[str]) -> bytes:
        for attribute in path:
            if not _own_module(value):
                break
            if not hasattr(value, attribute):
                return _hash(["missing", attribute])
            value = getattr(value, attribute)
        return self.digest(value)

    def _cells(self, function: types.FunctionType) -> Iterator[str | bytes]:
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        for name in sorted(cells):
            if cells[name] != types.CellType():  # else it is not bound yet
                yield from (name, self.digest(cells[name].cell_contents))

    def _module(self, module: types.ModuleType) -> Parts:
        if not _own_module(module):
            return _foreign_name(module.__name__, module.__name__)
        tree = source_text.file_tree(getattr(module, "__file__", None) or "", vars(module))
        if tree is None:
            raise NbpkgError(
                f"the source of module {module.__name__} cannot be found: name what is used of it"
            )
        # The module is used as a value, so any part of it may be called.
        parts = ["module", source_text.normalised(tree)]
        for name, value in sorted(vars(module).items()):
            if isinstance(value, (types.FunctionType, type)) and value.__module__ == module.__name__:
                parts += [name, self.digest(value)]
        return parts

    def _class(self, cls: type) -> Parts:
        if foreign(cls.__module__):
            return _foreign_name(cls.__module__, cls.__qualname__)
        if "__memo_name__" in vars(cls):
            return [cls.__memo_name__]
        parts = ["class", cls.__name__, *map(self.digest, cls.__bases__), self.digest(type(cls))]
        is_enum = issubclass(cls, enum.Enum)
        if "__dataclass_params__" in vars(cls):
            parts.append(repr(cls.__dataclass_params__))
            for field in dataclasses.fields(cls):
                flags = (field.init, field.repr, field.hash, field.compare, bool(field.kw_only))
                parts.append(self.digest((field.name, flags, field.default, field.default_factory)))
        if is_enum:
            parts.append(self.digest([(member.name, member.value) for member in cls]))
        generated = is_enum or dataclasses.is_dataclass(cls) or issubclass(cls, tuple)
        for name, value in sorted(vars(cls).items()):
            function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
            method = callable(value) or isinstance(value, _WRAPPERS)
            plain = isinstance(function, types.FunctionType)
            if _dunder(name) and (not method or name.startswith("__annotate")):
                continue  # what Python notes there, such as __dict__ or __match_args__
            if plain and generated and not source_text.written(function):
                continue  # made by dataclass, NamedTuple or Enum out of what is hashed above
            if not plain and is_enum and (name.startswith("_") or name in cls.__members__):
                continue
            parts += [name, self._attribute(value)]
        return parts

    def _attribute(self, value: Any) -> bytes:
        """A class's attribute; descriptors count by what they wrap."""
        names = ("fget", "fset", "fdel", "__func__", "func", "args", "keywords")
        if not isinstance(value, _WRAPPERS):
            return self.digest(value)
        return _hash([type(value).__name__, *(self.digest(getattr(value, name, None)) for name in names)])

    def _object(self, value: Any) -> Parts:
        kind = type(value)
        if name := getattr(kind, "__memo_name__", ""):
            if self.strict:
                raise NbpkgError(
                    f"a {name} cannot be part of a configuration: pass the values that are needed of it"
                )
            return [name]
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.nn.Module):
            own = {name: part for name, part in vars(value).items() if not name.startswith("_")}
            state = {"state": dict(value.state_dict()), "parts": dict(value._modules), "own": own}
            return ["network", self.digest(kind), self.digest(state)]
        if not foreign(kind.__module__):
            return ["object", self.digest(kind), self.digest(attributes(value))]
        if kind.__module__ == "numpy" and kind.__name__ == "ndarray":  # of objects: the others are leaves
            return ["objects", repr(value.shape), *map(self.digest, value.reshape(-1).tolist())]
        wrapped = getattr(value, "__wrapped__", None)
        if callable(value) and wrapped is not None:  # functools.lru_cache and the like
            return [*_foreign_name(kind.__module__, kind.__name__), self.digest(wrapped)]
        if isinstance(value, (types.BuiltinFunctionType, types.BuiltinMethodType)):
            owner = value.__self__
            module = value.__module__ or getattr(owner, "__module__", None) or type(owner).__module__
            return _foreign_name(module, value.__qualname__)
        if self.strict:
            raise NbpkgError(
                f"a {kind.__module__}.{kind.__qualname__} has no hash by content: pass numbers, str or arrays"
            )
        return [*_foreign_name(kind.__module__, kind.__qualname__), str(getattr(value, "__qualname__", ""))]
