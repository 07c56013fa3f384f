"""Set encoders: against attention written out element by element, and blind to order and padding."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nbpkg.errors import NbpkgError
from nbpkg.nets import seeded
from nbpkg.nets.settransformer import ISAB, MAB, PMA, SAB, DatasetEncoder, MeanPool, SetPool


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(module, *args, **options):
    with seeded(0):
        return module(*args, **options).double()


def count(net) -> int:
    return sum(p.numel() for p in net.parameters())


def attend(block: MAB, queries, keys):
    """MAB for one set, query by query and head by head; there is no padding."""
    width = block.out.in_features
    size = width // block.heads
    rows = []
    for query in queries:
        q = block.query(query)
        h = torch.empty(0, dtype=q.dtype)
        for head in range(block.heads):
            part = slice(head * size, (head + 1) * size)
            scores = [q[part] @ block.key(key)[part] / math.sqrt(width) for key in keys]
            weights = torch.stack([score.exp() for score in scores])
            shares = zip(weights / weights.sum(), keys, strict=True)
            seen = sum(share * block.value(key)[part] for share, key in shares)
            h = torch.cat([h, q[part] + seen])
        h = block.norms[0](h)
        rows.append(block.norms[1](h + torch.relu(block.out(h))))
    return torch.stack(rows)


def pooled(pool, elements):
    """`SetPool` or `MeanPool` for one set."""
    if isinstance(pool, MeanPool):
        return pool.out(sum(elements) / len(elements))
    for block in pool.blocks:
        if isinstance(block, SAB):
            elements = attend(block.mab, elements, elements)
        else:
            elements = attend(block.spread, elements, attend(block.gather, block.points, elements))
    return pool.out(attend(pool.pool.mab, pool.pool.seeds, elements)[0])


def gradients(net, value):
    return torch.autograd.grad(value, list(net.parameters()))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([(4, 4), (6, 2), (3, 1)]), st.booleans())
def test_attention_is_what_the_equations_say(m, n, shape, norm):
    block = made(MAB, 3, 5, *shape, norm=norm)
    queries, keys = normal(2, m, 3), normal(2, n, 5, seed=1)
    expected = torch.stack([attend(block, q, k) for q, k in zip(queries, keys, strict=True)])
    torch.testing.assert_close(block(queries, keys), expected)


def test_attention_within_a_set_is_attention_to_itself():
    block, x = made(MAB, 6, 6, 8), normal(3, 5, 6)
    torch.testing.assert_close(block(x, x), block(x, x.clone()))
    mask = torch.arange(5) < torch.tensor([[1], [3], [5]])
    torch.testing.assert_close(block(x, x, mask), block(x, x.clone(), mask))


def test_gradients_of_attention_are_those_of_finite_differences():
    block = made(SAB, 3, 4, 2)
    x = normal(2, 3, 3).requires_grad_()
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert torch.autograd.gradcheck(lambda x: block(x, mask), x)


@pytest.mark.parametrize(
    "block", [made(SAB, 5, 8), made(ISAB, 5, 8, 3), made(SAB, 5, 8, norm=True)], ids=["SAB", "ISAB", "norm"]
)
def test_what_a_block_gives_follows_the_order_of_the_set(block):
    x, order = normal(2, 7, 5), torch.randperm(7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(block(x[:, order]), block(x)[:, order])


POOLS = {
    "attention": made(SetPool, 5, 8),
    "points": made(SetPool, 5, 8, points=3),
    "norm": made(SetPool, 5, 8, norm=True),
    "mean": made(MeanPool, 5, 8),
}


@pytest.mark.parametrize("name", POOLS)
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(0, 3), st.randoms(use_true_random=False))
def test_pooling_sees_neither_order_nor_padding(name, n, padding, random):
    pool, x = POOLS[name], normal(n, 5)
    expected = pooled(pool, x)
    places = random.sample(range(n + padding), n)
    padded = torch.full((n + padding, 5), torch.nan, dtype=torch.float64)
    padded[places] = x
    mask = torch.zeros(n + padding, dtype=torch.bool)
    mask[places] = True
    torch.testing.assert_close(pool(padded[None], mask[None])[0], expected)
    torch.testing.assert_close(pool(padded[mask]), expected)


@pytest.mark.parametrize("norm", [False, True])
def test_pooling_is_attention_of_the_seeds_to_the_set(norm):
    pool, x = made(PMA, 8, 3, norm=norm), normal(2, 4, 5, 8)
    mask = normal(2, 4, 5, seed=1) > -0.5
    mask[..., 0] = True
    seeds = pool.seeds.expand(2, 4, 3, 8)
    for there in (None, mask):
        expected, result = pool.mab(seeds, x, there), pool(x, there)
        assert result.shape == (2, 4, 3, 8)
        torch.testing.assert_close(result, expected)
        wanted = gradients(pool, expected.square().sum())
        torch.testing.assert_close(gradients(pool, result.square().sum()), wanted)


def ragged(sizes, padding=torch.nan):
    """Sets of so many images for each class of each task: (tasks, classes, images, 5), and their mask."""
    classes, images = max(map(len, sizes)), max(max(task) for task in sizes)
    mask = torch.zeros(len(sizes), classes, images, dtype=torch.bool)
    for t, task in enumerate(sizes):
        for c, n in enumerate(task):
            mask[t, c, :n] = True
    sets = normal(len(sizes), classes, images, 5)
    return sets.where(mask[..., None], padding), mask


SIZES = [[3, 1, 2], [4], [1, 0, 2, 2]]


@pytest.mark.parametrize("options", [{}, {"pool": "mean"}, {"points": 2}])
def test_a_data_set_is_pooled_class_by_class_then_over_the_classes(options):
    encoder = made(DatasetEncoder, 5, 8, **options)
    sets, mask = ragged(SIZES)
    expected = torch.stack(
        [
            pooled(
                encoder.classes,
                torch.stack([pooled(encoder.images, sets[t, c, :n]) for c, n in enumerate(task) if n]),
            )
            for t, task in enumerate(SIZES)
        ]
    )
    result = encoder(sets, mask)
    torch.testing.assert_close(result, expected)
    weights = normal(*result.shape, seed=2)
    wanted = gradients(encoder, (expected * weights).sum())
    torch.testing.assert_close(gradients(encoder, (result * weights).sum()), wanted)


@pytest.mark.parametrize("pool", ["attention", "mean"])
def test_neither_the_order_of_classes_nor_of_images_matters(pool):
    encoder, sets = made(DatasetEncoder, 5, 8, pool=pool), normal(2, 4, 3, 5)
    expected = encoder(sets)
    torch.testing.assert_close(encoder(sets, torch.ones(2, 4, 3, dtype=torch.bool)), expected)
    torch.testing.assert_close(encoder(sets[:, [2, 0, 3, 1]][:, :, [1, 2, 0]]), expected)
    # Which image belongs to which class does matter to attention, not to means of as many.
    regrouped = encoder(sets.transpose(1, 2).reshape(2, 4, 3, 5))
    assert torch.allclose(regrouped, expected) == (pool == "mean")


def test_tasks_are_encoded_independently_of_each_other():
    encoder, (sets, mask) = made(DatasetEncoder, 5, 8), ragged(SIZES)
    alone = [encoder(sets[t : t + 1], mask[t : t + 1]) for t in range(3)]
    torch.testing.assert_close(encoder(sets, mask), torch.cat(alone))


def test_prototypes_of_absent_classes_are_zero_and_the_rest_can_be_kept():
    encoder, (sets, mask) = made(DatasetEncoder, 5, 8), ragged(SIZES)
    prototypes = encoder.prototypes(sets, mask)
    assert prototypes.shape == (3, 4, 8)
    assert torch.equal(prototypes.any(-1), mask.any(-1))
    torch.testing.assert_close(encoder.classes(prototypes, mask.any(-1)), encoder(sets, mask))


def test_two_levels_of_means_are_a_linear_function_of_the_mean_of_means():
    encoder, (sets, mask) = made(DatasetEncoder, 5, 8, pool="mean"), ragged(SIZES, padding=1e9)
    means = [torch.stack([sets[t, c, :n].mean(0) for c, n in enumerate(task) if n]).mean(0)
             for t, task in enumerate(SIZES)]  # fmt: skip
    expected = encoder.classes.out(encoder.images.out(torch.stack(means)))
    torch.testing.assert_close(encoder(sets, mask), expected)


def test_sizes_are_those_of_the_published_model():
    assert (count(SetPool(512, 56)), count(SetPool(56, 56))) == (118160, 41552)
    assert count(DatasetEncoder()) == 159712


def test_modules_draw_from_the_seed_and_nothing_else():
    state = torch.get_rng_state()
    weights = []
    for seed in (1, 1, 2):
        with seeded(seed):
            weights.append(nn.utils.parameters_to_vector(DatasetEncoder(6, 8).parameters()))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MAB(3, 3, 6, 4), "width 6 has 4 heads"),
        (lambda: SAB(3, 4, 0), "has 0 heads"),
        (lambda: SetPool(0, 4), "no attention"),
        (lambda: ISAB(3, 4, 0), "at least one learned element"),
        (lambda: PMA(4, 0), "at least one learned element"),
        (lambda: DatasetEncoder(pool="max"), "no pooling is called 'max'"),
        (lambda: DatasetEncoder(5, 8)(torch.zeros(2, 3, 5)), r"not \(2, 3, 5\)"),
        (lambda: DatasetEncoder(5, 8)(torch.zeros(2, 3, 4, 6)), r"images, 5\)"),
        (lambda: DatasetEncoder(5, 8)(torch.zeros(2, 0, 4, 5)), r"not \(2, 0, 4, 5\)"),
        (lambda: DatasetEncoder(5, 8)(torch.zeros(2, 3, 4, 5), torch.ones(2, 3, 4)), "float32"),
        (lambda: DatasetEncoder(5, 8)(torch.zeros(2, 3, 4, 5), torch.ones(2, 3) > 0), r"bool \(2, 3, 4\)"),
        (
            lambda: DatasetEncoder(5, 8)(
                torch.zeros(2, 1, 1, 5), torch.tensor([True, False]).view(2, 1, 1)
            ),
            "task 1 has no image",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(NbpkgError, match=words):
        call()
