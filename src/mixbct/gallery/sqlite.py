"""The embedded store: rows in one SQLite file, the source of truth, and FAISS beside it.

Write-ahead logging: readers go on while one process writes, and a process that is killed leaves
the last committed state. Vectors are little-endian float32, L2-normalised. Every row has a
checksum, which is looked at whenever the row is read.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from mixbct.errors import GalleryError, MixbctError, NoGalleryError
from mixbct.files import disk_full_as_error, file_written_whole
from mixbct.gallery import database
from mixbct.gallery.records import QueryModel, Switch
from mixbct.gallery.sqlite_shared import Held, Key, Shared, file_name
from mixbct.gallery.sqlite_snapshot import SqliteSnapshot
from mixbct.gallery.sqlite_transaction import SqliteTransaction
from mixbct.gallery.store import Tick, closed_on_error
from mixbct.reading import reason, shown
from mixbct.schemas.contract import Contract
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.record import now

DATABASE = "gallery.sqlite"
# A cache file is written again when more than this part of it is out of date, and so many rows: to
# write a large file for a few rows costs more than to add these again at the next start, and a few
# thousand rows are read from the store as fast.
_STALE_PART = 1 / 8
_STALE_ROWS = 2000


class SqliteStore:
    """See `store.Store`. It is made by `create` or `open`.

    Args:
        folder: of the file, and of the cache files of the search indexes.
        timeout: seconds to wait for another process that is writing.
    """

    def __init__(self, folder: Path, timeout: float = 30.0) -> None:
        self.path = folder / DATABASE
        self._timeout = timeout
        self._lock = threading.Lock()
        self._closed = False
        connection, frozen = database.connect(self.path, timeout)
        self._idle = [connection]
        self._frozen = self.path.stat().st_mtime_ns if frozen else None
        self._shared = Shared.of(self.path)

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.path.parent)

    @classmethod
    def create(cls, place: Path | str, model: QueryModel) -> "SqliteStore":
        """Make an empty store, also of what an interrupted `create` left behind.

        Raises:
            GalleryError: there is something else already, or no folder can be made.
        """
        folder = Path(place)
        try:
            if folder.exists() and not folder.is_dir():
                raise GalleryError(f"{folder} is a file; name a folder for the gallery")
            with disk_full_as_error(folder):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / DATABASE).touch()
            store = cls(folder)
        except (OSError, ValueError) as problem:
            raise GalleryError(
                f"a gallery cannot be made at {shown(folder)}: {reason(problem)}"
            ) from problem
        with closed_on_error(store):
            with store._connection() as connection, database.named_errors(store.path):
                if database.schema_of(connection):
                    raise GalleryError(
                        f"{store.path} is already there; open it, or choose another place"
                    )
                # a row of 512 dimensions takes 2.1 kB: pages of 4 kB would be half empty
                connection.execute("PRAGMA page_size = 8192")
                connection.execute("PRAGMA journal_mode = WAL")
            with store.write() as transaction:
                database.bring_up_to_date(transaction.connection, 0)
                transaction.switch(Switch(1, model, now(), None))
            return store

    @classmethod
    def open(cls, place: Path | str, timeout: float = 30.0) -> "SqliteStore":
        """Open a store; one of an earlier version is brought up to date.

        Raises:
            NoGalleryError: it is missing.
            GalleryError: it is unfinished, of a later version, or not all mixbct's.
        """
        folder = Path(place)
        path = folder / DATABASE
        if not os.path.isfile(path):  # noqa: PTH113 - the method raises where a name is too long
            raise NoGalleryError(
                f"there is no gallery at {shown(path)}; make one with "
                f"`mixbct gallery init {shown(folder)} --model OLD_MODEL`"
            )
        store = cls(folder, timeout)
        with closed_on_error(store):
            with store.read() as snapshot:
                version = database.checked_version(snapshot.connection, path)
            if version < database.SCHEMA and store._frozen is not None:
                raise GalleryError(
                    f"{path} is of an earlier version, and its disk or folder cannot be written: "
                    "open it once where it can, so that it is brought up to date"
                )
            if version < database.SCHEMA:
                with store.write() as transaction:
                    database.bring_up_to_date(
                        transaction.connection,
                        database.checked_version(transaction.connection, path),
                    )
            return store

    @contextlib.contextmanager
    def read(self) -> Iterator[SqliteSnapshot]:
        """Enclose reads of one state. Index files that are far behind are then written."""
        if self._frozen is not None and self._frozen != self.path.stat().st_mtime_ns:
            raise GalleryError(f"{self.path} was changed since it was opened; open it again")
        with self._connection() as connection:
            snapshot = SqliteSnapshot(connection, self.path, self._shared)
            with self._transaction(snapshot, "BEGIN"):
                yield snapshot
        if self._shared.changed:
            self._save(wait=False)

    @contextlib.contextmanager
    def write(self, wait: bool = True) -> Iterator[SqliteTransaction]:
        """Enclose changes that happen whole or not at all."""
        with self._connection() as connection:
            transaction = SqliteTransaction(connection, self.path, self._shared)
            with self._transaction(transaction, "BEGIN IMMEDIATE", wait):
                yield transaction

    @contextlib.contextmanager
    def _transaction(
        self, snapshot: SqliteSnapshot, begin: str, wait: bool = True
    ) -> Iterator[None]:
        connection = snapshot.connection
        with database.named_errors(self.path):
            connection.execute(f"PRAGMA busy_timeout = {int(1000 * self._timeout * wait)}")
            connection.execute(begin)
            try:
                yield
                snapshot.end()
                connection.execute("COMMIT")
            except BaseException:
                snapshot.end()
                if connection.in_transaction:  # a full disk has rolled back already
                    connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection that nobody else uses."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection, _ = database.connect(self.path, self._timeout)
        try:
            yield connection
        finally:
            with self._lock:
                self._idle.append(connection)
            if self._closed:
                self.close()

    def close(self) -> None:
        """Close the file, and what others use as soon as they have done."""
        with self._lock:
            self._closed, self._shared = True, Shared()
            while self._idle:
                self._idle.pop().close()

    def prepare(
        self, contract: Contract, side: LinearMap | None = None, progress: Tick | None = None
    ) -> None:
        """Build an index and write its file."""
        with self.read() as snapshot:
            snapshot.index(contract, side, progress)
        self._save(wait=True)

    def size(self) -> int:
        """Return the bytes of all files in the folder; another process may delete one any time."""
        size = 0
        for file in self.path.parent.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                size += file.lstat().st_size if file.is_file() else 0
        return size

    def _save(self, wait: bool) -> None:
        """Write the cache files that are far behind their indexes, and delete those of no use.

        Where the folder cannot be written, or another process is writing, the next start takes
        longer: nothing is lost.
        """
        shared = self._shared
        if not shared.saving.acquire(blocking=wait):
            return
        try:
            shared.changed = False  # or tried: the next change of the gallery tries again
            with contextlib.suppress(OSError, MixbctError):
                for key, held in shared.held.items():
                    rows = len(held.index)
                    if rows and held.unsaved >= max(_STALE_ROWS, _STALE_PART * rows):
                        self._save_index(key, held, wait)
                if paths := list(self.path.parent.glob("index-*")):
                    with self.write(wait) as transaction:
                        used = transaction.cache_names()
                        for path in paths:
                            if path.name not in used:
                                path.unlink()
        finally:
            shared.saving.release()

    def _save_index(self, key: Key, held: Held, wait: bool) -> None:
        with contextlib.ExitStack() as whole:
            file = whole.enter_context(file_written_whole(self.path.with_name(file_name(key))))
            sha256 = held.index.write(file)
            with self.write(wait) as transaction:
                transaction.set_cache(key, len(held.index), sha256, held.state)
                whole.close()  # here it gets its name
        self._shared.saved(key, held)
