"""A bench from its recipe to its summary: data, old models, trials, cells.

Cells run in processes of their own, `jobs` at a time. What is finished is kept: the same command
again goes on where it was stopped, runs failed cells anew, and costs nothing once all is there.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatch
from itertools import product
from pathlib import Path
from typing import Any

from mixbct.bench_schemas import BenchCell, BenchSummary, Choice
from mixbct.data import open_source
from mixbct.data.glyphs import build_glyphs
from mixbct.data.split import make_split
from mixbct.errors import ResultError, StoppedError
from mixbct.files import write_atomically
from mixbct.schemas import Record, read_record
from mixbct.workflows.bench.recipe import INDEPENDENT, BenchRecipe
from mixbct.workflows.bench.specs import CellSpec, OldSpec, Planner
from mixbct.workflows.bench.summary import summarise
from mixbct.workflows.bench.trials import choose
from mixbct.workflows.bench.worker import failed_cell
from mixbct.workflows.progress import Stage, silent

SCENARIOS = ("open-data", "open-class", "extended-data", "extended-class")


def run_bench(
    recipe: BenchRecipe,
    out: Path,
    work: Path,
    *,
    jobs: int = 1,
    only: str | None = None,
    fonts: Path | None = None,
    cache: Path,
    command: str,
    stage: Stage = silent,
) -> BenchSummary:
    """Run what of a bench is not there yet, and sum it up.

    Args:
        recipe: the bench.
        out: where cells, choices and summary go: what is worth keeping.
        work: where models, banks and splits go.
        jobs: processes at a time.
        only: run cells whose id this pattern (`*`, `?`) fits, and those that they need.
        fonts: a folder of fonts to draw glyphs from; None: fetch Debian's.
        cache: where fetched fonts are kept.
        command: to be written into the summary.
        stage: opens a stage of the progress display.

    Raises:
        ResultError: `only` fits no cell.
        StoppedError: Ctrl-C or SIGTERM; what is finished is kept.
    """
    planner = Planner(recipe, out, work)
    _prepare_data(recipe, planner, fonts, cache, stage)
    pool = _Pool(planner, jobs, stage)
    choices = _choices(recipe, planner, out, pool)
    wanted = _test_cells(recipe, planner, {c.method: c for c in choices})
    if only is not None:
        wanted = [cell for cell in wanted if fnmatch(cell.id, only)]
        if not wanted:
            raise ResultError(f"no cell of {recipe.name} is called {only!r}")
    cells = pool.run(wanted)
    summary = summarise(recipe, cells, choices, command, _data(recipe, planner))
    write_atomically(out / "summary.json", summary.to_json())
    return summary


def _prepare_data(
    recipe: BenchRecipe, planner: Planner, fonts: Path | None, cache: Path, stage: Stage
) -> None:
    data = recipe.data
    if data.kanji is not None and not data.path.exists():
        with stage("render the kanji glyphs") as tick:
            build_glyphs(
                data.path,
                classes=data.kanji,
                seed=data.seed,
                fonts=fonts,
                cache=cache,
                progress=lambda what, done, total: tick(done, total),
            )
    source = open_source(data.path)
    for scenario in SCENARIOS:
        make_split(
            source,
            planner.split(scenario),
            scenario=scenario,  # type: ignore[arg-type]
            seed=data.seed,
            old_share=data.old_share,
            test_classes=data.test_classes,
            validation_classes=data.validation_classes,
            query_share=data.query_share,
            held_out_groups=data.held_out_groups,
        )


def _data(recipe: BenchRecipe, planner: Planner) -> dict[str, str | int]:
    source = open_source(recipe.data.path)
    return {
        "source": str(source),
        "digest": source.digest(),
        "images": len(source),
        "classes": len(source.classes()),
        "validation classes": recipe.data.validation_classes,
        "test classes": recipe.data.test_classes,
    }


def _choices(recipe: BenchRecipe, planner: Planner, out: Path, pool: "_Pool") -> tuple[Choice, ...]:
    """Run every method's trials on the validation classes, and choose."""
    tuning = recipe.tuning
    tried = {name: m.trials for name, m in recipe.methods.items() if m.trials}
    if tuning is None or not tried:
        return ()
    where = (tuning.old, tuning.scenario, tuning.seed, "validation")
    cells = [
        planner.cell(method, *where, number, settings)  # type: ignore[arg-type]
        for method, trials in tried.items()
        for number, settings in enumerate(trials)
    ]
    done = {(cell.method, cell.trial): cell for cell in pool.run(cells)}
    return tuple(
        choose(method, trials, [done[method, number] for number in range(len(trials))])
        for method, trials in tried.items()
    )


