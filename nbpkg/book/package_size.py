"""How large the package is: a reader should be able to read all of it, and each part at one sitting."""

import ast
from pathlib import Path

from nbpkg.paths import package

LIMIT = 14_000  # lines of the package
FILE_LIMIT = 300
FUNCTION_LIMIT = 40  # from `def` to its last line, docstring included


def check(folder: Path | None = None) -> tuple[str, list[str], list[str]]:
    """Count the lines of the Python files in `folder`, by default the package.

    Returns the counts in words, the problem of a package above `LIMIT`, and remarks that name each file above
    `FILE_LIMIT` and each function above `FUNCTION_LIMIT`.
    """
    folder = folder or package()
    texts = {path.relative_to(folder): path.read_text("utf-8") for path in sorted(folder.rglob("*.py"))}
    total = sum(len(text.splitlines()) for text in texts.values())
    counts = f"package: {total} lines in {len(texts)} files"
    problems = [f"nbpkg has {total} lines, more than {LIMIT}"] if total > LIMIT else []
    remarks = []
    for path, text in texts.items():
        where = f"nbpkg/{path.as_posix()}"
        parts = [(where, len(text.splitlines()), FILE_LIMIT)]
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                parts.append((f"{where}: {node.name}", node.end_lineno - node.lineno + 1, FUNCTION_LIMIT))
        remarks += [f"{name} has {n} lines, more than {most}" for name, n, most in parts if n > most]
    return counts, problems, remarks
