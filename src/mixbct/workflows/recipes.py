"""The recipes that the package carries: named, shown, and fitted to a person's own data."""

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import tomlkit

from mixbct.data import open_source
from mixbct.data.bank import FeatureBank
from mixbct.data.info import image_shape
from mixbct.errors import RecipeError
from mixbct.files import write_atomically

_ROOT = Path(str(files("mixbct") / "recipes"))


def recipe_names() -> dict[str, str]:
    """Return the recipes by name, and what each is for."""
    found = sorted(_ROOT.rglob("*.toml"), key=lambda path: (len(path.parts), path))
    return {
        path.relative_to(_ROOT).with_suffix("").as_posix(): _purpose(path.read_text("utf-8"))
        for path in found
    }


def _purpose(text: str) -> str:
    """Return a recipe's first sentence."""
    said = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        said.append(line.removeprefix("#").strip())
    sentence, *_ = " ".join(said).partition(". ")
    return sentence.rstrip(".:")


def recipe_text(name: str) -> str:
    """Return the text of a recipe.

    Raises:
        RecipeError: there is none of this name; it lists those that there are.
    """
    known = recipe_names()
    plain = name.removesuffix(".toml").removeprefix("recipes/")
    if plain not in known:
        raise RecipeError(f"there is no recipe {name!r}; there are {', '.join(known)}")
    return (_ROOT / f"{plain}.toml").read_text("utf-8")


def copy_recipe(
    name: str,
    folder: Path,
    *,
    data: Path | None = None,
    split: Path | None = None,
    bank: Path | None = None,
) -> Path:
    """Write a recipe, and those that it extends, into a folder, fitted to what is there.

    Args:
        name: of the recipe.
        folder: where it goes; made where it is missing.
        data: images, or a bank, to train on: their path, size and number of channels are set.
        split: of `data`.
        bank: of the old model; the path is set, and for a head the dimension.

    Returns:
        The file that was written.

    Raises:
        RecipeError: there is no such recipe, it trains without a bank, or another file of its
            name is there.
        DataError, BankError: what is named cannot be opened.
    """
    out = folder / f"{Path(name).name.removesuffix('.toml')}.toml"
    texts = {out: _fitted(name, data, split, bank)}
    below = tomllib.loads(texts[out]).get("extends")
    while below is not None:
        name = (Path(name).parent / below).as_posix()
        texts[folder / Path(below).name] = text = recipe_text(name)
        below = tomllib.loads(text).get("extends")
    for path, text in texts.items():
        if path.exists() and path.read_text("utf-8") != text:
            raise RecipeError(f"{path} is there already and is another: choose another --out")
    for path, text in texts.items():
        write_atomically(path, text)
    return out


def _fitted(name: str, data: Path | None, split: Path | None, bank: Path | None) -> str:
    document = tomlkit.parse(recipe_text(name))
    if bank is not None and document.get("method", {}).get("name") in (None, "independent"):
        raise RecipeError(f"recipe {name!r} has no method with a bank: leave --bank out")
    settings: dict[str, Any] = {}
    if data is not None:
        settings["data.path"] = str(data)
        if (shape := image_shape(open_source(data))) is not None:
            settings |= zip(("model.size", "model.channels"), shape, strict=True)
    if split is not None:
        settings["data.split"] = str(split)
    if bank is not None:
        settings["method.bank"] = str(bank)
        if "start" in document.get("model", {}):  # a head maps into the old space
            settings["model.dim"] = FeatureBank(bank).manifest.dim
    for key, value in settings.items():
        section, _, setting = key.partition(".")
        document.setdefault(section, tomlkit.table())[setting] = value
    return tomlkit.dumps(document)
