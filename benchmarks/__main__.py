"""python -m benchmarks [NAME …] [--json FILE]: run the benchmarks, or those that are named."""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import (
    backfill,
    bridge,
    denoise,
    denoise_full,
    evaluate,
    extract,
    gpu,
    head_only,
    ijbc_size,
    imports,
    lfw,
    mix_step,
    onnx,
    postgres,
    recordio,
    search,
    serve,
    sharded_head,
    startup,
    switch,
    train_step,
    two_processes,
)
from benchmarks.measure import Figure

BENCHMARKS: Mapping[str, Callable[[Path], list[Figure]]] = {
    "train_step": train_step.run,
    "mix_step": mix_step.run,
    "extract": extract.run,
    "search": search.run,
    "denoise": denoise.run,
    "head_only": head_only.run,
    "startup": startup.run,
}
# minutes each, gigabytes of memory, or data that is not everyone's: only when named
ON_REQUEST: Mapping[str, Callable[[Path], list[Figure]]] = {
    "backfill": backfill.run,
    "bridge": bridge.run,
    "denoise_full": denoise_full.run,
    "evaluate": evaluate.run,
    "gpu": gpu.run,
    "ijbc_size": ijbc_size.run,
    "import": imports.run,
    "lfw": lfw.run,
    "onnx": onnx.run,
    "postgres": postgres.run,
    "recordio": recordio.run,
    "serve": serve.run,
    "switch": switch.run,
    "sharded_head": sharded_head.run,
    "two_processes": two_processes.run,
}


def main() -> None:
    """Run, print a table to standard output, and write the JSON file if one is named."""
    every = {**BENCHMARKS, **ON_REQUEST}
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(every)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    names = arguments.names or list(BENCHMARKS)
    if unknown := [name for name in names if name not in every]:
        parser.error(f"no benchmark {', '.join(unknown)}; choose from {', '.join(every)}")
    # as the trainer does: the references must not suffer from what it avoids
    torch.set_flush_denormal(True)
    figures: list[Figure] = []
    progress = Console(stderr=True)
    for name in names:
        with progress.status(f"{name} …"), tempfile.TemporaryDirectory() as folder:
            figures += every[name](Path(folder))
    Console().print(_table(figures))
    if arguments.json:
        content = json.dumps([figure.to_dict() for figure in figures], indent=1)
        arguments.json.write_text(content + "\n", encoding="utf-8")


def _table(figures: list[Figure]) -> Table:
    table = Table("name", "value", "unit", "reference", "ratio")
    for column in (1, 3, 4):
        table.columns[column].justify = "right"
    for figure in figures:
        value, reference = (f"{number:,.4g}" for number in (figure.value, figure.reference))
        table.add_row(figure.name, value, figure.unit, reference, f"{figure.ratio:.3f}")
    return table


if __name__ == "__main__":
    main()
