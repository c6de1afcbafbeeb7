"""ROC figures from the scores of genuine and impostor trials: TAR at a FAR, area, curve.

A trial is accepted when its score lies above the threshold. The same counts give TPIR at an FPIR,
with a mated probe for a genuine trial and a non-mated one for an impostor (`identification`).
"""

import numpy as np
from jaxtyping import Float32

from mixbct.evaluation.thresholds import Threshold, Trials, allowed_impostors, trials
from mixbct.schemas.protocols import RatePoint, Verification
from mixbct.schemas.result import Curve

FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)

_CURVE_POINTS = 200


def at_most(scores: Trials, far: float) -> Threshold:
    """Return the threshold with the largest TAR whose measured FAR does not exceed `far`.

    It is the (⌊far · impostors⌋ + 1)-th largest impostor score, or lies below all scores.

    Args:
        scores: of the trials.
        far: in (0, 1].
    """
    count = len(scores.impostor)
    allowed = allowed_impostors(far, count)
    value = scores.below_all() if allowed >= count else float(scores.impostor[count - allowed - 1])
    return Threshold(far, value, *scores.accepted(value), resolved=far * count >= 1)


def nearest(scores: Trials, far: float) -> Threshold:
    """Return the threshold with the largest TAR at the measured FAR that is nearest to `far`.

    Of two FARs that are equally near, the higher. Published IJB scripts choose so (among the
    points that their ROC routine kept); the FAR may then exceed the one that is named.
    """
    lower = at_most(scores, far)
    below = int(np.searchsorted(scores.impostor, np.float32(lower.value), "left"))
    value = float(scores.impostor[below - 1]) if below else scores.below_all()
    higher = Threshold(far, value, *scores.accepted(value), resolved=lower.resolved)
    count = len(scores.impostor)
    nearer = abs(higher.impostors / count - far) <= abs(lower.impostors / count - far)
    return higher if nearer else lower


def rate_point(scores: Trials, threshold: Threshold) -> RatePoint:
    """Return a threshold as the record that results hold."""
    return RatePoint(
        wanted=threshold.far,
        measured=threshold.impostors / len(scores.impostor),
        rate=threshold.genuine / len(scores.genuine),
        threshold=threshold.value,
        resolved=threshold.resolved,
    )


def area(scores: Trials) -> float:
    """Return the chance that a genuine trial scores above an impostor, ties counting one half."""
    below = np.searchsorted(scores.impostor, scores.genuine, "left")
    up_to = np.searchsorted(scores.impostor, scores.genuine, "right")
    pairs = len(scores.genuine) * len(scores.impostor)
    return float((below.sum() + up_to.sum()) / (2 * pairs))


def curve(scores: Trials) -> Curve:
    """Return TAR (y) over FAR (x) at no more than 200 points, evenly spaced in log FAR."""
    count = len(scores.impostor)
    wanted = np.logspace(-np.log10(count), 0, min(_CURVE_POINTS, count)).tolist()
    points = {t.impostors: t.genuine for t in (at_most(scores, min(far, 1.0)) for far in wanted)}
    return Curve(
        x=tuple(impostors / count for impostors in points),
        y=tuple(genuine / len(scores.genuine) for genuine in points.values()),
    )


def verification(
    genuine: Float32[np.ndarray, " g"],
    impostor: Float32[np.ndarray, " i"],
    fars: tuple[float, ...] = FARS,
) -> Verification:
    """Return the 1:1 figures of two sets of scores.

    Raises:
        DataError: see `trials`.
    """
    scores = trials(genuine, impostor)

    return Verification(
        genuine_pairs=len(genuine),
        impostor_pairs=len(impostor),
        auc=area(scores),
        points=tuple(rate_point(scores, at_most(scores, far)) for far in fars),
        nearest_points=tuple(rate_point(scores, nearest(scores, far)) for far in fars),
        roc=curve(scores),
    )
