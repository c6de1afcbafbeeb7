"""What the gate decides, and the edge that it writes."""

from pydantic import Field, model_validator

from mixbct.errors import ResultError
from mixbct.schemas.bridge import Bridge, HadQueryMap
from mixbct.schemas.calibration import Calibration
from mixbct.schemas.contract import Contract
from mixbct.schemas.record import Document, Record, absent, now
from mixbct.schemas.result import Cosine, Rate, Result, Share


class GateCheck(Record):
    """One condition of the gate: `value` must reach `bound` (above or below it, as said)."""

    name: str
    value: float
    bound: float
    passed: bool
    says: str = Field(description="the condition and what was seen, in one sentence")
    remedy: str | None = Field(None, exclude_if=absent)
    """What to try next where it failed."""


class PairThreshold(Record):
    """What queries of one kind against rows of one kind are to be decided by, at one rate."""

    pair: str = Field(description="query/gallery, by role: new/old, new/new, new+old/old")
    far: Rate
    threshold: Cosine = Field(description="set on one half of the query classes")
    measured_far: Share = Field(description="what it accepts on the other half")
    old_threshold: Cosine = Field(description="where the old system reaches the rate")
    far_at_old_threshold: Share = Field(description="what is accepted if that one is left")
    least: Share = Field(description="the lowest rate that the pairs support")

    @property
    def coarse(self) -> bool:
        """Return whether the rate is lower than the pairs support."""
        return self.far < self.least


class GateOutcome(Document):
    """What the gate decided about one result."""

    passed: bool
    checks: tuple[GateCheck, ...]
    beside: tuple[GateCheck, ...] = Field((), exclude_if=lambda found: not found)
    """Whether new/old is worth more than whiten/old, the old model alone; decides nothing."""
    thresholds: tuple[PairThreshold, ...] = Field((), exclude_if=lambda found: not found)
    result_digest: str
    training: str | None = Field(None, exclude_if=absent)
    """What is known of the classes that the models saw."""

    @model_validator(mode="after")
    def _follows_from_its_checks(self) -> "GateOutcome":
        if self.passed != all(check.passed for check in self.checks):
            raise ValueError(f"passed is {self.passed}, but not by its checks")
        return self

    def check(self, result: Result) -> None:
        """Refuse a result that the outcome was not reached on.

        Raises:
            ResultError: it names both.
        """
        if self.result_digest != (digest := result.digest()):
            raise ResultError(
                f"the gate's outcome belongs to result {self.result_digest[:16]}, not to "
                f"{digest[:16]}; run the gate on this result"
            )


class Edge(HadQueryMap):
    """A passed gate: queries under `from_contract` may search vectors under `to_contract`.

    Where there is a bridge, both are compared through it.
    """

    from_contract: Contract
    to_contract: Contract
    result_digest: str
    threshold: Cosine = Field(description="keeps the false-accept rate `far` across the edge")
    far: Rate
    bridge: Bridge | None = Field(None, exclude_if=absent)
    old_queries: Share | None = Field(None, exclude_if=absent)
    """Share of the new query where the old model still runs and both are searched with as one; the
    threshold is of new queries alone."""
    calibrations: dict[str, Calibration] = Field({}, exclude_if=lambda found: not found)
    """Score to false-accept rate by query/gallery: new/old, new/new (rows enrolled since), old/old
    (before), new+old/old (both queries as one)."""
    created: str = Field(default_factory=now)

    def calibration(
        self, query: Contract, rows: Contract, both: bool = False
    ) -> Calibration | None:
        """Return that of queries and rows of its contracts; `both`: the old query is mixed in."""
        roles = {self.from_contract.id: "new", self.to_contract.id: "old"}
        asked = f"{roles.get(query.id)}{'+old' if both else ''}/{roles.get(rows.id)}"
        return self.calibrations.get(asked)

    @model_validator(mode="after")
    def _bridge_ties_the_same(self) -> "Edge":
        if self.bridge and (p := self.bridge.problem(self.from_contract, self.to_contract)):
            raise ValueError(p)
        return self
