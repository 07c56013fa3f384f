"""Masks: right places, right shares, the same from a seed; batches that depend on seed and step only."""

import numpy as np
import pytest
import torch

from nbpkg.data.masking import BLOCK, Batches, Masked, count, generator, held_out, mask, side_by_side
from nbpkg.data.tokens import CLS, MASK, SEP
from nbpkg.errors import NbpkgError

VOCABULARY = 105


def rows(n=200, length=64, seed=0):
    ids = np.random.default_rng(seed).integers(5, VOCABULARY, (n, length)).astype(np.uint16)
    ids[:, 0], ids[::3, 20] = CLS, SEP
    return ids


def test_each_row_has_its_places_and_targets_and_nothing_else_changes():
    ids = torch.as_tensor(rows().astype(np.int64))
    found = mask(rows(), VOCABULARY, generator(0, "test"))
    assert len(found) == 200 and found.positions.shape == (200 * 10,) and count(64) == 10
    places = found.positions.view(200, 10)
    assert (places // 64 == torch.arange(200)[:, None]).all() and (places.diff(dim=1) > 0).all()
    assert torch.equal(found.targets, ids.flatten()[found.positions]) and found.targets.min() >= 5
    other = torch.ones(ids.numel(), dtype=torch.bool).index_fill(0, found.positions, False)
    assert torch.equal(found.inputs.flatten()[other], ids.flatten()[other])


def test_special_tokens_are_never_asked_for_however_many_places_are():
    found = mask(rows(200, 22), VOCABULARY, generator(0, "test"), rate=0.9)
    assert len(found.targets) == 200 * 20 and found.targets.min() >= 5


def test_eighty_ten_ten_and_every_place_alike():
    found = mask(rows(2_000), VOCABULARY, generator(1, "test"))
    seen = found.inputs.flatten()[found.positions]
    n, hidden, kept = len(seen), seen == MASK, seen == found.targets
    drawn = ~hidden & ~kept
    # A drawn token equals the target once in a hundred times.
    for share, p in ((hidden, 0.8), (kept, 0.1 + 0.1 / 100), (drawn, 0.1 - 0.1 / 100)):
        assert share.float().mean() == pytest.approx(p, abs=4 * (p * (1 - p) / n) ** 0.5)
    counts = torch.bincount(seen[drawn], minlength=VOCABULARY)[5:].float()
    assert (counts / counts.sum() * 100).max() < 2 and counts.min() > 0
    columns = torch.bincount(found.positions % 64, minlength=64).float() / 2_000
    assert columns[0] == 0 and columns[1:20].sub(10 / 63).abs().max() < 0.04


def test_one_seed_gives_one_pattern():
    one, two, other = (held_out(rows(), VOCABULARY, seed) for seed in (0, 0, 1))
    assert torch.equal(one.inputs, two.inputs) and torch.equal(one.positions, two.positions)
    assert not torch.equal(one.positions, other.positions)
    state = torch.get_rng_state()
    mask(rows(), VOCABULARY, generator(0, "test"))
    assert torch.equal(state, torch.get_rng_state())


def test_rows_cut_out_belong_together():
    whole = held_out(rows(10), VOCABULARY)
    part = whole.rows(4, 7)
    assert len(part) == 3 and isinstance(part.to("cpu"), Masked)
    assert torch.equal(part.inputs, whole.inputs[4:7]) and torch.equal(part.targets, whole.targets[40:70])
    assert torch.equal(part.positions + 4 * 64, whole.positions[40:70])


def test_batches_side_by_side_depend_on_their_seed_alone_and_on_no_number_of_steps():
    sequences, steps = rows(50), BLOCK + 3
    many = list(side_by_side([Batches(sequences, VOCABULARY, 8, seed) for seed in (3, 4)], steps, "cpu"))
    few = list(
        side_by_side(
            [Batches(sequences[:40], VOCABULARY, 8, 5), Batches(sequences, VOCABULARY, 8, 4)], 2, "cpu"
        )
    )
    assert len(many) == steps and len(few) == 2 and many[0].inputs.shape == (2, 8, 64)
    for one, other in zip(many, few, strict=False):
        for part, same in zip(vars(one).values(), vars(other).values(), strict=True):
            assert torch.equal(part[1], same[1])
    assert not torch.equal(many[0].inputs[0], many[0].inputs[1])
    assert not torch.equal(many[0].positions[0], many[BLOCK].positions[0])
    for x in (many[0], many[BLOCK - 1], many[-1]):
        hidden = x.inputs[1].flatten()[x.positions[1]]
        kept = torch.ones(8 * 64, dtype=torch.bool).index_fill_(0, x.positions[1], False)
        shown = {tuple(row) for row in sequences.tolist()}
        whole = x.inputs[1].flatten().index_put((x.positions[1],), x.targets[1]).view(8, 64)
        assert all(tuple(row) in shown for row in whole.tolist())
        assert (x.positions[1].diff() > 0).all() and kept.sum() == 8 * 54 and (hidden == MASK).sum() > 40


def test_a_pass_of_blocks_shows_every_sequence_once():
    sequences = np.repeat(np.arange(5, 53)[:, None], 64, 1)
    batches = list(side_by_side([Batches(sequences, VOCABULARY, 8)], 12, "cpu"))
    passes = [
        [int(i) for x in batches[low : low + 6] for i in x.targets[0].view(8, 10)[:, 0]] for low in (0, 6)
    ]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(5, 53)) and passes[0] != passes[1]


def test_what_cannot_be_masked_is_refused():
    few = rows(3)
    few[1, 5:] = SEP
    rng = generator(0, "test")
    for call, word in (
        (lambda: mask(few, VOCABULARY, rng), "sequence 1 has fewer than 10 words"),
        (lambda: mask(rows(), 50, rng), "in a vocabulary of 50"),
        (lambda: mask(rows()[0], VOCABULARY, rng), "must be"),
        (lambda: mask(rows(), VOCABULARY, rng, rate=0), "rate 0"),
        (lambda: mask(rows(), VOCABULARY, rng, shares=(0.8, 0.1, 0.2)), "shares"),
        (lambda: Batches(rows(3), VOCABULARY, 4), "no batch of 4"),
    ):
        with pytest.raises(NbpkgError, match=word):
            call()
