"""A bench's summary for people: in the terminal, as Markdown, and as one offline HTML page.

Figures are percentages, means over seeds. A mark (▲ ▼) needs the interval of the difference and
every single seed on the same side of zero; otherwise it is ≈.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from mixbct.files import write_atomically
from mixbct.report.charts import Plot, percent_axis
from mixbct.report.figures import Figure
from mixbct.report.foreign_text import markdown, markdown_code
from mixbct.report.tables import MARKS, Trend, interval, percent, points
from mixbct.report.templates import render_page
from mixbct.schemas.bench import METRICS, BenchRow, BenchSummary, BenchTable, Score

INDEPENDENT = "independent"
_COLOURS = (
    *("k-self", "k-naive", "k-map", "k-free", "k-mixed1", "k-other1", "k-other2", "k-other3"),
    *("k-mixed2", "k-mixed3", "k-today"),
)
COLUMNS = (
    *(f"cross {metric}" for metric in METRICS),
    "self mAP",
    "half new mAP",
    "gate",
    "vs {ours}",
    "cost",
)


@dataclass(frozen=True)
class Cell:
    """One figure: its text, its interval, its difference with a trend; what is missing is empty."""

    value: str
    interval: str = ""
    difference: str = ""
    trend: Trend = "level"
    best: bool = False


def trend_of(score: Score) -> Trend:
    """Return where a difference lies; `level` unless every seed agrees with the interval."""
    trends: tuple[Trend, ...] = ("level", "up", "down")
    return trends[score.sign]  # −1 is the last


def cells(summary: BenchSummary, table: BenchTable, row: BenchRow) -> list[Cell]:
    """Return a row's cells, in the order of `COLUMNS`; one that says why for a row that failed."""
    if not row.seeds:
        return [Cell(f"failed: {next(iter(row.failed.values()))}")]
    found = [_cell(table, row, metric, "cross") for metric in METRICS]
    found += [_cell(table, row, "mAP", "own"), _cell(table, row, "mAP", "mixed")]
    found.append(Cell(f"{row.gates_passed} of {len(row.seeds)}" if row.cross else "–"))
    found.append(Cell(_against(row) or ("–" if row.method != summary.ours else "itself")))
    if (cost := row.cost) is None:
        return [*found, Cell("–")]
    forwarded = f"{cost.images / 1000:,.0f} k images{_more(table, row)}"
    forwarded += f", {cost.peak_memory / 2**20:,.0f} MB"
    if len({one.device for one in table.rows if one.cost and one.cost.steps}) > 1 and cost.steps:
        forwarded += f", on {row.device}"
    return [*found, Cell(f"{cost.cpu_seconds:,.0f} s", forwarded)]


def _more(table: BenchTable, row: BenchRow) -> str:
    """Say where a method forwarded more images than the independent model, by 2 % or more."""
    free = next((one.cost for one in table.rows if one.method == INDEPENDENT and one.cost), None)
    if free is None or row.cost is None or row.cost.images < 1.02 * free.images:
        return ""
    return f" (+{row.cost.images / free.images - 1:.0%})"


def name_of(table: BenchTable, row: BenchRow) -> str:
    """Return a method's name, with the number of its seeds where others have more."""
    most = max(len(one.seeds) for one in table.rows)
    return row.method if len(row.seeds) == most else f"{row.method} ({len(row.seeds)} of {most})"


def failures(table: BenchTable) -> list[str]:
    """Return a line for every cell that failed."""
    return [
        f"{row.method}, seed {seed}: {why}"
        for row in table.rows
        for seed, why in row.failed.items()
    ]


def caption(table: BenchTable) -> str:
    """Return what old/old reaches, in words."""
    if not table.base:
        return "no old/old: the independent model failed"
    figures = ", ".join(f"{m} {percent(s.mean.value)}" for m, s in table.base.items())
    return f"old/old: {figures}"


def _cell(table: BenchTable, row: BenchRow, metric: str, side: str) -> Cell:
    """Return one figure of a side (`cross`, `own` or `mixed`) with its paired difference."""
    score: Score | None = getattr(row, side).get(metric)
    if score is None:
        return Cell("–")
    others = [getattr(one, side).get(metric) for one in table.rows if one.seeds == row.seeds]
    best = max(other.mean.value for other in others if other is not None)
    mean, gain = score.mean, getattr(row, f"{side}_gain", {}).get(metric)
    cell = Cell(
        percent(mean.value),
        interval(mean),
        best=mean.value == best and name_of(table, row) == row.method,
    )
    if gain is None:
        return cell
    return replace(cell, difference=points(gain.mean), trend=trend_of(gain))


def _against(row: BenchRow) -> str:
    """Return this method − the bench's own, on cross and self mAP."""
    if not row.behind:
        return ""
    marks = {"up": MARKS["down"], "down": MARKS["up"], "level": MARKS["level"]}
    return ", ".join(
        f"{marks[trend_of(score)]} " + f"{-100 * score.mean.value:+.1f}".replace("-", "−")
        for score in (row.behind["cross"], row.behind["own"])
    )


def bench_table(summary: BenchSummary, table: BenchTable) -> Table:
    """Return one scenario's table for a terminal."""
    shown = Table(
        title=f"{table.scenario}, old model {table.old}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        caption=f"{caption(table)}; ▲ ▼ ≈ to old/old (cross) and to the independent model (self)",
        caption_justify="left",
    )
    # what a terminal's width has no room for is on the page
    kept = [i for i, column in enumerate(COLUMNS) if column != "vs {ours}"]
    shown.add_column("method", no_wrap=True)
    for i in kept:
        shown.add_column(COLUMNS[i], justify="right")
    for row in table.rows:
        found = cells(summary, table, row)
        texts = [
            Text(cell.value, style="bold" if cell.best else "")
            + Text(f" {MARKS[cell.trend]}" if cell.difference else "")
            for cell in (found if len(found) == 1 else [found[i] for i in kept])
        ]
        shown.add_row(
            Text(name_of(table, row), style="bold" if row.method == summary.ours else ""), *texts
        )
    return shown


