"""Draws the book's picture, logo and icon: `python book/_assets/draw.py` writes the three SVG files here.

The picture has its own light ground, so that it reads the same on a light and on a dark page.
"""

from pathlib import Path

from nbpkg import chapters
from nbpkg.report.plots import GROUND, INK, MUTED, PALETTE

HERE = Path(__file__).resolve().parent
WIDTH, TOP, ROW, GAP = 720, 96, 38, 22
#: The lanes in their order: a colour that carries white text at 4.5:1 or more, the words on it, the chapters.
LANES = {
    "weights": (PALETTE[0], ("Network", "weights"), ("01", "05", "06")),
    "data": (PALETTE[3], ("Knowledge of", "data sets"), ("02", "04")),
    "measurements": ("#AD4B00", ("Measurements", ""), ("03",)),
    "gradients": (PALETTE[4], ("Gradients", ""), ("07",)),
    "teachers": (PALETTE[5], ("Teacher", "predictions"), ("08", "09", "10")),
}
#: What comes out of a lane, in few words; the sentences stand on the page with the map.
GETS = {
    "weights": ("a trained network,", "or a ranking"),
    "data": ("an architecture", "for new data"),
    "measurements": ("latency on", "a new device"),
    "gradients": ("hyperparameters,", "learned online"),
    "teachers": ("a better student,", "small or large"),
}


def text(
    x: float,
    y: float,
    words: str,
    size: int = 17,
    colour: str = INK,
    anchor: str = "start",
    weight: int = 400,
) -> str:
    """One line of text; `y` is its baseline."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{words}</text>'
    )


def two_lines(x: float, middle: float, lines: tuple[str, str], **how) -> list[str]:
    """One or two lines of text, centred vertically on `middle`."""
    lines = [line for line in lines if line]
    first = middle + 6 - 11 * (len(lines) - 1)
    return [text(x, first + 22 * i, line, **how) for i, line in enumerate(lines)]


def wire(x0: float, y0: float, x1: float, y1: float, colour: str) -> str:
    """A line from one point to another that leaves and arrives level."""
    bend = (x1 - x0) / 2
    return (
        f'<path d="M{x0:g} {y0:g}C{x0 + bend:g} {y0:g} {x1 - bend:g} {y1:g} {x1:g} {y1:g}" '
        f'fill="none" stroke="{colour}" stroke-width="2"/>'
    )


def picture() -> str:
    """The map of the ten ideas: what is left behind, the chapter that reuses it, what a new task gets."""
    left, middle, right = 24, 236, 500
    body, y = [], TOP
    for lane, (colour, words, names) in LANES.items():
        tall = max(2, len(names)) * ROW
        centre = y + tall / 2
        body.append(f'<rect x="{left}" y="{y}" width="170" height="{tall}" rx="8" fill="{colour}"/>')
        body += two_lines(left + 85, centre, words, colour="#ffffff", anchor="middle", weight=600)
        start = centre - len(names) * ROW / 2
        for i, name in enumerate(names):
            line = start + i * ROW + ROW / 2
            chapter = chapters.get(name)
            body.append(wire(left + 170, centre, middle, line, colour))
            body.append(
                f'<rect x="{middle}" y="{line - 15:g}" width="214" height="30" rx="15" fill="{GROUND}" '
                f'stroke="{colour}" stroke-width="2"/>'
            )
            body.append(text(middle + 14, line + 6, chapter.number, colour=colour, weight=700))
            body.append(text(middle + 42, line + 6, chapter.title))
            body.append(wire(middle + 214, line, right - 8, centre, colour))
        body.append(f'<path d="M{right - 9} {centre - 6:g}l10 6l-10 6z" fill="{colour}"/>')
        body += two_lines(right + 10, centre, GETS[lane])
        y += tall + GAP
    height = y - GAP + 24
    title = (
        "The ten ideas of the book: what is carried over from earlier tasks, and what a new task gets from it"
    )
    heads = [
        text(left + 85, 44, "Earlier tasks", size=18, anchor="middle", weight=700),
        text(left + 85, 68, "leave behind", size=16, colour=MUTED, anchor="middle"),
        text(middle + 107, 44, "A chapter", size=18, anchor="middle", weight=700),
        text(middle + 107, 68, "learns to reuse it", size=16, colour=MUTED, anchor="middle"),
        text(right + 10, 44, "A new task", size=18, weight=700),
        text(right + 10, 68, "gets in return", size=16, colour=MUTED),
    ]
    return svg(
        WIDTH,
        height,
        title,
        [
            f'<rect width="{WIDTH}" height="{height}" rx="14" fill="{GROUND}"/>',
            *heads,
            *body,
        ],
    )


def mark(x: float, y: float, size: float) -> list[str]:
    """The book's sign: three tasks that hand what they know to a fourth one."""
    unit = size / 16
    near, far, rows = x + 3 * unit, x + 12.5 * unit, [y + k * unit for k in (3, 8, 13)]
    pen = f'stroke="{PALETTE[0]}" stroke-width="{1.2 * unit:g}"'
    lines = [f'<path d="M{near:g} {row:g}L{far:g} {rows[1]:g}" {pen}/>' for row in rows]
    dots = [f'<circle cx="{near:g}" cy="{row:g}" r="{2 * unit:g}" fill="{PALETTE[0]}"/>' for row in rows]
    return [*lines, *dots, f'<circle cx="{far:g}" cy="{rows[1]:g}" r="{3 * unit:g}" fill="{PALETTE[1]}"/>']


def logo() -> str:
    """Sign and title on a light ground."""
    words = [
        text(86, 36, "Transferable AutoML,", size=20, weight=700),
        text(86, 62, "Reproduced", size=20, weight=700),
    ]
    ground = f'<rect width="348" height="84" rx="10" fill="{GROUND}"/>'
    return svg(348, 84, "Transferable AutoML, Reproduced", [ground, *mark(14, 12, 60), *words])


def icon() -> str:
    """The sign alone, for the browser's tab."""
    ground = f'<rect width="64" height="64" rx="12" fill="{GROUND}"/>'
    return svg(64, 64, "Transferable AutoML, Reproduced", [ground, *mark(4, 4, 56)])


def svg(width: float, height: float, title: str, body: list[str]) -> str:
    """An SVG document with a title for screen readers."""
    fonts = "system-ui, 'Segoe UI', Roboto, Helvetica, Arial, 'DejaVu Sans', sans-serif"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" font-family="{fonts}">'
    )
    return "\n".join([head, f"<title>{title}</title>", *body, "</svg>", ""])


FILES = {"book-map.svg": picture, "logo.svg": logo, "favicon.svg": icon}

if __name__ == "__main__":
    for name, draw in FILES.items():
        (HERE / name).write_text(draw(), encoding="utf-8")
