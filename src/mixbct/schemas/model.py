"""Models: what stands in `model.json`."""

from pydantic import Field, model_validator

from mixbct.schemas.bridge import Bridge, HadQueryMap
from mixbct.schemas.contract import Contract, Input, Preprocessing, VectorInput
from mixbct.schemas.record import Record, absent, now

__all__ = ["Contract", "Input", "ModelManifest", "OldPart", "Preprocessing", "VectorInput"]


class OldPart(Record):
    """How much of the old model's bank took part in training."""

    classes: int = Field(description="of the bank, that belong to a training class")
    of_classes: int
    features: int = Field(description="of the bank, of those classes, and credible where asked")
    of_features: int
    training_classes: int = Field(description="that have an old feature")
    of_training_classes: int

    def __str__(self) -> str:
        return (
            f"of the old bank's {self.of_classes:,} classes {self.classes:,} take part, with "
            f"{self.features:,} of {self.of_features:,} features; they are "
            f"{self.training_classes:,} of the {self.of_training_classes:,} training classes"
        )


class ModelManifest(HadQueryMap):
    """`model.json` in a model folder."""

    backbone: str
    options: dict[str, int | float | str | bool] = Field({})
    contract: Contract
    head: str | None = None
    classes: tuple[str, ...] = Field((), description="that it was trained on")
    data_digest: str = Field("", description="of the images that it was trained on")
    bridge: Bridge | None = Field(None, exclude_if=absent)
    """To the old model that it was made for."""
    old_part: OldPart | None = Field(None, exclude_if=absent)
    created: str = Field(default_factory=now)

    @model_validator(mode="after")
    def _bridge_is_its_own(self) -> "ModelManifest":
        if self.bridge and (problem := self.bridge.problem(self.contract, self.bridge.target)):
            raise ValueError(problem)
        return self
