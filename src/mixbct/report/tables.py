"""The table of all combinations: as rows for the page, for the terminal and as Markdown.

Figures are percentages. A row's differences to old/old are the paired ones of the result, so
they carry an interval of their own: `up` and `down` say that it excludes zero.
"""

from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.table import Table
from rich.text import Text

from mixbct.report.names import BASELINE, CROSS, Named, named_combinations
from mixbct.schemas.gate import GateOutcome
from mixbct.schemas.result import Estimate, Result, tar_name

Trend = Literal["up", "down", "level"]
MARKS: dict[Trend, str] = {"up": "▲", "down": "▼", "level": "≈"}
_RICH_STYLES: dict[Trend, str] = {"up": "green", "down": "red", "level": "dim"}


@dataclass(frozen=True)
class Cell:
    """One figure of the table."""

    estimate: Estimate
    difference: Estimate | None
    best: bool
    """The highest in its column of those that search the untouched gallery."""
    resolved: bool
    """False for a TAR at a FAR that the number of impostor pairs cannot resolve."""

    @property
    def trend(self) -> Trend:
        """Where the paired difference lies by its interval; `level` when it holds zero."""
        return "level" if self.difference is None else trend(self.difference)


@dataclass(frozen=True)
class Row:
    """One combination; a cell is None where the result lacks the figure."""

    named: Named
    cells: tuple[Cell | None, ...]


def trend(difference: Estimate) -> Trend:
    """Return `up` or `down` where the whole interval lies on one side of zero."""
    if difference.low > 0:
        return "up"
    return "down" if difference.high < 0 else "level"


def percent(value: float) -> str:
    """Return a share in per cent, to one decimal, without the unit: 0.754 → `75.4`."""
    return f"{100 * value:.1f}".replace("-", "−")


def interval(estimate: Estimate) -> str:
    """Return the 95 % interval of a share in per cent: `74.1 to 76.6`."""
    return f"{percent(estimate.low)} to {percent(estimate.high)}"


def points(difference: Estimate) -> str:
    """Return a difference in percentage points with its sign: `+7.6`, `−0.4`."""
    return f"{100 * difference.value:+.1f}".replace("-", "−")


def columns(result: Result) -> list[str]:
    """Return the table's figures: mAP, rank-1, then TAR from the loosest FAR to the strictest."""
    fars = {point.far for one in result.combinations.values() for point in one.operating_points}
    return ["mAP", "rank-1", *(tar_name(far) for far in sorted(fars, reverse=True))]


def rows(result: Result) -> list[Row]:
    """Return the table, one row a combination, with cells in the order of `columns`."""
    named = named_combinations(result)
    figures = columns(result)
    best = {
        figure: max(one.data.metrics()[figure].value for one in named if _has(one, figure))
        for figure in figures
        if any(_has(one, figure) for one in named)
    }
    return [
        Row(one, tuple(_cell(result, one, figure, best) for figure in figures)) for one in named
    ]


def _has(one: Named, figure: str) -> bool:
    return one.cross and figure in one.data.metrics()


def _cell(result: Result, one: Named, figure: str, best: dict[str, float]) -> Cell | None:
    estimate = one.data.metrics().get(figure)
    if estimate is None:
        return None
    paired = result.difference(one.name, BASELINE)
    unresolved = {tar_name(p.far) for p in one.data.operating_points if not p.resolved}
    return Cell(
        estimate=estimate,
        difference=paired.metrics.get(figure) if paired else None,
        best=one.cross and estimate.value == best[figure],
        resolved=figure not in unresolved,
    )


def verdict_line(outcome: GateOutcome, result: Result) -> str:
    """Return the verdict in one line of plain text, for the end of a command's output."""
    before = result.combinations[BASELINE].mean_average_precision.value
    after = result.combinations[CROSS].mean_average_precision.value
    passed = sum(check.passed for check in outcome.checks)
    parts = [
        f"mAP {percent(before)} → {percent(after)} % on the untouched gallery",
        f"{passed} of {len(outcome.checks)} checks passed",
    ]
    if result.update_gain is not None:
        gain = f"update gain {percent(result.update_gain.value)} %"
        parts.insert(1, f"{gain} [{interval(result.update_gain)}]")
    return f"{verdict(outcome)}: {', '.join(parts)}"


def remedies(outcome: GateOutcome) -> list[str]:
    """Return what to try next, a line a remedy, with the checks that call for it."""
    failed = [check for check in outcome.checks if not check.passed and check.remedy]
    checks = {
        remedy: ", ".join(check.name for check in failed if check.remedy == remedy)
        for remedy in dict.fromkeys(check.remedy for check in failed)
    }
    return [f"try next, for {names}: {remedy}" for remedy, names in checks.items()]


def verdict(outcome: GateOutcome) -> str:
    """Return the verdict in words."""
    return "Compatible" if outcome.passed else "Not compatible"


def results_table(result: Result) -> Table:
    """Return the table for a terminal: figure, interval, paired difference to old/old."""
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        caption=_caption(result),
        caption_justify="left",
    )
    table.add_column("query/gallery", overflow="fold", min_width=12)
    for figure in columns(result):
        table.add_column(figure, justify="right", no_wrap=True)
    for row in rows(result):
        name = Text(row.named.name, style="bold" if row.named.name == CROSS else "")
        name.append(f"\n{row.named.short}", style="dim")
        table.add_row(name, *(_rich_cell(cell) for cell in row.cells))
    return table


def _rich_cell(cell: Cell | None) -> Text:
    if cell is None:
        return Text("–", style="dim")
    text = Text(_figure(cell), style="bold" if cell.best else "")
    text.append(f"\n{percent(cell.estimate.low)}–{percent(cell.estimate.high)}", style="dim")
    if cell.difference is not None:
        text.append(
            f"\n{MARKS[cell.trend]} {points(cell.difference)}", style=_RICH_STYLES[cell.trend]
        )
    return text


def _figure(cell: Cell) -> str:
    return percent(cell.estimate.value) + ("" if cell.resolved else " †")


def _caption(result: Result) -> str:
    says = "%, 95 % interval, paired difference to old/old (▲ ▼: its interval excludes zero)"
    if any(not p.resolved for c in result.combinations.values() for p in c.operating_points):
        says += "; †: too few impostor pairs for this FAR"
    return says


def to_markdown(result: Result, outcome: GateOutcome) -> str:
    """Return verdict, checks and table as Markdown that ends with a newline."""
    figures = columns(result)
    lines = [f"## {_plain(result.title)}", "", f"**{_plain(verdict_line(outcome, result))}**", ""]
    lines += [f"- {'✓' if check.passed else '✗'} {_plain(check.says)}" for check in outcome.checks]
    lines += ["", f"| query/gallery | | {' | '.join(figures)} |"]
    lines += [f"| --- | --- |{' ---: |' * len(figures)}"]
    for row in rows(result):
        cells = " | ".join(_markdown_cell(cell) for cell in row.cells)
        lines.append(f"| {_plain(row.named.name)} | {_plain(row.named.short)} | {cells} |")
    return "\n".join([*lines, "", _caption(result), ""])


def _markdown_cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    figure = f"**{_figure(cell)}**" if cell.best else _figure(cell)
    text = f"{figure} [{interval(cell.estimate)}]"
    if cell.difference is None:
        return text
    return f"{text} {MARKS[cell.trend]} {points(cell.difference)}"


def _plain(text: str) -> str:
    """Return a string that cannot end a table cell, start a tag or break a line."""
    flat = " ".join(text.split())
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
