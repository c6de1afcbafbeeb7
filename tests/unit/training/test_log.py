import errno
import json
import logging
import os
import random
from pathlib import Path
from typing import Any

import pytest

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


def test_a_kill_while_later_lines_are_dropped_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "steps.jsonl").write_bytes(b'{"step": 20}\n{"step": 40}\n{"step": 60}\n')

    class Killed(BaseException):
        pass

    def kill(self: Path, target: Path) -> None:
        raise Killed

    monkeypatch.setattr(Path, "replace", kill)
    with pytest.raises(Killed):
        StepLog(tmp_path, 40)
    assert steps(tmp_path) == [20, 40, 60]


GOOD = b'{"step": 20, "mixed": 1.5}\n{"step": 40, "mixed": NaN}\n{"step": 60, "mixed": 1.0}\n'


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe\n",
        b"\0" * 4096 + b"\n",
        b"[" * 1_000_000 + b"\n",
        b'{"step": ' + b"9" * 5000 + b"}\n",
        b'{"step": ' + b"9" * 400 + b"}\n",
        b'{"step": 1e999}\n',
        b'{"step": NaN}\n',
        b'{"step": null}\n',
        b'{"step": [20]}\n',
        b'{"loss": 3}\n',
        b"20\n",
        b"[]\n",
        b'"step"\n',
        b"\n",
    ],
    ids=lambda line: repr(line[:12]),
)
def test_what_is_no_line_is_dropped_alone(tmp_path: Path, line: bytes) -> None:
    lines = GOOD.splitlines(keepends=True)
    (tmp_path / "steps.jsonl").write_bytes(b"".join([*lines[:1], line, *lines[1:]]))
    StepLog(tmp_path, 100).close()
    assert steps(tmp_path) == [20, 40, 60]


def test_no_mutation_of_the_log_stops_a_run(tmp_path: Path) -> None:
    rng = random.Random(0)
    path = tmp_path / "steps.jsonl"
    for _ in range(200):
        content = bytearray(GOOD)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(content))
            match rng.randrange(4):
                case 0:
                    content[place] ^= 1 << rng.randrange(8)
                case 1:
                    del content[place : place + rng.randint(1, 30)]
                case 2:
                    content[place:place] = rng.randbytes(rng.randint(1, 30))
                case _:
                    del content[place:]
            content = content or bytearray(b"{")
        path.write_bytes(content)
        log = StepLog(tmp_path, 50)
        log.write(60, {"mixed": 1.0})
        log.close()
        assert steps(tmp_path)[-1] == 60
        assert all(step <= 50 for step in steps(tmp_path)[:-1])


@pytest.mark.parametrize("kind", ["folder", "fifo", "loop", "unwritable"])
def test_a_log_that_cannot_be_written_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    path = tmp_path / "steps.jsonl"
    match kind:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path)
        case _:
            tmp_path = tmp_path / "gone"
    log = StepLog(tmp_path, 0)
    for step in (20, 40):
        log.write(step, {"mixed": 1.0})
    log.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "the run goes on" in caplog.text


def test_a_full_disk_leaves_lines_out_and_no_half_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    room = 40

    class Full:
        """A file on a disk with room for so many bytes, which write() fills before it fails."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, content: bytes) -> int:
            left = room - self.file.tell()
            if left <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            written: int = self.file.write(content[:left])
            return written

    kept = Path.open
    with monkeypatch.context() as patched:
        log = StepLog(tmp_path, 0)
        patched.setattr(Path, "open", lambda *args, **named: Full(kept(*args, **named)))
        for step in (20, 40, 60):
            log.write(step, {"mixed": 1.0})
    assert steps(tmp_path) == [20]
    assert caplog.text.count("the run goes on") == 1
    log.write(80, {"mixed": 1.0})
    assert steps(tmp_path) == [20, 80]
