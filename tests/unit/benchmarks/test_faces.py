"""The face table: its figures on made-up vectors, and the committed table against its record."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))

from mixbct.data.bank import normalise  # noqa: E402


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


def test_the_committed_table_is_that_of_its_record(faces) -> None:
    folder = ROOT / "docs" / "results"
    content = json.loads((folder / "faces.json").read_bytes())
    assert faces.page(content) == (folder / "faces.md").read_text(encoding="utf-8")
    for split in content["splits"]:
        for row in split["rows"].values():
            assert all(low <= value <= high for value, low, high in row.values())
