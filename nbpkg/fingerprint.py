"""A hash of live code and data: what a stored result was made by.

`fingerprint(function)` covers the function's source and everything it can reach: functions, classes and constants through its
globals, closure, defaults and bound self, wherever they live outside the standard library and site-packages (a notebook, a script,
a loaded chapter), and in `nbpkg`. Comments, formatting and docstrings do not count; module names do not either, so the same cell
has the same fingerprint in a notebook, in a script and through `nbpkg.chapters.load`. Other packages count by the name that
was used, torch and numpy by their version as well.

What it cannot see, so do not build a method on it: functions picked at run time by a computed name (`getattr(module, name)`; using
a module of nbpkg as a value counts all of it), the state of random generators, files that the code reads. In modules of `nbpkg`,
lower-case dicts, lists and sets and names that a function rebinds by `global` are caches, and left out.
"""

import ast
import dataclasses
import enum
import functools
import hashlib
import importlib
import importlib.util
import struct
import sys
import sysconfig
import types
from pathlib import Path, PurePath
from typing import Any

from nbpkg import source
from nbpkg.errors import NbpkgError

_VERSIONED = ("torch", "numpy")
_STDLIB = tuple({str(Path(sysconfig.get_paths()[key])) for key in ("stdlib", "platstdlib")})
_CLASS_NOISE = frozenset(
    "__module__ __dict__ __weakref__ __doc__ __qualname__ __firstlineno__ __static_attributes__ __annotations__ "
    "__annotate__ __annotate_func__ __annotations_cache__ __dataclass_fields__ __dataclass_params__ __match_args__ "
    "__parameters__ __orig_bases__ __abstractmethods__ _abc_impl __hash__ __classcell__".split()
)


def fingerprint(function: Any) -> str:
    """The fingerprint of a function, method, partial, class or callable object, 64 hex digits.

    Raises NbpkgError in one line when the source of something it reaches cannot be found, or was edited since it was loaded.
    """
    return _Walk(strict=False).digest(function).hex()


def content_hash(value: Any) -> str:
    """A hash of a configuration value by content, 64 hex digits: numbers, str, bytes, None, arrays, tensors, dataclasses, enums,
    paths, nested dict, list, tuple and set; functions and classes by their fingerprint.

    A numpy scalar equals the Python number of the same value; 1, 1.0 and True differ. Raises NbpkgError for any other type.
    """
    return _Walk(strict=True).digest(value).hex()


@functools.lru_cache(maxsize=1024)
def _module_is_external(name: str) -> bool:
    top = name.partition(".")[0]
    if top in ("nbpkg", "__main__", "__mp_main__"):
        return False
    if top in sys.stdlib_module_names or top == "builtins":
        return True
    file = getattr(sys.modules.get(name), "__file__", None) or getattr(sys.modules.get(top), "__file__", None)
    if not file:
        return False
    return bool({"site-packages", "dist-packages"} & set(Path(file).parts)) or file.startswith(_STDLIB)


def _is_external(name: Any) -> bool:
    return isinstance(name, str) and _module_is_external(name)


def _is_own_module(value: Any) -> bool:
    return isinstance(value, types.ModuleType) and not _is_external(value.__name__)


