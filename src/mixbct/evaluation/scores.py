"""Cosine scores of every query against every gallery item, a block of queries at a time.

Nothing here or above it holds all N × M scores: a block's rows are as many as fit the budget.
A gallery may stand in parts, each of which is searched with queries of its own: some of its rows
are one model's, the others another's, and galleries that share a part share its scores.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from mixbct.errors import FeatureError

CPU = torch.device("cpu")
BUDGET = 320 * 2**20
"""Bytes that one block of scores and the temporaries made from it may take in main memory."""

_DEVICE_BUDGET = 4 * 2**30
_MOST_ROWS = 1024
# float32 rounding of a sum of squares stays far below this; a raw embedding does not
_NORM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Embeddings:
    """Normalised features with the class of each.

    Args:
        features: [n, d] float32, every row of Euclidean norm 1.
        labels: [n] int64. Queries and gallery items of one class share their label.

    Raises:
        FeatureError: there is no row, the counts differ, or a row is not a finite unit vector.
    """

    features: Float32[np.ndarray, "n d"]
    labels: Int64[np.ndarray, " m"]

    def __post_init__(self) -> None:
        if len(self.features) != len(self.labels) or not len(self.labels):
            raise FeatureError(
                f"{len(self.features)} features with {len(self.labels)} labels: expected as many "
                "of both, and at least one"
            )
        squares = np.einsum("nd,nd->n", self.features, self.features)
        # written so that NaN is bad as well
        bad = ~(np.abs(squares - 1) <= 2 * _NORM_TOLERANCE)
        if bad.any():
            row = int(np.argmax(bad))
            raise FeatureError(
                f"{int(bad.sum())} of {len(bad)} features are not finite unit vectors (row {row} "
                f"has squared norm {squares[row]:g}); normalise them first"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def dim(self) -> int:
        """Return the number of coordinates."""
        return int(self.features.shape[1])

    @cached_property
    def classes(self) -> Int64[np.ndarray, " c"]:
        """Return the labels that occur, ascending."""
        return np.unique(self.labels)

    def take(self, rows: Int64[np.ndarray, " k"]) -> "Embeddings":
        """Return some of the rows, in that order."""
        return Embeddings(self.features[rows], self.labels[rows])


@dataclass(frozen=True)
class Pair:
    """What one model made of the queries and of the gallery, or of a part of it."""

    query: Embeddings
    gallery: Embeddings


@dataclass(frozen=True)
class PairBlock:
    """The scores of some queries with one part, genuine and impostor pairs apart.

    Args:
        rows: which queries.
        genuine: [b, p] scores with the gallery items of the query's own class, filled up with
            −inf to the size of the largest class.
        impostor: [b, g] scores with all others; −inf stands where an item is of the own class.
            The buffer is used again by the next block, and may be sorted in place.
    """

    rows: Int64[np.ndarray, " b"]
    genuine: Float32[Tensor, "b p"]
    impostor: Float32[Tensor, "b g"]


def check_dimensions(
    query: int, gallery: int, queries: str = "queries", rows: str = "a gallery"
) -> None:
    """Refuse two sides, by what they are called, that do not lie in one space.

    Raises:
        FeatureError: they differ in dimension; it says what helps.
    """
    if query != gallery:
        raise FeatureError(
            f"{queries} of dimension {query} cannot be compared directly with {rows} of dimension "
            f"{gallery}: fit a bridge with `mixbct adapt` and name it with --bridge, or train the "
            f"new model with model.dim = {gallery} or with method.query_map"
        )


def genuine_counts(query: Embeddings, gallery: Embeddings) -> Int64[np.ndarray, " n"]:
    """Return for each query how many gallery items are of its class."""
    labels = np.sort(gallery.labels)
    first = np.searchsorted(labels, query.labels, side="left")
    return np.asarray(np.searchsorted(labels, query.labels, side="right") - first, np.int64)


def pair_blocks(
    parts: Sequence[Pair],
    rows: Int64[np.ndarray, " k"] | None = None,
    budget: int = 0,
    device: torch.device = CPU,
) -> Iterator[list[PairBlock]]:
    """Yield the scores of all pairs, block by block: of the same queries with every part.

    The scores are float32 dot products, so the last bits may depend on the size of a block.
    Two walks over the same sides with the same budget give the same bits.

    Args:
        parts: queries, row for row of the same items, and parts of a gallery, or of several.
        rows: which queries, in which order; None: all, class by class.
        budget: bytes for a block and its temporaries, of which at least one row is always taken;
            0: what suits the device.
        device: where scores are computed.

    Raises:
        FeatureError: the two sides of a part differ in dimension.
    """
    labels = parts[0].query.labels
    rows = np.argsort(labels, kind="stable") if rows is None else rows
    sides = [_Part(part, rows, device) for part in parts]
    # a sort on a device takes places, and both once more
    per_score, most = (4, BUDGET) if device.type == "cpu" else (24, _DEVICE_BUDGET)
    a_row = sum(per_score * len(part.gallery) for part in parts) + 24 * sum(s.width for s in sides)
    size = max(1, min(_MOST_ROWS, len(rows), (budget or most) // a_row))
    for start in range(0, len(rows), size):
        some = slice(start, start + size)
        yield [side.block(some, rows[some], size) for side in sides]


def sampled_scores(
    parts: Sequence[Pair], rows: Int64[np.ndarray, " k"], budget: int, device: torch.device
) -> tuple[Float32[np.ndarray, " g"], Float32[np.ndarray, " i"]]:
    """Return all genuine and all impostor scores of some queries."""
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for block in (block for blocks in pair_blocks(parts, rows, budget, device) for block in blocks):
        for kept, scores in zip(found, (block.genuine, block.impostor), strict=True):
            kept.append(scores[scores > -torch.inf].cpu().numpy())
    genuine, impostor = map(np.concatenate, found)
    return genuine, impostor


class _Part:
    """One part on a device, with the places of the gallery items of every query's class."""

    def __init__(self, part: Pair, rows: Int64[np.ndarray, " k"], device: torch.device) -> None:
        check_dimensions(part.query.dim, part.gallery.dim)
        order = np.argsort(part.gallery.labels, kind="stable")
        ascending = part.gallery.labels[order]
        wanted = part.query.labels[rows]
        first = np.searchsorted(ascending, wanted)
        counts = np.searchsorted(ascending, wanted, side="right") - first
        self.width = max(1, int(counts.max()))
        self._order, self._first, self._counts = (
            torch.from_numpy(each).to(device) for each in (order, first, counts)
        )
        # in the order of the caller's rows, not of the walk: main memory holds them once
        self._queries = torch.from_numpy(part.query.features).to(device)
        self._columns = torch.from_numpy(part.gallery.features).to(device).T
        self._buffer: Tensor | None = None

    def block(self, some: slice, rows: Int64[np.ndarray, " b"], most: int) -> PairBlock:
        queries = self._queries[torch.from_numpy(rows).to(self._queries.device)]
        if self._buffer is None:
            self._buffer = queries.new_empty(most, self._columns.shape[1])
        scores = torch.mm(queries, self._columns, out=self._buffer[: len(rows)])
        offsets = torch.arange(self.width, device=scores.device)
        row, offset = torch.nonzero(offsets < self._counts[some, None], as_tuple=True)
        column = self._order[self._first[some][row] + offset]
        genuine = scores.new_full((len(scores), self.width), -torch.inf)
        genuine[row, offset] = scores[row, column]
        scores[row, column] = -torch.inf
        return PairBlock(rows, genuine, scores)
