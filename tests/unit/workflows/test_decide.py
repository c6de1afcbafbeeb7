"""The gate's two files: a verdict that failed never has an edge beside it."""

from pathlib import Path

import pytest

from mixbct.errors import DiskFullError
from mixbct.schemas.gate import GateOutcome
from mixbct.schemas.result import Result
from mixbct.workflows import upgrade


@pytest.mark.parametrize("at", ["gate.json", "edge.json"])
def test_no_old_edge_outlives_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Wherever the disk fills, what is left is no edge, or none that a failed verdict denies."""
    edge = tmp_path / "edge.json"
    edge.write_text("an old edge", encoding="utf-8")
    passed = at == "edge.json"
    outcome = GateOutcome(passed=passed, checks=(), result_digest="0" * 64)
    monkeypatch.setattr(upgrade, "judge", lambda result, settings: outcome)

    class AnEdge:
        def to_json(self) -> str:
            return "a new edge"

    monkeypatch.setattr(upgrade, "edge_from", lambda result, outcome: AnEdge())

    def full(path: Path, content: str) -> None:
        if path.name == at:
            raise DiskFullError("no space left")
        path.write_text(content, encoding="utf-8")

    monkeypatch.setattr(upgrade, "write_atomically", full)
    with pytest.raises(DiskFullError):
        upgrade.decide(tmp_path / "result.json", Result.model_construct())
    assert not edge.exists()
