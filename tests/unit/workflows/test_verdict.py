"""The files that a verdict leaves, in which order, and under which names."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mixbct.errors import DiskFullError
from mixbct.schemas.gate import GateCheck, GateOutcome
from mixbct.schemas.result import Result
from mixbct.workflows import verdict
from mixbct.workflows.verdict import beside, decide

RESULT = Result.model_construct()
Judge = Callable[[bool], None]


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Return what decides how every result is judged."""

    def set_to(passed: bool) -> None:
        check = GateCheck(name="a", value=0, bound=0, passed=passed, says=".")
        outcome = GateOutcome(passed=passed, checks=(check,), result_digest="x")
        monkeypatch.setattr(verdict, "judge", lambda result, settings: outcome)

    monkeypatch.setattr(verdict, "edge_from", lambda result, outcome: outcome)
    set_to(True)
    return set_to


def test_a_failed_gate_removes_the_edge_of_an_earlier_one(tmp_path: Path, judge: Judge) -> None:
    result = tmp_path / "result.json"
    decide(result, RESULT)
    assert {path.name for path in tmp_path.iterdir()} == {"gate.json", "edge.json"}
    judge(False)
    decide(result, RESULT)
    assert [path.name for path in tmp_path.iterdir()] == ["gate.json"]
    assert not GateOutcome.model_validate_json((tmp_path / "gate.json").read_bytes()).passed


@pytest.mark.parametrize("passed", [True, False])
@pytest.mark.parametrize("falls", [1, 2])
def test_no_edge_outlives_its_verdict_wherever_the_disk_is_full(
    tmp_path: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch, passed: bool, falls: int
) -> None:
    result = tmp_path / "result.json"
    decide(result, RESULT)
    (tmp_path / "edge.json").write_text("of the earlier verdict")
    judge(passed)
    writes = []

    def write(path: Path, content: str) -> None:
        writes.append(path.name)
        if len(writes) == falls:
            raise DiskFullError("no space left")
        path.write_text(content)

    monkeypatch.setattr(verdict, "write_atomically", write)
    if passed or falls == 1:
        with pytest.raises(DiskFullError):
            decide(result, RESULT)
    else:
        decide(result, RESULT)
    assert writes == ["gate.json", "edge.json"][: falls if passed else 1]
    assert not (tmp_path / "edge.json").exists()


def test_two_results_in_one_folder_share_no_file(tmp_path: Path, judge: Judge) -> None:
    decide(tmp_path / "result.json", RESULT)
    judge(False)
    decide(tmp_path / "far.json", RESULT)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "edge.json",
        "far.gate.json",
        "gate.json",
    ]
    assert beside(Path("runs/near.v2.json"), "report.html") == Path("runs/near.v2.report.html")
