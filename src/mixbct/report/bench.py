"""A bench's summary for people: in the terminal, as Markdown, and as one offline HTML page.

Figures are percentages, means over seeds. A mark (▲ ▼) needs the interval of the difference and
every single seed on the same side of zero; otherwise it is ≈.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rich.table import Table as RichTable

from mixbct.files import write_atomically
from mixbct.report.figures import Figure, Plot, percent_axis
from mixbct.report.names import INDEPENDENT
from mixbct.report.tables import TRENDS, Cell, Row, Table, figure_cell, marked, percent, rich_table
from mixbct.report.templates import render_page
from mixbct.schemas.bench import METRICS, BenchRow, BenchSummary, BenchTable, Score

_COLOURS = (
    *("k-self", "k-naive", "k-map", "k-free", "k-mixed1", "k-other1", "k-other2", "k-other3"),
    *("k-mixed2", "k-mixed3", "k-today"),
)
_FIGURES = (*(("cross", metric) for metric in METRICS), ("own", "mAP"), ("mixed", "mAP"))
"""Side and metric of each column that holds a figure."""


def scenario_table(summary: BenchSummary, table: BenchTable) -> Table:
    """Return the table of one scenario, with what old/old reaches as its caption."""
    most = max((len(row.seeds) for row in table.rows), default=0)
    said = [
        f"{what}: {', '.join(f'{m} {percent(s.mean.value)}' for m, s in scores.items())}"
        for what, scores in (("old/old", table.base), ("whitened", table.whitened))
        if scores
    ]
    return Table(
        "method",
        (
            *(f"cross {metric}" for metric in METRICS),
            *("self mAP", "half new mAP", "gate", f"vs {summary.ours}", "cost"),
        ),
        tuple(_row(summary, table, row, most) for row in table.rows),
        "; ".join(said) or "no old/old: the independent model failed",
        f"{table.scenario}, old model {table.old}",
    )


def _row(summary: BenchSummary, table: BenchTable, row: BenchRow, most: int) -> Row:
    """Return a method's row; of one that failed the only cell says why."""
    name, seeds, ours = row.method, len(row.seeds), row.method == summary.ours
    if seeds < most:
        name += f" ({seeds} of {most})"
    cells = [Cell(f"failed: {why}") for why in row.failed.values()][:1]
    if seeds:
        against = ", ".join(marked(-s.sign, -s.mean.value) for s in row.behind.values())
        cells = [
            *(_figure(table, row, side, metric, seeds == most) for side, metric in _FIGURES),
            Cell(f"{row.gates_passed} of {seeds}" if row.cross else "–"),
            Cell(against or ("itself" if ours else "–")),
            _cost(table, row),
        ]
    return Row(name, tuple(cells), colour=colour(summary, table, row), main=ours)


def _figure(table: BenchTable, row: BenchRow, side: str, metric: str, whole: bool) -> Cell:
    """Return one figure with its paired difference; the best is sought among whole rows."""
    score: Score | None = getattr(row, side).get(metric)
    if score is None:
        return Cell("–")
    gain: Score | None = getattr(row, f"{side}_gain", {}).get(metric)
    rivals = [getattr(one, side).get(metric) for one in table.rows if one.seeds == row.seeds]
    best = whole and all(r is None or r.mean.value <= score.mean.value for r in rivals)
    cell = figure_cell(score.mean, gain.mean if gain else None, best)
    return replace(cell, trend=TRENDS[gain.sign]) if gain else cell


def _cost(table: BenchTable, row: BenchRow) -> Cell:
    """Return what a training took, and how many more images than the independent model's."""
    if (cost := row.cost) is None:
        return Cell("–")
    trained = [one for one in table.rows if one.cost and one.cost.steps]
    free = next((one.cost for one in trained if one.method == INDEPENDENT), None)
    more = ""
    if free and cost.images >= 1.02 * free.images:
        more = f" (+{cost.images / free.images - 1:.0%})"
    took = f"{cost.images / 1000:,.0f} k images{more}, {cost.peak_memory / 2**20:,.0f} MB"
    if cost.steps and len({one.device for one in trained}) > 1:
        took += f", on {row.device}"
    return Cell(f"{cost.cpu_seconds:,.0f} s", took)


def failures(table: BenchTable) -> list[str]:
    """Return a line for every cell that failed."""
    return [
        f"{row.method}, seed {seed}: {why}"
        for row in table.rows
        for seed, why in row.failed.items()
    ]


