"""A page for every verb, from what its own `--help` says."""

from collections.abc import Iterator
from typing import Any

import typer

from mixbct.cli.verbs import app


def command_pages() -> dict[str, str]:
    """Return verb → its page, as Markdown, in the order in which `mixbct --help` has them."""
    root = typer.main.get_command(app)
    context = root.make_context("mixbct", [], resilient_parsing=True)
    return {
        name: "\n".join(_page(name, command, context)) for name, command in _commands(root, context)
    }


def _commands(group: Any, context: Any) -> Iterator[tuple[str, Any]]:
    for name in group.list_commands(context):
        yield name, group.get_command(context, name)


def _page(name: str, command: Any, parent: Any, depth: int = 1) -> Iterator[str]:
    """Yield the lines of a command, and below it those of its own commands."""
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    yield f"{'#' * depth} mixbct {context.command_path.removeprefix('mixbct ')}\n"
    yield from (f"{' '.join(part.split())}\n" for part in (command.help or "").split("\n\n"))
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```text\n{context.command_path} {usage}\n```\n"
    records = [param.get_help_record(context) for param in command.get_params(context)]
    told = [record for record in records if record and not record[0].startswith("--help")]
    if told:
        yield "| option | meaning |\n| --- | --- |"
        yield from (f"| `{_cell(option)}` | {_escaped(says)} |" for option, says in told)
        yield ""
    if hasattr(command, "list_commands"):
        for below, each in _commands(command, context):
            yield from _page(below, each, context, depth + 1)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Return a cell's text, in which nothing outside of backticks is taken for HTML."""
    parts = _cell(text).split("`")
    parts[::2] = [part.replace("<", "&lt;").replace("*", "\\*") for part in parts[::2]]
    return "`".join(parts)
