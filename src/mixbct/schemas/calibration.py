"""Calibrations: how a score of one pair of contracts becomes a false-accept rate.

Scores of different contracts lie on different scales. What makes them one is the false-accept rate:
the share of impostor pairs that score at least as high, counted on held-out labelled classes.
"""

from typing import Annotated

import numpy as np
from jaxtyping import Float64
from pydantic import Field, model_validator

from mixbct.schemas.record import Count, Record

FEWEST = 30
"""Impostor pairs that a rate is believed from: the "rule of 30" (Doddington et al., "The NIST
speaker recognition evaluation", Speech Communication 2000)."""


class Calibration(Record):
    """How many impostor pairs score at least a score; between its points log-linear in the score.

    What scores above the last point counts as the last count, and as one pair where that is 0.
    """

    pairs: int = Field(gt=0, description="impostor pairs in all")
    classes: int = Field(gt=0, description="query classes that they are of")
    scores: tuple[Annotated[float, Field(ge=-2, le=2)], ...] = Field(min_length=2)
    accepted: tuple[Count, ...] = Field(description="of the pairs, those that score at least so")

    @model_validator(mode="after")
    def _falls(self) -> "Calibration":
        scores, counts = np.array(self.scores), np.array(self.accepted)
        if len(scores) != len(counts) or counts[0] != self.pairs:
            raise ValueError(f"{len(scores)} scores, {len(counts)} counts, {self.pairs} pairs")
        if (np.diff(scores) <= 0).any() or (np.diff(counts) > 0).any():
            raise ValueError("its scores do not rise, or more pairs are accepted at higher ones")
        return self

    @property
    def least(self) -> float:
        """Return the lowest rate that the pairs support."""
        return max(FEWEST, self.accepted[-1]) / self.pairs

    @property
    def _points(self) -> tuple[Float64[np.ndarray, " p"], Float64[np.ndarray, " p"]]:
        counts = np.maximum(np.array(self.accepted, dtype=float), 1)
        return np.array(self.scores), np.log10(counts / self.pairs)

    def rate(self, scores: np.ndarray | np.floating | float) -> Float64[np.ndarray, " *n"]:
        """Return the false-accept rate of a threshold just below each score; never rising."""
        return np.asarray(10 ** np.interp(scores, *self._points))

    def rate_above(self, threshold: float) -> float:
        """Return the share of impostor pairs that a threshold accepts: those that score above."""
        return float(self.rate(np.nextafter(np.float32(threshold), np.float32(3))))

    def threshold(self, far: float) -> float:
        """Return the lowest threshold that accepts no more than `far` of impostor pairs.

        Where `far` is below all that was counted, it is the highest score that was.
        """
        points, rates = self._points
        counts, allowed = np.array(self.accepted), far * self.pairs * (1 + 1e-12)
        if counts[-1] > allowed:
            return self.scores[-1]
        after = int(np.argmax(counts <= allowed))
        left, right = points[after - 1 : after + 1] if after else (-1.5, points[0])
        # one float32 up is a step: what stands before it is refused, what comes after is not
        if not after or np.nextafter(np.float32(left), np.float32(3)) >= right:
            return float(left)
        share = (rates[after - 1] - np.log10(far)) / (rates[after - 1] - rates[after])
        return float(left + (right - left) * share)

    def line(self) -> tuple[float, float]:
        """Return begin and unit of the scale on which rows of several contracts are ranked.

        (score − begin) / unit is how many decades of the false-accept rate lie between a rate of
        1e-1 and the score's, on the line through the scores at 1e-1 and 3e-4 (or at the lowest
        rate that is supported): the best hits lie above every impostor pair, where nothing was
        counted, so that the rate itself ranked worse.
        """
        far = min(max(3e-4, self.least), 3e-2)
        begin, end = self.threshold(1e-1), self.threshold(far)
        return begin, max(float((begin - end) / np.log10(10 * far)), 1e-6)


class HeldOutCalibration(Record):
    """A calibration that is set on one half of the query classes, and the other half's own."""

    set_on: Calibration
    unseen: Calibration

    def threshold(self, far: float) -> float:
        """Return the threshold at a rate, as it is set."""
        return self.set_on.threshold(far)

    def rate_above(self, threshold: float) -> float:
        """Return what a threshold accepts over all classes."""
        halves = self.set_on, self.unseen
        accepted = sum(half.pairs * half.rate_above(threshold) for half in halves)
        return accepted / sum(half.pairs for half in halves)
