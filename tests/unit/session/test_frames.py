"""Rows of a session: made once, kept by the claims that they were made under, judged and written."""

import json
import sys

import numpy as np
import pandas as pd
import pytest

from nbpkg.data import needs
from nbpkg.errors import NbpkgError
from nbpkg.report import claims, frames
from nbpkg.report.record import Record
from nbpkg.session import Session

CALLS = []
PLAN = """
[smallest]
score = { size = 0.05, why = "a fifth of the paper's gain" }

[defaults]
frame = "scores"
value = "score"
unit = "seed"
n = 3

[[claim]]
id = "beats-rule"
says = "The method is better than the rule."
whose = "book"
question = "rival"
a = "method == 'ours'"
b = "method == 'rule'"
rule = "a > b"

[[deviation]]
text = "Three seeds in place of ten."
effect = "wider intervals"
"""


class Calls:
    """Leads to this file's list of calls without being it: a list that grows would change the fingerprint."""


def score(seed, space):
    sys.modules[Calls.__module__].CALLS.append((seed, space))
    return [{"method": "ours", "score": 0.75 + 0.01 * seed}, {"method": "rule", "score": 0.5}]


def constant(space):
    return {"method": ["FLOPs", "lookup"], "score": [0.25, 0.3]}


def batched(seeds):
    return pd.DataFrame({"seed": np.repeat(seeds, 2), "method": ["ours", "rule"] * len(seeds), "score": 0.1})


@pytest.fixture(autouse=True)
def planned(book, monkeypatch):
    monkeypatch.setattr(needs, "lacking", lambda *_: "")
    monkeypatch.delenv("NBPKG_RECORD", raising=False)
    path = book.root / "notebooks/claims/03_help.toml"
    path.parent.mkdir()
    path.write_text(PLAN)
    CALLS.clear()
    return path


def opened(profile="standard", seeds=(0, 1, 2)):
    return Session("03_help", profile, list(seeds), "cpu")


def scores(session, workers=1):
    return session.frame("scores", score, [dict(space="nb201", seed=seed) for seed in session.seeds], workers)


def test_rows_carry_what_their_call_was_given():
    session = opened()
    found = scores(session)
    assert list(found.columns) == ["space", "seed", "method", "score"] and len(found) == 6
    assert set(found["space"]) == {"nb201"} and list(found["seed"]) == [0, 0, 1, 1, 2, 2]
    assert (found["score"] == found["score"].astype(np.float32)).all()
    with pytest.raises(NbpkgError, match="choose another name"):
        scores(session)


def test_rows_without_a_seed_and_rows_of_all_seeds():
    session = opened()
    each = [dict(space="nb201")]
    assert "seed" not in session.frame("rules", constant, each)
    found = session.frame("batched", batched, [dict(seeds=session.seeds)])
    assert list(found["seed"]) == [0, 0, 1, 1, 2, 2] and "seeds" not in found


def test_calls_are_made_once_by_any_number_of_workers():
    first = scores(opened())
    assert len(CALLS) == 3
    assert scores(opened(seeds=[0, 1, 2, 3])).iloc[:6].equals(first)
    assert len(CALLS) == 4
    assert scores(opened(seeds=[4, 5]), workers=2)["seed"].tolist() == [4, 4, 5, 5]


def test_an_edited_claim_is_not_judged_by_rows_from_before(planned):
    scores(opened())
    planned.write_text(PLAN.replace("effect = ", "effect  = ").replace("wider", "much wider"))
    scores(opened())
    assert len(CALLS) == 3  # a deviation binds nothing
    planned.write_text(PLAN.replace("0.05", "0.04"))
    scores(opened())
    assert len(CALLS) == 6


def test_pilots_and_smoke_do_not_depend_on_claims(planned):
    scores(opened(seeds=[1000, 1001]))
    scores(opened("smoke", [0]))
    planned.write_text(PLAN.replace("0.05", "0.04"))
    scores(opened(seeds=[1000, 1001]))
    scores(opened("smoke", [0]))
    assert len(CALLS) == 3
    with pytest.raises(NbpkgError, match="run those apart"):
        opened(seeds=[0, 1000])


def test_verdicts_rows_and_deviations_are_in_the_record(book, capsys):
    session = opened()
    made = scores(session)
    judged = session.claims()
    session.finish()
    record = Record.load(book.root / "runs/standard/03_help.json")
    assert [claim.verdict for claim in record.claims] == ["reproduced"] == list(judged["verdict"])
    assert record.metrics["beats-rule"].n == 3 and record.deviations[0].effect == "wider intervals"
    assert "**reproduced**" in capsys.readouterr().out
    path = book.root / "runs/standard/03_help.scores.parquet"
    stored, bound = frames.load(path)
    assert stored.equals(made) and bound == claims.find("03_help").sha256 == record.plan["sha256"]
    assert record.rows["scores"]["rows"] == 6 and record.rows["scores"]["workers"].startswith("1 on cpu")
    assert "report/judging.py" in record.modules and "cli/chapters.py" not in record.modules


def test_at_smoke_no_verdict_is_shown(book, capsys):
    session = opened("smoke", [0, 1, 2])
    scores(session)
    session.claims()
    session.metric("x", 1.0)
    session.claim("old", "An older claim.", metrics="x", test="by eye", rule=lambda metrics: "reproduced")
    session.claims_table()
    session.claims_by_verdict()
    session.finish()
    out = capsys.readouterr().out
    assert "too small to judge" in out and "**reproduced**" not in out
    raw = json.loads((book.root / "runs/smoke/03_help.json").read_text())
    assert {claim["verdict"] for claim in raw["claims"]} == {"too small to judge"}


def test_a_claims_file_that_is_not_judged_is_no_finished_run():
    session = opened()
    scores(session)
    with pytest.raises(NbpkgError, match=r"s.claims\(\) was not called"):
        session.finish()


def test_whole_numbers_that_some_calls_lack_stay_whole(tmp_path):
    made = frames.tidy([{"x": [1.0]}, {"x": [2.0]}], [{"seed": 1}, {}])
    assert str(made["seed"].dtype) == "Int64" and made["seed"].isna().sum() == 1
    frames.save(made, tmp_path / "a.parquet")
    assert frames.load(tmp_path / "a.parquet")[0].equals(made)


def test_what_cannot_be_rows_is_refused(tmp_path):
    with pytest.raises(NbpkgError, match="no rows"):
        frames.columns([])
    with pytest.raises(NbpkgError, match="a row a value"):
        frames.columns([{"x": [1, 2]}])
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(NbpkgError, match=r"a\.parquet: no readable rows"):
        frames.load(tmp_path / "a.parquet")


def test_a_table_shows_means_intervals_and_the_paper():
    frame = pd.DataFrame({"space": "x", "method": list("aabb"), "score": [0.1, 0.3, 0.5, 0.5]})
    text = frames.table(frame, "score", "method", "space", paper={("x", "b"): 0.6}, order=["b", "a"])
    assert text.splitlines()[2:] == ["| b | 0.500; paper 0.600 |", "| a | 0.200 [-1.071, 1.471] |"]
