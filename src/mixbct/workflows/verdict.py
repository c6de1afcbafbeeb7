"""The gate's verdict as files beside the result that it is about."""

from pathlib import Path

from mixbct.evaluation.gate import GateSettings, edge_from, judge
from mixbct.files import sync_file, write_atomically
from mixbct.schemas.gate import GateOutcome
from mixbct.schemas.result import Result


def beside(result: Path, name: str) -> Path:
    """Return where a file about a result lies, so that two results in one folder share none.

    >>> beside(Path("runs/result.json"), "edge.json").as_posix()
    'runs/edge.json'
    >>> beside(Path("runs/far.json"), "edge.json").as_posix()
    'runs/far.edge.json'
    """
    return result.with_name(name if result.stem == "result" else f"{result.stem}.{name}")


def decide(path: Path, result: Result, settings: GateSettings | None = None) -> GateOutcome:
    """Judge the result at `path` and write gate.json, and edge.json if it passed, beside it.

    An edge that was there goes first, so that none ever lies beside a verdict against it, wherever
    a kill or a full disk falls.

    Raises:
        ResultError: see `judge` and `edge_from`; nothing is written then.
        DiskFullError: there is no space left.
    """
    outcome = judge(result, settings)
    edge = edge_from(result, outcome) if outcome.passed else None
    edge_path = beside(path, "edge.json")
    if edge_path.exists():
        edge_path.unlink()
        sync_file(edge_path.parent)
    write_atomically(beside(path, "gate.json"), outcome.to_json())
    if edge is not None:
        write_atomically(edge_path, edge.to_json())
    return outcome
