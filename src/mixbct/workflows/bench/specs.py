"""What the bench's processes are told: one file each for an old model and for a cell.

WORK/splits/SCENARIO              the division of the classes
WORK/old/NAME-KIND-sSEED/         an old model: its run, its features of the test and
                                  validation images, and a bank a scenario and denoising
WORK/cells/ID/                    a cell: its run, its features, its whole result
OUT/cells/ID.json                 what is kept of a cell (`BenchCell`)
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from mixbct.errors import DataError
from mixbct.recipe import Recipe
from mixbct.schemas.bench import Part
from mixbct.schemas.data import SplitManifest
from mixbct.schemas.record import Record, read_record
from mixbct.workflows.bench.recipe import INDEPENDENT, BenchRecipe, DenoiseSettings, is_adapter

BENCH_VERSION = 2
"""To be raised when code that decides figures changes: finished cells are then run again."""

_PLACES = {"data": {"path", "split"}, "method": {"bank", "old_model"}}


class OldSpec(Record):
    """An old model with all that is made from it."""

    kind: Literal["old"] = "old"
    folder: Path
    recipe: Recipe
    splits: dict[str, Path]
    """By scenario, each of which gets its banks."""
    denoising: tuple[DenoiseSettings, ...]
    parts: tuple[Part, ...]
    division: str
    """Digest of the division of the classes."""

    def plan(self) -> str:
        """Return the digest of all that decides the model; where it is made does not."""
        return _digest(
            version=BENCH_VERSION,
            recipe=_deciding(self.recipe),
            division=self.division,
        )


class CellSpec(Record):
    """One cell."""

    kind: Literal["cell"] = "cell"
    id: str
    bench: str
    part: Part
    method: str
    old: str
    scenario: str
    seed: int
    trial: int | None
    settings: dict[str, Any]
    recipe: Recipe | None
    """Of the training; None for an adapter."""
    split: Path
    data: Path
    bank: Path
    old_folder: Path
    independent: Path | None
    """The folder of the independent model's cell; None for that cell itself."""
    folder: Path
    out: Path
    replicates: int
    title: str
    division: str
    """Digest of the division of the classes."""
    denoising: DenoiseSettings
    old_plan: str
    """Of the old model."""
    independent_plan: str
    """Of the independent model's cell; empty for that cell itself."""

    def plan(self) -> str:
        """Return the digest of all that decides the figures; where they are made does not."""
        content = self.model_dump(
            mode="json",
            include={"part", "method", "seed", "replicates", "division", "denoising", "old_plan"}
            | {"independent_plan"},
        )
        if self.recipe is not None:
            content["recipe"] = _deciding(self.recipe)
        return _digest(version=BENCH_VERSION, **content)


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


def prefix(part: Part) -> str:
    """Return what the names of a part's queries and gallery begin with in a split."""
    return "validation_" if part == "validation" else ""


def bank_name(scenario: str, denoising: DenoiseSettings) -> str:
    """Return the name of an old model's bank for one scenario."""
    columns = "-columns" if denoising.columns else ""
    return f"bank-{scenario}-keep{denoising.keep:g}{columns}"


class Planner:
    """Makes the specs of a bench, once its splits are there.

    Where everything lies is decided here alone.
    """

    def __init__(self, recipe: BenchRecipe, out: Path, work: Path) -> None:
        self.recipe = recipe
        self.out = out
        self.work = work

    def split(self, scenario: str) -> Path:
        """Return where a scenario's split lies."""
        return self.work / "splits" / scenario

    def old_folder(self, old: str, scenario: str, seed: int) -> Path:
        """Return where an old model lies; open and extended scenarios share it."""
        kind = scenario.split("-")[1]
        return self.work / "old" / f"{old}-{kind}-s{seed}"

    def old(
        self, old: str, scenarios: Sequence[str], seed: int, cells: Sequence[CellSpec]
    ) -> OldSpec:
        """Return the spec of an old model that serves `scenarios` of one kind and `cells`."""
        folder = self.old_folder(old, scenarios[0], seed)
        served = [cell for cell in cells if cell.old_folder == folder]
        denoising = [
            self.recipe.denoising(cell.method, cell.settings)
            for cell in served
            if not is_adapter(cell.method)
        ]
        return OldSpec(
            folder=folder,
            recipe=self._old_recipe(old, scenarios[0], seed),
            splits={scenario: self.split(scenario) for scenario in scenarios},
            denoising=tuple({bank_name("", one): one for one in denoising}.values()),
            parts=tuple(sorted({cell.part for cell in served})),
            division=self._division(f"extended-{scenarios[0].split('-')[1]}"),
        )

    def _old_recipe(self, old: str, scenario: str, seed: int) -> Recipe:
        # the old model's rows are those of the open scenario, too
        split = self.split(f"extended-{scenario.split('-')[1]}")
        return self.recipe.old_training(old, seed, split)

    def _division(self, scenario: str) -> str:
        path = self.split(scenario) / "manifest.json"
        manifest = read_record(path, SplitManifest, DataError, "split")
        return _digest(**manifest.model_dump(mode="json", exclude={"source"}))

    def cell(
        self,
        method: str,
        old: str,
        scenario: str,
        seed: int,
        part: Part,
        trial: int | None,
        choice: dict[str, Any],
    ) -> CellSpec:
        """Return the spec of a cell."""
        name = "--".join((old, scenario, method, f"s{seed}"))
        if part == "validation":
            name += f"--t{trial}" if trial is not None else "--v"
        old_folder = self.old_folder(old, scenario, seed)
        split = self.split(scenario)
        recipe = None
        denoising = self.recipe.denoising(method, choice)
        bank = old_folder / bank_name(scenario, denoising)
        if not is_adapter(method):
            recipe = self.recipe.training(
                method, choice, old, seed, split, bank, old_folder / "run"
            )
        independent, independent_plan = None, ""
        if method != INDEPENDENT:
            of = self.cell(INDEPENDENT, old, scenario, seed, part, None, {})
            independent, independent_plan = of.folder, of.plan()
        old_spec = OldSpec(
            folder=old_folder,
            recipe=self._old_recipe(old, scenario, seed),
            splits={},
            denoising=(),
            parts=(),
            division=self._division(f"extended-{scenario.split('-')[1]}"),
        )
        return CellSpec(
            id=name,
            bench=self.recipe.name,
            part=part,
            method=method,
            old=old,
            scenario=scenario,
            seed=seed,
            trial=trial,
            settings=choice,
            recipe=recipe,
            split=split,
            data=self.recipe.data.path,
            bank=bank,
            old_folder=old_folder,
            independent=independent,
            folder=self.work / "cells" / name,
            out=self.out / "cells" / f"{name}.json",
            replicates=self.recipe.replicates,
            division=self._division(scenario),
            denoising=denoising,
            old_plan=old_spec.plan(),
            independent_plan=independent_plan,
            title=f"{self.recipe.title}: {method}, {scenario}, {old}, seed {seed}",
        )
