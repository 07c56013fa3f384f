"""The memo store: everything comes back as it went in, or not at all."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbpkg.errors import NbpkgError
from nbpkg.memo import store

KEY = "k" * 64


def put(folder, value, key=KEY, seconds=1.5):
    arrays = {}
    tree = store.freeze(value, arrays)
    store.write(folder, key, store.Piece(tree, seconds, 1.25, 100.0), arrays)


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
        store.freeze(value, {})


def test_nothing_stored_is_none_and_names_are_fit_for_any_file_system(tmp_path):
    path = store.entry_path(tmp_path, "03_help", 'meta-train/nb201: "π" ' + "x" * 100, KEY)
    assert store.read(path, KEY) is None
    assert path.parent == tmp_path / "03_help" and len(path.name) < 80 and path.name.isascii()
    assert path != store.entry_path(tmp_path, "03_help", 'meta-train/nb201: "π" ' + "x" * 100, "z" * 64)


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


@pytest.mark.parametrize("file", ["entry.json", "arrays.safetensors"])
def test_every_damage_is_noticed_and_mended_by_writing_again(file, tmp_path):
    value = {"w": np.arange(6.0), "x": 0.25, "name": "abc"}
    folder = tmp_path / "n-0"
    put(folder, value)
    for what, damage in list(damage_of(folder / file)):
        damage()
        with pytest.raises(store.CorruptEntry):
            store.read(folder, KEY)
            pytest.fail(f"not noticed: {what}")
        put(folder, value)
        assert same(store.read(folder, KEY).value, value), what
    assert [path.name for path in tmp_path.iterdir()] == ["n-0"]


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"check": "x", "entry": 3}', '{"check": 1}'])
def test_strange_json_is_damage_too(text, tmp_path):
    put(tmp_path / "n-0", 1)
    (tmp_path / "n-0" / "entry.json").write_text(text)
    with pytest.raises(store.CorruptEntry):
        store.read(tmp_path / "n-0", KEY)


def test_a_file_in_the_entrys_place_is_damage_and_gives_way(tmp_path):
    (tmp_path / "n-0").write_text("not a folder")
    with pytest.raises(store.CorruptEntry):
        store.read(tmp_path / "n-0", KEY)
    put(tmp_path / "n-0", 5)
    assert store.read(tmp_path / "n-0", KEY).value == 5


WRITER = """
    import sys, os, signal
    from pathlib import Path
    import numpy as np
    from nbpkg import store

    written = 0
    die_at = int(sys.argv[2])

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    original_fsync, original_rename = os.fsync, os.rename

    def fsync(descriptor):
        global written
        written += 1
        if written == die_at:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            die()
        original_fsync(descriptor)

    def rename(*args):
        if die_at == 3:
            die()
        original_rename(*args)
        if die_at == 4:
            die()

    os.fsync, os.rename = fsync, rename
    arrays = {}
    tree = store.freeze({"w": np.arange(1000.0)}, arrays)
    store.write(Path(sys.argv[1]), "k" * 64, store.Piece(tree, 1.0, 1.0, 1.0), arrays)
"""


@pytest.mark.parametrize("die_at, readable", [(1, False), (2, False), (3, False), (4, True)])
def test_a_writer_killed_anywhere_leaves_a_whole_entry_or_none(die_at, readable, tmp_path):
    script = tmp_path / "writer.py"
    script.write_text(textwrap.dedent(WRITER))
    folder = tmp_path / "memo" / "n-0"
    done = subprocess.run([sys.executable, script, folder, str(die_at)], timeout=120)
    assert done.returncode == -signal.SIGKILL
    piece = store.read(folder, KEY)
    assert (piece is not None) == readable
    put(folder, {"w": np.arange(1000.0)})
    assert same(store.read(folder, KEY).value, {"w": np.arange(1000.0)})


def test_a_killed_writers_leftovers_are_cleared_after_a_day_and_not_before(tmp_path):
    old, new = tmp_path / ".tmp-old", tmp_path / ".tmp-new"
    old.mkdir(), new.mkdir()
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
                (folder / "entry.json").write_text("{")
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


def test_the_entry_is_plain_json_beside_safetensors(tmp_path):
    put(tmp_path / "n-0", {"w": torch.ones(2), "x": 1})
    assert sorted(path.name for path in (tmp_path / "n-0").iterdir()) == ["arrays.safetensors", "entry.json"]
    assert json.loads((tmp_path / "n-0" / "entry.json").read_text())["entry"]["seconds"] == 1.5
    from safetensors.torch import load_file

    assert torch.equal(load_file(tmp_path / "n-0" / "arrays.safetensors")["0"], torch.ones(2))
