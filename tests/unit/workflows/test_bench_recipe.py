import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixbct.data import open_source
from mixbct.data.array import write_array
from mixbct.data.split import make_split
from mixbct.errors import RecipeError, ResultError
from mixbct.schemas.bench import BenchSummary
from mixbct.schemas.record import read_record
from mixbct.workflows.bench.recipe import load_bench
from mixbct.workflows.bench.specs import Planner

ROOT = Path(__file__).parents[3]
MINI = ROOT / "recipes/bench/mini.toml"
HERE = Path()


BENCHES = [path for path in (ROOT / "recipes/bench").glob("*.toml") if path.stem != "methods"]


@pytest.mark.parametrize("path", BENCHES, ids=lambda path: path.stem)
def test_every_bench_of_the_project_loads(path: Path) -> None:
    recipe = load_bench(path)
    assert recipe.matrix
    assert max(len(m.trials) for m in recipe.methods.values()) <= 6


def training(recipe: Any, method: str, choice: dict[str, Any]) -> Any:
    places = (Path("split"), Path("bank"), Path("old"))
    return recipe.training(method, choice, "softmax-32", 5, *places)


def test_every_method_gets_the_same_but_for_its_own_settings() -> None:
    recipe = load_bench(MINI)
    free, ours = (training(recipe, name, {}) for name in ("independent", "mixbct"))
    assert (ours.method.name, ours.method.draw, ours.method.ratio) == ("mixbct", "bank", 0.7)
    assert ours.method.bank == Path("bank")
    for part in ("seed", "data", "model", "head", "optimizer", "train"):
        assert getattr(free, part) == getattr(ours, part)
    assert ours.model.dim == recipe.old["softmax-32"].model.dim == 32
    assert ours.seed == 5


def test_a_trial_is_laid_over_the_methods_settings() -> None:
    recipe = load_bench(MINI)
    choice = {"method": {"ratio": 0.4}, "train": {"epochs": 3}, "denoise": {"keep": 1.0}}
    found = training(recipe, "mixbct", choice)
    assert (found.method.draw, found.method.ratio, found.train.epochs) == ("bank", 0.4, 3)
    assert recipe.denoising("mixbct", choice).keep == 1.0
    assert recipe.denoising("mixbct", {}).keep == 0.9


