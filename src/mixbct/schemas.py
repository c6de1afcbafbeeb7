"""What is written to disk as JSON: contracts, manifests, results, gate outcomes and edges.

Every file that one command writes and another reads has its model here. All are frozen and
refuse unknown keys, so that a file from another version fails with a reason, not silently.
"""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mixbct.errors import MixbctError

SCHEMA_VERSION: Final = 1

ModelT = TypeVar("ModelT", bound=BaseModel)


def now() -> str:
    """Return the present time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


class Record(BaseModel):
    """Base of every record on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> str:
        """Return the record as indented JSON that ends with a newline."""
        return self.model_dump_json(indent=1) + "\n"

    def digest(self) -> str:
        """Return the hexadecimal SHA-256 of the record's canonical JSON."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def read_record(path: Path, model: type[ModelT], error: type[MixbctError], what: str) -> ModelT:
    """Read `path` as `model`; raise `error` that names `what` where it is missing or malformed."""
    try:
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise error(f"there is no {what} at {path}") from None
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(map(str, first["loc"]))
        says = f"{place}: {first['msg']}" if place else first["msg"]
        raise error(f"{path} is not a readable {what}: {says}") from problem
    except OSError as problem:
        raise error(f"{path} is not a readable {what}: {problem.strerror}") from problem


# ---------------------------------------------------------------- models and their contracts


class Preprocessing(Record):
    """How an image becomes the backbone's input: (value − mean) / std on uint8 pixels."""

    size: int = Field(gt=0, description="height and width in pixels")
    channels: Literal[1, 3]
    mean: float = 127.5
    std: float = 127.5
    alignment: str = Field("none", description="how the object was cut out, by name")


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
    weights: str = Field(
        description="SHA-256 of the canonical weights or of an ONNX file, or a declared name"
    )
    preprocessing: Input | None = Field(
        description="none: the vectors came from elsewhere, under a declared name"
    )
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


class ModelManifest(Record):
    """`model.json` in a model folder."""

    schema_version: Literal[1] = SCHEMA_VERSION
    backbone: str
    options: dict[str, int | float | str | bool] = {}
    contract: Contract
    head: str | None = None
    classes: tuple[str, ...] = Field((), description="that it was trained on")
    data_digest: str = Field("", description="of the images that it was trained on")
    created: str = Field(default_factory=now)


class BankManifest(Record):
    """`manifest.json` in a feature bank."""

    schema_version: Literal[1] = SCHEMA_VERSION
    kind: Literal["feature-bank"] = "feature-bank"
    contract: Contract
    data_digest: str
    rows: int = Field(gt=0)
    dim: int = Field(gt=0)
    dtype: Literal["float16", "float32"]
    classes: tuple[str, ...]
    created: str = Field(default_factory=now)


class CheckpointManifest(Record):
    """`manifest.json` of a checkpoint."""

    schema_version: Literal[1] = SCHEMA_VERSION
    kind: Literal["checkpoint"] = "checkpoint"
    step: int
    seconds: float = Field(description="of training so far, over all resumptions")
    images: int = Field(description="forwarded so far")
    recipe_digest: str
    data_digest: str
    tensors_digest: str


# ------------------------------------------------------------------------------- results


class Estimate(Record):
    """A figure with its 95 % bootstrap interval over query classes."""

    value: float
    low: float
    high: float


class OperatingPoint(Record):
    """The largest TAR whose measured FAR does not exceed `far`, and where it was found."""

    far: float
    tar: Estimate
    threshold: float = Field(description="accept a pair when its score is above this")
    measured_far: float
    resolved: bool = Field(description="false where there are fewer than 1/far impostor pairs")


class Curve(Record):
    """Points (x, y) of a curve, in order."""

    x: tuple[float, ...]
    y: tuple[float, ...]


class Histogram(Record):
    """Densities of genuine and impostor scores over the same bins."""

    edges: tuple[float, ...]
    genuine: tuple[float, ...]
    impostor: tuple[float, ...]


