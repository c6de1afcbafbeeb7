"""The choice among a method's trials, by one rule for every method."""

from collections.abc import Sequence
from typing import Any

from mixbct.report.names import CROSS, SELF
from mixbct.schemas.bench import BenchCell, Choice, Trial


def choose(method: str, settings: Sequence[dict[str, Any]], cells: Sequence[BenchCell]) -> Choice:
    """Return the trial with the highest sum of cross-test and self-test mAP on validation.

    Both count alike, since a method that pays for one with the other has only moved along a line
    that any weight of its loss moves along. The earlier of two equal ones is chosen, and the
    first where all failed: its cells then say why.
    """
    trials = tuple(
        Trial(settings=one, cross=_map(cell, CROSS), own=_map(cell, SELF))
        for one, cell in zip(settings, cells, strict=True)
    )
    sums = [
        -1.0 if trial.cross is None or trial.own is None else trial.cross + trial.own
        for trial in trials
    ]
    best = max(range(len(sums)), key=lambda i: sums[i])
    return Choice(method=method, trial=best, trials=trials)


def _map(cell: BenchCell, combination: str) -> float | None:
    return None if cell.error else cell.figures[combination]["mAP"].value
