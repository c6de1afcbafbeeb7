"""One side of a bridge: vectors, mapped and normalised again; and a bank's rows, read in blocks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from mixbct.data.bank import Names, normalise
from mixbct.data.source import Rows
from mixbct.schemas.linear_map import LinearMap


@runtime_checkable
class Vectors(Protocol):
    """Vectors [n, d] of any float type and scale: an array, or what is read a block at a time."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return n and d."""
        ...

    def __getitem__(self, rows: slice | Rows, /) -> np.ndarray:
        """Return some of the rows."""
        ...


@dataclass(frozen=True)
class ReadRows:
    """Some rows of what is read, for instance of a bank, in a given order.

    Args:
        read: gives rows by their numbers.
        rows: these numbers.
        dim: of what is read.
    """

    read: Callable[[Rows], np.ndarray]
    rows: Int64[np.ndarray, " k"]
    dim: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Return how many rows there are, and their dimension."""
        return len(self.rows), self.dim

    def __getitem__(self, rows: slice | Rows, /) -> np.ndarray:
        """Read some of the rows."""
        return self.read(self.rows[rows])


def through(
    side: LinearMap | None, features: Float32[np.ndarray, "n d"], names: Names | None = None
) -> Float32[np.ndarray, "n e"]:
    """Return normalised vectors as one side of a bridge has them: mapped, and normalised again.

    Args:
        side: the map; None: they stay as they are.
        features: rows of norm 1.
        names: what errors call the rows.

    Raises:
        FeatureError: the map takes another dimension, or sends a row to zero.
    """
    return features if side is None else normalise(side.apply(features), names)


def both_queries(
    old: Float32[np.ndarray, "n e"], new: Float32[np.ndarray, "n e"], share: float
) -> Float32[np.ndarray, "n e"]:
    """Return the queries of both models as one, where the old model can still run for queries.

        q = (1 − share) · old + share · new,  normalised again

    Args:
        old: the old model's queries as stored rows of it are compared: behind the bridge's side
            for stored rows, where it has one.
        new: the new model's of the same items, behind the bridge's side for queries.
        share: of the new ones.

    Raises:
        FeatureError: the two cancel each other out.
    """
    return normalise((1 - share) * old + share * new)
