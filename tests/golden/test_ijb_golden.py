"""The IJB protocols on a set so small that every figure was worked by hand (ijb.json)."""

import json
from pathlib import Path

import numpy as np
import pytest

from mixbct.data.ijb import Subjects
from mixbct.evaluation.protocols import identify, verification
from mixbct.evaluation.templates import Templates, pool_templates, template_scores

GOLDEN = json.loads(Path(__file__).with_name("ijb.json").read_text())
PAIRS = np.array(GOLDEN["pairs"])


def table(rows: list[list[int]]) -> Subjects:
    templates, subjects = np.array(rows).T
    return Subjects(templates, subjects)


@pytest.fixture(scope="module")
def pooled() -> Templates:
    found = pool_templates(
        np.array(GOLDEN["features"], np.float32),
        np.array(GOLDEN["templates"]),
        np.array(GOLDEN["media"]),
        np.array(GOLDEN["scores"], np.float32),
    )
    # the figures tell ties, which rounding of the last bit would break
    return Templates(found.ids, np.round(found.features, 5))


def test_pair_scores(pooled: Templates) -> None:
    found = template_scores(pooled, pooled, PAIRS[:, :2])
    assert found.tolist() == pytest.approx(GOLDEN["pair_scores"], abs=1e-5)


def test_verification(pooled: Templates) -> None:
    fars = tuple(map(float, GOLDEN["tar"]))
    scores, same = template_scores(pooled, pooled, PAIRS[:, :2]), PAIRS[:, 2] == 1
    found = verification(scores[same], scores[~same], fars)
    assert [p.rate for p in found.points] == list(GOLDEN["tar"].values())
    assert [p.rate for p in found.nearest_points] == list(GOLDEN["tar_nearest"].values())
    assert found.auc == GOLDEN["auc"]


def test_identification(pooled: Templates) -> None:
    galleries = {name: pooled.of(table(rows)) for name, rows in GOLDEN["galleries"].items()}
    fpirs = tuple(map(float, GOLDEN["tpir"]))
    found = identify(pooled.of(table(GOLDEN["probes"])), galleries, fpirs)
    assert list(found.tpir.values()) == pytest.approx(list(GOLDEN["tpir"].values()), abs=1e-12)
    assert found.ranks == GOLDEN["ranks"]
