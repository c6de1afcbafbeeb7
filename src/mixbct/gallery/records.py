"""What the gallery's verbs print with `--json`."""

from pydantic import Field

from mixbct.schemas.gate import Edge
from mixbct.schemas.model import Contract
from mixbct.schemas.record import Record


class ContractRows(Record):
    """The rows of one contract, and what the query model needs to search them."""

    contract: Contract
    rows: int
    threshold: float | None = Field(
        description="of the edge from the query model; none for rows of the query model itself"
    )
    cached_rows: int | None = Field(
        description="rows in the search index's cache file; none where the next search builds it"
    )


class GalleryStatus(Record):
    """A gallery at one moment."""

    gallery: str
    query_model: Contract
    model_folder: str | None
    rows: int
    contracts: tuple[ContractRows, ...]
    edges: tuple[Edge, ...]
    size_bytes: int


class EnrolReport(Record):
    """What one enrolment changed."""

    gallery: str
    contract: Contract
    added: int
    replaced: int
    rows: int


class Hit(Record):
    """One gallery row that a query found."""

    rank: int
    key: str
    label: str
    score: float
    contract: str = Field(description="of the stored row, by name and id")
    accepted: bool | None = Field(
        description="whether the score is above the edge's threshold; none without an edge"
    )


class QueryHits(Record):
    """What one query found, best first."""

    query: str
    hits: tuple[Hit, ...]


class SearchReport(Record):
    """What every query of one search found."""

    gallery: str
    query_model: Contract
    queries: tuple[QueryHits, ...]
