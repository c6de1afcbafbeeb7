"""What every adapter is: a map from one model's space into another's, fitted after training."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mixbct.errors import FeatureError, ModelError
from mixbct.files import write_atomically
from mixbct.schemas.linear_map import LinearMap

Tensors = dict[str, np.ndarray]


@runtime_checkable
class Adapter(Protocol):
    """A fitted map. It takes vectors of one dimension and gives normalised ones of another."""

    @property
    def dims(self) -> tuple[int, int]:
        """Return the dimensions that it takes and that it gives."""
        ...

    @classmethod
    def fit(
        cls, source: Float32[np.ndarray, "n d1"], target: Float32[np.ndarray, "m d2"]
    ) -> "Adapter":
        """Fit the map on the same items embedded by both models.

        Args:
            source: n normalised rows.
            target: the same items, in the same order, normalised.

        Raises:
            FeatureError: the counts differ, or there are too few rows.
        """
        ...

    def transform(self, features: Float32[np.ndarray, "n d1"]) -> Float32[np.ndarray, "n d2"]:
        """Return the rows in the target's space, normalised.

        Raises:
            FeatureError: the dimension is not the source's, or a mapped row is zero.
        """
        ...

    def save(self, path: Path) -> None:
        """Write the map to one safetensors file."""
        ...

    @classmethod
    def load(cls, path: Path) -> "Adapter":
        """Read a map that `save` wrote.

        Raises:
            ModelError: the file is missing, damaged or holds something else.
        """
        ...


@runtime_checkable
class LinearAdapter(Adapter, Protocol):
    """An adapter whose map is linear, with an offset: a model, or an edge, can carry it."""

    @classmethod
    def fit(
        cls, source: Float32[np.ndarray, "n d1"], target: Float32[np.ndarray, "m d2"]
    ) -> "LinearAdapter":
        """Fit the map; see `Adapter.fit`."""
        ...

    def linear_map(self) -> LinearMap:
        """Return the map that `transform` applies before it normalises."""
        ...


def check_pairs(source: np.ndarray, target: np.ndarray, needed: int) -> None:
    """Refuse rows that are no pairs, or fewer than `needed` of them.

    Raises:
        FeatureError: it says how many there are.
    """
    if len(source) != len(target):
        raise FeatureError(
            f"a map between models needs the same items on both sides, not {len(source)} source "
            f"and {len(target)} target rows"
        )
    if len(source) < needed:
        raise FeatureError(
            f"{len(source)} rows do not determine a map from {source.shape[1]} to "
            f"{target.shape[1]} dimensions; give at least {needed}"
        )


def check_dimension(features: np.ndarray, dim: int) -> None:
    """Refuse vectors that a map does not take.

    Raises:
        FeatureError: their dimension is not `dim`.
    """
    if features.shape[1] != dim:
        raise FeatureError(f"this map takes vectors of dimension {dim}, not {features.shape[1]}")


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Write named arrays as safetensors, whole or not at all."""
    write_atomically(path, save(tensors))


def read_tensors(path: Path, dimensions: dict[str, int]) -> Tensors:
    """Read float32 arrays by name.

    Args:
        path: a safetensors file.
        dimensions: of each array that must be there, by name.

    Raises:
        ModelError: the file is missing, damaged or holds other arrays.
    """
    try:
        tensors: Tensors = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} is not a readable map: {error}") from error
    found = {name: tensor.ndim for name, tensor in tensors.items()}
    if found != dimensions or any(t.dtype != np.float32 for t in tensors.values()):
        raise ModelError(
            f"{path} holds {', '.join(found) or 'nothing'}, expected {', '.join(dimensions)}: it "
            "is a map of another kind"
        )
    return tensors
