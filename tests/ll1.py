"""Whether one word ahead tells which rule of a grammar is used: then a sentence has one derivation only."""

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
