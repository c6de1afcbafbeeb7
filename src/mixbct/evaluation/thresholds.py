"""Exact thresholds at a false-accept rate, for any number of pairs.

The counts at the grid's edges say between which two of them a threshold lies. One more walk
over the pairs keeps only the scores between those two, and the threshold is one of these.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from mixbct.errors import DataError
from mixbct.evaluation.scores import Embeddings, pair_blocks


@dataclass(frozen=True)
class Threshold:
    """Accepting every score above `value` gives the largest TAR with a FAR of at most `far`.

    Args:
        far: the rate asked for.
        value: the (⌊far · impostor pairs⌋ + 1)-th largest impostor score.
        genuine: how many genuine pairs it accepts.
        impostors: how many impostor pairs it accepts.
        resolved: there are at least 1/far impostor pairs.
    """

    far: float
    value: float
    genuine: int
    impostors: int
    resolved: bool


@dataclass(frozen=True)
class Trials:
    """Scores of genuine and impostor trials, each ascending; made by `trials`.

    Args:
        genuine: [g]; −inf for one that no threshold accepts.
        impostor: [i].
    """

    genuine: Float32[np.ndarray, " g"]
    impostor: Float32[np.ndarray, " i"]

    def accepted(self, value: float) -> tuple[int, int]:
        """Return how many genuine and how many impostor trials score above `value`."""
        at = np.float32(value)
        genuine = len(self.genuine) - int(np.searchsorted(self.genuine, at, "right"))
        return genuine, len(self.impostor) - int(np.searchsorted(self.impostor, at, "right"))

    def below_all(self) -> float:
        """Return a threshold just below every score that is finite."""
        finite = self.genuine[np.searchsorted(self.genuine, -np.inf, "right") :]
        lowest = min([self.impostor[0], *finite[:1]])
        return float(np.nextafter(lowest, np.float32(-np.inf), dtype=np.float32))


def trials(genuine: Float32[np.ndarray, " g"], impostor: Float32[np.ndarray, " i"]) -> Trials:
    """Sort the scores of genuine and of impostor trials.

    Raises:
        DataError: there is none of one kind, or a score is NaN.
    """
    if not len(genuine) or not len(impostor):
        raise DataError(
            f"{len(genuine)} genuine and {len(impostor)} impostor trials: at least one of each is "
            "needed for rates"
        )
    found = Trials(np.sort(genuine), np.sort(impostor))
    # NaN sorts last
    if np.isnan(found.genuine[-1]) or np.isnan(found.impostor[-1]):
        raise DataError("scores that are not numbers; are the features finite?")
    return found


def allowed_impostors(far: float, pairs: int) -> int:
    """Return the largest k with k / pairs ≤ far.

    >>> allowed_impostors(0.29, 100)
    29
    """
    # far * pairs may fall on either side of an integer; the quotient decides
    allowed = math.floor(far * pairs) + 1
    while allowed / pairs > far:
        allowed -= 1
    return allowed


def exact_thresholds(
    query: Embeddings,
    gallery: Embeddings,
    fars: tuple[float, ...],
    edges: Float32[np.ndarray, " e"],
    above: Int64[np.ndarray, "2 e"],
    budget: int,
) -> tuple[Threshold, ...]:
    """Return the exact threshold at each rate.

    Args:
        query: the queries.
        gallery: the gallery.
        fars: rates in (0, 1).
        edges: ascending, from −inf to +inf.
        above: how many genuine and how many impostor scores lie above each edge.
        budget: bytes for a block, the one that the counts were made with.
    """
    genuine_above, impostor_above = above
    pairs = int(impostor_above[0])
    allowed = [allowed_impostors(far, pairs) for far in fars]
    # the first edge above which no more than allowed lie; the threshold is at most that high
    upper = [int(np.argmax(impostor_above <= k)) for k in allowed]
    lowest = float(edges[min(upper) - 1])
    held: list[tuple[list[np.ndarray], list[np.ndarray]]] = [([], []) for _ in fars]
    for block in pair_blocks(query, gallery, budget):
        for kind, scores in enumerate((block.genuine, block.impostor)):
            candidates = scores[scores > lowest].numpy()
            for i, kept in zip(upper, held, strict=True):
                # ties at the upper edge may be most of the pairs: counted below, not kept
                inside = (candidates > edges[i - 1]) & (candidates < edges[i])
                kept[kind].append(candidates[inside])
    found = []
    for far, k, i, kept in zip(fars, allowed, upper, held, strict=True):
        between = Trials(*(np.sort(np.concatenate(some)) for some in kept))
        genuine, impostors = int(genuine_above[i]), int(impostor_above[i])
        value = float(edges[i])
        # what lies at the edge itself is accepted by any threshold below it
        at_least = int(impostor_above[i - 1]) - len(between.impostor)
        if k >= at_least:
            value = float(between.impostor[at_least - k - 1])
            own, others = between.accepted(value)
            genuine = int(genuine_above[i - 1]) - len(between.genuine) + own
            impostors = at_least + others
        found.append(Threshold(far, value, genuine, impostors, far * pairs >= 1))
    return tuple(found)
