"""Measuring latencies: with made-up times where times matter, with real networks where outputs do."""

import hashlib
import os

import numpy as np
import pytest

from nbpkg.data.latency_table import read_embedded, read_provenance
from nbpkg.errors import NbpkgError
from nbpkg.measure import latency
from nbpkg.measure.backends import Setting
from nbpkg.nb201 import space

SETTINGS = (Setting("light", repeats=2), Setting("heavy", batch=4), Setting("pair", threads=2))


class Machine:
    """A machine whose speed changes by the visit, in place of this one.

    stop_after: the number of timings after which it is switched off. visits: the cells that were built.
    """

    def __init__(self, stop_after=None):
        self.timed, self.stop_after, self.visits = 0, stop_after, []

    @staticmethod
    def ms(ops, setting):
        return 1 + space.index(ops) / 1000 + setting.batch * (np.asarray(ops) == 3).sum()

    def cell_network(self, ops, width, keep_dead=False):
        if space.decode(ops) != latency.REFERENCE:
            self.visits.append(tuple(ops))
        return ops

    def time_ms(self, call, setting):
        self.timed += 1
        if self.timed == self.stop_after:
            raise KeyboardInterrupt
        return self.ms(call, setting) * (1 + len(self.visits) % 3)

    def measure(self, folder, cells=5, rounds=2, **arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NBPKG_CACHE", str(folder / "cache"))
            patch.setattr(latency, "cell_network", self.cell_network)
            patch.setattr(latency, "runner", lambda ops, *_: ops)
            patch.setattr(latency, "time_ms", self.time_ms)
            return latency.measure(folder / "table.csv", cells, rounds, **{"settings": SETTINGS, **arguments})


def test_the_machines_speed_falls_out_of_the_table(tmp_path):
    cells, medians, ranges = read_embedded(Machine().measure(tmp_path, cells=7, rounds=3))
    ops = space.encode(cells)
    assert np.array_equal(ops, space.random(7, 0))
    for setting in SETTINGS:
        expected = np.array([Machine.ms(cell, setting) for cell in ops])
        ratio = medians[setting.name] / expected
        assert np.allclose(ratio, ratio[0], rtol=1e-3)
        assert np.all(ranges[setting.name] <= 1e-3 * medians[setting.name])


def test_provenance_agrees_with_the_table(tmp_path):
    path = Machine().measure(tmp_path, cells=9)
    said = read_provenance(path)
    cells, medians, _ = read_embedded(path)
    assert list(said["settings"]) == list(medians) == [s.name for s in SETTINGS]
    assert said["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert said["cells"] == len(cells) == 9
    assert said["settings"]["light"]["timed_calls_per_cell"] == 4
    assert said["settings"]["heavy"]["words"] == "PyTorch eager, float32, batch 4, 1 thread"
    assert all(s["reliability"] == 1 for s in said["settings"].values())


@pytest.mark.parametrize("stop_after", [1, 12, 40, 75])
def test_a_stopped_measurement_goes_on_where_it_ended(tmp_path, stop_after):
    (tmp_path / "whole").mkdir()
    whole = Machine()
    expected = whole.measure(tmp_path / "whole")
    assert whole.timed > 75

    stopped = Machine(stop_after)
    with pytest.raises(KeyboardInterrupt):
        stopped.measure(tmp_path)
    assert not (tmp_path / "table.csv").exists()
    finished = stopped.visits[:-1]  # the visit in which it stopped is lost
    resumed = Machine()
    found = read_embedded(resumed.measure(tmp_path))
    assert len(finished) + len(resumed.visits) == 5 * 2
    for name, medians in read_embedded(expected)[1].items():
        ratio = found[1][name] / medians
        assert np.allclose(ratio, ratio[0], rtol=1e-3)


def test_a_damaged_visit_is_timed_again(tmp_path, capsys):
    Machine().measure(tmp_path)
    first, second, *others = sorted((tmp_path / "cache" / "measure-latency").glob("*/*.memo"))
    assert len(others) == 5 * 2 - 2
    first.write_bytes(first.read_bytes()[:-20])
    second.write_bytes(b"null")
    again = Machine()
    again.measure(tmp_path)
    assert len(again.visits) == 2
    assert capsys.readouterr().out.count("is damaged") == 2


def test_more_rounds_add_to_what_was_timed_and_fewer_time_nothing(tmp_path):
    Machine().measure(tmp_path, rounds=2)
    more, fewer = Machine(), Machine()
    more.measure(tmp_path, rounds=3)
    assert len(more.visits) == 5
    fewer.measure(tmp_path, rounds=2)
    assert not fewer.visits
    assert read_provenance(tmp_path / "table.csv")["rounds"] == 2


@pytest.mark.parametrize("change", [{"seed": 1}, {"cells": 6}, {"settings": SETTINGS[:2]}, {"resume": False}])
def test_other_arguments_meet_no_old_times(tmp_path, change):
    Machine().measure(tmp_path)
    other = Machine()
    other.measure(tmp_path, **change)
    assert len(other.visits) == change.get("cells", 5) * 2


def test_progress_says_the_time_left_in_few_lines(tmp_path, capsys):
    Machine().measure(tmp_path, cells=100)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 11 and lines[-1].startswith("visits  200/200  100 %")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rounds": 1}, "two rounds"),
        ({"settings": ()}, "settings"),
        ({"settings": (Setting("a", repeats=0),)}, "one repeat"),
        ({"settings": (Setting("a"), Setting("a", batch=2))}, "distinct"),
        ({"cells": 20_000}, "cannot draw"),
    ],
)
def test_arguments_that_make_no_table_are_refused(tmp_path, arguments, message):
    with pytest.raises(NbpkgError, match=message):
        Machine().measure(tmp_path, **arguments)


def test_the_priority_is_as_before_afterwards():
    def priority():
        return os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None

    before = priority()
    with pytest.raises(ZeroDivisionError), latency.realtime_priority():
        raise ZeroDivisionError
    assert priority() == before


def test_a_small_real_measurement(tmp_path, monkeypatch):
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path))
    settings = (Setting("one"), Setting("four", batch=4), Setting("pair", batch=4, threads=2))
    cells, medians, ranges = read_embedded(latency.measure(tmp_path / "t.csv", 3, 2, settings))
    assert len(cells) == 3
    for name in medians:
        assert (medians[name] > 0.05).all() and (medians[name] < 5_000).all() and (ranges[name] >= 0).all()
    assert medians["four"].sum() > medians["one"].sum()
