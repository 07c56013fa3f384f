"""Grammars: exact entropies and probabilities against sums over all sentences, and against simulation."""

import itertools
import math
import random

import numpy as np
import pytest
from ll1 import conflicts

from nbpkg.data.synthetic.first_language import Grammar
from nbpkg.errors import NbpkgError

# Finitely many sentences, of 1 to 4 words; the symbol "tail" may be empty.
FINITE = {
    "S": [(0.5, ("head", "tail", ".")), (0.5, ("z", "."))],
    "head": [(2, ("a",)), (1, ("b", "tail"))],
    "tail": [(0.25, ("x",)), (0.75, ())],
}


def finite():
    # "b" and both tails would be ambiguous (b x .): the inner tail gets words of its own.
    rules = dict(FINITE)
    rules["head"] = [(2, ("a",)), (1, ("b", "inner"))]
    rules["inner"] = [(0.4, ("y",)), (0.6, ())]
    return Grammar(rules)


def every_sentence(grammar, longest=4):
    for length in range(1, longest + 1):
        for words in itertools.product(grammar.words, repeat=length):
            p = math.exp(sum(grammar.log_probs(words)))
            if p > 0:
                yield words, p


def test_probabilities_of_all_sentences_sum_to_one_and_give_the_entropy():
    grammar = finite()
    found = dict(every_sentence(grammar))
    assert sum(found.values()) == pytest.approx(1)
    assert -sum(p * math.log(p) for p in found.values()) == pytest.approx(grammar.entropy)
    assert sum(p * len(words) for words, p in found.items()) == pytest.approx(grammar.expected_words)
    assert grammar.entropy_rate == pytest.approx(grammar.entropy / grammar.expected_words)
    assert found["b", "y", "x", "."] == pytest.approx(0.5 / 3 * 0.4 * 0.25)


def test_the_next_word_has_its_conditional_probability():
    grammar = finite()
    found = dict(every_sentence(grammar))
    words = ("b", "y", "x", ".")
    logs = grammar.log_probs(words)
    for place in range(len(words)):
        before = sum(p for s, p in found.items() if s[:place] == words[:place])
        with_it = sum(p for s, p in found.items() if s[: place + 1] == words[: place + 1])
        assert math.exp(logs[place]) == pytest.approx(with_it / before)


def test_cloze_is_bayes_rule_over_all_sentences():
    grammar = finite()
    found = dict(every_sentence(grammar))
    words, place = ("b", "y", "."), 1
    fitting = {s[place]: p for s, p in found.items() if len(s) == 3 and (s[0], s[2]) == ("b", ".")}
    expected = {word: p / sum(fitting.values()) for word, p in fitting.items()}
    assert grammar.cloze(words, place) == pytest.approx(expected) and set(expected) == {"x", "y"}
    with pytest.raises(NbpkgError, match="no word can stand"):
        grammar.cloze(("z", "z", "z"), 0)


def test_recursion_entropy_in_closed_form():
    # a^n . with geometric n: entropy H(p) / (1 - p), mean length 1 / (1 - p).
    p = 0.6
    grammar = Grammar({"S": [(p, ("a", "S")), (1 - p, (".",))]})
    binary = -p * math.log(p) - (1 - p) * math.log(1 - p)
    assert grammar.entropy == pytest.approx(binary / (1 - p))
    assert grammar.expected_words == pytest.approx(1 / (1 - p))
    assert grammar.entropy_rate == pytest.approx(binary)


def test_samples_follow_the_probabilities():
    grammar, rng = finite(), random.Random(0)
    found = dict(every_sentence(grammar))
    drawn = [tuple(grammar.sample(rng)[0]) for _ in range(20_000)]
    for words, p in found.items():
        assert drawn.count(words) / len(drawn) == pytest.approx(p, abs=4 * math.sqrt(p / len(drawn)))


def test_events_name_what_was_expanded_and_where():
    words, events = finite().sample(random.Random(3))
    assert events[0] == (0, "S") and all(0 <= at <= len(words) for at, _ in events)


def test_impossible_words_have_probability_zero():
    grammar = finite()
    for wrong in (("a",), ("x", "."), ("a", ".", "."), ("a", "x", "x", "."), ("nothing",)):
        assert np.exp(grammar.log_probs(wrong)).prod() == 0 and len(grammar.log_probs(wrong)) == len(wrong)
    assert math.isfinite(sum(grammar.log_probs(("a", "."))))


def test_a_grammar_may_end_in_an_empty_symbol():
    grammar = Grammar({"S": [(1, ("a", "T"))], "T": [(0.25, ()), (0.75, ("b",))]})
    assert sum(grammar.log_probs(("a",))) == pytest.approx(math.log(0.25))
    assert sum(grammar.log_probs(("a", "b"))) == pytest.approx(math.log(0.75))


@pytest.mark.parametrize(
    ("rules", "word"),
    [
        ({}, "needs rules"),
        ({"S": []}, "no proper"),
        ({"S": [(-1, ("a",)), (2, ("b",))]}, "no proper"),
        ({"S": [(float("nan"), ("a",))]}, "no proper"),
        ({"S": [(0.6, ("a", "S", "S")), (0.4, ("b",))]}, "infinitely long"),
    ],
)
def test_what_has_no_probabilities_or_no_end_is_refused(rules, word):
    with pytest.raises(NbpkgError, match=word):
        Grammar(rules)


@pytest.mark.parametrize(
    ("rules", "conflict"),
    [
        ({"S": [(1, ("a",)), (1, ("a", "b"))]}, ("S", "a")),
        ({"S": [(1, ("T", "x"))], "T": [(1, ()), (1, ("x",))]}, ("T", "x")),
        ({"S": [(1, ("T", "."))], "T": [(1, ()), (1, ("U",))], "U": [(1, ()), (1, ("u",))]}, ("T", ".")),
    ],
)
def test_what_has_no_single_reading_is_found(rules, conflict):
    assert conflict in list(conflicts(Grammar(rules)))
    assert not list(conflicts(finite()))
