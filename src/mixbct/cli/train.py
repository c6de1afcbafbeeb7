"""`mixbct recipes` and `mixbct train RECIPE`."""

import json
from pathlib import Path
from typing import Annotated

from rich.table import Table
from typer import Argument, Option

from mixbct.backbones.model import read_manifest
from mixbct.cli.options import Commands, Overrides, Resume, SkipBad
from mixbct.cli.output import name_skipped, progress_bar, tell
from mixbct.data.bank import encoder_of
from mixbct.data.source import Source
from mixbct.distributed import joined
from mixbct.errors import ModelError
from mixbct.recipe import BCTSettings, CompatibleSettings, Recipe, load_recipe
from mixbct.schemas.record import record_there
from mixbct.training.run import train as train_model
from mixbct.training.start import HeadStart
from mixbct.workflows.recipes import copy_recipe, recipe_names, recipe_text
from mixbct.workflows.rows import open_training_rows

recipes = Commands()

Name = Annotated[str, Argument(metavar="NAME", help="Of the recipe, as `list` has it.")]


@recipes.command("list")
def list_recipes() -> None:
    """Name the recipes that the package carries."""
    names = recipe_names()
    table = Table("recipe", "what it is", box=None)
    for name, purpose in names.items():
        table.add_row(name, purpose)
    tell(json.dumps({"recipes": names}), table, then=("recipes", "copy", "NAME"))


@recipes.command()
def show(name: Name) -> None:
    """Print a recipe as it is."""
    text = recipe_text(name).removesuffix("\n")
    tell(json.dumps({"name": name, "recipe": text}), text, then=())


@recipes.command()
def copy(
    name: Name,
    out: Annotated[Path, Option("--out", help="The folder to write into.")] = Path(),
    data: Path | None = Option(None, help="Images, or a bank: sets path, size and channels."),
    split: Path | None = Option(None, help="Sets the split of the data."),
    bank: Path | None = Option(None, help="Sets the old model's bank."),
) -> None:
    """Write a recipe, and what it extends, into a folder, fitted to what is there."""
    file = copy_recipe(name, out, data=data, split=split, bank=bank)
    verb = "bench" if name.startswith("bench/") else "train"
    words = ("--out", f"runs/{file.stem}") if verb == "train" else ()
    made = json.dumps({"name": name, "file": str(file)})
    tell(made, str(file), then=(verb, file, *words))


def train(
    recipe: Annotated[Path, Argument(help="A TOML recipe.")],
    out: Path | None = Option(None, help="Where to write [runs/NAME of the recipe]."),
    overrides: Overrides = None,
    resume: Resume = False,
    skip_bad: SkipBad = False,
) -> None:
    """Train the model that a recipe describes. Ctrl-C saves and stops; --resume goes on.

    Several processes share it where torchrun starts them: `torchrun --nproc-per-node 4 -m mixbct
    train RECIPE`.
    """
    settings = load_recipe(recipe, overrides)
    folder = out or Path("runs") / settings.name
    with joined(settings.train.device) as world:
        rows, skipped = open_training_rows(settings, skip_bad)
        name_skipped(skipped)
        with progress_bar(f"train {settings.name}") as tick:
            cost = train_model(
                settings,
                rows,
                folder,
                resume=resume,
                progress=lambda report: tick(report.images, report.images_in_all),
                world=world,
            )
    of_head = record_there(folder / "start.json", HeadStart, ModelError, "head start")
    said = (
        f"trained {settings.name} in {cost.seconds:.1f} s: {cost.steps:,} steps, "
        f"{cost.images:,} images ({cost.images / cost.seconds:,.0f}/s), "
        f"{len(rows.classes()):,} classes; model in {folder / 'model'}"
    )
    more = (str(each) for each in (read_manifest(folder)[1].old_part, of_head) if each)
    tell(cost, said, *more, then=_next_words(settings, folder, rows))


def _next_words(settings: Recipe, folder: Path, rows: Source) -> list[str | Path]:
    """Return what is done with the model next: an old one makes a bank, a new one is judged."""
    method, split = settings.method, settings.data.split
    data: list[str | Path] = ["--data", settings.data.path]
    data += ["--split", split] if split else []
    if isinstance(method, CompatibleSettings):
        # a bank of the very vectors' items stands for the old model
        old: str | Path = method.bank if encoder_of(rows) and not method.label_map else "OLD"
        if isinstance(method, BCTSettings) and method.old_model:
            old = method.old_model
        return ["eval", "--old", old, "--new", folder, *data]
    if split and settings.data.part == "new_train":
        return ["eval", "--old", "OLD", "--new", "NEW", "--independent", folder, *data]
    return ["extract", folder, *data, "--out", folder.parent / "bank"]
