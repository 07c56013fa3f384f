"""Tokens: vocabularies trained, kept and refused; sequences and pairs of one length."""

import subprocess
import sys

import numpy as np
import pytest

from nbpkg.data import tokens
from nbpkg.data.tokens import CLS, PAD, SEP, UNK, Tokenizer, bpe, encode_documents, pack, padded
from nbpkg.errors import NbpkgError

TEXTS = [
    "The cats sat on the mat, and the café was closed.",
    "A dog walks; dogs walked. 1,000 walking cats!",
] * 50


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NBPKG_CACHE", str(tmp_path))
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    return tmp_path / "text"


def test_a_vocabulary_has_its_size_and_reads_what_it_wrote():
    made = bpe(TEXTS, 65)
    assert made.size == 65
    ids, nothing = made.encode(["Dogs walk on THE CAFE", ""])
    assert made.decode(ids) == "dogs walk on the cafe" and len(nothing) == 0 and ids.dtype == np.int32
    again = Tokenizer.from_json(made.to_json())
    assert again.digest == made.digest and again.digest.startswith("sha256:")


def test_training_gives_the_same_vocabulary_in_another_process(tmp_path):
    code = (
        "import os; os.environ['NBPKG_CACHE'] = os.devnull + '/none'\n"
        "from nbpkg.data.tokens import bpe; import sys\n"
        "print(bpe(sys.argv[1:] * 50, 65).digest)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *TEXTS[:2]], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == bpe(TEXTS, 65).digest


def test_a_vocabulary_is_kept_and_made_again_when_damaged(cache, monkeypatch):
    made = bpe(TEXTS, 65)
    (path,) = cache.glob("bpe-*.memo")
    monkeypatch.setattr(tokens, "_trained", lambda *_: pytest.fail("trained twice"))
    assert bpe(TEXTS, 65).digest == made.digest
    monkeypatch.undo()
    monkeypatch.setenv("NBPKG_CACHE", str(cache.parent))
    path.write_text("{}")
    assert bpe(TEXTS, 65).digest == made.digest
    bpe([*TEXTS, "more"], 65)
    assert len(list(cache.glob("bpe-*.memo"))) == 2


def test_unknown_characters_are_named():
    made = bpe(TEXTS, 65)
    with pytest.raises(NbpkgError, match=r"'漢' \(U\+6F22\) '字' \(U\+5B57\).*train one on this text"):
        made.encode(["the cats 漢字 漢 字", "漢 字"])
    (ids,) = made.encode(["the cats sat on the mat and the 漢 dog walks, a dog walked"])
    assert (ids == UNK).sum() == 1
    # The token that a text asks for itself is no surprise.
    (ids,) = made.encode(["[UNK] [UNK] cat"])
    assert ids.tolist()[:2] == [UNK, UNK]


def test_what_makes_no_vocabulary_is_refused():
    for texts, size, word in (([], 80, "without words"), ([" \n"], 80, "without words")):
        with pytest.raises(NbpkgError, match=word):
            bpe(texts, size)
    for size in (20, 5_000):
        with pytest.raises(NbpkgError, match=f"not of {size:,}"):
            bpe(TEXTS, size)
    for text in ("{", "{}", bpe(TEXTS, 65).to_json().replace("[MASK]", "[HIDE]")):
        with pytest.raises(NbpkgError):
            Tokenizer.from_json(text)


def test_documents_become_one_row_kept_by_content(cache):
    made = bpe(TEXTS, 65)
    documents = [("the cats", "sat"), ("a dog",)]
    row = encode_documents(documents, made)
    parts = [i for d in documents for i in (*np.concatenate(made.encode(d)), SEP)]
    assert row.tolist() == parts and row.dtype == np.uint16
    (path,) = cache.glob("stream-*.memo")
    before = path.stat().st_mtime_ns
    assert np.array_equal(encode_documents(documents, made), row) and path.stat().st_mtime_ns == before
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert np.array_equal(encode_documents(documents, made), row)
    assert not np.array_equal(encode_documents([("the cats",), ("sat", "a dog")], made), row)
    assert len(encode_documents([], made)) == 0


def test_sequences_hold_the_row_in_order():
    row = np.arange(5, 25, dtype=np.uint16)
    packed = pack(row, 8)
    assert packed.shape == (2, 8) and packed.dtype == np.uint16 and (packed[:, 0] == CLS).all()
    assert packed[:, 1:].flatten().tolist() == list(range(5, 19))
    for wrong in (pack, lambda r, n: pack(r, 1)):
        with pytest.raises(NbpkgError, match="make no sequence"):
            wrong(row[:3], 8)


def test_sentences_and_pairs_fill_their_rows():
    a, b = np.arange(10, 13), np.arange(20, 28)
    assert padded([a], length=6).tolist() == [[CLS, 10, 11, 12, SEP, PAD]]
    assert padded([b], length=5).tolist() == [[CLS, 20, 21, 22, SEP]]
    assert padded([a], [b], 10).tolist() == [[CLS, 10, 11, 12, SEP, 20, 21, 22, 23, SEP]]
    assert padded([b], [a], 10).tolist() == [[CLS, 20, 21, 22, 23, SEP, 10, 11, 12, SEP]]
    assert padded([b], [b], 9).tolist() == [[CLS, 20, 21, 22, SEP, 20, 21, 22, SEP]]
    for wrong in (lambda: padded([a], [], 9), lambda: padded([a], length=3)):
        with pytest.raises(NbpkgError):
            wrong()
