"""docs/data-protection.md: after its commands a removed vector is in no file of the gallery."""

import re
import shlex
from pathlib import Path

import numpy as np

from mixbct.data.bank import normalise

PAGE = (Path(__file__).parents[2] / "docs" / "data-protection.md").read_text(encoding="utf-8")


def test_what_is_removed_is_gone(mixbct, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(2100, 12)).astype(np.float32)
    np.save(tmp_path / "old.npy", vectors)
    (tmp_path / "keys.txt").write_text("".join(f"face-{row}\n" for row in range(len(vectors))))
    named = ["--keys", "keys.txt", "--contract", "old"]
    mixbct("gallery", "import", "people", "old.npy", *named, cwd=tmp_path)
    mixbct("gallery", "search", "people", "--key", "face-17", cwd=tmp_path)

    def holding() -> set[str]:
        one = normalise(vectors)[17].tobytes()
        folder = tmp_path / "people"
        return {path.name[:5] for path in folder.rglob("*") if one in path.read_bytes()}

    assert holding() == {"galle", "index"}
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    commands = [shlex.split(line) for line in "".join(blocks).splitlines()]
    assert [words[0] for words in commands] == ["mixbct", "mixbct"]
    for words in commands:
        mixbct(*words[1:], cwd=tmp_path)
    assert holding() == set()
    mixbct("gallery", "search", "people", "--key", "face-17", cwd=tmp_path, expect=2)
    mixbct("gallery", "search", "people", "--key", "face-18", cwd=tmp_path)
