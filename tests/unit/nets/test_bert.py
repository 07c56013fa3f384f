"""The encoder against a plain implementation, parameter and operation counts, padding, tied weights."""

import cmath
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nbpkg.errors import NbpkgError
from nbpkg.nets.bert import Bert, BertConfig, bert, precision, turned, turns

KINDS = [("post", "learned"), ("pre", "learned"), ("pre", "rotary"), ("post", "rotary")]
SMALL = dict(vocabulary=37, layers=2, width=12, heads=3, length=10)


pytestmark = pytest.mark.usefixtures("one_thread")


def ids(batch=4, length=10, seed=0):
    return torch.randint(5, 37, (batch, length), generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------ written out, from the published formulas


def plain_norm(x, weight, bias):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-12).sqrt() * weight + bias


def plain_gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def plain_turned(x, heads):
    """Rotary positions by complex numbers: x (length, width), features i and i + half of a head a plane."""
    size = x.shape[1] // heads
    found = torch.empty_like(x)
    for place in range(len(x)):
        for h in range(heads):
            for i in range(size // 2):
                real, imaginary = h * size + i, h * size + i + size // 2
                z = complex(x[place, real], x[place, imaginary])
                z *= cmath.exp(1j * place * 10_000 ** (-2 * i / size))
                found[place, real], found[place, imaginary] = z.real, z.imag
    return found


def plain_logits(model, tokens):
    """Logits at every place, one sequence, one head and one place at a time, from the state dict alone."""
    w, c = model.state_dict(), model.config
    size, found = c.width // c.heads, []

    def normed(x, name):
        return plain_norm(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def attention(x, layer):
        q, k, v = linear(x, f"{layer}.qkv").split(c.width, -1)
        if c.positions == "rotary":
            q, k = (plain_turned(y, c.heads) for y in (q, k))
        out = torch.zeros_like(x)
        for h in range(c.heads):
            part = slice(h * size, (h + 1) * size)
            for i in range(len(x)):
                scores = torch.tensor([float(q[i, part] @ k[j, part]) for j in range(len(x))], dtype=x.dtype)
                weights = (scores / math.sqrt(size)).exp()
                out[i, part] = (weights / weights.sum()) @ v[:, part]
        return linear(out, f"{layer}.out")

    def feed(x, layer):
        return linear(plain_gelu(linear(x, f"{layer}.up")), f"{layer}.down")

    for row in tokens:
        x = w["tokens.weight"][row]
        x = x if c.positions == "rotary" else x + w["position_embedding.weight"][: len(row)]
        x = normed(x, "norm") if c.norm == "post" else x
        for i in range(c.layers):
            name = f"layers.{i}"
            if c.norm == "post":
                x = normed(x + attention(x, name), f"{name}.norm1")
                x = normed(x + feed(x, name), f"{name}.norm2")
            else:
                x = x + attention(normed(x, f"{name}.norm1"), name)
                x = x + feed(normed(x, f"{name}.norm2"), name)
        x = normed(x, "norm") if c.norm == "pre" else x
        x = normed(plain_gelu(linear(x, "transform")), "head_norm")
        found.append(x @ w["tokens.weight"].T + w["bias"])
    return torch.stack(found)


def rough(norm="post", positions="learned", **changed):
    """A small model in float64 whose weights are all large and different, biases and norms included."""
    model = bert(BertConfig(norm=norm, positions=positions, **(SMALL | changed))).double()
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=rng, dtype=torch.float64), alpha=0.3)
    return model


@pytest.mark.parametrize(("norm", "positions"), KINDS)
def test_logits_are_those_of_a_plain_implementation(norm, positions):
    model, tokens = rough(norm, positions), ids(3, 8)
    places = torch.tensor([0, 3, 9, 23])
    expected = plain_logits(model, tokens).flatten(0, 1)[places]
    exact = 1e-9 if positions == "learned" else 1e-5  # the table of angles is in float32
    torch.testing.assert_close(model(tokens, places), expected, rtol=exact, atol=exact)


@pytest.mark.parametrize(("norm", "positions"), KINDS)
def test_gradients_are_those_of_finite_differences(norm, positions):
    model, tokens, positions = rough(norm, positions), ids(2, 5), torch.tensor([1, 7])
    targets = torch.tensor([9, 30])

    def loss():
        return torch.nn.functional.cross_entropy(model(tokens, positions), targets)

    loss().backward()
    rng = torch.Generator().manual_seed(2)
    for name, p in model.named_parameters():
        direction = torch.randn(p.shape, generator=rng, dtype=torch.float64)
        with torch.no_grad():
            p.add_(direction, alpha=1e-5)
            up = loss()
            p.add_(direction, alpha=-2e-5)
            down = loss()
            p.add_(direction, alpha=1e-5)
        slope = float((p.grad * direction).sum())
        assert float(up - down) / 2e-5 == pytest.approx(slope, rel=1e-4, abs=1e-8), name


