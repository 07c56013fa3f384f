"""The generated language with what chapters 09 and 10 of the first edition ask of its sentences.

This stays until these chapters are written anew.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from nbpkg.data.synthetic import grammar, language
from nbpkg.data.synthetic.language import _rng
from nbpkg.errors import NbpkgError


class Grammar(grammar.Grammar):
    """`nbpkg.data.synthetic.grammar.Grammar` and the probabilities of words in a sentence."""

    def log_probs(self, sentence: Sequence[str]) -> list[float]:
        """log p(word | the words before it), in nats, for each word; -inf from the first impossible one on.

        The sum is the log-probability of the sentence when it ends there; -inf where it cannot end.
        """
        impossible = 0.0, ()
        stack, found = (self.start,), []
        for word in sentence:
            p, stack = self.next_words(stack).get(word, impossible)
            if p == 0:
                return found + [-math.inf] * (len(sentence) - len(found))
            found.append(math.log(p))
        p, _ = self.next_words(stack).get(None, impossible)
        last = found.pop() if found else 0.0
        return [*found, last + math.log(p) if p else -math.inf]

    def cloze(self, sentence: Sequence[str], place: int) -> dict[str, float]:
        """p(word at `place` | all other words), exactly, for every word that can stand there.

        The best that any masked language model can do at a single mask. Raises NbpkgError when no word fits.
        """
        logs = {}
        for word in self.words:
            total = sum(self.log_probs([*sentence[:place], word, *sentence[place + 1 :]]))
            if total > -math.inf:
                logs[word] = total
        if not logs:
            raise NbpkgError(f"no word can stand at place {place} of {' '.join(sentence)[:60]!r}")
        highest = max(logs.values())
        weights = {word: math.exp(value - highest) for word, value in logs.items()}
        return {word: weight / sum(weights.values()) for word, weight in weights.items()}


@dataclass(frozen=True)
class Sentence:
    """A sentence and what a probe may ask about it.

    subject, verb: places of the main clause's noun and verb in `words`. plural: whether they are plural.
    attractors: nouns between them whose number is the other one. grammatical: whether they agree.
    """

    words: tuple[str, ...]
    subject: int
    verb: int
    plural: bool
    attractors: int
    grammatical: bool = True


@dataclass(frozen=True)
class Language(language.Language):
    """`nbpkg.data.synthetic.language.Language` and single sentences, right or wrong in agreement."""

    @cached_property
    def grammar(self) -> Grammar:
        """The grammar of its sentences; every one ends in a full stop."""
        return Grammar(super().grammar.rules)

    def sentences(self, count: int, seed: int = 0) -> list[Sentence]:
        """Independent sentences; the same for a seed on every machine."""
        rng = _rng(seed, "sentences")
        found = []
        for _ in range(count):
            words, events = self.grammar.sample(rng)
            subject, plural = next((at, "/pl/" in name) for at, name in events if name.startswith("subject/"))
            verb = next(at for at, name in events if name.startswith("main/"))
            other = "noun/sg" if plural else "noun/pl"
            attractors = sum(subject < at < verb and name.startswith(other) for at, name in events)
            found.append(Sentence(tuple(words), subject, verb, plural, attractors))
        return found

    def ungrammatical(self, sentence: Sentence) -> Sentence:
        """The sentence with its main verb in the other number, the verb itself unchanged."""
        word = sentence.words[sentence.verb]
        other = word.removesuffix("s") if word.endswith("s") else word + "s"
        words = (*sentence.words[: sentence.verb], other, *sentence.words[sentence.verb + 1 :])
        return replace(sentence, words=words, grammatical=not sentence.grammatical)

    def acceptability_set(self, count: int, seed: int = 0) -> list[Sentence]:
        """Sentences of which every second one is `ungrammatical`: is the verb's number right?"""
        return [s if i % 2 else self.ungrammatical(s) for i, s in enumerate(self.sentences(count, seed))]
