"""A table of an SQLite file, with vectors as BLOBs of float32 or float64, or as JSON text.

Only tables are read: a view, or a module's table, is code of a stranger's.
"""

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from mixbct.errors import GalleryError
from mixbct.gallery.foreign.rows import ForeignRows, VectorSource, chosen_name, contract_of, decode
from mixbct.gallery.foreign.tables import Catalogue, Relation
from mixbct.reading import file_size

_LONGEST_VALUE = 2**24
_SAMPLE = 1000
# the largest number that is still believed to be one of an embedding
_MOST = 1e12


def open_sqlite(
    path: Path, find: Callable[[Catalogue], Relation], contract: str | None
) -> VectorSource:
    """Open a table of vectors, which is never written.

    Args:
        path: the file.
        find: gives the table from the catalogue.
        contract: which of the table's, or the declared name where it tells none.

    Raises:
        GalleryError: it is no SQLite file, is damaged, or holds no vectors there.
        DataError: the table or a column is not there.
        ContractError: none of that name is there, or no name was declared.
    """
    file_size(path, "SQLite file", GalleryError)
    with _connected(path) as connection:
        relation = find(_catalogue(connection))
        name = f"{relation.name} of {path}"
        counts = dict(connection.execute(relation.count()).fetchall())
        chosen = chosen_name(counts, contract, name) if relation.contract else None
        parameters = [chosen] if chosen is not None else []
        query = relation.select("?" if parameters else None)
        first = connection.execute(f"{query} LIMIT {_SAMPLE}", parameters).fetchall()
        dtype = _format_of([_packed(row[2]) for row in first], name)

    def read(count: int) -> Iterator[ForeignRows]:
        with _connected(path) as connection:
            rows = connection.execute(query, parameters)
            while some := rows.fetchmany(count):
                yield decode([(k, label, _packed(v)) for k, label, v in some], dtype)

    (dim,), number = dtype["numbers"].shape, dtype["numbers"].base["x"].name
    own = contract_of(chosen or contract, dim, name)
    note = f"{name} was read as {dim} numbers of {number} a row"
    return VectorSource(name, own, counts.get(chosen or "", 0), read, (note,))


@contextlib.contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a file of a stranger's, of which nothing is run and no large value is taken."""
    uri = path.absolute().as_uri()
    try:
        for how in ("mode=ro", "mode=ro&immutable=1"):  # where no file can be made beside it
            # a reader that is left in the middle may be closed by another thread
            connection = sqlite3.connect(
                f"{uri}?{how}", uri=True, isolation_level=None, check_same_thread=False
            )
            try:
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                break
            except sqlite3.OperationalError:
                connection.close()
                if "immutable" in how:
                    raise
        with contextlib.closing(connection):
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
            connection.executescript(
                "PRAGMA query_only = 1; PRAGMA trusted_schema = 0; PRAGMA cell_size_check = 1;"
            )
            connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
            yield connection
    except (sqlite3.Error, UnicodeError) as problem:
        raise GalleryError(
            f"{path} cannot be read as an SQLite file of vectors: {problem}; "
            "look at it with PRAGMA integrity_check, or restore a backup"
        ) from problem


def _catalogue(connection: sqlite3.Connection) -> Catalogue:
    tables = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' "
        "AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name"
    ).fetchall()
    return {
        ("main", table): dict(
            connection.execute("SELECT name, type FROM pragma_table_xinfo(?)", (table,)).fetchall()
        )
        for (table,) in tables
    }


def _packed(value: object) -> bytes | None:
    """Return a vector's bytes: of a BLOB as they are, of JSON text as float32."""
    if isinstance(value, bytes):
        return value
    try:
        found = np.asarray(json.loads(value), dtype="<f4") if isinstance(value, str) else None
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    return found.tobytes() if found is not None and found.ndim == 1 and found.size else None


def _format_of(values: list[bytes | None], name: str) -> np.dtype:
    """Return what a row's bytes are: the type of the numbers, and how many most of the first have.

    The halves of a float64 that are read as float32 are numbers of any size, some of them vast,
    which those of an embedding never are.
    """
    sizes = Counter(len(value) for value in values if value)
    size = sizes.most_common(1)[0][0] if sizes else 0
    if not size or size % 4:
        raise GalleryError(
            f"{name} holds no vectors there: expected BLOBs of float32 or float64, or JSON arrays "
            f"of numbers, found {f'{size} bytes' if size else 'nothing like it'}"
        )
    together = b"".join(value for value in values if value and len(value) == size)

    def usual(kind: str) -> bool:
        with np.errstate(all="ignore"):
            return bool((np.abs(np.frombuffer(together, kind)) < _MOST).all())

    kind = "<f8" if size % 8 == 0 and usual("<f8") and not usual("<f4") else "<f4"
    return np.dtype([("numbers", [("x", kind)], (size // np.dtype(kind).itemsize,))])
