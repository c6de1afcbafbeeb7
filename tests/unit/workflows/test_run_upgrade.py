"""Where an upgrade computes: on the device that its recipes name, in every step."""

from pathlib import Path

import pytest

from mixbct.recipe import Recipe
from mixbct.workflows import upgrade
from mixbct.workflows.progress import silent


def test_a_trained_model_embeds_where_it_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.model_validate(
        {
            "name": "old",
            "data": {"path": "photos"},
            "head": {"name": "arcface"},
            "method": {"name": "independent"},
            "optimizer": {"name": "sgd"},
            "train": {"epochs": 1, "device": "cuda:3"},
        }
    )
    monkeypatch.setattr(upgrade, "open_training_rows", lambda _: ([], []))
    monkeypatch.setattr(upgrade, "train", lambda *_, **__: None)
    monkeypatch.setattr(upgrade, "load_model", refuse)
    data = upgrade.HeldOutSet(Path("photos"), Path("split"))
    with pytest.raises(LookupError, match="old on cuda:3"):
        upgrade._Run(data, tmp_path, False, silent).train("old", recipe)


def refuse(path: Path, device: str, *, trust_code: bool) -> None:
    raise LookupError(f"{path.name} on {device}")
