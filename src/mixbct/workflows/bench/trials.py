"""The choice among a method's trials, by one rule for every method."""

from collections.abc import Sequence
from typing import Any

from mixbct.bench_schemas import BenchCell, Choice, Trial
from mixbct.errors import ResultError

CROSS, OWN = "new/old", "new/new"


def choose(method: str, settings: Sequence[dict[str, Any]], cells: Sequence[BenchCell]) -> Choice:
    """Return the trial with the highest sum of cross-test and self-test mAP on validation.

    Both count alike, since a method that pays for one with the other has only moved along a line
    that any weight of its loss moves along. The earlier of two equal ones is chosen.

    Raises:
        ResultError: every trial failed.
    """
    trials = tuple(
        Trial(settings=one, cross=_map(cell, CROSS), own=_map(cell, OWN))
        for one, cell in zip(settings, cells, strict=True)
    )
    sums = [
        -1.0 if trial.cross is None or trial.own is None else trial.cross + trial.own
        for trial in trials
    ]
    best = max(range(len(sums)), key=lambda i: sums[i])
    if sums[best] < 0:
        raise ResultError(f"every trial of {method} failed, the first with: {cells[0].error}")
    return Choice(method=method, trial=best, trials=trials)


def _map(cell: BenchCell, combination: str) -> float | None:
    return None if cell.error else cell.figures[combination]["mAP"].value
