"""Digests of what a file says, whichever library wrote it: pictures by their pixels, tables by their columns.

Two files with one digest give a reader the same values in the same order, though their bytes may differ.
"""

import hashlib
import io
import itertools
import json
import re
from pathlib import Path

import numpy as np

#: An empty line, a level-one heading and an empty line begin an article of WikiText.
_ARTICLE = re.compile(rb"^ \n(?= = [^=\n](?:[^\n]*[^=\n])? = \n \n)", re.MULTILINE)


def articles_by_hash(content: bytes) -> bytes:
    """The bytes of a WikiText file with its articles in the order of their SHA-256.

    WikiText-2's training text is handed round in more than one order; this is one for all of them.
    """
    cuts = [0, *(found.start() for found in _ARTICLE.finditer(content)), len(content)]
    # The last article of a file has one empty line more at its end than it would have elsewhere.
    articles = [content[a:b].rstrip(b" \n") + b"\n" for a, b in itertools.pairwise(cuts) if a < b]
    return b"".join(sorted(articles, key=lambda article: hashlib.sha256(article).digest()))


def digest(path: str | Path) -> str:
    """SHA-256 (hex) of the values in a .parquet or .npz file, of the bytes of any other; of a .tokens file
    with `articles_by_hash`.

    Table: for each column its name, then whole numbers as int64, others as float64, text as a JSON list,
    pictures as shape and pixels. Arrays: name, type, shape and numbers of each. Raises whatever a damaged
    file makes its reader raise.
    """
    path, hasher = Path(path), hashlib.sha256()
    if path.suffix == ".parquet":
        from pyarrow import parquet

        for batch in parquet.ParquetFile(path).read().combine_chunks().to_batches():
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                hasher.update(f"{name}\n".encode())
                _column(column, hasher)
    elif path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            for name in sorted(arrays):
                hasher.update(f"{name} {arrays[name].dtype} {arrays[name].shape}\n".encode())
                hasher.update(np.ascontiguousarray(arrays[name]).data)
    else:
        content = path.read_bytes()
        hasher.update(articles_by_hash(content) if path.suffix == ".tokens" else content)
    return hasher.hexdigest()


def _column(column, hasher) -> None:
    import pyarrow
    from PIL import Image

    if pyarrow.types.is_binary(column.type):
        for blob in column:
            with Image.open(io.BytesIO(blob.as_py()), formats=["WEBP"]) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            hasher.update(f"{pixels.shape}\n".encode())
            hasher.update(pixels.tobytes())
    elif pyarrow.types.is_integer(column.type):
        hasher.update(column.to_numpy(zero_copy_only=False).astype("<i8").tobytes())
    elif pyarrow.types.is_floating(column.type):
        hasher.update(column.to_numpy(zero_copy_only=False).astype("<f8").tobytes())
    else:
        hasher.update(json.dumps(column.to_pylist()).encode())
