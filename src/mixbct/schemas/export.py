"""What an export leaves beside the exported file."""

from pydantic import Field

from mixbct.schemas.contract import Contract
from mixbct.schemas.record import Count, Document


class ExportReport(Document):
    """`export.json`: what was exported, and how it was held against the model."""

    model: Contract
    inherits: bool = Field(description="the file's vectors are the model's, under its contract")
    sha256: str = Field(description="of the file")
    opset: int
    outputs: tuple[str, ...]
    size_bytes: Count
    from_float64: bool = Field(description="the model computes as float64, the file as float32")
    int8: bool
    images: Count = Field(description="on which the file was run")
    farthest: float = Field(description="largest 1 − cosine to the model's vectors")
    mean: float = Field(description="mean 1 − cosine to the model's vectors")
    bridge: str | None = Field(None, description="what the output `query` goes through")
