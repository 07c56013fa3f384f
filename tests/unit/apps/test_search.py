"""Cells for a user's own images: from folders and arrays, by small weights, with clear errors."""

import io
import os
import struct
import subprocess
import zlib
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from nbpkg import paths, session
from nbpkg.apps import images as images_of
from nbpkg.apps.images import read_folder
from nbpkg.apps.search import FILE, read_weights, search, write_weights
from nbpkg.cli import main
from nbpkg.errors import NbpkgError
from nbpkg.nb201 import costs, space
from nbpkg.nets import cellgraphs
from nbpkg.nets.metad2a import Generator, Predictor
from nbpkg.seeding import seeded
from nbpkg.zoo import features


@pytest.fixture(scope="module")
def made():
    """Weights of a generator that was taught for a moment what a cell is, and of an untaught predictor."""
    sizes = {"inputs": 8, "width": 8}
    with seeded(0):
        generator, predictor = Generator(**sizes, hidden=16), Predictor(**sizes, hidden=8, head=8)
        basis = torch.randn(features.get("random-conv").d, 8) / 20
    optimiser = torch.optim.Adam(generator.parameters(), 1e-2)
    draws = torch.Generator().manual_seed(0)
    for step in range(80):
        sets = torch.randn(32, 2, 3, 8, generator=draws)
        optimiser.zero_grad()
        generator.loss(sets, cellgraphs.types_of(space.random(32, step)), cellgraphs.topology()).backward()
        optimiser.step()
    return {
        "extractor": "random-conv", "resolution": 16, "images": 5, "scale": [-1.8, 0.4],
        "mean": torch.zeros(len(basis)), "basis": basis,
        "generator": generator.state_dict(), "generator_sizes": sizes | {"hidden": 16},
        "predictor": predictor.state_dict(), "predictor_sizes": sizes | {"hidden": 8, "head": 8},
    }  # fmt: skip


def pictures(n=12, side=20, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


LABELS = np.arange(12) % 3


@pytest.fixture
def folder(tmp_path):
    """Three classes of pictures of different sizes, kinds of file and modes."""
    for label, name in enumerate(("ant", "bee", "cow")):
        (tmp_path / name).mkdir()
        for i, picture in enumerate(pictures(4 + label, 10 + 7 * label, label)):
            mode = ("RGB", "L", "RGBA")[i % 3]
            suffix = (".png", ".PNG", ".webp")[i % 3]
            Image.fromarray(picture).convert(mode).save(tmp_path / name / f"{i}{suffix}")
        (tmp_path / name / ".hidden.png").write_bytes(b"no image")
        (tmp_path / name / "notes.txt").write_text("no image")
    (tmp_path / ".git").mkdir()
    return tmp_path


def test_cells_come_best_first_distinct_and_the_same_for_a_seed(made):
    found = search(pictures(), LABELS, 50, weights=made)
    assert found == search(torch.from_numpy(pictures()), torch.from_numpy(LABELS), 50, weights=made)
    assert len({one.cell for one in found}) == 50
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    for one in found[:5]:
        assert space.index(space.encode(one.architecture)) == one.cell
        params, flops = costs.costs(space.ops_of(one.cell), num_classes=3)
        assert (one.params, one.flops) == (params[0], flops[0])
    other = search(pictures(), LABELS, 50, seed=1, weights=made)
    assert {one.cell for one in other} != {one.cell for one in found}


def test_scores_are_the_predictors_in_the_scale_of_the_weights(made):
    found = search(pictures(), LABELS, 20, weights=made)
    predictor = Predictor(**made["predictor_sizes"]).eval()
    predictor.load_state_dict(made["predictor"])
    images = torch.from_numpy(pictures()).permute(0, 3, 1, 2)
    # As many images as a set may have: every set is all of them, in another order.
    whole = images_of.extract(images, "random-conv", 16, torch.device("cpu")) - made["mean"]
    sets = torch.stack([whole[label == LABELS] @ made["basis"] for label in range(3)])[None]
    ops = space.ops_of(np.array([one.cell for one in found]))
    with torch.no_grad():
        raw = predictor(sets, cellgraphs.types_of(ops), cellgraphs.topology()).double().numpy()
    np.testing.assert_allclose([one.score for one in found], -1.8 + 0.4 * raw, atol=2e-4)


def test_channels_first_or_last_and_any_labels_mean_the_same(made):
    last = search(pictures(), LABELS, 20, weights=made)
    assert search(pictures().transpose(0, 3, 1, 2), 7 * LABELS - 3, 20, weights=made) == last


def test_limits_leave_candidates_out(made):
    every = search(pictures(), LABELS, 60, weights=made)
    most = int(np.median([one.params for one in every]))
    some = search(pictures(), LABELS, 60, max_params=most, weights=made)
    assert [one.cell for one in some] == [one.cell for one in every if one.params <= most]
    with pytest.raises(NbpkgError, match="none of 60 candidates is within the limits"):
        search(pictures(), LABELS, 60, max_flops=1, weights=made)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (pictures().astype(float), LABELS, "uint8"),
        (pictures()[0], LABELS, "uint8"),
        (pictures()[..., :2], LABELS, "three channels"),
        (pictures(), LABELS[:-1], "as many whole-number labels"),
        (pictures(), LABELS + 0.5, "as many whole-number labels"),
        (pictures(), 0 * LABELS, "two classes"),
        (pictures()[:0], LABELS[:0], "three channels"),
    ],
)
def test_what_is_no_data_set_is_refused_in_one_line(made, images, labels, message):
    with pytest.raises(NbpkgError, match=message) as caught:
        search(images, labels, 5, weights=made)
    assert "\n" not in str(caught.value)


