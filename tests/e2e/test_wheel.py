"""From the wheel alone: built, installed into an environment of its own, and walked through."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
SHORTER = ["--set", "train.epochs=1", "--set", "train.batch=16", "--set", "model.size=32"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the command that an installed wheel brings along."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    built = subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)],
        env=CLEAN,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    installed = subprocess.run(
        [*pip, "--python", str(python), "install", "-c", str(ROOT / "constraints.txt"), str(wheel)],
        env=CLEAN,
        capture_output=True,
        text=True,
    )
    assert installed.returncode == 0, installed.stderr
    return folder / "env" / "bin" / "mixbct"


@pytest.mark.timeout(900)
def test_a_walk_without_the_repository(program: Path, photos: Path) -> None:
    (photos / "recipes").unlink()

    def run(words: str, *more: str, expect: int = 0) -> str:
        done = subprocess.run(
            [program, *words.split(), *more], cwd=photos, env=CLEAN, capture_output=True, text=True
        )
        assert done.returncode == expect, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    where = subprocess.run(
        [program.with_name("python"), "-c", "import mixbct; print(mixbct.__file__)"],
        cwd=photos,
        env=CLEAN,
        capture_output=True,
        text=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(program.parents[1])

    assert "ms1mv3/new-mixbct" in run("recipes list")
    # each command but the first is one that the one before named, its words in capitals filled in
    said = run("data split photos --out runs/split")
    assert "next: mixbct recipes copy old --data photos --split runs/split" in said
    assert "next: mixbct train old.toml" in run("recipes copy old --data photos --split runs/split")
    run("train old.toml --out runs/old", *SHORTER)
    run("extract runs/old --data photos --split runs/split --out runs/bank")
    assert "next: mixbct recipes copy new --data DATA --bank runs/bank" in run("denoise runs/bank")
    run("recipes copy new --data photos --split runs/split --bank runs/bank")
    run("train new.toml --out runs/new", *SHORTER)
    run(
        "eval --old runs/old --new runs/new --data photos --split runs/split --out runs/result.json"
    )
    run("report runs/result.json")
    run("gate runs/result.json", expect=1)
    run("gallery init runs/gallery --model runs/old")
    run("gallery enrol runs/gallery --data photos --split runs/split --part gallery")
    assert "class-00" in run("gallery search runs/gallery photos/class-00/0.png -k 3")
