"""How one model's queries reach the space of an older one: through its map, or through several."""

from collections.abc import Sequence
from itertools import pairwise

from mixbct.data.bank import normalise
from mixbct.errors import ContractError
from mixbct.evaluation.scores import Embeddings
from mixbct.features.stored import Embedder
from mixbct.schemas.linear_map import LinearMap


def map_to(new: Embedder, old: Embedder, via: Sequence[Embedder] = ()) -> LinearMap | None:
    """Return the map of a model's queries into the space of an older one; None: it needs none.

    Args:
        new: whose queries they are.
        old: whose vectors they are to search.
        via: the generations between, newest first, where the map leads through theirs.

    Raises:
        ContractError: a map on the way leads to another model.
        FeatureError: maps on the way do not make one linear map.
    """
    found: LinearMap | None = None
    for upper, lower in pairwise([new, *via, old]):
        if upper.query_map is None:
            continue
        if upper.query_map.to.id != lower.contract.id:
            raise ContractError(
                f"the query map of {upper.contract} leads to {upper.query_map.to}, not to "
                f"{lower.contract}: compare it with the model whose bank it was trained against, "
                "or name the generations between (--via)"
            )
        found = upper.query_map.map if found is None else found.then(upper.query_map.map)
    return found


def queries_across(
    new: Embedder,
    old: Embedder,
    queries: Embeddings,
    via: Sequence[Embedder] = (),
) -> Embeddings | None:
    """Return a model's queries in the space of an older one; None where `map_to` has no map."""
    query_map = map_to(new, old, via)
    if query_map is None:
        return None
    return Embeddings(normalise(query_map.apply(queries.features)), queries.labels)
