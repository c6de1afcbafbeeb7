"""Calibrate the scores of one pair of contracts: score → false-accept rate, as a compact record."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64

from mixbct.errors import DataError, ResultError
from mixbct.evaluation.comparison import Comparison
from mixbct.schemas.calibration import Calibration, HeldOutCalibration
from mixbct.schemas.gate import PairThreshold
from mixbct.schemas.result import Result

_PER_DECADE = 10
_JUMP = 10 ** (1 / _PER_DECADE)


def calibrate(comparison: Comparison, above: Int64[np.ndarray, " e"], classes: int) -> Calibration:
    """Return the false-accept rate of every score, from the impostor pairs of some query classes.

    The counts at the comparison's edges are exact. Between two edges, 1/96 of a decade apart, they
    are taken to fall evenly (in their logarithm), and at once where nothing lies between the two
    or where many pairs tie: few pairs and equal scores come out as they are. Points are kept to
    either side of every tenth of a decade, so that powers of ten are as exact as the edges.

    Args:
        comparison: queries of one contract against rows of another.
        above: impostor pairs of these classes above each of its edges.
        classes: how many they are.

    Raises:
        DataError: these classes have no impostor pair.
    """
    pairs = int(above[0])
    if not pairs:
        raise DataError(f"{classes} query classes have no impostor pair to calibrate by")
    before, after = above[:-2], above[1:-1]  # of each finite edge: pairs above the one below, or it
    steps = ~comparison.skipped[:-1] | (before > _JUMP * after)
    edges = comparison.grid.edges[1:-1]
    beyond = np.nextafter(edges, np.float32(np.inf))
    scores = np.stack([edges, beyond], axis=1).astype(np.float64).ravel()
    counts = np.stack([np.where(steps, before, after), after], axis=1).ravel()
    rising = np.diff(scores, prepend=-np.inf) > 0
    scores, counts = scores[rising], counts[rising]
    with np.errstate(divide="ignore"):
        part = np.floor(_PER_DECADE * np.log10(counts / pairs) + 1e-9)
    changes = part[1:] != part[:-1]
    kept = np.r_[True, changes] | np.r_[changes, True]
    scores, counts = scores[kept], counts[kept]
    if counts[0] < pairs:  # where the lowest scores lie was not counted
        scores, counts = np.r_[-1.5, scores], np.r_[pairs, counts]
    return Calibration(
        pairs=pairs,
        classes=classes,
        scores=tuple(scores.tolist()),
        accepted=tuple(counts.tolist()),
    )


def calibrate_halves(
    comparison: Comparison, above: Int64[np.ndarray, " e"], half: Bool[np.ndarray, " c"]
) -> HeldOutCalibration:
    """Return the calibration by half of the classes, and the other half's own to hold against it.

    Args:
        comparison: of all classes.
        above: impostor pairs of the half above each of its edges.
        half: which classes they are.

    Raises:
        DataError: see `calibrate`.
    """
    rest = comparison.impostor_above - above
    return HeldOutCalibration(
        set_on=calibrate(comparison, above, int(half.sum())),
        unseen=calibrate(comparison, rest, int((~half).sum())),
    )


def thresholds_at(result: Result, fars: Sequence[float]) -> tuple[PairThreshold, ...]:
    """Return, a rate and a pair of contracts at a time, where to decide and what is seen there.

    Raises:
        ResultError: the result is of an earlier version, which knows one rate only.
    """
    found, carried = [], result.carried_threshold
    pairs = dict(result.calibrations)
    before = pairs.pop("old/old", None)
    for far in fars:
        if far != carried.far and not (before and pairs):
            raise ResultError(
                f"the result holds no calibration to read a false-accept rate of {far:g} from; "
                "evaluate the upgrade again"
            )
        old = carried.old_threshold if far == carried.far or not before else before.threshold(far)
        for pair, halves in pairs.items():
            value = halves.threshold(far)
            found.append(
                PairThreshold(
                    pair=pair,
                    far=far,
                    threshold=value,
                    measured_far=halves.unseen.rate_above(value),
                    old_threshold=old,
                    far_at_old_threshold=halves.rate_above(old),
                    least=halves.set_on.least,
                )
            )
    return tuple(found)
