"""What the pages share: their templates' environment, and that no page holds hidden controls."""

import functools
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mixbct.report.tables import MARKS, interval, percent, points, points_interval, trend, visible

_PNG = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]+")


@functools.cache
def environment() -> Environment:
    """Return what loads the templates of this folder; everything foreign is escaped."""
    made = Environment(
        loader=PackageLoader("mixbct.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    formats = (percent, interval, points, points_interval, trend, rate, count, png)
    made.filters |= {one.__name__: one for one in formats}
    made.globals["marks"] = MARKS
    return made


def render_page(name: str, **content: Any) -> str:
    """Return a page, in which a foreign name can only look like what it says."""
    return visible(environment().get_template(name).render(content))


def rate(value: float) -> str:
    """Return a rate as the field writes it: 0.00097 → `9.7e-4`."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def count(value: int | str) -> str:
    """Return a number with its thousands set apart; text stays as it is."""
    return f"{value:,}" if isinstance(value, int) else value


def png(uri: str) -> str:
    """Return a PNG data URI as it is and anything else, such as an address, as nothing."""
    return uri if _PNG.fullmatch(uri) else ""
