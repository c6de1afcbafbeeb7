"""The documentation: every block runs as it stands, in order, on small data, or says why not."""

import json
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psycopg
import pytest
import typer
from pages import DOCS, SHOWN, Walk, blocks, pages

from mixbct.cli.verbs import app
from mixbct.gallery import Gallery
from mixbct.schemas.gate import Edge
from mixbct.schemas.result import Result

SHORTER = ["--set", "train.epochs=1", "--set", "train.batch=16", "--set", "model.size=32"]
THEIRS = "postgresql://app@db.example/photos"

AFTER_START = """convert-and-compare without-re-enrolment strangers millions thresholds-moved
which-model swap-and-roll-back"""
ON_VECTORS = ["start.md", *(f"how-to/{name}.md" for name in AFTER_START.split())]
ON_BANKS = ["stored-vectors.md", "thresholds.md"]
ON_PHOTOS = """own-images backfill onnx other-engines faces how-to/nan how-to/own-folders
how-to/no-mxnet how-to/onnx-dynamic-batch concepts/denoising"""
SHARED = ["many-gpus.md", "how-to/other-number-of-gpus.md"]
RUN = [*ON_VECTORS, *ON_BANKS, "take-over.md", *SHARED]
RUN += [f"{name}.md" for name in ON_PHOTOS.split()]


@pytest.fixture(scope="session")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the vectors that the first page makes."""
    folder = tmp_path_factory.mktemp("arrays")
    Walk(None, folder).page("start.md", ["python"])
    for name in ("new", "old"):
        parts = [np.load(folder / f"{name}-{part}.npy") for part in ("fit", "test")]
        np.save(folder / f"{name}.npy", np.concatenate(parts))
    for name in ("keys", "labels"):
        parts = [(folder / f"{part}-{name}.txt").read_text() for part in ("fit", "test")]
        (folder / f"{name}.txt").write_text("".join(parts))
    np.save(folder / "old-queries.npy", np.load(folder / "old.npy")[-8:-6])
    return folder


@pytest.fixture
def fresh(arrays: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copy a folder, that of the arrays where no other is named, under a name of its own."""
    return lambda name, of=arrays: Path(shutil.copytree(of, tmp_path / name, symlinks=True))


def write_edge(folder: Path) -> None:
    """Write the edge that a passed gate would have written."""
    result = Result.model_validate_json((folder / "result.json").read_bytes())
    edge = Edge(
        from_contract=result.models["new"],
        to_contract=result.models["old"],
        result_digest=result.digest(),
        threshold=result.carried_threshold.threshold,
        far=result.carried_threshold.far,
    )
    (folder / "edge.json").write_text(edge.to_json())


def stored(gallery: Path) -> list[tuple[list[str], bytes]]:
    """Return keys and vectors of all that a gallery holds."""
    with Gallery.open(gallery) as opened, opened.read() as snapshot:
        return [
            (block.keys, block.vectors.tobytes())
            for each, _ in snapshot.contracts()
            for block in snapshot.blocks(each)
        ]


@pytest.mark.timeout(900)
def test_pages_on_vectors(mixbct, fresh, record_property) -> None:
    start = Walk(mixbct, fresh("start"))
    start.page("start.md")
    assert "Compatible" in start.said["gate result.json"]
    assert "person 209" in start.said["gallery search people queries.npy"]
    assert "searched by old-encoder" in start.said["upgrade rollback people"]
    ran = start.ran
    for page in ON_VECTORS[1:]:
        walk = Walk(mixbct, fresh(Path(page).stem, start.folder))
        walk.page(page)
        ran += walk.ran
    record_property("blocks", len(ran))


@pytest.mark.timeout(900)
def test_a_head_over_stored_vectors(mixbct, fresh, record_property) -> None:
    walk = Walk(mixbct, fresh("head"), shorter=["--set", "train.epochs=2"])
    for page in ON_BANKS:
        walk.page(page)
    record_property("blocks", len(walk.ran))


def test_a_table_is_taken_over_and_given_back(mixbct, fresh, postgres_url, record_property) -> None:
    folder = fresh("taken")
    old = np.load(folder / "old.npy")
    keys, labels = ((folder / f"{n}.txt").read_text().splitlines() for n in ("keys", "labels"))
    with psycopg.connect(postgres_url) as database:
        database.execute(
            "CREATE TABLE faces (id text PRIMARY KEY, person text, embedding vector(40))"
        )
        with database.cursor().copy("COPY faces FROM STDIN") as copy:
            for key, label, vector in zip(keys, labels, old, strict=True):
                text = "[" + ",".join(f"{number:.7g}" for number in vector) + "]"
                copy.write_row((key, label, text))
    walk = Walk(mixbct, folder, replaced={THEIRS: postgres_url})
    walk.page("take-over.md")
    said = {" ".join(line.split()[:2]): text for line, text in walk.said.items()}
    assert f"{len(old):,} items of old-encoder" in said["gallery import"]
    assert "Compatible" in said["gate result.json"]
    assert "person 209" in said["gallery search"]  # by the new model's vectors
    assert "searched by old-encoder" in said["upgrade rollback"]
    again = mixbct("gallery", "search", "people", "--key", "face-17", "--json", cwd=folder)
    hits = json.loads(again.stdout)
    assert hits["query_model"]["name"] == "old-encoder"
    assert hits["queries"][0]["hits"][0]["key"] == "face-17"
    # no stored vector was changed, here or there
    with psycopg.connect(postgres_url) as database:
        assert database.execute("SELECT count(*) FROM faces").fetchone() == (len(old),)
    rows = np.concatenate(
        [np.frombuffer(block, np.float32).reshape(-1, 40) for _, block in stored(folder / "people")]
    )
    unit = old / np.linalg.norm(old, axis=1, keepdims=True)
    np.testing.assert_allclose(rows, unit, atol=1e-6)
    record_property("blocks", len(walk.ran))


