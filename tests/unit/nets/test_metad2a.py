"""MetaD2A's generator and predictor: the same scores however they are asked, and cells for a target."""

import numpy as np
import pytest
import torch

from nbpkg.errors import NbpkgError
from nbpkg.nb201 import space
from nbpkg.nets import cellgraphs
from nbpkg.nets.metad2a import Generator, Predictor
from nbpkg.seeding import seeded


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("reads", [("sets", "graphs"), ("sets",), ("graphs",)])
def test_the_predictor_scores_alike_in_pairs_in_groups_and_over_sets(reads, standardise):
    with seeded(0):
        model = Predictor(12, 8, 16, 16, reads=reads, standardise=standardise).double().eval()
    sets = torch.randn(3, 2, 4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    types = cellgraphs.types_of(space.random(6, 1)).unflatten(0, (3, 2))
    adjacency = cellgraphs.topology()
    groups = model.paired(sets, types, adjacency)
    for k in range(2):
        torch.testing.assert_close(model.paired(sets, types[:, k], adjacency), groups[:, k])
    each = torch.stack([model(sets[i : i + 1], types.flatten(0, 1), adjacency) for i in range(3)])
    torch.testing.assert_close(torch.stack([each[i, 2 * i : 2 * i + 2] for i in range(3)]), groups)
    if "graphs" not in reads:
        assert torch.equal(groups[:, 0], groups[:, 1])
    if "sets" not in reads:
        torch.testing.assert_close(each[0], each[1])


def test_the_predictor_reads_something():
    with pytest.raises(NbpkgError, match="'sets', 'graphs' or both"):
        Predictor(12, reads=("labels",))


def test_the_generator_draws_for_a_target_from_all_its_sets():
    with seeded(0):
        model = Generator(12, 8, 8)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    adjacency, sets = cellgraphs.topology(), torch.randn(32, 2, 3, 12)
    for step in range(60):
        optimiser.zero_grad()
        model.loss(sets, cellgraphs.types_of(space.random(32, step)), adjacency).backward()
        optimiser.step()
    drawn = model.eval().draw(sets[:2], 40, torch.Generator().manual_seed(0))
    again = model.draw(sets[:2], 40, torch.Generator().manual_seed(0))
    assert np.array_equal(drawn.ops, again.ops) and len(np.unique(drawn.ops, axis=0)) == 40
    assert 40 <= drawn.distinct <= drawn.valid <= drawn.counted


def test_standardised_codes_have_mean_0_and_variance_1_over_a_batch():
    with seeded(0):
        model = Generator(12, 8, 8, standardise=True)
    codes = model.sets(torch.randn(40, 2, 3, 12, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(codes.mean(0), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(codes.std(0, correction=0), torch.ones(8), atol=1e-2, rtol=0)
