"""Probabilistic grammars whose entropy is known: sampling, exact probabilities, exact entropy.

A grammar here can be read from left to right with one word ahead (it is LL(1), which tests check of the
language that is made here), so that a sentence has one derivation only. Then the entropy of sentences is that
of derivations, for which there is a recursion, and the probability of the next word is a product of rule
probabilities.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import accumulate

import numpy as np

from nbpkg.errors import NbpkgError

Rule = tuple[float, tuple[str, ...]]

_MOST_WORDS = 10_000  # of a sampled sentence; beyond it the grammar is refused


class Grammar:
    """Rules and their probabilities: {symbol: [(probability, right-hand side), ...]}.

    The first symbol is where sentences start. Names without rules of their own are words. Right-hand sides
    may be empty. Probabilities are divided by their sum; rules of probability 0 are left out. No two rules of
    a symbol may begin with the same word, and an empty one not compete with what may follow: LL(1).

    Raises NbpkgError when a symbol has no rule of positive probability, and when sentences are infinitely
    long on average.
    """

    def __init__(self, rules: Mapping[str, Iterable[Rule]]):
        self.rules: dict[str, list[Rule]] = {}
        for symbol, given in rules.items():
            kept = [(float(p), tuple(right)) for p, right in given if p != 0]
            total = sum(p for p, _ in kept)
            if not kept or not all(p > 0 for p, _ in kept) or not math.isfinite(total):
                raise NbpkgError(f"grammar: the rules of {symbol!r} have no proper probabilities")
            self.rules[symbol] = [(p / total, right) for p, right in kept]
        if not self.rules:
            raise NbpkgError("a grammar needs rules")
        self.start = next(iter(self.rules))
        self._sums = {symbol: list(accumulate(p for p, _ in r)) for symbol, r in self.rules.items()}
        _ = self.expected_words  # refuses grammars whose sentences do not end

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Every word, sorted."""
        used = {item for rules in self.rules.values() for _, right in rules for item in right}
        return tuple(sorted(used - set(self.rules)))

    def _expected(self, worth: Callable[[float, tuple[str, ...]], float]) -> float:
        """Expected sum over a derivation of what each of its rules is worth, `worth(probability, right)`.

        For each symbol that is x = sum of its rules' worth + mean @ x: one linear system.
        """
        names = {symbol: i for i, symbol in enumerate(self.rules)}
        own, mean = np.zeros(len(names)), np.zeros((len(names), len(names)))
        for symbol, rules in self.rules.items():
            own[names[symbol]] = sum(worth(p, right) for p, right in rules)
            for p, right in rules:
                for item in right:
                    if item in names:
                        mean[names[symbol], names[item]] += p
        if max(abs(np.linalg.eigvals(mean))) >= 1 - 1e-9:
            raise NbpkgError("grammar: its sentences are infinitely long on average")
        return float(np.linalg.solve(np.eye(len(names)) - mean, own)[0])

    @cached_property
    def expected_words(self) -> float:
        """Mean number of words of a sentence, exactly."""
        return self._expected(lambda p, right: p * sum(item not in self.rules for item in right))

    @cached_property
    def entropy(self) -> float:
        """Entropy of a sentence in nats, exactly.

        That of a symbol is the entropy of the choice of its rule plus the expected sum of its children's
        (Grenander, 1976): one linear system. It is the sentences' own since each has one derivation.
        """
        return self._expected(lambda p, _: -p * math.log(p))

    @property
    def entropy_rate(self) -> float:
        """Entropy per word, in nats, of independent sentences one after the other, exactly.

        `entropy` over `expected_words` (renewal theorem), where the end of a sentence can be told, as by a
        full stop that stands nowhere else.
        """
        return self.entropy / self.expected_words

    def next_words(self, stack: tuple[str, ...]) -> dict[str | None, tuple[float, tuple[str, ...]]]:
        """What can stand next: {word: (probability, the stack after it)}; None is the sentence's end.

        stack: what is still to come, the next symbol last; (start,) before the first word.
        """
        found: dict[str | None, tuple[float, tuple[str, ...]]] = {}
        open_ = [(1.0, stack)]
        while open_:
            p, stack = open_.pop()
            if not stack:
                found[None] = p, ()
                continue
            *below, top = stack
            if top not in self.rules:
                found[top] = p, tuple(below)
                continue
            open_ += [(p * q, (*below, *reversed(right))) for q, right in self.rules[top]]
        return found

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

    def sample(self, rng: random.Random) -> tuple[list[str], list[tuple[int, str]]]:
        """A sentence, and what was expanded when: (number of words so far, symbol) for each symbol, in order.

        rng: Python's own generator, whose `random` gives the same numbers in every version.
        """
        words: list[str] = []
        events: list[tuple[int, str]] = []
        stack = [self.start]
        draw, sums, rules = rng.random, self._sums, self.rules
        while stack:
            top = stack.pop()
            if top not in rules:
                words.append(top)
                if len(words) > _MOST_WORDS:
                    raise NbpkgError(f"grammar: a sentence of more than {_MOST_WORDS:,} words")
                continue
            events.append((len(words), top))
            number = min(bisect_right(sums[top], draw()), len(rules[top]) - 1)
            stack.extend(reversed(rules[top][number][1]))
        return words, events
