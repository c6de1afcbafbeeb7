"""A whole upgrade, judged on unseen classes: every combination, and what differs between them.

Combinations are named query/gallery: old/old, new/old (the cross-test), new/new, independent/old
(the naive swap), procrustes/old (the independent model's queries behind that bridge), whiten/old
(the old model's own, whitened on both sides) and so on; `10 % new` is the old gallery with that
share of its rows enrolled again by the new model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int64

from mixbct.data.source import unseen
from mixbct.distributed import row_rng
from mixbct.errors import DataError
from mixbct.evaluation.bootstrap import REPLICATES, Replicates, class_weights, estimate
from mixbct.evaluation.combination import Judged, judge_sides
from mixbct.evaluation.comparison import FARS, compare
from mixbct.evaluation.scores import Embeddings, check_dimensions
from mixbct.evaluation.thresholds import Threshold, false_accept_rate
from mixbct.schemas.result import FREE, CarriedThreshold, Combination, Difference, Estimate

CARRIED_FAR = 1e-3
MIXED_SHARES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Pair:
    """What one model made of the queries and of the gallery."""

    query: Embeddings
    gallery: Embeddings


@dataclass(frozen=True)
class UpgradeFigures:
    """The part of a `Result` that evaluation fills in; the fields have the same names there.

    `replicates` is what a result does not hold: by combination and metric, every bootstrap
    replicate, of the same drawn classes whatever the models, so that results can be paired.
    """

    classes: int
    combinations: dict[str, Combination]
    differences: tuple[Difference, ...]
    update_gain: Estimate | None
    negative_flips: float
    carried_threshold: CarriedThreshold
    replicates: dict[str, dict[str, Replicates]] = field(compare=False)

    def content(self) -> dict[str, Any]:
        """Return what a `Result` holds of it, by name."""
        return {name: value for name, value in vars(self).items() if name != "replicates"}


def evaluate_upgrade(
    old: Pair,
    new: Pair,
    independent: Pair | None = None,
    mapped: Mapping[str, Pair] | None = None,
    *,
    cross: Pair | None = None,
    seed: int,
    replicates: int = REPLICATES,
    mixed: tuple[float, ...] = MIXED_SHARES,
    progress: Callable[[int, int], None] = unseen,
) -> UpgradeFigures:
    """Evaluate an upgrade from `old` to `new`.

    Args:
        old: the deployed model's vectors.
        new: the compatible model's, row for row of the same items.
        independent: the same by a model that was trained without regard to the old one.
        mapped: other queries and the old gallery as they meet, by the queries' name: those of the
            independent model behind a bridge by its kind, `whiten` for the old model's own.
        cross: the new model's queries and the old gallery behind their bridge; None: they are
            compared as they are.
        seed: of the bootstrap, of the split into halves and of the mixed galleries.
        replicates: bootstrap replicates.
        mixed: shares of the gallery that the new model has enrolled again. The rows are random
            and nested: those of a smaller share belong to every larger one.
        progress: called with (comparisons done, comparisons in all).

    Raises:
        FeatureError: queries differ in dimension from the old gallery that they search.
        DataError: the models were given different items, or the items cannot be compared.
    """
    mapped = mapped or {}
    cross = cross or Pair(new.query, old.gallery)
    pairs = {"new": new, **({"independent": independent} if independent else {}), **mapped}
    for name, pair in (pairs | {"bridged": cross}).items():
        check_same_items(name, pair, old)
    check_dimensions(cross.query.dim, cross.gallery.dim, "new queries", "old vectors")
    sides = {"old/old": old, "new/old": cross, "new/new": new}
    if independent is not None:
        sides["independent/independent"] = independent
        if independent.query.dim == old.gallery.dim:
            sides["independent/old"] = Pair(independent.query, old.gallery)
    sides |= {f"{name}/old": both for name, both in mapped.items()}
    for share in mixed:
        sides[f"new/{100 * share:g} % new"] = Pair(*mixed_sides(new, cross, share, seed))
    weights = class_weights(len(old.query.classes), replicates, seed)
    judged: dict[str, Judged] = {}
    for name, both in sides.items():
        judged[name] = judge_sides(name, both.query, both.gallery, weights, FARS)
        progress(len(judged), len(sides))

    base, crossed = judged["old/old"], judged["new/old"]
    oracle = judged.get("independent/independent")
    compared = [(name, "old/old") for name in judged if name != "old/old"]
    if f"{FREE}/old" in judged:
        compared.append(("new/old", f"{FREE}/old"))
    if oracle is not None:
        compared.append(("new/new", "independent/independent"))
    carried = next(t for t in base.thresholds if t.far == CARRIED_FAR)
    return UpgradeFigures(
        classes=len(np.intersect1d(old.query.classes, old.gallery.classes)),
        combinations={name: each.combination for name, each in judged.items()},
        differences=tuple(
            Difference(of=of, minus=minus, metrics=judged[of].minus(judged[minus]))
            for of, minus in compared
        ),
        update_gain=_update_gain(base, crossed, oracle),
        negative_flips=negative_flips(base.rank, crossed.rank),
        carried_threshold=carry_threshold(carried, cross.query, cross.gallery, seed=seed),
        replicates={name: each.replicates for name, each in judged.items()},
    )


def carry_threshold(
    old: Threshold, query: Embeddings, gallery: Embeddings, *, seed: int
) -> CarriedThreshold:
    """Set a threshold for the cross-test on half of the query classes, measure it on the rest.

    Both the threshold and the two rates are exact, over all impostor pairs of their classes.

    Args:
        old: where the old system reaches the rate, on all classes.
        query: the new model's queries.
        gallery: the old model's gallery.
        seed: of the split into halves.

    Raises:
        DataError: there is only one query class, or a half lacks genuine or impostor pairs.
    """
    if len(query.classes) < 2:
        raise DataError(
            "a threshold is set on half of the query classes and measured on the other half: "
            "at least 2 classes are needed, there is 1"
        )
    shuffled = row_rng(seed, len(query.classes)).permutation(query.classes)
    chosen = np.isin(query.labels, shuffled[: len(shuffled) // 2])
    calibration = query.take(np.flatnonzero(chosen))
    rest = query.take(np.flatnonzero(~chosen))
    (cross,) = compare(calibration, gallery, fars=(old.far,)).thresholds
    return CarriedThreshold(
        far=old.far,
        old_threshold=old.value,
        far_at_old_threshold=false_accept_rate(query, gallery, old.value),
        threshold=cross.value,
        measured_far=false_accept_rate(rest, gallery, cross.value),
    )


def mixed_sides(new: Pair, cross: Pair, share: float, seed: int) -> tuple[Embeddings, Embeddings]:
    """Return queries and a gallery of which a random `share` is enrolled again by the new model.

    Where the queries search the two kinds of rows with two vectors, both stand side by side, and
    a gallery row has zeros in the other's place: one product then gives each row its own score.
    """
    again = mixed_rows(len(cross.gallery), share, seed)
    if cross.query is new.query:
        features = cross.gallery.features.copy()
        features[again] = new.gallery.features[again]
        return new.query, Embeddings(features, cross.gallery.labels)
    queries = np.concatenate([new.query.features, cross.query.features], axis=1)
    rows = np.zeros((len(cross.gallery), queries.shape[1]), dtype=np.float32)
    rows[:, new.query.dim :] = cross.gallery.features
    rows[again] = 0
    rows[again, : new.query.dim] = new.gallery.features[again]
    return Embeddings(queries, new.query.labels, spaces=2), Embeddings(rows, cross.gallery.labels)


def mixed_rows(rows: int, share: float, seed: int) -> Int64[np.ndarray, " k"]:
    """Return which rows of a gallery the new model has enrolled; smaller shares lie in larger."""
    return row_rng(seed, rows).permutation(rows)[: round(share * rows)].astype(np.int64)


def negative_flips(before: Int64[np.ndarray, " n"], after: Int64[np.ndarray, " n"]) -> float:
    """Return the share of mated queries that are right at rank 1 before and wrong after.

    Args:
        before: [n] ranks of the first correct item, from 1; 0 where the query has none.
        after: the same for the same queries.
    """
    return float(((before == 1) & (after > 1)).sum() / (before > 0).sum())


def check_same_items(name: str, pair: Pair, first: Pair) -> None:
    """Refuse sides that are not of the first model's items in the same order, by their labels.

    Raises:
        DataError: a side does not match.
    """
    sides = {"query": (pair.query, first.query), "gallery": (pair.gallery, first.gallery)}
    for what, (side, reference) in sides.items():
        if not np.array_equal(side.labels, reference.labels):
            raise DataError(
                f"the {what} items of {name} ({len(side)} rows) are not those of the first model "
                f"in the same order ({len(reference)} rows), going by their labels; extract all "
                "from the same data"
            )


def _update_gain(base: Judged, cross: Judged, oracle: Judged | None) -> Estimate | None:
    """Return (M(new, old) − M(old, old)) / (M(new*, new*) − M(old, old)) of mAP.

    None without an independent model, and where that model is no better than the old one (in all
    replicates, or over all); a replicate in which it is no better is left out of the interval.
    """
    if oracle is None:
        return None
    judged = (base, cross, oracle)
    start, reached, best = (each.combination.mean_average_precision.value for each in judged)
    starts, reaches, bests = (each.replicates["mAP"] for each in judged)
    room = bests - starts
    if best <= start or not (room > 0).any():
        return None
    gains = np.divide(reaches - starts, room, out=np.full_like(room, np.nan), where=room > 0)
    return estimate((reached - start) / (best - start), gains)
