"""What the commands on data write as JSON: denoising records, image arrays, splits."""

from typing import Literal

from pydantic import Field

from mixbct.schemas import SCHEMA_VERSION, Record


class DenoiseManifest(Record):
    """`credible.json` in a feature bank: how `credible.npy` came about."""

    schema_version: Literal[1] = SCHEMA_VERSION
    keep: float = Field(gt=0, le=1)
    normalise_columns: bool
    credible: int
    rows: int


class ArrayManifest(Record):
    """`manifest.json` of a folder that holds a whole image set as one array."""

    schema_version: Literal[1] = SCHEMA_VERSION
    kind: Literal["image-array"] = "image-array"
    name: str
    images: int
    size: int
    channels: Literal[1, 3]
    classes: tuple[str, ...]
    groups: tuple[str, ...] = Field(
        (), description="families of instances that must not be split, e.g. of typefaces"
    )
    content_digest: str
    origin: dict[str, str] = Field({}, description="where it came from, for people")


class SplitManifest(Record):
    """`manifest.json` of a split: which rows of a source play which part."""

    schema_version: Literal[1] = SCHEMA_VERSION
    kind: Literal["split"] = "split"
    source: str
    source_digest: str
    rule: str
    seed: int
    parts: dict[str, int] = Field(description="part → number of rows, in PART.npy")
    skipped: tuple[str, ...] = Field((), description="keys left out since they cannot be read")
