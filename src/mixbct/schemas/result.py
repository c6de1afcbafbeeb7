"""What one evaluation of an upgrade says. Reports, gates and benches read nothing else.

What one figure may be is checked here, when a result is made or read; whether the figures of a
result agree with each other, by the gate.
"""

from functools import partial
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from mixbct.schemas.bridge import Bridge, HadQueryMap
from mixbct.schemas.calibration import HeldOutCalibration
from mixbct.schemas.model import Contract
from mixbct.schemas.record import Count, Record, absent, now

FREE = "whiten"
"""The old model's own queries, whitened as its rows are: what is to be had without a new model."""

ROUNDING = 1e-9
"""Figures that differ by less than this are equal."""

Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=1e-12, lt=1)]
"""A false-accept rate that is asked for."""
Cosine = Annotated[float, Field(ge=-2, le=2)]
"""A cosine, or an edge of the bins that hold all of them."""
Density = Annotated[float, Field(ge=0, le=1 / ROUNDING)]

Standing = Literal["apart", "head", "declared", "unknown", "unnamed"]
"""How the classes that a model was trained on stand to those that it is tested on: none of one
name; so for a head, over an encoder of which nobody can know; some of one name that a person
declared to be others; not known, since its vectors or weights came from elsewhere, or since the
classes of the items that a bridge was fitted on are not."""
Standings = Annotated[dict[str, Standing], Field(exclude_if=lambda found: not found)]
"""By role; none: not looked at."""


class Estimate(Record):
    """A figure with its 95 % bootstrap interval over query classes."""

    value: float
    low: float
    high: float

    @model_validator(mode="after")
    def _in_order(self) -> "Estimate":
        if not self.low <= self.value <= self.high:
            raise ValueError(
                f"{self.value} lies outside of its interval, {self.low} to {self.high}"
            )
        return self


def _within(least: int, figure: Estimate) -> Estimate:
    if figure.low < least - ROUNDING or figure.high > 1 + ROUNDING:
        raise ValueError(f"{figure.low} to {figure.high} is not within {least} to 1")
    return figure


ShareEstimate = Annotated[Estimate, AfterValidator(partial(_within, 0))]
DifferenceEstimate = Annotated[Estimate, AfterValidator(partial(_within, -1))]


class OperatingPoint(Record):
    """The largest TAR whose measured FAR does not exceed `far`, and where it was found."""

    far: Rate
    tar: ShareEstimate
    threshold: Cosine = Field(description="accept a pair when its score is above this")
    measured_far: Share
    resolved: bool = Field(description="false where there are fewer than 1/far impostor pairs")


