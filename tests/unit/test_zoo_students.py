"""The table of chapter 08's students."""

import json

import numpy as np
import pytest

from nbpkg import paths
from nbpkg.errors import NbpkgError
from nbpkg.zoo import students

SMALL = {
    "task": ["a", "b"], "kind": ["distilled", "scratch"], "teacher": ["first", "first"], "seed": [0, 1],
    "architecture": [[8] * 9, [2, 0, 0, 8, 3, 0, 8, 0, 0]], "accuracy": [50.0, 12.5],
}  # fmt: skip


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "t.parquet"
    students.write(path, SMALL, {"what": "two students"})
    table = students.read(path)
    assert table["said"] == {"what": "two students"} and table["task"].tolist() == ["a", "b"]
    for name, values in SMALL.items():
        assert (table[name] == np.array(values)).all()


def test_damaged_absent_and_impossible_tables_are_refused_by_name(tmp_path):
    with pytest.raises(NbpkgError, match=r"absent\.parquet: there is no"):
        students.read(tmp_path / "absent.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(NbpkgError, match=r"broken\.parquet"):
        students.read(tmp_path / "broken.parquet")
    students.write(tmp_path / "odd.parquet", SMALL | {"accuracy": [50.0, 112.0]}, {})
    with pytest.raises(NbpkgError, match=r"odd\.parquet"):
        students.read(tmp_path / "odd.parquet")


def test_the_committed_table_is_what_the_published_chapter_trained():
    table = students.read()
    record = json.loads((paths.root() / "results" / "standard" / "08_dass.json").read_text(encoding="utf-8"))
    assert len(table["accuracy"]) == record["metrics"]["database/students"]["value"]
    assert (table["architecture"][:, 6:].max(1) == 8).all()
    assert students.default().stat().st_size < 300_000
