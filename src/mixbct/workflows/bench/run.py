"""A bench from its recipe to its summary: data, trials, cells.

Cells run in processes of their own, `jobs` at a time. What is finished is kept: the same command
again goes on where it was stopped, runs failed cells anew, and costs nothing once all is there.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatch
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, get_args

from mixbct.data import open_source
from mixbct.data.glyphs import build_glyphs
from mixbct.data.split import Scenario, make_split
from mixbct.distributed import open_device
from mixbct.errors import ResultError, StoppedError
from mixbct.files import write_atomically
from mixbct.report.names import CROSS, SELF
from mixbct.schemas.bench import BenchCell, BenchSummary, Choice, Trial
from mixbct.schemas.record import record_there
from mixbct.workflows.bench.draws import read_draws
from mixbct.workflows.bench.specs import CellSpec, Planner
from mixbct.workflows.bench.summary import summarise
from mixbct.workflows.bench.worker import failed_cell
from mixbct.workflows.progress import Stage, silent

_DIVISION = {
    *("seed", "old_share", "test_classes", "validation_classes", "query_share", "held_out_groups")
}


def run_bench(
    planner: Planner,
    command: str,
    jobs: int = 1,
    only: str = "*",
    replicates: bool = False,
    fonts: Path | None = None,
    stage: Stage = silent,
) -> BenchSummary:
    """Run what of a bench is not there yet, and sum it up.

    Args:
        planner: of the bench.
        command: to be written into the summary.
        jobs: processes at a time.
        only: run none but the cells whose id this pattern (`*`, `?`) fits, and what they need;
            the summary has every cell that is there.
        replicates: run the cells again whose bootstrap replicates are not here: those of earlier
            versions, which have no figures behind bridges either.
        fonts: a folder of fonts to draw glyphs from; None: fetch Debian's.
        stage: opens a stage of the progress display.

    Raises:
        ResultError: `only` fits no cell.
        ModelError: there is no such device.
        StoppedError: Ctrl-C or SIGTERM; what is finished is kept.
    """
    recipe = planner.recipe
    open_device(recipe.device)
    data = _prepare_data(planner, fonts, stage)
    named = [spec for spec in _test_cells(planner) if fnmatch(spec.cell.id, only)]
    if not named:
        raise ResultError(f"no cell of {recipe.name} is called {only!r}")
    run = partial(_run_all, jobs=jobs, stage=stage)
    methods = {spec.cell.method for spec in named}
    choices = _choices(planner, methods, partial(run, finished=_finished))
    planned = _test_cells(planner, choices)
    wanted = [spec for spec in planned if fnmatch(spec.cell.id, only)]
    run(wanted, partial(_finished, whole=replicates))
    cells = [cell for spec in planned if (cell := read_cell(spec)) is not None]
    path = planner.out / "summary.json"
    earlier = record_there(path, BenchSummary, ResultError, "summary")
    summary = summarise(recipe, cells, choices, command, data, earlier)
    write_atomically(path, summary.to_json())
    return summary


def _prepare_data(planner: Planner, fonts: Path | None, stage: Stage) -> dict[str, str | int]:
    """Draw the glyphs where they are wanted, and split; return what a summary says of the data."""
    data = planner.recipe.data
    if data.kanji is not None and not data.path.exists():
        with stage("render the kanji glyphs") as tick:
            build_glyphs(data.path, data.kanji, data.seed, fonts, tick)
    source = open_source(data.path)
    settings = data.model_dump(include=_DIVISION)
    for scenario in get_args(Scenario):
        make_split(source, planner.split(scenario), scenario=scenario, **settings)
    return {
        "source": str(source),
        "digest": source.digest(),
        "images": len(source),
        "classes": len(source.classes()),
        "validation classes": data.validation_classes,
        "test classes": data.test_classes,
    }


def _choices(
    planner: Planner, named: set[str], run: Callable[[Sequence[CellSpec]], None]
) -> tuple[Choice, ...]:
    """Run the trials of named methods; choose for every method of which all are there."""
    methods, tuning = planner.recipe.methods, planner.recipe.tuning
    if tuning is None:
        return ()
    where = (tuning.old, tuning.scenario, tuning.seed)
    trials = {
        name: [
            planner.cell(name, *where, "validation", number, settings)
            for number, settings in enumerate(method.trials)
        ]
        for name, method in methods.items()
        if method.trials
    }
    run([spec for name, specs in trials.items() if name in named for spec in specs])
    found = {name: [read_cell(spec) for spec in specs] for name, specs in trials.items()}
    return tuple(
        choose(name, methods[name].trials, [cell for cell in cells if cell is not None])
        for name, cells in found.items()
        if None not in cells
    )


def choose(method: str, settings: Sequence[dict[str, Any]], cells: Sequence[BenchCell]) -> Choice:
    """Return the trial with the highest sum of cross-test and self-test mAP on validation.

    Both count alike, since a method that pays for one with the other has only moved along a line
    that any weight of its loss moves along. The earlier of two equal ones is chosen, and the
    first where all failed: its cells then say why.
    """
    trials = tuple(
        Trial(settings=one, cross=_map(cell, CROSS), own=_map(cell, SELF))
        for one, cell in zip(settings, cells, strict=True)
    )
    sums = [
        -1.0 if trial.cross is None or trial.own is None else trial.cross + trial.own
        for trial in trials
    ]
    best = max(range(len(sums)), key=lambda i: sums[i])
    return Choice(method=method, trial=best, trials=trials)


def _map(cell: BenchCell, combination: str) -> float | None:
    return None if cell.error else cell.figures[combination]["mAP"].value


def _test_cells(planner: Planner, choices: Sequence[Choice] = ()) -> list[CellSpec]:
    chosen = {one.method: (one.trial, one.trials[one.trial].settings) for one in choices}
    cells: dict[str, CellSpec] = {}
    for block in planner.recipe.matrix:
        # seed by seed, so that a bench that was stopped has whole rows of fewer seeds
        for seed, old, scenario, method in product(
            block.seeds, block.old, block.scenarios, block.methods
        ):
            trial, settings = chosen.get(method, (None, {}))
            spec = planner.cell(method, old, scenario, seed, "test", trial, settings)
            cells[spec.cell.id] = spec
    return list(cells.values())


def _run_all(
    wanted: Sequence[CellSpec], finished: Callable[[CellSpec], bool], jobs: int, stage: Stage
) -> None:
    """Run what is not finished, after the independent models that it is held against."""
    rest = [spec for spec in wanted if spec.free and not finished(spec)]
    free = {one.cell.id: one for spec in wanted if not finished(one := spec.free or spec)}
    # a new row is paired with replicates of the independent model
    bases = [spec.free for spec in rest if spec.free and spec.cell.part == "test"]
    free |= {one.cell.id: one for one in bases if not one.draws.exists()}
    _run_together(list(free.values()), "independent models", jobs, stage)
    _run_together(rest, "cells", jobs, stage)


def _run_together(specs: Sequence[CellSpec], what: str, jobs: int, stage: Stage) -> None:
    """Run specs, a process each, `jobs` at a time; a failed one leaves a cell that says why."""
    if not specs:
        return
    running: set[subprocess.Popen[bytes]] = set()
    with stage(f"{len(specs)} {what}") as tick, ThreadPoolExecutor(jobs) as threads:
        futures = {threads.submit(_run, spec, running): spec for spec in specs}
        try:
            for done, future in enumerate(as_completed(futures), 1):
                if error := future.result():
                    failed_cell(futures[future], error)
                tick(done, len(specs))
        except KeyboardInterrupt as stop:
            threads.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.terminate()
            raise StoppedError(
                "stopped; what is finished is kept: go on with the same command"
            ) from stop


def _run(spec: CellSpec, running: set["subprocess.Popen[bytes]"]) -> str:
    """Run one spec in a process of its own; return why it failed, or nothing."""
    if spec.free and (of := read_cell(spec.free)) and of.error:
        return f"the independent model failed: {of.error}"
    path, log_path = (spec.folder.with_name(f"{spec.cell.id}.{end}") for end in ("json", "log"))
    write_atomically(path, spec.to_json())
    threads = str((spec.model.recipe.train.threads if spec.model else 1) or os.cpu_count() or 1)
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    words = [sys.executable, "-m", "mixbct.workflows.bench.worker", str(path)]
    with log_path.open("wb") as log:
        # a session of its own: Ctrl-C reaches the bench alone, which asks each process once
        process = subprocess.Popen(
            words, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        running.add(process)
        code = process.wait()
        running.discard(process)
    if code == 0:
        return ""
    said = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"exit {code}: {said[-1] if said else 'nothing was said'}"


def read_cell(spec: CellSpec) -> BenchCell | None:
    """Return the cell that was made by this plan, whether it failed or not.

    It has its replicates, but for those that an earlier version published.
    """
    cell = record_there(spec.out, BenchCell, ResultError, "cell")
    if cell is None or cell.plan != spec.cell.plan:
        return None
    return cell.model_copy(update={"drawn": read_draws(spec.draws)})


def _finished(spec: CellSpec, whole: bool = False) -> bool:
    """Return whether there is a cell with figures; a `whole` one has its replicates, too."""
    cell = read_cell(spec)
    return cell is not None and not cell.error and (bool(cell.drawn) or not whole)
