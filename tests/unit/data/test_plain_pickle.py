"""Pickles of plain data are read; pickles that would run code, or exhaust the machine, are not."""

import datetime
import os
import pickle
import warnings

import numpy as np
import pytest
from makers import protocol0_names, python2_pickle, random

from nbpkg.data import plain_pickle
from nbpkg.errors import NbpkgError

BATCH = {b"labels": [*range(300)], b"name": b"n" * 300, b"data": random(4, 3072), b"one": random(5)}


def refused(content: bytes, problem: str) -> None:
    with pytest.raises(NbpkgError, match=problem) as caught:
        plain_pickle.loads("folder/a.tar.gz", content)
    assert str(caught.value).startswith("folder/a.tar.gz: holds a") and "\n" not in str(caught.value)


def same(found: dict, expected: dict) -> bool:
    return found.keys() == expected.keys() and all(np.array_equal(found[k], expected[k]) for k in expected)


def test_a_pickle_of_python_2_round_trips():
    content = python2_pickle(BATCH)
    expected = {key.decode(): value for key, value in BATCH.items()}
    found = plain_pickle.loads("a", content)
    assert same(found, expected) and found["data"].dtype == np.uint8
    assert type(found["name"]) is bytes and type(found["labels"]) is list
    # The test's own writer is judged by Python: what it writes is what numpy and cPickle wrote.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert same(pickle.loads(content, encoding="bytes"), BATCH)


def test_arrays_in_the_order_of_columns_are_read_as_such():
    content = python2_pickle({b"data": np.arange(6, dtype=np.uint8).reshape(2, 3)})
    marked = content.replace(b"b\x89U", b"b\x88U")
    assert marked != content
    assert plain_pickle.loads("a", marked)["data"].tolist() == [[0, 2, 4], [1, 3, 5]]


def test_names_in_protocol_0_are_read():
    found = plain_pickle.loads("a", protocol0_names(b"label_names", [b"cat", b"ship"]))
    assert found == {"num_cases_per_batch": 10000, "label_names": [b"cat", b"ship"]}


class Evil:
    def __reduce__(self):
        return os.system, ("echo owned > owned",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_called(protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(pickle.dumps({"labels": Evil()}, protocol), "would run code")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"cos\nsystem\n(S'echo'\ntR.", r"would run code \(os.system\)"),
        (b"c__builtin__\neval\n(S'1'\ntR.", r"would run code \(__builtin__.eval\)"),
        (b"cnumpy\nload\n(S'x'\ntR.", "would run code"),
        (b"cnumpy.core.multiarray\nscalar\n.", "would run code"),
        (b"(S'echo'\nios\nsystem\n.", r"would run code \(os.system\)"),
        (b"(cos\nsystem\nS'echo'\no.", r"would run code \(os.system\)"),
        (b"Pname\n.", "truncated or damaged"),
        (b"\x80\x02\x82\x01.", "truncated or damaged"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "truncated or damaged"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", r"would run code \(os.system\)"),
        # A number this large would make the unpickler in C ask for gigabytes.
        (b"\x80\x02]r\xff\xff\xff\x7f.", "truncated or damaged"),
        (b"]p99999999999\n.", "truncated or damaged"),
        (b"\x80\x02T\xff\xff\xff\x7fx.", "truncated or damaged"),
        (b"\x80\x02}q\x01(U\x01aK\x01K\x02u.", "truncated or damaged"),
        (b"\x80\x02]K\x01b.", "truncated or damaged"),
        (b"\x80\x02cnumpy\nndarray\n}b.", "truncated or damaged"),
        (b"\x80\x02K\x01K\x02\x86R.", "truncated or damaged"),
        (b"\x80\x02h\x07.", "truncated or damaged"),
        (b"\x80\x02}", "truncated or damaged"),
        (b"", "truncated or damaged"),
        (b"<html>", "truncated or damaged"),
        (b"\x80\x02]q\x01.", "truncated or damaged"),
        (b"\x80\x02}K\x01K\x02s.", "truncated or damaged"),
        (b"\x80\x02}U\x01\xffK\x02s.", "truncated or damaged"),
        (python2_pickle(BATCH)[:-1000], "truncated or damaged"),
    ],
)
def test_a_hostile_or_damaged_pickle_is_refused(content, problem):
    refused(content, problem)


def test_an_array_of_another_size_than_its_shape_says_is_refused():
    content = python2_pickle({b"data": random(4, 3072)})
    shape = b"K\x04M\x00\x0c"
    assert shape in content
    for other in (b"K\x05M\x00\x0c", b"K\x00M\x00\x0c", b"NM\x00\x0c"):
        refused(content.replace(shape, other), "truncated or damaged")


def test_an_array_without_its_state_is_refused():
    refused(b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\n)Rs.", "truncated or damaged")
    refused(b"\x80\x02}U\x01acnumpy\nndarray\n)Rs.", "truncated or damaged")


def test_an_object_of_this_python_is_refused():
    refused(pickle.dumps({"when": datetime.date(2024, 1, 1)}, 2), "would run code")
    refused(pickle.dumps({"data": random(4)}, 2), "would run code")
