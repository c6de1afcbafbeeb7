"""What requests ask and what is answered, beside the records that the command line prints."""

from pydantic import Field

from mixbct.gallery.records import ContractRows, GalleryStatus, SearchReport
from mixbct.schemas.contract import Contract
from mixbct.schemas.gate import Edge
from mixbct.schemas.record import Record


class Answer(SearchReport):
    """What was found, and what the old model finds beside it."""

    both: bool = Field(description="whether the old model's query was mixed in")
    old: SearchReport | None = Field(description="by the old model alone, where it was asked for")
    old_missing: str | None = Field(None, description="why the old model could not run")


class Problem(Record):
    """What is wrong, as RFC 9457 has it (`application/problem+json`)."""

    type: str = "about:blank"
    title: str = Field(description="the error's name, such as SwitchedError")
    status: int
    detail: str = Field(description="what is wrong and what to do next")


class SwitchAsked(Record):
    """Another query model."""

    model: str | None = Field(
        None, description="the name of a folder in the server's --models; none: by edges alone"
    )
    edges: tuple[Edge, ...] = Field((), description="what `mixbct gate` wrote, as it is")


class RollbackAsked(Record):
    """The last switch undone."""

    switch: int | None = Field(None, description="its number; if another came since, nothing is")
    leave_out: bool = Field(False, description="take out rows that cannot be searched then")
    edges: tuple[Edge, ...] = Field((), description="to rows that came since, to keep them")


class Removed(Record):
    """Items that were taken out."""

    gallery: str
    removed: int


class BothQueries(Record):
    """Whether queries of both models are mixed, and what that costs."""

    on: bool = Field(description="unless a search says otherwise")
    old_model: Contract | None = Field(description="none: there is none")
    query_seconds: float | None = Field(description="mean, to embed an image by the query model")
    old_seconds: float | None = Field(description="the same by the old model: the cost of both")


class Status(Record):
    """A gallery in service at one moment."""

    gallery: GalleryStatus
    both: BothQueries
    counts_hits: bool
    models: tuple[str, ...] = Field(description="those that can be switched to by name")

    @property
    def coverage(self) -> list[tuple[ContractRows, float]]:
        """Return what part of the rows is of which contract: how far a backfill is."""
        rows = max(self.gallery.rows, 1)
        return [(each, each.rows / rows) for each in self.gallery.contracts]
