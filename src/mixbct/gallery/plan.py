"""What a switch would change, looked at beforehand: nothing is changed by looking."""

import time
from collections.abc import Sequence

from pydantic import Field

from mixbct.features.bridged import through
from mixbct.gallery.records import Stored
from mixbct.gallery.rules import check_edge, edges_from, require_tied, side_of
from mixbct.gallery.snapshot import Snapshot
from mixbct.schemas.contract import Contract
from mixbct.schemas.gate import Edge, GateOutcome
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.record import Record


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


def plan_of(
    snapshot: Snapshot, contract: Contract, edges: Sequence[Edge], place: str
) -> UpgradePlan:
    """Return what a switch to `contract` over `edges`, and those that are recorded, would change.

    Raises:
        ContractError: as the switch itself would.
    """
    for edge in edges:
        check_edge(edge, contract)
    require_tied(snapshot, contract, edges)
    reached = edges_from(snapshot, contract, edges)
    before = snapshot.query_model().contract
    return UpgradePlan(
        gallery=place,
        before=before,
        query_model=contract,
        rows=tuple(
            _planned(snapshot, stored, reached.get(stored.contract.id))
            for stored in snapshot.contracts()
        ),
        found_after_rollback=contract.id in {before.id, *edges_from(snapshot, before)},
    )


def to_build(
    snapshot: Snapshot, contract: Contract, edges: Sequence[Edge]
) -> list[tuple[Contract, LinearMap | None]]:
    """Return which rows have no index yet that a search would need, and the map they go through."""
    reached = edges_from(snapshot, contract, edges)
    needed = [(each, side_of(reached.get(each.id))) for each, _ in snapshot.contracts()]
    return [each for each in needed if snapshot.ready(*each) is None]


def _planned(snapshot: Snapshot, stored: Stored, edge: Edge | None) -> PlannedRows:
    contract, rows = stored
    side = side_of(edge)
    size, seconds = 0, 0.0
    if snapshot.ready(contract, side) is None:
        began = time.perf_counter()
        sample = through(side, next(snapshot.blocks(contract)).vectors)
        seconds = (time.perf_counter() - began) * rows / len(sample)
        size = rows * (8 + 4 * sample.shape[1])
    return PlannedRows(
        contract=contract,
        rows=rows,
        threshold=edge.threshold if edge else None,
        far=edge.far if edge else None,
        bridge=str(edge.bridge) if edge and edge.bridge else None,
        index_bytes=size,
        seconds=seconds,
    )
