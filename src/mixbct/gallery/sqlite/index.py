"""Rows of one contract, ready to be searched: immutable, in segments that versions share.

Scores are inner products of unit vectors, so cosines, by FAISS's exact search. A version that
differs by a few rows has a few segments of its own, so that to follow one changed row costs one
segment, not all rows; whoever searches an earlier version goes on undisturbed.

A cache file is the ids (int64) and then the vectors (float32), little-endian and nothing else: how
many there are and their SHA-256 stand in the store. So a file that was cut, changed or made
elsewhere does not count, and nothing in it is ever parsed.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import faiss
import numpy as np
from jaxtyping import Float32, Int64

from mixbct.gallery.ranking import best_of
from mixbct.gallery.records import Ids

SEGMENT = 32_768
"""Rows of a segment, about: 16 MiB of 128 dimensions, copied in some milliseconds."""


class Segment(NamedTuple):
    """Some rows, by ascending id."""

    ids: Ids
    vectors: Float32[np.ndarray, "n d"]


@dataclass(frozen=True)
class RowIndex:
    """Segments of rows, all ids ascending.

    Attributes:
        segments: none of them empty.
        last: the highest id that was ever added.
    """

    segments: tuple[Segment, ...] = ()
    last: int = 0

    def __len__(self) -> int:
        return sum(len(segment.ids) for segment in self.segments)

    def with_rows(self, blocks: Iterable[tuple[Int64[np.ndarray, " _"], np.ndarray]]) -> "RowIndex":
        """Return the index with more rows, all of ids above `last`."""
        segments, waiting = list(self.segments), list[Segment]()
        if segments and len(segments[-1].ids) < SEGMENT:
            waiting.append(segments.pop())
        for block in blocks:
            waiting.append(Segment(*block))
            if sum(len(segment.ids) for segment in waiting) >= SEGMENT:
                segments.append(_joined(waiting))
                waiting = []
        if waiting:
            segments.append(_joined(waiting))
        last = int(segments[-1].ids[-1]) if segments else 0
        return RowIndex(tuple(segments), max(last, self.last))

    def without(self, gone: Ids) -> "RowIndex":
        """Return the index without the rows of these ids, ascending; it need not have them all."""
        segments: list[Segment] = []
        for segment in self.segments:
            first, end = np.searchsorted(gone, (segment.ids[0], segment.ids[-1] + 1))
            if first < end:
                kept = np.isin(segment.ids, gone[first:end], invert=True)
                segment = Segment(segment.ids[kept], segment.vectors[kept])
            if segments and len(segments[-1].ids) + len(segment.ids) <= SEGMENT:
                segments[-1] = _joined([segments[-1], segment])
            elif len(segment.ids):
                segments.append(segment)
        return RowIndex(tuple(segments), self.last)

    def search(
        self, queries: Float32[np.ndarray, "q d"], k: int
    ) -> tuple[Float32[np.ndarray, "q k"], Int64[np.ndarray, "q k"]]:
        """Return the scores and ids of the nearest rows, best first."""
        scores = [np.empty((len(queries), 0), np.float32)]
        ids = [np.empty((len(queries), 0), np.int64)]
        for segment in self.segments:
            most = min(k, len(segment.ids))
            found, places = faiss.knn(queries, segment.vectors, most, faiss.METRIC_INNER_PRODUCT)
            scores.append(found)
            ids.append(segment.ids[places])
        return best_of(scores, ids, k)

    def write(self, file: BinaryIO) -> str:
        """Write a cache file; return its SHA-256."""
        digest = hashlib.sha256()
        ids, vectors = zip(*self.segments, strict=True)
        for parts, kind in ((ids, "<i8"), (vectors, "<f4")):
            for part in parts:
                content = np.ascontiguousarray(part, kind).data
                digest.update(content)
                file.write(content)
        return digest.hexdigest()


def read_index(path: Path, rows: int, dim: int, sha256: str) -> RowIndex | None:
    """Read a cache file; None where it is missing, or another than the one that is told of."""
    digest, parts = hashlib.sha256(), []
    try:
        if not rows or not path.is_file():
            return None
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != rows * (8 + 4 * dim):
                return None
            ids = np.fromfile(file, "<i8", rows)
            digest.update(ids.data)
            for start in range(0, rows, SEGMENT):
                size = min(SEGMENT, rows - start)
                vectors = np.fromfile(file, "<f4", size * dim).reshape(size, dim)
                digest.update(vectors.data)
                parts.append((ids[start : start + size].astype(np.int64), vectors.astype("=f4")))
    except (OSError, ValueError):
        return None
    return RowIndex().with_rows(parts) if digest.hexdigest() == sha256 else None


def _joined(segments: Sequence[Segment]) -> Segment:
    if len(segments) == 1:
        return segments[0]
    ids, vectors = zip(*segments, strict=True)
    return Segment(np.concatenate(ids), np.concatenate(vectors))
