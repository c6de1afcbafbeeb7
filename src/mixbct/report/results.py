"""Tables of results for terminals and pages, and the verdict in words."""

from dataclasses import replace

from rich.table import Table as RichTable

from mixbct.report.names import BASELINE, CROSS, Named, named_combinations
from mixbct.report.tables import (
    Cell,
    Row,
    Table,
    figure_cell,
    interval,
    percent,
    points,
    points_interval,
    rich_table,
    turned,
    visible,
)
from mixbct.schemas.gate import GateOutcome
from mixbct.schemas.generations import GenerationsResult
from mixbct.schemas.result import Result, tar_name

_NAMED = 5
"""Classes that a terminal names; the page has more."""


def combinations_table(result: Result) -> Table:
    """Return one row a combination, with paired differences to old/old.

    The columns are mAP, rank-1, then TAR from the loosest FAR to the strictest. The best of each
    is sought among the queries of other models against the untouched gallery. † marks a TAR at a
    FAR that the number of impostor pairs cannot resolve.
    """
    named = named_combinations(result)
    operating = [point for one in named for point in one.data.operating_points]
    fars = sorted({point.far for point in operating}, reverse=True)
    columns = ("mAP", "rank-1", *map(tar_name, fars))
    cross = [one.data.metrics() for one in named if one.cross]
    best = {name: max((m[name].value for m in cross if name in m), default=0) for name in columns}
    caption = "%, 95 % interval, paired difference to old/old (▲ ▼: its interval excludes zero)"
    if not all(point.resolved for point in operating):
        caption += "; †: too few impostor pairs for this FAR"
    rows = []
    for one in named:
        cells = tuple(_cell(result, one, column, best[column]) for column in columns)
        looks = (one.short, one.explanation, one.colour)
        rows.append(Row(one.name, cells, *looks, main=one.name == CROSS))
    return Table("query/gallery", columns, tuple(rows), caption)


def _cell(result: Result, one: Named, column: str, best: float) -> Cell:
    figure = one.data.metrics().get(column)
    if figure is None:
        return Cell("–")
    paired = result.difference(one.name, BASELINE)
    change = paired.metrics.get(column) if paired else None
    cell = figure_cell(figure, change, one.cross and figure.value == best)
    coarse = any(tar_name(p.far) == column and not p.resolved for p in one.data.operating_points)
    return replace(cell, value=f"{cell.value} †") if coarse else cell


def results_table(result: Result) -> RichTable:
    """Return the table for a terminal."""
    return rich_table(combinations_table(result))


def generations_table(result: GenerationsResult, metric: str) -> RichTable:
    """Return one metric: a row a query version, a column a gallery version."""
    versions = range(1, len(result.models) + 1)

    def cell(query: int, gallery: int) -> Cell:
        if gallery > query:
            return Cell("")
        pair = result.pair(query, gallery)
        return figure_cell(pair.metrics[metric], pair.gains.get(metric), best=query == gallery)

    rows = tuple(
        Row(f"v{query} {model.name}, {model.dim}-d", tuple(cell(query, g) for g in versions))
        for query, model in enumerate(result.models, 1)
    )
    columns = tuple(f"gallery of v{n}\n{m.name}" for n, m in enumerate(result.models, 1))
    summary = result.summary[metric]
    caption = (
        f"compatible pairs {percent(summary.compatible)} % (surely "
        f"{percent(summary.surely_compatible)} %), mean of cross-tests "
        f"{percent(summary.mean_cross.value)} [{interval(summary.mean_cross)}], of all "
        f"{percent(summary.mean.value)} [{interval(summary.mean)}]"
    )
    return rich_table(Table("queries of", columns, rows, caption, metric))


def verdict(outcome: GateOutcome) -> str:
    """Return the verdict in words."""
    return "Compatible" if outcome.passed else "Not compatible"


def verdict_line(outcome: GateOutcome, result: Result) -> str:
    """Return the verdict in one line of plain text, for the end of a command's output."""
    before, after = (result.combinations[n].mean_average_precision for n in (BASELINE, CROSS))
    passed = sum(check.passed for check in outcome.checks)
    beside = outcome.beside
    worth = sum(check.passed for check in beside)
    gain = result.update_gain
    return (
        f"{verdict(outcome)}: mAP {percent(before.value)} → {percent(after.value)} % on the "
        "untouched gallery, "
        + (f"update gain {percent(gain.value)} % [{interval(gain)}], " if gain else "")
        + f"{passed} of {len(outcome.checks)} checks passed"
        + (f", {worth} of {len(beside)} against the old model alone, whitened" if beside else "")
    )


def flip_lines(result: Result) -> list[str]:
    """Return how many queries a change of model turned wrong, and for whom it is worst."""
    if result.flips is None:
        return []
    named = (
        f"{visible(c.name)} ({c.lost} lost, {c.gained} gained of {c.queries})"
        for c in result.flips.worst[:_NAMED]
    )
    flips = result.flips.negative
    said = (
        f"right before, wrong now: {percent(flips.value)} % of the queries [{interval(flips)}], in "
        f"{result.flips.classes:,} classes"
    )
    return [f"{said}; worst: {', '.join(named)}" if result.flips.worst else said]


def backfill_lines(result: Result) -> list[str]:
    """Return in which order old rows are best embedded again, as far as that is sure."""
    if (found := result.backfill) is None:
        return []
    areas = {curve.order: curve.areas["mAP"] for curve in found.curves}
    said = ", ".join(f"{name} {percent(a.value)} % [{interval(a)}]" for name, a in areas.items())
    took = f"area under the mAP of a backfill: {said}"
    best = found.take
    if best is None:
        return [f"{took}; no order surely gains on a random one: take any"]
    other = {d.minus: d.metrics["mAP"] for d in found.differences if d.of == best}
    other |= {d.of: turned(d.metrics["mAP"]) for d in found.differences if d.minus == best}
    level = [name for name, gain in other.items() if gain.low <= 0]
    gain = f"{points(other['random'])} points [{points_interval(other['random'])}] on a random one"
    rest = f"; {' and '.join(level)} may be as good" if level else ""
    return [f"{took}; take --order {best}: {gain}{rest}"]


def threshold_lines(outcome: GateOutcome) -> list[str]:
    """Return where to decide, a line a rate and a pair of contracts."""
    return [
        f"{one.pair} at a false-accept rate of {one.far:g}: accept above {one.threshold:.4f} "
        f"({one.measured_far:.1e} on other classes; above the old system's "
        f"{one.old_threshold:.4f} it would be {one.far_at_old_threshold:.1e})"
        + (f"; coarse: the pairs support {one.least:.1e}" if one.coarse else "")
        for one in outcome.thresholds
    ]


def remedies(outcome: GateOutcome) -> list[str]:
    """Return what to try next, a line a remedy, with the checks that call for it."""
    named: dict[str, list[str]] = {}
    for check in outcome.checks:
        if not check.passed and check.remedy:
            named.setdefault(check.remedy, []).append(check.name)
    return [f"try next, for {', '.join(names)}: {remedy}" for remedy, names in named.items()]
