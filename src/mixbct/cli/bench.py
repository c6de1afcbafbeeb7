"""`mixbct bench RECIPE`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from mixbct.cli.options import Fonts, Overrides
from mixbct.cli.output import progress_bar, say, tell
from mixbct.report.bench import bench_table, write_bench
from mixbct.workflows.bench.recipe import load_bench
from mixbct.workflows.bench.run import run_bench
from mixbct.workflows.bench.specs import Planner


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
    command, planner = (
        shlex.join(["mixbct", *words]),
        Planner(settings, target, work or folder / "work"),
    )
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
