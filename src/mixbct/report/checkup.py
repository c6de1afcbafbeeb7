"""A check-up of stored vectors in words, for a terminal."""

from mixbct.report.templates import render_page
from mixbct.schemas.checkup import CheckupReport


def checkup_text(report: CheckupReport) -> str:
    """Return what was found, a line a thing; what is wrong begins with `!`."""
    return render_page("checkup.txt.j2", report=report, time=_time).rstrip()


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
