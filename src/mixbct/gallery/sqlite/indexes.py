"""The FAISS indexes of a gallery in SQLite: followed from state to state, kept in cache files.

All open stores of one gallery share them in this process. What is held is immutable and swapped
whole, so that no search waits for another that has to follow a change. A snapshot takes hold of
what there is before it begins: that shows its state or an earlier one, and is followed from there.
"""

import contextlib
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

import numpy as np

from mixbct.data.source import unseen
from mixbct.errors import GalleryError, MixbctError
from mixbct.features.bridged import through
from mixbct.files import file_written_whole, sweep
from mixbct.gallery.facts import Known, State
from mixbct.gallery.records import Ids, Tick
from mixbct.gallery.snapshot import Snapshot
from mixbct.gallery.sqlite.index import RowIndex, read_index
from mixbct.gallery.transaction import needed_by
from mixbct.schemas.contract import Contract
from mixbct.schemas.linear_map import LinearMap

if TYPE_CHECKING:
    from mixbct.gallery.sqlite.database import Sqlite
    from mixbct.gallery.store import Store

# A cache file is written again when more than this part of it is out of date, and so many rows: to
# write a large file for a few rows costs more than to add these again at the next start, and a few
# thousand rows are read from the store as fast.
_STALE_PART: Final = 1 / 8
_STALE_ROWS = 2000
# its name, those of earlier versions, and what a killed writer leaves
_FILE: Final = re.compile(
    r"(index-[0-9a-f]{16}(-[0-9a-f]{16})?\.(rows|cache))|\.(index-.*\.rows)\.[0-9a-f]+\.partial"
)
Key = tuple[str, str]
"""Of an index: the contract's id, and the digest of the map that its rows go through, or ''."""


def key_of(contract: Contract, side: LinearMap | None) -> Key:
    """Return the name of an index."""
    return contract.id, side.digest if side else ""


def file_name(key: Key) -> str:
    """Return the name of an index's cache file."""
    return f"index-{key[0]}{key[1] and '-'}{key[1][:16]}.rows"


@dataclass(frozen=True)
class Held:
    """An index, the state that it shows, and how many rows its cache file is behind."""

    index: RowIndex
    state: State
    unsaved: int = 0


class Shared:
    """What all open stores of one gallery share; `of` gives that of a file."""

    def __init__(self) -> None:
        self.held: Mapping[Key, Held] = {}
        self.changed = False
        """Whether an index was swapped since the cache files were looked at."""
        self.saving = threading.Lock()
        self._switch = 0
        self._locks: dict[Key, threading.Lock] = {}
        self._swapping = threading.Lock()

    @staticmethod
    def of(path: Path) -> "Shared":
        """Return what the open stores of `path` share."""
        stat = path.stat()
        with _REGISTERING:
            return _SHARED.setdefault((stat.st_dev, stat.st_ino), Shared())

    def following(self, key: Key) -> threading.Lock:
        """Return the lock of whoever builds or follows an index, so that one thread does it."""
        with self._swapping:
            return self._locks.setdefault(key, threading.Lock())

    def swap(self, key: Key, held: Held, switch: int, needed: Collection[Key]) -> None:
        """Hold another index; with the first one after a switch, what that needs not goes."""
        with self._swapping:
            rest = self.held
            if switch > self._switch:
                rest = {name: each for name, each in rest.items() if name in needed}
            self._switch = max(switch, self._switch)
            self.held, self.changed = {**rest, key: held}, True

    def saved(self, key: Key, held: Held) -> None:
        """Note that an index has its cache file, if it is the one that is held still."""
        with self._swapping:
            if self.held.get(key) is held:
                self.held = {**self.held, key: replace(held, unsaved=0)}


_SHARED: WeakValueDictionary[tuple[int, int], Shared] = WeakValueDictionary()
_REGISTERING = threading.Lock()


def index(
    database: "Sqlite",
    snapshot: Snapshot,
    known: Known,
    side: LinearMap | None,
    progress: Tick | None = None,
) -> RowIndex:
    """Return the index of a contract's rows in this state; `progress` counts what it adds."""
    shared, state = database.shared, snapshot.facts.state
    key = key_of(known.contract, side)
    held: Held | None = snapshot.held.get(key)
    if held is not None and held.state == state:
        return held.index
    with shared.following(key):
        newest = shared.held.get(key)
        if newest is not None and newest.state == state:
            return newest.index
        earlier = (each for each in (newest, held) if each and _knows(snapshot, each.state))
        start = next(earlier, None) or _loaded(database, snapshot, known, side)
        followed = _followed(snapshot, known, side, start, progress or unseen)
        # what another thread has followed further, stays
        if snapshot.revision is None and not (newest and newest.state.revision > state.revision):
            present = snapshot.switches()[-1]
            needed = needed_by([present.model.contract], snapshot.edges())
            shared.swap(key, followed, present.number, needed)
    return followed.index


