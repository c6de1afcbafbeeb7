"""From cells to tables: means over seeds, with intervals that are paired over classes.

Every cell drew the same classes in its bootstrap, so a difference of two cells has an interval
of its own, and the mean over seeds has the mean of their replicates. Seeds are too few to be
drawn from: each one's figure stands beside the mean, and a win is one where the interval and
every single seed lie on one side of zero.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float64

from mixbct.errors import ResultError
from mixbct.evaluation.bootstrap import estimate
from mixbct.report.names import BASELINE, CROSS, INDEPENDENT, SELF
from mixbct.schemas.bench import (
    METRICS,
    BenchCell,
    BenchRow,
    BenchSummary,
    BenchTable,
    CellCost,
    Choice,
    Score,
)
from mixbct.workflows.bench.recipe import BenchRecipe
from mixbct.workflows.bench.worker import DEVICE, HALF

Signed = tuple[int, BenchCell, str]
"""(+1 or −1, a cell, a combination): a term of a difference."""
_Here = dict[tuple[str, int], BenchCell]
"""Method and seed → cell, in one scenario with one old model."""


def summarise(
    recipe: BenchRecipe,
    cells: Sequence[BenchCell],
    choices: tuple[Choice, ...],
    command: str,
    data: dict[str, str | int],
    earlier: BenchSummary | None = None,
) -> BenchSummary:
    """Return the tables of a bench, in the order of its recipe.

    Published cells have no replicates: a table with such a cell is taken from the `earlier`
    summary, where it was made of the same cells.

    Raises:
        ResultError: it was not.
    """
    scenarios = dict.fromkeys(s for block in recipe.matrix for s in block.scenarios)
    places: dict[tuple[str, str], _Here] = {place: {} for place in product(recipe.old, scenarios)}
    for cell in cells:
        places[cell.old, cell.scenario][cell.method, cell.seed] = cell
    methods = [method for method in recipe.methods if any(c.method == method for c in cells)]
    return BenchSummary(
        name=recipe.name,
        title=recipe.title,
        ours=recipe.ours,
        created=_between(sorted(cell.created for cell in cells)),
        command=command,
        data=data,
        versions={
            name: _between(sorted({cell.versions[name] for cell in cells}))
            for name in cells[0].versions
            if name != DEVICE
        }
        | {DEVICE: _devices(cells)},
        cells=len(cells),
        failed=sum(bool(cell.error) for cell in cells),
        cpu_hours=sum(cell.cost.cpu_seconds for cell in cells if cell.cost) / 3600,
        choices=choices,
        tables=tuple(
            _table(here, *place, methods, recipe.ours, earlier.tables if earlier else ())
            for place, here in places.items()
            if here
        ),
    )


def _between(values: Sequence[str]) -> str:
    """Return the first and the last, or the only one."""
    return values[0] if values[0] == values[-1] else f"{values[0]} to {values[-1]}"


def _devices(cells: Sequence[BenchCell]) -> str:
    """Return what the cells were made on; a failed one does not say."""
    return ", ".join(sorted({cell.versions.get(DEVICE, "") for cell in cells} - {""}))


def _table(
    here: _Here,
    old: str,
    scenario: str,
    methods: Sequence[str],
    ours: str,
    earlier: Sequence[BenchTable],
) -> BenchTable:
    plain = [here[key].published().digest() for key in sorted(here)]
    made_of = hashlib.sha256(json.dumps([ours, *methods, *plain]).encode()).hexdigest()
    if bare := [cell.id for cell in here.values() if not (cell.error or cell.replicates)]:
        for table in earlier:
            if table.made_of == made_of:
                return table
        raise ResultError(
            f"{bare[0]} was published without its bootstrap replicates, which new means over seeds "
            "need: add --replicates to make such cells again"
        )
    free = {s: c for (m, s), c in here.items() if m == INDEPENDENT and not c.error}
    rows = []
    for method in methods:
        cells = {seed: cell for (m, seed), cell in sorted(here.items()) if m == method}
        failed = {
            s: c.error or "the independent model failed"
            for s, c in cells.items()
            if c.error or s not in free
        }
        good = [c for s, c in cells.items() if s not in failed]
        found = _scores(good, free, here, ours) | _costs(good) if good else {}
        if cells:
            seeds = tuple(cell.seed for cell in good)
            rows.append(BenchRow(method=method, seeds=seeds, failed=failed, **found))
    base = _score([[(1, cell, BASELINE)] for cell in free.values()]) if free else {}
    return BenchTable(old=old, scenario=scenario, base=base, rows=tuple(rows), made_of=made_of)


def _scores(
    cells: Sequence[BenchCell], free: dict[int, BenchCell], here: _Here, ours: str
) -> dict[str, Any]:
    both = [(cell, free[cell.seed]) for cell in cells]
    scores = {
        "cross": _score([[(1, c, CROSS)] for c in cells]),
        "own": _score([[(1, c, SELF)] for c in cells]),
        "mixed": _score([[(1, c, HALF)] for c in cells]),
        "cross_gain": _score([[(1, c, CROSS), (-1, f, BASELINE)] for c, f in both]),
        "own_gain": _score([[(1, c, SELF), (-1, f, SELF)] for c, f in both]),
    }
    us = [here.get((ours, cell.seed)) for cell in cells]
    pairs = [(one, c) for one, c in zip(us, cells, strict=True) if one and CROSS in one.figures]
    # rank merging has no cross-test
    if scores["cross"] and len(pairs) == len(cells) and us[0] is not cells[0]:
        scores["behind"] = {
            what: _score([[(1, one, side), (-1, c, side)] for one, c in pairs], ("mAP",))["mAP"]
            for what, side in (("cross", CROSS), ("own", SELF))
        }
    return scores


def _score(seeds: Sequence[Sequence[Signed]], metrics: Iterable[str] = METRICS) -> dict[str, Score]:
    """Return the mean over seeds of a sum of terms, with the interval of its replicates.

    A metric that a cell lacks is left out.
    """
    scores = {}
    for metric in metrics:
        if any(
            metric not in cell.figures.get(name, {}) for terms in seeds for _, cell, name in terms
        ):
            continue
        values = [
            sum(sign * cell.figures[name][metric].value for sign, cell, name in terms)
            for terms in seeds
        ]
        drawn: Float64[np.ndarray, "s r"] = np.array(
            [
                sum(sign * cell.replicate(name, metric) for sign, cell, name in terms)
                for terms in seeds
            ]
        )
        mean = estimate(float(np.mean(values)), drawn.mean(axis=0))
        scores[metric] = Score(mean=mean, seeds=tuple(values))
    return scores


def _costs(cells: Sequence[BenchCell]) -> dict[str, Any]:
    costs = [cell.cost for cell in cells if cell.cost is not None]
    if not costs:
        return {}
    mean = CellCost(
        seconds=float(np.mean([cost.seconds for cost in costs])),
        cpu_seconds=float(np.mean([cost.cpu_seconds for cost in costs])),
        images=round(np.mean([cost.images for cost in costs])),
        steps=round(np.mean([cost.steps for cost in costs])),
        peak_memory=max(cost.peak_memory for cost in costs),
    )
    passed = sum(cell.gate_passed for cell in cells)
    return {"gates_passed": passed, "cost": mean, "device": _devices(cells)}
