"""Mutants of a function: its source with one operator, comparison, constant or condition changed."""

import ast
import copy
from collections.abc import Iterator

SWAPS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.MatMult: ast.Mult,
    ast.Pow: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Add,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And, ast.USub: ast.UAdd,
}  # fmt: skip


def _changed(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of one node."""
    if isinstance(node, (ast.BinOp, ast.UnaryOp, ast.BoolOp)) and type(node.op) in SWAPS:
        other = copy.deepcopy(node)
        other.op = SWAPS[type(node.op)]()
        yield other
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        other = copy.deepcopy(node)
        other.ops[0] = SWAPS[type(node.ops[0])]()
        yield other
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield ast.Constant(node.value + 1)


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """(what was changed, the source with it) for every single change of `source`; docstrings are left."""
    tree = ast.parse(source)
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    places = [
        (parent, field, index)
        for parent in ast.walk(tree)
        for field, value in ast.iter_fields(parent)
        for index in (range(len(value)) if isinstance(value, list) else [None])
    ]
    for parent, field, index in places:
        node = getattr(parent, field) if index is None else getattr(parent, field)[index]
        if not isinstance(node, ast.AST) or id(node) in docs:
            continue
        for other in _changed(node):
            _put(parent, field, index, other)
            text = ast.unparse(ast.fix_missing_locations(tree))
            line = ast.unparse(other)
            _put(parent, field, index, node)
            yield f"{ast.unparse(node)} -> {line}, line {getattr(node, 'lineno', 0)}", text


def _put(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node
