"""What is written beside data: image arrays, feature banks and splits."""

from typing import Literal

from pydantic import Field, model_validator

from mixbct.schemas.model import Contract
from mixbct.schemas.record import Document, Record, absent, now


class ArrayManifest(Document):
    """`manifest.json` of a folder that holds a whole image set as one array."""

    kind: Literal["image-array"] = "image-array"
    name: str
    images: int = Field(gt=0)
    size: int = Field(gt=0)
    channels: Literal[1, 3]
    classes: tuple[str, ...]
    groups: tuple[str, ...] = ()
    """Families of instances that must not be split, e.g. of typefaces."""
    content_digest: str
    groups_digest: str | None = Field(None, exclude_if=absent)
    origin: dict[str, str] = Field({}, description="where it came from, for people")


class SplitManifest(Document):
    """`manifest.json` of a split: which rows of a source play which part."""

    kind: Literal["split"] = "split"
    source: str
    source_digest: str
    rule: str
    seed: int
    parts: dict[str, int] = Field(description="part → number of rows, in PART.npy")
    skipped: tuple[str, ...] = ()
    """Keys, and damaged records, that were left out."""
    digests: dict[str, str] | None = Field(None, exclude_if=absent)
    """SHA-256 of each file."""


class BankManifest(Document):
    """`manifest.json` in a feature bank."""

    kind: Literal["feature-bank"] = "feature-bank"
    contract: Contract
    data_digest: str
    source_digest: str | None = Field(None, exclude_if=absent)
    """Of the whole source that the rows were chosen from."""
    rows: int = Field(gt=0)
    dim: int = Field(gt=0)
    dtype: Literal["float16", "float32"]
    classes: tuple[str, ...] = Field(description="none: the rows have no labels")
    digests: dict[str, str] | None = Field(None, exclude_if=absent)
    """SHA-256 of each file, once it was written."""
    norms: tuple[float, float] | None = Field(None, exclude_if=absent)
    """The least and the largest of the stored rows."""
    created: str = Field(default_factory=now)

    @model_validator(mode="after")
    def _rows_are_of_the_contract(self) -> "BankManifest":
        if self.dim != self.contract.dim:
            raise ValueError(
                f"the bank has {self.dim} dimensions, but {self.contract} has {self.contract.dim}"
            )
        return self


class DenoiseManifest(Document):
    """`credible.json` in a feature bank: how `credible.npy` came about."""

    keep: float = Field(gt=0, le=1)
    normalise_columns: bool
    credible: int
    rows: int
    sha256: str | None = Field(None, description="of credible.npy", exclude_if=absent)


class FileState(Record):
    """What changes when a file does: bytes, and times in nanoseconds."""

    size: int
    written: int
    changed: int = Field(description="in any way, its name and its times included")


class RecordRowsManifest(Document):
    """What is kept of a record file that was opened; see `mixbct.data.records`."""

    made_of: tuple[FileState | None, ...] = Field(description="the record file, and its index")
    classes: tuple[int, ...] = Field(description="as the records number them")
    sha256: str = Field(description="of the rows' array")