def _test_cells(
    recipe: BenchRecipe, planner: Planner, choices: dict[str, Choice]
) -> list[CellSpec]:
    cells: dict[str, CellSpec] = {}
    for block in recipe.matrix:
        # seed by seed, so that a bench that was stopped has whole rows of fewer seeds
        for seed, old, scenario, method in product(
            block.seeds, block.old, block.scenarios, block.methods
        ):
            trial, settings = None, dict[str, Any]()
            if method in choices:
                trial = choices[method].trial
                settings = choices[method].trials[trial].settings
            spec = planner.cell(method, old, scenario, seed, "test", trial, settings)
            cells[spec.id] = spec
    return list(cells.values())


class _Pool:
    """Runs specs, `jobs` at a time, after what they need."""

    def __init__(self, planner: Planner, jobs: int, stage: Stage) -> None:
        self.planner = planner
        self.jobs = jobs
        self.stage = stage

    def run(self, wanted: Sequence[CellSpec]) -> list[BenchCell]:
        """Return the cells that are wanted, and the independent ones that they need."""
        independent = {
            (s.old, s.scenario, s.seed, s.part): self.planner.cell(
                INDEPENDENT, s.old, s.scenario, s.seed, s.part, None, {}
            )
            for s in wanted
        }
        first = list(independent.values())
        rest = [spec for spec in wanted if spec.method != INDEPENDENT]
        missing = [spec for spec in [*first, *rest] if _finished(spec) is None]
        self._old_models(missing)
        self._cells([spec for spec in first if spec in missing], "independent models")
        self._cells([spec for spec in rest if spec in missing], "cells")
        return [_read(spec) for spec in [*first, *rest]]

    def _old_models(self, cells: list[CellSpec]) -> None:
        specs = {}
        for cell in cells:
            served = {c.scenario for c in cells if c.old_folder == cell.old_folder}
            scenarios = [s for s in SCENARIOS if s in served]
            specs[cell.old_folder] = self.planner.old(cell.old, scenarios, cell.seed, cells)
        failed = self._all(list(specs.values()), "old models", lambda spec: spec.folder)
        if failed:
            folder, error = next(iter(failed.items()))
            raise ResultError(f"an old model could not be made in {folder}: {error}")

    def _cells(self, specs: list[CellSpec], what: str) -> None:
        failed = self._all(specs, what, lambda spec: spec.folder)
        for spec in specs:
            if spec.folder in failed:
                write_atomically(spec.out, failed_cell(spec, failed[spec.folder]).to_json())

    def _all(
        self,
        specs: Sequence[OldSpec | CellSpec],
        what: str,
        folder_of: Callable[[Any], Path],
    ) -> dict[Path, str]:
        """Run specs; return why some failed, by folder."""
        if not specs:
            return {}
        failed = {}
        running: set[subprocess.Popen[bytes]] = set()
        with self.stage(f"{len(specs)} {what}") as tick, ThreadPoolExecutor(self.jobs) as threads:
            futures = {threads.submit(_run, spec, folder_of(spec), running): spec for spec in specs}
            try:
                for done, future in enumerate(as_completed(futures), 1):
                    if error := future.result():
                        failed[folder_of(futures[future])] = error
                    tick(done, len(specs))
            except KeyboardInterrupt as stop:
                threads.shutdown(wait=False, cancel_futures=True)
                for process in list(running):
                    process.terminate()
                raise StoppedError(
                    "stopped; what is finished is kept: go on with the same command"
                ) from stop
        return failed


def _run(spec: Record, folder: Path, running: set["subprocess.Popen[bytes]"]) -> str:
    """Run one spec in a process of its own; return why it failed, or nothing."""
    path = folder / "spec.json"
    _forget_other_plans(spec, folder)
    write_atomically(path, spec.to_json())
    threads = "1"
    if isinstance(spec, CellSpec | OldSpec) and spec.recipe is not None:
        threads = str(spec.recipe.train.threads or os.cpu_count() or 1)
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    words = [sys.executable, "-m", "mixbct.workflows.bench.worker", str(path)]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
        running.add(process)
        code = process.wait()
        running.discard(process)
    if code == 0:
        return ""
    said = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
    return f"exit {code}: {said[-1] if said else 'nothing was said'}"


def _forget_other_plans(spec: Record, folder: Path) -> None:
    """Delete what was made in a folder under another plan, so that it is made anew."""
    path = folder / "spec.json"
    if not isinstance(spec, CellSpec) or not path.exists():
        return
    try:
        same = read_record(path, CellSpec, ResultError, "spec").plan() == spec.plan()
    except ResultError:
        same = False
    if not same:
        shutil.rmtree(folder)


def _finished(spec: CellSpec) -> BenchCell | None:
    """Return the cell of an earlier run, if the same plan gave it and it did not fail."""
    if not spec.out.exists():
        return None
    cell = _read(spec)
    return cell if cell.plan == spec.plan() and not cell.error else None


def _read(spec: CellSpec) -> BenchCell:
    return read_record(spec.out, BenchCell, ResultError, "cell")
