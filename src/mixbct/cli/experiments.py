"""`mixbct demo`, the main job end to end, and `mixbct bench RECIPE`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from mixbct.cli.options import Fonts, Out, Overrides, Resume, SkipBad
from mixbct.cli.output import progress_bar, say, tell
from mixbct.report.bench import bench_table, write_bench
from mixbct.report.tables import remedies, results_table, verdict_line
from mixbct.workflows.bench.recipe import load_bench
from mixbct.workflows.bench.run import run_bench
from mixbct.workflows.bench.specs import Planner
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


def bench(
    recipe: Annotated[Path, Argument(help="The TOML recipe of a bench.")],
    out: Path | None = Option(None, help="Where cells and tables go [runs/bench/NAME/results]."),
    work: Path | None = Option(None, help="Where models and banks go [runs/bench/NAME/work]."),
    jobs: int = Option(1, min=1, help="Cells at a time, a process each."),
    only: str | None = Option(None, help="Run only cells that this pattern fits, such as *--s1."),
    fonts: Fonts = None,
    device: str | None = Option(None, help="Where to train and embed, as cuda [the recipe's]."),
    replicates: bool = Option(
        False, "--replicates", help="Run published cells again for new intervals over seeds."
    ),
    overrides: Overrides = None,
) -> None:
    """Hold methods against each other: train and judge every cell that is not there yet.

    The same command again goes on where it was stopped, and costs nothing once all is done.
    """
    asked = (overrides or []) + ([f"device={device}"] if device else [])
    settings = load_bench(recipe, asked)
    folder = Path("runs/bench") / settings.name
    target = out or folder / "results"
    words = [word for word in sys.argv[1:] if word != "--json"]
    command = shlex.join(["mixbct", *words])
    planner = Planner(settings, target, work or folder / "work")
    summary = run_bench(planner, command, jobs, only or "*", replicates, fonts, progress_bar)
    write_bench(target, summary)
    tell(
        summary,
        *(bench_table(summary, table) for table in summary.tables),
        f"tables and scatter: {target / 'index.html'}, {target / 'README.md'}",
        then=[*words, "--json"],
    )
    if summary.failed:
        say(f"{summary.failed} of {summary.cells} cells failed: run it again to try them again")
