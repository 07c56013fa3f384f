"""The latency table: the one that is shipped, and tables that are damaged."""

import hashlib
import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from nbpkg.data import latency_table
from nbpkg.errors import NbpkgError
from nbpkg.nb201 import space


def test_the_embedded_table_is_large_enough_and_sound():
    cells, medians, ranges = latency_table.read_embedded()
    assert len(set(cells)) == len(cells) >= 600
    assert len(medians) >= 6 and set(medians) == set(ranges)
    assert space.live_edges(space.encode(cells)).any(1).mean() > 0.9
    for name in medians:
        assert np.isfinite(medians[name]).all() and (medians[name] > 0).all()
        assert np.median(ranges[name] / medians[name]) < 0.25
    assert latency_table.EMBEDDED.stat().st_size < 250_000


def test_the_embedded_table_agrees_with_its_provenance():
    cells, medians, _ = latency_table.read_embedded()
    said = latency_table.read_provenance()
    assert said["sha256"] == hashlib.sha256(latency_table.EMBEDDED.read_bytes()).hexdigest()
    assert list(said["settings"]) == list(medians)
    assert cells == space.decode(space.random(said["cells"], said["seed"]))
    ranks = spearmanr(np.stack(list(medians.values()), 1)).statistic
    assert np.allclose(said["spearman"], ranks, atol=5e-3)
    assert "/" not in json.dumps(said)  # no folder of the machine that measured


def test_the_embedded_devices_repeat_themselves_and_differ():
    said = latency_table.read_provenance()
    assert min(s["reliability"] for s in said["settings"].values()) > 0.9
    assert np.min(said["spearman"]) < 0.7


def small_table(folder):
    """Three cells, two settings, written as a measurement writes them."""
    times = {name: np.random.default_rng(0).uniform(1, 2, (3, 2)) for name in ("a", "b")}
    path = folder / "table.csv"
    latency_table.write_table(path, space.decode(space.random(3, 0)), times, {"settings": {"a": {}, "b": {}}})
    return path


def damaged(text, how):
    lines = text.splitlines(keepends=True)
    row = lines[2].split(",")
    return {
        "empty": "",
        "header only": lines[0],
        "cut off": text[:-20],
        "column gone": lines[0].rsplit(",", 1)[0] + "\n" + "".join(lines[1:]),
        "not a cell": text.replace("|+|", "|-|", 1),
        "twice": text + lines[1],
        "nan": text.replace(row[1], "nan", 1),
        "zero": text.replace(row[1], "0", 1),
        "negative spread": "".join([*lines[:2], ",".join([*row[:2], "-1", *row[3:]]), *lines[3:]]),
        "a word": text.replace(row[1], "fast", 1),
        "other file": "<html></html>\n",
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        "empty", "header only", "cut off", "column gone", "not a cell", "twice", "nan", "zero",
        "negative spread", "a word", "other file",
    ],
)  # fmt: skip
def test_a_damaged_table_is_refused_by_name(tmp_path, how):
    text = small_table(tmp_path).read_text()
    path = tmp_path / "damaged.csv"
    path.write_text(damaged(text, how))
    with pytest.raises(NbpkgError, match=r"damaged\.csv: .*measure-latency"):
        latency_table.read_embedded(path)


def test_an_absent_table_or_provenance_is_one_clear_line(tmp_path):
    with pytest.raises(NbpkgError, match=r"gone\.csv: absent"):
        latency_table.read_embedded(tmp_path / "gone.csv")
    with pytest.raises(NbpkgError, match=r"gone\.json: absent"):
        latency_table.read_provenance(tmp_path / "gone.csv")
