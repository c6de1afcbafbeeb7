"""docs/text.md, command by command: texts by two encoders, upgraded and back."""

import json
import random
import re
import shlex
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "text.md").read_text(encoding="utf-8")
LABELS, TEXTS = 250, 8


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with made-up texts, of words that those of a label share, and encoders."""
    chance = random.Random(1)
    syllables = [a + b for a in "bdfgklmnprstv" for b in "aeiou"]
    words = ["".join(chance.choices(syllables, k=3)) for _ in range(500)]
    rows = []
    for label in range(LABELS):
        own = chance.sample(words, 5)
        for _ in range(TEXTS):
            text = [chance.choice(own if chance.random() < 0.8 else words) for _ in range(20)]
            rows.append((" ".join(text), f"topic {label}"))
    lines = (f'question-{row},"{text}",{label}\n' for row, (text, label) in enumerate(rows))
    (tmp_path / "texts.csv").write_text("key,text,label\n" + "".join(lines))
    asked = f"key,text\nfirst,{rows[-1][0]}\n"
    (tmp_path / "questions.csv").write_text(asked)
    (code,) = blocks("python")
    (tmp_path / "encoders.py").write_text(code)
    return tmp_path


def test_every_command_of_the_page(mixbct, folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    commands = [shlex.split(line) for line in "".join(blocks("bash")).splitlines()]
    assert len(commands) == 13
    said: dict[str, str] = {}
    for words in commands:
        assert words[0] == "mixbct"
        said[" ".join(words[1:3])] = mixbct(*words[1:], cwd=folder).stdout
    monkeypatch.delitem(sys.modules, "encoders")
    assert f"{LABELS * TEXTS:,} items of encoders:old@1" in said["gallery import"]
    assert "Compatible" in said["gate result.json"]
    assert f"topic {LABELS - 1}" in said["gallery search"]  # by the new encoder's vector
    assert "searched by encoders:old@1" in said["upgrade rollback"]
    again = mixbct("gallery", "search", "library", "--key", "question-9", "--json", cwd=folder)
    assert json.loads(again.stdout)["queries"][0]["hits"][0]["key"] == "question-9"
