"""Every recipe of the package can be handed out, is read back, and fits what is there."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixbct.errors import DataError, RecipeError
from mixbct.recipe import load_recipe
from mixbct.workflows.bench.recipe import load_bench
from mixbct.workflows.recipes import copy_recipe, recipe_names, recipe_text

NAMES = list(recipe_names())
BENCH = Path(__file__).parents[3] / "recipes/bench/glyphs.toml"


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_read_where_it_is_copied_to(name: str, tmp_path: Path) -> None:
    assert recipe_names()[name]
    file = copy_recipe(name, tmp_path / "new" / "folder")
    assert file.read_text() == recipe_text(name)
    if name == "bench/methods":  # what others extend
        return
    (load_bench if name.startswith("bench/") else load_recipe)(file)
    # once more changes nothing
    assert copy_recipe(name, tmp_path / "new" / "folder") == file


@pytest.mark.parametrize("name", ["old.toml", "recipes/old.toml", "old"])
def test_a_name_as_people_write_it(name: str, tmp_path: Path) -> None:
    assert copy_recipe(name, tmp_path) == tmp_path / "old.toml"


@pytest.mark.parametrize("name", ["nw", "../pyproject", "/etc/passwd", "", "old.toml.toml"])
def test_an_unknown_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there are head, independent, new, old"):
        copy_recipe(name, tmp_path)


def pictures(folder: Path, mode: str, sides: list[tuple[int, int]]) -> Path:
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate(sides):
        place = folder / f"c{number % 2}" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(place)
    return folder


@pytest.mark.parametrize(
    ("mode", "sides", "shape"),
    [
        ("RGB", [(100, 80), (90, 90), (300, 20)], (80, 3)),
        ("L", [(100, 85)] * 3, (80, 1)),
        ("RGB", [(900, 1200)] * 2, (224, 3)),
        ("RGB", [(9, 9)] * 2, (32, 3)),
        ("RGBA", [(64, 64)] * 2, (64, 3)),
    ],
)
def test_it_fits_the_images(
    mode: str, sides: list[tuple[int, int]], shape: tuple[int, int], tmp_path: Path
) -> None:
    data = pictures(tmp_path / "photos", mode, sides)
    (data / "c0" / "broken.png").write_bytes(b"\x89PNG")
    file = copy_recipe("new", tmp_path, data=data, split=tmp_path / "s", bank=tmp_path / "b")
    made = load_recipe(file)
    assert (made.model.size, made.model.channels) == shape
    assert (made.data.path, made.data.split) == (data, tmp_path / "s")
    assert made.method.bank == tmp_path / "b"  # type: ignore[union-attr]
    # comments, and what was not asked for, are as they were
    before = recipe_text("new").splitlines()
    after = file.read_text().splitlines()
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert {a.partition(" =")[0] for a, _ in changed} <= {
        "path",
        "split",
        "bank",
        "size",
        "channels",
    }


def test_the_new_model_trains_as_the_row_in_bold() -> None:
    """The recipe that people copy, and the demo takes, is what the bench found best."""
    bench = load_bench(BENCH)
    row = bench.methods[bench.ours.partition(",")[0]]
    # what a trial would choose, or set outside the method, the recipe would not know of
    assert not row.trials
    assert row.settings["denoise"] == {"keep": 1.0}
    assert row.settings.keys() == {"method", "denoise"}
    text = recipe_text("new")
    assert "(with every old row: `denoise --keep 1`)" in text
    assert tomllib.loads(text)["method"] == row.settings["method"] | {"bank": "runs/bank"}


def test_one_that_extends_another_is_fitted_too(tmp_path: Path) -> None:
    data = pictures(tmp_path / "photos", "RGB", [(112, 112)] * 2)
    file = copy_recipe("ms1mv3/new-mixbct", tmp_path, data=data, bank=tmp_path / "b")
    made = load_recipe(file)
    assert (made.data.path, made.model.size, made.model.backbone) == (data, 112, "iresnet50")


def test_another_recipe_is_not_written_over(tmp_path: Path) -> None:
    file = copy_recipe("ms1mv3/new-mixbct", tmp_path)
    assert tomllib.loads(file.read_text())["extends"] == "base.toml"
    (tmp_path / "base.toml").write_text("name = 'mine'\n")
    file.unlink()
    with pytest.raises(RecipeError, match=r"base\.toml is there already and is another"):
        copy_recipe("ms1mv3/new-mixbct", tmp_path)
    assert not file.exists()


def test_what_has_no_place(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no method with a bank"):
        copy_recipe("old", tmp_path, bank=tmp_path)
    with pytest.raises(DataError, match="there is no data"):
        copy_recipe("old", tmp_path, data=tmp_path / "none")
