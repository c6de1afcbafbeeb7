"""What the bench's processes are told: one file a cell, with the models that it is made from.

WORK/splits/SCENARIO              the division of the classes
WORK/old/NAME-KIND-sSEED-PLAN/    an old model: its run, and a bank a scenario and denoising
WORK/cells/ID-PLAN/               a cell: its run
OUT/cells/ID.json                 what is kept of a cell (`BenchCell`)
OUT/draws/ID                      its bootstrap replicates
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from mixbct.errors import DataError
from mixbct.recipe import Recipe
from mixbct.report.names import INDEPENDENT
from mixbct.schemas.bench import BenchCell, Part
from mixbct.schemas.data import SplitManifest
from mixbct.schemas.record import Record, read_record
from mixbct.workflows.bench.recipe import BenchRecipe, DenoiseSettings, is_adapter

BENCH_VERSION = 2
"""To be raised when code that decides figures changes: finished cells are then run again."""

_PLACES = {"data": {"path", "split"}, "method": {"bank", "old_model"}}


class Trained(Record):
    """A model: how it is trained, where, and the digest of all that decides it."""

    recipe: Recipe
    folder: Path
    plan: str


class CellSpec(Record):
    """One cell: what it is (`cell`, still without figures), and what it is made from."""

    cell: BenchCell
    model: Trained | None
    """None for an adapter."""
    split: Path
    bank: Path
    old_model: Trained
    free: "CellSpec | None"
    """The independent model's cell that it is held against; None for that cell itself."""
    folder: Path
    out: Path
    draws: Path
    replicates: int
    denoising: DenoiseSettings


def _deciding(recipe: Recipe) -> dict[str, Any]:
    """Return what of a recipe decides figures: not where things lie, nor a device that rounds
    float64 otherwise than another.
    """
    content = recipe.model_dump(mode="json", exclude=_PLACES)
    content["model"]["start"] = "procrustes"  # means nothing for images; finished cells say this
    if recipe.train.precision == "float64":
        del content["train"]["device"]
    return content


def _digest(**content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Planner:
    """Makes the specs of a bench, once its splits are there.

    Where everything lies is decided here alone.

    Args:
        recipe: the bench.
        out: where cells, choices and summary go: what is worth keeping.
        work: where models, banks and splits go.
    """

    def __init__(self, recipe: BenchRecipe, out: Path, work: Path) -> None:
        self.recipe = recipe
        self.out = out
        self.work = work

    def split(self, scenario: str) -> Path:
        """Return where a scenario's split lies."""
        return self.work / "splits" / scenario

    def _division(self, scenario: str) -> str:
        path = self.split(scenario) / "manifest.json"
        manifest = read_record(path, SplitManifest, DataError, "split")
        return _digest(**manifest.model_dump(mode="json", exclude={"source"}))

    def _old(self, old: str, scenario: str, seed: int) -> Trained:
        """Return an old model; open and extended scenarios share it, and its rows."""
        kind = scenario.split("-")[1]
        recipe = self.recipe.old_training(old, seed, self.split(f"extended-{kind}"))
        plan = _digest(
            version=BENCH_VERSION,
            recipe=_deciding(recipe),
            division=self._division(f"extended-{kind}"),
        )
        folder = self.work / "old" / f"{old}-{kind}-s{seed}-{plan[:12]}"
        return Trained(recipe=recipe, folder=folder, plan=plan)

    def cell(
        self,
        method: str,
        old: str,
        scenario: str,
        seed: int,
        part: Part,
        trial: int | None = None,
        choice: dict[str, Any] | None = None,
    ) -> CellSpec:
        """Return the spec of a cell; its plan is the digest of all that decides its figures."""
        settings = choice or {}
        name = "--".join((old, scenario, method, f"s{seed}"))
        if part == "validation":
            name += f"--t{trial}" if trial is not None else "--v"
        old_model, split = self._old(old, scenario, seed), self.split(scenario)
        denoising = self.recipe.denoising(method, settings)
        columns = "-columns" if denoising.columns else ""
        bank = old_model.folder / f"bank-{scenario}-keep{denoising.keep:g}{columns}"
        free = recipe = None
        if method != INDEPENDENT:
            free = self.cell(INDEPENDENT, old, scenario, seed, part)
        if not is_adapter(method):
            run = old_model.folder / "run"
            recipe = self.recipe.training(method, settings, old, seed, split, bank, run)
        trained = recipe.method.model_dump(exclude=_PLACES["method"]) if recipe else {}
        plan = _digest(
            version=BENCH_VERSION,
            part=part,
            method=method,
            seed=seed,
            replicates=self.recipe.replicates,
            division=self._division(scenario),
            denoising=denoising.model_dump(mode="json"),
            old_plan=old_model.plan,
            independent_plan=free.cell.plan if free else "",
            **({"recipe": _deciding(recipe)} if recipe else {}),
        )
        folder = self.work / "cells" / f"{name}-{plan[:12]}"
        return CellSpec(
            cell=BenchCell(
                id=name,
                bench=self.recipe.name,
                part=part,
                method=method,
                old=old,
                scenario=scenario,
                seed=seed,
                trial=trial,
                settings=trained | {k: v for k, v in settings.items() if k != "method"},
                plan=plan,
            ),
            model=Trained(recipe=recipe, folder=folder, plan=plan) if recipe else None,
            split=split,
            bank=bank,
            old_model=old_model,
            free=free,
            folder=folder,
            out=self.out / "cells" / f"{name}.json",
            draws=self.out / "draws" / name,
            replicates=self.recipe.replicates,
            denoising=denoising,
        )
