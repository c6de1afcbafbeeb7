"""Contracts: what two vectors must share to be compared with no edge between them."""

import hashlib
from typing import Literal

from pydantic import Field

from mixbct.schemas.record import Record


class Preprocessing(Record):
    """How an image becomes the backbone's input: (value − mean) / std on uint8 pixels."""

    size: int = Field(gt=0, description="height and width in pixels")
    channels: Literal[1, 3]
    mean: float = 127.5
    std: float = Field(127.5, gt=0)
    alignment: str = Field("none", description="how the object was cut out, by name")

    def __str__(self) -> str:
        return f"{self.size} px, {'grey' if self.channels == 1 else 'RGB'}"


class VectorInput(Record):
    """The input of a head: normalised vectors of a frozen encoder, known by its contract."""

    encoder: str = Field(description="id of the contract that the vectors are of")
    name: str = Field(description="of that contract, for people; not part of the identity")
    dim: int = Field(gt=0)

    def __str__(self) -> str:
        return f"{self.dim}-d vectors of {self.name} ({self.encoder})"


Input = Preprocessing | VectorInput
"""What a backbone takes: images that are prepared so, or an encoder's vectors."""


class Contract(Record):
    """What two vectors must share to be compared with no edge between them."""

    name: str = Field(description="for people; not part of the identity")
    weights: str
    """SHA-256 of the canonical weights or of an ONNX file, or a declared name."""
    preprocessing: Input | None
    """None: the vectors came from elsewhere, under a declared name."""
    dim: int = Field(gt=0)
    metric: Literal["cosine"] = "cosine"

    @property
    def id(self) -> str:
        """Return the 16 hexadecimal digits that identify the contract, whatever its name."""
        identity = self.model_dump_json(exclude={"name": True, "preprocessing": {"name"}})
        return hashlib.sha256(identity.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"

    def as_input(self) -> VectorInput:
        """Return what a head over these vectors takes."""
        return VectorInput(encoder=self.id, name=self.name, dim=self.dim)
