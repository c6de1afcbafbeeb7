"""A whole upgrade, or several generations of a model, judged on unseen classes.

Of an upgrade every combination is judged, and what differs between them.

Combinations are named query/gallery: old/old, new/old (the cross-test), new/new, independent/old
(the naive swap), procrustes/old (the independent model's queries behind that bridge), whiten/old
(the old model's own, whitened on both sides) and so on; `10 % new` is the old gallery with that
share of its rows enrolled again by the new model.

Generations v1 → v2 → … are each trained against the one before. A system that never re-embeds holds
vectors of every version, so every version's queries must search every earlier gallery. M(i, j) is a
metric of version i's queries against version j's gallery, j ≤ i; the pair is compatible when
M(i, j) > M(j, j).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool

from mixbct.data.source import unseen
from mixbct.distributed import row_rng
from mixbct.errors import DataError
from mixbct.evaluation.bootstrap import REPLICATES, Replicates, class_weights, estimate, flips_of
from mixbct.evaluation.combination import Judged, judge_all
from mixbct.evaluation.mixed import backfill_curves, mixed_rows, mixed_sides
from mixbct.evaluation.scores import CPU, Pair, check_dimensions
from mixbct.schemas.calibration import HeldOutCalibration
from mixbct.schemas.generations import Summary, VersionPair
from mixbct.schemas.result import (
    FREE,
    Backfill,
    CarriedThreshold,
    Combination,
    Difference,
    Estimate,
    Flips,
    tar_name,
)

CARRIED_FAR = 1e-3
CALIBRATED = ("old/old", "new/old", "new/new", "new+old/old")
"""What a system may have to decide about before the switch, after it, and as its gallery fills."""
MIXED_SHARES = (0.1, 0.5, 0.9)
METRICS = ("mAP", "rank-1", tar_name(CARRIED_FAR))
"""Of generations."""


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
    flips: Flips
    backfill: Backfill | None
    carried_threshold: CarriedThreshold
    calibrations: dict[str, HeldOutCalibration]
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
    calibrated: Collection[str] = CALIBRATED,
    names: Sequence[str] = (),
    backfill: bool = False,
    device: torch.device = CPU,
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
        calibrated: combinations that get a calibration.
        names: of the classes, by label; none: they are called by their labels.
        backfill: also judge galleries that are embedded again in several orders.
        device: where scores are computed.
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
    half = one_half(len(old.query.classes), seed)
    weights = class_weights(len(old.query.classes), replicates, seed, half)
    total = len(sides) + len(mixed)
    judged = judge_all(
        {name: [both] for name, both in sides.items()},
        weights,
        half=half,
        calibrated=calibrated,
        device=device,
        progress=lambda done, _: progress(done, total),
    )
    calibrations = {name: one.calibration for name, one in judged.items() if one.calibration}
    lines = [calibrations[name].set_on.line() for name in ("new/new", "new/old")]
    order = mixed_rows(len(old.gallery), 1.0, seed)
    judged |= judge_all(
        mixed_sides(new, cross, mixed, order, *lines),
        weights[:-1],
        device=device,
        progress=lambda done, _: progress(len(sides) + done, total),
    )

    base, crossed = judged["old/old"], judged["new/old"]
    oracle = judged.get("independent/independent")
    curves = None
    if backfill:
        ends = crossed, judged["new/new"]
        between = partial(mixed_sides, new, cross, own=lines[0], between=lines[1])
        curves = backfill_curves(between, ends, old.gallery, order, weights[:-1], device, progress)
    flips = flips_of((base.rank, crossed.rank), old.query.labels, weights[:-1], names)
    compared = [(name, "old/old") for name in judged if name != "old/old"]
    # what costs more, against what costs less
    steps = f"{FREE}/old", "chosen/old", "new/old", "new/new"
    there = [name for name in steps if name in judged]
    compared += [(of, minus) for minus, of in combinations(there, 2)]
    if oracle is not None:
        compared.append(("new/new", "independent/independent"))
    # by one half of the query classes, measured on the rest; the old system's is on all of them
    cross_calibration = calibrations["new/old"]
    carried = next(t.value for t in base.thresholds if t.far == CARRIED_FAR)
    threshold = cross_calibration.set_on.threshold(CARRIED_FAR)
    return UpgradeFigures(
        classes=len(np.intersect1d(old.query.classes, old.gallery.classes)),
        combinations={name: each.combination for name, each in judged.items()},
        differences=tuple(
            Difference(of=of, minus=minus, metrics=judged[of].minus(judged[minus]))
            for of, minus in compared
        ),
        update_gain=_update_gain(base, crossed, oracle),
        negative_flips=flips.negative.value,
        flips=flips,
        backfill=curves,
        carried_threshold=CarriedThreshold(
            far=CARRIED_FAR,
            old_threshold=carried,
            far_at_old_threshold=cross_calibration.rate_above(carried),
            threshold=threshold,
            measured_far=cross_calibration.unseen.rate_above(threshold),
        ),
        calibrations=calibrations,
        replicates={name: each.replicates for name, each in judged.items()},
    )


def one_half(classes: int, seed: int) -> Bool[np.ndarray, " c"]:
    """Mark the half of the query classes that thresholds are set on.

    Raises:
        DataError: there is only one.
    """
    if classes < 2:
        raise DataError(
            "thresholds are set on half of the query classes and measured on the other half: "
            "at least 2 classes are needed, there is 1"
        )
    chosen = np.zeros(classes, np.bool_)
    chosen[row_rng(seed, classes).permutation(classes)[: classes // 2]] = True
    return chosen


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


class GenerationFigures(NamedTuple):
    """The part of a `GenerationsResult` that evaluation fills in."""

    pairs: tuple[VersionPair, ...]
    summary: dict[str, Summary]


def evaluate_generations(
    sides: Mapping[tuple[int, int], Pair],
    *,
    seed: int,
    replicates: int = REPLICATES,
    device: torch.device = CPU,
    progress: Callable[[int, int], None] = unseen,
) -> GenerationFigures:
    """Evaluate every version's queries against its own gallery and those of all before it.

    Args:
        sides: the queries of one version and the gallery of the same or an earlier one, both
            counted from 0, of the same items, as they are compared: behind a bridge where there is
            one.
        seed: of the bootstrap; the same draw of classes serves every pair.
        replicates: of the bootstrap.
        device: where scores are computed.
        progress: called with (pairs done, pairs in all).

    Raises:
        DataError: there are fewer than two versions, or they were given different items.
        FeatureError: two versions do not meet in one dimension.
    """
    if len(sides) < 3:
        raise DataError(f"generations need at least 2 versions to compare, not {len(sides)}")
    for (query, gallery), both in sides.items():
        check_same_items(f"version {query + 1}", both, sides[0, 0])
        ends = f"queries of version {query + 1}", f"vectors of version {gallery + 1}"
        check_dimensions(both.query.dim, both.gallery.dim, *ends)
    weights = class_weights(len(sides[0, 0].query.classes), replicates, seed)
    named = {f"v{query + 1}/v{gallery + 1}": [sides[query, gallery]] for query, gallery in sides}
    found = judge_all(named, weights, (CARRIED_FAR,), device=device, progress=progress)
    judged = dict(zip(sides, found.values(), strict=True))

    def pair(query: int, gallery: int) -> VersionPair:
        found, own = judged[query, gallery], judged[gallery, gallery]
        gains = found.minus(own) if found is not own else {}
        figures = found.combination.metrics()
        return VersionPair(
            query=query + 1,
            gallery=gallery + 1,
            metrics={name: figures[name] for name in METRICS},
            gains={name: gains[name] for name in METRICS if name in gains},
        )

    pairs = tuple(pair(*place) for place in sorted(judged))
    return GenerationFigures(pairs, {name: _summary(judged, pairs, name) for name in METRICS})


def _summary(
    judged: Mapping[tuple[int, int], Judged], pairs: Sequence[VersionPair], metric: str
) -> Summary:
    across = [pair for pair in pairs if pair.query > pair.gallery]

    def mean(chosen: Sequence[Judged]) -> Estimate:
        values = [one.combination.metric(metric).value for one in chosen]
        drawn = np.mean([one.replicates[metric] for one in chosen], axis=0)
        return estimate(float(np.mean(values)), drawn)

    return Summary(
        compatible=sum(pair.compatible(metric) for pair in across) / len(across),
        surely_compatible=sum(pair.gains[metric].low > 0 for pair in across) / len(across),
        mean_cross=mean([one for (query, gallery), one in judged.items() if query > gallery]),
        mean=mean(list(judged.values())),
    )
