"""Texts: books without what was wrapped around them, and MRPC split as GLUE has it. Pinned are the bytes."""

import re
import shutil
from pathlib import Path

from nbpkg.untrusted import refuse

Sources = dict[str, Path]

_BODY = re.compile(r"\*\*\* ?START OF .*?\*\*\*(.*?)\*\*\* ?END OF ", re.DOTALL)


def as_is(sources: Sources, out: Path) -> None:
    """Every original under its own name, unchanged."""
    for name, path in sources.items():
        file = out / name
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, file)


def novels(sources: Sources, out: Path) -> None:
    """Each book of Project Gutenberg without header and footer (public domain in the United States).

    Copies in AmanSharma0710/wss22 and logicx24/Text-Search-Engine (their code: MIT). Read as UTF-8, else as
    Latin-1; kept is what stands between the first "*** START OF ...***" and the first "*** END OF " after
    it (a blank more or less), without blank ends, with lines ended by LF and one LF at the end.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name, path in sources.items():
        content = path.read_bytes()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("latin-1")
        found = _BODY.search(text)
        if not found:
            refuse(path, "has no marks of Project Gutenberg")
        (out / name).write_bytes((found[1].replace("\r\n", "\n").strip() + "\n").encode())


def glue(sources: Sources, out: Path) -> None:
    """The tables as they are (each task's own terms), and of MRPC GLUE's training set from Microsoft's.

    Copies in F0restL1n/BERT. MRPC/train.tsv is msr_paraphrase_train.txt without byte order mark and without
    the rows whose two ids stand in dev_ids.tsv: GLUE's development set is a part of Microsoft's training set.
    """
    sources = dict(sources)
    pairs, held_out = (sources.pop(f"MRPC/{name}") for name in ("msr_paraphrase_train.txt", "dev_ids.tsv"))
    as_is(sources, out)
    held_out = {tuple(line.split("\t")) for line in held_out.read_text(encoding="utf-8").splitlines()}
    lines = pairs.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True)
    kept = [line for line in lines if tuple(line.decode().split("\t")[1:3]) not in held_out]
    train = out / "MRPC" / "train.tsv"
    train.parent.mkdir(parents=True, exist_ok=True)
    train.write_bytes(b"".join(kept))
