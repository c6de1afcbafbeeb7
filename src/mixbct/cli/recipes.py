"""`mixbct recipes`."""

import json
from pathlib import Path
from typing import Annotated

from rich.table import Table
from typer import Argument, Option

from mixbct.cli.options import Commands
from mixbct.cli.output import tell
from mixbct.workflows.recipes import copy_recipe, recipe_names, recipe_text

app = Commands()

Name = Annotated[str, Argument(metavar="NAME", help="Of the recipe, as `list` has it.")]


@app.command("list")
def list_recipes() -> None:
    """Name the recipes that the package carries."""
    names = recipe_names()
    table = Table("recipe", "what it is", box=None)
    for name, purpose in names.items():
        table.add_row(name, purpose)
    tell(json.dumps({"recipes": names}), table, then=("recipes", "copy", "NAME"))


@app.command()
def show(name: Name) -> None:
    """Print a recipe as it is."""
    text = recipe_text(name).removesuffix("\n")
    tell(json.dumps({"name": name, "recipe": text}), text, then=())


@app.command()
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
