"""The rules of a gallery, whatever keeps it: what may be stored, and what may be compared.

Two hold at every commit, so that every score that a search returns was allowed by a gate: each
row's contract is the query model's or is reached by a recorded edge from it; and vectors are
compared under no other model than the query model (but beside it, for people to look at).
"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mixbct.errors import ContractError, FeatureError, GalleryError, SwitchedError
from mixbct.gallery.records import Stored, Switch
from mixbct.gallery.snapshot import Snapshot
from mixbct.schemas.contract import Contract
from mixbct.schemas.gate import Edge
from mixbct.schemas.linear_map import LinearMap

_NOT_IN_NAMES = re.compile(r"[\0\n\ud800-\udfff]")


def edges_from(snapshot: Snapshot, query: Contract, given: Sequence[Edge] = ()) -> dict[str, Edge]:
    """Return the edges from a query model, by the id of the contract that they reach.

    `given` are edges that are not recorded; they come in place of those that are.
    """
    edges = [edge for edge in (*snapshot.edges(), *given) if edge.from_contract.id == query.id]
    return {edge.to_contract.id: edge for edge in edges}


def side_of(edge: Edge | None) -> LinearMap | None:
    """Return the map that stored rows go through behind an edge, if there is one."""
    return edge.bridge.gallery if edge and edge.bridge else None


def with_edges(
    snapshot: Snapshot, query: Contract, given: Sequence[Edge] = ()
) -> list[tuple[Stored, Edge | None]]:
    """Return what is stored, with the edge from a query model to it; None: there is none."""
    reached = edges_from(snapshot, query, given)
    return [(stored, reached.get(stored.contract.id)) for stored in snapshot.contracts()]


def rows_in(snapshot: Snapshot) -> int:
    """Return how many rows a gallery has."""
    return sum(stored.rows for stored in snapshot.contracts())


def untied(snapshot: Snapshot, query: Contract, given: Sequence[Edge] = ()) -> list[Stored]:
    """Return what is stored and cannot be searched by `query`."""
    every = with_edges(snapshot, query, given)
    return [stored for stored, edge in every if not edge and stored.contract.id != query.id]


def require_tied(snapshot: Snapshot, query: Contract, given: Sequence[Edge] = ()) -> None:
    """Refuse a query model where an edge to a stored contract is missing."""
    if not (missing := untied(snapshot, query, given)):
        return
    rows = " and ".join(f"{s.rows:,} rows of {s.contract}" for s in missing)
    raise ContractError(
        f"{query} cannot be the query model: the gallery holds {rows}, and no passed gate "
        f"ties {query} to them. Run `mixbct gate` on an evaluation of {query} against "
        f"{' and against '.join(str(s.contract) for s in missing)} and give the edge that it "
        "writes (--edge), or embed those rows again with a model that is tied (enrol --replace)"
    )


def check_query(snapshot: Snapshot, contract: Contract) -> None:
    """Refuse queries of another model than the query model."""
    query = snapshot.query_model().contract
    if contract.id == query.id:
        return
    switches = snapshot.switches()
    was = any(switch.model.contract.id == contract.id for switch in switches)
    since = f", since {switches[-1].time}" if was else ""
    raise SwitchedError(
        f"the queries were embedded by {contract}, but the gallery's query model is {query}{since}"
        "; embed them with that one, or switch with `mixbct upgrade apply "
        f"{snapshot.database.place}`"
    )


def check_enrolled(snapshot: Snapshot, contract: Contract) -> None:
    """Refuse rows that the query model cannot search."""
    query = snapshot.query_model().contract
    if contract.id != query.id and contract.id not in edges_from(snapshot, query):
        raise ContractError(
            f"vectors of {contract} cannot be enrolled: no recorded edge leads to them "
            f"from the query model {query}; embed the items with that, or give the edge of "
            "`mixbct gate` on it against them to `mixbct upgrade apply`"
        )


def check_edge(edge: Edge, query: Contract) -> None:
    """Refuse an edge from another model, and one across which nothing can be compared."""
    if edge.from_contract.id != query.id:
        raise ContractError(
            f"the edge leads from {edge.from_contract} to {edge.to_contract}, but the new query "
            f"model is {query}; give the edge that `mixbct gate` wrote for that model"
        )
    dims = edge.from_contract.dim, edge.to_contract.dim
    if edge.bridge is None and dims[0] != dims[1]:
        raise ContractError(
            f"the edge ties {edge.from_contract} of {dims[0]} dimensions to {edge.to_contract} of "
            f"{dims[1]}, which cannot be compared without a bridge: fit one with `mixbct adapt`, "
            "or train the model with method.query_map"
        )
    if edge.bridge is not None:
        edge.bridge.check(edge.from_contract, edge.to_contract)


def led_back(switches: Sequence[Switch], place: str) -> Switch:
    """Return the switch that a rollback leads back to."""
    before = switches[-1].before
    if before is None:
        raise GalleryError(
            f"{place} was not switched since it was made, or what was before is pruned: there is "
            f"nothing to go back to; `mixbct upgrade status {place}` lists its switches"
        )
    return next(switch for switch in switches if switch.number == before)


def no_names(names: Sequence[str | None]) -> list[str]:
    """Return what cannot be a key or a label; only where one cannot, each is tried."""
    told = [name for name in names if name]
    return [*filter(_NOT_IN_NAMES.search, told)] if _NOT_IN_NAMES.search(" ".join(told)) else []


def check_dimension(vectors: Float[np.ndarray, "n d"], contract: Contract) -> None:
    """Refuse vectors that cannot be of a contract."""
    if vectors.shape[1] != contract.dim:
        raise FeatureError(
            f"the vectors have {vectors.shape[1]} dimensions, those of {contract} have "
            f"{contract.dim}: were they embedded by another model?"
        )


def named_contract(snapshot: Snapshot, name: str | None) -> Contract:
    """Return the contract that a person names, by name or id; None: the query model's.

    Raises:
        ContractError: the gallery knows none of that name.
    """
    known = [snapshot.query_model().contract]
    known += [switch.model.contract for switch in snapshot.switches()]
    known += [end for edge in snapshot.edges() for end in (edge.from_contract, edge.to_contract)]
    for each in known:
        if name in (None, each.name, each.id):
            return each
    told = ", ".join(dict.fromkeys(map(str, known)))
    raise ContractError(f"the gallery knows no contract {name!r}, but {told}")
