"""Readers of text: what is right comes through unchanged, anything else is refused by name and line."""

import pytest
from public import needs

from nbpkg import data
from nbpkg.data import text
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
    cats, dogs = text.read_wikitext(write(tmp_path, WIKI))
    assert cats == (
        "= Cats =",
        "Cats [UNK] mid-day at 1,000 .",
        "= not a heading =",
        "= = Food = =",
        "Fish .",
    )
    assert dogs == ("= Dogs =", "Bark .")
    refused(text.read_wikitext, write(tmp_path, "\nno heading\n = Cats = \n"), "first heading (line 2)")


def test_a_book_is_cut_into_paragraphs(tmp_path):
    path = write(tmp_path, "CHAPTER I\n\n\n  It was\n  the best  of\ttimes.\n\nThe end")
    assert text.read_book(path) == ("CHAPTER I", "It was the best of times.", "The end")




@needs("text-novels")
def test_a_corpus_holds_out_whole_books_and_articles():
    if any(state.status != "ok" for state in data.verify("text-wikitext2")):
        pytest.skip("the official text of WikiText-2 is not at hand")
    found = text.corpus()
    assert (len(found.train), len(found.valid)) == (600 + 30, 60 + 2)
    assert found.sets == ("text-wikitext2", "text-novels")
    assert "Cranford" in " ".join(found.valid[60]) and len(found.valid[60]) > 50
