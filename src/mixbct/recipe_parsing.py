"""From TOML to settings: recipes over those that they extend, and what is wrong, in sentences.

`extends = "base.toml"` is relative to the file that says it. What pydantic finds wrong becomes
sentences that name the key and what is allowed.
"""

import difflib
import reprlib
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from mixbct.errors import RecipeError
from mixbct.reading import read_toml

SettingsT = TypeVar("SettingsT", bound=BaseModel)


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


def settings_of(model: type[SettingsT], content: dict[str, Any], wrong: str) -> SettingsT:
    """Return settings that are already a dictionary; `wrong` begins the error where they are not.

    Raises:
        RecipeError: with a line for every problem.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = "\n".join(f"  {explain(dict(e), model)}" for e in error.errors())
        raise RecipeError(f"{wrong}:\n{problems}") from error


def explain(problem: dict[str, Any], root: type[BaseModel]) -> str:
    """Return the sentence: key, what was found, what is allowed.

    Args:
        problem: one of pydantic's errors, as a dictionary.
        root: the model that was to be validated; unions in it are told apart by `name`.
    """
    model: Any = root
    siblings: list[type[BaseModel]] = []
    keys: list[str] = []
    for part in map(str, problem["loc"]):
        # the discriminator's value is not a key of the file
        if (chosen := variant_of(model, part)) is not None:
            siblings, model = _variants(model), chosen
            continue
        keys.append(part)
        if get_origin(model) in (dict, tuple):  # a key of a person's own, or a place in a list
            model = next((a for a in get_args(model) if isinstance(a, type) and a is not str), None)
        elif (field := getattr(model, "model_fields", {}).get(part)) is not None:
            siblings, model = [], field.annotation
    key, found = ".".join(keys), reprlib.repr(problem["input"])
    if problem["type"] == "extra_forbidden":
        names = sorted(getattr(model, "model_fields", {}))
        knowing = [_name(other) for other in siblings if keys[-1] in other.model_fields]
        close = difflib.get_close_matches(keys[-1], names, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        hint = f"it is a setting of {', '.join(knowing)}; " if knowing else hint
        return f"{key}: unknown key; {hint}allowed here: {', '.join(names)}"
    if problem["type"] == "missing":
        return f"{key}: missing"
    if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
        allowed = ", ".join(map(_name, _variants(model)))
        return f"{key}.name: choose one of {allowed}; found {found}"
    if not key:
        return str(problem["msg"]).removeprefix("Value error, ")
    return f"{key}: {problem['msg']}; found {found}"


def _variants(model: Any) -> list[type[BaseModel]]:
    """Return the settings classes of a union, in order; none for anything else."""
    members = [a for a in get_args(model) if isinstance(a, type) and issubclass(a, BaseModel)]
    return [member for member in members if "name" in member.model_fields]


def _name(variant: type[BaseModel]) -> str:
    return str(get_args(variant.model_fields["name"].annotation)[0])


def variant_of(model: Any, name: object) -> type[BaseModel] | None:
    """Return the member of a union of settings that `name` chooses."""
    named = (v for v in _variants(model) if name in get_args(v.model_fields["name"].annotation))
    return next(named, None)
