"""The face table: its figures on made-up vectors, and the committed table against its record."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))

from mixbct.data.bank import FeatureBank, normalise  # noqa: E402
from mixbct.data.bank_writer import BankWriter  # noqa: E402
from mixbct.schemas.data import BankManifest  # noqa: E402
from mixbct.schemas.model import Contract  # noqa: E402


@pytest.fixture(scope="module")
def faces() -> object:
    return importlib.import_module("benchmarks.faces")


def made() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, query rows, gallery rows and vectors of 60 items of 12 people."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 12
    vectors = rng.normal(size=(12, 6))[labels] + 0.8 * rng.normal(size=(60, 6))
    return labels, np.arange(0, 24), np.arange(24, 60), normalise(vectors.astype(np.float32))


def test_merging_a_list_with_itself_changes_nothing(faces) -> None:
    labels, query, gallery, vectors = made()
    merged = faces._judge_merged(labels, query, gallery, 1, vectors, vectors)
    alone = faces._judge(labels, query, gallery, 1, vectors, vectors)
    scores = vectors[query] @ vectors[gallery].T
    expected = [
        average_precision_score(labels[gallery] == label, row)
        for label, row in zip(labels[query], scores, strict=True)
    ]
    assert merged.values["mAP"] == pytest.approx(np.mean(expected), abs=1e-6)
    for name, value in merged.values.items():
        assert value == pytest.approx(alone.values[name], abs=1e-9)
        # the same drawn people
        np.testing.assert_allclose(merged.replicates[name], alone.replicates[name], atol=1e-9)


def bank_of(path: Path, features: np.ndarray, people: int, keys: list[str]) -> FeatureBank:
    rows, dim = features.shape
    manifest = BankManifest(
        contract=Contract(name="m", weights="declared: m", preprocessing=None, dim=dim),
        data_digest="d",
        rows=rows,
        dim=dim,
        dtype="float32",
        classes=tuple(f"p{i:02}" for i in range(people)),
    )
    writer = BankWriter(path, manifest, np.repeat(np.arange(people), 4), keys, resume=False)
    writer.write(range(rows), features, keys)
    return writer.finish()


def test_layout_templates_are_pooled_of_their_own_rows(faces, tmp_path: Path) -> None:
    """Vectors that tell all people apart, in the new bank by noise alone; half are for the fit."""
    people, rng = 12, np.random.default_rng(0)
    keys = [f"p{person:02}/{place}.png" for person in range(people) for place in range(4)]
    for key in keys:
        (tmp_path / "images" / key).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (112, 112)).save(tmp_path / "images" / key)
    apart = np.repeat(np.eye(people, dtype=np.float32), 4, axis=0)
    noise = rng.normal(size=(len(keys), 16)).astype(np.float32)
    banks = {
        "old": bank_of(tmp_path / "o", apart, people, keys),
        "new": bank_of(tmp_path / "n", noise, people, keys),
    }
    found = faces.judge_layout(tmp_path, banks, np.arange(24), np.arange(24, 48))
    assert found["counts"]["images"] == 24
    assert found["counts"]["galleries"] == 6
    assert set(found["old/old"].values()) == {1.0}
    assert found["new/new"]["rank-1"] < 1
    assert found["new/old through ridge"]["rank-1"] < 1


def test_bridges_are_chosen_on_other_people_and_paired(faces, tmp_path: Path) -> None:
    """New vectors that a rotation and an offset make old ones, with less noise than those have."""
    bridges = importlib.import_module("benchmarks.faces_bridge")
    people, rng = 60, np.random.default_rng(0)
    keys = [f"p{person:02}/{place}.png" for person in range(people) for place in range(4)]
    centres = np.repeat(rng.standard_normal((people, 8)), 4, axis=0)
    turn = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    old = normalise(centres + 0.7 * rng.standard_normal(centres.shape))
    new = normalise((centres + 0.3 * rng.standard_normal(centres.shape)) @ turn)
    banks = [bank_of(tmp_path / n, v, people, keys) for n, v in (("o", old), ("n", new))]
    places = np.arange(len(keys))
    test = places >= 120
    parts = places[test & (places % 2 == 0)], places[test & (places % 2 == 1)]
    found = bridges.judge_bridges(banks[1], banks[0], places[~test], parts, 200, 1)
    rates = {name: row["mAP"][0] for name, row in found["rows"].items()}
    assert rates["new/new"] > rates["both queries"] > rates["old/old"]
    assert rates["new, chosen bridge"] > rates["old/old"]
    for name, row in found["minus old/old"].items():
        value, low, high = row["mAP"]
        assert low <= value <= high
        assert value == pytest.approx(rates[name] - rates["old/old"])
    lines = bridges.bridge_lines({role: [found] for role in bridges.SYSTEMS}, faces._table)
    assert sum(line.startswith("| new, chosen bridge |") for line in lines) == 4
    assert f": {found['kind']};" in " ".join(lines)


def test_a_loose_crop_shows_all_of_the_face_smaller_and_elsewhere() -> None:
    bridges = importlib.import_module("benchmarks.faces_bridge")
    pixels = np.full((112, 112, 3), 90, np.uint8)
    pixels[30:80, 30:80] = 250
    for seed in range(20):
        loose = np.asarray(bridges.loosened(Image.fromarray(pixels), np.random.default_rng(seed)))
        assert loose.shape == pixels.shape
        share = (loose > 170).sum() / (pixels > 170).sum()
        assert 0.55**2 < share < 0.97**2
        rows = np.flatnonzero((loose > 170).any(axis=(1, 2)))
        assert rows[0] > 0
        assert rows[-1] < 111


def test_the_committed_table_is_that_of_its_record(faces) -> None:
    folder = ROOT / "docs" / "results"
    content = json.loads((folder / "faces.json").read_bytes())
    assert faces.page(content) == (folder / "faces.md").read_text(encoding="utf-8")
    for split in content["splits"]:
        for row in split["rows"].values():
            assert all(low <= value <= high for value, low, high in row.values())
