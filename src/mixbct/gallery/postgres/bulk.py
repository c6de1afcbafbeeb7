"""Rows on their way into PostgreSQL, by COPY in the server's binary form.

Text takes ten times as long for vectors, and half as long again for names.
"""

from collections.abc import Iterable
from itertools import chain
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float32

from mixbct.gallery.records import Ids, Rows

if TYPE_CHECKING:
    from psycopg import Connection

_BEGIN: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
# sizes before values, big-endian; a size of -1 is NULL
_ID, _SIZE = Struct(">hiqi"), Struct(">i")


def copy(connection: "Connection", table: str, parts: Iterable[bytes]) -> None:
    """Send rows into a table: the server works on some while the next are made.

    Parts of some hundred rows keep it at work. A thread that sends would wait for Python's lock.
    """
    with connection.cursor().copy(f"COPY {table} FROM STDIN BINARY".encode()) as sent:
        for part in chain([_BEGIN], parts, [b"\xff\xff"]):
            sent.write(part)


def rows_of(rows: Rows) -> bytes:
    """Return rows as COPY takes them."""
    ids, keys, labels, digests, vectors = rows
    dim = vectors.shape[1]
    ends = np.zeros(len(ids), [("size", ">i4"), ("digest", ">i4"), *_vector(dim)])
    ends["size"], ends["digest"] = 4, digests
    tail, size = memoryview(_filled(ends, vectors)), ends.dtype.itemsize
    parts: list[bytes | memoryview] = []
    for place, (id, key, label) in enumerate(zip(ids, keys, labels, strict=True)):
        name, text = key.encode(), b"" if label is None else label.encode()
        parts += (
            _ID.pack(5, 8, id, len(name)),
            name,
            _SIZE.pack(-1 if label is None else len(text)),
            text,
            tail[place * size : (place + 1) * size],
        )
    return b"".join(parts)


def vectors_of(ids: Ids, vectors: Float32[np.ndarray, "n d"]) -> bytes:
    """Return ids and vectors as COPY takes them."""
    fields = [("fields", ">i2"), ("size", ">i4"), ("id", ">i8")]
    rows = np.zeros(len(ids), [*fields, *_vector(vectors.shape[1])])
    rows["fields"], rows["size"], rows["id"] = 2, 8, ids
    return _filled(rows, vectors)


def _vector(dim: int) -> list[tuple[Any, ...]]:
    return [("bytes", ">i4"), ("dim", ">i2"), ("0", ">i2"), ("vector", ">f4", dim)]


def _filled(rows: np.ndarray, vectors: Float32[np.ndarray, "n d"]) -> bytes:
    dim = vectors.shape[1]
    rows["bytes"], rows["dim"], rows["vector"] = 4 + 4 * dim, dim, vectors
    return rows.tobytes()
