"""Agreement and fine-tuning: they find what is there, leave the model alone, and repeat bit for bit."""

import numpy as np
import pytest
import torch
from public import needs

from nbpkg.data.masking import held_out
from nbpkg.data.synthetic.first_language import Language
from nbpkg.data.tokens import bpe, padded
from nbpkg.errors import NbpkgError
from nbpkg.nets.bert import BertConfig, bert
from nbpkg.nets.downstream import (
    FineTuning,
    agreement,
    fine_tune,
    glue_scores,
    sentences,
)
from nbpkg.nets.together import Together

pytestmark = pytest.mark.usefixtures("one_thread")
LANGUAGE = Language()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path))


def corpus(n=300, seed=0):
    drawn = LANGUAGE.sentences(n, seed)
    ids = padded(LANGUAGE.encode([s.words for s in drawn]), length=32)
    return drawn, ids, np.array([int(s.plural) for s in drawn])


def model(seed=0):
    return bert(BertConfig(LANGUAGE.size, 1, 32, 2, 32), seed)


def test_agreement_is_the_share_of_the_verbs_probability_in_the_right_number(monkeypatch):
    numbers, held = LANGUAGE.verb_numbers, held_out(LANGUAGE.rows(80, 16, seed=1), LANGUAGE.size)
    nets = [model(seed) for seed in (0, 1)]
    monkeypatch.setattr("nbpkg.nets.bert_train._EVALUATION_BATCH", 7)
    found = agreement(Together(nets, "cpu"), held, numbers)
    for net, mine in zip(nets, found, strict=True):
        shares = []
        for p, y in zip(
            net(held.inputs, held.positions).softmax(-1).tolist(), held.targets.tolist(), strict=True
        ):
            word = LANGUAGE.vocabulary[y]
            assert (numbers[y] > 0) == (word.removesuffix("s")[-1] in "nm" and word[:3] not in ("no", "wit"))
            if numbers[y]:
                verbs = {k: sum(q for q, n in zip(p, numbers, strict=True) if n == k) for k in (1, 2)}
                shares.append(verbs[1 + (not word.endswith("s"))] / (verbs[1] + verbs[2]))
        assert len(shares) > 10 and mine == pytest.approx(100 * np.mean(shares), rel=1e-4)
    assert (abs(found - 50) < 10).all() and found[0] != found[1]


def test_fine_tuning_learns_repeats_and_leaves_the_models_alone():
    net, (_, ids, plural) = model(), corpus(400)
    simple = (ids == ids[0, 1]).any(1).astype(np.int64)  # does the sentence hold this determiner?
    before = {k: v.clone() for k, v in net.state_dict().items()}
    one = fine_tune([net, net], ids[:300], simple[:300], ids[300:], FineTuning(epochs=6, lr=3e-3), (1, 2))
    assert one.shape == (2, 100) and ((one == simple[300:]).mean(1) > 0.9).all() and set(one.flat) <= {0, 1}
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    quick = FineTuning(epochs=1, limit=64)
    two, three, other = (fine_tune([net], ids, plural, ids[:50], quick, (s,)) for s in (1, 1, 2))
    assert np.array_equal(two, three) and not np.array_equal(two, other)


def test_models_fine_tuned_together_predict_what_each_does_alone():
    nets, (_, ids, _) = [model(seed) for seed in (0, 1)], corpus(120)
    lengths, quick = (ids != 0).sum(1) / 4 + 1.0, FineTuning(epochs=2, lr=1e-3, limit=70)
    both = fine_tune(nets, ids, lengths, ids[:30], quick, (3, 4))
    for net, seed, mine in zip(nets, (3, 4), both, strict=True):
        np.testing.assert_allclose(
            fine_tune([net], ids, lengths, ids[:30], quick, (seed,))[0], mine, rtol=1e-3
        )


def test_numbers_are_predicted_in_their_own_units():
    net, (_, ids, _) = model(), corpus(300)
    lengths = (ids != 0).sum(1) / 4 + 1.0
    (found,) = fine_tune([net], ids[:200], lengths[:200], ids[200:], FineTuning(epochs=5, lr=3e-3))
    assert found.dtype == np.float64 and np.corrcoef(found, lengths[200:])[0, 1] > 0.5
    assert abs(found.mean() - lengths[200:].mean()) < 1


def test_what_trains_nothing_is_refused():
    _, ids, plural = corpus(4)
    for labels, seeds in ((plural[:3], (0,)), (plural, (0, 1))):
        with pytest.raises(NbpkgError, match="no training"):
            fine_tune([model()], ids, labels, ids, seeds=seeds)
    for wrong in ({"epochs": 0}, {"lr": 0}, {"limit": -1}):
        with pytest.raises(NbpkgError):
            FineTuning(**wrong)


@needs("text-glue")
def test_a_glue_task_from_files_to_score():
    from nbpkg.data import glue

    train = glue.read("MRPC", "train")
    tokenizer = bpe(train.first[:400], 500)
    ids = sentences(train.take(range(3)), tokenizer, 40)
    assert ids.shape == (3, 40) and (ids == 3).sum() == 6
    net = bert(BertConfig(500, 1, 16, 2, 40))
    (found,) = glue_scores([net], tokenizer, "MRPC", FineTuning(epochs=1, limit=64, length=40))
    assert set(found) == {"accuracy", "f1", "MRPC"} and 0 <= found["MRPC"] <= 100
