"""What a check-up of stored vectors finds."""

from typing import Literal

from pydantic import Field

from mixbct.schemas.bridge import Candidate
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
    effective_rank: float
    """Exp of the entropy of the covariance's eigenvalues, 1 to the dimension."""
    near_duplicates: float
    """Share of the rows looked at that have another at a cosine of 0.999 or more."""
    looked_at: Count


class LabelCounts(Record):
    """How items are spread over labels."""

    labels: Count
    unlabelled: Count
    of_one: Count = Field(description="labels with a single item")
    median: float = Field(description="items a label")
    largest: Count
    near_duplicates_across: Count
    """Near duplicates that have different labels, among the rows looked at."""


Sign = Literal["norms", "order", "halves"]


class Mixture(Record):
    """A sign that rows of two models stand in one column."""

    sign: Sign
    says: str


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
    whitening: tuple[Candidate, ...]
    """Figures as the vectors lie, and whitened, on labels that its fit did not see; none: too few
    labels to tell."""
    with_images: Count | None = Field(description="items that have one; none: nobody looked")


class CheckupReport(Document):
    """What `mixbct doctor` prints."""

    place: str
    gallery: bool
    notes: tuple[str, ...] = ()
    found: tuple[Checkup, ...]
    rate: float | None = Field(description="images a second that the new model embeds")
