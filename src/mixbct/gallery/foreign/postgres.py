"""A table or view of PostgreSQL, with vectors of pgvector or arrays of floats.

They are read by a server-side cursor in one read-only transaction, and taken as the server sends
them: a vector's bytes are a header and its numbers, which NumPy reads many rows at a time.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from mixbct.data.postgresql import Server
from mixbct.errors import DataError, GalleryError
from mixbct.gallery.foreign.rows import ForeignRows, VectorSource, chosen_name, contract_of, decode
from mixbct.gallery.foreign.tables import Catalogue, Relation

if TYPE_CHECKING:
    from psycopg import Connection

_SAMPLE = 100
_VECTOR = [("dim", ">i2"), ("unused", ">i2")]
_ARRAY = [("ndim", ">i4"), ("nulls", ">i4"), ("oid", ">i4"), ("dim", ">i4"), ("first", ">i4")]
_FLAT = b"\0\0\0\1"  # one dimension
_FORMATS: dict[str, tuple[list[tuple[str, str]], list[tuple[str, str]]]] = {
    "vector": (_VECTOR, [("x", ">f4")]),
    "halfvec": (_VECTOR, [("x", ">f2")]),
    "_float4": (_ARRAY, [("size", ">i4"), ("x", ">f4")]),
    "_float8": (_ARRAY, [("size", ">i4"), ("x", ">f8")]),
}
"""Type → the fields of its header and of each number, as its send function writes them."""

_CATALOGUE = """
SELECT n.nspname, c.relname, a.attname, t.typname
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped
AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg_toast%'
ORDER BY n.nspname, c.relname, a.attnum
"""


def open_postgres(
    url: str, find: Callable[[Catalogue], Relation], contract: str | None
) -> VectorSource:
    """Open a table of vectors, which is never written.

    Args:
        url: postgresql://…; its password stands in no error and no name.
        find: gives the table from the catalogue.
        contract: which of the table's, or the declared name where it tells none.

    Raises:
        GalleryError: the server cannot be reached, refuses, or the column holds no vectors.
        DataError: the table or a column is not there.
        ContractError: none of that name is there, or no name was declared.
    """
    server = Server(url)
    with _connected(server) as connection:
        tables: dict[tuple[str, str], dict[str, str]] = {}
        for schema, table, column, kind in connection.execute(_CATALOGUE):
            tables.setdefault((schema, table), {})[column] = kind
        relation = find(tables)
        name = f"{relation.name} of {server.place}"
        counts: dict[str, int] = dict(connection.execute(relation.count().encode()).fetchall())
        chosen = chosen_name(counts, contract, name) if relation.contract else None
        parameters = [chosen] if chosen is not None else []
        query = relation.select("\0" if parameters else None)  # which stands in no name
        if parameters:
            query = query.replace("%", "%%").replace("\0", "%s")
        some = f"{query} LIMIT {_SAMPLE}".encode()
        first = connection.execute(some, parameters or None, binary=True)
        oid = first.description[2].type_code if first.description else 0
        kind = connection.execute("SELECT typname FROM pg_type WHERE oid = %s", (oid,)).fetchone()
        dtype = _format_of(str(kind and kind[0]), [row[2] for row in first.fetchall()], name)

    def read(count: int) -> Iterator[ForeignRows]:
        with _connected(server) as connection, connection.cursor("mixbct_import") as cursor:
            cursor.execute(query.encode(), parameters or None, binary=True)
            while rows := cursor.fetchmany(count):
                yield decode(rows, dtype)

    own = contract_of(chosen or contract, dtype["numbers"].shape[0], name)
    return VectorSource(name, own, counts.get(chosen or "", 0), read)


@contextlib.contextmanager
def _connected(server: Server) -> "Iterator[Connection[Any]]":
    """Open a connection with one read-only transaction, in which vectors come as bytes."""
    from psycopg import IsolationLevel
    from psycopg.types.string import ByteaBinaryLoader

    with server.named_errors(), contextlib.closing(server.connect()) as connection:
        connection.autocommit, connection.read_only = False, True
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        kinds = connection.execute(
            "SELECT oid FROM pg_type WHERE typname = ANY(%s)", (list(_FORMATS),)
        )
        for (oid,) in kinds.fetchall():
            connection.adapters.register_loader(oid, ByteaBinaryLoader)
        yield connection


def _format_of(kind: str, first: list[Any], name: str) -> np.dtype:
    """Return what a row's bytes are; of as many numbers as most of the first rows have."""
    if kind not in _FORMATS:
        raise DataError(
            f"{name} holds {kind} there; expected vector, halfvec, real[] or float8[]: name "
            "another column with --vector, or a view that casts it"
        )
    header, number = _FORMATS[kind]
    before, each = np.dtype(header).itemsize, np.dtype(number).itemsize
    flat = [value for value in first if value and (header is _VECTOR or value[:4] == _FLAT)]
    sizes = Counter(map(len, flat))
    size = sizes.most_common(1)[0][0] if sizes else 0
    dim, over = divmod(size - before, each)
    if dim < 1 or over:
        raise GalleryError(f"{name} holds no vectors there: expected numbers in one dimension")
    return np.dtype([*header, ("numbers", number, (dim,))])
