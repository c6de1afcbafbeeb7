"""Inheritance of recipes: `extends = "base.toml"`, relative to the file that says it."""

from pathlib import Path
from typing import Any

from mixbct.errors import RecipeError
from mixbct.reading import read_toml


def read_extended(
    path: Path, above: tuple[Path, ...] = ()
) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """Return a recipe laid over those that it extends, and the files, this one first.

    Args:
        path: the TOML file.
        above: the files that led to it.

    Raises:
        RecipeError: a file is missing or not TOML, or the recipes extend each other in a circle.
    """
    wanted = f"recipe that {above[-1]} extends" if above else "recipe"
    content = read_toml(path, wanted, RecipeError)
    if "extends" not in content:
        return content, (path,)
    base = content.pop("extends")
    if not isinstance(base, str):
        raise RecipeError(f"{path}: extends: expected the path of a recipe, found {base!r}")
    target = path.parent / base
    chain = (*above, path)
    if target.resolve() in [file.resolve() for file in chain]:
        circle = " → ".join(map(str, (*chain, target)))
        raise RecipeError(f"recipes extend each other in a circle: {circle}")
    try:
        ground, files = read_extended(target, chain)
        return lay_over(ground, content), (path, *files)
    except RecursionError:
        raise RecipeError(
            f"{path} is nested too deep, or one of too many that extend another"
        ) from None


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
