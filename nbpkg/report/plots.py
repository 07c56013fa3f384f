"""One look for every figure: theme, a colour-blind-safe palette tied to method names, checked axes.

Figures carry their own light ground, because a transparent one cannot give text enough contrast on a white
page and on a dark one at once; the site frames them in dark mode. Importing this module changes nothing:
`theme()` does, when called.
"""

import io
import sys

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nbpkg.report.first_edition import colour, curve, intervals, letter, points, style, styles
from nbpkg.report.looks import DPI, GROUND, INK, LINES, MARKERS, MUTED, PALETTE, RC, RULE, hue, looks

# What chapters find here and is made elsewhere; the first line goes with the first edition.
__all__ = ["colour", "curve", "intervals", "letter", "points", "style", "styles"]
__all__ += ["GROUND", "INK", "LINES", "MARKERS", "MUTED", "PALETTE", "RULE", "hue", "looks"]


def theme() -> None:
    """Set matplotlib's defaults for the book. Call once, in a chapter's imports."""
    mpl.rcParams.update(RC)


def figure(
    rows: int = 1, cols: int = 1, *, width: float = 7.2, height: float = 3.2, **subplots: object
) -> tuple[Figure, Axes | np.ndarray]:
    """A figure and its axes, kept out of pyplot's list so that nothing is shown twice or leaks.

    `width` and `height` are inches for the whole figure. Further arguments go to `Figure.subplots` (`sharex`,
    `width_ratios`, ...). Returns one `Axes`, or an array of them shaped as `Figure.subplots` shapes it.
    """
    with mpl.rc_context(RC):
        fig = Figure(figsize=(width, height), layout="constrained")
        axes = fig.subplots(rows, cols, **subplots)
    return fig, axes


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
