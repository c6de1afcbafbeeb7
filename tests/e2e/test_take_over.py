"""docs/take-over.md, command by command: a table of an unknown old model, upgraded and back."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import psycopg
import pytest

from mixbct.gallery import Gallery

PAGE = Path(__file__).parents[2] / "docs" / "take-over.md"
THEIRS = "postgresql://app@db.example/photos"
FITTED, TESTED, ITEMS, NEW, OLD = 150, 60, 8, 64, 40


@pytest.fixture
def folder(tmp_path: Path, postgres_url: str) -> Path:
    """Return a folder with the new model's vectors; the old one's lie in a table alone."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(FITTED + TESTED), ITEMS)
    who, how = (rng.normal(size=(n, 24)) for n in (FITTED + TESTED, len(labels)))
    sides = {}
    for side, dim, noise, own in (("new", NEW, 0.4, 0.1), ("old", OLD, 0.9, 0.4)):
        through = rng.normal(size=(24, dim)) / 5
        vectors = np.tanh((who[labels] + noise * how) @ through)
        sides[side] = vectors + own * rng.normal(size=vectors.shape)
    for part, rows in (
        ("fit", np.flatnonzero(labels < FITTED)),
        ("test", np.flatnonzero(labels >= FITTED)),
    ):
        np.save(tmp_path / f"new-{part}.npy", sides["new"][rows].astype(np.float32))
        (tmp_path / f"{part}-keys.txt").write_text("".join(f"face-{row}\n" for row in rows))
        named = "".join(f"person {labels[row]}\n" for row in rows)
        (tmp_path / f"{part}-labels.txt").write_text(named)
    np.save(tmp_path / "queries.npy", sides["new"][-2:].astype(np.float32))
    with psycopg.connect(postgres_url) as database:
        database.execute(
            f"CREATE TABLE faces (id text PRIMARY KEY, person text, embedding vector({OLD}))"
        )
        with database.cursor().copy("COPY faces FROM STDIN") as copy:
            for row, vector in enumerate(sides["old"]):
                text = "[" + ",".join(f"{number:.7g}" for number in vector) + "]"
                copy.write_row((f"face-{row}", f"person {labels[row]}", text))
    return tmp_path


def stored(gallery: Path) -> list[tuple[list[str], bytes]]:
    """Return keys and vectors of all that a gallery holds."""
    with Gallery.open(gallery) as opened, opened.read() as snapshot:
        return [
            (block.keys, block.vectors.tobytes())
            for each, _ in snapshot.contracts()
            for block in snapshot.blocks(each)
        ]


def test_every_command_of_the_page(mixbct, folder: Path, postgres_url: str) -> None:
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    commands = [shlex.split(line) for line in "".join(blocks).splitlines()]
    assert len(commands) == 14
    said: dict[str, str] = {}
    before = []
    for words in commands:
        assert words[0] == "mixbct"
        done = mixbct(*(w.replace(THEIRS, postgres_url) for w in words[1:]), cwd=folder)
        said[" ".join(words[1:3])] = done.stdout
        if words[1:3] == ["gallery", "import"]:
            before = stored(folder / "people")
    rows = (FITTED + TESTED) * ITEMS
    assert f"{rows:,} items of old-encoder" in said["gallery import"]
    assert "Compatible" in said["gate result.json"]
    assert f"person {FITTED + TESTED - 1}" in said["gallery search"]  # by the new model's vectors
    assert "searched by old-encoder" in said["upgrade rollback"]
    assert stored(folder / "people") == before, "no stored vector is ever changed"
    again = mixbct("gallery", "search", "people", "--key", "face-17", "--json", cwd=folder)
    hits = json.loads(again.stdout)
    assert hits["query_model"]["name"] == "old-encoder"
    assert hits["queries"][0]["hits"][0]["key"] == "face-17"
    with psycopg.connect(postgres_url) as database:
        assert database.execute("SELECT count(*) FROM faces").fetchone() == (rows,)
