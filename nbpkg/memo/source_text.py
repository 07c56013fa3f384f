"""The syntax tree of a live function, whether it came from a file, a notebook cell or a loaded chapter; and
whose code it is: the project's and its readers' own, or that of Python and installed packages (foreign).

Python's own lookup goes through linecache too, but it finds neither every lambda nor a file that was edited
after it was imported.
"""

import ast
import copy
import dis
import inspect
import linecache
import sys
import sysconfig
import types
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from nbpkg.errors import NbpkgError

_LOOKUPS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_STDLIB = tuple({str(Path(sysconfig.get_paths()[key])) for key in ("stdlib", "platstdlib")})

_DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

# What a file said when it was first seen, which is near the time when it was imported.
_texts: dict[str, str] = {}
# By the id of a code object, which is kept alive with it; equal code may stand elsewhere.
_nodes: dict[int, tuple[types.CodeType, FunctionNode]] = {}


@lru_cache(maxsize=4096)
def foreign(name: Any) -> bool:
    """Does a module of this name belong to the standard library or an installed package other than nbpkg?"""
    top = name.partition(".")[0] if isinstance(name, str) else "__main__"
    if top in ("nbpkg", "__main__", "__mp_main__"):
        return False
    if top in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(name), "__file__", None) or getattr(sys.modules.get(top), "__file__", None)
    installed = {"site-packages", "dist-packages"}
    return bool(file) and (file.startswith(_STDLIB) or not installed.isdisjoint(Path(file).parts))


def remember(filename: str, module_globals: dict | None = None) -> str:
    """The text behind `filename` as it was first seen, "" when there is none."""
    if filename not in _texts:
        text = "".join(linecache.getlines(filename, module_globals))
        if not text:
            return ""
        _texts[filename] = text
    return _texts[filename]


def remember_package() -> None:
    """Keeps the text of every module of nbpkg that is loaded, so that a long run survives edits to the files
    under it.
    """
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "nbpkg" and getattr(module, "__file__", None):
            remember(module.__file__, vars(module))


_parse = lru_cache(maxsize=512)(ast.parse)


def file_tree(filename: str, module_globals: dict | None = None) -> ast.Module | None:
    """The tree of a file or of whatever linecache knows under `filename`; None when there is no source.

    Do not change it.
    """
    text = remember(filename, module_globals)
    with suppress(SyntaxError):
        return _parse(text) if text else None
    return None


def written(function: types.FunctionType) -> bool:
    """Did a person write this method? dataclass, NamedTuple and Enum make theirs without source, or lend
    their own.
    """
    function = inspect.unwrap(function)
    code, scope = function.__code__, function.__globals__
    return not foreign(scope.get("__name__")) and file_tree(code.co_filename, scope) is not None


def function_node(function: types.FunctionType) -> FunctionNode:
    """The syntax tree of `function`; do not change it.

    Raises NbpkgError when its source cannot be found (made by exec or eval, typed into a plain prompt), or
    when the file was edited before it was first looked at: the text would then speak of other code than the
    one that runs.
    """
    code = function.__code__
    if id(code) in _nodes:
        return _nodes[id(code)][1]
    name = "a lambda" if code.co_name == "<lambda>" else function.__qualname__
    for _ in range(2):
        tree = file_tree(code.co_filename, function.__globals__)
        if tree is None:
            raise NbpkgError(
                f"the source of {name} cannot be found: define it in a notebook cell, a chapter or a file"
            )
        found = _functions(tree).get((code.co_name, code.co_firstlineno), [])
        if found and not _edited(function):
            _nodes[id(code)] = code, _only(found, code)
            return _nodes[id(code)][1]
        del _texts[code.co_filename]  # a second look, for a module that was reloaded
        linecache.checkcache(code.co_filename)
    file = code.co_filename.replace("\\", "/").rpartition("/")[2]
    raise NbpkgError(
        f"the source of {name} is not what {file} says now: it was edited since it was loaded, so start again"
    )


@lru_cache(maxsize=512)
def _functions(tree: ast.Module) -> dict[tuple[str, int], list[FunctionNode]]:
    """The functions and lambdas of a tree by the name and first line that their code objects have."""
    found = defaultdict(list)
    for node in ast.walk(tree):
        if isinstance(node, FunctionNode):
            lines = [node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))]
            found[getattr(node, "name", "<lambda>"), min(lines)].append(node)
    return dict(found)


