"""Inheritance of recipes: `extends = "base.toml"`, relative to the file that says it."""

from functools import reduce
from pathlib import Path
from typing import Any

from mixbct.errors import RecipeError
from mixbct.reading import read_toml


def read_extended(path: Path) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """Return a recipe laid over those that it extends, and the files, this one first.

    Raises:
        RecipeError: a file is missing or not TOML, or the recipes extend each other in a circle.
    """
    files, layers = [path], [read_toml(path, "recipe", RecipeError)]
    while (base := layers[-1].pop("extends", None)) is not None:
        above = files[-1]
        if not isinstance(base, str):
            raise RecipeError(f"{above}: extends: expected the path of a recipe, found {base!r}")
        target = above.parent / base
        if target.resolve() in [file.resolve() for file in files]:
            circle = " → ".join(map(str, (*files, target)))
            raise RecipeError(f"recipes extend each other in a circle: {circle}")
        layers.append(read_toml(target, f"recipe that {above} extends", RecipeError))
        files.append(target)
    return reduce(lay_over, reversed(layers)), tuple(files)


def lay_over(ground: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """Return `ground` with `content` over it, table by table.

    A table that goes by another `name` replaces the one below whole: the settings of one head,
    method or optimiser mean nothing to another.

    >>> lay_over({"head": {"name": "arcface", "margin": 0.5}}, {"head": {"name": "softmax"}})
    {'head': {'name': 'softmax'}}
    """
    merged = dict(ground)
    for key, value in content.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            renamed = "name" in value and value["name"] != below.get("name")
            merged[key] = value if renamed else lay_over(below, value)
        else:
            merged[key] = value
    return merged
