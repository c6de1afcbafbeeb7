"""A comparison as the record that results hold: figures with intervals, curves, histogram."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from mixbct.evaluation.bootstrap import Replicates, estimate, replicate_metrics
from mixbct.evaluation.calibration import calibrate
from mixbct.evaluation.comparison import Comparison, compare
from mixbct.evaluation.scores import Embeddings
from mixbct.evaluation.thresholds import Threshold
from mixbct.schemas.calibration import HeldOutCalibration
from mixbct.schemas.result import Combination, Curve, Estimate, Histogram, OperatingPoint, tar_name

_CURVE_POINTS = 200
_LOWEST_FAR = 1e-6
_CMC_RANKS = 20


@dataclass(frozen=True)
class Judged:
    """What is kept of one combination, once its pair counts are no longer needed."""

    rank: Int64[np.ndarray, " n"]
    thresholds: tuple[Threshold, ...]
    combination: Combination
    replicates: dict[str, Replicates]
    calibration: HeldOutCalibration | None = None

    def minus(self, other: "Judged") -> dict[str, Estimate]:
        """Return the paired difference of every metric to another combination."""
        theirs = other.combination.metrics()
        return {
            name: estimate(
                figure.value - theirs[name].value, self.replicates[name] - other.replicates[name]
            )
            for name, figure in self.combination.metrics().items()
        }


def judge_sides(
    name: str,
    query: Embeddings,
    gallery: Embeddings,
    weights: Float64[np.ndarray, "r c"],
    fars: tuple[float, ...],
    half: Bool[np.ndarray, " c"] | None = None,
) -> Judged:
    """Compare two sides and describe what came of it.

    Args:
        name: query/gallery, the roles of the query model and of the gallery.
        query: n unit vectors.
        gallery: g unit vectors.
        weights: how often each query class is drawn, for the intervals.
        fars: false-accept rates.
        half: which query classes a calibration is set on; None: there is none.
    """
    comparison = compare(query, gallery, fars=fars)
    drawn = replicate_metrics(comparison, weights)
    impostor_pairs = int(comparison.impostor_pairs.sum())
    points = tuple(
        OperatingPoint(
            far=threshold.far,
            tar=estimate(comparison.true_accept_rate(threshold), drawn[tar_name(threshold.far)]),
            threshold=threshold.value,
            measured_far=threshold.impostors / impostor_pairs,
            resolved=threshold.resolved,
        )
        for threshold in comparison.thresholds
    )
    query_role, gallery_role = name.split("/")
    combination = Combination(
        query=query_role,
        gallery=gallery_role,
        mean_average_precision=estimate(comparison.mean_average_precision(), drawn["mAP"]),
        rank1=estimate(comparison.rank_rate(1), drawn["rank-1"]),
        rank5=estimate(comparison.rank_rate(5), drawn["rank-5"]),
        operating_points=points,
        genuine_pairs=int(comparison.genuine_pairs.sum()),
        impostor_pairs=impostor_pairs,
        roc=roc_curve(comparison),
        cmc=cmc_curve(comparison),
        histogram=histogram(comparison),
    )
    calibration = None if half is None else calibrate(comparison, half)
    return Judged(comparison.rank, comparison.thresholds, combination, drawn, calibration)


def roc_curve(comparison: Comparison) -> Curve:
    """Return TAR (y) over FAR (x) at no more than 200 score edges, evenly spaced in log FAR."""
    genuine = comparison.genuine_above.sum(axis=0)[::-1]
    impostor = comparison.impostor_above.sum(axis=0)[::-1]
    tar, far = genuine / genuine[-1], impostor / impostor[-1]
    wanted = np.logspace(np.log10(_LOWEST_FAR), 0, _CURVE_POINTS)
    # the last edge whose rate does not exceed the wanted one; none such is drawn at FAR 0
    edges = np.unique(np.searchsorted(far, wanted, side="right") - 1)
    edges = edges[far[edges] >= _LOWEST_FAR]
    return Curve(x=tuple(far[edges].tolist()), y=tuple(tar[edges].tolist()))


def cmc_curve(comparison: Comparison) -> Curve:
    """Return the share of mated queries (y) with a correct item by rank 1, 2, … 20 (x)."""
    ranks = range(1, _CMC_RANKS + 1)
    return Curve(x=tuple(float(k) for k in ranks), y=tuple(comparison.rank_rate(k) for k in ranks))


def histogram(comparison: Comparison) -> Histogram:
    """Return the densities of genuine and impostor scores; each integrates to 1."""
    edges = comparison.grid.bins.astype(np.float64)
    widths = np.diff(edges)

    def density(counts: np.ndarray) -> tuple[float, ...]:
        return tuple((counts / (counts.sum() * widths)).tolist())

    return Histogram(
        edges=tuple(edges.tolist()),
        genuine=density(comparison.genuine_bins),
        impostor=density(comparison.impostor_bins),
    )
