"""Set encoders: against attention written out element by element, and blind to order."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nbpkg.errors import NbpkgError
from nbpkg.nets.settransformer import MAB, PMA, SAB, DatasetEncoder, MeanPool, SetPool
from nbpkg.seeding import seeded


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
        rows.append(h + torch.relu(block.out(h)))
    return torch.stack(rows)


def pooled(pool, elements):
    """`SetPool` or `MeanPool` for one set."""
    if isinstance(pool, MeanPool):
        return pool.out(sum(elements) / len(elements))
    for block in pool.blocks:
        elements = attend(block.mab, elements, elements)
    return pool.out(attend(pool.pool.mab, pool.pool.seeds, elements)[0])


def gradients(net, value):
    return torch.autograd.grad(value, list(net.parameters()))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([(4, 4), (6, 2), (3, 1)]))
def test_attention_is_what_the_equations_say(m, n, shape):
    block = made(MAB, 3, 5, *shape)
    queries, keys = normal(2, m, 3), normal(2, n, 5, seed=1)
    expected = torch.stack([attend(block, q, k) for q, k in zip(queries, keys, strict=True)])
    torch.testing.assert_close(block(queries, keys), expected)


def test_attention_within_a_set_is_attention_to_itself():
    block, x = made(MAB, 6, 6, 8), normal(3, 5, 6)
    torch.testing.assert_close(block(x, x), block(x, x.clone()))


def test_gradients_of_attention_are_those_of_finite_differences():
    block = made(SAB, 3, 4, 2)
    assert torch.autograd.gradcheck(block, normal(2, 3, 3).requires_grad_())


def test_what_a_block_gives_follows_the_order_of_the_set():
    block, x = made(SAB, 5, 8), normal(2, 7, 5)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(block(x[:, order]), block(x)[:, order])


POOLS = {"attention": made(SetPool, 5, 8), "mean": made(MeanPool, 5, 8)}


@pytest.mark.parametrize("name", POOLS)
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.randoms(use_true_random=False))
def test_pooling_does_not_see_the_order(name, n, random):
    pool, x = POOLS[name], normal(n, 5)
    torch.testing.assert_close(pool(x[random.sample(range(n), n)]), pooled(pool, x))


def test_pooling_is_attention_of_the_seeds_to_the_set():
    pool, x = made(PMA, 8), normal(2, 4, 5, 8)
    expected, result = pool.mab(pool.seeds.expand(2, 4, 1, 8), x), pool(x)
    assert result.shape == (2, 4, 1, 8)
    torch.testing.assert_close(result, expected)
    wanted = gradients(pool, expected.square().sum())
    torch.testing.assert_close(gradients(pool, result.square().sum()), wanted)


@pytest.mark.parametrize("pool", ["attention", "mean"])
def test_a_data_set_is_pooled_class_by_class_then_over_the_classes(pool):
    encoder, sets = made(DatasetEncoder, 5, 8, pool=pool), normal(3, 4, 2, 5)
    expected = torch.stack(
        [pooled(encoder.classes, torch.stack([pooled(encoder.images, c) for c in task])) for task in sets]
    )
    result = encoder(sets)
    torch.testing.assert_close(result, expected)
    weights = normal(*result.shape, seed=2)
    wanted = gradients(encoder, (expected * weights).sum())
    torch.testing.assert_close(gradients(encoder, (result * weights).sum()), wanted)


@pytest.mark.parametrize("pool", ["attention", "mean"])
def test_neither_the_order_of_classes_nor_of_images_matters(pool):
    encoder, sets = made(DatasetEncoder, 5, 8, pool=pool), normal(2, 4, 3, 5)
    expected = encoder(sets)
    torch.testing.assert_close(encoder(sets[:, [2, 0, 3, 1]][:, :, [1, 2, 0]]), expected)
    # Which image belongs to which class does matter to attention, not to means of as many.
    regrouped = encoder(sets.transpose(1, 2).reshape(2, 4, 3, 5))
    assert torch.allclose(regrouped, expected) == (pool == "mean")


def test_tasks_are_encoded_independently_of_each_other():
    encoder, sets = made(DatasetEncoder, 5, 8), normal(3, 4, 2, 5)
    torch.testing.assert_close(encoder(sets), torch.cat([encoder(task[None]) for task in sets]))


def test_two_levels_of_means_are_a_linear_function_of_the_mean_of_means():
    encoder, sets = made(DatasetEncoder, 5, 8, pool="mean"), normal(3, 4, 2, 5)
    expected = encoder.classes.out(encoder.images.out(sets.mean((1, 2))))
    torch.testing.assert_close(encoder(sets), expected)


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
        (lambda: DatasetEncoder(pool="max"), "no pooling is called 'max'"),
        (lambda: DatasetEncoder(5, 8)(torch.zeros(2, 3, 5)), r"not \(2, 3, 5\)"),
        (lambda: DatasetEncoder(5, 8)(torch.zeros(2, 3, 4, 6)), r"images, 5\)"),
        (lambda: DatasetEncoder(5, 8)(torch.zeros(2, 0, 4, 5)), r"not \(2, 0, 4, 5\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(NbpkgError, match=words):
        call()
