"""How one model's queries meet the rows of an older one: through its bridge, or through several."""

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise

from pydantic import ValidationError

from mixbct.errors import ContractError, FeatureError
from mixbct.evaluation.scores import Embeddings, Pair
from mixbct.features.bridged import through
from mixbct.features.extract import Embedder
from mixbct.schemas.bridge import Bridge
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.record import first_problem


def bridges_between(
    new: Embedder, old: Embedder, via: Sequence[Embedder] = (), given: Sequence[Bridge] = ()
) -> list[Bridge]:
    """Return the bridges from a model's queries to an older one's rows, in their order.

    Args:
        new: whose queries they are.
        old: whose vectors they are to search.
        via: the generations between, newest first, where the way leads through theirs.
        given: bridges that were fitted between two of these, in the place of the models' own; one
            from `new` to `old` is the whole way.

    Raises:
        ContractError: a bridge on the way leads between other models.
        FeatureError: a bridge on the way maps the rows as well, so that none can follow it.
    """
    fitted = {(each.source.id, each.target.id): each for each in given}
    if direct := fitted.get((new.contract.id, old.contract.id)):
        return [direct]
    found: list[Bridge] = []
    for upper, lower in pairwise([new, *via, old]):
        bridge = fitted.get((upper.contract.id, lower.contract.id), upper.bridge)
        if bridge is None:
            continue
        if bridge.target.id != lower.contract.id:
            raise ContractError(
                f"the bridge of {upper.contract} leads to {bridge.target}, not to "
                f"{lower.contract}: compare it with the model whose bank it was trained against, "
                "name the generations between (--via), or fit a bridge (`mixbct adapt`) and name "
                "it with --bridge"
            )
        if found and found[-1].gallery is not None:
            raise FeatureError(
                f"queries by {found[-1].source} meet mapped rows of {found[-1].target}, not the "
                f"rows themselves, and cannot go on from there to {old.contract}: fit a bridge "
                f"from {new.contract} to {old.contract} with `mixbct adapt`, and name it with "
                "--bridge"
            )
        found.append(bridge)
    return found


def bridge_between(
    new: Embedder, old: Embedder, via: Sequence[Embedder] = (), given: Bridge | None = None
) -> Bridge | None:
    """Return `bridges_between` as one, which an edge can hold; None: there is none.

    Raises:
        ContractError: see there.
        FeatureError: see there; or their maps do not make one linear map, or do not fit.
    """
    if given is not None:
        given.check(new.contract, old.contract)
    found = bridges_between(new, old, via, [given] if given else [])
    if not found or not via:
        return found[0] if found else None
    maps = [each.query for each in found if each.query]
    try:
        return Bridge(
            kind=", ".join(each.kind for each in found),
            source=new.contract,
            target=old.contract,
            query=reduce(LinearMap.then, maps) if maps else None,
            gallery=found[-1].gallery,
        )
    except ValidationError as error:
        raise FeatureError(
            f"the bridges from {new.contract} to {old.contract} do not follow each other: "
            f"{first_problem(error)}"
        ) from None


def across(bridges: Sequence[Bridge], query: Embeddings, gallery: Embeddings) -> Pair:
    """Return both sides as they meet behind bridges; as they are where there is none."""
    for each in bridges:
        query = _side(each.query, query)
    return Pair(query, _side(bridges[-1].gallery, gallery) if bridges else gallery)


def _side(side: LinearMap | None, embeddings: Embeddings) -> Embeddings:
    # what stays as it is stays the same object, which tells that there is one space
    if side is None:
        return embeddings
    return Embeddings(through(side, embeddings.features), embeddings.labels)
