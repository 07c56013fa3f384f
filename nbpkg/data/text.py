"""Plain English text for pre-training: WikiText-2 and a shelf of novels, as documents of paragraphs.

A document is a tuple of paragraphs, each a string on one line. Files from outside are checked before anything
uses them: what is no UTF-8 text, was decoded wrongly once or holds no text is refused with NbpkgError, one
line that names the file.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nbpkg import data
from nbpkg.data import values
from nbpkg.data.tokens import SPECIAL, UNKNOWN, Tokenizer, bpe, encode_documents, pack
from nbpkg.untrusted import refuse

Document = tuple[str, ...]

#: The two books that no model is trained on.
HELD_OUT = ("cranford", "the_picture_of_dorian_gray")

#: Longer files are refused: the largest registered one takes 10.8 MB.
MAX_BYTES = 256 * 2**20

_HEADING = re.compile(r"= [^=](?:.*[^=])? =")


def read_lines(path: str | Path) -> list[str]:
    """The lines of a UTF-8 text file, with or without a byte order mark, without their ends.

    Control characters other than tabs, which real files hold by accident, become spaces. Raises NbpkgError
    when the file is missing, too large, not UTF-8 (the line is named), holds NUL or replacement characters
    (which say that it was decoded wrongly before), or nothing but white space.
    """
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            refuse(path, f"is larger than the {MAX_BYTES:,} bytes allowed")
        content = Path(path).read_bytes()
    except OSError as error:
        refuse(path, f"cannot be read ({error.strerror})", error)
    return _lines(path, content)


def _lines(path: str | Path, content: bytes) -> list[str]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        refuse(path, f"is not UTF-8 text (line {line})", error)
    for sign, name in (("\0", "a NUL byte, so it is no text"), ("\ufffd", "replacement characters (U+FFFD)")):
        if sign in text:
            refuse(path, f"holds {name} (line {text[: text.index(sign)].count(chr(10)) + 1})")
    if not text.strip():
        refuse(path, "holds no text")
    controls = {c for c in set(text) if c not in "\n\r\t" and unicodedata.category(c) == "Cc"}
    if controls:
        text = text.translate({ord(c): " " for c in controls})
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


def read_wikitext(path: str | Path) -> list[Document]:
    """The articles of a WikiText file, each a document whose paragraphs are its headings and paragraphs.

    An article begins at a heading of the first level, ` = Title = `. The files' `<unk>`, which stands for
    words left out, becomes the unknown token, and ` @-@ ` and its like the signs that they stand for. The
    articles come in the order of their SHA-256, whatever the file's. Raises NbpkgError when text stands
    before the first heading.
    """
    read_lines(path)  # refuses what is no text, with the line as it stands there
    lines = [line.strip() for line in _lines(path, values.articles_by_hash(Path(path).read_bytes()))]
    articles: list[list[str]] = []
    for number, line in enumerate(lines):
        if not line:
            continue
        # A heading stands alone; a paragraph that looks like one does not.
        alone = (number == 0 or not lines[number - 1]) and (number + 1 == len(lines) or not lines[number + 1])
        if alone and _HEADING.fullmatch(line):
            articles.append([])
        elif not articles:
            refuse(path, f"has text before the first heading (line {number + 1})")
        line = re.sub(r" @([-,.])@ ", r"\1", line).replace("<unk>", UNKNOWN)
        articles[-1].append(line)
    return [tuple(article) for article in articles]


def read_book(path: str | Path) -> Document:
    """A book as one document: paragraphs are what empty lines part, each put on one line."""
    paragraphs, lines = [], []
    for line in [*read_lines(path), ""]:
        if line.strip():
            lines.append(line.strip())
        elif lines:
            paragraphs.append(re.sub(r"\s+", " ", " ".join(lines)))
            lines = []
    return tuple(paragraphs)


@dataclass(frozen=True)
class Corpus:
    """Documents to train on and documents held out, which share no article and no book.

    sets: names of the registered data sets that they come from, for `Session.data_used`.
    """

    train: tuple[Document, ...]
    valid: tuple[Document, ...]
    sets: tuple[str, ...]


def corpus() -> Corpus:
    """WikiText-2 (its train and valid files) and the novels (all but `HELD_OUT`, and `HELD_OUT`).

    Raises NbpkgError when a file is absent; the message says how to get it.
    """
    train, valid = (
        read_wikitext(data.path(f"text/wikitext2/wiki.{split}.tokens")) for split in ("train", "valid")
    )
    for file in data.registry.get("text-novels").files:
        part = valid if Path(file.path).stem in HELD_OUT else train
        part.append(read_book(data.path(file.path)))
    return Corpus(tuple(train), tuple(valid), ("text-wikitext2", "text-novels"))


def rows(
    found: Corpus, vocabulary: int = 2_048, length: int = 32
) -> tuple[np.ndarray, np.ndarray, Tokenizer]:
    """Rows of tokens to train on and held out, (n, length) each and shuffled once, and the tokenizer.

    The vocabulary is learned from the documents to train on. Rows of which less than half are words (lists of
    words that WikiText leaves out) are dropped, so that 30 % of every row can be hidden.
    """
    learned = bpe([paragraph for document in found.train for paragraph in document], vocabulary)

    def of(documents: Sequence[Document]) -> np.ndarray:
        packed = pack(encode_documents(documents, learned), length)
        packed = packed[2 * (packed >= len(SPECIAL)).sum(1) >= length]
        return np.random.default_rng(0).permutation(packed)

    return of(found.train), of(found.valid), learned