@pytest.mark.parametrize(("norm", "positions"), KINDS)
def test_padding_changes_nothing(norm, positions):
    model, tokens = rough(norm, positions), ids(2, 6)
    longer = torch.cat([tokens, ids(2, 4, seed=3)], 1)
    mask = torch.arange(10).expand(2, 10) < 6
    torch.testing.assert_close(model.hidden(longer, mask)[:, :6], model.hidden(tokens), rtol=1e-9, atol=1e-9)


def test_order_of_words_matters_and_every_word_is_seen():
    model, tokens = rough(), ids(1, 6)
    tokens.requires_grad_(False)
    base = model.hidden(tokens)[0, 0]
    for place in range(1, 6):
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + 1 - 5) % 32 + 5
        assert not torch.allclose(model.hidden(changed)[0, 0], base)
    assert not torch.allclose(model.hidden(tokens[:, [0, 2, 1, 3, 4, 5]])[0, 0], base)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20), st.sampled_from([2, 4, 6, 16]))
def test_rotary_scores_depend_on_the_distance_alone_and_lengths_stay(i, j, shift, size):
    rng, table = torch.Generator().manual_seed(size), turns(41, size).double()
    q, k = torch.randn(2, 1, size, generator=rng, dtype=torch.float64)

    def at(x, place):
        return turned(x, table[:, place : place + 1])

    assert float(at(q, i).norm()) == pytest.approx(float(q.norm()), rel=1e-6)
    score = float(at(q, i) @ at(k, j).T)
    assert float(at(q, i + shift) @ at(k, j + shift).T) == pytest.approx(score, abs=1e-5)
    torch.testing.assert_close(at(q, 0), q)


def test_without_its_place_a_word_is_seen_from_where_it_stands():
    # Rotary positions know distances only: a row that is moved as a whole keeps its states.
    model, tokens = rough("pre", "rotary"), ids(1, 6)
    table = model.by.clone()
    before = model.hidden(tokens)
    model.by = turns(20, model.config.width // model.config.heads).double()[:, 7:17]
    torch.testing.assert_close(model.hidden(tokens), before, rtol=1e-5, atol=1e-5)
    model.by = table.flip(1)
    assert not torch.allclose(model.hidden(tokens), before, atol=1e-2)


def test_parameters_in_closed_form():
    for changed in ({}, {"layers": 1}, {"norm": "pre"}, {"positions": "rotary"}):
        config = BertConfig(**(SMALL | changed))
        assert sum(p.numel() for p in Bert(config).parameters()) == config.parameters()
    # BERT-base has 108,891,648 parameters with its two segments, without pooling and our head.
    head = 768 * 768 + 3 * 768 + 30_522
    sizes = {n: BertConfig(30_522, n, 768, 12, 512).parameters() - head for n in (12, 6, 4, 2, 1)}
    assert sizes[12] == 108_891_648 - 2 * 768
    # 6, 4, 2 and 1 layers: the student of Lee et al. (2023) and its teachers of 0.78, 0.57 and 0.46 of it.
    assert [int(100 * sizes[n] / sizes[6]) for n in (4, 2, 1)] == [78, 57, 46]


def test_operations_are_those_that_torch_counts():
    config = BertConfig(**SMALL)
    # The counter does not know the fused attention of CPUs.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        Bert(config)(ids(), torch.arange(7))
    assert counter.get_total_flops() == config.flops(4, 7)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        Bert(config)(ids(length=6), torch.arange(7))
    assert counter.get_total_flops() == config.flops(4, 7, length=6)


def test_a_seed_draws_the_weights_and_leaves_the_global_state():
    state = torch.get_rng_state()
    one, two, other = (bert(BertConfig(**SMALL), seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one[k], two[k]) for k in one) and not torch.equal(
        one["tokens.weight"], other["tokens.weight"]
    )
    assert one["layers.0.up.weight"].std() == pytest.approx(0.02, rel=0.15)


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": 0},
        {"heads": 5},
        {"norm": "none"},
        {"std": 0.0},
        {"vocabulary": 0},
        {"positions": "none"},
        {"positions": "rotary", "width": 9},
    ],
)
def test_sizes_that_make_no_encoder_are_refused(wrong):
    with pytest.raises(NbpkgError):
        BertConfig(**(SMALL | wrong))


def test_sequences_that_do_not_fit_are_refused():
    for wrong in (ids(2, 11), ids(2, 6)[0]):
        with pytest.raises(NbpkgError, match="up to 10 tokens"):
            bert(BertConfig(**SMALL)).hidden(wrong)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_gpu_in_bfloat16_agrees_with_the_cpu():
    model, tokens = bert(BertConfig(37, 2, 64, 2, 10)), ids()
    expected = model(tokens, torch.arange(8)).detach()
    with precision("cuda"):
        found = model.cuda()(tokens.cuda(), torch.arange(8).cuda())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float().cpu(), expected, rtol=0.05, atol=0.02)
