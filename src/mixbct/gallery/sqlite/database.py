"""SQLite as a gallery's database: how it is opened, locked, filled in bulk, and its errors."""

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mixbct.errors import DiskFullError, GalleryError, MixbctError, NoGalleryError, UnavailableError
from mixbct.files import disk_full_as_error
from mixbct.gallery.facts import Asked, Known
from mixbct.gallery.records import Found, Parts, Rows, Tick
from mixbct.gallery.snapshot import Snapshot
from mixbct.gallery.sqlite import indexes, versions
from mixbct.gallery.sqlite.indexes import Held, Key, Shared
from mixbct.gallery.store import closed_on_error
from mixbct.gallery.tables import ROWS, digest_of
from mixbct.reading import failing_as, shown
from mixbct.schemas.contract import Contract
from mixbct.schemas.linear_map import LinearMap

if TYPE_CHECKING:
    from mixbct.gallery.store import Store

DATABASE: Final = "gallery.sqlite"
_AT_ONCE: Final = 256  # rows a statement: it costs as much as a row does
# a disk with less than this left cannot hold the small files that SQLite needs beside its own
_NO_SPACE: Final = 2**18
# Python cannot read a message of SQLite's that quotes a damaged name
_FAULTS: Final = (sqlite3.Error, UnicodeError)
_UNWRITABLE: Final = (
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_IOERR,
)
# secure_delete: what was pruned is not to be found in the file's free pages
_SETTINGS: Final = (
    "PRAGMA foreign_keys = 1; PRAGMA trusted_schema = 0; PRAGMA cell_size_check = 1; "
    "PRAGMA secure_delete = 1;"
)


