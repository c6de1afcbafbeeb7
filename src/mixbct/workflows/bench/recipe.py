"""The recipe of a bench: data, old models, methods, and which of their combinations are run.

One TOML file, strict as a training recipe (see `mixbct.recipe`), with `extends` and
`key=value` overrides. A method's `settings` and each of its `trials` are parts of a training
recipe that are laid over the common one:

    [methods.l2]
    trials = [{ method.weight = 3.0 }, { method.weight = 10.0 }]
"""

from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from mixbct.adapters import ADAPTERS
from mixbct.data.split import Scenario
from mixbct.recipe import (
    HeadSettings,
    ModelSettings,
    OptimizerSettings,
    Recipe,
    Settings,
    TrainSettings,
    parse_recipe,
    read_overridden,
)
from mixbct.recipe_parsing import lay_over, settings_of
from mixbct.report.names import INDEPENDENT

MLP = "mlp"
RANK_MERGE = "rank_merge"
MOST_TRIALS = 6
OLD_SEEDS = 1_000_000
FREE = frozenset({"method", "denoise", "head", "optimizer", "train"})
"""Parts of a recipe in which methods may differ."""


class BenchData(Settings):
    """What is trained, validated and tested on: one division of the classes for every cell."""

    path: Path = Field(strict=False, description="a folder of class folders, or an image array")
    kanji: int | None = Field(None, gt=3, description="draw so many there if nothing is there")
    seed: int = Field(0, ge=0, description="of the division into training and test classes")
    old_share: float = Field(0.3, gt=0, lt=1, description="of classes or items the old model saw")
    validation_classes: int = Field(0, ge=0, description="on which trials are judged")
    test_classes: int = Field(gt=1, description="on which cells are judged; no model sees them")
    query_share: float = Field(0.3, gt=0, lt=1, description="of each test class's items")
    held_out_groups: tuple[str, ...] = Field((), strict=False)
    """Groups of items, as typefaces are, that no model sees and all queries come from."""
    shift: int = Field(0, ge=0, description="random shift of up to so many pixels")
    flip: bool = Field(False, description="random horizontal flip")


class Side(Settings):
    """A model and how it is trained: an old one, or what all new ones have in common."""

    model: ModelSettings
    head: HeadSettings
    optimizer: OptimizerSettings
    train: TrainSettings


class DenoiseSettings(Settings):
    """How an old model's bank is denoised; a method may have settings of its own."""

    keep: float = Field(0.9, gt=0, le=1, description="T")
    columns: bool = Field(False, description="normalise columns as well, as published code does")


class BenchMethod(Settings):
    """A row of the table: a method, or an adapter between the old and the independent model."""

    settings: dict[str, Any] = Field({}, description="laid over the common recipe")
    trials: tuple[dict[str, Any], ...] = Field(
        (), strict=False, max_length=MOST_TRIALS, description="settings to choose from"
    )


class Block(Settings):
    """Cells: every old model × scenario × method × seed that is named."""

    old: tuple[str, ...] = Field(strict=False, min_length=1)
    """Names of `[old.NAME]`."""
    scenarios: tuple[Scenario, ...] = Field(strict=False, min_length=1)
    """How old and new training data relate."""
    methods: tuple[str, ...] = Field(strict=False, min_length=1)
    """Names of `[methods.NAME]`."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(strict=False, min_length=1)
    """Of training."""


class Tuning(Settings):
    """Where trials are run, on the validation classes."""

    old: str
    """The old model's name."""
    scenario: Scenario
    """How old and new training data relate."""
    seed: int = Field(ge=0, description="of training")


