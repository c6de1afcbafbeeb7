"""The command line: parsing, printing and exit codes, nothing else.

Exit codes: 0 done or passed, 1 a gate failed, 2 bad usage or bad input, 3 stopped and resumable.
"""

import io
import signal
import sys
from types import FrameType

import typer

import mixbct
from mixbct.cli import (
    adapt,
    bench,
    data,
    demo,
    evaluate,
    features,
    gallery,
    generations,
    models,
    protocols,
    train,
)
from mixbct.cli.common import say
from mixbct.errors import MixbctError

app = typer.Typer(
    name="mixbct",
    rich_markup_mode=None,
    help="Upgrade an embedding model without re-indexing: train, prove, deploy, measure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
data.app.command("ijb-layout")(protocols.ijb_layout)
app.add_typer(data.app, name="data")
app.command("train")(train.train)
app.command("bench")(bench.bench)
app.command("import-model")(models.import_model)
app.command("fit-map")(models.fit_map)
app.command("extract")(features.extract)
app.command("denoise")(features.denoise)
app.command("adapt")(adapt.adapt)
app.command("eval")(evaluate.evaluate)
app.command("eval-pairs")(protocols.eval_pairs)
app.command("eval-ijb")(protocols.eval_ijb)
app.command("generations")(generations.generations)
app.command("gate")(evaluate.gate)
app.add_typer(gallery.app, name="gallery")
app.command("report")(evaluate.report)


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True),
) -> None:
    if version:
        typer.echo(mixbct.__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; a named error becomes one line and its exit code."""

    def on_terminate(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, on_terminate)
    for stream in (sys.stdout, sys.stderr):
        # whatever the locale: names may hold any character, and JSON is UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        app(standalone_mode=True)
    except MixbctError as error:
        say(f"error: {error}" if error.exit_code == 2 else str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("stopped: run the same command again, with --resume where it has that")
        sys.exit(3)
