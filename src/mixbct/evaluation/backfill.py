"""In which order a gallery is best embedded again: accuracy over the share that is done.

The area under a curve is the mean of what new queries reach on the way, if every item takes as
long. It is compared in pairs over the same drawn classes, as all else is.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Int64

from mixbct.data.source import Progress
from mixbct.evaluation.bootstrap import Replicates, estimate
from mixbct.evaluation.combination import Judged, judge_all
from mixbct.evaluation.comparison import FARS
from mixbct.evaluation.counting import Weights
from mixbct.evaluation.scores import Embeddings, Pair
from mixbct.features.ordering import highest_first, least_credible, most_items
from mixbct.schemas.result import Backfill, BackfillCurve, Difference, Estimate, tar_name

SHARES = tuple(i / 10 for i in range(11))
METRICS = ("mAP", tar_name(1e-3))
_AREA = np.array([0.05, *[0.1] * 9, 0.05])
"""What each share counts for under the line through all of them."""

Sides = Callable[[Sequence[float], Int64[np.ndarray, " n"]], Mapping[str, Sequence[Pair]]]
"""From shares and an order of the rows to the galleries (see `mixed_sides`)."""


def backfill_curves(
    sides: Sides,
    ends: tuple[Judged, Judged],
    stored: Embeddings,
    at_random: Int64[np.ndarray, " n"],
    weights: Weights,
    device: torch.device,
    progress: Progress,
) -> Backfill:
    """Return the curve of each order that the data allow.

    A test set knows no counts of searches, and the order by items needs classes of several sizes.

    Args:
        sides: gives the mixed galleries.
        ends: before the first row and after the last: new/old and new/new.
        stored: the old gallery.
        at_random: all rows, in random order.
        weights: how often each query class is drawn in each bootstrap replicate.
        device: where scores are computed.
        progress: called with (galleries done, galleries in all).
    """
    orders = {
        "random": at_random,
        "credible": highest_first(least_credible(stored.features, stored.labels)),
    }
    if np.ptp(np.unique(stored.labels, return_counts=True)[1]):
        orders["items"] = highest_first(most_items(stored.labels))
    curves: list[BackfillCurve] = []
    drawn: dict[str, dict[str, Replicates]] = {}
    for order, rows in orders.items():
        inner = sides(SHARES[1:-1], rows)
        start, total = len(curves) * len(inner), len(orders) * len(inner)
        found = judge_all(
            inner,
            weights,
            FARS,
            device=device,
            progress=lambda done, _, start=start, total=total: progress(start + done, total),  # type: ignore[misc]
        )
        stations = [ends[0], *found.values(), ends[1]]
        metrics = {m: tuple(each.combination.metric(m) for each in stations) for m in METRICS}
        drawn[order] = {m: _AREA @ [each.replicates[m] for each in stations] for m in METRICS}
        areas = {m: estimate(_area(metrics[m]), drawn[order][m]) for m in METRICS}
        curves.append(BackfillCurve(order=order, metrics=metrics, areas=areas))
    differences = tuple(
        Difference(
            of=of.order,
            minus=minus.order,
            metrics={
                m: estimate(
                    of.areas[m].value - minus.areas[m].value,
                    drawn[of.order][m] - drawn[minus.order][m],
                )
                for m in METRICS
            },
        )
        for minus, of in combinations(curves, 2)
    )
    return Backfill(
        shares=SHARES,
        curves=tuple(curves),
        differences=differences,
        take=_take(curves, differences),
    )


def _area(figures: Sequence[Estimate]) -> float:
    return float(_AREA @ [figure.value for figure in figures])


def _take(curves: Sequence[BackfillCurve], differences: Sequence[Difference]) -> str | None:
    """Return the order of the largest area in mAP, where it surely beats a random one.

    It must not surely lose to that in another figure.
    """
    best = max(curves, key=lambda curve: curve.areas["mAP"].value).order
    over = [d.metrics for d in differences if (d.of, d.minus) == (best, "random")]
    sure = over and over[0]["mAP"].low > 0 and all(one.high >= 0 for one in over[0].values())
    return best if sure else None
