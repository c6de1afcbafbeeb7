import json
from pathlib import Path

from mixbct.training.log import StepLog


def steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "steps.jsonl").read_text().splitlines()]


def test_lines_are_appended_and_cut_at_the_resume_point(tmp_path: Path) -> None:
    log = StepLog(tmp_path, 0)
    for step in (20, 40, 60):
        log.write(step, {"mixed": 1.5, "lr": 0.1})
    log.close()
    assert json.loads((tmp_path / "steps.jsonl").read_text().splitlines()[0]) == {
        "step": 20,
        "mixed": 1.5,
        "lr": 0.1,
    }
    with (tmp_path / "steps.jsonl").open("a") as file:
        file.write('{"step": 80, "mi')  # a kill in the middle of a line
    log = StepLog(tmp_path, 40)
    assert steps(tmp_path) == [20, 40]
    log.write(60, {"mixed": 1.0})
    log.close()
    assert steps(tmp_path) == [20, 40, 60]
    StepLog(tmp_path, 0).close()
    assert steps(tmp_path) == []


def test_a_line_is_there_at_once(tmp_path: Path) -> None:
    log = StepLog(tmp_path, 0)
    log.write(20, {"mixed": 1.0})
    assert steps(tmp_path) == [20]
    log.close()
