"""Rows on their way into PostgreSQL, by COPY in the server's binary form.

Text takes ten times as long for vectors, and half as long again for names.
"""

from collections.abc import Iterable
from itertools import chain
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float32

from mixbct.gallery.records import Ids

if TYPE_CHECKING:
    from psycopg import Connection

_BEGIN: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
# sizes before values, big-endian; a size of -1 is NULL
_ID, _SIZE, _NUMBERS = Struct(">hiqi"), Struct(">i"), Struct(">iiii")


def copy(connection: "Connection", table: str, parts: Iterable[bytes]) -> None:
    """Send rows into a table."""
    from psycopg.copy import QueuedLibpqWriter

    cursor = connection.cursor()
    # its thread sends while this one makes what comes next
    writer = QueuedLibpqWriter(cursor)
    with cursor.copy(f"COPY {table} FROM STDIN BINARY".encode(), writer=writer) as sent:
        for part in chain([_BEGIN], parts, [b"\xff\xff"]):
            sent.write(part)


def items_of(rows: list[tuple[Any, ...]]) -> bytes:
    """Return rows of `items` as COPY takes them."""
    parts: list[bytes] = []
    for id, key, label, number, digest in rows:
        name, text = key.encode(), b"" if label is None else label.encode()
        size = _SIZE.pack(-1 if label is None else len(text))
        parts += (
            _ID.pack(5, 8, id, len(name)),
            name,
            size,
            text,
            _NUMBERS.pack(4, number, 4, digest),
        )
    return b"".join(parts)


def vectors_of(ids: Ids, vectors: Float32[np.ndarray, "n d"]) -> bytes:
    """Return ids and vectors as COPY takes them."""
    dim = vectors.shape[1]
    fields = [("fields", ">i2"), ("size", ">i4"), ("id", ">i8"), ("bytes", ">i4")]
    rows = np.zeros(len(ids), [*fields, ("dim", ">i2"), ("0", ">i2"), ("vector", ">f4", dim)])
    rows["fields"], rows["size"], rows["bytes"], rows["dim"] = 2, 8, 4 + 4 * dim, dim
    rows["id"], rows["vector"] = ids, vectors
    return rows.tobytes()
