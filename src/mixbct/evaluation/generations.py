"""Several generations v1 → v2 → … of a model, each trained against the one before.

A system that never re-embeds holds vectors of every version, so every version's queries must
search every earlier gallery. M(i, j) is a metric of version i's queries against version j's
gallery, j ≤ i; the pair is compatible when M(i, j) > M(j, j).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mixbct.errors import DataError, FeatureError
from mixbct.evaluation.bootstrap import (
    REPLICATES,
    Replicates,
    class_weights,
    estimate,
    replicate_metrics,
)
from mixbct.evaluation.comparison import compare
from mixbct.evaluation.scores import BUDGET
from mixbct.evaluation.upgrade import Pair
from mixbct.schemas.generations import Summary, VersionPair
from mixbct.schemas.result import tar_name

FAR = 1e-3


@dataclass(frozen=True)
class GenerationFigures:
    """The part of a `GenerationsResult` that evaluation fills in."""

    pairs: tuple[VersionPair, ...]
    summary: dict[str, Summary]


@dataclass(frozen=True)
class _Judged:
    values: Mapping[str, float]
    replicates: Mapping[str, Replicates]


def evaluate_generations(
    versions: Sequence[Pair],
    behind: Callable[[int, int], Pair],
    *,
    seed: int,
    replicates: int = REPLICATES,
    budget: int = BUDGET,
    progress: Callable[[int, int], None] | None = None,
) -> GenerationFigures:
    """Evaluate every version's queries against its own gallery and those of all before it.

    Args:
        versions: what each made of the same items, version 1 first; at least two.
        behind: gives the queries of one version and the gallery of an earlier one, both counted
            from 0, as they are compared: behind a bridge where there is one.
        seed: of the bootstrap; the same draw of classes serves every pair.
        replicates: of the bootstrap.
        budget: bytes for a block of scores.
        progress: called with (pairs done, pairs in all).

    Raises:
        DataError: there are fewer than two versions, or they were given different items.
        FeatureError: two versions do not meet in one dimension.
    """
    _check(versions)
    weights = class_weights(len(versions[0].query.classes), replicates, seed)
    judged: dict[tuple[int, int], _Judged] = {}
    total = len(versions) * (len(versions) + 1) // 2
    for newest in range(len(versions)):
        for gallery in range(newest, -1, -1):
            sides = versions[newest] if gallery == newest else behind(newest, gallery)
            if sides.query.dim != sides.gallery.dim:
                raise FeatureError(
                    f"queries of version {newest + 1} reach {sides.query.dim} dimensions, but "
                    f"version {gallery + 1} has {sides.gallery.dim}: train version {newest + 1} "
                    f"with model.dim = {sides.gallery.dim}, or with method.query_map, or fit a "
                    "bridge (`mixbct adapt`)"
                )
            comparison = compare(sides.query, sides.gallery, fars=(FAR,), budget=budget)
            values = {
                "mAP": comparison.mean_average_precision(),
                "rank-1": comparison.rank_rate(1),
                tar_name(FAR): comparison.true_accept_rate(comparison.thresholds[0]),
            }
            judged[newest, gallery] = _Judged(
                values, replicate_metrics(comparison, weights, ranks=(1,))
            )
            if progress is not None:
                progress(len(judged), total)
    pairs = tuple(_pair(judged, *place) for place in sorted(judged))
    names = pairs[0].metrics
    return GenerationFigures(pairs, {name: _summary(judged, pairs, name) for name in names})


def _pair(judged: Mapping[tuple[int, int], _Judged], query: int, gallery: int) -> VersionPair:
    ours, theirs = judged[query, gallery], judged[gallery, gallery]
    return VersionPair(
        query=query + 1,
        gallery=gallery + 1,
        metrics={name: estimate(v, ours.replicates[name]) for name, v in ours.values.items()},
        gains={
            name: estimate(
                value - theirs.values[name], ours.replicates[name] - theirs.replicates[name]
            )
            for name, value in ours.values.items()
            if query != gallery
        },
    )


def _summary(
    judged: Mapping[tuple[int, int], _Judged], pairs: Sequence[VersionPair], metric: str
) -> Summary:
    across = [pair for pair in pairs if pair.query > pair.gallery]

    def mean(places: list[tuple[int, int]]) -> tuple[float, Replicates]:
        chosen = [judged[place] for place in places]
        return (
            float(np.mean([one.values[metric] for one in chosen])),
            np.mean([one.replicates[metric] for one in chosen], axis=0),
        )

    return Summary(
        compatible=sum(pair.compatible(metric) for pair in across) / len(across),
        surely_compatible=sum(pair.gains[metric].low > 0 for pair in across) / len(across),
        mean_cross=estimate(*mean([place for place in judged if place[0] > place[1]])),
        mean=estimate(*mean(list(judged))),
    )


def _check(versions: Sequence[Pair]) -> None:
    if len(versions) < 2:
        raise DataError(f"generations need at least 2 versions to compare, not {len(versions)}")
    first = versions[0]
    for number, one in enumerate(versions[1:], 2):
        for side in ("query", "gallery"):
            labels, reference = getattr(one, side).labels, getattr(first, side).labels
            if not np.array_equal(labels, reference):
                raise DataError(
                    f"the {side} items of version {number} ({len(labels)} rows) are not those of "
                    f"version 1 in the same order ({len(reference)} rows), going by their labels; "
                    "extract all from the same data"
                )
