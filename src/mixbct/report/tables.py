"""Tables of figures with intervals and paired differences, for pages and for terminals.

Figures are percentages. A mark says where the interval of a difference lies: ▲ above zero, ▼ below,
≈ around it.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from mixbct.schemas.result import Estimate

Trend = Literal["up", "down", "level"]
TRENDS: tuple[Trend, ...] = ("level", "up", "down")
"""By the sign of a difference; that of −1 is the last."""
MARKS: dict[Trend, str] = {"up": "▲", "down": "▼", "level": "≈"}
_STYLES: dict[Trend, str] = {"up": "green", "down": "red", "level": "dim"}
_UNSEEN = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


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
