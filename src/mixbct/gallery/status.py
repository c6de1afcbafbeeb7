"""A gallery at one moment, and as a switch would leave it: nothing is changed by looking."""

import time
from collections.abc import Sequence

from mixbct.features.bridged import through
from mixbct.gallery import records, rules
from mixbct.gallery.search import decision
from mixbct.gallery.snapshot import Snapshot
from mixbct.schemas.contract import Contract
from mixbct.schemas.gate import Edge
from mixbct.schemas.linear_map import LinearMap


def status_of(snapshot: Snapshot) -> records.GalleryStatus:
    """Return what a gallery holds, and what its next search has to build."""
    query, recorded = snapshot.query_model(), snapshot.edges()
    own, contracts = query.contract, []
    for (contract, rows), edge in rules.with_edges(snapshot, own):
        threshold = decision(recorded, own, contract, None, edge, False).threshold
        ready = snapshot.ready(contract, rules.side_of(edge))
        contracts.append(
            records.ContractRows(
                contract=contract, rows=rows, threshold=threshold, cached_rows=ready
            )
        )
    return records.GalleryStatus(
        gallery=snapshot.database.place,
        query_model=own,
        model_folder=str(query.folder) if query.folder else None,
        rows=rules.rows_in(snapshot),
        own_rows=sum(each.rows for each in contracts if each.contract.id == own.id),
        contracts=tuple(contracts),
        edges=tuple(map(_edge_status, recorded)),
        switches=tuple(snapshot.switches()),
        size_bytes=snapshot.store.size(),
        searched_by=snapshot.searched_by(),
    )


def plan_of(snapshot: Snapshot, contract: Contract, edges: Sequence[Edge]) -> records.UpgradePlan:
    """Return what a switch to `contract` over `edges`, and those that are recorded, would change.

    Raises:
        ContractError: as the switch itself would.
    """
    for edge in edges:
        rules.check_edge(edge, contract)
    rules.require_tied(snapshot, contract, edges)
    before = snapshot.query_model().contract
    return records.UpgradePlan(
        gallery=snapshot.database.place,
        before=before,
        query_model=contract,
        rows=tuple(
            _planned(snapshot, *each) for each in rules.with_edges(snapshot, contract, edges)
        ),
        found_after_rollback=contract.id in {before.id, *rules.edges_from(snapshot, before)},
    )


def to_build(
    snapshot: Snapshot, contract: Contract, edges: Sequence[Edge]
) -> list[tuple[Contract, LinearMap | None]]:
    """Return which rows have no index yet that a search would need, and the map they go through."""
    every = rules.with_edges(snapshot, contract, edges)
    needed = [(stored.contract, rules.side_of(edge)) for stored, edge in every]
    return [each for each in needed if snapshot.ready(*each) is None]


def _edge_status(edge: Edge) -> records.EdgeStatus:
    known = edge.model_dump(include=records.EdgeStatus.model_fields.keys() - {"bridge"})
    return records.EdgeStatus(**known, bridge=str(edge.bridge) if edge.bridge else None)


def _planned(snapshot: Snapshot, stored: records.Stored, edge: Edge | None) -> records.PlannedRows:
    contract, rows = stored
    side = rules.side_of(edge)
    size, seconds = 0, 0.0
    if snapshot.ready(contract, side) is None:
        began = time.perf_counter()
        sample = through(side, next(snapshot.blocks(contract)).vectors)
        seconds = (time.perf_counter() - began) * rows / len(sample)
        size = rows * (8 + 4 * sample.shape[1])
    return records.PlannedRows(
        contract=contract,
        rows=rows,
        threshold=edge.threshold if edge else None,
        far=edge.far if edge else None,
        bridge=str(edge.bridge) if edge and edge.bridge else None,
        index_bytes=size,
        seconds=seconds,
    )
