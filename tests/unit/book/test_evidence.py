"""A published record and what it speaks of: whatever is edited in one of them is named."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
from books import finished_run

from nbpkg import chapters
from nbpkg.book import evidence, moved, notebook, publish
from nbpkg.book.check import check
from nbpkg.chapters.hashes import modules
from nbpkg.errors import NbpkgError
from nbpkg.paths import git
from nbpkg.report import claims, frames, judging
from nbpkg.report.record import Deviation, Record
from nbpkg.session.first_edition import over_seeds

PLAN = """
[smallest]
score = { size = 0.05, why = "a fifth of the paper's gain" }

[[claim]]
id = "beats-rule"
says = "The method is better than the rule."
name = "better than the rule"
whose = "book"
question = "rival"
frame = "scores"
value = "score"
a = "method == 'ours'"
b = "method == 'rule'"
rule = "a > b"
unit = "seed"
n = 3

[[deviation]]
text = "Three seeds."
effect = "wide intervals"
"""
PROSE = """
# %% [markdown]
# <!-- held -->
# <!-- /held -->
#
# The rule is beaten. <!-- relies: beats-rule=reproduced -->
"""
STREAM = {"output_type": "stream", "name": "stdout", "text": "0.25\n"}
PER_SEED = {"gain": over_seeds({0: 0.1, 1: 0.2, 2: 0.6})}


def rows(shift=0.3):
    frame = pd.DataFrame({"seed": [0, 1, 2]})
    gains = np.float32([0.5, 0.51, 0.52]) + np.float32(shift)
    ours = frame.assign(method="ours", score=gains.astype(float))
    return pd.concat([ours, frame.assign(method="rule", score=0.5)], ignore_index=True)


def commit(book, message="x"):
    if not (book.root / ".git").exists():
        (book.root / ".gitignore").write_text("runs/\n")
        subprocess.run(["git", "init", "-q", str(book.root)], check=True)
    command = ["git", "-C", str(book.root), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*command, "add", "-A"], check=True)
    subprocess.run([*command, "commit", "-qm", message, "--allow-empty"], check=True)
    return git("rev-parse", "HEAD").strip()


def claims_file(book, text=PLAN):
    path = book.root / "notebooks/claims/03_help.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def run(book, of, made=None, bound=None, **changes):
    """Lays down a run of the second edition at the commit `of`, its rows under the claims `bound`."""
    plan = claims.find("03_help")
    made = rows() if made is None else made
    path = chapters.runs_dir("standard") / "03_help.scores.parquet"
    digest = frames.save(made, path, bound or plan.sha256)
    judged, metrics = judging.entries(judging.judge({"scores": made}, plan), plan)
    record = {
        "claims": judged, "metrics": metrics, "commit": of, "plan": {"sha256": plan.sha256},
        "rows": {"scores": {"sha256": digest, "rows": len(made), "workers": "1"}},
        "deviations": [Deviation(i, *both) for i, both in enumerate(plan.deviations, start=1)],
        "modules": modules("03_help"),
    }  # fmt: skip
    finished_run(book, outputs={2: [STREAM]}, record=record | changes)


@pytest.fixture
def first(book):
    """A chapter of the first edition, published."""
    finished_run(book, outputs={2: [STREAM]}, record={"metrics": PER_SEED, "claims": []})
    publish.publish(["help"])
    assert check() == ([], [])
    return book


@pytest.fixture
def second(book):
    """A chapter of the second edition, published and committed."""
    book.write(middle=PROSE)
    claims_file(book)
    run(book, commit(book, "claims"))
    publish.publish(["help"])
    commit(book, "published")
    assert check() == ([], [])
    return book


def edit(path, change):
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def record_of(book):
    return book.root / "results/standard/03_help.json"


def problems():
    return "\n".join(check()[0])


# ---------------------------------------------------------------- tampering, either edition


@pytest.mark.parametrize("edition", ["first", "second"])
def test_an_edited_number_in_a_record_is_named(edition, request):
    book = request.getfixturevalue(edition)
    name = "gain" if edition == "first" else "beats-rule"
    edit(record_of(book), lambda raw: raw["metrics"][name].update(value=0.599))
    said = problems()
    assert "not the one that the notebook was published with" in said
    assert f"metric {name} is not" in said


@pytest.mark.parametrize("edition", ["first", "second"])
def test_an_edited_number_is_named_even_where_the_hashes_were_mended(edition, request):
    book = request.getfixturevalue(edition)
    name = "gain" if edition == "first" else "beats-rule"
    edit(record_of(book), lambda raw: raw["metrics"][name].update(low=0.01))
    digest = chapters.file_sha256(record_of(book))
    made = book.root / "notebooks/03_help.ipynb"
    edit(made, lambda raw: raw["metadata"]["nbpkg"].update(record_sha256=digest))
    (line,) = check()[0]
    assert f"metric {name} is not" in line


@pytest.mark.parametrize("edition", ["first", "second"])
def test_an_edited_output_is_named(edition, request):
    book = request.getfixturevalue(edition)
    path = book.root / "notebooks/03_help.ipynb"
    path.write_text(path.read_text().replace("0.25", "0.95"))
    assert "outputs are not those that the record" in problems()


@pytest.mark.parametrize("edition", ["first", "second"])
def test_an_edited_table_in_the_readme_is_named(edition, request):
    path = request.getfixturevalue(edition).root / "README.md"
    path.write_text(path.read_text().replace("90 s", "9 s"))
    assert "the scoreboard is not that of the records" in problems()


@pytest.mark.parametrize("edition", ["first", "second"])
def test_a_record_beside_another_runs_notebook_is_named(edition, request):
    book = request.getfixturevalue(edition)
    edit(record_of(book), lambda raw: raw.update(peak_memory_mb=1.0))
    assert "not the one that the notebook was published with: publish again" in problems()


# ---------------------------------------------------------------- tampering with verdicts


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('rule = "a > b"', 'rule = "a < b"'),
        ("a = \"method == 'ours'\"", "a = \"method == 'rule'\""),
        ("b = \"method == 'rule'\"", "b = 0.2"),
        ("size = 0.05", "size = 0.5"),
        ('question = "rival"', 'question = "new"'),
        ("n = 3", "n = 4"),
    ],
)
def test_a_claims_file_that_changed_after_the_run_is_named(second, old, new):
    path = claims_file(second, PLAN.replace(old, new))
    assert path.read_text() != PLAN
    assert "the claims file has changed since the run" in problems()
    with pytest.raises(NbpkgError, match="the claims file has changed since the run"):
        publish.publish(["help"])


def test_rows_from_before_a_claim_are_not_published_under_it(second):
    old = claims.find("03_help").sha256
    claims_file(second, PLAN.replace("0.05", "0.04"))
    run(second, commit(second, "another effect"), bound=old)
    with pytest.raises(NbpkgError, match="was computed under other claims"):
        publish.publish(["help"])


def test_a_claim_that_was_committed_after_the_run_is_refused(book):
    book.write()
    before = commit(book, "no claims yet")
    claims_file(book)
    commit(book, "claims")
    run(book, before)
    with pytest.raises(NbpkgError, match="not committed before the run"):
        publish.publish(["help"])


def test_a_smallest_effect_may_shrink_and_never_grow_after_a_run(second):
    claims_file(second, PLAN.replace("0.05", "0.04"))
    run(second, commit(second, "smaller"))
    publish.publish(["help"])
    commit(second, "published again")
    assert problems() == ""
    claims_file(second, PLAN.replace("0.05", "0.06"))
    run(second, commit(second, "larger"))
    with pytest.raises(NbpkgError, match="smallest effect of score has grown"):
        publish.publish(["help"])


def test_pilots_and_uncommitted_code_are_not_published(book):
    book.write()
    claims_file(book)
    made, at = rows(), commit(book)
    run(book, at + "+")
    with pytest.raises(NbpkgError, match="changes that are not committed"):
        publish.publish(["help"])
    run(book, at, made.assign(seed=made["seed"] + 1000))
    with pytest.raises(NbpkgError, match="holds rows of pilots"):
        publish.publish(["help"])


def test_an_edited_verdict_or_row_is_named(second):
    edit(record_of(second), lambda raw: raw["claims"][0].update(verdict="contradicted"))
    said = problems()
    assert "claim beats-rule is contradicted in the record and reproduced by its rows" in said
    assert "the prose relies on beats-rule=reproduced, the record says contradicted" in said
    frames.save(rows(-0.3), second.root / "results/standard/03_help.scores.parquet")
    assert "03_help.scores.parquet is not what the run wrote" in problems()


def test_prose_and_what_held_follow_the_record(second):
    twin = (second.root / "notebooks/src/03_help.py").read_text()
    line = "# - *Better than a strong simple rival?* **reproduced**: better than the rule."
    assert line in twin and line[2:] in (second.root / "notebooks/03_help.ipynb").read_text()
    second.edit("beats-rule=reproduced", "beats-rule=reproduced, order=reproduced")
    notebook.sync(chapters.get("help"))
    assert "relies on order=reproduced, the record says no claim of it" in problems()
    second.edit("**reproduced**: better", "**reproduced**: much better")
    notebook.sync(chapters.get("help"))
    assert "*In short* does not say what the record holds" in problems()


def test_a_stray_frame_is_named(second):
    frames.save(rows(), second.root / "results/standard/03_help.other.parquet")
    assert "03_help.other.parquet belongs to no frame" in problems()


# ---------------------------------------------------------------- remarks


def test_changed_modules_are_remarked_by_name(second, monkeypatch):
    now = modules("03_help") | {"report/stats.py": "0" * 16}
    monkeypatch.setattr(evidence, "modules", lambda name: now)
    assert check() == ([], ["03_help: nbpkg has moved on since the run: report/stats.py"])


def test_first_runs_say_of_which_commit_they_are(first, monkeypatch):
    monkeypatch.setattr(chapters, "package_sha256", lambda: "1" * 64)
    (line,) = check()[1]
    assert line.endswith("moved on since the run; the code that made it is no commit of the history")
    moved.path().write_text(json.dumps({"03_help": {"commit": "6a87d4f"}}))
    assert check()[1] == ["03_help: nbpkg has moved on since the run; it was made at 6a87d4f"]


# ---------------------------------------------------------------- killed at any point

KILLED = """
    import dataclasses, os, sys
    from nbpkg import chapters
    from nbpkg.book import publish
    chapters.CHAPTERS[:] = [dataclasses.replace(one, edition=1) for one in chapters.CHAPTERS]
    left, replace = int(sys.argv[1]), os.replace
    def count(*paths):
        global left
        if left == 0:
            os._exit(9)
        left -= 1
        replace(*paths)
    os.replace = count
    publish.publish(["help"])
"""


@pytest.mark.parametrize("done", range(6))
def test_a_publish_that_is_killed_leaves_nothing_unsaid(second, done):
    claims_file(second, PLAN.replace("better than the rule", "much better than the rule"))
    run(second, commit(second, "other words"), rows(0.4), peak_memory_mb=7.0)
    second.edit("That was all.", "That was it.")
    code = [sys.executable, "-c", textwrap.dedent(KILLED), str(done)]
    ended = subprocess.run(code, env=os.environ, cwd=second.root).returncode
    said = check()[0]
    assert ended in (0, 9) and (ended == 9) == bool(said)
    ways = ("publish", "delete it", "`nbpkg")
    assert not said or any(way in line for way in ways for line in said)
    publish.publish(["help"])
    for path in [*second.root.glob("notebooks/.*.*"), *second.root.glob("*/*/.*.*")]:
        path.unlink()
    assert check()[0] == []


def test_the_published_record_reads_back(second):
    record = Record.load(record_of(second))
    assert record.rows["scores"]["rows"] == 6 and len(record.outputs_sha256) == 64
