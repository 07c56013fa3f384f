"""What a chapter asks of its reader and its machine, measured, against what it may ask."""

import ast
import re
import symtable

from nbpkg import chapters
from nbpkg.book import notebook, teaching
from nbpkg.chapters import Chapter
from nbpkg.chapters.hashes import imported
from nbpkg.paths import package, read_json, root

LIMITS = {
    "minutes": 30, "words": 3000, "lines shown": 350, "lines": 900, "longest cell": 40, "longest shown": 25,
    "columns": 95, "names": 120, "longest function": 40, "of the method": 15, "parameters": 7,
    "decimals": 300, "claims": 12, "CPU minutes": 180,
}  # fmt: skip
#: A second notebook for the evidence has less text, and shares the claims of its chapter.
_EVIDENCE = {"words": 1500, "lines": 700, "claims": 16}
_LANGUAGE = ("09", "10")  # twice the time
_FOLDED = {"hide-input", "remove-cell"}
_ASIDE = re.compile(  # comments, folded answers, formulae, code, tags, addresses of links, roles
    r"<!--.*?-->|<details>.*?</details>|\$\$.*?\$\$|```.*?```|<[^>]*>|\]\([^)]*\)|\{[\w:]+\}", re.DOTALL
)


def measure(chapter: Chapter) -> dict[str, int]:
    """What `LIMITS` speaks of; minutes from words, shown lines and printed decimals."""
    cells = chapters.cells(chapter.name)
    code = [cell for cell in cells if cell.kind == "code"]
    text = "\n".join(_ASIDE.sub(" ", cell.source) for cell in cells if cell.kind == "markdown")
    lines = {id(cell): sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in code}
    shown = [lines[id(cell)] for cell in code if not _FOLDED & set(cell.tags)]
    whole = "\n".join(cell.source for cell in code)
    names = symtable.symtable(whole, chapter.name, "exec").get_symbols()
    method = "\n".join(cell.source for cell in code if "method" in cell.tags)
    record = read_json(root() / "results" / "standard" / f"{chapter.name}.json")
    found = {
        "words": len(re.findall(r"[^\W\d_][\w'’-]*", text)),
        "lines shown": sum(shown),
        "lines": sum(lines.values()) + sum(map(_length, alone(chapter))),
        "longest cell": max(lines.values()),
        "longest shown": max(shown, default=0),
        "columns": max(map(len, whole.splitlines())),
        "names": sum(name.is_assigned() and not name.is_imported() for name in names),
        "longest function": max(_functions(whole, "lines"), default=0),
        "of the method": max(_functions(method, "lines"), default=0),
        "parameters": max(_functions(whole, "parameters"), default=0),
        "decimals": _decimals(chapter),
        "claims": len(record.get("claims", [])),
        "CPU minutes": round(record.get("cpu_seconds", {}).get("total", 0) / 60),
    }
    minutes = found["words"] / 200 + found["lines shown"] / 25 + found["decimals"] / 60
    return {"minutes": round(minutes), **found}


def _functions(code: str, what: str) -> list[int]:
    found = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)]
    if what == "lines":
        return [node.end_lineno - node.lineno + 1 for node in found]
    return [len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]) for node in found]


def alone(chapter: Chapter) -> set[str]:
    """Files of nbpkg that no other chapter imports: they are this one's code."""
    others = (imported(other.name) for other in chapters.existing() if other.number != chapter.number)
    return set(imported(chapter.name)).difference(*others) if len(chapters.existing()) > 1 else set()


def _length(name: str) -> int:
    return sum(bool(line.strip()) for line in (package() / name).read_text(encoding="utf-8").splitlines())


def _decimals(chapter: Chapter) -> int:
    """How many numbers with a decimal point the published outputs print."""
    texts = []
    for cell in notebook.code_cells(notebook.read(chapter.notebook)) if chapter.notebook.is_file() else ():
        if not {"hide-output", "remove-output", "remove-cell"} & set(cell.metadata.get("tags", [])):
            for output in cell.outputs:
                data = output.get("data", {})
                texts.append(output.get("text") or data.get("text/markdown") or data.get("text/plain", ""))
    return sum(len(re.findall(r"\d\.\d", text)) for text in texts)


def report(chapter: Chapter) -> tuple[str, list[str]]:
    """One line of what a chapter asks, and what is too much, which of the second edition is a problem."""
    found = measure(chapter)
    limits = LIMITS | (_EVIDENCE if chapter.evidence else {})
    limits["CPU minutes"] *= 2 if chapter.number in _LANGUAGE else 1
    line = ", ".join(f"{name} {value}{'!' * (value > limits[name])}" for name, value in found.items())
    over = [f"budget: {n} {value}, more than {limits[n]}" for n, value in found.items() if value > limits[n]]
    if f"\n| To read | {found['minutes']} minutes |\n" not in teaching.prose(chapter):
        over.append(f"the card does not say {found['minutes']} minutes to read, the budget's rule does")
    return f"{chapter.name}: {line}", over if chapter.edition > 1 else []
