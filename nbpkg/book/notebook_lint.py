"""What must not be published: traces of a machine, errors and warnings, widgets, pictures without words."""

import re
from collections.abc import Iterator

from nbpkg.book.notebook import code_cells, headline

SIZE_LIMIT = 1_500_000  # bytes of a notebook

# Put together from pieces, so that this file itself holds no such path.
_FOLDERS = ["home/[\\w.-]+", "Users/[\\w.-]+", "root", "tmp", "work", "private/var", "var/folders"]
_PATHS = re.compile(r"(?<![\w.~/$}>)-])/(?:" + "|".join(_FOLDERS) + r")/(?!\*)|\b[A-Za-z]:\\+Users\\")
# What ends in a full stop and ends no sentence.
_ABBREVIATION = re.compile(r"\b(?:et al|e\.g|i\.e|cf|vs|Fig|Figs|Eq|Sec|Tab|no|approx|[A-Z])\. ")
_HASH = re.compile(r"[0-9a-f]{16,}")
_WIDGETS = ("application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json")
_PICTURES = ("image/png", "image/svg+xml", "image/jpeg")


def machine_path(text: str) -> str | None:
    """The first path in `text` that belongs to one machine (a home, temporary or working folder), or None."""
    found = _PATHS.search(text)
    if not found:
        return None
    rest = re.match(r"[^\s\"'`<>),;:]*", text[found.start() + 2 :])  # past a drive letter's colon
    return text[found.start() : found.start() + 2] + rest[0]


def faults(notebook, size: int) -> Iterator[str]:
    """One line for each thing in a notebook of `size` bytes that may not be published."""
    if "widgets" in notebook.metadata:
        yield "the notebook holds widget state, which pages can only show by loading scripts from elsewhere"
    for number, cell in enumerate(code_cells(notebook), start=1):
        for fault in (*_output_faults(cell), *_figure_faults(cell)):
            yield f"code cell {number} ({headline(cell.source)!r}) {fault}"
    if size > SIZE_LIMIT:  # it would load slowly
        yield f"the notebook has {size / 1e6:.1f} MB, more than {SIZE_LIMIT / 1e6:.1f}: make figures smaller"


def _output_faults(cell) -> Iterator[str]:
    """Errors, warnings, widgets and paths of a machine among the outputs of a code cell."""
    for output in cell.outputs:
        if output.output_type == "error":
            yield f"ends in {output.ename}: {headline(output.evalue)}"
        elif output.output_type == "stream" and output.name == "stderr" and output.text.strip():
            yield f"writes to stderr: {headline(output.text, 100)}"
        elif any(kind in output.get("data", {}) for kind in _WIDGETS):
            yield "shows a widget"
        if path := machine_path(_text(output)):
            yield f"shows a path of this machine: {path}"


def _text(output) -> str:
    """All text of an output, without its pictures."""
    parts = [output.get("text", ""), output.get("evalue", "")]
    for kind, value in output.get("data", {}).items():
        if not kind.startswith("image/") or kind == "image/svg+xml":
            parts.append(value if isinstance(value, str) else repr(value))
    return "\n".join(parts)


def _figure_faults(cell) -> Iterator[str]:
    """Whether a code cell shows a picture, or names a figure, without caption or telling alt text."""
    settings = cell.metadata.get("mystnb", {})
    figure, image = settings.get("figure", {}), settings.get("image", {})
    hidden = {"remove-cell", "remove-output"} & set(cell.metadata.get("tags", []))
    drawn = any(kind in output.get("data", {}) for output in cell.outputs for kind in _PICTURES)
    if not settings and (not drawn or hidden):
        return
    caption, alt = str(figure.get("caption", "")).strip(), str(image.get("alt", "")).strip()
    if (drawn or figure) and not caption:
        yield "has a figure without a caption"
    if (drawn or figure) and not alt:
        yield "has a figure without an alt text"
    elif alt and (_HASH.fullmatch(alt) or alt in (caption, figure.get("name"))):
        yield f"has an alt text that does not say what the figure shows: {alt[:40]!r}"


def sentence_faults(cells) -> Iterator[str]:
    """One line for each line of Markdown with two sentences; diffs read better with one a line."""
    for cell in (cell for cell in cells if cell.kind == "markdown"):
        fenced = False
        for offset, line in enumerate(cell.source.split("\n")):
            fenced ^= line.lstrip().startswith(("```", ":::"))
            if fenced or line.lstrip().startswith(("|", "#", "<", "$$", "```", ":::")):
                continue
            line = re.sub(r"^\s*\d+\. ", "", line)  # the number of a list item ends no sentence
            if re.search(r"[a-z0-9)`*\]][.!?] +[A-Z][a-z]", _ABBREVIATION.sub("x ", line)):
                yield f"line {cell.line + offset} holds more than one sentence: {headline(line, 50)!r}"
