"""Recipes of texts on small made-up originals."""

import pytest

from nbpkg.data.recipes import text
from nbpkg.errors import NbpkgError

BOOK = (
    "Title\r\n*** START OF THIS PROJECT GUTENBERG EBOOK\r\nX ***\r\n"
    "\r\n café \r\nend\r\n\r\n*** END OF THE\r\n*** END OF IT"
)


@pytest.mark.parametrize(
    "content", [BOOK.encode("utf-8-sig"), BOOK.encode("latin-1"), BOOK.replace("*** ", "***").encode()]
)
def test_a_book_is_what_stands_between_the_marks(content, tmp_path):
    (tmp_path / "a.txt").write_bytes(content)
    text.novels({"book.txt": tmp_path / "a.txt"}, tmp_path)
    assert (tmp_path / "book.txt").read_bytes() == "café \nend\n".encode()


def test_a_book_without_marks_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text(BOOK.replace("END OF", "end of"))
    with pytest.raises(NbpkgError, match=r"a\.txt: has no marks"):
        text.novels({"book.txt": tmp_path / "a.txt"}, tmp_path)


def test_mrpc_loses_mark_and_development_rows_and_the_rest_is_copied(tmp_path):
    pairs = "\ufeffQuality\t#1 ID\t#2 ID\ts\tt\r\n1\t10\t11\ta\tb\r\n0\t12\t13\tc\td\r\n0\t10\t13\te\tf\r\n"
    originals = {"MRPC/msr_paraphrase_train.txt": pairs, "MRPC/dev_ids.tsv": "12\t13\n"}
    originals["RTE/dev.tsv"] = "x\r\ny"
    for number, (name, content) in enumerate(originals.items()):
        originals[name] = tmp_path / str(number)
        originals[name].write_bytes(content.encode())
    text.glue(originals, tmp_path / "out")
    kept = [line for line in pairs.removeprefix("\ufeff").splitlines(keepends=True) if "12\t13" not in line]
    assert (tmp_path / "out" / "MRPC" / "train.tsv").read_bytes() == "".join(kept).encode()
    assert (tmp_path / "out" / "RTE" / "dev.tsv").read_bytes() == b"x\r\ny"
