"""The exact answer of the best masked language model: against sums over all texts and replacements."""

import itertools
import math

import numpy as np
import pytest
import torch

from nbpkg.data.masking import Masked, generator, held_out, mask
from nbpkg.data.synthetic.first_language import Language
from nbpkg.data.synthetic.grammar import Grammar
from nbpkg.data.synthetic.posterior import Automaton, Posterior
from nbpkg.data.tokens import CLS, MASK, SPECIAL
from nbpkg.errors import NbpkgError

SMALL = Language(classes=1, nouns=1, verbs=1, adjectives=1, modifier=0.3)


def texts(model, length):
    """Every text of so many words that begins with a sentence, with its probability: {words: p}."""
    found = {((), 0): 1.0}
    for _ in range(length):
        more = {}
        for (words, state), p in found.items():
            for w in np.flatnonzero(model.p[state]):
                key = (*words, int(w)), int(model.to[state, w])
                more[key] = more.get(key, 0) + p * model.p[state, w]
        found = more
    return {words: p for (words, _), p in found.items()}


def brute_force(model, shown, place, each, shares):
    """p(word at a predicted place | what is shown), by Bayes' rule over everything that can have happened.

    shown: word numbers, None for a mask. Places are drawn evenly, so every set of them counts alike.
    """
    n, found = model.p.shape[1], np.zeros(model.p.shape[1])
    for words, p in texts(model, len(shown)).items():
        for places in itertools.combinations(range(len(shown)), each):
            if place not in places:
                continue
            q = p
            for t, (true, seen) in enumerate(zip(words, shown, strict=True)):
                if t not in places:
                    q *= true == seen
                elif seen is None:
                    q *= shares[0]
                else:
                    q *= shares[1] / n + shares[2] * (true == seen)
            found[words[place]] += q
    return found / found.sum()


@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.1), (0.5, 0.4, 0.1), (1.0, 0.0, 0.0)])
def test_bayes_rule_over_everything_that_can_have_happened(shares):
    best = Posterior(SMALL, shares)
    rows = SMALL.rows(12, 6, seed=3)
    masked = mask(rows, SMALL.size, generator(0, "test"), 0.34, shares)
    found = best(masked)
    assert found.shape == (24, SMALL.size) and np.allclose(found.sum(1), 1)
    for k, position in enumerate(masked.positions.tolist()):
        row, place = divmod(position, 6)
        shown = [None if t == MASK else t - len(SPECIAL) for t in masked.inputs[row, 1:].tolist()]
        wanted = brute_force(best.model, shown, place - 1, 2, shares)
        np.testing.assert_allclose(found[k, len(SPECIAL) :], wanted, atol=1e-12)


def test_states_give_the_probabilities_of_the_grammar():
    language = Language(nouns=2, verbs=2, adjectives=2)
    model = Automaton(language.grammar)
    assert np.allclose(model.p.sum(1), 1)
    number = {word: i for i, word in enumerate(model.words)}
    for sentence in language.sentences(50):
        state, total = 0, 0.0
        for word in sentence.words:
            total += math.log(model.p[state, number[word]])
            state = model.to[state, number[word]]
        assert state == 0 and total == pytest.approx(sum(language.grammar.log_probs(sentence.words)))


def test_a_single_mask_in_a_sentence_is_the_grammars_cloze():
    language = Language(nouns=2, verbs=2, adjectives=2)
    best = Posterior(language, (1.0, 0.0, 0.0))
    for sentence in language.sentences(10, seed=4):
        (ids,) = language.encode([sentence.words])
        row = torch.tensor([CLS, *ids])[None]
        place = sentence.verb + 1
        shown = row.clone()
        shown[0, place] = MASK
        (found,) = best(Masked(shown, torch.tensor([place]), row[0, [place]]))
        for word, p in language.grammar.cloze(sentence.words, sentence.verb).items():
            assert found[language.vocabulary.index(word)] == pytest.approx(p)


def test_nothing_can_be_better_on_average():
    language = Language(nouns=3, verbs=3, adjectives=2)
    held = held_out(language.rows(600, 12, seed=1), language.size)
    p, targets = Posterior(language)(held), held.targets.numpy()
    loss = -np.log(p[np.arange(len(p)), targets])
    entropy = -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(1)
    # Calibrated: what it expects to lose is what it loses.
    assert loss.mean() == pytest.approx(entropy.mean(), abs=4 * (loss - entropy).std() / math.sqrt(len(p)))


def test_what_cannot_be_read_is_refused():
    with pytest.raises(NbpkgError, match="parser states"):
        Automaton(Grammar({"S": [(1, ("N", "."))], "N": [(0.4, ("a", "N", "b")), (0.6, ("c",))]}))
    held = held_out(SMALL.rows(2, 6), SMALL.size)
    wrong = Masked(torch.full_like(held.inputs, CLS), held.positions, held.targets)
    with pytest.raises(NbpkgError, match="words and masks"):
        Posterior(SMALL)(wrong)