class Sqlite:
    """A gallery's file, and the cache files of its indexes beside it.

    Args:
        folder: of the file.
        timeout: seconds to wait for another process that is writing.
    """

    taken: Final = sqlite3.IntegrityError
    # a damaged row does not become history
    whole: Final = (
        " AND digest = digest_of(key, label, (SELECT c.id FROM contracts c WHERE c.number = {}), "
        "vector)"
    )
    checksum = staticmethod(digest_of)

    def __init__(self, folder: Path | str, timeout: float = 30.0) -> None:
        self.file = Path(folder) / DATABASE
        self.place = str(folder)
        self._timeout = timeout
        self._frozen: int | None = None
        self._known = False
        self.shared = Shared()

    @property
    def held(self) -> Mapping[Key, Held]:
        """The indexes that are in memory now."""
        return self.shared.held

    def lay_ground(self) -> None:
        """Make an empty file, also of what an interrupted `create` left behind."""
        folder = self.file.parent
        said = f"a gallery cannot be made at {shown(folder)}"
        with failing_as(GalleryError, said, OSError, ValueError):
            if folder.exists() and not folder.is_dir():
                raise GalleryError(f"{folder} is a file; name a folder for the gallery")
            with disk_full_as_error(folder):
                folder.mkdir(parents=True, exist_ok=True)
                self.file.touch()
            with self.named_errors(), contextlib.closing(self.connect()) as connection:
                if versions.schema_of(connection):
                    raise GalleryError(
                        f"{self.file} is already there; open it, or choose another place"
                    )
                # a row of 512 dimensions takes 2.1 kB: pages of 4 kB would be half empty
                connection.execute("PRAGMA page_size = 8192")
                connection.execute("PRAGMA journal_mode = WAL")

    def create_tables(self, connection: sqlite3.Connection) -> None:
        """Make the tables of an empty gallery."""
        versions.bring_up_to_date(connection, 0)

    def is_old(self, connection: sqlite3.Connection) -> bool:
        """Return whether the file is of an earlier version; refuse one that is none of mixbct's."""
        old = versions.checked_version(connection, self.file) < versions.SCHEMA
        if old and self._frozen is not None:
            raise GalleryError(
                f"{self.file} is of an earlier version, and its disk or folder cannot be written: "
                "open it once where it can, so that it is brought up to date"
            )
        return old

    def bring_up(self, connection: sqlite3.Connection) -> None:
        """Bring a file of an earlier version up to date, unless another process has."""
        version = versions.checked_version(connection, self.file)
        versions.bring_up_to_date(connection, version)

    def connect(self) -> sqlite3.Connection:
        """Open the file: to be read alone where no file can be made beside it.

        So it is on a read-only or a full disk; then nobody may change it.
        """
        if not os.path.isfile(self.file):  # noqa: PTH113 - the method raises where a name is too long
            raise NoGalleryError(
                f"there is no gallery at {shown(self.file)}; make one with "
                f"`mixbct gallery init {shown(self.file.parent)} --model OLD_MODEL`"
            )
        log = self.file.with_name(self.file.name + "-wal")
        with self.named_errors():
            try:
                connection = self._opened("mode=rw")
            except _FAULTS as error:
                if _code(error) not in _UNWRITABLE or (log.exists() and log.stat().st_size):
                    raise
                connection = self._opened("mode=ro&immutable=1")
                self._frozen = self._frozen or self.file.stat().st_mtime_ns
        if not self._known:
            self.shared, self._known = Shared.of(self.file), True
        return connection

    def _opened(self, how: str) -> sqlite3.Connection:
        # `isolation_level=None`: transactions begin and end where the store says, only there
        uri = f"{self.file.absolute().as_uri()}?{how}"
        # used by one thread at a time, though not always by the same
        connection = sqlite3.connect(
            uri, uri=True, timeout=self._timeout, isolation_level=None, check_same_thread=False
        )
        with closed_on_error(connection):
            connection.executescript(_SETTINGS)
            connection.create_function("digest_of", 4, digest_of)
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return connection

    def is_at_rest(self, connection: sqlite3.Connection) -> bool:
        """Return whether a connection can be lent again."""
        return not connection.in_transaction

    def begin(self, connection: sqlite3.Connection, what: str, wait: bool) -> None:
        """Begin a transaction that reads, writes, makes or brings up a gallery."""
        if self._frozen is not None and self._frozen != self.file.stat().st_mtime_ns:
            raise GalleryError(f"{self.file} was changed since it was opened; open it again")
        connection.execute(f"PRAGMA busy_timeout = {int(1000 * self._timeout * wait)}")
        connection.execute("BEGIN IMMEDIATE" if what in ("write", "upgrade") else "BEGIN")

    def run(
        self, connection: sqlite3.Connection, query: str, values: tuple[Any, ...]
    ) -> list[tuple[Any, ...]]:
        """Run a statement, which is written for PostgreSQL, and return its rows."""
        query = query.replace("= ANY(%s)", "IN (SELECT value FROM json_each(?))")
        given = [json.dumps(each) if isinstance(each, list) else each for each in values]
        return connection.execute(query.replace("%s", "?"), given).fetchall()

    def content(self, stored: bytes) -> bytes:
        """Return a vector's bytes, little-endian float32."""
        return stored

    def create_rows(self, to: Snapshot, table: str, dim: int) -> None:
        """Make a table of rows."""
        versions.create(to.connection, table, ROWS)

    def add_rows(self, connection: sqlite3.Connection, table: str, parts: Iterable[Rows]) -> None:
        """Add rows to a table."""
        for ids, keys, labels, digests, vectors in parts:
            contents = (row.tobytes() for row in vectors.astype("<f4", copy=False))
            _insert(connection, table, [*zip(ids, keys, labels, digests, contents, strict=True)])

    def add_vectors(self, connection: sqlite3.Connection, table: str, parts: Parts) -> None:
        """There are no tables of mapped rows."""

    def followed(self, to: Snapshot, known: Known) -> list[tuple[str, LinearMap]]:
        """Return no tables of mapped rows: an index follows when it is asked for."""
        return []

    def derived(self, snapshot: Snapshot) -> dict[tuple[int, str], Any]:
        """Return what is known to be derived: an index is looked up when it is asked for."""
        return {}

    def keep(self, to: Snapshot, needed: Collection[Key]) -> None:
        """Forget cache files but for those that are needed."""
        for number, *key in to.do(
            "SELECT number, id, side FROM caches JOIN contracts ON number = contract"
        ):
            if tuple(key) not in needed:
                to.do("DELETE FROM caches WHERE contract = %s AND side = %s", number, key[1])

    def erase(self, to: Snapshot, revision: int) -> None:
        """Delete index files of earlier states: rows that are gone may lie in them."""
        to.do("DELETE FROM caches WHERE revision < %s", revision)
        indexes.delete_unused(self, to)

    def search(self, snapshot: Snapshot, asked: Asked) -> Found:
        """Return the nearest rows of one contract, by an exact search."""
        index = indexes.index(self, snapshot, asked.known, asked.side)
        return Found(*index.search(asked.queries, asked.k), exact=True)

    def ready(self, snapshot: Snapshot, known: Known, side: LinearMap | None) -> int | None:
        """Return how many rows an index holds, in memory or in its cache file."""
        return indexes.ready(self, snapshot, known, side)

    def after_reading(self, store: "Store") -> None:
        """Write index files that are far behind."""
        if self.shared.changed:
            indexes.save(store, self, wait=False)

    def after_pruning(self, store: "Store") -> None:
        """Empty the log beside the file, in which rows that are gone may lie."""
        with store.connected() as connection:
            if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                raise GalleryError(
                    f"{self.file} is pruned, but what is gone lies in {self.file.name}-wal until "
                    "all that read it now are done; then prune again"
                )

    def prepare(
        self, store: "Store", contract: Contract, side: LinearMap | None, progress: Tick | None
    ) -> None:
        """Build an index and write its file."""
        with store.read() as snapshot:
            if known := snapshot.known(contract):
                indexes.index(self, snapshot, known, side, progress)
        indexes.save(store, self, wait=True)

    def size(self, connection: sqlite3.Connection) -> int:
        """Return the bytes of all files in the folder; another process may delete one any time."""
        size = 0
        for file in self.file.parent.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                size += file.lstat().st_size if file.is_file() else 0
        return size

    def faults(self, snapshot: Snapshot) -> list[str]:
        """Return what SQLite finds wrong with the file."""
        return [line for (line,) in snapshot.do("PRAGMA integrity_check") if line != "ok"]

    def close(self) -> None:
        """Let go of the indexes."""
        self.shared = Shared()

    @contextlib.contextmanager
    def named_errors(self) -> Iterator[None]:
        """Turn what SQLite says into a named error that says what to do."""
        try:
            yield
        except _FAULTS as error:
            raise _named(error, self.file) from error


def _insert(connection: sqlite3.Connection, table: str, rows: list[tuple[Any, ...]]) -> None:
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        places = ", ".join([f"({', '.join('?' * len(some[0]))})"] * len(some))
        connection.execute(f"INSERT INTO {table} VALUES {places}", [*chain(*some)])


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
        return GalleryError(f"{path} is damaged ({error}); restore it from a backup")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return UnavailableError(
            f"{path} is being written by another process; wait until that is done and run the same "
            "command again"
        )
    says = f"cannot be used as a gallery: {error}"
    if code == sqlite3.SQLITE_NOTADB:
        says = "is not a gallery: it is not an SQLite file"
    elif code in _UNWRITABLE and code != sqlite3.SQLITE_IOERR:
        says = (
            f"cannot be written: its disk or folder is read-only ({error}). It can be searched "
            "there; to change it, copy the folder to where you may write"
        )
    return GalleryError(f"{path} {says}")
