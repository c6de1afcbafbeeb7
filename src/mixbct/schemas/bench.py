"""What a bench writes: its cells, and the summary over seeds that its tables show."""

import operator
from typing import Any, Literal

from pydantic import Field

from mixbct.schemas.record import Document, Record, absent, now
from mixbct.schemas.result import Estimate

METRICS = ("mAP", "rank-1", "TAR@1e-3", "TAR@1e-4")
"""What cells are compared by."""

Part = Literal["validation", "test"]


class Compact(Document):
    """A record that is written on one line: hundreds of them are published."""

    def to_json(self) -> str:
        """Return the record as one line of JSON."""
        return self._json(None) + "\n"


class CellCost(Record):
    """What one cell took. Adapters train nothing: theirs is the time of the fit."""

    seconds: float = Field(0.0, description="of training, by the clock")
    cpu_seconds: float = Field(0.0, description="of training, of all threads")
    images: int = Field(0, description="forwarded in training")
    steps: int = 0
    peak_memory: int = Field(0, description="bytes, of the whole process")


class BenchCell(Compact):
    """One method, old model, scenario and seed: what came of it, or why nothing did.

    A trained model's cell also has the cross-test behind bridges that were fitted to it: `cca:
    new/old` and so on. What old/old and the independent model reach stands in the latter's cell.
    """

    kind: Literal["bench-cell"] = "bench-cell"
    id: str
    bench: str
    part: Part
    method: str
    old: str
    scenario: str
    seed: int
    trial: int | None = Field(None, description="number of the method's trial that was used")
    settings: dict[str, Any] = Field(description="of the method, as trained")
    plan: str = Field(description="digest of all that the cell is made from")
    error: str = Field("", description="why there is no figure; empty where there are some")
    figures: dict[str, dict[str, Estimate]] = Field({}, description="combination → metric → figure")
    update_gain: Estimate | None = None
    gate_passed: bool | None = Field(None, exclude_if=absent)
    """By the gate of its day; earlier versions."""
    gate_failed: tuple[str, ...] = ()
    """Checks of the gate that failed and that figures do not tell."""
    cost: CellCost | None = None
    versions: dict[str, str] = Field({})
    created: str = Field(default_factory=now)
    drawn: dict[str, Any] = Field({}, exclude=True, repr=False)
    """`combination metric` → bootstrap replicates, float64 [r]; a file of their own."""


class Score(Record):
    """A figure over seeds: their mean with its interval over classes, and each seed's own."""

    mean: Estimate
    seeds: tuple[float, ...]

    @property
    def sign(self) -> int:
        """Return 1 or −1 where the interval and every seed lie above or below zero, else 0."""
        low, high = min(self.mean.low, *self.seeds), max(self.mean.high, *self.seeds)
        return (low > 0) - (high < 0)


class BenchRow(Record):
    """A method, or `method, bridge` for one behind it, in one place, over its seeds."""

    method: str
    seeds: tuple[int, ...] = Field(description="that have a cell without error")
    failed: dict[int, str] = Field({}, description="seed → why it has none")
    cross: dict[str, Score] = Field({}, description="the cross-test")
    own: dict[str, Score] = Field({}, description="the self-test")
    mixed: dict[str, Score] = Field({}, description="half of the gallery enrolled again")
    cross_gain: dict[str, Score] = Field({}, description="new/old − old/old, paired")
    own_gain: dict[str, Score] = Field({}, description="new/new − independent, paired")
    behind: dict[str, Score] = Field({})
    """Cross and self mAP of the bench's own method − this one's, paired."""
    gates_passed: int = 0
    cost: CellCost | None = Field(None, description="mean over seeds; the largest peak of memory")
    device: str = Field("", description="on which the cost was measured")


class BenchTable(Record):
    """All methods in one scenario with one old model."""

    old: str
    scenario: str
    base: dict[str, Score] = Field(description="old/old")
    whitened: dict[str, Score] = Field({}, exclude_if=operator.not_)
    """The same behind whitening: no new model."""
    rows: tuple[BenchRow, ...]


class Trial(Record):
    """One setting of a method as judged on the validation classes."""

    settings: dict[str, Any]
    cross: float | None = Field(description="mAP of the cross-test; None where it failed")
    own: float | None = Field(description="mAP of the self-test")


class Choice(Record):
    """Which trial of a method was chosen."""

    method: str
    trial: int
    trials: tuple[Trial, ...]


class BenchSummary(Compact):
    """A bench: what its tables, its page and its reader are given."""

    kind: Literal["bench"] = "bench"
    name: str
    title: str
    ours: str = Field(description="the method that the others are held against")
    created: str = Field(default_factory=now)
    command: str
    data: dict[str, str | int]
    versions: dict[str, str]
    cells: int
    failed: int
    cpu_hours: float = Field(description="of training, over all cells")
    choices: tuple[Choice, ...] = ()
    tables: tuple[BenchTable, ...]
