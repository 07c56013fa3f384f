"""The syntax tree of a live function, whether it came from a file, a notebook cell or a loaded chapter.

Python's own lookup goes through linecache too, but it finds neither every lambda nor a file that was edited
after it was imported.
"""

import __future__

import ast
import copy
import dis
import importlib
import importlib.util
import linecache
import sys
import types
from contextlib import suppress
from functools import lru_cache
from typing import Any

from nbpkg.errors import NbpkgError

_FUTURES = 0
for _name in __future__.all_feature_names:
    _FUTURES |= getattr(__future__, _name).compiler_flag

_JUMPS = frozenset(dis.hasjrel + dis.hasjabs)

_LOOKUPS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


_texts: dict[
    str, str
] = {}  # what a file said when it was first seen, which is near the time when it was imported


def remember(filename: str, module_globals: dict | None = None, afresh: bool = False) -> str:
    """The text behind `filename` as it was first seen, "" when there is none; `afresh` looks again."""
    if afresh:
        linecache.checkcache(filename)
    if afresh or filename not in _texts:
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


# By the id of a code object, which is kept alive with it; equal code may stand elsewhere.
_nodes: dict[int, tuple[types.CodeType, "FunctionNode"]] = {}


@lru_cache(maxsize=512)
def _parse(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except SyntaxError:
        return None


def file_tree(filename: str, module_globals: dict | None = None, afresh: bool = False) -> ast.Module | None:
    """The tree of a file or of whatever linecache knows under `filename`; None when there is no source.

    Do not change it.
    """
    text = remember(filename, module_globals, afresh)
    return _parse(text) if text else None


def function_node(function: types.FunctionType) -> FunctionNode:
    """The syntax tree of `function`; do not change it.

    Raises NbpkgError when its source cannot be found (made by exec or eval, typed into a plain prompt), or
    when the file was edited before it was first looked at: the text would then speak of other code than the
    one that runs.
    """
    code = function.__code__
    if id(code) in _nodes:
        return _nodes[id(code)][1]
    tree = None
    for afresh in (False, True):  # a second look, for a module that was reloaded
        tree = file_tree(code.co_filename, function.__globals__, afresh)
        node = tree and _find(tree, function)
        if node is not None:
            _nodes[id(code)] = code, node
            return node
    name = "a lambda" if code.co_name == "<lambda>" else function.__qualname__
    if tree is None:
        raise NbpkgError(
            f"the source of {name} cannot be found: define it in a notebook cell, a chapter or a file"
        )
    file = code.co_filename.replace("\\", "/").rpartition("/")[2]
    raise NbpkgError(
        f"the source of {name} is not what {file} says now: it was edited since it was loaded, so start again"
    )


def _find(tree: ast.Module, function: types.FunctionType) -> FunctionNode | None:
    code = function.__code__
    # pytest rewrites the assert statements of test modules, so their code differs from their text by design.
    rewritten = "@pytest_ar" in function.__globals__
    for top in tree.body:
        if top.lineno - _decorator_lines(top) <= code.co_firstlineno <= top.end_lineno:
            for node in ast.walk(top):
                if _starts(node, code) and (rewritten or _compiles_to(top, node, code)):
                    return node
    return None


def _decorator_lines(node: ast.AST) -> int:
    lines = [decorator.lineno for decorator in getattr(node, "decorator_list", ())]
    return node.lineno - min(lines) if lines else 0


def _starts(node: ast.AST, code: types.CodeType) -> bool:
    if code.co_name == "<lambda>":
        return isinstance(node, ast.Lambda) and node.lineno == code.co_firstlineno
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or node.name != code.co_name:
        return False
    return node.lineno - _decorator_lines(node) == code.co_firstlineno


def _compiles_to(top: ast.stmt, node: ast.AST, code: types.CodeType) -> bool:
    """Does `node`, a part of the statement `top`, compile to `code`? Lambdas on one line are told apart by
    this as well.
    """
    flags = code.co_flags & _FUTURES
    whole = compile(ast.Module([top], []), code.co_filename, "exec", flags, dont_inherit=True)
    pending = [whole]
    while pending:
        candidate = pending.pop()
        if (candidate.co_name, candidate.co_firstlineno) == (code.co_name, code.co_firstlineno) and _same(
            candidate, code
        ):
            return not isinstance(node, ast.Lambda) or _covers(node, candidate)
        pending += [const for const in candidate.co_consts if isinstance(const, types.CodeType)]
    return False


def _covers(node: ast.Lambda, code: types.CodeType) -> bool:
    """Do the columns of `code` lie in the body of this lambda? True when the interpreter keeps no columns."""
    body = node.body
    for line, end_line, column, end_column in code.co_positions():
        if None in (line, end_line, column, end_column) or end_column == 0:
            continue
        if not (
            (body.lineno, body.col_offset) <= (line, column)
            and (end_line, end_column) <= (body.end_lineno, body.end_col_offset)
        ):
            return False
    return True


def _same(a: types.CodeType, b: types.CodeType) -> bool:
    names = ("co_names", "co_varnames", "co_freevars", "co_cellvars", "co_argcount", "co_kwonlyargcount")
    if any(getattr(a, name) != getattr(b, name) for name in names) or len(a.co_consts) != len(b.co_consts):
        return False
    if not all(
        _same(x, y)
        if isinstance(x, types.CodeType) and isinstance(y, types.CodeType)
        else type(x) is type(y) and x == y
        for x, y in zip(a.co_consts, b.co_consts, strict=True)
    ):
        return False
    return _instructions(a) == _instructions(b)


def _instructions(code: types.CodeType) -> list[tuple]:
    """What `code` does. How a method call is spelt depends on the import statements that were compiled along
    with it (a cell, a file), so that is evened out; jump distances go with it.
    """
    out = []
    for instruction in dis.get_instructions(code):
        name, value = instruction.opname, instruction.argval
        if name in ("PUSH_NULL", "CACHE", "PRECALL", "EXTENDED_ARG", "NOP", "RESUME"):
            continue
        if instruction.opcode in _JUMPS or isinstance(value, types.CodeType):
            value = None
        out.append(("LOAD_ATTR" if name == "LOAD_METHOD" else name, value))
    return out


class _StripDocstrings(ast.NodeTransformer):
    def _strip(self, node):
        self.generic_visit(node)
        first = node.body[0] if node.body else None
        if (
            isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
        ):
            node.body = node.body[1:] or [ast.Pass()]
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = visit_Module = _strip


@lru_cache(maxsize=4096)
def normalised(node: ast.AST) -> str:
    """Source text that comments, formatting and docstrings do not change."""
    return ast.unparse(ast.fix_missing_locations(_StripDocstrings().visit(copy.deepcopy(node))))


class Uses(ast.NodeVisitor):
    """What a function's text mentions: `chains`, {(name, attribute, ...)}; `imports`, the import statements
    inside it.
    """

    def __init__(self, node: ast.AST):
        self.chains: set[tuple[str, ...]] = set()
        self.imports: list[ast.Import | ast.ImportFrom] = []
        self.visit(node)

    def visit_Name(self, node):
        self.chains.add((node.id,))

    def visit_Attribute(self, node):
        attributes, base = [], node
        while isinstance(base, ast.Attribute):
            attributes.append(base.attr)
            base = base.value
        if isinstance(base, ast.Name):
            self.chains.add((base.id, *reversed(attributes)))
        else:
            self.visit(base)

    def visit_Import(self, node):
        self.imports.append(node)

    visit_ImportFrom = visit_Import


@lru_cache(maxsize=4096)
def uses(node: ast.AST) -> Uses:
    """What the text of a function mentions."""
    return Uses(node)


@lru_cache(maxsize=4096)
def global_names(code: types.CodeType) -> frozenset[str]:
    """Every name that `code` or a function inside it looks up in its globals."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname in _LOOKUPS}
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            names |= global_names(const)
    return frozenset(names)


@lru_cache(maxsize=512)
def rebound_globals(tree: ast.Module) -> frozenset[str]:
    """The names that some function of the file declares `global`: its state rather than its constants."""
    return frozenset(name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names)


def bound_by_imports(statements: list[ast.Import | ast.ImportFrom], scope: dict) -> dict[str, Any]:
    """What import statements in a function with the globals `scope` bind, as far as it belongs to nbpkg."""
    bound = {}
    for statement in statements:
        for alias in statement.names:
            # An optional package may be absent; the code that needs it could not have run then.
            with suppress(ImportError):
                bound |= _bound(statement, alias, scope)
    return bound


def _bound(statement: ast.Import | ast.ImportFrom, alias: ast.alias, scope: dict) -> dict[str, Any]:
    if isinstance(statement, ast.Import):
        if alias.name.partition(".")[0] != "nbpkg":
            return {}
        module = importlib.import_module(alias.name)
        return {alias.asname: module} if alias.asname else {"nbpkg": sys.modules["nbpkg"]}
    name = "." * statement.level + (statement.module or "")
    name = importlib.util.resolve_name(name, scope.get("__package__") or "")
    if name.partition(".")[0] != "nbpkg":
        return {}
    module = importlib.import_module(name)
    if not hasattr(module, alias.name):
        importlib.import_module(f"{name}.{alias.name}")
    return {alias.asname or alias.name: getattr(module, alias.name)}