def _edited(function: types.FunctionType) -> bool:
    """Is the remembered text of the function's file another than the one that it was compiled from?"""
    filename = function.__code__.co_filename
    entry = linecache.cache.get(filename)
    # What has no time of change is no file: a cell or a loaded chapter, which keeps its text.
    if entry is not None and entry[1] is None:
        return False
    # pytest rewrites the assert statements of test modules, so their code differs from their text by design.
    return "@pytest_ar" not in function.__globals__ and function.__code__ not in _compiled(_texts[filename])


@lru_cache(maxsize=512)
def _compiled(text: str) -> frozenset[types.CodeType]:
    return frozenset(_with_inner(compile(text, "", "exec", dont_inherit=True)))


def _with_inner(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _with_inner(const)


def _only(found: list[FunctionNode], code: types.CodeType) -> FunctionNode:
    """Of several lambdas that begin on one line, the innermost whose body holds the columns of `code`."""
    if len(found) == 1:
        return found[0]
    spans = [span for span in code.co_positions() if None not in span and span[3] > 0]  # may have no columns
    if not spans:
        raise NbpkgError(f"line {code.co_firstlineno} holds several lambdas: put one lambda on a line")
    first = min((line, column) for line, _, column, _ in spans)
    last = max((line, column) for _, line, _, column in spans)
    begun = [n for n in found if (n.body.lineno, n.body.col_offset) <= first]
    around = [n for n in begun if last <= (n.body.end_lineno, n.body.end_col_offset)]
    return around[-1]  # outer lambdas come before those in them


@lru_cache(maxsize=4096)
def normalised(node: ast.AST) -> str:
    """Source text that comments, formatting and docstrings do not change."""
    tree = copy.deepcopy(node)
    for part in ast.walk(tree):
        if isinstance(part, _DOCUMENTED) and ast.get_docstring(part, clean=False) is not None:
            part.body = part.body[1:] or [ast.Pass()]
    return ast.unparse(ast.fix_missing_locations(tree))


def _dotted(node: ast.AST) -> tuple[str, ...]:
    """("a", "b", "c") of the expression a.b.c, () of one of another kind."""
    if isinstance(node, ast.Name):
        return (node.id,)
    base = _dotted(node.value) if isinstance(node, ast.Attribute) else ()
    return (*base, node.attr) if base else ()


@lru_cache(maxsize=4096)
def uses(node: ast.AST) -> tuple[set[tuple[str, ...]], list[ast.Import | ast.ImportFrom]]:
    """What the text of a function mentions: {(name, attribute, ...)} and the import statements inside it."""
    chains, imports, pending = set(), [], [node]
    while pending:
        part = pending.pop()
        if chain := _dotted(part):
            chains.add(chain)
            continue
        if isinstance(part, (ast.Import, ast.ImportFrom)):
            imports.append(part)
        pending += ast.iter_child_nodes(part)
    return chains, imports


@lru_cache(maxsize=4096)
def global_names(code: types.CodeType) -> frozenset[str]:
    """Every name that `code` or a function inside it looks up in its globals."""
    instructions = (i for inner in _with_inner(code) for i in dis.get_instructions(inner))
    return frozenset(i.argval for i in instructions if i.opname in _LOOKUPS)


@lru_cache(maxsize=512)
def rebound_globals(tree: ast.Module) -> frozenset[str]:
    """The names that some function of the file declares `global`: its state rather than its constants."""
    return frozenset(name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names)


def bound_by_imports(statements: list[ast.Import | ast.ImportFrom], scope: dict) -> dict[str, Any]:
    """What import statements in a function with the globals `scope` bind, as far as it belongs to nbpkg."""
    names = {"__name__": scope.get("__name__"), "__package__": scope.get("__package__")}
    for statement in statements:
        for alias in statement.names:
            module = getattr(statement, "module", alias.name) or ""
            if module.partition(".")[0] != "nbpkg" and not getattr(statement, "level", 0):
                continue
            one = copy.copy(statement)
            one.names = [alias]
            # An optional package may be absent; the code that needs it could not have run then.
            with suppress(ImportError):
                exec(compile(ast.Module([one], []), "<import>", "exec"), names)
    return {name: value for name, value in names.items() if not name.startswith("__")}
