"""A comparison as the record that results hold: figures with intervals, curves, histogram."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64

from mixbct.data.source import Progress, unseen
from mixbct.evaluation.bootstrap import Replicates, estimate, replicate_metrics
from mixbct.evaluation.calibration import calibrate_halves
from mixbct.evaluation.comparison import FARS, Comparison, compare_all
from mixbct.evaluation.scores import CPU, Pair
from mixbct.evaluation.tally import Weights
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
        ours, theirs = self.combination.metrics(), other.combination.metrics()
        drawn = {name: self.replicates[name] - other.replicates[name] for name in ours}
        return {n: estimate(ours[n].value - theirs[n].value, drawn[n]) for n in ours}


def judge_all(
    sides: Mapping[str, Sequence[Pair]],
    weights: Weights,
    fars: tuple[float, ...] = FARS,
    *,
    half: Bool[np.ndarray, " c"] | None = None,
    calibrated: Collection[str] = (),
    device: torch.device = CPU,
    progress: Progress = unseen,
) -> dict[str, Judged]:
    """Compare queries with galleries and describe what came of it.

    Args:
        sides: by query/gallery, the roles of the query model and of the gallery: the gallery's
            parts with what searches each. Those of several parts share them, and are compared in
            one walk.
        weights: how often each query class is drawn, for the intervals; with a half, its row last.
        fars: false-accept rates.
        half: which query classes calibrations are set on.
        calibrated: the names of those that get one.
        device: where scores are computed.
        progress: called with (comparisons done, comparisons in all).
    """
    judged: dict[str, Judged] = {}
    alone = [{name: parts} for name, parts in sides.items() if len(parts) == 1]
    together = {name: parts for name, parts in sides.items() if len(parts) > 1}
    for some in [*alone, together] if together else alone:
        for name, found in compare_all(some, fars=fars, weights=weights, device=device).items():
            judged[name] = _judge(name, found, half, name in calibrated)
            progress(len(judged), len(sides))
    return {name: judged[name] for name in sides}


def _judge(
    name: str, comparison: Comparison, half: Bool[np.ndarray, " c"] | None, calibrated: bool
) -> Judged:
    calibration = None
    if half is not None:
        last = comparison.drawn_above[1, -1].astype(np.int64)
        if calibrated:
            calibration = calibrate_halves(comparison, last, half)
        weights, above = comparison.weights[:-1], comparison.drawn_above[:, :-1]
        comparison = dataclasses.replace(comparison, weights=weights, drawn_above=above)
    drawn = replicate_metrics(comparison)
    impostor_pairs = comparison.impostor_pairs
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
        genuine_pairs=comparison.genuine_pairs,
        impostor_pairs=impostor_pairs,
        roc=roc_curve(comparison),
        cmc=cmc_curve(comparison),
        histogram=histogram(comparison),
    )
    return Judged(comparison.rank, comparison.thresholds, combination, drawn, calibration)


def roc_curve(comparison: Comparison) -> Curve:
    """Return TAR (y) over FAR (x) at no more than 200 score edges, evenly spaced in log FAR."""
    genuine, impostor = comparison.genuine_above[::-1], comparison.impostor_above[::-1]
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
    genuine, impostor = (
        tuple((counts / (counts.sum() * np.diff(edges))).tolist())
        for counts in (comparison.genuine_bins, comparison.impostor_bins)
    )
    return Histogram(edges=tuple(edges.tolist()), genuine=genuine, impostor=impostor)
