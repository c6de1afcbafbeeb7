"""The schema of the gallery's SQLite file, in every version that there was.

The file may come from anyone: its schema must be the one below, word for word, so that no trigger
and no view of another's ever runs.
"""

import contextlib
import re
import sqlite3
from functools import cache
from pathlib import Path

from mixbct.errors import GalleryError, NoGalleryError
from mixbct.gallery.sql.checksum import digest_of
from mixbct.gallery.sql.tables import INDEXES, TABLES, VECTORS

APPLICATION_ID = 0x6D786263  # "mxbc" in the file's header

# what makes each version of the file out of the one before; never to be edited, only added to
_VERSIONS = (
    """
CREATE TABLE contracts (id TEXT PRIMARY KEY, json TEXT NOT NULL) STRICT;
CREATE TABLE edges (
    from_id TEXT NOT NULL REFERENCES contracts, to_id TEXT NOT NULL REFERENCES contracts,
    json TEXT NOT NULL, PRIMARY KEY (from_id, to_id)) STRICT;
CREATE TABLE query_model (
    one INTEGER PRIMARY KEY CHECK (one = 1), contract_id TEXT NOT NULL REFERENCES contracts,
    folder TEXT) STRICT;
CREATE TABLE items (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, label TEXT NOT NULL,
    contract_id TEXT NOT NULL REFERENCES contracts, time TEXT NOT NULL,
    vector BLOB NOT NULL) STRICT;
CREATE INDEX items_by_contract ON items (contract_id);
CREATE TABLE changes (
    revision INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT NOT NULL,
    removed INTEGER NOT NULL) STRICT;
""",
    """
ALTER TABLE items ADD COLUMN digest INTEGER NOT NULL DEFAULT 0;
UPDATE items SET digest = digest_of(key, label, contract_id, vector);
ALTER TABLE edges ADD COLUMN digest INTEGER NOT NULL DEFAULT 0;
UPDATE edges SET digest = digest_of(from_id, to_id, json, x'');
ALTER TABLE contracts ADD COLUMN rows INTEGER NOT NULL DEFAULT 0;
UPDATE contracts SET rows = (SELECT count(*) FROM items WHERE contract_id = contracts.id);
ALTER TABLE contracts ADD COLUMN cached_rows INTEGER NOT NULL DEFAULT 0;
ALTER TABLE contracts ADD COLUMN cached_state TEXT NOT NULL DEFAULT '';
ALTER TABLE contracts ADD COLUMN cached_sha256 TEXT NOT NULL DEFAULT '';
""",
    # labels may be absent; history; index files by side. What was removed before is not known, so
    # the indexes are built anew, once
    """
ALTER TABLE contracts DROP COLUMN cached_rows;
ALTER TABLE contracts DROP COLUMN cached_state;
ALTER TABLE contracts DROP COLUMN cached_sha256;
CREATE TABLE caches (
    contract_id TEXT NOT NULL REFERENCES contracts, side TEXT NOT NULL, rows INTEGER NOT NULL,
    sha256 TEXT NOT NULL, revision INTEGER NOT NULL, token TEXT NOT NULL,
    PRIMARY KEY (contract_id, side)) STRICT;
ALTER TABLE changes DROP COLUMN removed;
DELETE FROM changes WHERE revision < (SELECT max(revision) FROM changes);
CREATE TABLE switches (
    number INTEGER PRIMARY KEY, revision INTEGER NOT NULL,
    contract_id TEXT NOT NULL REFERENCES contracts, folder TEXT, time TEXT NOT NULL,
    before INTEGER, restores INTEGER) STRICT;
INSERT INTO switches SELECT 1, ifnull((SELECT max(revision) FROM changes), 0), contract_id, folder,
    strftime('%Y-%m-%dT%H:%M:%S+00:00', 'now'), NULL, NULL FROM query_model;
DROP TABLE query_model;
ALTER TABLE edges RENAME TO edges_2;
CREATE TABLE edges (
    id INTEGER PRIMARY KEY AUTOINCREMENT, from_id TEXT NOT NULL REFERENCES contracts,
    to_id TEXT NOT NULL REFERENCES contracts, revision INTEGER NOT NULL, ended INTEGER,
    digest INTEGER NOT NULL, json TEXT NOT NULL) STRICT;
INSERT INTO edges (from_id, to_id, revision, digest, json)
    SELECT from_id, to_id, 0, digest, json FROM edges_2;
DROP TABLE edges_2;
CREATE UNIQUE INDEX one_edge ON edges (from_id, to_id) WHERE ended IS NULL;
ALTER TABLE items RENAME TO items_2;
CREATE TABLE items (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, label TEXT,
    contract_id TEXT NOT NULL REFERENCES contracts, time TEXT NOT NULL, revision INTEGER NOT NULL,
    digest INTEGER NOT NULL, vector BLOB NOT NULL) STRICT;
INSERT INTO items SELECT id, key, label, contract_id, time, 0, digest, vector FROM items_2;
DELETE FROM sqlite_sequence WHERE name = 'items';
UPDATE sqlite_sequence SET name = 'items' WHERE name = 'items_2';
DROP TABLE items_2;
CREATE INDEX items_by_contract ON items (contract_id);
CREATE TABLE past (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, label TEXT,
    contract_id TEXT NOT NULL REFERENCES contracts, time TEXT NOT NULL, revision INTEGER NOT NULL,
    ended INTEGER NOT NULL, until TEXT NOT NULL, digest INTEGER NOT NULL,
    vector BLOB NOT NULL) STRICT;
CREATE INDEX past_by_key ON past (key);
CREATE INDEX past_by_end ON past (ended, contract_id);
""",  # the tables of every database (`sql/tables.py`), each contract's vectors in one of their own.
    # Rows of one revision have one time; those of before there were any have those of their times
    """
DROP TABLE caches;
ALTER TABLE contracts RENAME TO contracts_3;
ALTER TABLE items RENAME TO items_3;
ALTER TABLE past RENAME TO past_3;
ALTER TABLE edges RENAME TO edges_3;
ALTER TABLE switches RENAME TO switches_3;
ALTER TABLE changes RENAME TO changes_3;
TABLES;
CREATE TABLE caches (
    contract INTEGER NOT NULL, side TEXT NOT NULL, rows INTEGER NOT NULL, sha256 TEXT NOT NULL,
    revision INTEGER NOT NULL, token TEXT NOT NULL, PRIMARY KEY (contract, side)) STRICT;
INSERT INTO contracts SELECT row_number() OVER (ORDER BY id), id, json, rows FROM contracts_3;
INSERT INTO items SELECT i.id, key, label, number, digest FROM items_3 i
    JOIN contracts c ON c.id = contract_id ORDER BY i.id;
INSERT INTO past SELECT p.id, key, label, number, digest, ended, vector FROM past_3 p
    JOIN contracts c ON c.id = contract_id ORDER BY p.id;
INSERT INTO edges SELECT s.number, t.number, revision, ended, e.json, digest FROM edges_3 e
    JOIN contracts s ON s.id = from_id JOIN contracts t ON t.id = to_id
    WHERE ended IS NULL OR ended > revision;
INSERT INTO switches SELECT s.number, revision, c.number, folder, time, before, restores
    FROM switches_3 s JOIN contracts c ON c.id = contract_id;
INSERT INTO gallery SELECT 4, ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'items_3'), 0),
    'exact';
INSERT INTO changes
    WITH began AS (SELECT revision, time, id FROM items_3 UNION ALL
        SELECT revision, time, id FROM past_3),
    seen AS (SELECT iif(revision, revision, 1 - dense_rank() OVER (
            PARTITION BY revision ORDER BY time DESC)) AS revision, time, id FROM began UNION ALL
        SELECT ended, until, NULL FROM past_3 UNION ALL
        SELECT revision, time, NULL FROM switches_3 UNION ALL
        SELECT revision, NULL, NULL FROM changes_3)
    SELECT s.revision, coalesce(min(time), (SELECT max(time) FROM switches_3)),
        ifnull(min(id), 1 + ifnull(max(max(id)) OVER (
            ORDER BY s.revision ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)),
        ifnull(c.token, '') FROM seen s LEFT JOIN changes_3 c USING (revision)
    GROUP BY s.revision;
VECTORS;
DROP TABLE items_3;
DROP TABLE past_3;
DROP TABLE edges_3;
DROP TABLE switches_3;
DROP TABLE changes_3;
DROP TABLE contracts_3;
INDEXES
""",
)
SCHEMA = len(_VERSIONS)
_VECTORS = VECTORS.format("blob").replace("bigint", "integer")


