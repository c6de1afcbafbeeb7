"""From cells to tables: means over seeds, with intervals that are paired over classes.

Every cell drew the same classes in its bootstrap, so a difference of two cells has an interval
of its own, and the mean over seeds has the mean of their replicates. Seeds are too few to be
drawn from: each one's figure stands beside the mean, and a win is one where the interval and
every single seed lie on one side of zero.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from mixbct.errors import ResultError
from mixbct.evaluation.bootstrap import estimate
from mixbct.evaluation.gate import CARRIED, FEW, LEAST_CLASSES, GateSettings, gain_check, loss_check
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
from mixbct.schemas.result import FREE, Estimate
from mixbct.workflows.bench.recipe import BenchRecipe
from mixbct.workflows.bench.worker import DEVICE, HALF, PAIRED

GAIN, OWN_GAIN = (f"{of} − {minus}" for of, minus in PAIRED)
SAME = 1e-4
"""How far figures of one plan lie apart at most that two machines made."""


Signed = tuple[int, BenchCell, str]
"""(+1 or −1, a cell, a combination): a term of a difference."""
_Here = dict[tuple[str, int], BenchCell]
"""Row and seed → cell, in one scenario with one old model."""


def summarise(
    recipe: BenchRecipe,
    cells: Sequence[BenchCell],
    choices: tuple[Choice, ...],
    command: str,
    data: dict[str, str | int],
    earlier: BenchSummary | None = None,
) -> BenchSummary:
    """Return the tables of a bench, in the order of its recipe.

    Cells that an earlier version published have no replicates: their intervals are taken from the
    `earlier` summary, where its figures are theirs.

    Args:
        recipe: the bench.
        cells: those that are there.
        choices: among trials.
        command: that made them.
        data: what is to be said of it.
        earlier: the summary that lies there.

    Raises:
        ResultError: they are not.
    """
    scenarios = dict.fromkeys(s for block in recipe.matrix for s in block.scenarios)
    places: dict[tuple[str, str], _Here] = {place: {} for place in product(recipe.old, scenarios)}
    for cell in cells:
        for row in (cell, *_behind_bridges(cell)):
            places[cell.old, cell.scenario][row.method, row.seed] = row
    known = {p: BenchTable(old=p[0], scenario=p[1], base={}, rows=()) for p in places}
    known |= {(table.old, table.scenario): table for table in (earlier.tables if earlier else ())}
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
            _table(recipe, here, known[place], methods) for place, here in places.items() if here
        ),
    )


def _between(values: Sequence[str]) -> str:
    """Return the first and the last, or the only one."""
    return values[0] if values[0] == values[-1] else f"{values[0]} to {values[-1]}"


def _behind_bridges(cell: BenchCell) -> list[BenchCell]:
    """Return a cell as a row of its own behind each of its bridges."""
    rows = []
    for kind in dict.fromkeys(name.split(": ")[0] for name in cell.figures if ": " in name):
        start, found = f"{kind}: ", {}
        for field, content in (("figures", cell.figures), ("drawn", cell.drawn)):
            shared = {name: one for name, one in content.items() if name.startswith(SELF)}
            own = {n.removeprefix(start): one for n, one in content.items() if n.startswith(start)}
            found[field] = shared | own
        failed = tuple(name.removeprefix(start) for name in cell.gate_failed if name != CARRIED)
        row = {"method": f"{cell.method}, {kind}", "gate_failed": failed, "cost": None}
        rows.append(cell.model_copy(update={**row, **found}))
    return rows


def _passes_gate(cell: BenchCell, base: Mapping[str, Estimate]) -> bool:
    """Return whether today's gate passes on what a cell has kept; `base` is old/old."""
    if GAIN not in cell.figures or {CARRIED, FEW} & set(cell.gate_failed):
        return False
    by, gains, own = GateSettings(), cell.figures[GAIN], cell.figures[OWN_GAIN]["mAP"]
    checks = [gain_check(m, BASELINE, base[m], gains[m], by.margin) for m in by.gains]
    checks += [loss_check(m, m, BASELINE, gains[m], by.margin) for m in by.strict]
    checks.append(loss_check(SELF, SELF, INDEPENDENT, own, by.self_test_loss))
    return all(check.passed for check in checks)


def _devices(cells: Iterable[BenchCell]) -> str:
    """Return what the cells were made on; a failed one does not say."""
    return ", ".join(sorted({cell.versions.get(DEVICE, "") for cell in cells} - {""}))


