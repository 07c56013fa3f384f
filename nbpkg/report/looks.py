"""The colours of every figure, and the look of a method, which is the same wherever it appears."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

from nbpkg.errors import NbpkgError

# Every colour of the cycle has a contrast of at least 3:1 with the ground, and every two differ by at least
# 0.1 in OKLab, for full colour vision and simulated protanopia, deuteranopia and tritanopia (tested).
RC = mpl.rc_params_from_file(Path(__file__).with_name("book.mplstyle"), use_default_template=False)
PALETTE = tuple(RC["axes.prop_cycle"].by_key()["color"])
GROUND, INK = RC["figure.facecolor"], RC["text.color"]
MUTED, RULE = RC["axes.edgecolor"], RC["grid.color"]
DPI = RC["figure.dpi"]
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
LINES = ("-", "--", "-.", (0, (1, 1.2)), (0, (5, 1, 1, 1, 1, 1)))


@dataclass(frozen=True)
class Style:
    """How one method is drawn wherever it appears: never by colour alone."""

    colour: str
    marker: str
    line: str | tuple


def looks(names: Iterable[str]) -> dict[str, Style]:
    """The look of each method: `looks.toml` gives one to a method of the book, and to no other.

    Raises NbpkgError for a method that has none yet.
    """
    text = Path(__file__).with_name("looks.toml").read_text(encoding="utf-8")
    known, names = tomllib.loads(text), list(dict.fromkeys(names))
    if lost := [name for name in names if name not in known]:
        raise NbpkgError(f"the method {lost[0]!r} has no look yet: give it one in report/looks.toml")
    hues, found = [*PALETTE, INK, MUTED], [known[name] for name in names]
    styles = [Style(hues[hue], mark, LINES[MARKERS.index(mark) % len(LINES)]) for hue, mark in found]
    return dict(zip(names, styles, strict=True))


def hue(names: Iterable[str], column: str = "method", style: bool = False) -> dict:
    """Arguments that make seaborn draw the methods `names`, in order, as everywhere in the book.

    style: markers and lines too, which `relplot` and `lineplot` take.
    """
    found = looks(names)
    out = {"hue": column, "hue_order": list(found), "palette": {n: look.colour for n, look in found.items()}}
    if style:
        out |= {"style": column, "style_order": list(found), "dashes": False}
        out["markers"] = {name: look.marker for name, look in found.items()}
    return out
