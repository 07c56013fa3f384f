"""Figures: colours that all can tell apart, styles that belong to a method, axes that say what they show."""

import io
import itertools
import subprocess
import sys
import tomllib
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nbpkg.errors import NbpkgError
from nbpkg.report import first_edition, plots

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
VISION = {
    "full": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def linear(colour: str) -> np.ndarray:
    value = np.array(mpl.colors.to_rgb(colour))
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    dark, light = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other))
    return (light + 0.05) / (dark + 0.05)


def oklab(rgb: np.ndarray) -> np.ndarray:
    cone = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    opponent = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return opponent @ np.cbrt(cone @ np.clip(rgb, 0, 1))


def test_contrast_of_known_pairs():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("colour", [plots.INK, plots.MUTED])
def test_text_stands_out_from_the_ground(colour):
    assert contrast(colour, plots.GROUND) >= 4.5


@pytest.mark.parametrize("colour", plots.PALETTE)
def test_marks_stand_out_from_the_ground(colour):
    assert contrast(colour, plots.GROUND) >= 3


@pytest.mark.parametrize("vision", VISION)
def test_colours_differ_for_every_kind_of_vision(vision):
    for one, other in itertools.combinations([*plots.PALETTE, plots.INK], 2):
        seen = [oklab(VISION[vision] @ linear(colour)) for colour in (one, other)]
        assert np.linalg.norm(seen[0] - seen[1]) >= 0.1, (one, other)


def test_style_depends_on_the_name_alone():
    assert plots.style("HELP") == plots.style("help ") == plots.style("help")
    code = "from nbpkg.report import plots; print(plots.style('a new method'))"
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == str(plots.style("a new method"))
    assert plots.colour("help") == "#0072B2"


@given(
    st.lists(st.text(min_size=1, max_size=8), max_size=20, unique_by=lambda name: first_edition._key(name))
)
def test_methods_of_one_figure_never_look_alike(names):
    look = plots.styles(names)
    assert list(look) == names
    pairs = [(how.colour, how.marker) for how in look.values()]
    assert len(set(pairs)) == len(pairs)
    assert plots.styles(names[::-1]) == look


def test_import_changes_nothing_and_needs_no_pyplot():
    code = (
        # Asking for the backend would choose one, and import pyplot for it.
        "import matplotlib as mpl, sys; "
        "now = lambda: {k: mpl.rcParams[k] for k in mpl.rcParams if k != 'backend'}; "
        "before = now(); import nbpkg.report.plots; assert now() == before; "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_theme_sets_what_figures_use():
    with mpl.rc_context():
        mpl.rcParams["axes.spines.top"] = True
        plots.theme()
        assert mpl.rcParams["axes.spines.top"] is False
        assert mpl.rcParams["figure.facecolor"] == plots.GROUND


def drawn():
    fig, ax = plots.figure()
    ax.plot([0, 1], [0, 1])
    return fig, ax


def test_numbers_without_a_label_are_refused():
    fig, ax = drawn()
    assert len(plots.unlabelled(fig)) == 2
    ax.set_xlabel("step")
    with pytest.raises(ValueError, match=r"panel 0 \(untitled\): y"):
        plots.finish(fig)
    ax.set_ylabel("loss")
    plots.finish(fig)


def test_labels_are_not_asked_for_where_none_is_needed():
    fig, axes = plots.figure(2, 2, sharex=True, sharey=True)
    for ax in axes.flat:
        ax.plot([0, 1], [0, 1])
    for ax in axes[-1]:
        ax.set_xlabel("step")
    for ax in axes[:, 0]:
        ax.set_ylabel("loss")
    assert plots.unlabelled(fig) == []
    fig, ax = plots.figure()
    ax.barh(["ours", "theirs"], [1, 2])
    ax.set_xlabel("ms")
    assert plots.unlabelled(fig) == []
    fig, ax = drawn()
    ax.axis("off")
    assert plots.unlabelled(fig) == []


def test_logarithmic_ticks_count_as_numbers():
    fig, ax = drawn()
    ax.set_xscale("log")
    ax.set_ylabel("loss")
    assert [text[-1] for text in plots.unlabelled(fig)] == ["x"]


def test_intervals_draw_what_they_are_given():
    _, ax = plots.figure()
    plots.intervals(ax, ["help", "ridge"], [0.9, 0.8], [0.85, np.nan], [0.95, np.nan], paper={"help": 0.93})
    ax.set_xlabel("rank correlation")
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["help", "ridge"]
    bars = [c for c in ax.containers if c.has_xerr]
    assert len(bars) == 1
    (low, _), (high, _) = bars[0].lines[2][0].get_segments()[0]
    assert (low, high) == pytest.approx((0.85, 0.95))
    assert [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "|"][-1] == pytest.approx(0.93)
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first method is on top


def test_curve_bands_lie_between_low_and_high():
    _, ax = plots.figure()
    plots.curve(ax, [0, 1, 2], [1, 2, 3], [0, 1, 2], [2, 3, 4], name="help", label="HELP")
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == 0 and band[:, 1].max() == 4
    assert ax.get_legend_handles_labels()[1] == ["HELP"]


def test_png_is_faithful_small_and_repeatable():
    points = np.random.default_rng(0).normal(size=(2, 15_625))
    fig, axes = plots.figure(1, 2)
    for ax, name in zip(axes, ["help", "ours"], strict=True):
        plots.points(ax, *points, colour=plots.colour(name))
        ax.set(xlabel="a (ms)", ylabel="b (ms)")
    first = plots.png(fig)
    assert first == plots.png(fig)
    assert len(first) < 250_000
    image = np.asarray(Image.open(io.BytesIO(first)).convert("RGB"), int)
    assert image.shape == (461, 1037, 3) or abs(image.shape[1] - 7.2 * plots.DPI) <= 1
    for name in ("help", "ours"):
        target = np.array(mpl.colors.to_rgb(plots.colour(name))) * 255
        assert np.abs(image - target).max(axis=2).min() <= 32


def test_letters_keep_titles():
    _, axes = plots.figure(1, 2)
    axes[0].set_title("Latency")
    plots.letter(axes)
    assert [ax.get_title(loc="left") for ax in axes] == ["(a) Latency", "(b)"]


def test_every_look_belongs_to_one_method():
    names = tomllib.loads(Path(plots.__file__).with_name("looks.toml").read_text())
    found = plots.looks(names)
    pairs = [(look.colour, look.marker) for look in found.values()]
    assert len(set(pairs)) == len(pairs) == len(names)
    assert plots.looks(["HELP"]) == {"HELP": found["HELP"]}
    with pytest.raises(NbpkgError, match="'a new one' has no look yet"):
        plots.looks(["HELP", "a new one"])


def test_seaborn_draws_methods_in_their_looks():
    asked = plots.hue(["HELP", "FLOPs"], style=True)
    assert asked["hue"] == asked["style"] == "method" and asked["hue_order"] == ["HELP", "FLOPs"]
    assert asked["palette"]["FLOPs"] == plots.MUTED and asked["markers"]["HELP"] == "o"
