"""The gallery's SQLite file: its schema, how it is opened, and its errors by name.

The file may come from anyone: its schema must be the one below, word for word, so that no trigger
and no view of another's ever runs.
"""

import contextlib
import os
import shutil
import sqlite3
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from mixbct.errors import DiskFullError, GalleryError, MixbctError, NoGalleryError
from mixbct.gallery.store import closed_on_error

APPLICATION_ID = 0x6D786263  # "mxbc" in the file's header
# a disk with less than this left cannot hold the small files that SQLite needs beside its own
_NO_SPACE = 2**18
# Python cannot read a message of SQLite's that quotes a damaged name
_FAULTS = (sqlite3.Error, UnicodeError)
_UNWRITABLE = (
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_IOERR,
)

# secure_delete: what was pruned is not to be found in the file's free pages
_SETTINGS = (
    "PRAGMA foreign_keys = 1; PRAGMA trusted_schema = 0; PRAGMA cell_size_check = 1; "
    "PRAGMA secure_delete = 1;"
)

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
""",
    "CREATE TABLE hits (key TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT",
)
SCHEMA = len(_VERSIONS)


def digest_of(one: str, two: str | None, three: str, content: bytes) -> int:
    """Return the checksum of a stored row; each length counts, so that no two rows run together."""
    names = f"{len(one)} {'-' if two is None else len(two)} {one}{two or ''}{three}"
    return zlib.crc32(content, zlib.crc32(names.encode("utf-8", "surrogatepass")))


def connect(path: Path, timeout: float) -> tuple[sqlite3.Connection, bool]:
    """Open the file; return also whether it can only be read, as one that nobody changes.

    That is how it is opened where no file can be made beside it: on a read-only or a full disk.
    """
    log = path.with_name(path.name + "-wal")
    with named_errors(path):
        try:
            return _opened(path, "mode=rw", timeout), False
        except _FAULTS as error:
            if _code(error) not in _UNWRITABLE or (log.exists() and log.stat().st_size):
                raise
        return _opened(path, "mode=ro&immutable=1", timeout), True


def _opened(path: Path, how: str, timeout: float) -> sqlite3.Connection:
    # `isolation_level=None`: transactions begin and end where the store says, only there
    uri = f"{path.absolute().as_uri()}?{how}"
    # used by one thread at a time, though not always by the same
    connection = sqlite3.connect(
        uri, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False
    )
    with closed_on_error(connection):
        connection.executescript(_SETTINGS)
        connection.create_function("digest_of", 4, digest_of)
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return connection


def bring_up_to_date(connection: sqlite3.Connection, version: int) -> None:
    """Make the present version of a file of that version; 0 is an empty one."""
    for statements in _VERSIONS[version:]:
        for statement in statements.split(";"):
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
        connection.executescript("".join(_VERSIONS[:version]))
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
    if other := found ^ _expected(version):
        kind, name = min(other, key=lambda row: (row[3] is None, str(row)))[:2]
        raise GalleryError(
            f"{path} is not as mixbct makes a gallery: the {kind} {name!r} was added, changed or "
            "taken away; nothing of it was run. Use the gallery as it was before that"
        )
    return int(version)


def faults_of(connection: sqlite3.Connection) -> list[str]:
    """Return what SQLite finds wrong with a file, and counts that are not those of its rows."""
    lines = connection.execute("PRAGMA integrity_check").fetchall()
    counts = connection.execute(
        "SELECT contract_id, sum(n) FROM (SELECT contract_id, 1 AS n FROM items UNION ALL "
        "SELECT id, -rows FROM contracts) GROUP BY 1 HAVING sum(n) != 0"
    )
    return [line for (line,) in lines if line != "ok"] + [
        f"contract {id} has {more:+,} rows more than are told of" for id, more in counts
    ]


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite says into a named error that says what to do."""
    try:
        yield
    except _FAULTS as error:
        raise _named(error, path) from error


def damaged(path: Path, what: str) -> GalleryError:
    """Return the error about a file that was changed behind mixbct's back."""
    return GalleryError(f"{path} is damaged ({what}); restore it from a backup")


def _code(error: Exception) -> int:
    # the low byte is the primary code; where Python itself refuses there is none
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _named(error: Exception, path: Path) -> MixbctError:
    code = _code(error)
    no_space = os.access(path.parent, os.W_OK) and shutil.disk_usage(path.parent).free < _NO_SPACE
    if code == sqlite3.SQLITE_FULL or (no_space and code in _UNWRITABLE):
        return DiskFullError(
            f"no space left on the disk of {path}; free some space and run the same command again "
            "(what was enrolled before is intact, nothing of this batch is stored)"
        )
    if code == sqlite3.SQLITE_CORRUPT or "decode" in str(error):
        return damaged(path, str(error))
    if code in _UNWRITABLE and code != sqlite3.SQLITE_IOERR:
        says = (
            f"cannot be written: its disk or folder is read-only ({error}). It can be searched "
            "there; to change it, copy the folder to where you may write"
        )
    elif code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        says = (
            "is being written by another process; wait until that is done and run the same "
            "command again"
        )
    elif code == sqlite3.SQLITE_NOTADB:
        says = "is not a gallery: it is not an SQLite file"
    else:
        says = f"cannot be used as a gallery: {error}"
    return GalleryError(f"{path} {says}")
