"""What all open stores of one SQLite gallery share in this process: its indexes, in memory.

What is held is immutable and swapped whole, so that no search waits for another that has to follow
a change. A snapshot takes hold of what there is before it begins: that shows its state or an
earlier one, and is followed from there.
"""

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakValueDictionary

from mixbct.gallery.facts import State
from mixbct.gallery.sqlite.index import RowIndex
from mixbct.schemas.contract import Contract
from mixbct.schemas.linear_map import LinearMap

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
    """See above; `of` gives that of a file."""

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
