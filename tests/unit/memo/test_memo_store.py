"""The memo store: everything comes back as it went in, or not at all."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbpkg.errors import NbpkgError
from nbpkg.memo import Entry, cached, store

KEY = "k" * 64


def put(folder, value, key=KEY, seconds=1.5):
    raw = bytearray()
    tree = store.serialise(value, raw)
    store.write(folder, key, store.Computed(tree, seconds, 1.25, 100.0), raw)


def same(a, b) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b or (a != a and b != b)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
NESTED = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(
            st.text() | st.integers() | st.tuples(st.integers(), st.booleans()), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(NESTED)
def test_nested_plain_values_come_back_the_same(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp("store") / "c" / "n-0"
    put(folder, value)
    piece = store.read(folder, KEY)
    assert same(piece.value, value)
    assert (piece.seconds, piece.cpu_seconds, piece.peak_memory_mb) == (1.5, 1.25, 100.0)


def test_arrays_and_tensors_of_every_kind_come_back_the_same(tmp_path):
    rng = np.random.default_rng(0)
    numbers = [
        "bool",
        "uint8",
        "int8",
        "uint16",
        "int32",
        "uint64",
        "float16",
        "float32",
        "float64",
        "complex64",
    ]
    dtypes = ["bool", "uint8", "int64", "float16", "bfloat16", "float32", "complex64"]
    value = {
        **{f"np {name}": rng.integers(0, 2, (3, 4)).astype(name) for name in numbers},
        **{f"torch {name}": torch.ones(2, 3).to(getattr(torch, name)) for name in dtypes},
        "big-endian": np.arange(5, dtype=">f4"),
        "text": np.array(["a", "ünï"]),
        "bytes": np.array([b"x", b"yz"]),
        "dates": np.array(["2020-01-01", "NaT"], dtype="datetime64[D]"),
        "empty": np.zeros((0, 3)),
        "empty text": np.zeros((2, 0), dtype="U3"),
        "zero-dimensional": np.array(3.5),
        "scalar": np.float32(0.1),
        "integer scalar": np.int64(7),
        "strided": np.arange(24.0).reshape(4, 6)[::2, ::-1],
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "torch zero-dimensional": torch.tensor(2.5),
        "torch empty": torch.zeros(0, 2),
        "torch strided": torch.arange(6.0).reshape(2, 3).T,
    }
    put(tmp_path / "n-0", value)
    back = store.read(tmp_path / "n-0", KEY).value
    for name in value:
        assert same(back[name], value[name]), name
    back["np float32"][0, 0] = 9  # results may be changed by whoever asked for them
    back["torch float32"][0, 0] = 9
    back["big-endian"][0] = 9


def test_shared_memory_parameters_and_gradients(tmp_path):
    base = torch.arange(4.0)
    net = torch.nn.Linear(2, 2)
    put(tmp_path / "n-0", {"a": base, "b": base, "c": base[:2], "state": net.state_dict(), "w": net.weight})
    back = store.read(tmp_path / "n-0", KEY).value
    assert torch.equal(back["a"], base) and torch.equal(back["c"], base[:2])
    assert type(back["state"]) is dict and type(back["w"]) is torch.Tensor and not back["w"].requires_grad
    net.load_state_dict(back["state"])


@pytest.mark.parametrize("value, word", [
    ({"model": torch.nn.Linear(1, 1)}, r"result\['model'\].*state_dict"),
    ([{1, 2}], r"result\[0\]: a set"),
    (np.array([object()]), "dtype object"),
    ({"f": print}, r"result\['f'\]"),
    (torch.eye(2).to_sparse(), "sparse"),
])  # fmt: skip
def test_what_cannot_be_stored_is_named(value, word):
    with pytest.raises(NbpkgError, match=word):
        store.serialise(value, bytearray())


def test_nothing_stored_is_none_and_names_are_fit_for_any_file_system(tmp_path):
    paths = [
        Entry("memo/03_help", 'meta-train/nb201: "π" ' + "x" * 100, key * 64, "x", tmp_path).path
        for key in "kz"
    ]
    assert store.read(paths[0], KEY) is None and paths[0] != paths[1]
    assert paths[0].parent == tmp_path / "memo" / "03_help"
    assert len(paths[0].name) < 90 and paths[0].name.isascii()


def test_another_key_never_gets_the_entry(tmp_path):
    put(tmp_path / "n-0", 1)
    with pytest.raises(store.CorruptEntry):
        store.read(tmp_path / "n-0", "z" * 64)


def damage_of(path):
    content = path.read_bytes()
    yield "emptied", lambda: path.write_bytes(b"")
    yield "removed", path.unlink
    for cut in (1, len(content) // 2, len(content) - 1):
        yield f"cut at {cut}", lambda cut=cut: path.write_bytes(content[:cut])
    for place in range(0, len(content), max(1, len(content) // 40)):
        flipped = bytearray(content)
        flipped[place] ^= 4
        yield f"flipped at {place}", lambda flipped=flipped: path.write_bytes(flipped)


def test_every_damage_is_noticed_and_mended_by_writing_again(tmp_path):
    value = {"w": np.arange(6.0), "x": 0.25, "name": "abc"}
    path = tmp_path / "n-0"
    put(path, value)
    for what, damage in [case for case in damage_of(path) if case[0] != "removed"]:
        damage()
        with pytest.raises(store.CorruptEntry):
            store.read(path, KEY)
            pytest.fail(f"not noticed: {what}")
        put(path, value)
        assert same(store.read(path, KEY).value, value), what
    assert [path.name for path in tmp_path.iterdir()] == ["n-0"]


STRANGE = ["[]", "3", "null", '{"format": 2}', f'{{"format": 2, "key": "{KEY}", "value": {{}}}}', "x"]


@pytest.mark.parametrize("text", STRANGE)
def test_strange_json_is_damage_too(text, tmp_path):
    content = f"\n{text}\n".encode()
    (tmp_path / "n-0").write_bytes(hashlib.sha256(content).hexdigest().encode() + content)
    with pytest.raises(store.CorruptEntry):
        store.read(tmp_path / "n-0", KEY)


WRITER = """
    import sys, os, signal
    from pathlib import Path
    import numpy as np
    from nbpkg.memo import store

    die_at = sys.argv[2]
    original_replace = os.replace

    def replace(temporary, path):
        if die_at == "half written":
            os.truncate(temporary, os.path.getsize(temporary) // 2)
        if die_at == "in place":
            original_replace(temporary, path)
        os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace
    raw = bytearray()
    tree = store.serialise({"w": np.arange(1000.0)}, raw)
    store.write(Path(sys.argv[1]), "k" * 64, store.Computed(tree, 1.0, 1.0, 1.0), raw)
"""


@pytest.mark.parametrize("die_at", ["half written", "written", "in place"])
def test_a_writer_killed_anywhere_leaves_a_whole_entry_or_none(die_at, tmp_path):
    script = tmp_path / "writer.py"
    script.write_text(textwrap.dedent(WRITER))
    path = tmp_path / "memo" / "n-0"
    done = subprocess.run([sys.executable, script, path, die_at], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert (store.read(path, KEY) is not None) == (die_at == "in place")
    put(path, {"w": np.arange(1000.0)})
    assert same(store.read(path, KEY).value, {"w": np.arange(1000.0)})


def test_a_killed_writers_leftovers_are_cleared_after_a_day_and_not_before(tmp_path):
    old, new = tmp_path / ".n-0.memo.old", tmp_path / ".n-0.memo.new"
    old.touch(), new.touch()
    two_days_ago = time.time() - 2 * 86400
    os.utime(old, (two_days_ago, two_days_ago))
    put(tmp_path / "n-0", 1)
    assert not old.exists() and new.exists()


def test_concurrent_writers_and_readers_meet_whole_entries_only(tmp_path):
    folder = tmp_path / "n-0"
    value = {"w": np.arange(20_000.0), "x": [1, 2, 3]}

    def write(index):
        if index % 4 == 3:  # one of them spoils it, if it is there, and the others mend it
            with contextlib.suppress(FileNotFoundError):
                folder.write_text("{")
        put(folder, value)
        return True

    def read(index):
        try:
            piece = store.read(folder, KEY)
        except store.CorruptEntry:
            return True
        return piece is None or same(piece.value, value)

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(write if index % 2 else read, index) for index in range(60)]
        assert all(job.result() for job in jobs)
    put(folder, value)
    assert same(store.read(folder, KEY).value, value)
    assert [path.name for path in tmp_path.iterdir()] == ["n-0"]


def test_the_entry_is_a_checksum_a_line_of_json_and_bytes(tmp_path):
    put(tmp_path / "n-0", {"w": torch.ones(2), "x": 1})
    check, entry, raw = (tmp_path / "n-0").read_bytes().split(b"\n", 2)
    assert json.loads(entry)["seconds"] == 1.5 and raw == np.ones(2, "<f4").tobytes()
    assert check.decode() == hashlib.sha256(b"\n" + entry + b"\n" + raw).hexdigest()


def test_what_is_cached_is_made_once_and_a_disk_that_is_full_stops_nothing(tmp_path, monkeypatch, capsys):
    entry, calls = Entry("room", "x", KEY, "toy", tmp_path), []

    def make():
        calls.append(1)
        return {"t": torch.ones(2)}

    for _ in range(2):
        assert cached(entry, make)["t"].tolist() == [1, 1]
    entry.path.write_bytes(b"spoilt")
    cached(entry, make)
    assert len(calls) == 2 and capsys.readouterr().out.startswith("toy: what was stored is damaged (")

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write", full)
    assert cached(replace(entry, name="y"), make)["t"].tolist() == [1, 1]
    assert capsys.readouterr().out == "toy: could not be stored (No space left on device); going on without\n"