def _followed(
    snapshot: Snapshot, known: Known, side: LinearMap | None, start: Held | None, progress: Tick
) -> Held:
    state, rows = snapshot.facts.state, known.rows

    def added(after: int, before: int) -> Iterator[tuple[Ids, np.ndarray]]:
        done = 0
        for block in snapshot.blocks(known.contract, after):
            yield block.ids, through(side, block.vectors)
            done += len(block.ids)
            progress(done, max(rows - before, done))

    if start is not None:
        ended = "SELECT id FROM past WHERE until > %s AND contract = %s ORDER BY id"
        gone = [id for (id,) in snapshot.do(ended, start.state.revision, known.number)]
        left = start.index.without(np.array(gone, np.int64))
        index = left.with_rows(added(left.last, len(left)))
        if len(index) == rows:
            return Held(index, state, start.unsaved + len(gone) + len(index) - len(left))
    index = RowIndex().with_rows(added(0, 0))
    if len(index) != rows:
        told = f"{rows:,} rows of {known.contract} are told of, {len(index):,} are there"
        raise snapshot.damaged(told)
    return Held(index, state, len(index))


def _knows(snapshot: Snapshot, state: State) -> bool:
    asked = "SELECT 1 FROM changes WHERE revision = %s AND token = %s"
    return bool(snapshot.do(asked, *state))


def _loaded(
    database: "Sqlite", snapshot: Snapshot, known: Known, side: LinearMap | None
) -> Held | None:
    dim = side.target_dim if side else known.contract.dim
    if (cache := _cache(snapshot, known, side)) is None:
        return None
    path = database.file.with_name(file_name(key_of(known.contract, side)))
    index = read_index(path, cache[0], dim, cache[1])
    return None if index is None else Held(index, State(*cache[2:]))


def _cache(
    snapshot: Snapshot, known: Known, side: LinearMap | None
) -> tuple[int, str, int, str] | None:
    """Return rows, SHA-256 and state of a cache file of a state that is known."""
    found = snapshot.do(
        "SELECT rows, sha256, revision, token FROM caches JOIN changes USING (revision, token) "
        "WHERE contract = %s AND side = %s",
        *(known.number, side.digest if side else ""),
    )
    return found[0] if found else None


def ready(
    database: "Sqlite", snapshot: Snapshot, known: Known, side: LinearMap | None
) -> int | None:
    """Return how many rows an index holds, in memory or in its cache file."""
    key = key_of(known.contract, side)
    if (held := snapshot.held.get(key)) and _knows(snapshot, held.state):
        return len(held.index)
    cache = _cache(snapshot, known, side)
    return cache[0] if cache and database.file.with_name(file_name(key)).is_file() else None


def save(store: "Store", database: "Sqlite", wait: bool) -> None:
    """Write the cache files that are far behind their indexes, and delete those of no use.

    Where the folder cannot be written, or another process is writing, the next start takes
    longer: nothing is lost.
    """
    shared, folder = database.shared, database.file.parent
    if not shared.saving.acquire(blocking=wait):
        return
    try:
        shared.changed = False  # or tried: the next change of the gallery tries again
        with contextlib.suppress(OSError, MixbctError):
            for key, held in shared.held.items():
                rows = len(held.index)
                if rows and held.unsaved >= max(_STALE_ROWS, _STALE_PART * rows):
                    _save_index(store, database, key, held, wait)
            if any(folder.glob("index-*")):
                with store.write(wait) as transaction:
                    empty = "SELECT number FROM contracts WHERE rows = 0"
                    transaction.do(f"DELETE FROM caches WHERE contract IN ({empty})")
                    delete_unused(database, transaction)
    finally:
        shared.saving.release()


def delete_unused(database: "Sqlite", snapshot: Snapshot) -> None:
    """Delete the index files that nothing is told of."""
    told = "SELECT id, side FROM caches JOIN contracts ON number = contract"
    used = {file_name((id, side)) for id, side in snapshot.do(told)}
    for path in [*database.file.parent.iterdir()]:
        if (name := _FILE.fullmatch(path.name)) and name[4]:
            sweep(path.with_name(name[4]))
        elif name and path.name not in used and path.is_file():
            path.unlink(missing_ok=True)


def _save_index(store: "Store", database: "Sqlite", key: Key, held: Held, wait: bool) -> None:
    with contextlib.ExitStack() as whole:
        file = whole.enter_context(file_written_whole(database.file.with_name(file_name(key))))
        row = key[1], len(held.index), held.index.write(file), *held.state
        with store.write(wait) as transaction:
            known = transaction.facts.contracts.get(key[0])
            if known is None or not _knows(transaction, held.state):  # it was pruned, or restored
                raise GalleryError("the index is of another history")
            transaction.do(
                "INSERT OR REPLACE INTO caches VALUES (%s, %s, %s, %s, %s, %s)", known.number, *row
            )
            whole.close()  # here it gets its name
    database.shared.saved(key, held)
