"""The README's commands run as they stand there, but for a shorter training."""

import re
import shlex
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()
SHORTER = ["--set", "train.epochs=2", "--set", "train.batch=16", "--set", "model.size=32"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_commands_on_ones_own_images(mixbct, photos: Path, monkeypatch) -> None:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(lines) == 15
    passed = False
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "mixbct"
        if words[0] == "train":
            words += SHORTER
        if words[0] == "gate":
            # so short a training need not pass; the edge must be there exactly when it does
            passed = mixbct(*words, cwd=photos, expect=(0, 1)).code == 0
            assert (photos / "runs/edge.json").exists() == passed
        elif words[1] == "use-model" and not passed:
            refused = mixbct(*words, cwd=photos, expect=2)
            assert "edge" in refused.stderr
        else:
            done = mixbct(*words, cwd=photos)
            assert done.stdout
    assert (photos / "runs/report.html").exists()

    # the Python of the README, on what the commands left
    monkeypatch.chdir(photos)
    (code,) = blocks("python")
    if passed:
        exec(code, {})
    else:
        with pytest.raises(Exception, match="query model"):
            exec(code, {})


def test_make_targets_are_there() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    for target in re.findall(r"`?make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
