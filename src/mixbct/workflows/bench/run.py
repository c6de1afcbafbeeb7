"""A bench from its recipe to its summary: data, old models, trials, cells.

Cells run in processes of their own, `jobs` at a time. What is finished is kept: the same command
again goes on where it was stopped, runs failed cells anew, and costs nothing once all is there.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import filter as fnmatch_filter
from itertools import product
from pathlib import Path
from typing import Any, get_args

from mixbct.data import open_source
from mixbct.data.glyphs import build_glyphs
from mixbct.data.split import Scenario, make_split
from mixbct.distributed import open_device
from mixbct.errors import ResultError, StoppedError
from mixbct.files import write_atomically
from mixbct.schemas.bench import BenchCell, BenchSummary, Choice
from mixbct.schemas.record import read_record
from mixbct.workflows.bench.recipe import INDEPENDENT, BenchRecipe
from mixbct.workflows.bench.specs import CellSpec, OldSpec, Planner, prefix
from mixbct.workflows.bench.summary import summarise
from mixbct.workflows.bench.trials import choose
from mixbct.workflows.bench.worker import FITTING, SIDES, failed_cell
from mixbct.workflows.progress import Stage, silent

SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)


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
        only: run none but the cells whose id this pattern (`*`, `?`) fits, and what they need;
            the summary has every cell that is there.
        fonts: a folder of fonts to draw glyphs from; None: fetch Debian's.
        cache: where fetched fonts are kept.
        command: to be written into the summary.
        stage: opens a stage of the progress display.

    Raises:
        ResultError: `only` fits no cell.
        ModelError: there is no such device.
        StoppedError: Ctrl-C or SIGTERM; what is finished is kept.
    """
    open_device(recipe.device)
    planner = Planner(recipe, out, work)
    _prepare_data(recipe, planner, fonts, cache, stage)
    pool = _Pool(planner, jobs, stage)
    named = set(fnmatch_filter(_names(recipe, planner), only or "*"))
    if not named:
        raise ResultError(f"no cell of {recipe.name} is called {only!r}")
    choices = _choices(recipe, planner, named, pool)
    planned = _test_cells(recipe, planner, {c.method: c for c in choices})
    pool.run([spec for spec in planned if spec.id in named])
    cells = [cell for spec in planned if (cell := read_cell(spec)) is not None]
    summary = summarise(recipe, cells, choices, command, _data(recipe))
    write_atomically(out / "summary.json", summary.to_json())
    return summary


def _names(recipe: BenchRecipe, planner: Planner) -> list[str]:
    return [spec.id for spec in _test_cells(recipe, planner, {})]


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
            scenario=scenario,
            seed=data.seed,
            old_share=data.old_share,
            test_classes=data.test_classes,
            validation_classes=data.validation_classes,
            query_share=data.query_share,
            held_out_groups=data.held_out_groups,
        )


def _data(recipe: BenchRecipe) -> dict[str, str | int]:
    source = open_source(recipe.data.path)
    return {
        "source": str(source),
        "digest": source.digest(),
        "images": len(source),
        "classes": len(source.classes()),
        "validation classes": recipe.data.validation_classes,
        "test classes": recipe.data.test_classes,
    }


