"""Pre-training: seeds at once come out as alone, models side by side do not notice each other; oracles."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nbpkg.data.masking import Batches, generator, mask, side_by_side
from nbpkg.errors import NbpkgError
from nbpkg.nets.bert import BertConfig, bert
from nbpkg.nets.bert_train import (
    Recipe,
    clip,
    held_out_losses,
    linear_warmup_decay,
    log_probabilities,
    optimisers,
    pretrain,
)
from nbpkg.nets.muon import Muon
from nbpkg.nets.together import Together

SMALL = dict(vocabulary=37, layers=2, width=12, heads=3, length=10)
TINY = BertConfig(13, 1, 16, 2, 5, norm="pre", std=0.1, positions="rotary")
PAIR = np.array([[2, 5, 6, 7, 8], [2, 9, 10, 11, 12]] * 8)

pytestmark = pytest.mark.usefixtures("one_thread")


def nets(seeds=(0,), config=TINY):
    return Together([bert(config, seed) for seed in seeds], "cpu")


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_models_of_every_seed_learn_a_language_of_two_sentences(kind):
    models, held = nets((0, 1)), mask(PAIR, 13, generator(0, "held"))
    before = held_out_losses(models, held)
    pretrain([models], [PAIR, PAIR], (0, 1), Recipe(150, 16, 0.02, 0.3, kind))
    after = held_out_losses(models, held)
    assert before.dtype == torch.float64 and before.shape == (2, 16)
    assert before.mean() == pytest.approx(math.log(13), abs=0.5) and (after.mean(1) < 0.3).all()


def test_seeds_at_once_come_out_as_each_alone():
    recipe, found = Recipe(30, 8, 0.01), nets((3, 4))
    pretrain([found], [PAIR, PAIR], (3, 4), recipe)
    for seed, state in zip((3, 4), found.states(), strict=True):
        alone = nets((seed,))
        pretrain([alone], [PAIR], (seed,), recipe)
        assert "by" not in state and state.keys() == alone.states()[0].keys()
        torch.testing.assert_close(state, alone.states()[0], rtol=1e-3, atol=1e-4)


def test_models_side_by_side_do_not_notice_each_other():
    small, other, alone = nets(), nets((1,), BertConfig(13, 2, 8, 2, 5)), nets()
    pretrain([small, other], [PAIR], (0,), Recipe(20, 8))
    pretrain([alone], [PAIR], (0,), Recipe(20, 8))
    torch.testing.assert_close(small.states()[0], alone.states()[0])


def test_a_loss_of_ones_own_sees_logits_batch_and_progress():
    seen, models = [], nets((0, 1))

    def loss(logits, batch, progress):
        seen.append((logits[0].shape, batch.inputs.shape, batch.targets.shape, progress))
        return 0 * logits[0].sum()

    before = models.states()
    looks = pretrain(
        [models], [PAIR] * 2, (0, 1), Recipe(3, 8, optimiser="adamw"), loss, lambda i: i, {0, 2, 3}
    )
    assert looks == [0, 2, 3] and [progress for *_, progress in seen] == [0, 0.5, 1]
    assert set(seen[0][:3]) == {(2 * 16, 13), (2, 8, 5), (2, 16)}
    # Without a gradient only weight decay moves anything, and vectors not even that.
    for name, value in models.states()[0].items():
        torch.testing.assert_close(value, before[0][name], rtol=1e-2, atol=1e-3)


def test_the_classic_recipe_is_a_plain_loop():
    # BERT's own: 15 % hidden, post-norm, learned positions, AdamW, each step clipped.
    config, recipe = BertConfig(13, 2, 8, 2, 5), Recipe(12, 8, 0.01, 0.15, "adamw")
    found, plain = nets((5,), config), bert(config, 5)
    pretrain([found], [PAIR], (5,), recipe)
    decayed, free = ([p for p in plain.parameters() if (p.dim() > 1) == big] for big in (True, False))
    adam = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": free, "weight_decay": 0.0}]
    )
    for step, x in enumerate(side_by_side([Batches(PAIR, 13, 8, 5, 0.15)], 12, "cpu")):
        loss = F.cross_entropy(plain(x.inputs[0], x.positions[0]), x.targets[0])
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        for group in adam.param_groups:
            group["lr"] = 0.01 * linear_warmup_decay(step, 12)
        adam.step()
    torch.testing.assert_close(found.states()[0], dict(plain.state_dict()), rtol=1e-4, atol=1e-5)


def test_each_network_is_clipped_by_its_own_norm():
    models = nets((0, 1))
    gradients = {}
    for name, p in models.named_parameters().items():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(len(gradients)))
        p.grad[1] *= 1e-4
        gradients[name] = p.grad.clone()
    clip(models, 2.0)
    for i in range(2):
        net = bert(TINY)
        for name, p in net.named_parameters():
            p.grad = gradients[name][i].clone()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        for name, p in net.named_parameters():
            torch.testing.assert_close(models.named_parameters()[name].grad[i], p.grad)


def test_muon_has_the_matrices_and_adamw_the_rest():
    models = nets((0, 1), BertConfig(**SMALL))
    adam, muon = optimisers(models, 0.1)
    names = {id(p): name for name, p in models.named_parameters().items()}
    given = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    layer = {f"layers.{i}.{part}.weight" for i in (0, 1) for part in ("qkv", "out", "up", "down")}
    assert isinstance(muon, Muon) and given == layer | {"transform.weight"}
    decayed, free = ({names[id(p)] for p in group["params"]} for group in adam.param_groups)
    assert decayed == {"tokens.weight", "position_embedding.weight"} and adam.param_groups[0]["weight_decay"]
    assert decayed | free | given == set(names.values()) and not adam.param_groups[1]["weight_decay"]
    with pytest.raises(NbpkgError, match="'muon' or 'adamw'"):
        optimisers(models, 0.1, "sgd")


def test_probabilities_are_those_of_each_model_part_by_part(monkeypatch):
    models = nets((0, 1), BertConfig(**SMALL))
    ids = torch.randint(5, 37, (9, 10), generator=torch.Generator().manual_seed(0))
    x = mask(ids, 37, generator(0, "held"))
    monkeypatch.setattr("nbpkg.nets.bert_train._EVALUATION_BATCH", 4)
    parts = list(log_probabilities(models, x))
    assert len(parts) == 3 and torch.equal(torch.cat([y for _, y in parts]), x.targets)
    for seed in (0, 1):
        logits = bert(BertConfig(**SMALL), seed)(x.inputs, x.positions).detach()
        torch.testing.assert_close(torch.cat([p[seed] for p, _ in parts]), logits.log_softmax(-1))
        wanted = F.cross_entropy(logits, x.targets, reduction="none")
        torch.testing.assert_close(held_out_losses(models, x)[seed].float(), wanted)


def test_the_learning_rate_rises_and_falls_and_is_never_zero():
    factors = [linear_warmup_decay(step, 100, 0.05) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) and max(factors) == 1
    assert factors[-1] == pytest.approx(1 / 96) and all(a > b for a, b in pairwise(factors[4:]))
    assert linear_warmup_decay(0, 1, 0.0) == 1
    for step, steps, share in ((5, 5, 0.1), (-1, 5, 0.1), (0, 5, 1.0)):
        with pytest.raises(NbpkgError):
            linear_warmup_decay(step, steps, share)
