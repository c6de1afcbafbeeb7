"""A refactor must leave the loss curves where they are.

Where a curve is meant to move, run `python tests/golden/rewrite.py` and say why in the commit.
"""

from pathlib import Path

import pytest
import torch
from curves import RUNS, STEPS, Selection, curve, make_data, read_golden

from mixbct.heads import classifier
from mixbct.heads.margins import arcface
from mixbct.methods import METHODS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Selection, Path]:
    folder = tmp_path_factory.mktemp("golden")
    return make_data(folder), folder


def test_every_method_has_a_curve() -> None:
    assert set(read_golden()) == set(RUNS)
    assert {str(method["name"]) for method, _, _ in RUNS.values()} == set(METHODS)


@pytest.mark.parametrize("name", RUNS)
def test_the_losses_are_those_committed(name: str, data: tuple[Selection, Path]) -> None:
    found = curve(name, *data)
    assert len(found) == STEPS
    assert found == pytest.approx(read_golden()[name], rel=1e-4)


def test_a_changed_formula_is_seen(
    data: tuple[Selection, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A margin without its derivative, as widely published, has the same values at first."""

    def no_gradient(cosine: torch.Tensor, margin: float) -> torch.Tensor:
        return cosine + (arcface(cosine, margin) - cosine).detach()

    monkeypatch.setattr(classifier, "arcface", no_gradient)
    found, golden = curve("mixbct, bank", *data), read_golden()["mixbct, bank"]
    assert found[0] == pytest.approx(golden[0], rel=1e-4)
    assert found != pytest.approx(golden, rel=1e-4)