def _choices(
    recipe: BenchRecipe, planner: Planner, named: set[str], pool: "_Pool"
) -> tuple[Choice, ...]:
    """Run the trials of methods that have a named cell; choose where all of them are there."""
    tuning = recipe.tuning
    if tuning is None:
        return ()
    where = (tuning.old, tuning.scenario, tuning.seed)
    trials = {
        name: [
            planner.cell(name, *where, "validation", number, settings)
            for number, settings in enumerate(method.trials)
        ]
        for name, method in recipe.methods.items()
        if method.trials
    }
    wanted = {spec.method for spec in _test_cells(recipe, planner, {}) if spec.id in named}
    pool.run([spec for name, specs in trials.items() if name in wanted for spec in specs])
    found = {name: [read_cell(spec) for spec in specs] for name, specs in trials.items()}
    return tuple(
        choose(name, recipe.methods[name].trials, [cell for cell in cells if cell is not None])
        for name, cells in found.items()
        if None not in cells
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
        """Run the cells that are wanted and not there; return these and the independent ones."""
        independent = {
            (s.old, s.scenario, s.seed, s.part): self.planner.cell(
                INDEPENDENT, s.old, s.scenario, s.seed, s.part, None, {}
            )
            for s in wanted
        }
        first = list(independent.values())
        rest = [spec for spec in wanted if spec.method != INDEPENDENT]
        missing = [spec for spec in rest if not _finished(spec)]
        needed = {spec.independent for spec in missing}
        begun = [
            spec
            for spec in first
            if not _finished(spec) or (spec.folder in needed and not _has_features(spec))
        ]
        failed_old = self._old_models([*begun, *missing])
        for what, specs in (("independent models", begun), ("cells", missing)):
            failed = self._all([s for s in specs if s.old_folder not in failed_old], what)
            for spec in specs:
                error = failed.get(spec.folder) or failed_old.get(spec.old_folder)
                if error:
                    write_atomically(spec.out, failed_cell(spec, error).to_json())
        return [cell for spec in [*first, *rest] if (cell := read_cell(spec)) is not None]

    def _old_models(self, cells: list[CellSpec]) -> dict[Path, str]:
        specs = {}
        for cell in cells:
            served = {c.scenario for c in cells if c.old_folder == cell.old_folder}
            scenarios = [s for s in SCENARIOS if s in served]
            specs[cell.old_folder] = self.planner.old(cell.old, scenarios, cell.seed, cells)
        failed = self._all(list(specs.values()), "old models")
        return {folder: f"the old model failed: {error}" for folder, error in failed.items()}

    def _all(self, specs: Sequence[OldSpec | CellSpec], what: str) -> dict[Path, str]:
        """Run specs; return why some failed, by folder."""
        if not specs:
            return {}
        failed = {}
        running: set[subprocess.Popen[bytes]] = set()
        with self.stage(f"{len(specs)} {what}") as tick, ThreadPoolExecutor(self.jobs) as threads:
            futures = {threads.submit(_run, spec, running): spec for spec in specs}
            try:
                for done, future in enumerate(as_completed(futures), 1):
                    if error := future.result():
                        failed[futures[future].folder] = error
                    tick(done, len(specs))
            except KeyboardInterrupt as stop:
                threads.shutdown(wait=False, cancel_futures=True)
                for process in list(running):
                    process.terminate()
                raise StoppedError(
                    "stopped; what is finished is kept: go on with the same command"
                ) from stop
        return failed


def _run(spec: OldSpec | CellSpec, running: set["subprocess.Popen[bytes]"]) -> str:
    """Run one spec in a process of its own; return why it failed, or nothing."""
    path, log_path = (spec.folder.parent / f"{spec.folder.name}{s}" for s in (".json", ".log"))
    write_atomically(path, spec.to_json())
    threads = str((spec.recipe.train.threads if spec.recipe else 1) or os.cpu_count() or 1)
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
    said = log_path.read_text("utf-8", errors="replace").strip().splitlines()
    return f"exit {code}: {said[-1] if said else 'nothing was said'}"


def read_cell(spec: CellSpec) -> BenchCell | None:
    """Return the cell that was made by this plan, whether it failed or not."""
    if not spec.out.exists():
        return None
    cell = read_record(spec.out, BenchCell, ResultError, "cell")
    return cell if cell.plan == spec.plan() else None


def _finished(spec: CellSpec) -> bool:
    cell = read_cell(spec)
    return cell is not None and not cell.error


def _has_features(spec: CellSpec) -> bool:
    """Return whether what other cells need of an independent model's is still there."""
    names = [prefix(spec.part) + side for side in SIDES]
    return all((spec.folder / name / "manifest.json").exists() for name in [*names, FITTING])
