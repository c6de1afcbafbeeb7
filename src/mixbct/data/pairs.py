"""Verification sets: images, and pairs of them that show one person or two."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from mixbct.data.folder import FolderSource
from mixbct.data.source import Source
from mixbct.errors import DataError
from mixbct.reading import read_lines_of, wrong_line
from mixbct.schemas.model import Preprocessing


@dataclass(frozen=True)
class PairSet:
    """Pairs over a source.

    Attributes:
        images: what the pairs are made of.
        pairs: [P, 2] rows of `images`.
        same: [P] whether both show one person.
        folds: [P] which fold a pair belongs to, from 0; None where the set does not say.
    """

    images: Source
    pairs: Int64[np.ndarray, "p 2"]
    same: Bool[np.ndarray, " p"]
    folds: Int64[np.ndarray, " p"] | None


def read_pairs_text(path: Path, images: Path, preprocessing: Preprocessing) -> PairSet:
    """Read a list of pairs as LFW's `pairs.txt` has it.

    The first line says how many folds there are and how many pairs n (`10 300`; one number alone
    is n, of one fold). In each fold n lines `name i j` (one person) are followed by n lines
    `name i name j` (two).

    Args:
        path: of the list.
        images: a folder of class folders with `name/name_0001.jpg` (or another image suffix).
        preprocessing: the size and number of channels that images are brought to.

    Raises:
        DataError: the list cannot be read, a line is not as it should be, or an image is missing;
            it names the line.
    """
    lines = read_lines_of(path, "list of pairs")
    folds, count = _header(path, lines)
    source = FolderSource(images, preprocessing)
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(source.keys()):
        rows.setdefault(key.rpartition(".")[0], []).append(row)

    def row_of(name: str, number: str, line: int) -> int:
        found = rows.get(f"{name}/{name}_{number.zfill(4)}", [])
        if len(found) != 1:
            keys = ", ".join(source.keys()[row] for row in found) or "none"
            raise DataError(
                f"{path}, line {line}: expected one image {number} of {name} in {images}, found "
                f"{keys}"
            )
        return found[0]

    pairs = np.empty((len(lines) - 1, 2), np.int64)
    genuine = np.arange(len(pairs)) // count % 2 == 0
    for place, line in enumerate(lines[1:]):
        # a name may hold blanks of other kinds, or, between tabs, any
        words = [w for w in map(str.strip, line.split("\t" if "\t" in line else " ")) if w]
        if len(words) != (3 if genuine[place] else 4):
            form = "`name i j`" if genuine[place] else "`name i name j`"
            raise DataError(wrong_line(path, place + 2, form, line))
        pairs[place] = (
            row_of(words[0], words[1], place + 2),
            row_of(words[0 if genuine[place] else 2], words[-1], place + 2),
        )
    return PairSet(source, pairs, genuine, np.repeat(np.arange(folds), 2 * count))


def _header(path: Path, lines: list[str]) -> tuple[int, int]:
    words = lines[0].split() if lines else []
    if len(words) not in (1, 2) or not all(w.isdecimal() and 1 <= len(w) <= 9 for w in words):
        expected = "the numbers of folds and of pairs, as `10 300`"
        raise DataError(wrong_line(path, 1, expected, " ".join(words)))
    folds, count = (1, *map(int, words))[-2:]
    if not count or len(lines) - 1 != 2 * folds * count:
        raise DataError(
            f"{path}: {len(lines) - 1} lines of pairs; line 1 says {folds} × 2 × {count}"
        )
    return folds, count
