"""What the pages share: their templates' environment, and that no page holds hidden controls.

Whatever stands in a foreign name is shown and means nothing: no tag, and in Markdown no emphasis,
no new cell or line.
"""

import functools
import html
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mixbct.report.tables import MARKS, interval, percent, points, points_interval, trend, visible

# an underscore between letters or digits is no emphasis
_MARKS = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])")
_PNG = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]+")


def loading(package: str, folder: str = "templates") -> Environment:
    """Return what loads the templates of a package's folder; everything foreign is escaped."""
    return Environment(
        loader=PackageLoader(package, folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@functools.cache
def environment() -> Environment:
    """Return what loads the templates of this folder."""
    made = loading("mixbct.report", ".")
    made.keep_trailing_newline = True
    formats = (percent, interval, points, points_interval, trend, rate, count, duration, png)
    made.filters |= {one.__name__: one for one in formats}
    made.globals |= {"marks": MARKS, "md": markdown, "code": markdown_code}
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


def duration(seconds: float) -> str:
    """Return a time to the second, minute or tenth of an hour, by its length."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def png(uri: str) -> str:
    """Return a PNG data URI as it is and anything else, such as an address, as nothing."""
    return uri if _PNG.fullmatch(uri) else ""


def markdown(text: str) -> str:
    """Return text as Markdown that shows it, in a line or in the cell of a table."""
    return _MARKS.sub(r"\\\g<0>", html.escape(" ".join(text.split()), quote=False))


def markdown_code(text: str) -> str:
    """Return text as a code span, in a line or in the cell of a table."""
    line = " ".join(text.split()).replace("|", r"\|")
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence, blank = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{blank}{line}{blank}{fence}"
