from pathlib import Path
from typing import Any

import pytest

from mixbct.errors import RecipeError
from mixbct.workflows.bench.recipe import load_bench

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


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.test_clases=3", "did you mean 'test_classes'"),
        ("methods.l2.trials=[{method={wieght=3.0}}]", "did you mean 'weight'"),
        ("matrix=[]", "matrix"),
        ("methods.l2.trials=[{},{},{},{},{},{},{}]", "at most 6"),
        ("data.validation_classes=0", "trials need classes"),
        ("tuning.old=large", "'large' is not described; there is softmax-32"),
        ("methods.l2.settings={denoise={keep=2.0}}", "keep"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(override: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        load_bench(MINI, [override])
