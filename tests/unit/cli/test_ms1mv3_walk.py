"""docs/ms1mv3.md: its commands are ones that the program takes; recipes and overrides load."""

import re
import shlex
from itertools import product
from pathlib import Path
from typing import get_args

import pytest
import typer

from mixbct.cli.verbs import app
from mixbct.data.split import Scenario
from mixbct.methods import METHODS
from mixbct.recipe import load_recipe

ROOT = Path(__file__).parents[3]
RECIPES = ROOT / "recipes" / "ms1mv3"
WALK = (ROOT / "docs" / "ms1mv3.md").read_text(encoding="utf-8")
# the block, and those in the text that are more than a verb's name
COMMANDS = re.findall(r"^mixbct .+$", WALK, re.MULTILINE) + re.findall(
    r"`(mixbct [^`]+ [^`]+)`", WALK
)
OLD_MODELS = {"softmax-128": 128, "softmax-256": 256, "softmax-512": 512, "arcface-512": 512}


def parse(words: list[str]) -> None:
    """Parse words as the program does, and run nothing."""
    command = typer.main.get_command(app)
    context = command.make_context("mixbct", words)
    while isinstance(command, typer.core.TyperGroup):
        left = [*context._protected_args, *context.args]
        name, command, left = command.resolve_command(context, left)
        context = command.make_context(name, left, parent=context)


def test_the_commands_are_found() -> None:
    verbs = [command.split()[1] for command in COMMANDS]
    assert len(verbs) >= 13
    assert set(verbs) == {
        *("data", "train", "extract", "denoise", "eval-ijb", "eval-pairs", "import-model")
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_walk(command: str) -> None:
    program, *words = shlex.split(command)
    assert program == "mixbct"
    parse(words)
    for word in words:
        if word.startswith("recipes/"):
            load_recipe(ROOT / word)


@pytest.mark.parametrize("words", [["denoise"], ["extract", "m", "--dta", "d"], ["data", "inform"]])
def test_what_the_program_does_not_take(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"(?i)missing|no such"):
        parse(words)


def test_the_overrides_of_the_walk() -> None:
    settings = re.findall(r"--set (\S+?)[`;) ]", WALK)
    assert len(settings) >= 5
    for setting in settings:
        load_recipe(RECIPES / "new-mixbct.toml", [setting])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_in_every_scenario_of_every_old_model(method: str) -> None:
    path = RECIPES / f"new-{method.replace('_', '-')}.toml"
    assert f"new-{method.replace('_', '-')}" == load_recipe(path).name
    for scenario, (old, dim) in product(get_args(Scenario), OLD_MODELS.items()):
        words = [f"data.split=runs/ms1mv3/split-{scenario}", f"model.dim={dim}"]
        if method != "independent":
            words.append(f"method.bank=runs/ms1mv3/bank-{old}")
        recipe = load_recipe(path, words)
        assert recipe.method.name == method
        assert recipe.model.backbone == "iresnet50"
        assert (recipe.model.dim, recipe.data.split) == (dim, Path(words[0].split("=")[1]))