def test_bct_is_given_the_old_models_class_weights(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    path.write_text(f'extends = "{MINI}"\n[methods.bct]\n')
    assert training(load_bench(path), "bct", {}).method.old_model == Path("old")


def test_an_old_model_begins_with_other_weights_than_its_successor() -> None:
    recipe = load_bench(MINI)
    assert recipe.old_training("softmax-32", 5, HERE).seed != training(recipe, "mixbct", {}).seed


def test_one_device_serves_all() -> None:
    recipe = load_bench(MINI, ["device='cuda'"])
    assert recipe.old_training("softmax-32", 5, HERE).train.device == "cuda"
    assert training(recipe, "mixbct", {}).train.device == "cuda"


def test_a_variant_leaves_the_recipe_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    path.write_text(f'extends = "{MINI}"\n[methods.v]\nsettings = {{ method.name = "bct" }}\n')
    recipe = load_bench(path)
    assert training(recipe, "v", {}).method.old_model == Path("old")
    assert recipe.methods["v"].settings == {"method": {"name": "bct"}}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.test_clases=3", "did you mean 'test_classes'"),
        ("methods.l2.trials=[{method={wieght=3.0}}]", "did you mean 'weight'"),
        ("matrix=[]", "matrix"),
        ("methods.l2.trials=[{},{},{},{},{},{},{}]", "at most 6"),
        ("data.validation_classes=0", "trials need classes"),
        ("tuning.old=large", "tuning: 'large' is not described; there is softmax-32"),
        ("methods.procrustes.settings={method={centred=true}}", "takes no settings of its own"),
        ("methods.independent.trials=[{}]", "takes no settings of its own"),
        ("new.train.device='cuda'", "new.train.device: set the bench's `device`"),
        ("old.softmax-32.train.device='cuda'", "set the bench's `device`, for all models"),
        ("methods.l2.settings={train={device='cuda'}}", "methods.l2: set the bench's `device`"),
        ("methods.l2.settings={data={part='query'}}", "'data' is the same for every method"),
        ("methods.l2.settings={seed=7}", "'seed' is the same for every method"),
        ("methods.l2.settings={denoise={keep=2.0}}", "keep"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(override: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        load_bench(MINI, [override])


def specs(tmp_path: Path, *overrides: str) -> dict[str, str]:
    """Return the plans of some cells, with the splits made as the bench makes them."""
    data = tmp_path / "data"
    if not data.exists():
        labels = np.repeat(np.arange(30), 4)
        images = np.random.default_rng(0).integers(0, 256, (120, 32, 32, 1), dtype=np.uint8)
        names = [f"c{i}" for i in range(30)]
        write_array(data, images, labels, names, [f"k{i}" for i in range(120)], [], "t", {})
    base = ["data.held_out_groups=[]", "data.validation_classes=5", "data.test_classes=5"]
    recipe = load_bench(MINI, [*base, f"data.path={data}", *overrides])
    work = Path(tempfile.mkdtemp(dir=tmp_path))
    planner = Planner(recipe, tmp_path / "out", work)
    source = open_source(data)
    for scenario in ("extended-class", "open-class"):
        make_split(
            source,
            planner.split(scenario),
            scenario=scenario,  # type: ignore[arg-type]
            seed=recipe.data.seed,
            test_classes=recipe.data.test_classes,
            validation_classes=recipe.data.validation_classes,
        )
    return {
        method: planner.cell(method, "softmax-32", "extended-class", 1, "test").cell.plan
        for method in ("independent", "mixbct", "procrustes")
    }


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("old.softmax-32.train.epochs=1", {"independent", "mixbct", "procrustes"}),
        ("new.train.epochs=1", {"independent", "mixbct", "procrustes"}),
        ("data.seed=2", {"independent", "mixbct", "procrustes"}),
        ("data.test_classes=6", {"independent", "mixbct", "procrustes"}),
        ("replicates=300", {"independent", "mixbct", "procrustes"}),
        ("methods.mixbct.settings.method.ratio=0.5", {"mixbct"}),
        ("methods.mixbct.settings.denoise.keep=0.5", {"mixbct"}),
        ("denoise.keep=0.5", {"independent", "mixbct", "procrustes"}),
        ("methods.independent.settings.train.epochs=1", {"independent", "mixbct", "procrustes"}),
        ("new.train.precision='float32'", {"independent", "mixbct", "procrustes"}),
        ("title=other", set()),
        ("methods.l2.trials=[]", set()),
    ],
)
def test_a_plan_changes_with_all_that_decides_the_figures(
    tmp_path: Path, override: str, changed: set[str]
) -> None:
    before, after = specs(tmp_path), specs(tmp_path, override)
    assert {method for method, plan in before.items() if after[method] != plan} == changed


def test_a_device_is_part_of_a_plan_where_it_rounds_otherwise(tmp_path: Path) -> None:
    single = ["new.train.precision='float32'", "old.softmax-32.train.precision='float32'"]
    for precision, same in ((single, False), ([], True)):
        here, there = (specs(tmp_path, *precision, f"device='{d}'") for d in ("cpu", "cuda"))
        assert (here == there) == same


def test_omniglot_has_the_settings_that_the_glyphs_chose() -> None:
    glyphs, omniglot = (
        load_bench(ROOT / f"recipes/bench/{n}.toml") for n in ("glyphs", "omniglot")
    )
    published = ROOT / "docs/results/glyphs/summary.json"
    summary = read_record(published, BenchSummary, ResultError, "summary")
    assert len(summary.choices) == 12
    for choice in summary.choices:
        chosen = choice.trials[choice.trial].settings
        assert chosen in glyphs.methods[choice.method].trials
        there = [
            recipe.training(choice.method, settings, "softmax-128", 1, HERE, HERE, HERE).method
            for recipe, settings in ((glyphs, chosen), (omniglot, {}))
        ]
        assert there[0] == there[1]
        assert glyphs.denoising(choice.method, chosen) == omniglot.denoising(choice.method, {})
