"""Which store keeps a gallery: a folder has the embedded one, a URL what its scheme says."""

import re
from importlib import import_module
from pathlib import Path
from typing import Protocol, runtime_checkable

from mixbct.errors import GalleryError
from mixbct.gallery.records import QueryModel
from mixbct.gallery.sqlite import SqliteStore
from mixbct.gallery.store import Store

SCHEMES: dict[str, str] = dict.fromkeys(
    ("postgresql", "postgres"), "mixbct.gallery.postgres:PostgresStore"
)
"""Of URLs → module:class, imported when it is asked for."""


@runtime_checkable
class Opens(Protocol):
    """What a store's class can do: `place` is a URL."""

    def create(self, place: str, model: QueryModel) -> Store:
        """Make an empty store, with the model as its first switch."""
        ...

    def open(self, place: str) -> Store:
        """Open a store."""
        ...


def create_store(place: Path | str, model: QueryModel) -> Store:
    """Make an empty store; see the stores' `create`."""
    remote = _remote(place)
    return remote.create(str(place), model) if remote else SqliteStore.create(Path(place), model)


def open_store(place: Path | str) -> Store:
    """Open a store; see the stores' `open`."""
    remote = _remote(place)
    return remote.open(str(place)) if remote else SqliteStore.open(Path(place))


def _remote(place: Path | str) -> Opens | None:
    found = re.match(r"([a-z][a-z0-9+.-]*)://", place) if isinstance(place, str) else None
    if found is None:
        return None
    if found[1] not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES) or "none yet"
        raise GalleryError(f"{found[0]}… names no store: give a folder, or a URL ({known})")
    module, _, name = SCHEMES[found[1]].partition(":")
    opens: Opens = getattr(import_module(module), name)
    return opens