def _table(
    recipe: BenchRecipe, here: _Here, known: BenchTable, methods: Sequence[str]
) -> BenchTable:
    """Return a table; `known` is that of an earlier summary, or an empty one of the same place."""
    rows_known = {row.method: row for row in known.rows}
    free = {s: e for (r, s), e in here.items() if r == INDEPENDENT and not e.error}
    enough = recipe.data.test_classes >= LEAST_CLASSES
    order = {method: number for number, method in enumerate(methods)}
    rows = []
    for name in sorted(dict.fromkeys(r for r, _ in here), key=lambda r: order[r.split(", ")[0]]):
        cells = {seed: here[name, seed] for row, seed in sorted(here) if row == name}
        failed = {
            seed: cell.error or "the independent model failed"
            for seed, cell in cells.items()
            if cell.error or seed not in free
        }
        good = [cell for seed, cell in cells.items() if seed not in failed]
        row = BenchRow(method=name, seeds=tuple(cell.seed for cell in good), failed=failed)
        if good:
            passed = [_passes_gate(c, free[c.seed].figures[BASELINE]) for c in good]
            costs = [cell.cost for cell in good if cell.cost is not None]
            found = {
                "gates_passed": sum(passed) * enough,
                "device": _devices(good),
                "cost": _mean_cost(costs) if costs else None,
                **_scores(good, free, here, recipe.ours, rows_known.get(name, row)),
            }
            row = row.model_copy(update=found)
        rows.append(row)
    found = {
        field: _score([[(1, entry, side)] for entry in free.values()], getattr(known, field))
        for field, side in (("base", BASELINE), ("whitened", f"{FREE}/old"))
        if free
    }
    return known.model_copy(update={"base": {}, "whitened": {}, **found, "rows": tuple(rows)})


def _scores(
    cells: Sequence[BenchCell],
    free: Mapping[int, BenchCell],
    here: _Here,
    ours: str,
    known: BenchRow,
) -> dict[str, Any]:
    """Return a row's figures; `known` is the same row of an earlier summary."""
    scores: dict[str, Any] = {}
    for field, side, minus in (
        ("cross", CROSS, ""),
        ("own", SELF, ""),
        ("mixed", HALF, ""),
        ("cross_gain", CROSS, BASELINE),
        ("own_gain", SELF, SELF),
    ):
        taken = [[(-1, free[cell.seed], minus)] if minus else [] for cell in cells]
        sums = [[(1, cell, side), *less] for cell, less in zip(cells, taken, strict=True)]
        scores[field] = _score(
            sums, getattr(known, field), METRICS if side == CROSS else METRICS[:1]
        )
    us = [here.get((ours, cell.seed)) for cell in cells]
    pairs = [(one, e) for one, e in zip(us, cells, strict=True) if one and one is not e]
    # rank merging has no cross-test
    if scores["cross"] and len(pairs) == len(cells):
        scores["behind"] = {
            f"{what} {metric}": score
            for what, side, metrics in (("cross", CROSS, METRICS), ("self", SELF, METRICS[:1]))
            for metric, score in _score(
                [[(1, one, side), (-1, e, side)] for one, e in pairs], None, metrics
            ).items()
        }
    return scores


def _score(
    seeds: Sequence[Sequence[Signed]],
    known: Mapping[str, Score] | None,
    metrics: Iterable[str] = METRICS,
) -> dict[str, Score]:
    """Return the mean over seeds of a sum of terms, with the interval of its replicates.

    A metric that a cell lacks is left out.

    Args:
        seeds: a sum a seed.
        known: what is taken where a cell has no replicates, if it is of the same figures; None:
            such a metric is left out.
        metrics: of which.

    Raises:
        ResultError: it is not.
    """
    scores = {}
    for metric in metrics:
        terms = [term for one in seeds for term in one]
        if any(metric not in e.figures.get(name, {}) for _, e, name in terms):
            continue
        values = [
            round(sum(sign * e.figures[name][metric].value for sign, e, name in one), 6)
            for one in seeds
        ]
        bare = [e.id for _, e, name in terms if f"{name} {metric}" not in e.drawn]
        if not bare:
            drawn = [sign * e.drawn[f"{name} {metric}"] for sign, e, name in terms]
            mean = estimate(round(float(np.mean(values)), 6), np.sum(drawn, axis=0) / len(seeds))
            ends = {end: round(value, 6) for end, value in mean}
            scores[metric] = Score(mean=Estimate(**ends), seeds=tuple(values))
        elif known is not None:
            there = known.get(metric)
            if there is None or not (
                len(there.seeds) == len(values) and np.allclose(there.seeds, values, 0, SAME)
            ):
                raise ResultError(
                    f"{bare[0]} was published without its bootstrap replicates, which new means "
                    "over seeds need: add --replicates to make such cells again"
                )
            scores[metric] = there
    return scores


def _mean_cost(costs: Sequence[CellCost]) -> CellCost:
    mean = {
        name: float(np.mean([getattr(c, name) for c in costs])) for name in CellCost.model_fields
    }
    whole = {name: round(mean[name]) for name in ("images", "steps")}
    return CellCost(**mean | whole | {"peak_memory": max(cost.peak_memory for cost in costs)})