def bench_table(summary: BenchSummary, table: BenchTable) -> RichTable:
    """Return one scenario's table for a terminal; what its width has no room for is on the page."""
    whole = scenario_table(summary, table)
    # all but the last but one, `vs`
    columns = whole.columns[:-2] + whole.columns[-1:]
    kept = ((row, row.cells[:-2] + row.cells[-1:]) for row in whole.rows)
    rows = [
        replace(row, cells=tuple(replace(c, interval="") for c in cells)) for row, cells in kept
    ]
    return rich_table(
        replace(
            whole,
            columns=tuple(name.replace(" ", "\n") for name in columns),
            rows=tuple(rows),
            caption=f"{whole.caption}; ▲ ▼ ≈ to old/old (cross), to the independent model (self)",
        )
    )


def flat(settings: dict[str, object], prefix: str = "") -> str:
    """Return nested settings as `a.b = 1, c = 2`; nothing changed is `as it is`."""
    parts = [
        flat(value, f"{prefix}{key}.") if isinstance(value, dict) else f"{prefix}{key} = {value}"
        for key, value in settings.items()
    ]
    return ", ".join(parts) or "as it is"


def scatter(summary: BenchSummary, table: BenchTable) -> Figure | None:
    """Draw self-test over cross-test mAP; None where the independent model failed.

    What finds less than half of old/old on the cross-test would press all others into one line:
    it is named in the caption instead. Of rows behind bridges only the bench's own is drawn.
    """
    spots = [
        (row, row.own["mAP"].mean, row.cross["mAP"].mean)
        for row in table.rows
        if row.cross and (", " not in row.method or row.method == summary.ours)
    ]
    free = next((own.value for row, own, _ in spots if row.method == INDEPENDENT), None)
    if free is None or not table.base:
        return None
    level = table.base["mAP"].mean.value
    below = [f"{row.method} ({percent(y.value)})" for row, _, y in spots if y.value <= level / 2]
    # the bench's own method last, so that it lies on top
    shown = [spot for spot in spots if spot[2].value > level / 2]
    shown.sort(key=lambda spot: spot[0].method == summary.ours)
    across = [free, *(end for _, own, _ in shown for end in (own.low, own.high))]
    up = [level, *(end for _, _, cross in shown for end in (cross.low, cross.high))]
    plot = Plot(
        percent_axis(across, "self-test mAP, %"),
        percent_axis(up, "cross-test mAP, %"),
        width=560,
        height=380,
    )
    layers = [
        plot.draw("across", level, f"old/old {percent(level)}"),
        plot.draw("upright", free, f"independent {percent(free)}"),
    ]
    named: list[tuple[float, float, float]] = []
    for row, own, cross in shown:
        x, y = plot.px(own.value), plot.py(cross.value)
        end = x + 8 + 7 * len(row.method)
        # two names at one height would cover each other
        crowded = any(abs(y - v) < 13 and x < stop and u < end for u, v, stop in named)
        named.append((x, y, end))
        title = f"{row.method}: self {percent(own.value)}, cross {percent(cross.value)}"
        tint = colour(summary, table, row)
        layers.append(plot.draw("dot", tint, own, cross, row.method, title, crowded))
    says = "Right and up is better. Dashed: old/old and the independent model."
    if below:
        says += f" Below the axis: {', '.join(below)}."
    return Figure(
        plot.draw("chart", f"Cross-test over self-test mAP, {table.scenario}", layers), says
    )


def colour(summary: BenchSummary, table: BenchTable, row: BenchRow) -> str:
    """Return the colour class of a method."""
    if row.method == summary.ours:
        return "k-cross ours"
    others = [each.method for each in table.rows if each.method != summary.ours]
    return _COLOURS[others.index(row.method) % len(_COLOURS)]


def to_markdown(summary: BenchSummary) -> str:
    """Return all tables, how they came about and what was chosen, as Markdown."""
    return _rendered("bench.md.j2", summary).lstrip("\n")


def render_bench(summary: BenchSummary) -> str:
    """Return the page; it refers to nothing outside itself."""
    return _rendered("bench.html.j2", summary)


def _rendered(template: str, summary: BenchSummary) -> str:
    return render_page(
        template,
        summary=summary,
        tables=[
            (scenario_table(summary, one), scatter(summary, one), failures(one))
            for one in summary.tables
        ],
        flat=flat,
        provenance={
            "command": summary.command,
            "date": summary.created,
            "cells": f"{summary.cells}, of which {summary.failed} failed",
            "CPU time of training": f"{summary.cpu_hours:.2f} hours, trials and old models not "
            "counted",
            "data": _listed(summary.data),
            "versions": _listed(summary.versions),
        },
    )


def _listed(facts: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def write_bench(folder: Path, summary: BenchSummary) -> None:
    """Write `README.md` and `index.html` into `folder`."""
    write_atomically(folder / "README.md", to_markdown(summary))
    write_atomically(folder / "index.html", render_bench(summary))
