"""What a session notes and shows: metrics, claims, tables."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from nbpkg.data import needs
from nbpkg.errors import NbpkgError
from nbpkg.report.record import Record
from nbpkg.report.verdicts import at_least
from nbpkg.session import Session


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An own cache and record, one thread again afterwards; no data is asked for."""
    monkeypatch.setattr(needs, "lacking", lambda *_: "")
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NBPKG_RECORD", str(tmp_path / "record.json"))
    monkeypatch.delenv("NBPKG_THREADS", raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def opened(**changes) -> Session:
    return Session(
        **({"chapter": "98_test", "profile": "standard", "seeds": [0, 1, 2], "device": "cpu"} | changes)
    )


# ------------------------------------------------------------------ metrics and claims


@pytest.mark.parametrize(
    "value", [[1.0, 2.0, 3.0], (1, 2, 3), {2: 3.0, 0: 1.0, 1: 2.0}, np.arange(1.0, 4.0), torch.arange(1, 4)]
)
def test_values_over_seeds_become_mean_and_interval(value):
    metric = opened().metric("spearman/nb201/help/mean", value, paper=2.5, unit="ms")
    assert (
        metric.value == 2.0 and metric.n == 3 and metric.low == pytest.approx(2 - 4.302652729911275 / 3**0.5)
    )
    assert metric.per_seed == {0: 1.0, 1: 2.0, 2: 3.0} and (metric.paper, metric.unit) == (2.5, "ms")


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.array(2.0), torch.tensor(2.0)])
def test_a_single_number_has_no_interval_unless_given(value):
    s = opened()
    metric = s.metric("a", value)
    assert (metric.value, metric.low, metric.high, metric.n, metric.per_seed) == (2.0, None, None, 1, None)
    own = s.metric("b", value, low=np.float64(1.5), high=2.5, n=20)
    assert (own.low, own.high, own.n) == (1.5, 2.5, 20)


def test_an_interval_of_ones_own_keeps_the_values_of_the_seeds():
    metric = opened().metric("a", [1.0, 2.0, 3.0], low=1.9, high=2.1, n=60)
    assert (metric.low, metric.high, metric.n, len(metric.per_seed)) == (1.9, 2.1, 60, 3)
    assert opened(seeds=[7]).metric("a", [1.0]).low is None
    assert opened().metric("a", {1: 4.0}).per_seed == {1: 4.0}


@pytest.mark.parametrize(
    "value, more",
    [
        (float("nan"), {}),
        ([1.0, 2.0], {}),
        ({3: 1.0}, {}),
        ({}, {}),
        ([1.0, 2.0, float("inf")], {}),
        (1.0, {"low": 0.5}),
        (1.0, {"low": 2.0, "high": 1.0}),
        (1.0, {"n": 0}),
        (1.0, {"paper": float("nan")}),
        ("high", {}),
    ],
)
def test_metrics_that_make_no_sense_are_refused(value, more):
    s = opened()
    with pytest.raises(ValueError):
        s.metric("a", value, **more)
    assert s.record().metrics == {}


def test_a_metric_is_replaced_only_when_told_to():
    s = opened()
    s.metric("a", 1.0)
    with pytest.raises(ValueError, match="replace"):
        s.metric("a", 2.0)
    s.metric("a", 2.0, replace=True)
    assert s.record().metrics["a"].value == 2.0
    with pytest.raises(ValueError):
        s.metric(" ", 1.0)


def test_claims_are_judged_by_their_rule_and_again_when_a_metric_is_replaced():
    s = opened()
    s.metric("rho", [0.94, 0.95, 0.96])
    rule = at_least("rho", 0.9)
    claim = s.claim("few-shot", "It works.", metrics=["rho"], test="interval", rule=rule, note="20 draws")
    assert claim.verdict == "reproduced"
    assert claim.note == "20 draws; 0.950 [0.925, 0.975] against at least 0.900"
    s.metric("rho", [0.5, 0.5, 0.5], replace=True)
    s.finish()
    assert Record.load(os.environ["NBPKG_RECORD"]).claims[0].verdict == "contradicted"


