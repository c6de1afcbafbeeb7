"""A gallery at one moment, for people."""

from mixbct.gallery.enrolment import rows_in
from mixbct.gallery.records import ContractRows, EdgeStatus, GalleryStatus, Switch, SwitchStatus
from mixbct.gallery.rules import edges_from
from mixbct.gallery.search import decision
from mixbct.gallery.store import Snapshot
from mixbct.schemas.gate import Edge


def status_of(snapshot: Snapshot, place: str, size: int) -> GalleryStatus:
    """Return what a gallery holds, and what its next search has to build."""
    query = snapshot.query_model()
    edges = edges_from(snapshot, query.contract)
    contracts = []
    for stored in snapshot.contracts():
        edge = edges.get(stored.contract.id)
        side = edge.bridge.gallery if edge and edge.bridge else None
        contracts.append(
            ContractRows(
                contract=stored.contract,
                rows=stored.rows,
                threshold=decision(
                    snapshot.edges(), query.contract, stored.contract, None, edge, False
                ).threshold,
                cached_rows=snapshot.ready(stored.contract, side),
            )
        )
    return GalleryStatus(
        gallery=place,
        query_model=query.contract,
        model_folder=str(query.folder) if query.folder else None,
        rows=rows_in(snapshot),
        contracts=tuple(contracts),
        edges=tuple(map(_edge_status, snapshot.edges())),
        switches=tuple(map(_switch_status, snapshot.switches())),
        size_bytes=size,
    )


def _edge_status(edge: Edge) -> EdgeStatus:
    known = edge.model_dump(include=EdgeStatus.model_fields.keys() - {"bridge"})
    return EdgeStatus(**known, bridge=str(edge.bridge) if edge.bridge else None)


def _switch_status(switch: Switch) -> SwitchStatus:
    return SwitchStatus(
        number=switch.number,
        model=switch.model.contract,
        time=switch.time,
        before=switch.before,
        restores=switch.restores,
    )
