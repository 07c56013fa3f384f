"""Readers of text: what is right comes through unchanged, anything else is refused by name and line."""

import pytest
from public import needs

from nbpkg.data import store, text, values
from nbpkg.data.registry import DataFile
from nbpkg.data.tokens import encode_documents, pack
from nbpkg.errors import NbpkgError


def write(tmp_path, content, name="some.txt"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(reader, path, *words):
    with pytest.raises(NbpkgError) as caught:
        reader(path)
    message = str(caught.value)
    assert path.name in message and "refused" in message and "\n" not in message
    for word in words:
        assert word in message


def test_lines_come_without_marks_ends_and_accidents(tmp_path):
    path = write(tmp_path, "\ufeffone\r\ntwo\x08 \x97\rtab\there\n\nlast\n")
    assert text.read_lines(path) == ["one", "two   ", "tab\there", "", "last"]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "holds no text"),
        (b" \n\t\n\n", "holds no text"),
        (b"fine\nfine\n\xff\xfe\n", "not UTF-8 text (line 3)"),
        ("fine\nwas caf\ufffd once\n", "replacement characters (U+FFFD) (line 2)"),
        (b"a\nb\n\0binary", "NUL byte, so it is no text (line 3)"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, content, word):
    refused(text.read_lines, write(tmp_path, content), word)


def test_a_missing_and_a_huge_file_are_refused(tmp_path, monkeypatch):
    refused(text.read_lines, tmp_path / "absent.txt", "cannot be read")
    monkeypatch.setattr(text, "MAX_BYTES", 10)
    refused(text.read_lines, write(tmp_path, "eleven bytes"), "larger")


WIKI = " \n = Cats = \n \n Cats <unk> mid @-@ day at 1 @,@ 000 . \n = not a heading = \n \n = = Food = = \n \n Fish . \n \n = Dogs = \n \n Bark .\n"  # noqa: E501


def test_wikitext_is_cut_into_articles(tmp_path):
    cats, dogs = sorted(text.read_wikitext(write(tmp_path, WIKI)))
    assert cats == (
        "= Cats =",
        "Cats [UNK] mid-day at 1,000 .",
        "= not a heading =",
        "= = Food = =",
        "Fish .",
    )
    assert dogs == ("= Dogs =", "Bark .")
    refused(text.read_wikitext, write(tmp_path, "\nno heading\n = Cats = \n"), "first heading (line 2)")


ARTICLES = [
    " \n = Ants = \n \n They dig . \n \n = = Nests = = \n \n = looks like one = \n Deep . \n",
    " \n = B = \n \n A letter . \n \n = = Use = = \n \n",
    " \n = C = \n \n Another . \n \n \n Twice . \n",
    " \n = Dégas = \n \n He painted . \n",
]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 0, 1)])
def test_articles_are_the_same_text_in_whatever_order_they_come(tmp_path, order):
    # A file's last article has an empty line more, whichever it is.
    given = write(tmp_path, "".join(ARTICLES[i] for i in order) + " \n", "given.tokens")
    first = write(tmp_path, "".join(ARTICLES) + " \n", "first.tokens")
    assert text.read_wikitext(given) == text.read_wikitext(first) and len(text.read_wikitext(given)) == 4
    assert values.digest(given) == values.digest(first)
    other = write(tmp_path, given.read_text().replace("dig", "dug"), "other.tokens")
    torn = write(tmp_path, given.read_text().replace(" Deep . \n", ""), "torn.tokens")
    assert len({values.digest(path) for path in (given, other, torn)}) == 3
    content = values.articles_by_hash(given.read_bytes())
    assert values.articles_by_hash(content + b" \n") == content
    assert sorted(content.split()) == sorted(given.read_bytes().split())


def test_either_order_of_the_training_text_is_accepted(tmp_path, monkeypatch):
    official = write(tmp_path, "".join(ARTICLES) + " \n", "official.tokens")
    size, sha = official.stat().st_size, store._sha256(str(official), 0, 0)
    known = DataFile("toy/t.tokens", None, sha, size, values.digest(official))
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path / "cache"))
    for order, fine in (((0, 1, 2, 3), True), ((3, 2, 1, 0), True), ((0, 1, 2), False)):
        local = write(tmp_path, "".join(ARTICLES[i] for i in order) + " \n", f"{len(order)}{order[0]}.tokens")
        assert (store.fault(known, local) is None) is fine


def test_a_book_is_cut_into_paragraphs(tmp_path):
    path = write(tmp_path, "CHAPTER I\n\n\n  It was\n  the best  of\ttimes.\n\nThe end")
    assert text.read_book(path) == ("CHAPTER I", "It was the best of times.", "The end")


def test_rows_are_whole_texts_without_those_that_hold_few_words():
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    lines = [tuple(" ".join(words[i:] + words[:i]) for _ in range(8)) for i in range(8)]
    blank = (" ".join(["[UNK]"] * 200),)
    corpus = text.Corpus((*lines, blank), tuple(lines[:2]), ("toy",))
    train, held, learned = text.rows(corpus, 40, 8)
    assert train.shape[1] == held.shape[1] == 8 and learned.size == 40
    assert ((train >= 5).sum(1) >= 4).all() and len(train) < len(
        pack(encode_documents(corpus.train, learned), 8)
    )
    again = text.rows(corpus, 40, 8)[0]
    assert (train == again).all() and {w for row in held for w in learned.decode(row).split()} & set(words)


@needs("text-novels")
@needs("text-wikitext2")
def test_a_corpus_holds_out_whole_books_and_articles():
    found = text.corpus()
    assert (len(found.train), len(found.valid)) == (600 + 30, 60 + 2)
    assert found.sets == ("text-wikitext2", "text-novels")
    assert "Cranford" in " ".join(found.valid[60]) and len(found.valid[60]) > 50
