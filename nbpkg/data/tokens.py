"""From text to tokens: pieces of words learned from the text at hand, and sequences of one length.

Everything that has tokens here counts its special ones first: `[PAD]` 0, `[UNK]` 1, `[CLS]` 2, `[SEP]` 3,
`[MASK]` 4, in a learned vocabulary as in the generated language (`nbpkg.data.synthetic.language`).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import tokenizers

from nbpkg.errors import NbpkgError
from nbpkg.memo import Entry, cached, key_of

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(len(SPECIAL))
UNKNOWN = SPECIAL[UNK]

#: Part of every key: raised whenever this module makes something else of the same text.
VERSION = 1

_CHUNK = 2_000  # paragraphs encoded at a time


class Tokenizer:
    """A learned vocabulary: text to ids and back. Made by `bpe` and `from_json`."""

    def __init__(self, inner):
        self._inner = inner
        found = tuple(inner.id_to_token(i) for i in range(len(SPECIAL)))
        if found != SPECIAL:
            raise NbpkgError(f"a vocabulary must begin with {', '.join(SPECIAL)}, not {found}")

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """The tokenizer that `to_json` wrote; NbpkgError when the text is something else."""
        try:
            inner = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises plain Exception
            raise NbpkgError(f"this is no tokenizer ({str(error)[:80]})") from error
        return cls(inner)

    def to_json(self) -> str:
        """All of the tokenizer, as JSON."""
        return self._inner.to_str()

    @cached_property
    def digest(self) -> str:
        """`sha256:<hex>` of the vocabulary and its settings: says which tokens a result was made with."""
        return "sha256:" + hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def size(self) -> int:
        """Number of tokens, the special ones included."""
        return self._inner.get_vocab_size()

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, int32 (tokens,), without `[CLS]` and `[SEP]`; an empty text gives none.

        Raises NbpkgError when more than a tenth of the tokens are `[UNK]` that the texts do not ask for,
        naming the first characters that the vocabulary lacks: such text is in another script, or was decoded
        wrongly.
        """
        texts = list(texts)
        found: list[np.ndarray] = []
        for low in range(0, len(texts), _CHUNK):
            made = self._inner.encode_batch_fast(texts[low : low + _CHUNK], add_special_tokens=False)
            found += [np.array(one.ids, dtype=np.int32) for one in made]
        total = sum(map(len, found))
        missing = sum(int((ids == UNK).sum()) for ids in found) - sum(text.count(UNKNOWN) for text in texts)
        if missing > 0.1 * total:
            known = {c for token in self._inner.get_vocab() for c in token if not c.isspace()}
            seen = dict.fromkeys(c for text in texts for c in self._inner.normalizer.normalize_str(text))
            strange = [f"{c!r} (U+{ord(c):04X})" for c in seen if c not in known and not c.isspace()][:5]
            raise NbpkgError(
                f"{missing:,} of {total:,} tokens are unknown to the vocabulary"
                + (f", which lacks the characters {' '.join(strange)}" if strange else "")
                + ": train one on this text, or mend the text"
            )
        return found

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; special tokens are shown."""
        return self._inner.decode([int(i) for i in ids], skip_special_tokens=False)


def bpe(texts: Sequence[str], size: int = 4_096) -> Tokenizer:
    """A vocabulary of `size` tokens, in lower case and without accents, learned from the texts.

    Byte-pair encoding (Sennrich et al., 2016) within words: the commonest pair of neighbours becomes a token,
    again and again. WordPiece, which BERT has, is learned in the same way but its trainer in `tokenizers`
    gives another vocabulary each time; this one gives the same. Kept in the cache by the content of the
    texts, the size and the version of the library. Characters that stand in less than one of 100,000 places
    are left to `[UNK]`. Raises NbpkgError for texts without words and for a size that the texts cannot fill
    or that cannot hold their characters.
    """
    key = key_of("bpe", list(texts), size, tokenizers.__version__, VERSION)
    entry = Entry("text", "bpe", key, "vocabulary")
    return Tokenizer.from_json(cached(entry, lambda: _trained(texts, size).to_json()))


def _trained(texts: Sequence[str], size: int) -> Tokenizer:
    counts = Counter()
    for text in texts:
        counts.update(text)
    total = sum(number for c, number in counts.items() if not c.isspace())
    if not total:
        raise NbpkgError("texts without words make no vocabulary")
    normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    normal = Counter()
    for c, number in counts.items():
        for one in normalizer.normalize_str(c):
            normal[one] += number
    rare = [c for c in counts if any(normal[one] < total / 100_000 for one in normalizer.normalize_str(c))]
    strange = re.compile("|".join(map(re.escape, [UNKNOWN, *(c for c in rare if not c.isspace())])))
    steps = tokenizers.pre_tokenizers
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=UNKNOWN))
    inner.normalizer = normalizer
    inner.pre_tokenizer = steps.Sequence([steps.BertPreTokenizer(), steps.Metaspace(prepend_scheme="always")])
    inner.decoder = tokenizers.decoders.Metaspace(prepend_scheme="always")
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), show_progress=False
    )
    inner.train_from_iterator((strange.sub(" ", text) for text in texts), trainer=trainer)
    made = Tokenizer(inner)
    if made.size != size:
        raise NbpkgError(f"these texts make a vocabulary of {made.size:,} tokens, not of {size:,}")
    return made


def encode_documents(documents: Sequence[Sequence[str]], tokenizer: Tokenizer) -> np.ndarray:
    """All documents as one row of ids, uint16 or int32 (tokens,), with `[SEP]` after each document.

    Kept in the cache by the content of the documents and the tokenizer's digest.
    """

    def make() -> np.ndarray:
        flat = [paragraph for document in documents for paragraph in document]
        encoded = iter(tokenizer.encode(flat))
        parts = []
        for document in documents:
            parts += [next(encoded) for _ in document]
            parts.append(np.array([SEP], dtype=np.int32))
        dtype = np.uint16 if tokenizer.size <= 2**16 else np.int32
        return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype)

    key = key_of("stream", [list(document) for document in documents], tokenizer.digest, VERSION)
    return cached(Entry("text", "stream", key, "token ids"), make)


def pack(ids: np.ndarray, length: int = 64) -> np.ndarray:
    """A row of ids cut into sequences, (n, length) of the same type: `[CLS]` and length - 1 tokens each.

    What is left over at the end is dropped. Raises NbpkgError when there is not enough for one sequence.
    """
    if length < 2 or len(ids) < length - 1:
        raise NbpkgError(f"{len(ids):,} tokens make no sequence of length {length}")
    rows = len(ids) // (length - 1)
    packed = np.full((rows, length), CLS, dtype=ids.dtype)
    packed[:, 1:] = ids[: rows * (length - 1)].reshape(rows, length - 1)
    return packed


def padded(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray] | None = None, length: int = 64
) -> np.ndarray:
    """Sentences, or pairs of them, as rows int64 (n, length): `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`.

    Rows end in `[PAD]`. Of what is too long, the end of the longer sentence of a pair is cut first. Raises
    NbpkgError for numbers of sentences that differ and for a length that holds no words.
    """
    pairs = second is not None
    if pairs and len(first) != len(second):
        raise NbpkgError(f"{len(first)} first and {len(second)} second sentences make no pairs")
    room = length - (3 if pairs else 2)
    if room < 2:
        raise NbpkgError(f"a sequence of length {length} holds no sentence")
    rows = np.full((len(first), length), PAD, dtype=np.int64)
    for row, a in enumerate(first):
        b = second[row] if pairs else a[:0]
        keep_b = min(len(b), max(room - len(a), room // 2))
        keep_a = min(len(a), room - keep_b)
        parts = [[CLS], a[:keep_a], [SEP]] + ([b[:keep_b], [SEP]] if pairs else [])
        joined = np.concatenate([np.asarray(part, dtype=np.int64) for part in parts])
        rows[row, : len(joined)] = joined
    return rows
