"""Charts as inline SVG that the page's style sheet colours: axes, and where values lie on them.

The shapes are in `shapes.svg.j2`. Nothing depends on a clock, a font file or a hash,
so that equal results give equal bytes.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

from mixbct.report.templates import environment

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
