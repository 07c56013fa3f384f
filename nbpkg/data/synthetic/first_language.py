"""The generated language with what chapters 09 and 10 of the first edition ask of its sentences.

This stays until these chapters are written anew.
"""

from dataclasses import dataclass, replace

from nbpkg.data.synthetic import language
from nbpkg.data.synthetic.language import _rng


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