class _Walk:
    """One traversal. `strict` refuses values of unknown type, where code's surroundings count them by their type only."""

    def __init__(self, strict: bool):
        self.strict = strict
        self.known: dict[int, bytes] = {}
        self.alive: list[Any] = []  # ids stay valid only while their objects live

    def digest(self, value: Any) -> bytes:
        tag, content = self._plain(value)
        if tag is not None:
            return self._hash(tag, content)
        if id(value) in self.known:
            return self.known[id(value)]
        # A cycle is closed by the position at which its object was first met, which is the same wherever the code lives.
        self.known[id(value)] = self._hash("cycle", str(len(self.alive)).encode())
        self.alive.append(value)
        parts = [part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass") for part in self._parts(value)]
        self.known[id(value)] = result = self._hash(*parts)
        return result

    @staticmethod
    def _hash(*parts: str | bytes) -> bytes:
        hasher = hashlib.sha256()
        for part in parts:
            part = part.encode() if isinstance(part, str) else part
            hasher.update(struct.pack("<Q", len(part)) + part)
        return hasher.digest()

    @staticmethod
    def _plain(value: Any) -> tuple[str | None, bytes]:
        kind = type(value)
        if kind.__module__ == "numpy" and hasattr(value, "item") and getattr(value, "shape", None) == () and kind.__name__ != "ndarray":
            value = value.item()
            kind = type(value)
        if value is None or value is Ellipsis or kind in (bool, int, float, complex):
            return kind.__name__, repr(value).encode()
        if kind is str:
            return "str", value.encode("utf-8", "surrogatepass")
        if kind in (bytes, bytearray):
            return kind.__name__, bytes(value)
        return None, b""

    def _parts(self, value: Any):
        """The parts whose hash is the digest of `value`."""
        if isinstance(value, enum.Enum):
            return ["enum", type(value).__name__, value.name, self.digest(value.value)]
        if isinstance(value, (list, tuple)):
            return [type(value).__name__, *map(self.digest, value)]
        if isinstance(value, (set, frozenset)):
            return ["set", *sorted(map(self.digest, value))]
        if isinstance(value, (dict, types.MappingProxyType)):
            return ["dict", *(self.digest(item) for pair in value.items() for item in pair)]
        if isinstance(value, (range, slice)):
            return [repr(value)]
        if isinstance(value, PurePath):
            return ["path", value.as_posix()]
        if isinstance(value, functools.partial):
            return ["partial", self.digest(value.func), self.digest(value.args), self.digest(value.keywords)]
        if isinstance(value, types.MethodType):
            return ["method", self.digest(value.__func__), self.digest(value.__self__)]
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.ModuleType):
            return self._module(value)
        if isinstance(value, (property, staticmethod, classmethod, functools.cached_property, functools.partialmethod)):
            names = ("fget", "fset", "fdel", "__func__", "func", "args", "keywords")
            return [type(value).__name__, *(self.digest(getattr(value, name)) for name in names if hasattr(value, name))]
        return self._object(value)

    def _external(self, module: Any, name: str) -> list[str]:
        top = str(module or "").partition(".")[0]
        version = getattr(sys.modules.get(top), "__version__", "") if top in _VERSIONED else ""
        return ["external", top, str(version), name]

    def _function(self, function: types.FunctionType):
        wrapped = getattr(function, "__wrapped__", None)
        inner = [] if wrapped is None else [self.digest(wrapped)]
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        # functools.wraps gives a wrapper the module of what it wraps; where its code lives is what its globals say.
        if _is_external(function.__globals__.get("__name__")):
            own = function.__module__ == function.__globals__.get("__name__")
            name = function.__qualname__ if own else function.__code__.co_name
            return [*self._external(function.__globals__.get("__name__"), name), *inner, *self._cells(cells)]
        node = source.function_node(function)
        parts = ["function", source.normalised(node), self.digest(function.__defaults__), self.digest(function.__kwdefaults__)]
        uses = source.Uses(node)
        names = dict.fromkeys(source.global_names(function.__code__) - set(cells))
        scope = {name: function.__globals__[name] for name in names if name in function.__globals__}
        scope |= self._local_imports(uses.imports, function.__globals__)
        state = self._state_of(function)
        for chain in sorted(uses.chains):
            if chain[0] in scope and chain[0] not in state:
                parts += [".".join(chain), self._reached(chain[0], scope[chain[0]], chain[1:])]
        return [*parts, *inner, *self._cells(cells)]

    def _cells(self, cells: dict[str, types.CellType]):
        for name in sorted(cells):
            try:
                content = cells[name].cell_contents
            except ValueError:
                continue  # not bound yet: the name of a function that is still being made
            yield name
            yield self.digest(content)

    @staticmethod
    def _state_of(function: types.FunctionType) -> set[str]:
        """The names in the globals of a function of nbpkg that are caches (see the module's docstring)."""
        scope = function.__globals__
        if str(scope.get("__name__")).partition(".")[0] != "nbpkg":
            return set()
        tree = source.file_tree(function.__code__.co_filename, scope)
        containers = (dict, list, set)
        state = {name for name, value in scope.items() if isinstance(value, containers) and not name.isupper()}
        return state | source.rebound_globals(tree)

    def _local_imports(self, imports, scope: dict) -> dict[str, Any]:
        """What import statements inside a function bind, as far as it is own code."""
        bound = {}
        for statement in imports:
            for alias in statement.names:
                relative = isinstance(statement, ast.ImportFrom)
                name = (statement.module or "") if relative else alias.name
                if relative and statement.level:
                    name = importlib.util.resolve_name("." * statement.level + name, scope.get("__package__") or "")
                if name.partition(".")[0] != "nbpkg":
                    continue
                if not relative:
                    module = importlib.import_module(name)
                    bound[alias.asname or "nbpkg"] = module if alias.asname else sys.modules["nbpkg"]
                    continue
                module = importlib.import_module(name)
                if not hasattr(module, alias.name):
                    module = importlib.import_module(f"{name}.{alias.name}")
                    bound[alias.asname or alias.name] = module
                else:
                    bound[alias.asname or alias.name] = getattr(module, alias.name)
        return bound

    def _reached(self, name: str, value: Any, attributes: tuple[str, ...]) -> bytes:
        for attribute in attributes:
            if not _is_own_module(value):
                break
            if not hasattr(value, attribute):
                return self._hash("missing", attribute)
            value = getattr(value, attribute)
        return self.digest(value)

    def _module(self, module: types.ModuleType):
        if not _is_own_module(module):
            return self._external(module.__name__, module.__name__)
        # The module itself is used as a value, so any part of it may be: all of its functions and classes count.
        tree = source.file_tree(getattr(module, "__file__", None) or "", vars(module))
        if tree is None:
            raise NbpkgError(f"the source of module {module.__name__} cannot be found")
        parts = ["module", source.normalised(tree)]
        for name, value in sorted(vars(module).items()):
            if isinstance(value, (types.FunctionType, type)) and value.__module__ == module.__name__:
                parts.append(self.digest(value))
        return parts

    def _class(self, cls: type):
        if _is_external(cls.__module__):
            return self._external(cls.__module__, cls.__qualname__)
        if cls.__module__ == "nbpkg.session":
            return ["session"]
        parts = ["class", cls.__name__, *map(self.digest, cls.__bases__)]
        if type(cls) is not type:
            parts.append(self.digest(type(cls)))
        generated = dataclasses.is_dataclass(cls) or issubclass(cls, (tuple, enum.Enum))
        if "__dataclass_params__" in vars(cls):
            parts.append(repr(cls.__dataclass_params__))
            for item in dataclasses.fields(cls):
                default = None if item.default is dataclasses.MISSING else item.default
                factory = None if item.default_factory is dataclasses.MISSING else item.default_factory
                flags = repr((item.init, item.repr, item.hash, item.compare, bool(item.kw_only)))
                parts += [item.name, flags, self.digest(default), self.digest(factory)]
        if issubclass(cls, enum.Enum):
            parts += [self.digest([(member.name, member.value) for member in cls])]
        for name, value in sorted(vars(cls).items()):
            plain_function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
            if isinstance(plain_function, types.FunctionType):
                if generated and not self._written_in(plain_function, cls):
                    continue  # made by dataclass, NamedTuple or Enum out of what is hashed above
            elif name in _CLASS_NOISE or (issubclass(cls, enum.Enum) and (name.startswith("_") or name in cls.__members__)):
                continue
            parts += [name, self.digest(value)]
        return parts

    @staticmethod
    def _written_in(function: types.FunctionType, cls: type) -> bool:
        if _is_external(function.__globals__.get("__name__")) and not hasattr(function, "__wrapped__"):
            return False
        return source.file_tree(function.__code__.co_filename, function.__globals__) is not None

    def _object(self, value: Any):
        kind = type(value)
        top = str(kind.__module__).partition(".")[0]
        if kind.__module__ == "nbpkg.session":
            return ["session"]
        if top == "numpy" and kind.__name__ in ("ndarray", "memmap"):
            if value.dtype.hasobject:
                return ["objects", repr(value.shape), self.digest(value.reshape(-1).tolist())]
            return ["ndarray", value.dtype.str, repr(value.dtype.descr), repr(value.shape), value.tobytes()]
        if top == "numpy" and isinstance(value, sys.modules["numpy"].dtype):
            return ["dtype", value.str]
        torch = sys.modules.get("torch")
        if torch is not None:
            if isinstance(value, torch.Tensor):
                dense = value.detach().cpu()
                dense = (dense.to_dense() if dense.layout is not torch.strided else dense).resolve_conj().contiguous()
                raw = dense.reshape(-1).view(torch.uint8).numpy().tobytes() if dense.numel() else b""
                return ["tensor", str(value.dtype), repr(tuple(value.shape)), raw]
            if isinstance(value, (torch.device, torch.dtype, torch.Size)):
                return ["torch", repr(value)]
            if isinstance(value, torch.nn.Module) and not self.strict:
                return ["network", self.digest(kind), repr(value), self.digest(dict(value.state_dict()))]
        if dataclasses.is_dataclass(value):
            own = {item.name: getattr(value, item.name, None) for item in dataclasses.fields(value)}
            return ["dataclass", kind.__name__ if self.strict else self.digest(kind), self.digest(own)]
        wrapped = getattr(value, "__wrapped__", None)
        if callable(value) and wrapped is not None:  # functools.lru_cache and the like, written in C
            return [*self._external(kind.__module__, kind.__name__), self.digest(wrapped)]
        if isinstance(value, (types.BuiltinFunctionType, types.BuiltinMethodType)) or (kind.__module__ == "builtins" and callable(value)):
            owner = getattr(value, "__self__", None)
            module = getattr(value, "__module__", None) or getattr(owner, "__name__", "")
            return self._external(module, getattr(value, "__qualname__", kind.__name__))
        if top == "re" and kind.__name__ == "Pattern":
            return ["pattern", value.pattern, str(value.flags)]
        if not _is_external(kind.__module__) and not self.strict:
            return ["object", self.digest(kind), self.digest(getattr(value, "__dict__", {})), self._slots(value)]
        if top in ("fractions", "decimal", "datetime", "uuid"):
            return [kind.__name__, repr(value)]
        if top == "collections":
            return [kind.__name__, self.digest(list(value))]
        if self.strict:
            raise NbpkgError(f"a {kind.__module__}.{kind.__qualname__} cannot be hashed by content: pass numbers, str or arrays")
        return [*self._external(kind.__module__, kind.__qualname__), "instance"]

    def _slots(self, value: Any) -> bytes:
        names = [name for base in type(value).__mro__ for name in getattr(base, "__slots__", ()) if isinstance(name, str)]
        return self.digest({name: getattr(value, name) for name in sorted(set(names)) if hasattr(value, name)})
