"""One search over rows of several contracts: each in its own space, decided, ranked together."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from mixbct.errors import ContractError, GalleryError
from mixbct.features.bridged import both_queries, through
from mixbct.gallery.records import Hits
from mixbct.gallery.rules import check_dimension, edges_from, side_of
from mixbct.gallery.snapshot import Snapshot
from mixbct.schemas.calibration import Calibration
from mixbct.schemas.contract import Contract
from mixbct.schemas.gate import Edge


class Decision(NamedTuple):
    """How queries of one kind and rows of one contract are decided; None: nobody can say."""

    threshold: float | None
    calibration: Calibration | None


def search(
    snapshot: Snapshot,
    queries: Float32[np.ndarray, "q d"],
    contract: Contract,
    k: int,
    far: float | None,
    old: tuple[Float32[np.ndarray, "q e"], Contract | None] | None,
) -> Hits:
    """Return the k nearest rows of unit queries over all contracts; see `Gallery.search`.

    Those that `contract` is not tied to are passed over.
    """
    edges, recorded = edges_from(snapshot, contract), snapshot.edges()
    both = edge_of_both(edges, contract, old[1]) if old else None
    contracts = {each.id: each for each, _ in snapshot.contracts()}
    contracts = {id: each for id, each in contracts.items() if id in {contract.id, *edges}}
    found, decided = [], []
    for id, each in contracts.items():
        edge = edges.get(id)
        side, mixed = side_of(edge), edge is not None and edge is both
        mapped = through(edge.bridge.query if edge and edge.bridge else None, queries)
        if old and both and mixed:
            check_dimension(old[0], each)
            mapped = both_queries(through(side, old[0]), mapped, both.old_queries or 0)
        found.append(snapshot.search(each, mapped, k, side))
        decided.append(decision(recorded, contract, each, far, edge, mixed))
    rates = [
        np.full(one.scores.shape, np.nan) if known is None else known.rate(one.scores)
        for one, (_, known) in zip(found, decided, strict=True)
    ]
    parts = [each.scores for each in found], rates, [each.ids for each in found]
    none = [np.empty((len(queries), 0), kind) for kind in (np.float32, np.float64, np.int64)]
    ranks = np.concatenate([none[0], *_ranks(parts[0], decided)], axis=1)
    best = np.argsort(-ranks, axis=1, kind="stable")[:, :k]
    scores, rate, ids = (
        np.take_along_axis(np.concatenate([empty, *part], axis=1), best, 1)
        for empty, part in zip(none, parts, strict=True)
    )
    items = snapshot.items(np.unique(ids).tolist())
    thresholds = {id: one.threshold for id, one in zip(contracts, decided, strict=True)}
    exact = all(each.exact for each in found)
    return Hits(scores, rate, ids, items, contracts, thresholds, exact)


def decision(
    recorded: Sequence[Edge],
    query: Contract,
    rows: Contract,
    far: float | None,
    edge: Edge | None,
    both: bool,
) -> Decision:
    """Return how rows of one contract are decided.

    Rows of the query model's own are calibrated by any edge from it, or, before a switch and after
    its undoing, by one that leads to it.

    Args:
        recorded: every edge.
        query: the query model's contract.
        rows: theirs.
        far: the false-accept rate that is wanted; None: the edge's own.
        edge: from the query model to them; None: they are its own.
        both: the old model's query is mixed in.

    Raises:
        GalleryError: `far` is wanted, and there is no calibration, or one of too few pairs.
    """
    known = [(c, e.far) for e in recorded if (c := e.calibration(query, rows, both))]
    found, own = max(known, key=lambda one: one[0].pairs) if known else (None, 0.0)
    if far is not None and (found is None or far < found.least):
        has = f"{found.pairs:,} impostor pairs, for {found.least:.1e} at least" if found else "none"
        raise GalleryError(
            f"queries by {query} against rows of {rows} cannot be decided at a false-accept rate "
            f"of {far:g}, going by the calibration of their edge ({has}): evaluate on more items, "
            "and run the gate again for an edge"
        )
    if found is None:
        return Decision(edge.threshold if edge and not both else None, None)
    return Decision(found.threshold(far or own), found)


def edge_of_both(edges: dict[str, Edge], query: Contract, old: Contract | None) -> Edge:
    """Return the edge across which the old model's query is mixed into the new one's.

    Raises:
        ContractError: no edge leads to the old model, or it has no share for both.
    """
    shared = [edge for edge in edges.values() if edge.old_queries is not None]
    found = [edge for edge in shared if old is None or edge.to_contract.id == old.id]
    if len(found) != 1:
        there = ", ".join(str(edge.to_contract) for edge in shared) or "none"
        raise ContractError(
            f"queries by {query} and {old or 'the old model'} cannot be one: of its edges, those "
            f"with a share for both queries lead to: {there}. Evaluate with a --split, on whose "
            "training items the share is chosen, and give the edge of `mixbct gate` on that"
        )
    return found[0]


def own_vectors(
    snapshot: Snapshot, keys: Sequence[str], contract: Contract | None = None
) -> Float32[np.ndarray, "n d"]:
    """Return the stored vectors of items that a model enrolled; None: the query model.

    Raises:
        GalleryError: an item is not there.
        ContractError: another model enrolled it.
    """
    ids, query = snapshot.ids(keys), contract or snapshot.query_model().contract
    items = snapshot.items(ids.values())
    for key in keys:
        if key not in ids:
            raise GalleryError(f"the gallery has no item {key!r}: its hits show keys")
        if items[ids[key]].contract_id != query.id:
            raise ContractError(
                f"{key!r} was enrolled by another model than {query}: search with its image, or "
                "with a vector of that model"
            )
    found = snapshot.vectors(ids.values())
    return np.stack([found[ids[key]] for key in keys])


def _ranks(scores: Sequence[np.ndarray], decided: Sequence[Decision]) -> list[np.ndarray]:
    """Return by what rows of several contracts are ranked: by cosine, unless all are calibrated."""
    known = [each.calibration for each in decided if each.calibration]
    if len(known) < max(2, len(scores)):
        return list(scores)
    lines = [each.line() for each in known]
    return [(one - begin) / width for one, (begin, width) in zip(scores, lines, strict=True)]
