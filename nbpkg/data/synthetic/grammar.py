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
from collections.abc import Callable, Iterable, Mapping
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
