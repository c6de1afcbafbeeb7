"""Text that came from elsewhere (names, settings, errors), made fit for Markdown and HTML.

Whatever stands in a name is shown and means nothing: no tag, no emphasis, no new cell or line, and
a control that turns the direction of writing does so within the name alone.
"""

import html
import re

from markupsafe import Markup

_BIDIRECTIONAL = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# an underscore between letters or digits is no emphasis
_MARKS = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])")


def markdown(text: str) -> str:
    """Return text as Markdown that shows it, in a line or in the cell of a table."""
    line = html.escape(" ".join(text.split()), quote=False)
    return _isolated(text, _MARKS.sub(r"\\\g<0>", line))


def markdown_code(text: str) -> str:
    """Return text as a code span, in a line or in the cell of a table."""
    line = " ".join(text.split()).replace("|", r"\|")
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence, blank = "`" * (longest + 1), " " if longest else ""
    return _isolated(text, f"{fence}{blank}{line}{blank}{fence}")


def isolated(text: str) -> Markup:
    """Return text as HTML whose bidirectional controls end with it."""
    return Markup(_isolated(text, html.escape(text)))


def _isolated(text: str, shown: str) -> str:
    return f"<bdi>{shown}</bdi>" if _BIDIRECTIONAL.search(text) else shown