@pytest.fixture
def in_process_qdrant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Qdrant's client be its engine."""
    import qdrant_client

    engine = qdrant_client.QdrantClient(":memory:")
    monkeypatch.setattr(qdrant_client, "QdrantClient", lambda url: engine)


def lay_out_faces(folder: Path) -> None:
    """Write the photographs again as LFW names them, and a list of pairs."""
    for photo in (folder / "photos").rglob("*.*g"):
        name = photo.parent.name
        copy = folder / "faces" / name / f"{name}_{int(photo.stem) + 1:04d}{photo.suffix}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(photo.read_bytes())
    names = [path.name for path in sorted((folder / "faces").iterdir())]
    lines = ["2 12"]
    for fold in (names[:12], names[12:]):
        lines += [f"{name} 1 2" for name in fold]
        lines += [f"{name} 1 {fold[place - 1]} 1" for place, name in enumerate(fold)]
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.timeout(900)
def test_pages_on_photographs(mixbct, photos, in_process_qdrant, record_property) -> None:
    (photos / "recipes").unlink()
    (photos / "examples").symlink_to(DOCS.parent / "examples")
    lay_out_faces(photos)
    walk = Walk(mixbct, photos, shorter=SHORTER, gate=write_edge)
    names = walk.page("own-images.md")
    assert len(names["hits"].of(0)) == 5
    assert (photos / "runs/report.html").exists()
    assert "impostor pairs" in walk.said["gate runs/result.json"]
    for name in ON_PHOTOS.split()[1:]:
        left = walk.page(f"{name}.md")
        if name == "other-engines":
            assert len(left["search"](np.ones(128, np.float32), 3)) == 3
    for page in SHARED:
        walk.page(page)
    record_property("blocks", len(walk.ran))


NOT_RUN = {
    "start.md": 3,
    "many-gpus.md": 1,
    "ms1mv3.md": 3,
    "how-to/millions.md": 1,
    "other-engines.md": 1,
}
"""Page → blocks that are marked as not run."""
OWN_TEST = {
    "text.md": "test_text.py",
    "data-protection.md": "test_data_protection.py",
    "serving.md": "../unit/web/test_docs.py",
}
"""Page → the test, beside this one, that runs its blocks."""


def test_every_block_runs_or_says_why_not(record_property) -> None:
    every = [block for page in pages() for block in blocks(page)]
    strange = [f"{b.page}:{b.line}" for b in every if not b.runs and b.language not in SHOWN]
    assert strange == [], "a fence says its language"
    marked = [block for block in every if block.why_not]
    assert Counter(block.page for block in marked) == NOT_RUN
    assert all(len(block.why_not.split()) > 2 for block in marked)
    run = [block for block in every if block.runs and not block.why_not]
    assert {block.page for block in run} - set(OWN_TEST) == set(RUN)
    for test in (OWN_TEST[block.page] for block in run if block.page in OWN_TEST):
        assert (Path(__file__).parent / test).exists()
    assert len(run) > 4 * len(marked)
    record_property("marked", len(marked))
    print("\n".join(f"not run, {b.page}:{b.line}: {b.why_not}" for b in marked))


def known(words: list[str]) -> bool:
    """Return whether there is such a verb, and it has these options."""
    command = typer.main.get_command(app)
    context = command.make_context("mixbct", [], resilient_parsing=True)
    while (
        hasattr(command, "list_commands") and words and words[0] in command.list_commands(context)
    ):
        command = command.get_command(context, words[0])
        context = command.make_context(words.pop(0), [], parent=context, resilient_parsing=True)
    if hasattr(command, "list_commands"):
        return not words or words in (["--help"], ["--version"])
    options = {option for each in command.get_params(context) for option in each.opts}
    return all(word in options for word in words if re.match(r"--?[a-z]", word))


def test_commands_within_the_text_exist() -> None:
    found = [
        (page, command)
        for page in pages()
        for command in re.findall(r"`mixbct ([^`]+)`", (DOCS / page).read_text(encoding="utf-8"))
    ]
    assert len(found) > 40
    assert [each for each in found if not known(shlex.split(each[1]))] == []
    assert not known(["denoise", "bank", "--kep", "0.8"])
    assert not known(["data", "inform"])