def create_vectors(connection: sqlite3.Connection, table: str) -> None:
    """Make a table of vectors."""
    connection.execute(f"CREATE TABLE {table} ({_VECTORS}) STRICT")


def bring_up_to_date(
    connection: sqlite3.Connection, version: int, wanted: int | None = None
) -> None:
    """Make the present version of a file of that version; 0 is an empty one."""
    for statements in _VERSIONS[version:wanted]:
        for statement in statements.split(";"):
            match statement.strip():
                case "TABLES":
                    for table, columns in TABLES.items():
                        columns = columns.replace("bigint", "integer").replace(' COLLATE "C"', "")
                        columns = columns.replace("vector vector", "vector blob")
                        connection.execute(f"CREATE TABLE {table} ({columns}) STRICT")
                case "VECTORS":
                    for number, id in connection.execute(
                        "SELECT number, id FROM contracts"
                    ).fetchall():
                        create_vectors(connection, f"vectors_{number}")
                        connection.execute(
                            f"INSERT INTO vectors_{number} SELECT id, vector FROM items_3 "
                            "WHERE contract_id = ? ORDER BY id",
                            (id,),
                        )
                case "INDEXES":
                    for name, columns in INDEXES.items():
                        connection.execute(f"CREATE INDEX {name} ON {columns}")
                case sql:
                    connection.execute(sql)
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
    application, version = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("application_id", "user_version")
    )
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