_TRIALS = (
    "Each method's trials were run once, in one scenario, on classes that are neither trained nor "
    "tested on; the one with the highest sum of both figures was run on the test classes."
)


def flat(settings: dict[str, object], prefix: str = "") -> str:
    """Return nested settings as `a.b = 1, c = 2`; nothing changed is `as it is`."""
    parts = [
        flat(value, f"{prefix}{key}.") if isinstance(value, dict) else f"{prefix}{key} = {value}"
        for key, value in settings.items()
    ]
    return ", ".join(parts) or "as it is"


def provenance(summary: BenchSummary) -> list[tuple[str, str]]:
    """Return the command, the date, the versions and what it cost."""
    versions = ", ".join(f"{name} {version}" for name, version in summary.versions.items())
    data = ", ".join(f"{name} {value}" for name, value in summary.data.items())
    return [
        ("command", summary.command),
        ("date", summary.created),
        ("cells", f"{summary.cells}, of which {summary.failed} failed"),
        (
            "CPU time of training",
            f"{summary.cpu_hours:.2f} hours, trials and old models not counted",
        ),
        ("data", data),
        ("versions", versions),
    ]


def _lead(ours: str) -> str:
    return (
        "In per cent: the mean over seeds, with its 95 % interval over query classes. Cross: new "
        "queries on the old gallery; self: new queries on a new gallery; half new: half of the "
        "gallery enrolled again. A cross figure has its paired difference to old/old with it, a "
        f"self figure that to the independent model; *vs {ours}* is the method's mAP − "
        f"{ours}'s, cross and self. ▲ and ▼: the interval of the paired difference and "
        "every single seed lie on one side of zero. Bold: the highest of its column. Gate: seeds "
        "that pass it. Cost: CPU seconds, forwarded images and peak main memory of one "
        "training (adapters: of one fit); on a GPU, of the process that drives it."
    )


def scatter(summary: BenchSummary, table: BenchTable) -> Figure | None:
    """Draw self-test over cross-test mAP; None where no method has figures.

    What finds less than half of old/old on the cross-test would press all others into one line:
    it is named in the caption instead.
    """
    rows = [row for row in table.rows if row.cross]
    if not rows or not table.base:
        return None
    level = table.base["mAP"].mean.value
    shown = [row for row in rows if row.cross["mAP"].mean.value > level / 2]
    free = next((row.own["mAP"].mean.value for row in rows if row.method == INDEPENDENT), None)
    ends = [[level], [free] if free is not None else []]
    for row in shown:
        for values, score in zip(ends, (row.cross["mAP"], row.own["mAP"]), strict=True):
            values += [score.mean.low, score.mean.high]
    if not ends[1]:
        return None
    plot = Plot(
        percent_axis(ends[1], "self-test mAP, %"),
        percent_axis(ends[0], "cross-test mAP, %"),
        width=560,
        height=380,
    )
    layers = [plot.across(level, f"old/old {percent(level)}")]
    if free is not None:
        layers.append(plot.upright(free, f"independent {percent(free)}"))
    named: list[tuple[float, float, float]] = []
    # the bench's own method last, so that it lies on top
    for row in sorted(shown, key=lambda row: row.method == summary.ours):
        own, cross = row.own["mAP"].mean, row.cross["mAP"].mean
        x, y = plot.px(own.value), plot.py(cross.value)
        end = x + 8 + 7 * len(row.method)
        # two names at one height would cover each other
        crowded = any(abs(y - v) < 13 and x < stop and u < end for u, v, stop in named)
        named.append((x, y, end))
        layers.append(
            plot.dot(
                colour(summary, table, row),
                (own.value, own.low, own.high),
                (cross.value, cross.low, cross.high),
                row.method,
                f"{row.method}: self {percent(own.value)}, cross {percent(cross.value)}",
                to_the_left=crowded,
            )
        )
    below = [f"{r.method} ({percent(r.cross['mAP'].mean.value)})" for r in rows if r not in shown]
    says = "Right and up is better. Dashed: old/old and the independent model."
    if below:
        says += f" Below the axis: {', '.join(below)}."
    return Figure(plot.svg(f"Cross-test over self-test mAP, {table.scenario}", *layers), says)


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
        lead=_lead,
        headings=[column.format(ours=summary.ours) for column in COLUMNS],
        tables=[
            {
                "table": table,
                "caption": caption(table),
                "figure": scatter(summary, table),
                "failures": failures(table),
                "rows": [
                    (
                        name_of(table, row),
                        colour(summary, table, row),
                        cells(summary, table, row),
                        row.method == summary.ours,
                    )
                    for row in table.rows
                ],
            }
            for table in summary.tables
        ],
        marks=MARKS,
        flat=flat,
        trials=_TRIALS,
        provenance=provenance(summary),
        md=markdown,
        code=markdown_code,
    )


def write_bench(folder: Path, summary: BenchSummary) -> None:
    """Write `README.md` and `index.html` into `folder`."""
    write_atomically(folder / "README.md", to_markdown(summary))
    write_atomically(folder / "index.html", render_bench(summary))
