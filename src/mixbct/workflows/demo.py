"""The main job on data that everyone can have: kanji glyphs from fonts, or a person's own images.

600 kanji to train on (180 of them for the old model) and 500 others to search among; the
queries are typefaces that no model has seen.
"""

import tomllib
from pathlib import Path

from mixbct.data import open_source
from mixbct.data.glyphs import DEMO_QUERY_GROUPS, build_glyphs
from mixbct.data.source import Source
from mixbct.data.split import make_split
from mixbct.errors import DataError
from mixbct.recipe import Recipe, apply_overrides, parse_recipe
from mixbct.workflows.progress import Stage, silent
from mixbct.workflows.recipes import recipe_text
from mixbct.workflows.rows import look_at_all
from mixbct.workflows.upgrade import Upgrade, run_upgrade

TRAIN_CLASSES = 600
TEST_CLASSES = 500

SETTINGS = (
    "data.shift=2",
    "data.flip=false",
    "model.size=32",
    "model.channels=1",
    "train.batch=256",
    "train.checkpoint_every=200",
)
"""What the package's recipes are laid under: glyphs are small, grey, and not to be mirrored."""
SHORT = "train.epochs=17"  # three more cost a minute, and gain nothing
OF_ITS_OWN = {"old": ("model.options.width=8",), "new": (SHORT,), "independent": (SHORT,)}


def run_demo(
    out: Path,
    data: Path | None = None,
    fonts: Path | None = None,
    seed: int = 1,
    overrides: list[str] | None = None,
    skip_bad: bool = False,
    resume: bool = False,
    stage: Stage = silent,
) -> Upgrade:
    """Make the data, train, judge and switch, all below `out`.

    Args:
        out: the folder that everything lands in.
        data: a folder of class folders to use in place of the glyphs.
        fonts: a folder of fonts to render the glyphs from; none: fetch Debian's.
        seed: of the choice of kanji, the split, the training and the bootstrap.
        overrides: `key=value` settings for all three recipes.
        skip_bad: leave images that cannot be read out of every part of the split.
        resume: take up what an earlier run left.
        stage: opens a stage of the progress display.
    """
    source_path, split = data or out / "data", out / "split"
    if (split / "manifest.json").exists() and not resume:
        raise DataError(
            f"{out} already holds a demo: add --resume to go on with it, or choose another --out"
        )
    old, new, independent = (
        _recipe(name, out, source_path, split, seed, overrides or [])
        for name in ("old", "new", "independent")
    )
    if data is None and not (source_path / "manifest.json").exists():
        count = TRAIN_CLASSES + TEST_CLASSES
        with stage("render the kanji glyphs") as tick:
            build_glyphs(source_path, count, seed, fonts, tick)
    if not (split / "manifest.json").exists():
        source = open_source(source_path, skip_bad=skip_bad)
        make_split(
            source,
            split,
            seed=seed,
            test_classes=TEST_CLASSES if data is None else 0.4,
            held_out_groups=_query_groups(source),
            skipped=look_at_all(source, skip_bad, stage),
        )
    title, language = (data.name, "") if data else ("Kanji glyphs", "ja")
    return run_upgrade(
        old, new, independent, out, title=title, language=language, resume=resume, stage=stage
    )


def _query_groups(source: Source) -> tuple[str, ...]:
    """Choose the families that only queries come from: a third of them on fonts of one's own."""
    groups = sorted(set(source.groups()) - {""})
    if set(DEMO_QUERY_GROUPS) <= set(groups):
        return DEMO_QUERY_GROUPS
    return tuple(groups[::3]) if len(groups) > 1 else ()


def _recipe(
    name: str, out: Path, data: Path, split: Path, seed: int, overrides: list[str]
) -> Recipe:
    content = apply_overrides(tomllib.loads(recipe_text(name)), [*SETTINGS, *OF_ITS_OWN[name]])
    content["seed"] = seed
    content["data"] |= {"path": data, "split": split}
    if name == "new":
        content["method"]["bank"] = out / "bank"
    return parse_recipe(apply_overrides(content, overrides), f"the demo's {name}.toml")
