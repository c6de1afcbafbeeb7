"""From cells to tables: means over seeds, with intervals that are paired over classes.

Every cell drew the same classes in its bootstrap, so a difference of two cells has an interval
of its own, and the mean over seeds has the mean of their replicates. Seeds are too few to be
drawn from: each one's figure stands beside the mean, and a win is one where the interval and
every single seed lie on one side of zero.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float64

from mixbct.errors import ResultError
from mixbct.evaluation.bootstrap import estimate
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
from mixbct.workflows.bench.recipe import INDEPENDENT, BenchRecipe
from mixbct.workflows.bench.trials import CROSS, OWN
from mixbct.workflows.bench.worker import DEVICE, HALF

BASE = "old/old"
Signed = tuple[int, BenchCell, str]
"""(+1 or −1, a cell, a combination): a term of a difference."""


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
    found = {(c.old, c.scenario, c.method, c.seed): c for c in cells}
    places = dict.fromkeys((cell.old, cell.scenario) for cell in cells)
    order = [(old, scenario) for old in recipe.old for scenario in _scenarios(recipe)]
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
            _table(found, *place, methods, recipe.ours, earlier.tables if earlier else ())
            for place in order
            if place in places
        ),
    )


def _between(values: Sequence[str]) -> str:
    """Return the first and the last, or the only one."""
    return values[0] if values[0] == values[-1] else f"{values[0]} to {values[-1]}"


def _devices(cells: Sequence[BenchCell]) -> str:
    """Return what the cells were made on; a failed one does not say."""
    return ", ".join(sorted({cell.versions.get(DEVICE, "") for cell in cells} - {""}))


def _scenarios(recipe: BenchRecipe) -> list[str]:
    return list(dict.fromkeys(s for block in recipe.matrix for s in block.scenarios))


def _table(
    found: dict[tuple[str, str, str, int], BenchCell],
    old: str,
    scenario: str,
    methods: Sequence[str],
    ours: str,
    earlier: Sequence[BenchTable],
) -> BenchTable:
    here = {(m, s): c for (o, sc, m, s), c in found.items() if (o, sc) == (old, scenario)}
    plain = [here[key].model_copy(update={"replicates": {}}).digest() for key in sorted(here)]
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
        if not cells:
            continue
        good = [c for s, c in cells.items() if not c.error and s in free]
        failed = {s: c.error or "the independent model failed" for s, c in cells.items()}
        failed = {s: why for s, why in failed.items() if cells[s] not in good}
        row = BenchRow(method=method, seeds=tuple(c.seed for c in good), failed=failed)
        if good:
            theirs = [free[c.seed] for c in good]
            our_cells = {c.seed: here.get((ours, c.seed)) for c in good}
            row = row.model_copy(update=_scores(good, theirs, our_cells) | _costs(good))
        rows.append(row)
    base = _score([[(1, cell, BASE)] for cell in free.values()]) if free else {}
    return BenchTable(old=old, scenario=scenario, base=base, rows=tuple(rows), made_of=made_of)


def _scores(
    cells: Sequence[BenchCell],
    free: Sequence[BenchCell],
    ours: dict[int, BenchCell | None],
) -> dict[str, dict[str, Score]]:
    both = list(zip(cells, free, strict=True))
    scores = {
        "cross": _score([[(1, c, CROSS)] for c in cells]),
        "own": _score([[(1, c, OWN)] for c in cells]),
        "mixed": _score([[(1, c, HALF)] for c in cells]),
        "cross_gain": _score([[(1, c, CROSS), (-1, f, BASE)] for c, f in both]),
        "own_gain": _score([[(1, c, OWN), (-1, f, OWN)] for c, f in both]),
    }
    if not scores["cross"]:  # rank merging
        return scores
    pairs = [(c, us) for c in cells if (us := ours[c.seed]) is not None and CROSS in us.figures]
    if len(pairs) == len(cells) and all(c is not us for c, us in pairs):
        scores["behind"] = {
            what: _score([[(1, us, side), (-1, c, side)] for c, us in pairs], ("mAP",))["mAP"]
            for what, side in (("cross", CROSS), ("own", OWN))
        }
    return scores


def _score(seeds: Sequence[Sequence[Signed]], metrics: Iterable[str] = METRICS) -> dict[str, Score]:
    """Return the mean over seeds of a sum of terms, with the interval of its replicates.

    A metric that a cell lacks is left out.
    """
    scores = {}
    for metric in metrics:
        if not all(
            metric in cell.figures.get(name, {}) for terms in seeds for _, cell, name in terms
        ):
            continue
        values = [
            sum(sign * cell.figures[name][metric].value for sign, cell, name in terms)
            for terms in seeds
        ]
        drawn: Float64[np.ndarray, " r"] = np.mean(
            [
                np.sum([sign * cell.replicate(name, metric) for sign, cell, name in terms], axis=0)
                for terms in seeds
            ],
            axis=0,
        )
        mean = estimate(float(np.mean(values)), drawn)
        scores[metric] = Score(mean=mean, seeds=tuple(map(float, values)))
    return scores


def _costs(cells: Sequence[BenchCell]) -> dict[str, int | str | CellCost]:
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
