"""Where a gallery is kept: a folder has an SQLite file, a URL is of what its scheme says."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from mixbct.errors import GalleryError
from mixbct.gallery.records import QueryModel
from mixbct.gallery.sqlite import Sqlite
from mixbct.gallery.store import Store

SCHEMES: dict[str, str] = dict.fromkeys(
    ("postgresql", "postgres"), "mixbct.gallery.postgres:Postgres"
)
"""Of URLs → module:class of a database, imported when it is asked for."""


def create_store(place: Path | str, model: QueryModel) -> Store:
    """Make an empty store; see `Store.create`."""
    return Store.create(_database(place), model)


def open_store(place: Path | str, timeout: float = 30.0) -> Store:
    """Open a store; see `Store.open`.

    Args:
        place: a folder, or a URL.
        timeout: seconds to wait for another one that is writing.
    """
    return Store.open(_database(place, timeout))


def _database(place: Path | str, timeout: float = 30.0) -> Any:
    found = re.match(r"([a-z][a-z0-9+.-]*)://", place) if isinstance(place, str) else None
    if found is None:
        return Sqlite(place, timeout)
    if found[1] not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES) or "none yet"
        raise GalleryError(f"{found[0]}… names no store: give a folder, or a URL ({known})")
    module, _, name = SCHEMES[found[1]].partition(":")
    return getattr(import_module(module), name)(place, timeout)