def test_weights_come_back_in_half_precision_and_answer_alike(made, tmp_path):
    path = write_weights(tmp_path / "w.safetensors", made)
    again = read_weights(path)
    assert again.keys() == {*made, "made"} and len(list(tmp_path.iterdir())) == 1
    torch.testing.assert_close(again["basis"], made["basis"], atol=1e-3, rtol=1e-3)
    first, second = (search(pictures(), LABELS, 30, weights=w) for w in (made, path))
    shared = {one.cell: one.score for one in first}
    both = [(shared[one.cell], one.score) for one in second if one.cell in shared]
    assert len(both) > 20
    np.testing.assert_allclose(*np.array(both).T, atol=0.01)


def test_weights_say_what_made_them_and_go_to_the_cache_unless_adopted(made, folder, monkeypatch, capsys):
    home = folder / ".package"
    (home / "data" / "embedded").mkdir(parents=True)
    shipped = home / "data" / "embedded" / FILE
    shipped.write_bytes(b"as it was")
    (shipped.parent / "SHA256SUMS").write_text("")
    monkeypatch.setattr(paths, "package", lambda: home)
    monkeypatch.setenv("NBPKG_CACHE", str(folder / ".cache"))
    monkeypatch.setattr(session, "Session", lambda *_: SimpleNamespace(artifact=lambda *_: made))
    assert main(["weights", "--profile", "smoke", "--seed", "3"]) == 0
    written = folder / ".cache" / "shipped" / FILE
    assert capsys.readouterr().out == f"wrote {written}\n" and shipped.read_bytes() == b"as it was"
    assert main(["search", str(folder), "--weights", str(written), "--device", "cpu", "--top", "1"]) == 0
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("weights: chapter 02_metad2a, profile smoke, seeds [3], commit ")
    assert main(["weights", "--adopt"]) == 0 and read_weights()["made"]["profile"] == "standard"
    shipped.write_bytes(shipped.read_bytes()[:-1] + b"?")
    with pytest.raises(NbpkgError, match=r"its checksum is not the shipped file's"):
        read_weights()
    assert main(["weights", "--adopt", "--out", "x"]) == 2 and main(["weights", "--out", "/proc/x/y"]) == 2


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b'{"a": 1}'])
def test_a_file_that_holds_no_weights_is_named(tmp_path, content):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(NbpkgError, match=r"bad.safetensors: no weights of a search"):
        read_weights(path)
    with pytest.raises(NbpkgError, match="no such weights"):
        read_weights(tmp_path / "absent.safetensors")


def test_a_folder_becomes_images_and_labels(folder):
    images, labels = read_folder(folder)
    assert images.shape == (15, 3, 64, 64) and images.dtype == torch.uint8
    assert torch.bincount(labels).tolist() == [4, 5, 6]
    few, kinds = read_folder(folder, most=2)
    assert torch.bincount(kinds).tolist() == [2, 2, 2]
    assert torch.equal(few[0], images[0]) and torch.equal(few[1], images[3])  # spread: the first and the last


def test_bad_folders_are_named(folder, tmp_path):
    with pytest.raises(NbpkgError, match="no such folder"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(NbpkgError, match="two or more; it has 0"):
        read_folder(folder / "ant")
    (folder / "dog").mkdir()
    with pytest.raises(NbpkgError, match="dog: holds no image"):
        read_folder(folder)
    (folder / "dog" / "a.jpg").write_bytes(b"\xff\xd8 cut off")
    with pytest.raises(NbpkgError, match=r"a\.jpg: cannot be read as an image"):
        read_folder(folder)


def bomb():
    """A PNG of two kilobytes that says it has 14,000 x 14,000 pixels."""
    made = io.BytesIO()
    Image.new("1", (14, 14)).save(made, "PNG")
    content = bytearray(made.getvalue())
    content[16:24] = struct.pack(">II", 14_000, 14_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"DDS " + b"\x7c" * 200, bomb()]
)
def test_foreign_content_reaches_no_decoder(folder, monkeypatch, content):
    name = "\x1b[31mred.png"
    (folder / "ant" / name).write_bytes(content)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("another program was started"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("pixels were decoded"))
    with pytest.raises(NbpkgError, match=r"red\.png: cannot be read as an image") as caught:
        read_folder(folder)
    assert "\n" not in str(caught.value)


def test_a_pipe_does_not_hang_and_a_name_cannot_steer_the_terminal(folder, capsys):
    os.mkfifo(folder / "ant" / "\x1b[31m0.png")
    assert main(["search", str(folder), "--device", "cpu"]) == 2
    assert "\\x1b[31m0.png: cannot be read as an image (it is no regular file)" in capsys.readouterr().err


def test_the_command_answers_from_the_shipped_weights(folder, capsys):
    """The networks that chapter 02 trained, with the extractor that they were trained on."""
    shipped = read_weights()
    if not all(map(find_spec, features.get(shipped["extractor"]).packages)):
        pytest.skip("the package of the extractor is not installed")
    assert paths.embedded(FILE).stat().st_size < 1_000_000
    assert main(["search", str(folder), "--top", "3", "--candidates", "40", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert out.count("|nor_conv") + out.count("|skip") + out.count("|avg") + out.count("|none") >= 3
    assert main(["search", str(folder / "ant")]) == 2
    assert "two or more" in capsys.readouterr().err
