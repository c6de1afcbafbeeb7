"""Which store keeps a gallery: a folder has the embedded one, a URL what its scheme says."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from mixbct.errors import GalleryError
from mixbct.gallery.records import QueryModel
from mixbct.gallery.sqlite import SqliteStore
from mixbct.gallery.store import Store

SCHEMES: dict[str, str] = dict.fromkeys(
    ("postgresql", "postgres"), "mixbct.gallery.postgres:PostgresStore"
)
"""Of URLs → module:class, imported when it is asked for."""


def create_store(place: Path | str, model: QueryModel) -> Store:
    """Make an empty store; see the stores' `create`."""
    made: Store = _kind_of(place).create(place, model)
    return made


def open_store(place: Path | str) -> Store:
    """Open a store; see the stores' `open`."""
    opened: Store = _kind_of(place).open(place)
    return opened


def _kind_of(place: Path | str) -> Any:
    """Return the class of a store, which has `create(place, model)` and `open(place)`."""
    found = re.match(r"([a-z][a-z0-9+.-]*)://", place) if isinstance(place, str) else None
    if found is None:
        return SqliteStore
    if found[1] not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES) or "none yet"
        raise GalleryError(f"{found[0]}… names no store: give a folder, or a URL ({known})")
    module, _, name = SCHEMES[found[1]].partition(":")
    return getattr(import_module(module), name)
