"""What a new model is measured beside: what can be had without training it to be compatible.

    whiten/old      the old model alone, whitened on both sides: no new model, tonight
    new+old/old     the queries of both models as one (`both_queries`), where the old one still runs
    KIND/old        an independent model behind a bridge of that kind
    chosen/old      the same behind the kind that is best on training classes
    chosen+old/old  the same, its queries and the old model's as one

All is fitted and chosen on training items. What cannot be had is left out, with the reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mixbct.errors import DataError, FeatureError
from mixbct.evaluation.scores import Embeddings, Pair
from mixbct.features.bridged import both_queries
from mixbct.features.extract import Embedder
from mixbct.schemas.bridge import IDENTITY, Bridge
from mixbct.schemas.result import FREE
from mixbct.workflows.across import across
from mixbct.workflows.adapt import CHOOSE, PairedItems, fit_bridge
from mixbct.workflows.choose import choose_share, fit_maps
from mixbct.workflows.progress import Stage

CHOSEN = "chosen"
Items = Callable[[Embedder, Embedder, Stage], PairedItems]


@dataclass
class Rivals:
    """Sides that meet, by the name of their queries, and what is to be said of them."""

    sides: dict[str, Pair] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    chosen: str | None = None
    old_queries: float | None = None


def rivals_of(models: Mapping[str, Embedder], adapters: Sequence[str]) -> list[str]:
    """Return the names of the queries that there will be, had or left out."""
    strangers = [*adapters, CHOSEN, f"{CHOSEN}+old"] if "independent" in models else []
    return [FREE, "new+old", *strangers]


def find_rivals(
    models: Mapping[str, Embedder],
    pairs: Mapping[str, Pair],
    bridge: Bridge | None,
    adapters: Sequence[str],
    items: Items,
    stage: Stage,
) -> Rivals:
    """Fit on training items what the test set is searched with beside the new model.

    Args:
        models: by role: old, new, and perhaps independent.
        pairs: what each made of the test set.
        bridge: between new and old.
        adapters: of the independent model.
        items: gives the training items as two models see them, or raises a FeatureError.
        stage: opens a stage of the progress display.
    """
    found = Rivals()
    bridges: dict[str, Bridge | None] = {"new": bridge}

    def behind(name: str) -> Pair:
        role, kind = ("old", FREE) if name == FREE else ("independent", name)
        paired = items(models[role], models["old"], stage)
        with stage(f"fit {name}"):
            fitted = fit_bridge(CHOOSE if name == CHOSEN else kind, paired)
        if name == CHOSEN:
            bridges[CHOSEN], found.chosen = fitted, fitted.kind
        return across([fitted], pairs[role].query, pairs["old"].gallery)

    def both(name: str) -> Pair:
        if name not in bridges:
            raise FeatureError("there is no chosen bridge")
        role = "new" if name == "new" else "independent"
        paired = items(models[role], models["old"], stage)
        with stage(f"choose the share of {name} in {name}+old"):
            share, sides = with_old_queries(bridges[name], pairs[role], pairs["old"], paired)
        if name == "new":
            found.old_queries = share
        return sides

    for name in rivals_of(models, adapters):
        one, plus, _ = name.partition("+")
        try:
            found.sides[name] = both(one) if plus else behind(name)
        except (FeatureError, DataError) as error:
            found.left_out[f"{name}/old"] = str(error)
    return found


def with_old_queries(
    way: Bridge | None, new: Pair, old: Pair, paired: PairedItems
) -> tuple[float, Pair]:
    """Return the share of the new query that is best on training items, and both queries as one.

    Args:
        way: from new queries to old rows; None: they meet as they are.
        new: what the new model made of the test set; of it only queries are looked at.
        old: what the old model made of it.
        paired: the training items.

    Raises:
        FeatureError: the training items have too few classes to choose by.
    """
    maps = (way.query, way.gallery) if way else fit_maps(IDENTITY, paired.pairs)
    share = choose_share(maps, paired.pairs)
    ways = [way] if way else []
    met = across(ways, new.query, old.query)
    mixed = both_queries(met.gallery.features, met.query.features, share)
    gallery = across(ways, new.query, old.gallery).gallery
    return share, Pair(Embeddings(mixed, met.query.labels), gallery)
