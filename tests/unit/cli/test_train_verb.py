"""`mixbct train`: what it says, and which command it says comes next."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mixbct.cli.verbs import app

RECIPE = """
name = "tiny"
data = {{ path = "data", split = "split", part = "{part}" }}
model = {{ dim = 8, size = 16, channels = 1, options = {{ width = 2 }} }}
head = {{ name = "arcface", scale = 8.0, margin = 0.1 }}
method = {method}
optimizer = {{ name = "sgd", lr = 0.1 }}
train = {{ epochs = 1, batch = 8, threads = 1 }}
"""
HEAD = """
name = "head"
data = { path = "new", split = "split" }
model = { backbone = "linear", dim = 4 }
head = { name = "arcface", scale = 8.0, margin = 0.1 }
method = { name = "l2", bank = "old" }
optimizer = { name = "sgd", lr = 0.1 }
train = { epochs = 1, batch = 8, threads = 1 }
"""


def run(*arguments: object) -> str:
    found = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in range(8):
        (tmp_path / f"data/c{name}").mkdir(parents=True)
        for i in range(5):
            pixels = rng.integers(0, 256, (16, 16)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"data/c{name}/{i}.png")
    run("data", "split", "data", "--out", "split", "--test-classes", "3")
    return tmp_path


def test_the_next_command_is_that_of_the_models_role(photos: Path) -> None:
    """An old model makes the bank, a new one and an independent one are judged."""
    write = (photos / "tiny.toml").write_text
    write(RECIPE.format(part="old_train", method='{ name = "independent" }'))
    shown = run("train", "tiny.toml", "--out", "runs/old")
    following = "next: mixbct extract runs/old --data data --split split --out runs/bank"
    assert shown.splitlines()[-1] == following
    run(*following.split()[2:])
    run("denoise", "runs/bank")
    write(RECIPE.format(part="new_train", method='{ name = "independent" }'))
    shown = run("train", "tiny.toml", "--out", "runs/alone")
    assert shown.splitlines()[-1] == (
        "next: mixbct eval --old OLD --new NEW --independent runs/alone --data data --split split"
    )
    bct = '{ name = "bct", bank = "runs/bank", old_model = "runs/old" }'
    write(RECIPE.format(part="new_train", method=bct))
    shown = run("train", "tiny.toml", "--out", "runs/new")
    following = "next: mixbct eval --old runs/old --new runs/new --data data --split split"
    assert shown.splitlines()[-1] == following
    shown = run("train", "tiny.toml", "--out", "runs/l2", "--set", "method.name=l2")
    assert shown.splitlines()[-1].startswith("next: mixbct eval --old OLD --new runs/l2 ")


def test_a_head_says_how_it_began_and_is_judged_by_the_banks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "keys.txt").write_text("".join(f"k{i}\n" for i in range(60)))
    np.save("labels.npy", np.arange(60) % 12)
    for side, dim in (("new", 6), ("old", 4)):
        np.save(f"{side}.npy", rng.normal(size=(60, dim)) + 9 * (side == "old"))
        words = ["--features", f"{side}.npy", "--labels", "labels.npy", "--keys", "keys.txt"]
        run("data", "bank", *words, "--contract", side, "--out", side)
    run("data", "split", "new", "--out", "split")
    (tmp_path / "head.toml").write_text(HEAD)
    lines = run("train", "head.toml", "--out", "head").splitlines()
    assert lines[-2].startswith("the old vectors lie in a narrow cone (their mean has length ")
    assert "began at ridge" in lines[-2]
    assert lines[-1] == "next: mixbct eval --old old --new head --data new --split split"
    run(*lines[-1].split()[2:], "--out", "result.json")
