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
from mixbct.gallery.tables import INDEXES, ITEMS, ROWS, TABLES, TO_ROWS, VECTORS, digest_of

APPLICATION_ID = 0x6D786263  # "mxbc" in the file's header

SCHEMA = 5


def create(connection: sqlite3.Connection, table: str, columns: str) -> None:
    """Make a table of columns as PostgreSQL writes them."""
    connection.execute(_made(table, columns))


def _made(table: str, columns: str) -> str:
    columns = columns.replace("bigint", "integer").replace(' COLLATE "C"', "").format("vector")
    return f"CREATE TABLE {table} ({columns.replace('vector vector', 'vector blob')}) STRICT"


def _create_tables(connection: sqlite3.Connection) -> None:
    for table, columns in (TABLES | ITEMS).items():
        create(connection, table, columns)
    for name, columns in INDEXES.items():
        connection.execute(f"CREATE INDEX {name} ON {columns}")


def _move_rows(connection: sqlite3.Connection, version: int) -> None:
    for (number,) in connection.execute("SELECT number FROM contracts").fetchall():
        if version == 4:
            create(connection, f"vectors_{number}", VECTORS)
            connection.execute(
                f"INSERT INTO vectors_{number} SELECT i.id, vector FROM items_3 i JOIN contracts c "
                f"ON c.id = contract_id WHERE number = {number} ORDER BY i.id"
            )
        else:
            create(connection, f"rows_{number}", ROWS)
            connection.execute(TO_ROWS.format(number))
            connection.execute(f"DROP TABLE vectors_{number}")


def bring_up_to_date(connection: sqlite3.Connection, version: int, wanted: int = SCHEMA) -> None:
    """Make the present version of a file of that version; 0 is an empty one."""
    for number in range(version + 1, wanted + 1):
        script = Path(__file__).with_name(f"version_{number}.sql").read_text(encoding="utf-8")
        for statement in script.split(";"):
            if statement.strip() == "TABLES":
                _create_tables(connection)
            elif statement.strip() == "ROWS":
                _move_rows(connection, number)
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
    of, columns = ("vectors", VECTORS) if version < 5 else ("rows", ROWS)
    rows: set[tuple[str | None, ...]] = set()
    for table in {str(row[1]) for row in found if re.fullmatch(rf"{of}_\d+", str(row[1]))}:
        rows.add(("table", table, table, _made(table, columns)))
        if version >= 5:  # of the key: SQLite's own
            rows.add(("index", f"sqlite_autoindex_{table}_1", table, None))
    if other := found ^ (_expected(version) | rows):
        kind, name = min(other, key=lambda row: (row[3] is None, str(row)))[:2]
        raise GalleryError(
            f"{path} is not as mixbct makes a gallery: the {kind} {name!r} was added, changed or "
            "taken away; nothing of it was run. Use the gallery as it was before that"
        )
    return int(version)
