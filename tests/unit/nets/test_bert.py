"""The encoder against a plain implementation, parameter and operation counts, padding, tied weights."""

import math
from itertools import pairwise

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nbpkg.data.masking import generator, mask
from nbpkg.errors import NbpkgError
from nbpkg.nets.bert import Bert, BertConfig, bert, precision
from nbpkg.nets.bert_train import clip_and_step, held_out_loss, linear_warmup_decay, optimiser, ramp

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
        x = w["tokens.weight"][row] + w["position_embedding.weight"][: len(row)]
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


def rough(norm="post", **changed):
    """A small model in float64 whose weights are all large and different, biases and norms included."""
    model = bert(BertConfig(norm=norm, **(SMALL | changed))).double()
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=rng, dtype=torch.float64), alpha=0.3)
    return model


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_logits_are_those_of_a_plain_implementation(norm):
    model, tokens = rough(norm), ids(3, 8)
    positions = torch.tensor([0, 3, 9, 23])
    expected = plain_logits(model, tokens).flatten(0, 1)[positions]
    torch.testing.assert_close(model(tokens, positions), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_gradients_are_those_of_finite_differences(norm):
    model, tokens, positions = rough(norm), ids(2, 5), torch.tensor([1, 7])
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


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_padding_changes_nothing(norm):
    model, tokens = rough(norm), ids(2, 6)
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


def test_parameters_in_closed_form():
    for changed in ({}, {"layers": 1}, {"norm": "pre"}):
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
    [{"layers": 0}, {"heads": 5}, {"norm": "none"}, {"std": 0.0}, {"vocabulary": 0}],
)
def test_sizes_that_make_no_encoder_are_refused(wrong):
    with pytest.raises(NbpkgError):
        BertConfig(**(SMALL | wrong))


def test_sequences_that_do_not_fit_are_refused():
    for wrong in (ids(2, 11), ids(2, 6)[0]):
        with pytest.raises(NbpkgError, match="up to 10 tokens"):
            bert(BertConfig(**SMALL)).hidden(wrong)


# ------------------------------------------------------------------ training


def test_a_model_learns_a_language_of_two_sentences():
    rows = torch.tensor([[2, 5, 6, 7, 8], [2, 9, 10, 11, 12]]).repeat(8, 1)
    model = bert(BertConfig(13, 1, 16, 2, 5))
    adam, held = optimiser(model, 0.02), mask(rows, 13, generator(0, "held"))
    before = held_out_loss(model, held)
    for step in range(150):
        x = mask(rows, 13, generator(step, "train"))
        torch.nn.functional.cross_entropy(model(x.inputs, x.positions), x.targets).backward()
        clip_and_step(model, adam, linear_warmup_decay(step, 150))
    after = held_out_loss(model, held)
    assert before.dtype == torch.float64 and before.shape == (16,)
    assert before.mean() == pytest.approx(math.log(13), abs=0.2) and after.mean() < 0.3
    assert all(p.grad is None for p in model.parameters()) and model.training


def test_held_out_loss_is_the_plain_cross_entropy_in_parts(monkeypatch):
    model, x = bert(BertConfig(**SMALL)), mask(ids(9), 37, generator(0, "held"))
    expected = torch.nn.functional.cross_entropy(model(x.inputs, x.positions), x.targets, reduction="none")
    monkeypatch.setattr("nbpkg.nets.bert_train._EVALUATION_BATCH", 4)
    torch.testing.assert_close(held_out_loss(model, x).float(), expected.detach())


def test_matrices_decay_and_biases_do_not():
    model = bert(BertConfig(**SMALL))
    decayed, free = optimiser(model).param_groups
    assert decayed["weight_decay"] == 0.01 and free["weight_decay"] == 0
    assert all(p.dim() > 1 for p in decayed["params"]) and all(p.dim() == 1 for p in free["params"])
    assert sum(map(len, (decayed["params"], free["params"]))) == len(list(model.parameters()))


def test_a_step_is_clipped_adam_at_the_scheduled_rate():
    model = torch.nn.Linear(3, 2)
    twin = torch.nn.Linear(3, 2)
    twin.load_state_dict(model.state_dict())
    adam, other = optimiser(model, 0.1), torch.optim.AdamW(twin.parameters(), 0.1, weight_decay=0)
    adam.param_groups[0]["weight_decay"] = 0
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    for step in range(3):
        (100 * model(x) ** 2).mean().backward()
        norm = clip_and_step(model, adam, linear_warmup_decay(step, 4, 0.5), clip=1.0)
        other.param_groups[0]["lr"] = 0.1 * (0.5, 1, 2 / 3)[step]
        (100 * twin(x) ** 2).mean().backward()
        expected = torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        other.step()
        other.zero_grad()
        assert norm > 1 and norm == pytest.approx(float(expected), rel=1e-5)
    torch.testing.assert_close(model.weight, twin.weight)


def test_the_learning_rate_rises_and_falls_and_is_never_zero():
    factors = [linear_warmup_decay(step, 100, 0.05) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) and max(factors) == 1
    assert factors[-1] == pytest.approx(1 / 96) and all(a > b for a, b in pairwise(factors[4:]))
    assert linear_warmup_decay(0, 1, 0.0) == 1
    for step, steps, share in ((5, 5, 0.1), (-1, 5, 0.1), (0, 5, 1.0)):
        with pytest.raises(NbpkgError):
            linear_warmup_decay(step, steps, share)


def test_a_schedule_goes_through_its_points():
    falling, switched = ramp((0, 4), (1, 1)), ramp((0, 1), (0.5, 1), (0.5, 0))
    assert [falling(x) for x in (0, 0.5, 1)] == [4, 2.5, 1]
    assert [switched(x) for x in (0, 0.49, 0.5, 1)] == [1, 1, 0, 0]
    assert ramp((0.2, 3), (0.4, 5))(0) == 3 and ramp((0.2, 3), (0.4, 5))(0.3) == pytest.approx(4)
    for points in ((), ((0.5, 1), (0, 1)), ((0, 1), (1.5, 1))):
        with pytest.raises(NbpkgError):
            ramp(*points)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_gpu_in_bfloat16_agrees_with_the_cpu():
    model, tokens = bert(BertConfig(37, 2, 64, 2, 10)), ids()
    expected = model(tokens, torch.arange(8)).detach()
    with precision("cuda"):
        found = model.cuda()(tokens.cuda(), torch.arange(8).cuda())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float().cpu(), expected, rtol=0.05, atol=0.02)