class BenchRecipe(Settings):
    """A bench."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="of the run's folder")
    title: str
    """Of the table and the page."""
    ours: str = Field("mixbct", description="the method that the others are held against")
    device: str = Field("cpu", description="where models are trained and images embedded")
    denoise: DenoiseSettings = DenoiseSettings()
    replicates: int = Field(400, ge=100, description="of the bootstrap")
    data: BenchData
    new: Side
    old: dict[str, Side]
    methods: dict[str, BenchMethod]
    matrix: tuple[Block, ...] = Field(strict=False, min_length=1)
    tuning: Tuning | None = None

    @model_validator(mode="after")
    def _names_agree(self) -> "BenchRecipe":
        old = [("matrix", name) for block in self.matrix for name in block.old]
        old += [("tuning", self.tuning.old)] if self.tuning else []
        methods = [("matrix", name) for block in self.matrix for name in block.methods]
        for used, known in ((old, self.old), (methods, self.methods)):
            for where, name in used:
                if name not in known:
                    there = ", ".join(known)
                    raise ValueError(f"{where}: {name!r} is not described; there is {there}")
        for name, method in self.methods.items():
            if (is_adapter(name) and (method.settings or method.trials)) or (
                name == INDEPENDENT and method.trials
            ):
                raise ValueError(f"methods.{name} takes no settings of its own")
            for settings in (method.settings, *method.trials):
                if "device" in settings.get("train", {}):
                    raise ValueError(f"methods.{name}: set the bench's `device`, for all methods")
                if other := settings.keys() - FREE:
                    raise ValueError(
                        f"methods.{name}: {sorted(other)[0]!r} is the same for every method; one "
                        f"may set {', '.join(sorted(FREE))}"
                    )
        for where, side in (("new", self.new), *((f"old.{n}", s) for n, s in self.old.items())):
            if "device" in side.train.model_fields_set:
                raise ValueError(f"{where}.train.device: set the bench's `device`, for all models")
        if self.tuning is None and (tried := [n for n, m in self.methods.items() if m.trials]):
            raise ValueError(f"methods.{tried[0]} has trials: say in [tuning] where they are run")
        if self.tuning and not self.data.validation_classes:
            raise ValueError("data.validation_classes: trials need classes to be judged on")
        if INDEPENDENT not in self.methods:
            raise ValueError("methods.independent: missing; every other method is held against it")
        return self

    def training(
        self,
        method: str,
        choice: dict[str, Any],
        old: str,
        seed: int,
        split: Path,
        bank: Path,
        old_model: Path,
    ) -> Recipe:
        """Return the training recipe of a cell.

        Args:
            method: a name in `methods` that is no adapter.
            choice: the trial that was chosen for it, laid over its settings.
            old: a name in `old`; the new model gets that model's dimension.
            seed: of the training.
            split: the split folder.
            bank: where the old model's bank of the new training set is.
            old_model: where the old model is.
        """
        content = self._common(self.new, method, seed, split, "new_train")
        content["model"]["dim"] = self.old[old].model.dim
        content["method"] = {"name": method}
        # a copy: what is set below must not stay in the recipe
        content = deepcopy(lay_over(lay_over(content, self.methods[method].settings), choice))
        content.pop("denoise", None)
        name = content["method"].get("name")
        if name != INDEPENDENT:
            content["method"]["bank"] = bank
        if name == "bct":
            content["method"].setdefault("old_model", old_model)
        return parse_recipe(content, f"method {method!r} of bench {self.name!r}")

    def denoising(self, method: str, choice: dict[str, Any]) -> DenoiseSettings:
        """Return how the bank of a method's cell is denoised."""
        content = self.denoise.model_dump()
        for settings in (self.methods[method].settings, choice):
            content |= settings.get("denoise", {})
        return settings_of(DenoiseSettings, content, f"methods.{method}.denoise is not valid")

    def old_training(self, old: str, seed: int, split: Path) -> Recipe:
        """Return the training recipe of an old model."""
        # one seed for both would begin an old model as its successor begins
        content = self._common(self.old[old], old, OLD_SEEDS + seed, split, "old_train")
        content["method"] = {"name": INDEPENDENT}
        return parse_recipe(content, f"old model {old!r} of bench {self.name!r}")

    def _common(self, side: Side, name: str, seed: int, split: Path, part: str) -> dict[str, Any]:
        data = {"path": self.data.path, "split": split, "part": part}
        return {
            "name": name,
            "seed": seed,
            "data": data | {"shift": self.data.shift, "flip": self.data.flip},
            **side.model_dump(),
            "train": side.train.model_dump() | {"device": self.device},
        }


def is_adapter(method: str) -> bool:
    """Return whether a row of the table is an adapter or rank merging: no model is trained."""
    return method in (*ADAPTERS, MLP, RANK_MERGE)


def load_bench(path: Path, overrides: list[str] | None = None) -> BenchRecipe:
    """Read the recipe of a bench from TOML, with those that it extends and overrides.

    Raises:
        RecipeError: it is missing or malformed, or a method's settings make no recipe.
    """
    content, origin = read_overridden(path, overrides)
    recipe = settings_of(BenchRecipe, content, f"{origin} is not a valid bench")
    # every cell's recipe must be right before the first hour is spent
    here = Path()
    for name, method in recipe.methods.items():
        for choice in method.trials or ({},):
            if not is_adapter(name):
                for old in recipe.old:
                    recipe.training(name, choice, old, 0, here, here, here)
                recipe.denoising(name, choice)
    return recipe
