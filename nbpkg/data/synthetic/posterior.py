"""What the best masked language model of all would say, exactly: Bayes' rule over the generated language.

A grammar whose recursion is on the right only has finitely many parser states between words: it is a hidden
Markov model, and forward and backward sums give the distribution of every hidden word. Masks are those of
`nbpkg.data.masking`: K places of a row are predicted, and each of them shows `[MASK]`, a random token or the
word itself. The best model does not know which of the visible words were replaced, and sums over that too.

    best = Posterior(Language(), rate=0.15)
    p = best(masked)                              # (places, vocabulary), float64
"""

from __future__ import annotations

import numpy as np

from nbpkg.data.masking import SHARES, Masked
from nbpkg.data.synthetic.grammar import Grammar
from nbpkg.data.synthetic.language import Language
from nbpkg.data.tokens import MASK, SPECIAL
from nbpkg.errors import NbpkgError

_MOST_STATES = 4_000
_ROWS = 512  # worked on at a time


class Automaton:
    """The parser states of a grammar as a hidden Markov model; texts are sentences without end.

    State 0 is the beginning of a sentence. p: probability of each word, (states, words); to: the state after
    it, int (states, words), 0 where p is 0. Raises NbpkgError when there are too many states: a grammar
    with recursion in the middle has infinitely many.
    """

    def __init__(self, grammar: Grammar):
        self.words = grammar.words
        number = {word: i for i, word in enumerate(self.words)}
        states: dict[tuple[str, ...], int] = {(grammar.start,): 0}
        rows, waiting = [], [(grammar.start,)]
        for stack in waiting:  # grows while it is read
            p, to = np.zeros(len(number)), np.zeros(len(number), np.int64)
            for word, (q, rest) in grammar.next_words(stack).items():
                # An emptied stack is the end of a sentence that no word marks.
                if word is None:
                    raise NbpkgError("a grammar whose sentences end without a last word has no such states")
                rest = rest or (grammar.start,)
                if rest not in states:
                    states[rest] = len(states)
                    waiting.append(rest)
                p[number[word]], to[number[word]] = q, states[rest]
            rows.append((p, to))
            if len(states) > _MOST_STATES:
                raise NbpkgError(f"a grammar of more than {_MOST_STATES:,} parser states")
        self.p = np.array([p for p, _ in rows])
        self.to = np.array([to for _, to in rows])
        # One step with each word, (words, states, states), and with any: (states, states).
        self.transition = np.zeros((len(number), len(rows), len(rows)))
        np.add.at(self.transition, (np.arange(len(number)), np.arange(len(rows))[:, None], self.to), self.p)
        self.any = self.transition.sum(0)

    def step(self, now: np.ndarray, words: np.ndarray, back: bool = False) -> np.ndarray:
        """One step of each row with its word: (n, k, states) and (n,) -> (n, k, states)."""
        out = np.empty_like(now)
        order = np.argsort(words, kind="stable")
        found, starts = np.unique(words[order], return_index=True)
        for word, rows in zip(found, np.split(order, starts[1:]), strict=True):
            transition = self.transition[word].T if back else self.transition[word]
            out[rows] = (now[rows].reshape(-1, now.shape[2]) @ transition).reshape(len(rows), *now.shape[1:])
        return out


class Posterior:
    """Exact distributions of predicted words, for rows of `Language.rows` under masks at `rate`.

    Call it with a `Masked`: float64 (places, vocabulary), the lowest hard loss that any model can have. Rows
    begin with a special token and a sentence, and may be cut. Raises NbpkgError for text that the language
    cannot produce under any replacement of words.
    """

    def __init__(self, language: Language, shares: tuple[float, float, float] = SHARES):
        self.model = Automaton(language.grammar)
        self.size = language.size
        # Shares of visible places: any one word drawn there, and the word left as it is.
        self.drawn, self.left = shares[1] / self.model.p.shape[1], shares[2]

    def __call__(self, masked: Masked) -> np.ndarray:
        inputs, positions = masked.inputs.numpy(), masked.positions.numpy()
        rows, each = len(inputs), len(positions) // len(inputs)
        found = np.zeros((rows, each, self.size))
        places = positions.reshape(rows, each) % inputs.shape[1]
        for low in range(0, rows, _ROWS):
            part = slice(low, low + _ROWS)
            found[part, :, len(SPECIAL) :] = self._rows(inputs[part, 1:], places[part] - 1)
        return found.reshape(rows * each, self.size)

    def _rows(self, inputs: np.ndarray, places: np.ndarray) -> np.ndarray:
        """(n, length) tokens and (n, K) places of them -> (n, K, words).

        Forward-backward (Rabiner, 1989, section III) over (r, q): r of the K places were visible so far, q is
        the parser's state. At place t, p(w) is proportional to the sum over r and q of alpha_t(r, q) p(w | q)
        beta_{t+1}(r', q'), where q' is the state after w, and r' = r + 1 if the place is visible, else r.
        """
        model, (n, length), each = self.model, inputs.shape, places.shape[1]
        hidden = inputs == MASK
        words = np.where(hidden, 0, inputs - len(SPECIAL))
        budget = each - hidden.sum(1)  # places that are predicted and visible
        if (words < 0).any() or (budget < 0).any():
            raise NbpkgError("rows must hold words and masks after their first token")
        alpha, beta = np.zeros((2, length + 1, n, each + 1, len(model.p)))
        alpha[0, :, 0, 0] = 1
        beta[length, np.arange(n), budget] = 1  # so many were replaced in all, in any state
        for t in range(length):
            alpha[t + 1] = self._sweep(alpha[t], words[:, t], hidden[:, t], back=False)
        for t in reversed(range(length)):
            beta[t] = self._sweep(beta[t + 1], words[:, t], hidden[:, t], back=True)
        found = np.zeros((n, each, model.p.shape[1]))
        of, word = np.nonzero(model.p)  # the steps that exist
        to, p = model.to[of, word], model.p[of, word]
        for row, k in np.ndindex(n, each):
            t = places[row, k]
            now, after = alpha[t, row], beta[t + 1, row]
            if not hidden[row, t]:  # one more of the K is used up here
                now, after = now[:-1], after[1:]
            joint = (now[:, of] * after[:, to]).sum(0) * p
            found[row, k] = np.bincount(word, joint, found.shape[2])
            if not hidden[row, t]:
                found[row, k, words[row, t]] *= (self.drawn + self.left) / self.drawn
        total = found.sum(-1, keepdims=True)
        if not (total > 0).all():
            raise NbpkgError("a row holds text that the language cannot produce")
        return found / total

    def _sweep(self, now: np.ndarray, words: np.ndarray, hidden: np.ndarray, back: bool) -> np.ndarray:
        """alpha_{t+1} of alpha_t, or beta_t of beta_{t+1}: (n, K + 1, states), divided by each row's sum.

        words, hidden: (n,), the token at t. A visible word costs 1 when it is none of the K places, else its
        share: `left` when it is itself, `drawn` whatever stood there.
        """
        seen = self.model.step(now, words, back)
        anything = now @ (self.model.any.T if back else self.model.any)
        masks = hidden[:, None, None]
        after = np.where(masks, anything, seen)
        replaced = np.where(masks, 0, self.drawn * anything + self.left * seen)
        if back:
            after[:, :-1] += replaced[:, 1:]
        else:
            after[:, 1:] += replaced[:, :-1]
        return after / (after.sum((1, 2), keepdims=True) + 1e-300)
