"""`mixbct demo`: the main job, end to end."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mixbct.cli.options import (
    AsJson,
    FontCache,
    Fonts,
    Out,
    Overrides,
    Resume,
    SkipBad,
    default_font_cache,
)
from mixbct.cli.output import next_command, printed, progress_bar
from mixbct.report.results import remedies, results_table, verdict_line
from mixbct.workflows.demo import run_demo


def demo(
    out: Out = Path("runs/demo"),
    data: Annotated[
        Path | None, typer.Option(help="A folder of class folders to use instead of the glyphs.")
    ] = None,
    fonts: Fonts = None,
    cache: FontCache = None,
    seed: Annotated[int, typer.Option(help="Of everything that is random.")] = 1,
    overrides: Overrides = None,
    skip_bad: SkipBad = False,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Train an old, a compatible and an independent model, and prove the upgrade. Exit 1: refuted.

    The data are kanji glyphs rendered from Debian's fonts, unless --fonts or --data says
    otherwise. Everything lands in --out: report.html, result.json, the models, the old model's
    feature bank, and a gallery that the old model indexed and the new one searches.
    """
    upgrade = run_demo(
        out,
        data=data,
        fonts=fonts,
        cache=cache or default_font_cache(),
        seed=seed,
        overrides=overrides,
        skip_bad=skip_bad,
        resume=resume,
        stage=progress_bar,
    )
    if not printed(upgrade, as_json):
        Console().print(results_table(upgrade.result))
        for line in (verdict_line(upgrade.gate, upgrade.result), *remedies(upgrade.gate)):
            typer.echo(line)
        if (switch := upgrade.switch) is not None:
            untouched = "untouched" if switch.vectors_unchanged else "CHANGED"
            typer.echo(
                f"gallery: {switch.rows:,} vectors of the old model, {untouched} by the switch; "
                f"rank-1 with old queries {switch.rank1_before:.1%}, with new ones "
                f"{switch.rank1_after:.1%}"
            )
        typer.echo(f"report: {out / 'report.html'}")
        if upgrade.gate.passed:
            next_command("gallery", "status", out / "gallery")
        else:
            next_command("gate", out / "result.json")
    if not upgrade.gate.passed:
        raise typer.Exit(1)
