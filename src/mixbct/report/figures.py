"""The report's figures: ROC, CMC, life after the upgrade, score histograms."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mixbct.report.charts import Axis, Plot, decade_axis, percent_axis
from mixbct.report.names import BASELINE, MAIN_FAR, Named
from mixbct.report.tables import interval, percent
from mixbct.schemas.result import Combination, Curve, tar_name

_CMC_RANKS = 20


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
