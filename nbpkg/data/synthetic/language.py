"""A generated language with agreement, whose entropy is known: text for models too small for English.

Subject and verb agree in number, across whatever stands between them; a noun's meaning, its class, decides
which verbs are likely after it; words have Zipf's frequencies. Nothing is read from a file: the language is
made by its sizes, the text by a seed.

    language = Language()
    ids = language.corpus(100_000, seed=0)                      # for tokens.pack, or language.rows(...)
    language.entropy_rate                                       # nats per word, exactly
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np

from nbpkg.data.synthetic.grammar import Grammar, Rule
from nbpkg.data.tokens import CLS, SPECIAL
from nbpkg.errors import NbpkgError

NUMBERS = ("sg", "pl")
_DETERMINERS = ("the", "my", "your", "no")
_PREPOSITIONS = ("near", "behind", "with", "under")
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


def _stem(number: int) -> str:
    """Two syllables, different for each number from 0 to 4,899."""
    syllables = [c + v for c in _CONSONANTS for v in _VOWELS]
    # 2,741 and 4,900 have no common factor: the numbers are permuted.
    first, second = divmod(number * 2_741 % len(syllables) ** 2, len(syllables))
    return syllables[first] + syllables[second]


def _zipf(names: Sequence[str], turn: int = 0) -> list[Rule]:
    """Rules to single words with probability 1 / rank, the ranking turned by `turn` places."""
    return [(1 / (1 + (i + turn) % len(names)), (name,)) for i, name in enumerate(names)]


@dataclass(frozen=True)
class Language:
    """The language with so many classes of nouns, nouns in a class, verbs of either kind and adjectives.

    modifier: probability that a noun is followed by a preposition and another noun, or by a clause (half
    each). Raises NbpkgError for sizes below 1 or beyond the stems, and a modifier outside 0 to 0.9.
    """

    classes: int = 4
    nouns: int = 12
    verbs: int = 16
    adjectives: int = 12
    modifier: float = 0.4

    def __post_init__(self):
        stems = self.classes * self.nouns + 2 * self.verbs + self.adjectives
        if min(self.classes, self.nouns, self.verbs, self.adjectives) < 1 or stems > 4_900:
            raise NbpkgError(f"there is no language of these sizes: {self}")
        if not 0 <= self.modifier <= 0.9:
            raise NbpkgError(f"modifier must be from 0 to 0.9, got {self.modifier}")

    @cached_property
    def _forms(self) -> dict[str, list[str]]:
        stems = iter(range(4_900))

        def words(count: int, ending: str) -> list[str]:
            return [_stem(next(stems)) + ending for _ in range(count)]

        forms = {f"noun/{c}": words(self.nouns, "") for c in range(self.classes)}
        return forms | {
            "goes": words(self.verbs, "n"), "sees": words(self.verbs, "m"), "adj": words(self.adjectives, "l")
        }  # fmt: skip

    @cached_property
    def grammar(self) -> Grammar:
        """The grammar of its sentences; every one ends in a full stop."""
        forms = self._forms
        kinds = [(n, c) for n in NUMBERS for c in range(self.classes)]
        half = self.modifier / 2
        rules: dict[str, list[Rule]] = {
            "S": [(1, ("det", "adjs", "clause", "."))],
            "clause": [(1, (f"subject/{n}/{c}", f"rest/{n}/{c}", f"main/{n}/{c}")) for n, c in kinds],
            "object": [(1, ("det", "adjs", "head"))],
            "head": [(1, (f"noun/{n}/{c}", f"rest/{n}/{c}")) for n, c in kinds],
            "det": _zipf(_DETERMINERS),
            "adjs": [(0.7, ()), (0.3, ("adj", "adjs"))],
            "adj": _zipf(forms["adj"]),
            "prep": _zipf(_PREPOSITIONS),
        }
        for n, c in kinds:
            nouns = _zipf([stem + "s" * (n == "pl") for stem in forms[f"noun/{c}"]])
            rules[f"noun/{n}/{c}"] = rules[f"subject/{n}/{c}"] = nouns
            phrase = (half, ("prep", "object"))
            rules[f"rest/{n}/{c}"] = [(1 - 2 * half, ()), phrase, (half, ("that", f"verbs/{n}/{c}"))]
            kinds_of_verbs = [(0.5, (f"goes/{n}/{c}",)), (0.5, (f"sees/{n}/{c}", "object"))]
            rules[f"main/{n}/{c}"] = rules[f"verbs/{n}/{c}"] = kinds_of_verbs
            turn = c * max(1, self.verbs // self.classes)
            for kind in ("goes", "sees"):
                verbs = [stem + "s" * (n == "sg") for stem in forms[kind]]
                rules[f"{kind}/{n}/{c}"] = _zipf(verbs, turn)
        return Grammar(rules)

    @property
    def entropy_rate(self) -> float:
        """Entropy of the text in nats per word, exactly (`Grammar.entropy_rate`)."""
        return self.grammar.entropy_rate

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Every token by its id: the special ones of `nbpkg.data.tokens`, then the words, sorted."""
        return SPECIAL + self.grammar.words

    @property
    def size(self) -> int:
        """Number of tokens, the special ones included."""
        return len(self.vocabulary)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.vocabulary)}

    @cached_property
    def verb_numbers(self) -> np.ndarray:
        """Of each token the number of the verb that it is: 1 singular, 2 plural, 0 no verb; int64 (size,)."""
        found = np.zeros(self.size, np.int64)
        for stem in self._forms["goes"] + self._forms["sees"]:
            found[self._ids[stem + "s"]], found[self._ids[stem]] = 1, 2
        return found

    def encode(self, sentences: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Token ids of each sentence, int32 (words,); NbpkgError naming a word that the language lacks."""
        try:
            return [np.array([self._ids[word] for word in words], dtype=np.int32) for words in sentences]
        except KeyError as error:
            raise NbpkgError(f"the generated language has no word {error.args[0]!r}") from None

    def decode(self, ids: Sequence[int]) -> str:
        """The words of token ids, with spaces between."""
        return " ".join(self.vocabulary[int(i)] for i in ids)

    def corpus(self, tokens: int, seed: int = 0) -> np.ndarray:
        """A text of so many tokens, ids int32 (tokens,), of independent sentences; the last may be cut."""
        return np.fromiter(islice(self._endless(_rng(seed, "corpus")), tokens), np.int32, tokens)

    def _endless(self, rng: random.Random) -> Iterator[int]:
        """Token ids of independent sentences without end, the first from its beginning."""
        while True:
            yield from map(self._ids.__getitem__, self.grammar.sample(rng)[0])

    def rows(self, count: int, length: int = 16, seed: int = 0) -> np.ndarray:
        """Sequences int32 (count, length), each `[CLS]` and sentences from a beginning on; the last is cut.

        Beside `tokens.pack`, which cuts a text anywhere, these are easier for a small model: a word's place
        says more about its part of speech.
        """
        rng = _rng(seed, "rows")
        found = np.full((count, length), CLS, dtype=np.int32)
        for row in found:
            row[1:] = np.fromiter(islice(self._endless(rng), length - 1), np.int32, length - 1)
        return found


def _rng(seed: int, what: str) -> random.Random:
    digest = hashlib.sha256(f"language/{seed}/{what}".encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))
