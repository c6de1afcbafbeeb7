"""Several generations v1 → v2 → … of a model, each trained against the one before.

A system that never re-embeds holds vectors of every version, so every version's queries must
search every earlier gallery. M(i, j) is a metric of version i's queries against version j's
gallery, j ≤ i; the pair is compatible when M(i, j) > M(j, j).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from mixbct.data.source import unseen
from mixbct.errors import DataError
from mixbct.evaluation.bootstrap import REPLICATES, class_weights, estimate
from mixbct.evaluation.combination import Judged, judge_all
from mixbct.evaluation.scores import CPU, Pair, check_dimensions
from mixbct.evaluation.upgrade import check_same_items
from mixbct.schemas.generations import Summary, VersionPair
from mixbct.schemas.result import Estimate, tar_name

FAR = 1e-3
METRICS = ("mAP", "rank-1", tar_name(FAR))


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
    found = judge_all(named, weights, (FAR,), device=device, progress=progress)
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
