"""The matrix of several generations, for a terminal."""

from rich import box
from rich.table import Table
from rich.text import Text

from mixbct.report.tables import MARKS, interval, percent, points, trend
from mixbct.schemas.generations import GenerationsResult, Summary


def generations_table(result: GenerationsResult, metric: str) -> Table:
    """Return one metric: a row a query version, a column a gallery version."""
    summary = result.summary[metric]
    table = Table(
        title=metric, box=box.SIMPLE_HEAD, caption=_caption(summary), caption_justify="left"
    )
    table.add_column("queries of", overflow="fold")
    for number, model in enumerate(result.models, 1):
        table.add_column(f"gallery of v{number}\n{model.name}", justify="right")
    for query, model in enumerate(result.models, 1):
        name = f"v{query} {model.name}, {model.dim}-d"
        cells = [_cell(result, query, gallery, metric) for gallery in range(1, query + 1)]
        blank = [Text("")] * (len(result.models) - query)
        table.add_row(Text(name), *cells, *blank)
    return table


def _cell(result: GenerationsResult, query: int, gallery: int, metric: str) -> Text:
    pair = result.pair(query, gallery)
    figure = pair.metrics[metric]
    text = Text(percent(figure.value), style="bold" if query == gallery else "")
    text.append(f"\n{interval(figure)}", style="dim")
    if query > gallery:
        gain = pair.gains[metric]
        text.append(f"\n{MARKS[trend(gain)]} {points(gain)} [{interval(gain)}]")
    return text


def _caption(summary: Summary) -> str:
    return (
        f"compatible pairs {percent(summary.compatible)} % (surely "
        f"{percent(summary.surely_compatible)} %), mean of cross-tests "
        f"{percent(summary.mean_cross.value)} [{interval(summary.mean_cross)}], of all "
        f"{percent(summary.mean.value)} [{interval(summary.mean)}]"
    )
