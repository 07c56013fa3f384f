"""Measuring latencies: with a fake clock where times matter, with real networks where outputs do."""

import gc
import hashlib
import os
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from nbpkg import machine
from nbpkg.errors import NbpkgError
from nbpkg.measure import isolation, latency
from nbpkg.measure.backends import Setting
from nbpkg.nb201 import space

SETTINGS = (Setting("light", repeats=2), Setting("heavy", batch=4, warmup=0), Setting("pair", threads=2))


class Machine:
    """A clock that every call puts forward by what it takes, on a machine whose speed changes by the visit.

    `stop_after`: the number of calls after which it is switched off. `visits`: the cells that were built.
    """

    def __init__(self, stop_after=None):
        self.now, self.calls, self.stop_after, self.visits = 0.0, 0, stop_after, []

    def clock(self):
        return self.now

    @staticmethod
    def seconds(ops, setting):
        return 1e-3 * (1 + space.index(ops) / 1000 + setting.batch * (np.asarray(ops) == 3).sum())

    def make_runs(self, ops):
        self.visits.append(tuple(ops))
        slowness = 1 + len(self.visits) % 3

        def runs(setting):
            def call():
                self.calls += 1
                if self.calls == self.stop_after:
                    raise KeyboardInterrupt
                # The reference network, made first, runs at the speed of the visit in which it is called.
                self.now += self.seconds(ops, setting) * (
                    1 + len(self.visits) % 3 if self.is_reference(ops) else slowness
                )

            return call

        return runs

    @staticmethod
    def is_reference(ops):
        return space.decode(ops) == latency.REFERENCE

    def measure(self, folder, cells=5, rounds=2, **arguments):
        """A measurement that neither pins nor prioritises anything: there is nothing to keep undisturbed."""
        arguments = {"settings": SETTINGS, **arguments}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NBPKG_CACHE", str(folder / "cache"))
            patch.setattr(latency, "isolated_cores", lambda threads: nullcontext(lambda: None))
            patch.setattr(latency, "realtime_priority", nullcontext)
            return self._measure(folder, cells, rounds, arguments)

    def _measure(self, folder, cells, rounds, arguments):
        return latency.measure(
            folder / "table.csv", cells, rounds, make_runs=self.make_runs, clock=self.clock, **arguments
        )


def test_the_machines_speed_falls_out_of_the_table(tmp_path):
    cells, medians, ranges = latency.read_embedded(Machine().measure(tmp_path, cells=7, rounds=3))
    ops = space.encode(cells)
    assert np.array_equal(ops, space.random(7, 0))
    for setting in SETTINGS:
        expected = np.array([Machine.seconds(cell, setting) for cell in ops])
        ratio = medians[setting.name] / expected
        assert np.allclose(ratio, ratio[0], rtol=1e-3)
        assert np.all(ranges[setting.name] <= 1e-3 * medians[setting.name])


def test_provenance_agrees_with_the_table(tmp_path):
    path = Machine().measure(tmp_path, cells=9)
    said = latency.read_provenance(path)
    cells, medians, _ = latency.read_embedded(path)
    assert list(said["settings"]) == list(medians) == [s.name for s in SETTINGS]
    assert said["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert said["cells"] == len(cells) == 9
    assert said["settings"]["light"]["timed_calls_per_cell"] == 4
    assert said["settings"]["heavy"]["words"] == "PyTorch eager, float32, batch 4, 1 thread"
    assert np.allclose(said["spearman"], spearmanr(np.stack(list(medians.values()), 1)).statistic, atol=1e-3)
    assert all(s["reliability"] == 1 for s in said["settings"].values())


@pytest.mark.parametrize("stop_after", [1, 12, 40, 75])
def test_a_stopped_measurement_goes_on_where_it_ended(tmp_path, stop_after):
    (tmp_path / "whole").mkdir()
    whole = Machine()
    expected = whole.measure(tmp_path / "whole")
    assert whole.calls > 75

    stopped = Machine(stop_after)
    with pytest.raises(KeyboardInterrupt):
        stopped.measure(tmp_path)
    assert not (tmp_path / "table.csv").exists()
    # The reference network is built first; the visit in which it stopped is lost.
    finished = stopped.visits[1:-1]
    resumed = Machine()
    found = latency.read_embedded(resumed.measure(tmp_path))
    assert len(finished) + len(resumed.visits) - 1 == 5 * 2 * 2
    for name, medians in latency.read_embedded(expected)[1].items():
        ratio = found[1][name] / medians
        assert np.allclose(ratio, ratio[0], rtol=1e-3)


def test_a_damaged_visit_is_timed_again(tmp_path, capsys):
    Machine().measure(tmp_path)
    first, second, *others = sorted((tmp_path / "cache" / "measure-latency").glob("*/*.memo"))
    assert len(others) == 5 * 2 * 2 - 2
    first.write_bytes(first.read_bytes()[:-20])
    second.write_bytes(b"null")
    again = Machine()
    again.measure(tmp_path)
    assert len(again.visits) - 1 == 2
    assert capsys.readouterr().out.count("is damaged") == 2


def test_more_rounds_add_to_what_was_timed_and_fewer_time_nothing(tmp_path):
    Machine().measure(tmp_path, rounds=2)
    more, fewer = Machine(), Machine()
    more.measure(tmp_path, rounds=3)
    assert len(more.visits) - 1 == 5 * 2
    fewer.measure(tmp_path, rounds=2)
    assert len(fewer.visits) - 1 == 0
    assert latency.read_provenance(tmp_path / "table.csv")["rounds"] == 2


@pytest.mark.parametrize("change", [{"seed": 1}, {"cells": 6}, {"settings": SETTINGS[:2]}, {"resume": False}])
def test_other_arguments_meet_no_old_times(tmp_path, change):
    Machine().measure(tmp_path)
    other = Machine()
    other.measure(tmp_path, **change)
    groups = len({s.threads for s in change.get("settings", SETTINGS)})
    assert len(other.visits) - 1 == change.get("cells", 5) * 2 * groups


def test_progress_says_the_time_left_in_few_lines(tmp_path, capsys):
    Machine().measure(tmp_path, cells=100)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 11 and lines[-1].startswith("visits  400/400  100 %")


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
    with pytest.raises(NbpkgError, match="no folder"):
        Machine().measure(tmp_path / "absent")


def test_quiet_leaves_everything_as_it_was():
    def state():
        scheduler = os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None
        collector = gc.isenabled(), gc.get_freeze_count()
        return machine.usable_cpus(), torch.get_num_threads(), *collector, scheduler

    before = state()
    with pytest.raises(ZeroDivisionError), isolation.isolated_cores(1), isolation.realtime_priority():
        assert torch.get_num_threads() == 1 and not gc.isenabled()
        raise ZeroDivisionError
    assert state() == before


def test_a_small_real_measurement(tmp_path, monkeypatch):
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path))
    settings = (Setting("one"), Setting("four", batch=4))
    path = latency.measure(tmp_path / "t.csv", 3, 2, settings)
    cells, medians, ranges = latency.read_embedded(path)
    assert len(cells) == 3
    for name in ("one", "four"):
        assert (medians[name] > 0.05).all() and (medians[name] < 5_000).all() and (ranges[name] >= 0).all()
    assert medians["four"].sum() > medians["one"].sum()
