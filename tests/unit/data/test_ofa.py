"""The Once-for-All space: file, encoding, what its networks cost; and the settings timed for judgement."""

import numpy as np
import pytest
import torch

from nbpkg.data import latency, latency_table, ofa
from nbpkg.errors import NbpkgError

ROW = {"ks": [3] * 20, "e": [6] * 20, "d": [2, 3, 4, 2, 2], "r": np.int64(160)}


def read(tmp_path, rows):
    torch.save({"dataset": "imagenet", "arch": rows}, tmp_path / "archs.pt")
    return ofa.read_archs(tmp_path / "archs.pt", 2)


def test_file_and_encoding_by_hand(tmp_path):
    ops, resolution = read(tmp_path, [ROW, ROW | {"ks": [7] * 20, "e": [3] * 20, "r": np.int64(224)}])
    assert ops[0].tolist() == [2, 2, 9, 9, 2, 2, 2, 9, 2, 2, 2, 2, 2, 2, 9, 9, 2, 2, 9, 9]
    assert (ops[1][ops[1] < 9] == 6).all() and resolution.tolist() == [160, 224]
    vectors = ofa.vectors(ops, resolution)
    assert vectors.shape == (2, 145) and vectors.sum(1).tolist() == [27, 27]
    assert vectors[0, :9].tolist() == [1, 0, 0, 1, 0, 0, 0, 0, 0] and vectors[0, 120 + 8] == 1
    assert vectors[1, 60:66].tolist() == [1, 0, 0, 1, 0, 0] and vectors[1, 144] == 1


@pytest.mark.parametrize(
    "change", [{"ks": [4] * 20}, {"d": [1] * 5}, {"r": np.int64(130)}, {"e": None}, {"ks": [3] * 19}]
)
def test_networks_outside_the_space_are_refused(tmp_path, change):
    with pytest.raises(NbpkgError, match=r"archs\.pt"):
        read(tmp_path, [ROW, ROW | change])


def test_a_wrong_number_of_networks_is_refused(tmp_path):
    with pytest.raises(NbpkgError, match="list of 2"):
        read(tmp_path, [ROW])


def test_costs_grow_with_depth_kernel_expansion_and_pixels():
    base, pixels = np.full((1, 20), 4), np.array([160])
    base[0, 3] = ofa.ABSENT
    cost = lambda ops, r=pixels: ofa.costs(ops, r)[0]  # noqa: E731
    deeper, wider, larger = base.copy(), base.copy(), base.copy()
    deeper[0, 3], wider[0, 0], larger[0, 0] = 4, 5, 7
    for changed in (deeper, wider, larger):
        assert (cost(changed)[[5]] > cost(base)[[5]]).all() and cost(changed)[:4].sum() > cost(base)[:4].sum()
    assert cost(deeper)[7] == cost(base)[7] + 1
    bigger = cost(base, np.array([320])) / cost(base)
    assert np.allclose(bigger[1:4][np.isfinite(bigger[1:4])], 4) and bigger[5] == 1 and bigger[4] == 1
    # Width 1.2 at full size and resolution: the largest network takes a little over 0.6 G multiply-adds.
    full = ofa.costs(np.full((1, 20), 8), np.array([224]))[0]
    assert 0.5e9 < full[:5].sum() < 1.0e9


def test_new_devices_are_settings_that_no_other_table_holds():
    space = latency.load("embedded")
    new = latency.new_devices(space)
    assert len(new.test) >= 8 and not set(new.test) & {*space.train, *space.valid, *space.test}
    assert np.array_equal(new.ops[new.reference], space.ops[space.reference])
    pools = new.pools(new.test)
    assert pools.query.shape[1] >= 150 and np.isfinite(pools.query_y).all()
    assert new.latency[space.train[0]][5] == space.latency[space.train[0]][space.reference[5]]
    settings = latency_table.read_provenance(latency_table.NEW)["settings"]
    assert min(entry["reliability"] for entry in settings.values()) > 0.9


def test_new_devices_are_cells():
    space = latency.load("embedded").relabel(kind="chain")
    with pytest.raises(NbpkgError, match="cells"):
        latency.new_devices(space)
