"""One look for every figure: theme, a colour-blind-safe palette tied to method names, small drawing helpers.

Figures carry their own light ground, because a transparent one cannot give text enough contrast on a white
page and on a dark one at once; the site frames them in dark mode. Importing this module changes nothing:
`theme()` does, when called.
"""

import io
import itertools
import sys
import tomllib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nbpkg.errors import NbpkgError

# Every colour of the cycle has a contrast of at least 3:1 with the ground, and every two differ by at least
# 0.1 in OKLab, for full colour vision and simulated protanopia, deuteranopia and tritanopia (tested).
_RC = mpl.rc_params_from_file(Path(__file__).with_name("book.mplstyle"), use_default_template=False)
PALETTE = tuple(_RC["axes.prop_cycle"].by_key()["color"])
GROUND, INK = _RC["figure.facecolor"], _RC["text.color"]
MUTED, RULE = _RC["axes.edgecolor"], _RC["grid.color"]
DPI = _RC["figure.dpi"]
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
LINES = ("-", "--", "-.", (0, (1, 1.2)), (0, (5, 1, 1, 1, 1, 1)))


@dataclass(frozen=True)
class Style:
    """How one method is drawn wherever it appears: never by colour alone."""

    colour: str
    marker: str
    line: str | tuple

    def line_kwargs(self) -> dict:
        """Keyword arguments for `Axes.plot` and `Axes.errorbar`."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.line}


# The baselines that come back in several chapters. Grey: it ignores the task.
_FIXED = {
    "ours": Style(PALETTE[1], "*", "-"),
    "oracle": Style(INK, "_", (0, (1, 1.2))),
    "random": Style(MUTED, "x", "--"),
    "flops": Style(MUTED, "d", (0, (1, 1.2))),
    "params": Style(MUTED, "p", "-."),
    "paper": Style(INK, "|", "-"),
    "maml": Style(PALETTE[2], "^", "--"),
    "meta-sgd": Style(PALETTE[4], "v", "-."),
    "gcn": Style(PALETTE[3], "s", "--"),
    "ridge": Style(PALETTE[5], "D", "-."),
    "nearest": Style(PALETTE[4], "P", (0, (1, 1.2))),
    "mix": Style(PALETTE[2], "X", "-"),
}
# The methods of the papers: one colour, a marker each.
_PAPERS = ("help", "metad2a", "diffusionnag", "tans", "d2nwg", "hyperdistill", "dass", "dwt", "ctcd")
_FIXED |= {name: Style(PALETTE[0], mark, "-") for name, mark in zip(_PAPERS, "osD^vPh<>", strict=True)}


def _key(name: str) -> str:
    return str(name).strip().lower().replace("_", "-")


def style(name: str) -> Style:
    """The style of a method, the same in every chapter: fixed for known names, else made from the name."""
    key = _key(name)
    if key in _FIXED:
        return _FIXED[key]
    rest, hue = divmod(zlib.crc32(key.encode()), len(PALETTE))
    rest, mark = divmod(rest, len(MARKERS))
    return Style(PALETTE[hue], MARKERS[mark], LINES[rest % len(LINES)])


def colour(name: str) -> str:
    """The colour of a method, as `#rrggbb`."""
    return style(name).colour


def styles(names: Iterable[str]) -> dict[str, Style]:
    """Styles for a figure, in any order: known names keep theirs, no two others share colour and marker."""
    names = list(dict.fromkeys(names))
    out = {name: style(name) for name in names if _key(name) in _FIXED}
    taken = {(s.marker, s.colour) for s in out.values()}
    for name in sorted(set(names) - set(out)):
        first = style(name)
        hue, mark = PALETTE.index(first.colour), MARKERS.index(first.marker)
        # From its own marker and colour on, the first pair that is free.
        pairs = itertools.product(MARKERS[mark:] + MARKERS[:mark], PALETTE[hue:] + PALETTE[:hue])
        marker, colour = next((pair for pair in pairs if pair not in taken), (first.marker, first.colour))
        taken.add((marker, colour))
        out[name] = Style(colour, marker, first.line)
    return {name: out[name] for name in names}


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


def theme() -> None:
    """Set matplotlib's defaults for the book. Call once, in a chapter's imports."""
    mpl.rcParams.update(_RC)


def figure(
    rows: int = 1, cols: int = 1, *, width: float = 7.2, height: float = 3.2, **subplots: object
) -> tuple[Figure, Axes | np.ndarray]:
    """A figure and its axes, kept out of pyplot's list so that nothing is shown twice or leaks.

    `width` and `height` are inches for the whole figure. Further arguments go to `Figure.subplots` (`sharex`,
    `width_ratios`, ...). Returns one `Axes`, or an array of them shaped as `Figure.subplots` shapes it.
    """
    with mpl.rc_context(_RC):
        fig = Figure(figsize=(width, height), layout="constrained")
        axes = fig.subplots(rows, cols, **subplots)
    return fig, axes


def curve(
    ax: Axes, x: Sequence[float], mean: Sequence[float], low: Sequence[float] | None = None,
    high: Sequence[float] | None = None, *, name: str, label: str | None = None,
) -> None:  # fmt: skip
    """A line for method `name` with its interval as a band; all sequences are of shape (points,)."""
    how = style(name)
    ax.plot(x, mean, label=label or name, **how.line_kwargs())
    if low is not None and high is not None:
        ax.fill_between(x, low, high, color=how.colour, alpha=0.15, linewidth=0)


def intervals(
    ax: Axes, names: Sequence[str], means: Sequence[float], lows: Sequence[float | None],
    highs: Sequence[float | None], *, paper: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """One row a method, the first on top: a point at the mean, a bar from low to high, a tick for the paper.

    `means`, `lows` and `highs` are of shape (methods,); a missing interval is NaN or None. Set the x label
    yourself.
    """
    look, paper, labels = styles(names), paper or {}, labels or {}
    for row, (name, mean, low, high) in enumerate(zip(names, means, lows, highs, strict=True)):
        known = np.isfinite(np.array([low, high], float)).all()  # None becomes nan
        error = [[mean - low], [high - mean]] if known else None
        dot = {**look[name].line_kwargs(), "markersize": 7, "linestyle": "none"}
        ax.errorbar([mean], [row], xerr=error, capsize=3, **dot)
        if name in paper:
            ax.plot([paper[name]], [row], "|", color=INK, markersize=13, markeredgewidth=2)
    ax.set_yticks(range(len(names)), [labels.get(name, name) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)


def points(
    ax: Axes, x: Sequence[float], y: Sequence[float], *, colour: str = PALETTE[0], label: str = "", **kwargs
) -> None:
    """A scatter whose opacity falls with the number of points, so that 15,625 still show their density."""
    alpha = float(np.clip(60 / max(len(x), 1) ** 0.75, 0.06, 0.8))
    kwargs = {"s": 8, "alpha": alpha, "linewidths": 0, "rasterized": True, **kwargs}
    ax.scatter(x, y, color=colour, label=label or None, **kwargs)


def letter(axes: Iterable[Axes], start: str = "a") -> None:
    """Put (a), (b), ... before the titles of panels, for captions to point at."""
    for offset, ax in enumerate(np.ravel(np.asarray(list(axes), dtype=object))):
        title = ax.get_title(loc="left") or ax.get_title(loc="center")
        ax.set_title("", loc="center")
        ax.set_title(f"({chr(ord(start) + offset)}) {title}".rstrip(), loc="left")


def _is_number(text: str) -> bool:
    text = text.replace("−", "-").replace("$", "").replace("\\mathdefault", "").strip("{} ")
    try:
        float(text)
    except ValueError:
        return "10^" in text
    return True


def unlabelled(fig: Figure) -> list[str]:
    """Axes that show numbers without saying of what, in words; names as tick labels speak for themselves."""
    fig.draw_without_rendering()
    shared = {"x": fig.get_supxlabel(), "y": fig.get_supylabel()}
    missing = []
    for index, ax in enumerate(fig.axes):
        for name, axis in (("x", ax.xaxis), ("y", ax.yaxis)):
            if axis.get_label_text().strip() or shared[name] or not (ax.get_visible() and ax.axison):
                continue
            ticks = axis.get_ticklabels() if axis.get_visible() else []
            if any(_is_number(tick.get_text()) for tick in ticks if tick.get_visible()):
                missing.append(f"panel {index} ({ax.get_title(loc='left') or 'untitled'}): {name}")
    return missing


def png(fig: Figure) -> bytes:
    """The figure as PNG at `DPI`, with a palette of 256 colours when that is faithful; no time stamps."""
    from PIL import Image

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=DPI)
    full = Image.open(buffer).convert("RGB")
    small = full.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    # Rare colours can be lost in the palette: then the file keeps all of them and is larger.
    error = np.abs(np.asarray(small.convert("RGB"), np.int16) - np.asarray(full, np.int16)).max()
    out = io.BytesIO()
    (small if error <= 32 else full).save(out, format="PNG", optimize=True)
    return out.getvalue()


def finish(fig: Figure) -> None:
    """Check the axis labels, then show the figure (a script only checks). Raises ValueError if one lacks."""
    missing = unlabelled(fig)
    if missing:
        raise ValueError("axes without a label: " + "; ".join(missing))
    if pyplot := sys.modules.get("matplotlib.pyplot"):  # seaborn's figures: or they are shown twice
        pyplot.close(fig)
    ipython = sys.modules.get("IPython")  # a shell has imported it
    if ipython is not None and ipython.get_ipython() is not None:
        from IPython.display import Image, display

        # More pixels than the shown width keep it sharp on dense screens; the width is output metadata.
        display(Image(data=png(fig), format="png", width=round(fig.get_figwidth() * 96)))
