"""Timing of two things in turn, for machines whose speed changes while one looks.

A machine that others use too is half as fast in one second as in the next. Two things that are
timed a moment apart see nearly the same machine, so the quotient of their times is steadier than
either; the median over many such pairs is the figure that is reported.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Figure:
    """One line of the table, one object of the JSON file.

    Attributes:
        name: of the benchmark.
        value: the measured thing, median, in `unit`.
        unit: s/step, images/s and the like.
        reference: what it is compared with, median, in the same unit.
        ratio: the median of value/reference over the pairs, which need not be the quotient of
            the two medians.
    """

    name: str
    value: float
    unit: str
    reference: float
    ratio: float

    def to_dict(self) -> dict[str, str | float]:
        """Return the five fields by name."""
        return asdict(self)


def seconds(action: Callable[[], object]) -> float:
    """Return how long one call takes."""
    before = time.perf_counter()
    action()
    return time.perf_counter() - before


def in_turn(
    measured: Callable[[], object],
    reference: Callable[[], object],
    *,
    for_seconds: float,
    warm_up: int = 2,
    at_least: int = 5,
) -> list[tuple[float, float]]:
    """Time both in turn, and return the seconds of each pair (measured, reference).

    Which of the two goes first alternates, so that neither always finds what the other left in
    the caches.

    Args:
        measured: what is looked at.
        reference: what it is compared with.
        for_seconds: go on for so long.
        warm_up: pairs that are run first and not counted.
        at_least: pairs that are counted, however long they take.
    """
    for _ in range(warm_up):
        measured()
        reference()
    pairs: list[tuple[float, float]] = []
    end = time.perf_counter() + for_seconds
    while len(pairs) < at_least or time.perf_counter() < end:
        if len(pairs) % 2:
            second = seconds(reference)
            pairs.append((seconds(measured), second))
        else:
            pairs.append((seconds(measured), seconds(reference)))
    return pairs


def time_figure(name: str, unit: str, pairs: list[tuple[float, float]]) -> Figure:
    """Return a figure of seconds a call; its ratio is above 1 where the measured is slower."""
    return Figure(
        name,
        statistics.median(measured for measured, _ in pairs),
        unit,
        statistics.median(reference for _, reference in pairs),
        statistics.median(measured / reference for measured, reference in pairs),
    )


def rate_figure(name: str, unit: str, pairs: list[tuple[float, float]], amount: float) -> Figure:
    """Return a figure of `amount` a second; its ratio is above 1 where the measured is faster."""
    return Figure(
        name,
        amount / statistics.median(measured for measured, _ in pairs),
        unit,
        amount / statistics.median(reference for _, reference in pairs),
        statistics.median(reference / measured for measured, reference in pairs),
    )
