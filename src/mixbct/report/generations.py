"""The matrix of several generations, for a terminal."""

from rich.table import Table as RichTable

from mixbct.report.tables import Cell, Row, Table, figure_cell, interval, percent, rich_table
from mixbct.schemas.generations import GenerationsResult


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
