"""How large the package is: a reader should be able to read all of it, and each part at one sitting."""

import ast
from pathlib import Path

from nbpkg import chapters
from nbpkg.book import budget
from nbpkg.paths import package

LIMIT = 14_000  # lines of the package, but for those of `FIRST_EDITION` and of single chapters
FILE_LIMIT = 300
FUNCTION_LIMIT = 40  # from `def` to its last line, docstring included
#: Files that are kept only for chapters of the first edition, and go with the last of these: counted apart.
FIRST_EDITION = (
    "book/first_edition.py", "book/moved.py", "data/synthetic/first_language.py", "nets/distil.py",
    "nets/first_bert.py", "nets/first_distil.py", "nets/first_help.py", "report/first_edition.py",
    "report/first_stats.py", "report/ranking.py", "report/verdicts.py", "session/first_edition.py",
)  # fmt: skip


def check(folder: Path | None = None) -> tuple[str, list[str], list[str]]:
    """Count the lines of the Python files in `folder`, by default the package.

    Returns the counts in words, the problem of a package above `LIMIT`, and remarks that name each file above
    `FILE_LIMIT` and each function above `FUNCTION_LIMIT`. What a single chapter imports is its code and
    counted there (`budget`), not here. Files of `FIRST_EDITION` are a problem when no chapter is of it.
    """
    own = set() if folder else set().union(*map(budget.alone, chapters.existing()))
    folder = folder or package()
    texts = {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in folder.rglob("*.py")}
    lines = {name: len(texts[name].splitlines()) for name in sorted(texts)}
    old = [name for name in FIRST_EDITION if name in lines]
    own -= {*old}
    apart, alone = (sum(lines[name] for name in names) for names in (old, own))
    total, files = sum(lines.values()) - apart - alone, len(lines) - len(old) - len(own)
    counts = f"package: {total} lines in {files} files, and {apart} more of the first edition"
    counts += f", {alone} of single chapters" if own else ""
    problems = [f"nbpkg has {total} lines, more than {LIMIT}"] if total > LIMIT else []
    if all(chapter.edition > 1 for chapter in chapters.CHAPTERS):
        problems += [f"nbpkg/{name}: no chapter of the first edition is left: delete it" for name in old]
    remarks = []
    for name in lines:
        parts = [(f"nbpkg/{name}", lines[name], FILE_LIMIT)]
        for node in ast.walk(ast.parse(texts[name])):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                parts.append((f"nbpkg/{name}: {node.name}", length, FUNCTION_LIMIT))
        remarks += [f"{name} has {n} lines, more than {most}" for name, n, most in parts if n > most]
    return counts, problems, remarks
