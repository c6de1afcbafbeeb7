"""What a gallery holds, and what its verbs print with `--json`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64
from pydantic import Field

from mixbct.schemas.contract import Contract
from mixbct.schemas.gate import GateOutcome
from mixbct.schemas.record import Record

Ids = Int64[np.ndarray, " n"]
Parts = Iterable[tuple[Int64[np.ndarray, " _"], np.ndarray]]
"""Ids and vectors, some thousand at a time."""
Rows = tuple[list[int], list[str], list[str | None], list[int], Float32[np.ndarray, "n d"]]
"""Ids, keys, labels, checksums and vectors of rows to be stored."""
Tick = Callable[[int, int], None]
"""Progress: called with (done, in all)."""


@dataclass(frozen=True)
class QueryModel:
    """The model that queries are embedded with, and its folder where that is known."""

    contract: Contract
    folder: Path | None


class Item(NamedTuple):
    """What a hit shows of a stored row."""

    key: str
    label: str | None
    contract_id: str


class Version(NamedTuple):
    """What an item was for a while."""

    id: int
    label: str | None
    contract_id: str
    since: str
    """ISO 8601, UTC, as all times here."""
    until: str | None
    """None: it still is."""


class Stored(NamedTuple):
    """A contract that has rows."""

    contract: Contract
    rows: int


class RowBlock(NamedTuple):
    """Some rows of one contract, by id."""

    ids: Ids
    keys: list[str]
    labels: list[str | None]
    vectors: Float32[np.ndarray, "n d"]
    """As they are stored: unit vectors."""


class Batch(NamedTuple):
    """Rows to be stored, of one contract."""

    keys: Sequence[str]
    labels: Sequence[str | None]
    vectors: Float[np.ndarray, "n d"]
    """Any scale."""
    contract: Contract

    def part(self, rows: Sequence[int]) -> "Batch":
        """Return some of the rows, by their places."""
        keys, labels = [self.keys[row] for row in rows], [self.labels[row] for row in rows]
        return Batch(keys, labels, self.vectors[rows], self.contract)


class Found(NamedTuple):
    """The rows of one contract that are nearest to each query, best first."""

    scores: Float32[np.ndarray, "q k"]
    ids: Int64[np.ndarray, "q k"]
    exact: bool
    """Whether every row was compared, as it was when the gate judged."""


@dataclass(frozen=True)
class Switch:
    """A change of the query model; the first is the gallery's making.

    A rollback is a switch as well: `restores` is the earlier switch whose state it brings back.
    """

    number: int
    model: QueryModel
    time: str
    before: int | None
    """The switch that a rollback from here leads back to; None: there is none."""
    restores: int | None = None

    @property
    def stands_for(self) -> int:
        """Return the switch that made the state that is present while this one is the last."""
        return self.restores or self.number


class ContractRows(Record):
    """The rows of one contract, and what the query model needs to search them."""

    contract: Contract
    rows: int
    threshold: float | None = Field(
        description="at the edge's false-accept rate; none where no edge has one for these rows"
    )
    cached_rows: int | None = Field(
        description="rows that are ready to be searched; none where the next search builds an index"
    )


class EdgeStatus(Record):
    """A recorded edge, without the numbers of its bridge."""

    from_contract: Contract
    to_contract: Contract
    result_digest: str
    threshold: float
    far: float
    bridge: str | None = Field(description="what it does to which side, in words")
    created: str


class GalleryStatus(Record):
    """A gallery at one moment."""

    gallery: str
    query_model: Contract
    model_folder: str | None
    rows: int
    own_rows: int = Field(description="of the query model: enrolled by it, or embedded again")
    contracts: tuple[ContractRows, ...]
    edges: tuple[EdgeStatus, ...]
    switches: tuple[Switch, ...] = Field(description="since the last prune, oldest first")
    size_bytes: int = Field(description="of all that is kept, indexes included")
    searched_by: str = Field("exact", description="exact, or the index that is searched instead")
    faults: tuple[str, ...] | None = Field(
        None, description="what is not as it was enrolled; none where nobody looked"
    )


class PlannedRows(Record):
    """How the rows of one contract would be searched after the switch."""

    contract: Contract
    rows: int
    threshold: float | None = Field(description="of the edge; none for the new model's own rows")
    far: float | None = Field(description="the false-accept rate that the threshold keeps")
    bridge: str | None = Field(description="what it does to which side, in words")
    index_bytes: int = Field(description="of the index that has to be built; 0: it is ready")
    seconds: float = Field(description="that building it takes, by a sample of the rows")


class UpgradePlan(Record):
    """What a switch would change."""

    gallery: str
    before: Contract = Field(description="the query model now")
    query_model: Contract = Field(description="the query model after the switch")
    rows: tuple[PlannedRows, ...]
    found_after_rollback: bool = Field(
        description="whether rows that the new model enrols can be searched after a rollback: "
        "whether an edge leads from the query model now to it"
    )
    gates: tuple[GateOutcome | None, ...] = Field(
        (), description="what the gate said of each edge that is given; none: nobody knows"
    )


class EnrolReport(Record):
    """What one enrolment changed."""

    gallery: str
    contract: Contract
    added: int
    replaced: int
    rows: int


class ImportReport(Record):
    """What came of many batches."""

    gallery: str
    added: int
    replaced: int
    unchanged: int = Field(description="rows that were there already, to the bit")
    rows: int


class Rollback(Record):
    """What a rollback changed."""

    gallery: str
    query_model: Contract
    before: Contract = Field(description="the query model until then")
    given_back: int = Field(description="items that have the vector again that they had")
    left_out: tuple[str, ...] = Field(description="keys that are no longer in the gallery")
    damaged: tuple[str, ...] = Field(
        (), description="keys whose earlier vector is damaged: they keep the one they had"
    )


class Hit(Record):
    """One gallery row that a query found."""

    rank: int
    key: str
    label: str | None = Field(description="none: not known")
    score: float
    far: float | None = Field(
        description="the share of impostor pairs that score at least so; none where nobody can say"
    )
    contract: str = Field(description="of the stored row, by name and id")
    accepted: bool | None = Field(
        description="whether the score is above the threshold; none where there is none"
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
    exact: bool = Field(True, description="whether every row was compared, as when the gate judged")


@dataclass(frozen=True)
class Hits:
    """What a batch of queries found, best first; k is smaller where there are fewer rows."""

    scores: Float32[np.ndarray, "q k"]
    """Cosines; those of several contracts are ranked on one scale."""
    rates: Float64[np.ndarray, "q k"]
    """Their false-accept rates; NaN: not known."""
    ids: Int64[np.ndarray, "q k"]
    items: Mapping[int, Item]
    """Key, label and contract id, by id."""
    contracts: Mapping[str, Contract]
    """The stored contracts, by contract id."""
    thresholds: Mapping[str, float | None]
    """By the stored contract's id; None: nobody can say."""
    exact: bool = True
    """Whether every row was compared, as it was when the gate judged."""

    def of(self, query: int) -> tuple[Hit, ...]:
        """Return what one query found."""
        names = {id: str(each) for id, each in self.contracts.items()}
        columns = (each[query].tolist() for each in (self.ids, self.scores, self.rates))
        hits = []
        for rank, (id, score, rate) in enumerate(zip(*columns, strict=True), 1):
            key, label, contract_id = self.items[id]
            threshold = self.thresholds[contract_id]
            hits.append(
                Hit(
                    rank=rank,
                    key=key,
                    label=label,
                    score=score,
                    far=None if np.isnan(rate) else rate,
                    contract=names[contract_id],
                    accepted=None if threshold is None else score > threshold,
                )
            )
        return tuple(hits)

    def report(
        self, place: str, model: Contract, names: Sequence[str], first: int = 0
    ) -> SearchReport:
        """Return what the queries of these names found, the first of them at `first`."""
        found = [QueryHits(query=name, hits=self.of(first + i)) for i, name in enumerate(names)]
        return SearchReport(gallery=place, query_model=model, queries=found, exact=self.exact)


class LeftOut(Record):
    """Rows of a source that cannot be stored, by what is wrong with them."""

    why: str
    rows: int
    first: tuple[str, ...] = Field(description="the keys of some of them")

    @property
    def names(self) -> str:
        """Return the keys of some of them, in words."""
        return ", ".join(self.first) + (", …" if self.rows > len(self.first) else "")


class SourceImport(Record):
    """What was taken over from another program."""

    source: str = Field(description="without a password")
    source_digest: str = Field(description="SHA-256 of the keys, labels and vectors that were read")
    contract: Contract
    notes: tuple[str, ...] = Field(description="what to know of these vectors")
    left_out: tuple[LeftOut, ...]
    stored: ImportReport
