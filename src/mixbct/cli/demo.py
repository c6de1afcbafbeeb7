"""`mixbct demo`: the main job, end to end."""

from pathlib import Path

import typer
from typer import Option

from mixbct.cli.options import Fonts, Out, Overrides, Resume, SkipBad
from mixbct.cli.output import progress_bar, tell
from mixbct.report.results import remedies, results_table, verdict_line
from mixbct.workflows.demo import run_demo


def demo(
    out: Out = Path("runs/demo"),
    data: Path | None = Option(None, help="A folder of class folders to use, not the glyphs."),
    fonts: Fonts = None,
    seed: int = Option(1, help="Of everything that is random."),
    overrides: Overrides = None,
    skip_bad: SkipBad = False,
    resume: Resume = False,
) -> None:
    """Train an old, a compatible and an independent model, and prove the upgrade. Exit 1: refuted.

    The data are kanji glyphs rendered from Debian's fonts, unless --fonts or --data says
    otherwise. Everything lands in --out: report.html, result.json, the models, the old model's
    feature bank, and a gallery that the old model indexed and the new one searches.
    """
    upgrade = run_demo(out, data, fonts, seed, overrides, skip_bad, resume, progress_bar)
    said = [verdict_line(upgrade.gate, upgrade.result), *remedies(upgrade.gate)]
    if (switch := upgrade.switch) is not None:
        untouched = "untouched" if switch.vectors_unchanged else "CHANGED"
        said.append(
            f"gallery: {switch.rows:,} vectors of the old model, {untouched} by the switch; rank-1 "
            f"with old queries {switch.rank1_before:.1%}, with new ones {switch.rank1_after:.1%}"
        )
    said.append(f"report: {out / 'report.html'}")
    passed = ("gallery", "status", out / "gallery")
    then = passed if upgrade.gate.passed else ("gate", out / "result.json")
    tell(upgrade, results_table(upgrade.result), *said, then=then)
    if not upgrade.gate.passed:
        raise typer.Exit(1)
