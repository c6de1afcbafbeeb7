"""Other people's vectors, read batch by batch: arrays, FAISS files, tables, feature banks."""

import os
from pathlib import Path

from mixbct.data.postgresql import is_url
from mixbct.errors import DataError
from mixbct.gallery.foreign.arrays import open_arrays, open_bank
from mixbct.gallery.foreign.index_file import open_index
from mixbct.gallery.foreign.postgres import open_postgres
from mixbct.gallery.foreign.presets import PRESETS
from mixbct.gallery.foreign.rows import UNDECLARED, ForeignRows, VectorSource
from mixbct.gallery.foreign.sqlite import open_sqlite
from mixbct.gallery.foreign.tables import Catalogue, Columns, Relation, relation_of
from mixbct.reading import file_size

__all__ = ["UNDECLARED", "Columns", "ForeignRows", "VectorSource", "open_source"]

_SQLITE = b"SQLite format 3\0"
_KINDS = {
    "postgres": "a PostgreSQL database",
    "sqlite": "an SQLite file",
    "bank": "a folder, which is read as a feature bank",
    "array": "a NumPy file",
    "index": "read as a FAISS index, since it is nothing else that is known",
}


def open_source(
    source: str,
    contract: str | None = None,
    columns: Columns | None = None,
    preset: str | None = None,
    keys: str | None = None,
    labels: str | None = None,
) -> VectorSource:
    """Open what a person points at.

    Args:
        source: the URL of a PostgreSQL server, or the path of a feature bank, a .npy or .npz
            file, an SQLite file, or a FAISS index.
        contract: the declared name of the vectors' model, or which of the models of a source that
            names them.
        columns: of a table.
        preset: the product whose tables they are.
        keys: where keys of a file without them stand; see each reader.
        labels: the same for labels.

    Raises:
        DataError: what was given does not go with such a source, or is not there.
        MixbctError: the source is damaged, cannot be reached, or is none; see each reader.
    """
    named = columns or Columns()
    if preset is not None and preset not in PRESETS:
        raise DataError(f"there is no preset {preset!r}; choose from {', '.join(PRESETS)}")
    kind = _kind_of(source)
    for option, given, fits in (
        (f"--preset {preset}", preset, preset and PRESETS[preset][0] == kind),
        ("--table and the names of columns", any(named), kind in ("postgres", "sqlite")),
        ("--keys and --labels", keys or labels, kind in ("array", "index")),
    ):
        if given and not fits:
            raise DataError(f"{option} cannot be used here: the source is {_KINDS[kind]}")
    if kind == "bank":
        return open_bank(Path(source), contract)
    if kind == "array":
        return open_arrays(Path(source), contract, keys, labels)
    if kind == "index":
        return open_index(Path(source), contract, keys, labels)

    def find(catalogue: Catalogue) -> Relation:
        if preset is None:
            return relation_of(named, catalogue)
        return PRESETS[preset][1](catalogue, named.table)

    if kind == "postgres":
        return open_postgres(source, find, contract)
    return open_sqlite(Path(source), find, contract)


def _kind_of(source: str) -> str:
    if is_url(source):
        return "postgres"
    path = Path(source)
    if os.path.isdir(path):  # noqa: PTH112 - the method raises where a name is too long
        return "bank"
    if path.suffix.lower() in (".npy", ".npz"):
        return "array"
    file_size(path, "source of vectors", DataError)
    with path.open("rb") as file:
        return "sqlite" if file.read(len(_SQLITE)) == _SQLITE else "index"
