"""What a check-up of stored vectors finds."""

from typing import Literal

from pydantic import Field

from mixbct.schemas.contract import Contract
from mixbct.schemas.record import Count, Document, Record


class Norms(Record):
    """Euclidean norms of the rows as they are stored, zero and infinite ones left out."""

    least: float
    median: float
    largest: float


class Space(Record):
    """How the normalised rows lie."""

    mean_cosine: float = Field(description="of two different rows; near 1: a narrow cone")
    effective_rank: float = Field(
        description="exp of the entropy of the covariance's eigenvalues, 1 to the dimension"
    )
    near_duplicates: float = Field(
        description="share of the rows looked at that have another at a cosine of 0.999 or more"
    )
    looked_at: Count


class LabelCounts(Record):
    """How items are spread over labels."""

    labels: Count
    unlabelled: Count
    of_one: Count = Field(description="labels with a single item")
    median: float = Field(description="items a label")
    largest: Count
    near_duplicates_across: Count = Field(
        description="near duplicates that have different labels, among the rows looked at"
    )


class Mixture(Record):
    """A sign that rows of two models stand in one column."""

    sign: Literal["norms", "order", "halves"]
    says: str


class FreeGain(Record):
    """What whitening alone gives: figures on labels that its fit did not see."""

    mean_average_precision: tuple[float, float] = Field(description="as it lies, whitened")
    true_accept_rate: tuple[float, float] = Field(description="at a FAR of 1e-3, likewise")
    labels: Count


class Checkup(Record):
    """What was found in stored vectors of one contract."""

    contract: Contract
    rows: Count
    unreadable: dict[str, Count] = Field(description="rows that hold no such vector, by reason")
    not_finite: Count
    zero: Count
    faulty: tuple[str, ...] = Field(description="the first keys of rows without a direction")
    exact_duplicates: Count = Field(description="rows whose vector an earlier row has to the bit")
    norms: Norms | None
    space: Space | None
    labels: LabelCounts | None
    mixture: tuple[Mixture, ...]
    whitening: FreeGain | None = Field(description="none: too few labels to tell")
    with_images: Count | None = Field(description="items that have one; none: nobody looked")


class CheckupReport(Document):
    """What `mixbct doctor` prints."""

    place: str
    gallery: bool
    notes: tuple[str, ...] = ()
    found: tuple[Checkup, ...]
    rate: float | None = Field(description="images a second that the new model embeds")
