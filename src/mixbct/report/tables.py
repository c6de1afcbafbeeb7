"""Tables of figures with intervals and paired differences, and the verdict in words.

Both are for pages and for terminals.

Figures are percentages. A mark says where the interval of a difference lies: ▲ above zero, ▼ below,
≈ around it.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from mixbct.report.names import BASELINE, CROSS, Named, named_combinations
from mixbct.schemas.gate import GateOutcome
from mixbct.schemas.generations import GenerationsResult
from mixbct.schemas.result import Estimate, Result, tar_name

Trend = Literal["up", "down", "level"]
TRENDS: tuple[Trend, ...] = ("level", "up", "down")
"""By the sign of a difference; that of −1 is the last."""
MARKS: dict[Trend, str] = {"up": "▲", "down": "▼", "level": "≈"}
_STYLES: dict[Trend, str] = {"up": "green", "down": "red", "level": "dim"}
_UNSEEN = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

_NAMED = 5
"""Classes that a terminal names; the page has more."""


@dataclass(frozen=True)
class Cell:
    """One figure: its text, its interval, its difference; what is missing is empty."""

    value: str
    interval: str = ""
    difference: str = ""
    trend: Trend = "level"
    best: bool = False
    """To be set in bold."""
    span: str = ""
    """The interval of the difference."""


@dataclass(frozen=True)
class Row:
    """Figures of one thing, with its name, what it is in short and at length, and its colour."""

    name: str
    cells: tuple[Cell, ...]
    short: str = ""
    note: str = ""
    colour: str = ""
    main: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells, with the name of each column; `corner` names what the rows are."""

    corner: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    caption: str = ""
    title: str | None = None


def rich_table(table: Table) -> RichTable:
    """Return a table for a terminal: figure, interval and difference, one below the other."""
    shown = RichTable(
        title=table.title,
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        caption=table.caption,
        caption_justify="left",
    )
    shown.add_column(table.corner, overflow="fold", min_width=12)
    for column in table.columns:
        shown.add_column(visible(column), justify="right", no_wrap="\n" not in column)
    for row in table.rows:
        name = Text(visible(row.name), style="bold" if row.main else "")
        name.append(f"\n{visible(row.short)}" if row.short else "", style="dim")
        shown.add_row(name, *map(_rich_cell, row.cells))
    return shown


def _rich_cell(cell: Cell) -> Text:
    text = Text(cell.value, style="bold" if cell.best else "")
    if cell.interval:
        text.append(f"\n{cell.interval.replace(' to ', '–')}", style="dim")
    if cell.difference:
        text.append(f"\n{MARKS[cell.trend]} {cell.difference}", style=_STYLES[cell.trend])
    return text


def figure_cell(figure: Estimate, difference: Estimate | None = None, best: bool = False) -> Cell:
    """Return the cell of a figure, with its paired difference where there is one."""
    cell = Cell(percent(figure.value), interval(figure), best=best)
    if difference is None:
        return cell
    said, span = points(difference), points_interval(difference)
    return replace(cell, difference=said, trend=trend(difference), span=span)


def trend(difference: Estimate) -> Trend:
    """Return `up` or `down` where the whole interval lies on one side of zero."""
    return TRENDS[(difference.low > 0) - (difference.high < 0)]


def percent(value: float) -> str:
    """Return a share in per cent, to one decimal, without the unit: 0.754 → `75.4`."""
    return f"{100 * value:.1f}".replace("-", "−")


def interval(estimate: Estimate) -> str:
    """Return the 95 % interval of a share in per cent: `74.1 to 76.6`."""
    return f"{percent(estimate.low)} to {percent(estimate.high)}"


def points(difference: Estimate) -> str:
    """Return a difference in percentage points with its sign: `+7.6`, `−0.4`."""
    return _signed(difference.value)


def points_interval(difference: Estimate) -> str:
    """Return the 95 % interval of a difference in points: `+6.4 to +8.9`."""
    return f"{_signed(difference.low)} to {_signed(difference.high)}"


def turned(difference: Estimate) -> Estimate:
    """Return the difference the other way round."""
    return Estimate(value=-difference.value, low=-difference.high, high=-difference.low)


def marked(sign: int, value: float) -> str:
    """Return a difference of shares in points behind the mark of a sign: `▲ +7.6`."""
    return f"{MARKS[TRENDS[sign]]} {_signed(value)}"


def _signed(value: float) -> str:
    return f"{100 * value:+z.1f}".replace("-", "−")


def visible(text: str) -> str:
    """Return a foreign text without controls: those of terminals, and those that turn text round.

    >>> visible("photo\\u202egpj.exe")
    'photogpj.exe'
    """
    return _UNSEEN.sub("", text)


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
