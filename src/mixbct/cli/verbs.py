"""The verbs by name, imported when they are called, and how each of them ends."""

import errno
import io
import logging
import os
import platform
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any

import typer
from typer import Option
from typer.core import TyperGroup

import mixbct
from mixbct.cli import interrupted, rank, stopped, telling
from mixbct.errors import MixbctError, WorldError, without_controls, without_passwords

VERBS = {
    "demo": (
        "experiments:demo",
        "Train an old, a compatible and an independent model, and prove the upgrade.",
    ),
    "data": ("data:app", "Make, look at, check and split data."),
    "recipes": ("train:recipes", "Hand out the recipes that the package carries."),
    "train": ("train", "Train the model that a recipe describes."),
    "bench": ("experiments:bench", "Hold methods against each other."),
    "import-model": ("models:import_model", "Make a model folder from weights from elsewhere."),
    "export": ("models:export", "Write a model as an ONNX file that takes pixels."),
    "extract": ("features:extract", "Embed images, or a bank's vectors, into a feature bank."),
    "denoise": ("features:denoise", "Mark the credible features of a bank."),
    "adapt": (
        "features:adapt",
        "Fit a bridge from a new model's queries to an old model's vectors.",
    ),
    "eval": ("evaluate", "Compare old and new on the split's queries and gallery."),
    "eval-pairs": ("evaluate:eval_pairs", "Verify pairs of images."),
    "eval-ijb": ("evaluate:eval_ijb", "Run the IJB protocols, 1:1 and 1:N."),
    "generations": (
        "evaluate:generations",
        "Compare every version's queries with all earlier galleries.",
    ),
    "gate": ("evaluate:gate", "Decide whether the new model may search the old gallery."),
    "doctor": (
        "features:doctor",
        "Look at a gallery, or at any stored vectors, and say what they are like.",
    ),
    "gallery": ("gallery:app", "Enrol and search stored vectors, whatever model made them."),
    "upgrade": ("upgrade:app", "Switch which model searches a gallery, and undo it."),
    "report": ("evaluate:report", "Write the offline HTML page of a result."),
}
"""Name → module (and the name in it, where that is another one), and what it does."""

MANY = ("train", "extract")
"""Those that several processes share; the others know only one."""

_OUT_OF_MEMORY = ("can't allocate memory", "out of memory")


class Verbs(TyperGroup):
    """A group whose members are imported when they are called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = dict.fromkeys(VERBS)  # type: ignore[assignment]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a verb and return its command, or None where there is no such verb."""
        if cmd_name not in VERBS:
            return None
        if cmd_name not in MANY and os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
            raise WorldError(
                f"mixbct {cmd_name} knows only one process, but WORLD_SIZE is "
                f"{os.environ['WORLD_SIZE']!r}: run it without torchrun (what several can share: "
                f"{', '.join(MANY)})"
            )
        place, purpose = VERBS[cmd_name]
        module, _, attribute = place.partition(":")
        verb = getattr(import_module(f"mixbct.cli.{module}"), attribute or module)
        if not isinstance(verb, typer.Typer):
            from mixbct.cli.options import Commands  # it imports rich

            alone = Commands()
            alone.command(cmd_name)(verb)
            verb = alone
        command = typer.main.get_command(verb)
        command.name, command.help = cmd_name, command.help or purpose
        if ready := ctx.find_root().obj:
            ready()
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of verbs, of which none is imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, purpose) for name, (_, purpose) in VERBS.items()])


app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    cls=Verbs,
    name="mixbct",
    help="Upgrade an embedding model without re-indexing: train, prove, deploy, measure.",
    no_args_is_help=True,
)


@app.callback(invoke_without_command=True)
def _root(
    version: bool = Option(False, "--version", help="Print the version.", is_eager=True),
) -> None:
    if version:
        typer.echo(mixbct.__version__)
        raise typer.Exit


def run(ready: Callable[[], None]) -> int:
    """Run the command of this process and return its exit code.

    Args:
        ready: called once a verb is imported and can be interrupted by an exception.
    """
    for stream in (sys.stdout, sys.stderr):
        # whatever the locale: names may hold any character, and JSON is UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Plain())
    try:
        code = app(standalone_mode=False, complete_var="", obj=ready)
        sys.stdout.flush()
    except MixbctError as error:
        if interrupted() and error.exit_code != 3:
            return stopped()
        _say(f"error: {error}" if error.exit_code == 2 else str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return stopped()
    except BaseException as error:
        if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
            return 141  # typer's answer to a pipe that nobody reads any more, and rich's
        return stopped() if interrupted() else _ended_by(error)
    return stopped() if code == 130 else int(code or 0)  # typer's answer to a KeyboardInterrupt


class _Plain(logging.Formatter):
    """A warning as it can be printed, whatever the names in it hold."""

    def format(self, record: logging.LogRecord) -> str:
        return without_controls(super().format(record))


def _ended_by(error: BaseException) -> int:
    """Say why a verb ended and return the exit code: 2 where the person can mend it, else 4."""
    if hasattr(error, "show") and hasattr(error, "exit_code"):  # wrong usage, in typer's words
        said = _shown(str(getattr(error, "message", "")))
        error.message = said  # type: ignore[attr-defined]
        with telling():
            error.show()
        return int(error.exit_code)
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing is left to flush
        return 141
    if isinstance(error, MemoryError) or any(w in str(error) for w in _OUT_OF_MEMORY):
        _say(f"error: not enough memory ({error}); use smaller batches, or a machine with more")
        return 2
    if isinstance(error, OSError) and error.errno is not None:
        place = "" if error.filename is None else f"{os.fspath(error.filename)!s:.300}: "
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        _say(f"error: {place}{error.strerror}{'; free some space' if full else ''}")
        return 2
    _say(f"a fault of mixbct: {type(error).__name__}: {str(error)[:500]}")
    _say(f"please report it with {_written(error)}, which holds versions, command and traceback")
    return 4


def _written(error: BaseException) -> str:
    """Write what a report of a fault needs to a file, and return its name."""
    text = (
        f"mixbct {mixbct.__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        f"command: mixbct {shlex.join(sys.argv[1:])}\n" + "".join(traceback.format_exception(error))
    )
    try:
        descriptor, name = tempfile.mkstemp(".txt", "mixbct-fault-")
        with os.fdopen(descriptor, "wb") as file:
            file.write(without_passwords(text).encode(errors="backslashreplace"))
    except OSError:
        _say(text)
        return "the lines above"
    return name


def _say(text: str) -> None:
    which = "" if rank() == "0" else f"process {rank()}: "
    with telling():
        print(which + _shown(text), file=sys.stderr, flush=True)


def _shown(text: str) -> str:
    return without_controls(without_passwords(text))
