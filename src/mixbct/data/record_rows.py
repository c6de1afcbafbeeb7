"""What opening a record file found, kept, so that the next opening looks at no record.

    .STEM.rows.npy    int64 [3, n]: key, offset and label of every image
    .STEM.rows.json   the classes' numbers, the array's SHA-256, and what both were made of

They lie beside the record file or, where nothing can be written, in the user's cache. What they
were made of are the sizes and times of the record file and its index; among the times is that of
the last change of any kind, which no program sets back. Whatever does not fit is made anew.
"""

import contextlib
import hashlib
import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from mixbct.errors import DataError, MixbctError
from mixbct.files import file_written_whole, sha256_file, user_cache, write_atomically
from mixbct.reading import open_array
from mixbct.schemas.data import FileState, RecordRowsManifest
from mixbct.schemas.record import record_there

SETTLED = 2.0
"""Seconds without a change, after which another change is sure to have another time."""


class RecordRows(NamedTuple):
    """The images of a record file: key, offset and label of each, and the labels' numbers."""

    table: Int64[np.ndarray, "3 n"]
    classes: Int64[np.ndarray, " c"]


def files_state(records: Path) -> tuple[FileState | None, ...]:
    """Return what tells the record file and its index from what they were before."""
    return tuple(map(_state, (records, records.with_suffix(".idx"))))


def kept_rows(records: Path, state: tuple[FileState | None, ...]) -> RecordRows | None:
    """Return what was kept of files in this state, memory-mapped; None: nothing, or not sound."""
    for array, said in _places(records):
        try:
            found = record_there(said, RecordRowsManifest, DataError, "list of rows")
            if found is None or found.made_of != state:
                continue
            table = open_array(array, "rows", DataError, ["int64"], ndim=2)
            if len(table) == 3 and sha256_file(array) == found.sha256:
                return RecordRows(np.asarray(table), np.array(found.classes, np.int64))
        except (MixbctError, OSError):
            continue
    return None


def keep_rows(records: Path, state: tuple[FileState | None, ...], rows: RecordRows) -> None:
    """Keep what was found of files that were in this state before anyone looked at them."""
    newest = max(each.changed for each in state if each is not None)
    if time.time() - newest / 1e9 < SETTLED:
        return
    classes = tuple(rows.classes.tolist())
    for array, said in _places(records):
        # a full disk is no error here: it will do without
        with contextlib.suppress(MixbctError, OSError):
            with file_written_whole(array) as file:
                np.save(file, rows.table)
            digest = sha256_file(array)
            manifest = RecordRowsManifest(made_of=state, classes=classes, sha256=digest)
            write_atomically(said, manifest.to_json())
            return


def _state(path: Path) -> FileState | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return FileState(size=found.st_size, written=found.st_mtime_ns, changed=found.st_ctime_ns)


def _places(records: Path) -> list[tuple[Path, Path]]:
    """Return the two files that rows may be kept in: beside the records, and apart."""
    whole = hashlib.sha256(os.fsencode(records.absolute())).hexdigest()
    places = records.with_name(f".{records.stem}.rows"), user_cache() / "records" / whole[:32]
    return [(Path(f"{place}.npy"), Path(f"{place}.json")) for place in places]