class Combination(Record):
    """One query model against one gallery, on the same unseen classes."""

    query: str = Field(description="the query model's role")
    gallery: str = Field(description="the gallery's, e.g. old, new, new 50 %")
    mean_average_precision: Estimate
    rank1: Estimate
    rank5: Estimate
    operating_points: tuple[OperatingPoint, ...]
    genuine_pairs: int
    impostor_pairs: int
    roc: Curve
    cmc: Curve
    histogram: Histogram

    def metric(self, name: str) -> Estimate:
        """Return a figure by the name that tables, gates and benches use (see `metrics`)."""
        return self.metrics()[name]

    def metrics(self) -> dict[str, Estimate]:
        """Return every figure by name: mAP, rank-1, rank-5, TAR@1e-2 and so on."""
        figures = {
            "mAP": self.mean_average_precision,
            "rank-1": self.rank1,
            "rank-5": self.rank5,
        }
        return figures | {tar_name(p.far): p.tar for p in self.operating_points}


def tar_name(far: float) -> str:
    """Return the name of the TAR at `far`, e.g. `TAR@1e-3`.

    >>> tar_name(0.001)
    'TAR@1e-3'
    """
    mantissa, exponent = f"{far:.6e}".split("e")
    digits = mantissa.rstrip("0").rstrip(".")
    return f"TAR@{digits}e{int(exponent)}"


class Difference(Record):
    """Paired differences `of` − `minus` of two combinations, over the same classes."""

    of: str
    minus: str
    metrics: dict[str, Estimate]


class CarriedThreshold(Record):
    """A threshold for the cross-test that keeps the old system's false-accept rate.

    It is set on one half of the query classes and measured on the other half.
    """

    far: float
    old_threshold: float = Field(description="where the old system reaches `far`")
    far_at_old_threshold: float = Field(description="what new/old accepts there, all classes")
    threshold: float = Field(description="where new/old reaches `far`, calibration half")
    measured_far: float = Field(description="what new/old accepts there, the other half")


class Match(Record):
    """One gallery item that a query found."""

    key: str
    label: str
    score: float
    image: str = Field(description="a PNG as a data URI, or empty")


class Example(Record):
    """One query with what it found before and after the upgrade."""

    key: str
    label: str
    image: str
    before: tuple[Match, ...]
    after: tuple[Match, ...]


class ModelCost(Record):
    """What it took to train one model."""

    seconds: float
    images: int
    steps: int


class Result(Record):
    """One evaluation of an upgrade. Reports, gates and benches read nothing else."""

    schema_version: Literal[1] = SCHEMA_VERSION
    kind: Literal["upgrade"] = "upgrade"
    title: str
    created: str = Field(default_factory=now)
    versions: dict[str, str]
    seed: int
    data: dict[str, str | int]
    models: dict[str, Contract] = Field(description="by role: old, new, independent")
    combinations: dict[str, Combination] = Field(description="by name, query/gallery")
    differences: tuple[Difference, ...]
    update_gain: Estimate | None = Field(None, description="of mAP; needs an independent model")
    negative_flips: float = Field(description="right at rank 1 under old/old, wrong under new/old")
    carried_threshold: CarriedThreshold
    costs: dict[str, ModelCost] = {}
    examples: tuple[Example, ...] = ()

    def difference(self, of: str, minus: str) -> Difference | None:
        """Return the paired difference of two combinations, or None where it was not taken."""
        return next((d for d in self.differences if (d.of, d.minus) == (of, minus)), None)


# ------------------------------------------------------------------------- gate and edge


class GateCheck(Record):
    """One condition of the gate: `value` must reach `bound` (above or below it, as said)."""

    name: str
    value: float
    bound: float
    passed: bool
    says: str = Field(description="the condition and what was seen, in one sentence")


class GateOutcome(Record):
    """What the gate decided about one result."""

    schema_version: Literal[1] = SCHEMA_VERSION
    passed: bool
    checks: tuple[GateCheck, ...]
    result_digest: str


class Edge(Record):
    """A passed gate: queries under `from_contract` may search vectors under `to_contract`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    from_contract: Contract
    to_contract: Contract
    result_digest: str
    threshold: float = Field(description="keeps the false-accept rate `far` across the edge")
    far: float
    created: str = Field(default_factory=now)
