"""What a score means: by which calibration it is decided, and ranked beside those of others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from mixbct.errors import ContractError, GalleryError
from mixbct.schemas.calibration import Calibration
from mixbct.schemas.contract import Contract
from mixbct.schemas.gate import Edge


@dataclass(frozen=True)
class Decision:
    """How queries of one kind and rows of one contract are decided; None: nobody can say."""

    threshold: float | None = None
    calibration: Calibration | None = None

    def rates(self, scores: Float32[np.ndarray, "q k"]) -> Float64[np.ndarray, "q k"]:
        """Return the false-accept rate of each score; NaN where it is not known."""
        known = self.calibration
        return np.full(scores.shape, np.nan) if known is None else known.rate(scores)


def decision(
    edges: Iterable[Edge], query: Contract, rows: Contract, far: float | None, both: bool
) -> Decision:
    """Return how rows of one contract are decided.

    Rows of the query model's own are calibrated by any edge from it, or, before a switch and after
    its undoing, by one that leads to it.

    Args:
        edges: that are recorded.
        query: the query model's contract.
        rows: theirs.
        far: the false-accept rate that is wanted; None: the edge's own.
        both: the old model's query is mixed in.

    Raises:
        GalleryError: `far` is wanted, and there is no calibration, or one of too few pairs.
    """
    pairs = [
        (edge, pair)
        for edge in edges
        for pair, ends in (
            ("new+old/old" if both else "new/old", (edge.from_contract, edge.to_contract)),
            ("new/new", (edge.from_contract,) * 2),
            ("old/old", (edge.to_contract,) * 2),
        )
        if [end.id for end in ends] == [query.id, rows.id]
    ]
    known = [(e, p, c) for e, p in pairs if (c := e.calibrations.get(p))]
    edge, pair, found = max(known, key=lambda one: one[2].pairs) if known else (None, "", None)
    if far is not None and (found is None or far < found.least):
        why = f"{found.pairs:,} impostor pairs, {found.least:.1e}" if found else "no calibration"
        raise GalleryError(
            f"queries by {query} against rows of {rows} cannot be decided at a false-accept rate "
            f"of {far:g}: their edge has {why}{' at least' if found else ''}; evaluate on more "
            "items, and run the gate again for an edge"
        )
    if edge is None or found is None:
        plain = [edge.threshold for edge, pair in pairs if pair == "new/old"]
        return Decision(plain[0] if plain else None)
    own = edge.threshold if pair == "new/old" and far is None else None
    return Decision(found.threshold(far or edge.far) if own is None else own, found)


def ranked(
    scores: Sequence[Float32[np.ndarray, "q _"]], decisions: Sequence[Decision]
) -> list[np.ndarray]:
    """Return by what rows of several contracts are ranked together: a line through two rates.

    It is the cosine where there is one contract alone, or one without a calibration. The first of
    `scores` are of no row, and of no decision.
    """
    known = [each.calibration for each in decisions if each.calibration]
    if len(decisions) < 2 or len(known) < len(decisions):
        return list(scores)
    lines = [(0.0, 1.0), *(each.line() for each in known)]
    return [(one - begin) / width for one, (begin, width) in zip(scores, lines, strict=True)]


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