class Curve(Record):
    """Points (x, y) of a curve, in order."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    @model_validator(mode="after")
    def _as_many(self) -> "Curve":
        if len(self.x) != len(self.y):
            raise ValueError(f"a curve of {len(self.x)} x and {len(self.y)} y; expected as many")
        return self


class Histogram(Record):
    """Densities of genuine and impostor scores over the same bins."""

    edges: tuple[Cosine, ...] = Field(min_length=2)
    genuine: tuple[Density, ...]
    impostor: tuple[Density, ...]

    @model_validator(mode="after")
    def _ascending(self) -> "Histogram":
        if not len(self.genuine) == len(self.impostor) == len(self.edges) - 1:
            raise ValueError(
                f"{len(self.genuine)} and {len(self.impostor)} bars between {len(self.edges)} edges"
            )
        if any(right - left < ROUNDING for left, right in pairwise(self.edges)):
            raise ValueError("the edges of the bins do not ascend")
        return self


class Combination(Record):
    """One query model against one gallery, on the same unseen classes."""

    query: str = Field(description="the query model's role")
    gallery: str = Field(description="the gallery's, e.g. old, new, new 50 %")
    mean_average_precision: ShareEstimate
    rank1: ShareEstimate
    rank5: ShareEstimate
    operating_points: tuple[OperatingPoint, ...]
    genuine_pairs: Count
    impostor_pairs: Count
    roc: Curve
    cmc: Curve
    histogram: Histogram

    def metric(self, name: str) -> Estimate:
        """Return a figure by the name that tables, gates and benches use (see `metrics`)."""
        return self.metrics()[name]

    def metrics(self) -> dict[str, Estimate]:
        """Return every figure by name: mAP, rank-1, rank-5, TAR@1e-2 and so on."""
        figures = {"mAP": self.mean_average_precision, "rank-1": self.rank1, "rank-5": self.rank5}
        return figures | {tar_name(p.far): p.tar for p in self.operating_points}


def tar_name(far: float) -> str:
    """Return the name of the TAR at `far`, e.g. `TAR@1e-3`.

    >>> tar_name(0.001)
    'TAR@1e-3'
    """
    mantissa, exponent = f"{far:.6e}".split("e")
    return f"TAR@{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


class Difference(Record):
    """Paired differences `of` − `minus` of two combinations, over the same classes."""

    of: str
    minus: str
    metrics: dict[str, DifferenceEstimate]


class CarriedThreshold(Record):
    """A threshold for the cross-test that keeps the old system's false-accept rate.

    It is set on one half of the query classes and measured on the other half.
    """

    far: Rate
    old_threshold: Cosine = Field(description="where the old system reaches `far`")
    far_at_old_threshold: Share = Field(description="what new/old accepts there, all classes")
    threshold: Cosine = Field(description="where new/old reaches `far`, calibration half")
    measured_far: Share = Field(description="what new/old accepts there, the other half")


class Match(Record):
    """One gallery item that a query found."""

    key: str
    label: str
    score: Cosine
    image: str = Field(description="a PNG as a data URI, or empty")


class Example(Record):
    """One query with what it found before and after the upgrade."""

    key: str
    label: str
    image: str
    before: tuple[Match, ...]
    after: tuple[Match, ...]


class ModelCost(Record):
    """What it took to train one model."""

    seconds: float = Field(ge=0)
    images: Count
    steps: Count


class FlippedClass(Record):
    """How the queries of one class changed at rank 1; only those whose class is in the gallery."""

    name: str
    queries: Count
    lost: Count = Field(description="right under old/old, wrong under new/old")
    gained: Count = Field(description="wrong under old/old, right under new/old")


class Flips(Record):
    """Queries whose first hit is right under one of old/old and new/old alone."""

    negative: ShareEstimate = Field(description="right before, wrong now")
    positive: ShareEstimate = Field(description="wrong before, right now")
    classes: Count = Field(description="that lost a query")
    worst: tuple[FlippedClass, ...]
    """Those that lost most, less what they gained; not all of them."""


class BackfillCurve(Record):
    """What new queries reach while the old rows are embedded again in one order."""

    order: str
    metrics: dict[str, tuple[ShareEstimate, ...]] = Field(description="at each of the shares")
    areas: dict[str, ShareEstimate] = Field(description="under them: the mean on the way")


class Backfill(Record):
    """Curves of accuracy over the share of a gallery that was embedded again, by the order."""

    shares: tuple[Share, ...] = Field(min_length=2)
    curves: tuple[BackfillCurve, ...] = Field(min_length=1)
    differences: tuple[Difference, ...] = Field(description="of the areas of two orders")
    take: str | None = Field(description="the order that surely gains on a random one, and most")

    @model_validator(mode="after")
    def _complete(self) -> "Backfill":
        names = self.curves[0].areas.keys()
        for one in self.curves:
            sizes = {len(figures) for figures in one.metrics.values()}
            if sizes != {len(self.shares)} or not names == one.areas.keys() == one.metrics.keys():
                raise ValueError(f"the curve {one.order!r} has other points than the first")
        pairs = [{d.of, d.minus} for d in self.differences if "mAP" in d.metrics]
        others = {one.order for one in self.curves} - {self.take}
        if "mAP" not in names or (self.take and any({self.take, o} not in pairs for o in others)):
            raise ValueError("the curves have no mAP, or are not paired in it")
        if self.take and "random" not in others:
            raise ValueError(f"{self.take!r} is not held against a random order")
        return self


Choice = Literal["stay", "whiten", "bridge", "train", "re-embed", "undecided"]


class Worth(Record):
    """What to do, for whoever decides about an upgrade."""

    choice: Choice
    says: str = Field(description="with gain, cost and what can be undone, in one sentence")


class Result(HadQueryMap):
    """One evaluation of an upgrade. Reports, gates and benches read nothing else."""

    kind: Literal["upgrade"] = "upgrade"
    title: str
    created: str = Field(default_factory=now)
    versions: dict[str, str]
    seed: int
    data: dict[str, str | int]
    models: dict[str, Contract] = Field(description="by role: old, new, independent")
    bridge: Bridge | None = Field(None, exclude_if=absent)
    """That new queries searched the old gallery through."""
    chosen: str | None = Field(None, exclude_if=absent)
    """Kind of the independent model's bridge in chosen/old."""
    old_queries: Share | None = Field(None, exclude_if=absent)
    """Share of the new query in new+old/old."""
    left_out: dict[str, str] = Field({}, exclude_if=lambda found: not found)
    """Combinations, and why."""
    trained_apart: Standings = Field({})
    classes: Count | None = Field(None, exclude_if=absent)
    """Of the queries, those with an item in the gallery: intervals are over them."""
    combinations: dict[str, Combination] = Field(description="by name, query/gallery")
    differences: tuple[Difference, ...]
    update_gain: Estimate | None = Field(None, description="of mAP; needs an independent model")
    negative_flips: Share = Field(description="right at rank 1 under old/old, wrong under new/old")
    flips: Flips | None = Field(None, exclude_if=absent)
    backfill: Backfill | None = Field(None, exclude_if=absent)
    worth: Worth | None = Field(None, exclude_if=absent)
    carried_threshold: CarriedThreshold
    calibrations: dict[str, HeldOutCalibration] = Field({}, exclude_if=lambda found: not found)
    """By combination."""
    costs: dict[str, ModelCost] = Field({})
    examples: tuple[Example, ...] = ()

    @model_validator(mode="after")
    def _holds_together(self) -> "Result":
        new, old = self.models.get("new"), self.models.get("old")
        if self.bridge and new and old and (problem := self.bridge.problem(new, old)):
            raise ValueError(problem)
        for name in ("old/old", "new/old"):
            if name not in self.combinations:
                there = ", ".join(self.combinations) or "none"
                raise ValueError(f"it has no combination {name!r}, but {there}; evaluate again")
        return self

    def difference(self, of: str, minus: str) -> Difference | None:
        """Return the paired difference of two combinations, or None where it was not taken."""
        return next((d for d in self.differences if (d.of, d.minus) == (of, minus)), None)