def test_claims_that_make_no_sense_are_refused():
    s = opened()
    s.metric("rho", 0.9)
    told = {"metrics": ["rho"], "test": "t"}
    s.claim("a", "s", rule=lambda metrics: "partly", **told)
    with pytest.raises(ValueError, match="already"):
        s.claim("a", "s", rule=lambda metrics: "partly", **told)
    with pytest.raises(ValueError, match="mostly"):
        s.claim("b", "s", rule=lambda metrics: "mostly", **told)
    with pytest.raises(ValueError, match="absent"):
        s.claim("c", "s", metrics=["absent"], test="t", rule=lambda metrics: "partly")
    assert s.claim("d", "s", metrics="rho", test="t", rule=lambda metrics: "partly").metrics == ("rho",)
    assert [claim.id for claim in s.record().claims] == ["a", "d"]


def test_a_rule_sees_only_the_metrics_that_its_claim_names():
    s = opened()
    s.metric("seen", 1.0)
    s.metric("unseen", 1.0)
    with pytest.raises(KeyError):
        s.claim("a", "s", metrics=["seen"], test="t", rule=at_least("unseen", 0))


def test_finish_refuses_a_claim_on_an_unknown_metric_and_writes_nothing():
    s = opened()
    s.metric("rho", 0.9)
    s.claim("a", "s", metrics=["rho"], test="t", rule=lambda metrics: "partly")
    del s.log.metrics["rho"]
    with pytest.raises(ValueError, match="rho"):
        s.finish()
    assert not os.path.exists(os.environ["NBPKG_RECORD"])


# ------------------------------------------------------------------ tables


def filled() -> Session:
    s = opened()
    s.metric("rho/a", [0.9, 0.91, 0.92], paper=0.93)
    s.metric("rho/b", 0.5)
    s.metric("rhodium", 0.7)
    s.claim("a", "A | B", metrics=["rho/a"], test="t", rule=at_least("rho/a", 0.8))
    s.deviation("d", "e")
    return s


def test_tables_are_printed_in_a_script(capsys):
    s = filled()
    s.say("**hello**")
    s.claims_table()
    s.deviations_table()
    s.run_card()
    out = capsys.readouterr().out
    assert out.startswith("**hello**\n| claim | verdict | ours | paper | test |")
    assert (
        "A \\| B" in out
        and "**reproduced**" in out
        and "| 1 | d | e |" in out
        and "| profile | standard |" in out
    )


def test_tables_are_displayed_in_a_notebook(monkeypatch, capsys):
    import IPython
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    monkeypatch.setattr(IPython.display, "display", shown.append)
    filled().claims_table()
    assert isinstance(shown[0], IPython.display.Markdown) and "reproduced" in shown[0].data
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "asked, names",
    [
        ((), ["rho/a", "rho/b", "rhodium"]),
        (("rho",), ["rho/a", "rho/b"]),
        (("rho/",), ["rho/a", "rho/b"]),
        (("rhodium", "rho/a"), ["rhodium", "rho/a"]),
        ((["rho/b"], "rho"), ["rho/b", "rho/a"]),
    ],
)
def test_metrics_table_takes_names_and_prefixes(asked, names, capsys):
    filled().metrics_table(*asked)
    assert re.findall(r"^\| `(.+?)`", capsys.readouterr().out, re.M) == names


def test_metrics_table_refuses_a_name_without_metrics():
    with pytest.raises(ValueError, match="rh"):
        filled().metrics_table("rh")


def test_the_record_in_the_file_is_what_the_session_shows():
    s = filled()
    s.finish()
    raw = json.loads(Path(os.environ["NBPKG_RECORD"]).read_text())
    assert raw["metrics"]["rho/a"]["paper"] == 0.93 and raw["claims"][0]["verdict"] == "reproduced"


def test_show_prints_the_source_of_a_method_and_refuses_a_value(capsys):
    s = opened()
    s.show(Record.from_json)
    out = capsys.readouterr().out
    assert out.startswith("`Record.from_json`, in `nbpkg.report.record`:\n\n```python\n@classmethod\ndef ")
    assert out.rstrip().endswith("```")
    with pytest.raises(NbpkgError, match="no source"):
        s.show(3)


def test_claims_are_listed_by_verdict(capsys):
    s = opened()
    s.metric("x", 1.0, low=0.5, high=1.5)
    for id, statement, threshold in (("a", "one", 0.0), ("b", "two", 2.0), ("c", "three", 0.1)):
        s.claim(id, statement, metrics=["x"], test="t", rule=at_least("x", threshold))
    s.claims_by_verdict()
    assert capsys.readouterr().out == "- **reproduced**: one; three.\n- **contradicted**: two.\n"
