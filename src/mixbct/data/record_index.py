"""The index of a record file: text lines `key<TAB>offset`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from mixbct.data.tables import read_integers
from mixbct.errors import RecordError
from mixbct.files import file_written_whole

REPAIR = (
    "fetch the files again, leave such records out with --skip-bad, or delete the index (.idx): "
    "it is then rebuilt from the record file"
)


Numbers = Int64[np.ndarray, " n"] | Sequence[int]


def read_index(path: Path, skipped: list[str] | None = None) -> Int64[np.ndarray, "2 n"]:
    """Return the key of each record, ascending, and the byte that it begins at; no two alike.

    Args:
        path: of the `.idx` file.
        skipped: takes a message for what is left out: lines that are not a key and an offset, or
            share one of the two with another line.

    Raises:
        RecordError: the file cannot be read, or holds such a line, and `skipped` is not given.
    """
    try:
        table = read_integers(path, 2, "a key and an offset", RecordError, skipped)
        if not table.size:
            raise RecordError(skipped[0] if skipped else f"{path} is empty")
    except RecordError as error:
        raise RecordError(f"{error}; {REPAIR}") from error
    return in_order(path, table, REPAIR, skipped)


def write_index(path: Path, keys: Numbers, offsets: Numbers) -> None:
    """Write an index file, whole or not at all."""
    with file_written_whole(path) as file:
        np.savetxt(file, np.column_stack([keys, offsets]), "%d", "\t")


def in_order(
    path: Path, table: Int64[np.ndarray, "2 n"], advice: str, skipped: list[str] | None = None
) -> Int64[np.ndarray, "2 m"]:
    """Bring (keys, offsets) into the order of the keys; no two may share a key or an offset.

    Which of those that do is the right one nobody can tell: all of them are left out.

    Raises:
        RecordError: some do, and `skipped` is not given; it ends with `advice`.
    """
    for row, (what, other) in ((1, ("offset", "keys")), (0, ("key", "offsets"))):
        if (table[row, 1:] > table[row, :-1]).all():
            continue
        table = table[:, np.argsort(table[row], kind="stable")]
        same = table[row, 1:] == table[row, :-1]
        for place in np.flatnonzero(same).tolist():
            first, second = table[1 - row, place : place + 2].tolist()
            problem = (
                f"{path}: {what} {table[row, place]} occurs more than once "
                f"({other} {first} and {second})"
            )
            if skipped is None:
                raise RecordError(f"{problem}; {advice}", [str(table[0, place])])
            skipped.append(problem)
        table = table[:, ~(np.append(same, False) | np.append(False, same))]
    return table
