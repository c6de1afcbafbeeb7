"""The report: a result and what the gate decided about it, as one offline HTML page.

The page refers to nothing outside itself: figures are inline SVG, example images are data
URIs, fonts are the reader's. Everything that comes from the result is escaped.
"""

from pathlib import Path

from mixbct.evaluation.worth import worth
from mixbct.files import write_atomically
from mixbct.report import figures
from mixbct.report.names import BASELINE, CROSS, MAIN_FAR, named_combinations
from mixbct.report.tables import backfill_lines, combinations_table, percent, remedies, verdict
from mixbct.report.templates import render_page
from mixbct.schemas.gate import GateOutcome
from mixbct.schemas.result import Estimate, Result, tar_name


def render_report(result: Result, outcome: GateOutcome) -> str:
    """Return the report as HTML.

    Parts that the result lacks (an independent model, mixed galleries, costs, examples) are
    left out. Equal input gives equal output. Labels of examples are marked with the language
    in `result.data["language"]` (a BCP 47 tag such as `ja`), which decides between regional
    forms of the same character; without it the reader's system decides.

    Raises:
        ResultError: the outcome is not about this result.
    """
    outcome.check(result)
    named = named_combinations(result)
    return render_page(
        "page.html.j2",
        result=result,
        outcome=outcome,
        worth=worth(result).says,
        verdict=verdict(outcome),
        lead=_lead(result, outcome),
        tiles=_tiles(result),
        remedies=remedies(outcome),
        table=combinations_table(result),
        curves=figures.curves(named),
        curve_figures=[figures.roc(named), figures.cmc(named)],
        life_figures=figures.life(named),
        backfill_figures=figures.backfill(result.backfill),
        backfill_key=figures.backfill_key(result.backfill),
        backfill_says=backfill_lines(result),
        histograms=figures.histograms(named),
        main_far=tar_name(MAIN_FAR).removeprefix("TAR@"),
        language=str(result.data.get("language", "")),
    )


def write_report(path: Path, result: Result, outcome: GateOutcome) -> None:
    """Write the report to `path`, whole or not at all.

    Raises:
        ResultError: the outcome is not about this result.
        DiskFullError: there is no space left.
    """
    write_atomically(path, render_report(result, outcome))


def _lead(result: Result, outcome: GateOutcome) -> str:
    """Return what the verdict means for a person who runs a search system, in plain words."""
    before = percent(result.combinations[BASELINE].rank1.value)
    after = percent(result.combinations[CROSS].rank1.value)
    finding = (
        f"In a gallery of which not one stored vector was touched, {after} of 100 new queries "
        f"find a right item first, where {before} of 100 old queries did"
    )
    if outcome.passed:
        return f"The new model can take over the queries today. {finding}."
    failed = f"{sum(not c.passed for c in outcome.checks)} of {len(outcome.checks)} checks failed"
    return f"Keep the old model for now: {failed}. {finding}."


def _tiles(result: Result) -> list[tuple[str, Estimate, Estimate, Estimate | None]]:
    """Return the figures that open the page: name, before, after, paired difference."""
    before, after = (result.combinations[name].metrics() for name in (BASELINE, CROSS))
    paired = result.difference(CROSS, BASELINE)
    differences = paired.metrics if paired else {}
    return [
        (name, before[name], after[name], differences.get(name))
        for name in ("mAP", "rank-1", tar_name(MAIN_FAR))
        if name in before and name in after
    ]
