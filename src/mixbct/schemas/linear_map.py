"""A linear map from one embedding space into another, that can be kept in a JSON record.

    f ↦ f M + b

One side of a bridge: vectors f, normalised, go through the map and are normalised again. It is
trained along (`method.query_map`, `method.gallery_map`) or fitted afterwards (`mixbct.adapters`).
"""

import base64
import hashlib

import numpy as np
from jaxtyping import Float, Float32
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, model_validator

from mixbct.errors import FeatureError

_LITTLE = np.dtype("<f4")


class LinearMap(BaseModel):
    """A map of `source_dim` to `target_dim` dimensions; its numbers are checked on reading."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source_dim: int = Field(gt=0)
    target_dim: int = Field(gt=0)
    matrix: Base64Bytes = Field(description="M, float32 little-endian, row by row")
    offset: Base64Bytes | None = Field(None, description="b, likewise; none: no offset")
    digest: str = Field(description="SHA-256 of both dimensions, M and b")

    @classmethod
    def of(
        cls, matrix: Float[np.ndarray, "d e"], offset: Float[np.ndarray, " e"] | None = None
    ) -> "LinearMap":
        """Return the record of M and b; they are kept as float32.

        Raises:
            FeatureError: a number is NaN or infinite as float32.
        """
        if offset is not None and not offset.any():
            offset = None  # so that what is linear can be chained
        with np.errstate(over="ignore"):
            parts = [np.asarray(part, _LITTLE) for part in (matrix, offset) if part is not None]
        if not all(np.isfinite(part).all() for part in parts):
            raise FeatureError(
                f"a map of {matrix.shape[0]} to {matrix.shape[1]} dimensions holds NaN or "
                "infinity: did its training diverge?"
            )
        encoded = [base64.b64encode(part.tobytes()) for part in parts]
        return cls(
            source_dim=matrix.shape[0],
            target_dim=matrix.shape[1],
            matrix=encoded[0],
            offset=None if offset is None else encoded[1],
            digest=_digest(matrix.shape, [part.tobytes() for part in parts]),
        )

    def __str__(self) -> str:
        return f"{self.source_dim} to {self.target_dim} dimensions"

    @model_validator(mode="after")
    def _holds_what_it_says(self) -> "LinearMap":
        parts = [part for part in (self.matrix, self.offset) if part is not None]
        shape = self.source_dim, self.target_dim
        sizes = [shape[0] * shape[1], shape[1]][: len(parts)]
        found = [len(part) // _LITTLE.itemsize for part in parts]
        if found != sizes:
            raise ValueError(f"a map of {self} has {sizes} numbers, not {found}")
        if _digest(shape, parts) != self.digest:
            raise ValueError("the map is damaged: its digest is not that of its numbers")
        if not all(np.isfinite(part).all() for part in self.arrays if part is not None):
            raise ValueError("the map holds NaN or infinity")
        return self

    @property
    def arrays(self) -> tuple[Float32[np.ndarray, "d e"], Float32[np.ndarray, " e"] | None]:
        """M and b, read-only."""
        matrix = _numbers(self.matrix).reshape(self.source_dim, self.target_dim)
        return matrix, None if self.offset is None else _numbers(self.offset)

    def apply(self, features: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n e"]:
        """Return f M + b of normalised rows; the result is not normalised.

        Raises:
            FeatureError: the dimension is not the source's.
        """
        if features.shape[1] != self.source_dim:
            raise FeatureError(
                f"this map takes vectors of dimension {self.source_dim}, not {features.shape[1]}"
            )
        matrix, offset = self.arrays
        mapped: np.ndarray = features @ matrix
        if offset is not None:
            mapped += offset
        return mapped

    def then(self, after: "LinearMap") -> "LinearMap":
        """Return the one map that is this and then `after`, up to the length of its result.

        Raises:
            FeatureError: `after` takes another dimension, or has an offset: since vectors are
                normalised in between, both together are then not linear.
        """
        if after.source_dim != self.target_dim:
            raise FeatureError(
                f"a map to {self.target_dim} dimensions cannot be followed by one from "
                f"{after.source_dim}"
            )
        matrix, offset = self.arrays
        follow, later = after.arrays
        if later is not None:
            raise FeatureError(
                "a map with an offset cannot follow another one in a single map: fit a bridge from "
                "the newest model to the oldest with `mixbct adapt`"
            )
        exact = follow.astype(float)
        return LinearMap.of(matrix @ exact, None if offset is None else offset @ exact)


def _numbers(part: bytes) -> Float32[np.ndarray, " n"]:
    return np.frombuffer(part, _LITTLE).astype(np.float32, copy=False)


def _digest(shape: tuple[int, ...], parts: list[bytes]) -> str:
    return hashlib.sha256(b"".join([f"{shape[0]} {shape[1]}\n".encode(), *parts])).hexdigest()
