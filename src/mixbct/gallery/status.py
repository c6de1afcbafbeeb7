"""A gallery at one moment, for people."""

from mixbct.gallery.enrolment import rows_in
from mixbct.gallery.records import ContractRows, EdgeStatus, GalleryStatus
from mixbct.gallery.rules import edges_from, side_of
from mixbct.gallery.search import decision
from mixbct.gallery.snapshot import Snapshot
from mixbct.schemas.gate import Edge


def status_of(snapshot: Snapshot, place: str, size: int) -> GalleryStatus:
    """Return what a gallery holds, and what its next search has to build."""
    query = snapshot.query_model()
    edges, recorded = edges_from(snapshot, query.contract), snapshot.edges()
    contracts = []
    for stored in snapshot.contracts():
        edge = edges.get(stored.contract.id)
        contracts.append(
            ContractRows(
                contract=stored.contract,
                rows=stored.rows,
                threshold=decision(
                    recorded, query.contract, stored.contract, None, edge, False
                ).threshold,
                cached_rows=snapshot.ready(stored.contract, side_of(edge)),
            )
        )
    return GalleryStatus(
        gallery=place,
        query_model=query.contract,
        model_folder=str(query.folder) if query.folder else None,
        rows=rows_in(snapshot),
        own_rows=sum(each.rows for each in contracts if each.contract.id == query.contract.id),
        contracts=tuple(contracts),
        edges=tuple(map(_edge_status, recorded)),
        switches=tuple(snapshot.switches()),
        size_bytes=size,
        searched_by=snapshot.searched_by(),
    )


def _edge_status(edge: Edge) -> EdgeStatus:
    known = edge.model_dump(include=EdgeStatus.model_fields.keys() - {"bridge"})
    return EdgeStatus(**known, bridge=str(edge.bridge) if edge.bridge else None)
