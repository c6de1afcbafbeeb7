"""Galleries of two models' rows, as one fills with vectors of the new model, and in which order.

The area under the curve of accuracy over the share that is done is the mean of what new queries
reach on the way, if every item takes as long. It is compared in pairs over the same drawn classes,
as all else is.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, pairwise

import numpy as np
import torch
from jaxtyping import Int64

from mixbct.data.source import Progress
from mixbct.distributed import row_rng
from mixbct.evaluation.bootstrap import Replicates, estimate
from mixbct.evaluation.combination import Judged, judge_all
from mixbct.evaluation.scores import Embeddings, Pair
from mixbct.evaluation.tally import Weights
from mixbct.features.ordering import highest_first, least_credible, most_items
from mixbct.schemas.result import Backfill, BackfillCurve, Difference, Estimate, tar_name

Line = tuple[float, float]
"""Begin and width of a scale."""

SHARES = tuple(i / 10 for i in range(11))
METRICS = ("mAP", tar_name(1e-3))
_AREA = np.array([0.05, *[0.1] * 9, 0.05])
"""What each share counts for under the line through all of them."""
Sides = Callable[[Sequence[float], Int64[np.ndarray, " n"]], Mapping[str, Sequence[Pair]]]
"""From shares and an order of the rows to the galleries (see `mixed_sides`)."""


def mixed_sides(
    new: Pair,
    cross: Pair,
    shares: Sequence[float],
    order: Int64[np.ndarray, " n"],
    own: Line,
    between: Line,
) -> dict[str, list[Pair]]:
    """Return galleries of which a share is enrolled again by the new model, by name.

    Each is in parts, by the new model and of the old one's rows, and galleries of several shares
    have parts in common. A part is searched with the queries that its rows are compared with, and
    ranked as a gallery ranks them: by scores on one scale.

    Args:
        new: the new model's queries and rows.
        cross: its queries and the old rows as they meet.
        shares: of the rows.
        order: of all rows; those of a smaller share belong to every larger one.
        own: the scale of new queries against new rows (see `Calibration.line`).
        between: that of new queries against old rows.
    """
    items = len(cross.gallery)
    cuts = [0, *sorted({round(share * items) for share in shares} - {0, items}), items]
    size = min(width / np.hypot(1, begin) for begin, width in (own, between))
    news, crosses = (
        [_on_scale(pair, np.sort(order[start:stop]), line, size) for start, stop in pairwise(cuts)]
        for pair, line in ((new, own), (cross, between))
    )
    places = {share: cuts.index(round(share * items)) for share in shares}
    return {f"new/{100 * share:g} % new": news[:n] + crosses[n:] for share, n in places.items()}


def _on_scale(pair: Pair, rows: Int64[np.ndarray, " k"], line: Line, size: float) -> Pair:
    """Return queries and some rows whose cosines are `size`·(score − begin)/width, over √2.

    What is added to a row's score stands behind it, and then what makes it a unit vector.
    """
    begin, width = line
    times, added = size / width, -size * begin / width
    some, queries = pair.gallery.features[rows], pair.query.features
    behind = np.array([[added, np.sqrt(max(0, 1 - times**2 - added**2))]], np.float32)
    mapped = np.hstack([np.float32(times) * some, np.repeat(behind, len(rows), axis=0)])
    ends = np.array([[1, 0]], np.float32).repeat(len(queries), axis=0)
    searched = np.hstack([queries, ends]) / np.float32(np.sqrt(2))
    return Pair(
        Embeddings(searched, pair.query.labels), Embeddings(mapped, pair.gallery.labels[rows])
    )


def mixed_rows(rows: int, share: float, seed: int) -> Int64[np.ndarray, " k"]:
    """Return which rows of a gallery the new model has enrolled; smaller shares lie in larger."""
    return row_rng(seed, rows).permutation(rows)[: round(share * rows)].astype(np.int64)


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
