"""Means and covariances of vectors that are read in blocks, and what is made of covariances.

Every closed-form fit needs no more of its vectors than these, so that five million rows cost one
pass, or two, and the memory of a block. All is summed as float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64

from mixbct.data.bank import normalise
from mixbct.data.loader import read_ahead
from mixbct.distributed import ALONE, World
from mixbct.errors import FeatureError
from mixbct.features.bridged import Vectors
from mixbct.schemas.linear_map import LinearMap

CHUNK = 8192
LEAST = 1e-12
"""Directions with less of the largest variance than this are none."""

Labels = Int64[np.ndarray, " n"]
Square = Float64[np.ndarray, "d d"]


Maps = tuple[LinearMap | None, LinearMap | None]
"""Of queries and of stored rows; none: they stay as they are."""


@dataclass(frozen=True)
class Pairs:
    """The same items' vectors by a new and an old model, row by row, and their classes where known.

    Args:
        source: the new model's [n, d1].
        target: the old one's [n, d2].
        labels: of the items' classes.
    """

    source: Vectors
    target: Vectors
    labels: Labels | None = None

    @property
    def dims(self) -> tuple[int, int]:
        """Of both models' vectors."""
        return self.source.shape[1], self.target.shape[1]

    def take(self, rows: np.ndarray) -> "Pairs":
        """Return some of the items, by numbers or by a mask: normalised, in memory."""
        labels = None if self.labels is None else self.labels[rows]
        return Pairs(normalise(self.source[rows]), normalise(self.target[rows]), labels)

    def check(self, needed: int) -> None:
        """Refuse rows that are no pairs, or fewer than `needed` of them.

        Raises:
            FeatureError: it says how many there are.
        """
        counts = self.source.shape[0], self.target.shape[0]
        if counts[0] != counts[1]:
            raise FeatureError(
                f"a map between models needs the same items on both sides, not {counts[0]} source "
                f"and {counts[1]} target rows"
            )
        if counts[0] < needed:
            raise FeatureError(
                f"{counts[0]} rows do not determine a map from {self.dims[0]} to {self.dims[1]} "
                f"dimensions; give at least {needed}"
            )


@dataclass(frozen=True)
class Moments:
    """What two models made of the same n items, normalised: means and covariances (over n)."""

    rows: int
    source_mean: Float64[np.ndarray, " d1"]
    target_mean: Float64[np.ndarray, " d2"]
    source: Float64[np.ndarray, "d1 d1"]
    target: Float64[np.ndarray, "d2 d2"]
    cross: Float64[np.ndarray, "d1 d2"]


def blocks(
    vectors: Vectors, world: World = ALONE
) -> Iterator[tuple[slice, Float64[np.ndarray, "n d"]]]:
    """Yield the normalised vectors block by block, read ahead.

    Args:
        vectors: [n, d].
        world: the processes that deal the blocks out.

    Raises:
        FeatureError: a row holds NaN or infinity, or is zero.
    """

    def read(start: int) -> tuple[slice, Float64[np.ndarray, "n d"]]:
        rows = slice(start, start + CHUNK)
        block = vectors[rows]
        return rows, normalise(block, np.arange(start, start + len(block))).astype(np.float64)

    yield from read_ahead(range(0, vectors.shape[0], CHUNK)[world.rank :: world.size], read)


def moments(pairs: Pairs, needed: int = 2) -> Moments:
    """Return the moments of two models' vectors, in one pass.

    Raises:
        FeatureError: the counts differ, there are fewer than `needed`, or a row cannot be
            normalised.
    """
    pairs.check(needed)
    n, (d1, d2) = pairs.source.shape[0], pairs.dims
    sums = np.zeros(d1), np.zeros(d2)
    products = np.zeros((d1, d1)), np.zeros((d2, d2)), np.zeros((d1, d2))
    for (_, x), (_, y) in zip(blocks(pairs.source), blocks(pairs.target), strict=True):
        for one, block in zip(sums, (x, y), strict=True):
            one += block.sum(axis=0)
        for total, (left, right) in zip(products, ((x, x), (y, y), (x, y)), strict=True):
            total += left.T @ right
    a, b = (one / n for one in sums)
    xx, yy, xy = (total / n for total in products)
    return Moments(n, a, b, xx - np.outer(a, a), yy - np.outer(b, b), xy - np.outer(a, b))


def within_classes(
    vectors: Vectors, labels: Labels | None, world: World = ALONE
) -> tuple[Float64[np.ndarray, " d"], Float64[np.ndarray, "d d"]]:
    """Return the mean of normalised vectors and their scatter within classes, in one pass.

    Σ_i (y_i − μ_c)(y_i − μ_c)ᵀ is Σ_i y_i y_iᵀ − Σ_c n_c μ_c μ_cᵀ; float64 bears the difference.

    Args:
        vectors: [n, d].
        labels: class of each; None, or where no class has two different vectors: all are of one.
        world: the processes that share the pass, each of which gets both.
    """
    n, d = vectors.shape
    of = np.zeros(n, np.int64) if labels is None else np.unique(labels, return_inverse=True)[1]
    sums = torch.zeros(int(of.max()) + 1, d, dtype=torch.float64)
    products = np.zeros((d, d))
    for rows, block in blocks(vectors, world):
        sums.index_add_(0, torch.from_numpy(of[rows]), torch.from_numpy(block))
        products += block.T @ block
    totals, products = (world.reduce(each).numpy() for each in (sums, torch.from_numpy(products)))
    between = (totals / np.bincount(of)[:, None]).T @ totals
    scatter: Square = (products - between) / n
    if labels is not None and scatter.trace() < d * LEAST:
        return within_classes(vectors, None, world)
    return totals.sum(axis=0) / n, scatter


def inverse_root(covariance: Square, shrinkage: float) -> Square:
    """Return C^(−1/2) of the shrunk covariance (1 − s)C + s·tr(C)/d·I.

    Raises:
        FeatureError: the covariance is zero, or the shrinkage does not lie in (0, 1].
    """
    if not 0 < shrinkage <= 1:
        raise FeatureError(f"the shrinkage is {shrinkage:g}; expected more than 0 and at most 1")
    values, vectors = np.linalg.eigh(covariance)
    values = values.clip(min=0)
    # what is left of equal rows is rounding
    if values.mean() < LEAST:
        raise FeatureError("the vectors are all alike: they span no space that could be mapped")
    values = (1 - shrinkage) * values + shrinkage * values.mean()
    root: Square = (vectors / np.sqrt(values)) @ vectors.T
    return root


def beside(
    halves: tuple[LinearMap, LinearMap], mean: Float64[np.ndarray, " d"], covariance: Square
) -> LinearMap:
    """Return two maps of the same vectors as one: to both spaces, each at a mean square of 1.

    The cosine of the whole is about the mean of the two cosines. Errors of two ways to compare the
    same vectors differ, and their mean is often better than either.

    Args:
        halves: the maps.
        mean: of the vectors.
        covariance: of them.
    """
    matrices, offsets = [], []
    for half in halves:
        matrix, offset = half.arrays[0].astype(float), half.arrays[1]
        shift = np.zeros(matrix.shape[1]) if offset is None else offset.astype(float)
        centre = mean @ matrix + shift
        scale = np.sqrt(np.trace(matrix.T @ covariance @ matrix) + centre @ centre)
        matrices.append(matrix / scale)
        offsets.append(shift / scale)
    return LinearMap.of(np.hstack(matrices), np.concatenate(offsets))
