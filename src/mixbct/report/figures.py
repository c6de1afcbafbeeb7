"""The report's figures, ROC, CMC, life after the upgrade, score histograms, as inline SVG.

The page's style sheet colours them; the shapes are in `shapes.svg.j2`. Nothing depends on a clock,
a font file or a hash, so that equal results give equal bytes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mixbct.report.names import BASELINE, MAIN_FAR, Named
from mixbct.report.tables import interval, percent
from mixbct.report.templates import environment
from mixbct.schemas.result import Backfill, Combination, Curve, tar_name

Tick = tuple[float, str]

_CMC_RANKS = 20
_ORDERS = ("k-today", "k-cross", "k-self", "k-map")
"""The colours of the orders of a backfill, as they come."""


@dataclass(frozen=True)
class Axis:
    """One axis: its range, its ticks as (value, text), its title; logarithmic if asked."""

    low: float
    high: float
    ticks: tuple[Tick, ...]
    title: str = ""
    log: bool = False

    def place(self, value: float) -> float:
        """Return where a value lies, 0 at `low` and 1 at `high`; values beyond are clamped."""
        low, high, here = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, here = math.log(low), math.log(high), math.log(here)
        return (here - low) / (high - low)


def percent_axis(values: Iterable[float], title: str) -> Axis:
    """Return an axis over shares, with ticks in per cent, that holds all `values`.

    Args:
        values: shares in 0..1, at least one.
        title: the axis' title.
    """
    shares = list(values)
    low, high = 100 * min(shares), 100 * max(shares)
    step = _step((high - low) / 5)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    high = high if high > low else low + step
    count = round((high - low) / step)
    ticks = tuple(((low + i * step) / 100, f"{low + i * step:g}") for i in range(count + 1))
    return Axis(low / 100, high / 100, ticks, title)


def decade_axis(low: int, high: int, title: str) -> Axis:
    """Return a logarithmic axis from 10^low to 10^high with a tick at each power of ten."""
    ticks = tuple((10.0**power, f"1e{power}" if power else "1") for power in range(low, high + 1))
    return Axis(10.0**low, 10.0**high, ticks, title, log=True)


def _step(rough: float) -> float:
    """Return the least of 1, 2, 5 times a power of ten that is not below `rough`."""
    power = 10.0 ** math.floor(math.log10(max(rough, 1e-3)))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))


@dataclass(frozen=True)
class Plot:
    """A chart's frame: two axes and the pixels that they span."""

    x: Axis
    y: Axis
    width: int = 480
    height: int = 320
    left: int = 46
    right: int = 14
    top: int = 12
    bottom: int = 44

    @property
    def end(self) -> int:
        """Where the frame ends on the right."""
        return self.width - self.right

    @property
    def floor(self) -> int:
        """Where the frame ends below."""
        return self.height - self.bottom

    def px(self, value: float) -> float:
        """Return the horizontal pixel of a value."""
        return self.left + self.x.place(value) * (self.end - self.left)

    def py(self, value: float) -> float:
        """Return the vertical pixel of a value."""
        return self.floor - self.y.place(value) * (self.floor - self.top)

    def draw(self, shape: str, *content: object) -> Markup:
        """Return a shape of `shapes.svg.j2`; `chart` is the whole, with its layers in order."""
        shapes = environment().get_template("shapes.svg.j2").module
        return Markup(getattr(shapes, shape)(self, *content))


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption and, where it stands for one combination, that one."""

    drawing: Markup
    caption: str
    named: Named | None = None


def curves(named: Sequence[Named]) -> list[Named]:
    """Return the combinations that ROC and CMC show: all but the mixed galleries."""
    return [one for one in named if not one.mixed]


def roc(named: Sequence[Named]) -> Figure:
    """Draw TAR over FAR, 1e-6 to 1."""
    rates = decade_axis(-6, 0, "false-accept rate")
    plot = Plot(rates, percent_axis([0.0, 1.0], "true-accept rate, %"))

    def points(one: Named) -> list[tuple[float, float]]:
        found = _curve(one.data.roc)
        # from the last one at or left of the frame on
        left = sum(x <= plot.x.low for x, _ in found)
        return found[max(left - 1, 0) :]

    lines = [
        plot.draw("line", one.colour, points(one), one.short) for one in reversed(curves(named))
    ]
    return Figure(
        plot.draw("chart", "ROC: true-accept rate over false-accept rate", lines),
        "ROC. How many genuine pairs pass, at each rate of impostors let through.",
    )


def cmc(named: Sequence[Named]) -> Figure:
    """Draw the share of queries with a right hit among the first k, for k up to 20.

    The axis leaves out combinations that find less than half of what old/old finds first, for
    they would press all others into one line; the caption names them.
    """
    shown = {one.name: _curve(one.data.cmc)[:_CMC_RANKS] for one in curves(named)}
    first = {name: points[0][1] if points else 0.0 for name, points in shown.items()}
    off = [one for one in curves(named) if first[one.name] < first.get(BASELINE, 0.0) / 2]
    kept = [one for one in curves(named) if one not in off and shown[one.name]]
    shares = [share for one in kept for _, share in shown[one.name]]
    ticks = tuple((float(rank), str(rank)) for rank in (1, 5, 10, 15, 20))
    ranks = Axis(1.0, float(_CMC_RANKS), ticks, "rank")
    plot = Plot(ranks, percent_axis(shares or [0.0, 1.0], "right hit within, %"))
    lines = [plot.draw("line", one.colour, shown[one.name], one.short) for one in reversed(kept)]
    caption = "CMC. How many queries have a right item among the first hits."
    if off:
        below = (f"{one.short} ({percent(one.data.rank1.value)} % at rank 1)" for one in off)
        caption += f" Below the axis: {', '.join(below)}."
    return Figure(
        plot.draw("chart", "CMC: share of queries with a right hit, by rank", lines), caption
    )


def _curve(curve: Curve) -> list[tuple[float, float]]:
    return list(zip(curve.x, curve.y, strict=True))


def life(named: Sequence[Named]) -> list[Figure]:
    """Draw mAP and TAR against the share of the gallery that the new model has enrolled.

    Nothing is drawn where no mixed gallery was measured, nor a figure that one of them lacks.
    """
    if not any(one.mixed for one in named):
        return []
    base = next(one for one in named if one.name == BASELINE)
    enrolled = [(one.enrolled, one) for one in named if one.enrolled is not None]
    stations = sorted(enrolled, key=lambda station: station[0])
    return [
        _life(metric, base.data.metric(metric).value, stations)
        for metric in ("mAP", tar_name(MAIN_FAR))
        if all(metric in one.data.metrics() for one in (base, *(one for _, one in stations)))
    ]


def _life(metric: str, level: float, stations: Sequence[tuple[float, Named]]) -> Figure:
    found = [(share, one, one.data.metric(metric)) for share, one in stations]
    ends = [end for _, _, estimate in found for end in (estimate.low, estimate.high)]
    # room at both sides, so that the first and the last dot stand clear of the frame
    ticks = tuple((share, f"{100 * share:g}") for share, _, _ in found)
    across = Axis(-0.04, 1.04, ticks, "gallery enrolled by new, %")
    plot = Plot(across, percent_axis([level, *ends], f"{metric}, %"), height=280)
    layers = [
        plot.draw("across", level, f"{BASELINE} {percent(level)}"),
        plot.draw("line", "trail", ((share, figure.value) for share, _, figure in found), metric),
    ]
    for share, one, figure in found:
        title = f"{one.name}: {percent(figure.value)} % [{interval(figure)}]"
        layers.append(plot.draw("whisker", one.colour, share, figure, title))
    return Figure(
        plot.draw(
            "chart", f"{metric} by the share of the gallery that the new model enrolled", layers
        ),
        f"{metric} of new queries, as the gallery fills with vectors of the new model.",
    )


def backfill(found: Backfill | None) -> list[Figure]:
    """Draw mAP and TAR while old rows are embedded again, a line an order; nothing without any."""
    return [_backfill(metric, found) for metric in found.curves[0].areas] if found else []


def backfill_key(found: Backfill | None) -> list[tuple[str, str]]:
    """Return the colour of each order."""
    return (
        list(zip(_ORDERS, (curve.order for curve in found.curves), strict=False)) if found else []
    )


def _backfill(metric: str, found: Backfill) -> Figure:
    ticks = tuple((share, f"{100 * share:g}") for share in found.shares[::2])
    values = [one.value for curve in found.curves for one in curve.metrics[metric]]
    plot = Plot(Axis(0.0, 1.0, ticks, "embedded again, %"), percent_axis(values, f"{metric}, %"))
    layers, said = [], []
    for colour, curve in zip(_ORDERS, found.curves, strict=False):
        area = curve.areas[metric]
        heights = (one.value for one in curve.metrics[metric])
        title = f"{curve.order}: area {percent(area.value)} % [{interval(area)}]"
        layers.append(plot.draw("line", colour, zip(found.shares, heights, strict=True), title))
        said.append(title)
    return Figure(
        plot.draw("chart", f"{metric} by the share that was embedded again", layers),
        f"{metric}: {'; '.join(said)}.",
    )


def histograms(named: Sequence[Named]) -> list[Figure]:
    """Draw one panel of genuine and impostor scores a combination, all over the same scores."""
    spans = [_span(one.data) for one in named]
    low, high = min(s[0] for s in spans), max(s[1] for s in spans)
    ticks = tuple((v / 2, f"{v / 2:g}") for v in range(-2, 3) if low <= v / 2 <= high)
    return [_histogram(one, Axis(low, high, ticks)) for one in named]


def _span(one: Combination) -> tuple[float, float]:
    """Return the scores between which there is anything to see."""
    edges = one.histogram.edges
    tops = [max(bars) for bars in zip(one.histogram.genuine, one.histogram.impostor, strict=True)]
    seen = [i for i, top in enumerate(tops) if top > max(tops) / 500]
    return (edges[seen[0]], edges[seen[-1] + 1]) if seen else (edges[0], edges[-1])


def _histogram(one: Named, scores: Axis) -> Figure:
    shown = one.data.histogram
    top = max(*shown.genuine, *shown.impostor) or 1.0
    place = {"width": 320, "height": 150, "left": 10, "right": 10, "top": 8, "bottom": 22}
    plot = Plot(scores, Axis(0.0, top, ()), **place)
    bars = {"impostor": shown.impostor, f"genuine {one.colour}": shown.genuine}
    layers = [plot.draw("steps", colour, shown.edges, heights) for colour, heights in bars.items()]
    caption = ""
    if point := next((p for p in one.data.operating_points if p.far == MAIN_FAR), None):
        layers.append(plot.draw("upright", point.threshold))
        caption = f"{percent(point.tar.value)} % of genuine pairs above {point.threshold:.3f}"
    drawing = plot.draw("chart", f"Scores of genuine and impostor pairs, {one.name}", layers)
    return Figure(drawing, caption, one)
