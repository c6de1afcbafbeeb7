"""Charts as inline SVG that the page's style sheet colours.

A chart holds geometry and class names alone: lines take the colour of their class, text and
axes that of the page, so that one drawing serves light, dark and print. Nothing depends on a
clock, a font file or a hash, so that equal results give equal bytes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

Tick = tuple[float, str]


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

    def px(self, value: float) -> float:
        """Return the horizontal pixel of a value."""
        return self.left + self.x.place(value) * (self.width - self.left - self.right)

    def py(self, value: float) -> float:
        """Return the vertical pixel of a value."""
        return (
            self.height - self.bottom - self.y.place(value) * (self.height - self.top - self.bottom)
        )

    def svg(self, title: str, *layers: Markup) -> Markup:
        """Return the chart: axes below, then `layers` in order. `title` is read aloud."""
        opening = '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">'
        return (
            Markup(opening).format(self.width, self.height, title)
            + self._axes()
            + Markup("").join(layers)
            + Markup("</svg>")
        )

    def line(self, colour: str, points: Iterable[tuple[float, float]], title: str) -> Markup:
        """Draw a line through (x, y); values that are not finite are left out."""
        path = _path(self._thin(points))
        return Markup('<path class="line {}" d="{}"><title>{}</title></path>').format(
            colour, path, title
        )

    def steps(self, colour: str, edges: Sequence[float], heights: Sequence[float]) -> Markup:
        """Draw a filled histogram of `len(edges) - 1` bars, down to the axis' low end."""
        low = self.y.low
        corners = [(edges[0], low)]
        for (left, right), height in zip(pairwise(edges), heights, strict=True):
            corners += [(left, height), (right, height)]
        corners.append((edges[-1], low))
        pixels = ((self.px(x), self.py(y)) for x, y in corners)
        return Markup('<path class="bars {}" d="{}Z"/>').format(colour, _path(pixels))

    def whisker(
        self, colour: str, x: float, value: float, low: float, high: float, title: str
    ) -> Markup:
        """Draw a dot at (x, value) and its interval."""
        here = f"{self.px(x):.1f}"
        return Markup(
            '<g class="whisker {}"><title>{}</title>'
            '<path class="line" d="M{} {:.1f}V{:.1f}"/><circle cx="{}" cy="{:.1f}" r="4.5"/></g>'
        ).format(colour, title, here, self.py(low), self.py(high), here, self.py(value))

    def dot(
        self,
        colour: str,
        x: tuple[float, float, float],
        y: tuple[float, float, float],
        text: str,
        title: str,
        to_the_left: bool = False,
    ) -> Markup:
        """Draw a dot with its name beside it; `x` and `y` are (value, low, high)."""
        (left, top), (x_low, x_high) = (self.px(x[0]), self.py(y[0])), map(self.px, x[1:])
        side = "end" if to_the_left or left > self.width * 0.8 else "start"
        return Markup(
            '<g class="dot {}"><title>{}</title>'
            '<path class="line" d="M{:.1f} {:.1f}H{:.1f}M{:.1f} {:.1f}V{:.1f}"/>'
            '<circle cx="{:.1f}" cy="{:.1f}" r="4.5"/>'
            '<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text></g>'
        ).format(
            colour,
            title,
            *(x_low, top, x_high, left, self.py(y[1]), self.py(y[2])),
            *(left, top, left + (-8 if side == "end" else 8), top - 6, side, text),
        )

    def across(self, y: float, text: str) -> Markup:
        """Draw a level from side to side with its name above the right end."""
        here = self.py(y)
        return Markup(
            '<path class="level" d="M{} {:.1f}H{}"/><text class="end" x="{}" y="{:.1f}">{}</text>'
        ).format(self.left, here, self.width - self.right, self.width - self.right, here - 5, text)

    def upright(self, x: float, text: str = "") -> Markup:
        """Draw a vertical mark over the whole height, with its name at the foot."""
        here, foot = self.px(x), self.height - self.bottom
        mark = Markup('<path class="mark" d="M{:.1f} {}V{}"/>').format(here, self.top, foot)
        if text:
            mark += Markup('<text class="end" x="{:.1f}" y="{}">{}</text>').format(
                here - 5, foot - 6, text
            )
        return mark

    def _axes(self) -> Markup:
        floor, end = self.height - self.bottom, self.width - self.right
        parts = [
            Markup('<path class="axis" d="M{} {}H{}"/>').format(self.left, floor, end),
        ]
        for value, text in self.x.ticks:
            parts.append(
                Markup('<text class="mid" x="{:.1f}" y="{}">{}</text>').format(
                    self.px(value), floor + 16, text
                )
            )
        for value, text in self.y.ticks:
            here = self.py(value)
            parts.append(
                Markup(
                    '<path class="grid" d="M{} {:.1f}H{}"/><text class="end" x="{}" y="{:.1f}">{}'
                    "</text>"
                ).format(self.left, here, end, self.left - 7, here + 4, text)
            )
        if self.x.title:
            parts.append(
                Markup('<text class="mid title" x="{}" y="{}">{}</text>').format(
                    (self.left + end) / 2, self.height - 6, self.x.title
                )
            )
        if self.y.title:
            middle = (self.top + floor) / 2
            parts.append(
                Markup(
                    '<text class="mid title" transform="rotate(-90 12 {})" x="12" y="{}">{}</text>'
                ).format(middle, middle, self.y.title)
            )
        return Markup("").join(parts)

    def _thin(self, points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        """Return pixels without those that no eye could tell from the one before."""
        kept: list[tuple[float, float]] = []
        last: tuple[float, float] | None = None
        for x, y in points:
            if not (math.isfinite(x) and math.isfinite(y)):
                continue
            last = (self.px(x), self.py(y))
            if not kept or math.dist(kept[-1], last) >= 0.75:
                kept.append(last)
        if last is not None and kept[-1] != last:
            kept.append(last)
        return kept


def _path(pixels: Iterable[tuple[float, float]]) -> str:
    return "".join(f"{'L' if index else 'M'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(pixels))
