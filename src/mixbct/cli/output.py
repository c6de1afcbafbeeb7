"""What every verb prints with: results to standard output, everything else to standard error."""

import contextlib
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path

import typer
from pydantic import BaseModel
from rich import progress
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixbct.cli import rank, telling
from mixbct.errors import without_controls

AS_JSON = ContextVar("AS_JSON", default=False)
"""Set by `--json`: results are printed as JSON, and nothing else is."""


def say(text: str) -> None:
    """Print a line for the person who watches, to standard error; of several
    processes the first does."""
    if rank() != "0":
        return
    shown = without_controls(text)
    with telling():
        Console(stderr=True).print(shown, markup=False, highlight=False, soft_wrap=True)


def tell(record: BaseModel | str, *said: str | Table, then: Iterable[str | Path]) -> None:
    """Print a verb's result: as JSON, or what is said of it and what comes next.

    Args:
        record: the result, or its JSON.
        said: lines and tables.
        then: the `mixbct` command that a person would want next. Words in capitals stand for what
            the person must fill in. Nothing: none is named.
    """
    if rank() != "0":
        return
    if AS_JSON.get():
        typer.echo(record if isinstance(record, str) else record.model_dump_json(indent=1))
        return
    for each in said:
        if isinstance(each, Table):
            Console().print(each)
        else:
            typer.echo(without_controls(each))
    if words := shlex.join(map(str, then)):
        typer.echo(f"next: mixbct {without_controls(words)}")


def name_skipped(names: Sequence[object], what: str = "images that cannot be read") -> None:
    """Say which images, or what else, were left out."""
    if names:
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        say(f"left out {len(names)} {what}: {', '.join(map(str, names[:10]))}{more}")


class _Rate(progress.ProgressColumn):
    """How many a second."""

    def render(self, task: progress.Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed and speed >= 10 else "")


@contextlib.contextmanager
def progress_bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on standard error; yield what to call with (done, in all).

    Where standard error is not a terminal, say where the stage is every ten seconds, and how long
    it took.
    """
    console = Console(stderr=True)
    if not console.is_terminal or rank() != "0":
        with _progress_lines(text) as tick:
            yield tick
        return
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        _Rate(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
        if bar.tasks[0].total is None:
            bar.update(task, completed=1, total=1)


@contextlib.contextmanager
def _progress_lines(text: str) -> Iterator[Callable[[int, int], None]]:
    began = said = time.perf_counter()

    def tick(done: int, total: int) -> None:
        nonlocal said
        now = time.perf_counter()
        if now - said >= 10:
            said = now
            say(f"{text}: {done:,} of {total:,} ({done / total:.0%})")

    yield tick
    say(f"{text}: {time.perf_counter() - began:.1f} s")
