"""Oracles of grammars: whether one word ahead tells the rule, what sentences and hidden words are worth."""

import math
from collections.abc import Iterator, Mapping, Sequence

from nbpkg.data.synthetic.grammar import Grammar


def _begin(grammar: Grammar, right: Sequence[str], first: Mapping[str, set]) -> set[str | None]:
    """The words that `right` can begin with, and None among them where it can be empty."""
    found: set[str | None] = {None}
    for item in right:
        found = found - {None} | (first[item] if item in grammar.rules else {item})
        if None not in found:
            break
    return found


def conflicts(grammar: Grammar) -> Iterator[tuple[str, str | None]]:
    """Each symbol with a word (None: the end) that two of its rules can begin with, or are empty before.

    By the sets FIRST and FOLLOW of textbooks (Aho et al., 2006, section 4.4).
    """
    first: dict[str, set] = {symbol: set() for symbol in grammar.rules}
    follow: dict[str, set] = {symbol: set() for symbol in grammar.rules}
    follow[grammar.start].add(None)

    def ahead(symbol: str, rest: Sequence[str]) -> set[str | None]:
        """What can come next where `rest` of a rule of `symbol` is still to come."""
        begin = _begin(grammar, rest, first)
        return begin - {None} | follow[symbol] if None in begin else begin

    known, every = -1, [(symbol, right) for symbol, rules in grammar.rules.items() for _, right in rules]
    while known < (found := sum(map(len, [*first.values(), *follow.values()]))):
        known = found
        for symbol, right in every:
            first[symbol] |= _begin(grammar, right, first)
            for place, item in enumerate(right):
                if item in grammar.rules:
                    follow[item] |= ahead(symbol, right[place + 1 :])
    owner: dict[tuple[str, str | None], int] = {}
    for number, (symbol, right) in enumerate(every):
        for word in ahead(symbol, right):
            if owner.setdefault((symbol, word), number) != number:
                yield symbol, word


def log_probs(grammar: Grammar, sentence: Sequence[str]) -> list[float]:
    """log p(word | the words before it), in nats, for each word; -inf from the first impossible one on.

    The sum is the log-probability of the sentence when it ends there; -inf where it cannot end.
    """
    impossible = 0.0, ()
    stack, found = (grammar.start,), []
    for word in sentence:
        p, stack = grammar.next_words(stack).get(word, impossible)
        if p == 0:
            return found + [-math.inf] * (len(sentence) - len(found))
        found.append(math.log(p))
    p, _ = grammar.next_words(stack).get(None, impossible)
    last = found.pop() if found else 0.0
    return [*found, last + math.log(p) if p else -math.inf]


def cloze(grammar: Grammar, sentence: Sequence[str], place: int) -> dict[str, float]:
    """p(word at `place` | all other words), exactly, for every word that can stand there."""
    filled = {word: [*sentence[:place], word, *sentence[place + 1 :]] for word in grammar.words}
    weights = {word: math.exp(sum(log_probs(grammar, words))) for word, words in filled.items()}
    return {word: weight / sum(weights.values()) for word, weight in weights.items() if weight}
