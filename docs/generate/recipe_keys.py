"""Every key of a recipe with type, default and meaning, from the recipe's own schema."""

import ast
import inspect
import json
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mixbct.recipe import Recipe
from mixbct.workflows.bench.recipe import BenchRecipe

BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
}
KINDS = {"integer": "whole number", "number": "number", "boolean": "true or false"}


def recipe_page() -> str:
    """Return the reference of training recipes, as Markdown."""
    return "\n".join(
        (
            "# Keys of a recipe\n",
            "A recipe is one TOML file. `--set train.epochs=3` overrides a key, `--set "
            "train.clip=` takes one out, `extends` lays a recipe over another one. An unknown key "
            "is an error that names the key and the file. `mixbct recipes list` has recipes to "
            "begin with.\n",
            *_section(Recipe, "", 2),
        )
    )


def bench_page() -> str:
    """Return the reference of bench recipes, as Markdown."""
    return "\n".join(
        (
            "# Keys of a bench recipe\n",
            "What `mixbct bench` runs: every old model × scenario × method × seed that a "
            "`[[matrix]]` names. `[new]` and each `[old.NAME]` have the sections `model`, `head`, "
            "`optimizer` and `train` of a [recipe](recipe.md).\n",
            *_section(BenchRecipe, "", 2),
        )
    )


def _section(model: type[BaseModel], path: str, depth: int) -> Iterator[str]:
    """Yield the keys of a section as a table, then the sections below it."""
    properties = model.model_json_schema()["properties"]
    below: dict[str, list[type[BaseModel]]] = {}
    rows = []
    for key, field in model.model_fields.items():
        schema = properties[key]
        if sections := _models(field.annotation):
            place = f"{path}.{key}" if path else key
            place = f"{place}.NAME" if "additionalProperties" in schema else place
            below[f"[[{place}]]" if schema.get("type") == "array" else f"[{place}]"] = sections
        elif "const" not in schema and key not in _common(model):
            cells = (f"`{key}`", _type(schema), _default(model, key), meaning(model, key))
            rows.append(f"| {' | '.join(cells)} |")
    if rows:
        yield "| key | type | default | meaning |\n| --- | --- | --- | --- |"
        yield from rows
        yield ""
    for place, sections in below.items():
        for common in dict.fromkeys(each for each in map(_base, sections) if each):
            yield f"{'#' * depth} `{place}` of every method that looks at the old model\n"
            yield from _section(common, place.strip("[]"), depth + 1)
        for section in sections:
            if section.__module__ == model.__module__:  # others have a page of their own
                name = section.model_json_schema()["properties"].get("name", {}).get("const")
                yield f"{'#' * depth} `{place}`{f', name = {json.dumps(name)}' if name else ''}\n"
                yield f"{inspect.cleandoc(section.__doc__ or '')}\n"
                yield from _section(section, place.strip("[]"), depth + 1)


def _base(model: type[BaseModel]) -> type[BaseModel] | None:
    """Return the section whose keys a section shares with others, if there is one."""
    base = model.__bases__[0]
    return base if issubclass(base, BaseModel) and base.model_fields else None


def _common(model: type[BaseModel]) -> set[str]:
    base = _base(model)
    return set(base.model_fields) if base else set()


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections that an annotation allows, in order."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [each for part in getattr(annotation, "__args__", ()) for each in _models(part)]


def meaning(model: type[BaseModel], key: str) -> str:
    """Return what a key means: its description, or the text below it in the source."""
    said = model.model_fields[key].description or _notes(model.__module__)[model.__name__, key]
    said = " ".join(said.split()).replace("|", "\\|").removesuffix(".")
    return said[:1].lower() + said[1:] if said[1:2].islower() else said


@cache
def _notes(module: str) -> dict[tuple[str, str], str]:
    """Return (class, field) → the string below the field, of a module."""
    tree = ast.parse(Path(inspect.getfile(import_module(module))).read_text(encoding="utf-8"))
    found = {}
    for each in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for field, note in pairwise(each.body):
            match field, note:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                    value=ast.Constant(value=str(text))
                ):
                    found[each.name, name] = text
    return found


def _type(schema: dict[str, Any]) -> str:
    """Return what a key may be, in words."""
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "anyOf" in schema:
        parts = [_type(part) for part in schema["anyOf"] if part.get("type") != "null"]
        return " or ".join(dict.fromkeys(parts))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if schema.get("type") == "object":
        return "table"
    if schema.get("format") == "path":
        return "path"
    kind = KINDS.get(schema.get("type", ""), "text")
    if kind == "true or false" or kind == "text":
        return kind
    bounds = [
        words.format(_power(schema[name])) for name, words in BOUNDS.items() if name in schema
    ]
    return ", ".join([kind, *bounds])


def _power(number: float) -> str:
    """Return a bound, a large power of two as one."""
    exponent = int(number).bit_length() - 1
    return f"2^{exponent}" if exponent >= 20 and number == 2**exponent else f"{number:,}"


def _default(model: type[BaseModel], key: str) -> str:
    field = model.model_fields[key]
    if field.is_required():
        return "required"
    value = field.get_default()
    return "none" if value is None else f"`{json.dumps(value, ensure_ascii=False)}`"
