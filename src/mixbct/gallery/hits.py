"""What a search found."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from mixbct.gallery.records import Hit
from mixbct.gallery.store import Item
from mixbct.schemas.gate import Edge
from mixbct.schemas.model import Contract


@dataclass(frozen=True)
class Hits:
    """What a batch of queries found, best first; k is smaller where there are fewer rows."""

    scores: Float32[np.ndarray, "q k"]
    """Cosines."""
    ids: Int64[np.ndarray, "q k"]
    items: Mapping[int, Item]
    """Key, label and contract id, by id."""
    contracts: Mapping[str, Contract]
    """The stored contracts, by contract id."""
    edges: Mapping[str, Edge]
    """The edges that the queries crossed, by the stored contract's id."""

    def of(self, query: int) -> tuple[Hit, ...]:
        """Return what one query found."""
        found = zip(self.ids[query].tolist(), self.scores[query].tolist(), strict=True)
        return tuple(self._hit(rank, id, score) for rank, (id, score) in enumerate(found, 1))

    def _hit(self, rank: int, id: int, score: float) -> Hit:
        key, label, contract_id = self.items[id]
        edge = self.edges.get(contract_id)
        return Hit(
            rank=rank,
            key=key,
            label=label,
            score=score,
            contract=str(self.contracts[contract_id]),
            accepted=score > edge.threshold if edge else None,
        )
