"""What `nbpkg retrieve` carries: small, whole, and usable from the command line."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from nbpkg import paths
from nbpkg.apps.retrieve import FILE, lines, prepare, read_weights, retrieve
from nbpkg.cli import main
from nbpkg.zoo import features

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def carried():
    return read_weights()


needs_features = pytest.mark.skipif(
    not all(map(find_spec, features.get("efficientnet-lite0").packages)),
    reason="the extractor's packages are not installed",
)


def test_the_file_is_small_and_every_network_is_whole(carried):
    assert paths.embedded(FILE).stat().st_size < 1_000_000
    assert len(carried["networks"]) == len(carried["states"]) == len(carried["places"]) >= 40
    torch.testing.assert_close(
        carried["places"].norm(dim=1), torch.ones(len(carried["places"])), atol=2e-3, rtol=0
    )
    assert carried["query"].shape == (len(carried["places"][0]), features.get(carried["extractor"]).d)


@needs_features
def test_carried_networks_come_with_a_head_for_any_classes(carried):
    pictures = np.random.default_rng(0).integers(0, 256, (8, 20, 20, 3), dtype=np.uint8)
    found = retrieve(pictures, np.arange(8) % 2, weights=carried)
    assert len(found) == 10 and len(lines(found)) == 10
    for one in found:
        net = one.network().eval()
        x = prepare(torch.from_numpy(pictures).permute(0, 3, 1, 2), one.resolution)
        assert torch.isfinite(net(x)).all() and net(x).shape == (8, 2)
        trained = {name for name in one.state if not name.endswith("num_batches_tracked")}
        own = {name for name, _ in net.named_parameters()} | {n for n, _ in net.named_buffers()}
        assert {name for name in own if "classifier" not in name and "num_batches" not in name} == trained


@needs_features
def test_the_command_shows_networks_and_saves_one(tmp_path, capsys):
    g = np.random.default_rng(1)
    for name in ("ant", "bee"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(g.integers(0, 256, (18, 18, 3), dtype=np.uint8)).save(
                tmp_path / "pictures" / name / f"{i}.png"
            )
    out = tmp_path / "best.safetensors"
    assert main(["retrieve", str(tmp_path / "pictures"), "--top", "2", "--save", str(out)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("weights: chapter 05_tans, profile standard, seeds [0], commit ")
    assert shown[1].startswith("rank") and len(shown) == 5 and out.is_file()
    assert main(["retrieve", str(tmp_path / "pictures"), "--max-params", "10"]) == 2
    assert "smallest" in capsys.readouterr().err
