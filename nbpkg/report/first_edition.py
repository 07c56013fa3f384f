"""How chapters of the first edition draw: a method's style by its name, small drawing helpers.

Chapters of the second edition draw with seaborn and the looks of `looks.toml`. Those of the first ask
`nbpkg.report.plots` for what stands here; it goes with the last of them.
"""

import itertools
import zlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from nbpkg.report import looks
from nbpkg.report.looks import INK, LINES, MARKERS, MUTED, PALETTE


class Style(looks.Style):
    """A look that hands itself to matplotlib; chapters of the second edition leave that to seaborn."""

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
