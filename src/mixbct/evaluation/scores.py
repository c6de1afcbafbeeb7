"""Cosine scores of every query against every gallery item, a block of queries at a time.

Nothing here or above it holds all N × M scores: a block's rows are as many as fit the budget.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from mixbct.errors import FeatureError

BUDGET = 256 * 2**20
"""Bytes that one block of scores and the temporaries made from it may take."""

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
class PairBlock:
    """The scores of some queries, genuine and impostor pairs apart.

    Args:
        rows: which queries.
        genuine: [b, p] scores with the gallery items of the query's own class, filled up with
            −inf to the size of the largest class.
        impostor: [b, g] scores with all others; −inf stands where an item is of the own class.
            The buffer is used again by the next block, and may be sorted in place.
    """

    rows: slice
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
    query: Embeddings, gallery: Embeddings, budget: int = BUDGET
) -> Iterator[PairBlock]:
    """Yield the scores of all pairs, block by block, in the order of the queries.

    The scores are float32 dot products, so the last bits may depend on the size of a block.
    Two walks over the same sides with the same budget give the same bits.

    Args:
        query: n unit vectors.
        gallery: g unit vectors, none of them a query.
        budget: bytes for a block and its temporaries; at least one row is always taken.

    Raises:
        FeatureError: the two sides differ in dimension.
    """
    check_dimensions(query.dim, gallery.dim)
    # one class then stands in neighbouring columns
    order = np.argsort(gallery.labels, kind="stable")
    columns = torch.from_numpy(gallery.features[order]).T
    first = torch.from_numpy(np.searchsorted(gallery.labels[order], query.labels))
    counts = torch.from_numpy(genuine_counts(query, gallery))
    width = max(1, int(counts.max()))
    # per score: itself and up to four bytes of masks; per genuine place: column, score, mask
    rows = max(1, min(_MOST_ROWS, len(query), budget // (8 * len(gallery) + 24 * width)))
    buffer = torch.empty(rows, len(gallery))
    features = torch.from_numpy(query.features)
    for start in range(0, len(query), rows):
        part = slice(start, min(start + rows, len(query)))
        scores = torch.mm(features[part], columns, out=buffer[: part.stop - part.start])
        offsets = torch.arange(width)
        row, offset = torch.nonzero(offsets < counts[part, None], as_tuple=True)
        column = first[part][row] + offset
        genuine = torch.full((len(scores), width), -torch.inf)
        genuine[row, offset] = scores[row, column]
        scores[row, column] = -torch.inf
        yield PairBlock(part, genuine, scores)
