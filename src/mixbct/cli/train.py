"""`mixbct train RECIPE`."""

from pathlib import Path
from typing import Annotated

import typer

from mixbct.backbones.model import read_manifest
from mixbct.cli.options import AsJson, Overrides, Resume, SkipBad
from mixbct.cli.output import name_skipped, next_command, printed, progress_bar
from mixbct.recipe import CompatibleSettings, load_recipe
from mixbct.training.run import train as train_model
from mixbct.workflows.rows import open_training_rows


def train(
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write [runs/NAME of the recipe].")
    ] = None,
    overrides: Overrides = None,
    resume: Resume = False,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Train the model that a recipe describes. Ctrl-C saves and stops; --resume goes on."""
    settings = load_recipe(recipe, overrides)
    folder = out or Path("runs") / settings.name
    rows, skipped = open_training_rows(settings, skip_bad)
    name_skipped(skipped)
    with progress_bar(f"train {settings.name}") as tick:
        cost = train_model(
            settings,
            rows,
            folder,
            resume=resume,
            origin=str(recipe),
            progress=lambda report: tick(report.images, report.images_in_all),
        )
    if not printed(cost, as_json):
        typer.echo(
            f"trained {settings.name} in {cost.seconds:.1f} s: {cost.steps:,} steps, "
            f"{cost.images:,} images ({cost.images / cost.seconds:,.0f}/s), "
            f"{len(rows.classes()):,} classes; model in {folder / 'model'}"
        )
        if part := read_manifest(folder)[1].old_part:
            typer.echo(str(part))
        data: list[str | Path] = ["--data", settings.data.path]
        if settings.data.split is not None:
            data += ["--split", settings.data.split]
        if isinstance(settings.method, CompatibleSettings):
            next_command("eval", "--old", "OLD", "--new", folder, *data)
        else:
            next_command("extract", folder, *data, "--out", f"{folder}-bank")
