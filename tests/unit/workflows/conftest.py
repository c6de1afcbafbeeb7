"""Cells as a bench would leave them, with figures from a seeded generator."""

from collections.abc import Callable

import numpy as np
import pytest

from mixbct.evaluation.bootstrap import estimate
from mixbct.schemas.bench import METRICS, BenchCell, CellCost

COMBINATIONS = ("old/old", "new/old", "new/new", "new/50 % new")
MakeCell = Callable[..., BenchCell]


@pytest.fixture
def make_cell() -> MakeCell:
    """Return a maker of cells whose every figure is `level` (a combination's own) plus noise."""

    def make(method: str, seed: int, *, error: str = "", **levels: float) -> BenchCell:
        rng = np.random.default_rng([seed, *map(ord, method)])
        drawn = {
            name: {m: levels.get(name, 0.5) + 0.01 * rng.standard_normal(200) for m in METRICS}
            for name in dict.fromkeys((*COMBINATIONS, *levels))
        }
        figures = {
            name: {m: estimate(float(values.mean()), values) for m, values in one.items()}
            for name, one in drawn.items()
        }
        return BenchCell(
            id=f"o--extended-class--{method}--s{seed}",
            bench="b",
            part="test",
            method=method,
            old="o",
            scenario="extended-class",
            seed=seed,
            settings={},
            plan="p",
            error=error,
            figures={} if error else figures,
            cost=CellCost(
                seconds=10.0, cpu_seconds=9.0 + seed, images=100, steps=10, peak_memory=seed * 2**20
            ),
            drawn={f"{n} {m}": values for n, one in drawn.items() for m, values in one.items()},
        )

    return make
