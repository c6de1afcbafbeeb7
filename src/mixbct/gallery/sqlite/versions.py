"""The schema of the gallery's SQLite file, in every version that there was (`version_N.sql`).

The file may come from anyone: its schema must be the one below, word for word, so that no trigger
and no view of another's ever runs.
"""

import contextlib
import re
import sqlite3
from functools import cache
from pathlib import Path

from mixbct.errors import GalleryError, NoGalleryError
from mixbct.gallery.tables import INDEXES, TABLES, VECTORS, digest_of

APPLICATION_ID = 0x6D786263  # "mxbc" in the file's header

SCHEMA = 4
_VECTORS = VECTORS.format("blob").replace("bigint", "integer")


def create_vectors(connection: sqlite3.Connection, table: str) -> None:
    """Make a table of vectors."""
    connection.execute(f"CREATE TABLE {table} ({_VECTORS}) STRICT")


def _create_tables(connection: sqlite3.Connection) -> None:
    for table, columns in TABLES.items():
        columns = columns.replace("bigint", "integer").replace(' COLLATE "C"', "")
        columns = columns.replace("vector vector", "vector blob")
        connection.execute(f"CREATE TABLE {table} ({columns}) STRICT")
    for name, columns in INDEXES.items():
        connection.execute(f"CREATE INDEX {name} ON {columns}")


def _move_vectors(connection: sqlite3.Connection) -> None:
    for number, id in connection.execute("SELECT number, id FROM contracts").fetchall():
        create_vectors(connection, f"vectors_{number}")
        connection.execute(
            f"INSERT INTO vectors_{number} SELECT id, vector FROM items_3 "
            "WHERE contract_id = ? ORDER BY id",
            (id,),
        )


def bring_up_to_date(connection: sqlite3.Connection, version: int, wanted: int = SCHEMA) -> None:
    """Make the present version of a file of that version; 0 is an empty one."""
    for number in range(version + 1, wanted + 1):
        script = Path(__file__).with_name(f"version_{number}.sql").read_text(encoding="utf-8")
        for statement in script.split(";"):
            if statement.strip() == "TABLES":
                _create_tables(connection)
            elif statement.strip() == "VECTORS":
                _move_vectors(connection)
            else:
                connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA}")


def schema_of(connection: sqlite3.Connection) -> frozenset[tuple[str | None, ...]]:
    """Return all that was ever defined in a file, as it was written; empty in a new one."""
    return frozenset(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"))


@cache
def _expected(version: int) -> frozenset[tuple[str | None, ...]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.create_function("digest_of", 4, digest_of)
        bring_up_to_date(connection, 0, version)
        return schema_of(connection)


def checked_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of a file that is in all as mixbct makes it, and not a later one.

    Raises:
        GalleryError: it is something else.
    """
    found = schema_of(connection)
    [(application,)] = connection.execute("PRAGMA application_id")
    [(version,)] = connection.execute("PRAGMA user_version")
    if not found:
        raise NoGalleryError(
            f"{path} is empty: `mixbct gallery init` was interrupted; run it again"
        )
    if application != APPLICATION_ID:
        raise GalleryError(f"{path} is not a gallery: another program wrote it")
    if not 0 < version <= SCHEMA:
        raise GalleryError(
            f"{path} has schema {version}, this version of mixbct reads 1 to {SCHEMA}; "
            "use the version that wrote it"
        )
    names = {str(name) for _, name, *_ in found if re.fullmatch(r"vectors_\d+", str(name))}
    vectors = {("table", name, name, f"CREATE TABLE {name} ({_VECTORS}) STRICT") for name in names}
    if other := found ^ (_expected(version) | vectors):
        kind, name = min(other, key=lambda row: (row[3] is None, str(row)))[:2]
        raise GalleryError(
            f"{path} is not as mixbct makes a gallery: the {kind} {name!r} was added, changed or "
            "taken away; nothing of it was run. Use the gallery as it was before that"
        )
    return int(version)
