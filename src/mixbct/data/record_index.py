"""The index of a record file: text lines `key<TAB>offset`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

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


class RecordIndex(NamedTuple):
    """Where each record begins.

    Attributes:
        keys: [n] ascending, no two alike.
        offsets: [n] in bytes from the beginning of the record file, no two alike.
        problems: what was left out, a line each; empty unless `skip_bad` was given.
    """

    keys: Int64[np.ndarray, " n"]
    offsets: Int64[np.ndarray, " n"]
    problems: list[str]


def read_index(path: Path, skip_bad: bool = False) -> RecordIndex:
    """Read an index file in blocks; memory is 16 bytes a record and a few blocks.

    Args:
        path: of the `.idx` file.
        skip_bad: leave out lines that are not a key and an offset, or share one of the two with
            another line, and list them in `problems`.

    Raises:
        RecordError: the file cannot be read, or holds such a line, and `skip_bad` is not given.
    """
    problems: list[str] = []
    try:
        table = read_integers(
            path, 2, "a key and an offset", RecordError, problems if skip_bad else None
        )
        if not table.size:
            raise RecordError(problems[0] if problems else f"{path} is empty")
    except RecordError as error:
        raise RecordError(f"{error}; {REPAIR}") from error
    return in_order(path, table, problems, skip_bad, REPAIR)


def write_index(path: Path, keys: Numbers, offsets: Numbers) -> None:
    """Write an index file, whole or not at all."""
    with file_written_whole(path) as file:
        np.savetxt(file, np.column_stack([keys, offsets]), "%d", "\t")


def in_order(
    path: Path, table: Int64[np.ndarray, "2 n"], problems: list[str], skip_bad: bool, advice: str
) -> RecordIndex:
    """Bring (keys, offsets) into the order of the keys; no two may share a key or an offset.

    Which of those that do is the right one nobody can tell: all of them are left out.

    Raises:
        RecordError: some do, and `skip_bad` is not given; it ends with `advice`.
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
            if not skip_bad:
                raise RecordError(f"{problem}; {advice}", [str(table[0, place])])
            problems.append(problem)
        table = table[:, ~(np.append(same, False) | np.append(False, same))]
    return RecordIndex(table[0], table[1], problems)
