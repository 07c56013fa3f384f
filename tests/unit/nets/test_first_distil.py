"""Weights carried from a teacher to a student, as chapter 09 of the first edition does it."""

import pytest
import torch

from nbpkg.errors import NbpkgError
from nbpkg.nets.bert import BertConfig, bert
from nbpkg.nets.first_distil import init_from, layer_map

SMALL = dict(vocabulary=37, width=16, heads=2, length=10)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_layers_are_mapped_by_rule():
    assert layer_map(4, 6) == [0, 1, 2, 3, 3, 3] and layer_map(1, 3) == [0, 0, 0]
    assert layer_map(4, 6, "first") == [0, 1, 2, 3, None, None]
    assert layer_map(6, 2, "last") == [0, 1]
    for wrong in ((0, 2, "last"), (2, 2, "middle")):
        with pytest.raises(NbpkgError):
            layer_map(*wrong)


def weights(model):
    return model.state_dict()


def test_a_deeper_model_starts_with_the_layers_of_the_shallow_one():
    source = bert(BertConfig(layers=2, **SMALL), 5)
    before = {k: v.clone() for k, v in weights(source).items()}
    grown = init_from(source, BertConfig(layers=4, **SMALL))
    for name, value in weights(grown).items():
        if name.startswith("layers."):
            number, rest = name.removeprefix("layers.").split(".", 1)
            assert torch.equal(value, before[f"layers.{min(int(number), 1)}.{rest}"])
        else:
            assert torch.equal(value, before[name])
    assert all(torch.equal(before[k], v) for k, v in weights(source).items())
    # Nothing is shared: training one does not move the other.
    with torch.no_grad():
        grown.tokens.weight.zero_()
    assert torch.equal(before["tokens.weight"], source.tokens.weight)


def test_without_layers_the_rest_is_carried_and_layers_are_as_drawn():
    source, config = bert(BertConfig(layers=2, **SMALL), 5), BertConfig(layers=3, **SMALL)
    fresh = weights(bert(config, 7))
    for name, value in weights(init_from(source, config, 7, layers=None)).items():
        drawn = name.startswith("layers.")
        assert torch.equal(value, fresh[name] if drawn else weights(source)[name]), name


def test_growth_can_preserve_the_function():
    source = bert(BertConfig(layers=2, norm="pre", **SMALL), 5)
    grown = init_from(source, BertConfig(layers=5, norm="pre", **SMALL), layers="first", extra="zero")
    ids, places = torch.randint(5, 37, (3, 10)), torch.arange(30)
    torch.testing.assert_close(grown(ids, places), source(ids, places))
    assert grown.layers[4].up.weight.std() > 0


def test_widths_share_their_first_features_and_heads():
    source = bert(BertConfig(layers=2, **SMALL), 5)
    config = BertConfig(37, 2, 24, 3, 12)
    wide, fresh = init_from(source, config, 7), bert(config, 7)
    assert torch.equal(wide.tokens.weight[:, :16], source.tokens.weight)
    assert torch.equal(wide.tokens.weight[:, 16:], fresh.tokens.weight[:, 16:])
    assert torch.equal(wide.position_embedding.weight[:10, :16], source.position_embedding.weight)
    for part in range(3):  # query, key, value
        to, of = wide.layers[1].qkv.weight[24 * part :], source.layers[1].qkv.weight[16 * part :]
        assert torch.equal(to[:16, :16], of[:16])
    back = init_from(wide, source.config, 0)
    assert all(torch.equal(v, weights(source)[k]) for k, v in weights(back).items())


def test_models_that_cannot_share_weights_are_refused():
    source = bert(BertConfig(layers=2, **SMALL))
    other = dict(SMALL, layers=2)
    for config in (
        BertConfig(**(other | {"vocabulary": 38})),
        BertConfig(**(other | {"norm": "pre"})),
        BertConfig(**(other | {"heads": 4})),
    ):
        with pytest.raises(NbpkgError):
            init_from(source, config)
    with pytest.raises(NbpkgError, match="'random' or 'zero'"):
        init_from(source, source.config, extra="none")
