"""A folder of photographs, small enough to train on in seconds, and a way to run commands."""

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from nursery import Nursery
from PIL import Image

from mixbct.cli import main

CLASSES, IMAGES = 24, 8


@dataclass(frozen=True)
class Done:
    """What a command printed, and how it ended."""

    code: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def mixbct(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `mixbct` with words, in a folder; fail with its output on another exit code."""

    def run(*words: str, cwd: Path, expect: int | tuple[int, ...] = 0) -> Done:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["mixbct", *words])
        monkeypatch.setenv("COLUMNS", "200")
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
        allowed = (expect,) if isinstance(expect, int) else expect
        assert code in allowed, f"{words}: exit {code}\n{out.getvalue()}{err.getvalue()}"
        return Done(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="module")
def nursery() -> Iterator[Callable[..., Nursery]]:
    """Start a nursery, which ends with the module."""
    with contextlib.ExitStack() as stack:
        yield lambda *programs: stack.enter_context(contextlib.closing(Nursery(*programs)))


def write_photos(folder: Path) -> None:
    """Write 24 classes of 8 images: each class a pattern of its own, shifted, lit, and noisy."""
    rng = np.random.default_rng(7)
    for number in range(CLASSES):
        pattern = np.kron(rng.integers(0, 256, (6, 6, 3)), np.ones((12, 12, 1)))
        target = folder / f"class-{number:02d}"
        target.mkdir(parents=True)
        for image in range(IMAGES):
            shifted = np.roll(pattern, rng.integers(-6, 7, 2), (0, 1))
            noisy = shifted * rng.uniform(0.6, 1) + rng.normal(0, 20, pattern.shape)
            picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
            picture.save(target / f"{image}.{'jpg' if image % 2 else 'png'}")


def lay_out(folder: Path) -> Path:
    """Write `photos` into a folder, and the project's `recipes` beside them."""
    write_photos(folder / "photos")
    (folder / "recipes").symlink_to(Path(__file__).parents[2] / "recipes")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder in which `photos` and the project's `recipes` lie."""
    return lay_out(tmp_path)


@pytest.fixture(scope="module")
def shared_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return such a folder for all tests of a module."""
    return lay_out(tmp_path_factory.mktemp("shared"))
