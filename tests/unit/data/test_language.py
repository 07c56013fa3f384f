"""The generated language: its entropy by simulation, agreement, labels, and the same text from a seed."""

import hashlib
import math

import numpy as np
import pytest
from ll1 import conflicts

from nbpkg.data.synthetic.first_language import Language, Sentence
from nbpkg.data.tokens import SPECIAL
from nbpkg.errors import NbpkgError

LANGUAGE = Language()


def bare(word):
    return word.removesuffix("s")


def test_the_entropy_rate_is_what_samples_say():
    drawn = LANGUAGE.sentences(4_000, seed=1)
    logs = np.array([-sum(LANGUAGE.grammar.log_probs(s.words)) for s in drawn])
    words = np.array([len(s.words) for s in drawn])
    # Delta method for a ratio of means.
    rate = logs.sum() / words.sum()
    error = np.std(logs - rate * words) / math.sqrt(len(drawn)) / words.mean()
    assert rate == pytest.approx(LANGUAGE.entropy_rate, abs=4 * error) and error < 0.01
    assert words.mean() == pytest.approx(
        LANGUAGE.grammar.expected_words, abs=4 * words.std() / math.sqrt(len(drawn))
    )


def test_without_modifiers_the_entropy_is_that_of_a_formula():
    # S: det adj* noun (goes | sees det adj* noun) . with every choice independent of the others.
    small = Language(classes=1, nouns=3, verbs=2, adjectives=1, modifier=0)

    def h(weights):
        p = np.array(weights) / np.sum(weights)
        return float(-(p * np.log(p)).sum())

    phrase = h([1, 1 / 2, 1 / 3, 1 / 4]) + h([0.7, 0.3]) / 0.7 + math.log(2) + h([1, 1 / 2, 1 / 3])
    expected = phrase + math.log(2) + h([1, 1 / 2]) + 0.5 * phrase
    assert small.grammar.entropy == pytest.approx(expected)
    assert small.grammar.expected_words == pytest.approx(1.5 * (2 + 0.3 / 0.7) + 2)


@pytest.mark.parametrize("modifier", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (4, 12, 16, 12), (3, 2, 1, 5), (8, 24, 24, 12)])
def test_a_sentence_has_one_derivation(sizes, modifier):
    assert not list(conflicts(Language(*sizes, modifier).grammar))


def test_subject_and_verb_agree_and_the_labels_say_so():
    sentences = LANGUAGE.sentences(500)
    for s in sentences:
        assert isinstance(s, Sentence) and s.words[-1] == "." and 0 < s.subject < s.verb < len(s.words)
        assert s.words[s.subject].endswith("s") == s.plural == (not s.words[s.verb].endswith("s"))
        between = s.words[s.subject + 1 : s.verb]
        nouns = [w for w in between if bare(w) in {bare(x) for x in _nouns()}]
        assert s.attractors == sum(noun.endswith("s") != s.plural for noun in nouns)
    assert 0.4 < np.mean([s.plural for s in sentences]) < 0.6
    assert 0.1 < np.mean([s.attractors > 0 for s in sentences]) < 0.4


def _nouns():
    return [word for c in range(LANGUAGE.classes) for word in LANGUAGE._forms[f"noun/{c}"]]


def test_a_violation_changes_the_verb_only_and_makes_the_sentence_impossible():
    for s in LANGUAGE.sentences(100, seed=2):
        broken = LANGUAGE.ungrammatical(s)
        changed = [i for i, (a, b) in enumerate(zip(s.words, broken.words, strict=True)) if a != b]
        assert changed == [s.verb] and bare(broken.words[s.verb]) == bare(s.words[s.verb])
        assert not broken.grammatical and LANGUAGE.ungrammatical(broken) == s
        assert math.isfinite(sum(LANGUAGE.grammar.log_probs(s.words)))
        assert sum(LANGUAGE.grammar.log_probs(broken.words)) == -math.inf
    judged = LANGUAGE.acceptability_set(100, seed=2)
    assert [s.grammatical for s in judged] == [False, True] * 50


def test_words_are_distinct_and_a_class_prefers_its_verbs():
    assert LANGUAGE.vocabulary[:5] == SPECIAL and len(set(LANGUAGE.vocabulary)) == LANGUAGE.size == 187
    best = {
        max(LANGUAGE.grammar.rules[f"goes/sg/{c}"])[1] for c in range(LANGUAGE.classes)
    }  # the likeliest verb of each class
    assert len(best) == LANGUAGE.classes


def test_cloze_at_the_verb_gives_all_probability_to_its_number():
    s = next(s for s in LANGUAGE.sentences(50) if s.attractors)
    likely = LANGUAGE.grammar.cloze(s.words, s.verb)
    assert sum(likely.values()) == pytest.approx(1)
    assert all(word.endswith("s") != s.plural for word in likely)


def test_a_seed_gives_the_same_text_everywhere():
    ids = LANGUAGE.corpus(5_000, seed=0)
    assert ids.dtype == np.int32 and len(ids) == 5_000 and ids.min() >= 5 and ids.max() < LANGUAGE.size
    assert hashlib.sha256(ids.tobytes()).hexdigest()[:16] == "1fce54f1b875f972"
    assert not np.array_equal(ids, LANGUAGE.corpus(5_000, seed=1))
    assert np.array_equal(ids[:1_000], LANGUAGE.corpus(1_000, seed=0))
    assert LANGUAGE.sentences(3) == LANGUAGE.sentences(5)[:3]


def test_rows_begin_with_sentences():
    rows = LANGUAGE.rows(50, 12, seed=3)
    assert rows.shape == (50, 12) and (rows[:, 0] == 2).all() and (rows[:, 1:] >= 5).all()
    for row in rows:
        words = LANGUAGE.decode(row[1:]).split()
        first = words[: words.index(".") + 1] if "." in words else words
        # A sentence that was cut cannot end at its last word.
        assert np.isfinite(LANGUAGE.grammar.log_probs(first)[:-1]).all()
    assert np.array_equal(rows[:5], LANGUAGE.rows(5, 12, seed=3))


def test_words_go_to_ids_and_back():
    words = LANGUAGE.sentences(1)[0].words
    (ids,) = LANGUAGE.encode([words])
    assert LANGUAGE.decode(ids) == " ".join(words)
    with pytest.raises(NbpkgError, match="no word 'cat'"):
        LANGUAGE.encode([["the", "cat"]])


@pytest.mark.parametrize("wrong", [{"nouns": 0}, {"classes": 400, "nouns": 20}, {"modifier": 1.0}])
def test_sizes_that_make_no_language_are_refused(wrong):
    with pytest.raises(NbpkgError):
        Language(**wrong)
