"""Text that came from elsewhere (names, settings, errors), made fit for Markdown.

Whatever stands in a name is shown and means nothing: no tag, no emphasis, no new cell or line.
"""

import html
import re

# an underscore between letters or digits is no emphasis
_MARKS = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])")


def markdown(text: str) -> str:
    """Return text as Markdown that shows it, in a line or in the cell of a table."""
    return _MARKS.sub(r"\\\g<0>", html.escape(" ".join(text.split()), quote=False))


def markdown_code(text: str) -> str:
    """Return text as a code span, in a line or in the cell of a table."""
    line = " ".join(text.split()).replace("|", r"\|")
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence, blank = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{blank}{line}{blank}{fence}"
