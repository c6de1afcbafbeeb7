"""How a command ends: every exit code, at any moment, and never with a traceback."""

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

import mixbct
from mixbct import cli
from mixbct.cli import output, verbs
from mixbct.errors import DataError, StoppedError


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Run a verb that does what is given, and return the exit code."""

    def run(act: Callable[[], None]) -> int:
        monkeypatch.setattr(verbs, "import_module", lambda name: _Module(act))
        monkeypatch.setattr(sys, "argv", ["mixbct", "denoise"])
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        return verbs.run(lambda: None)

    return run


class _Module:
    def __init__(self, verb: Callable[[], None]) -> None:
        self.denoise = verb


def raising(error: BaseException) -> Callable[[], None]:
    def verb() -> None:
        raise error

    return verb


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (DataError("no such thing"), 2, "error: no such thing"),
        (StoppedError("saved; --resume goes on"), 3, "saved; --resume goes on"),
        (KeyboardInterrupt(), 3, "stopped: run the same command again"),
        (typer.Exit(1), 1, ""),
        (typer.BadParameter("expected 1 or 3"), 2, "expected 1 or 3"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b"), 2, "a/b: No such"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), 2, "a/b: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 2, "free some space"),
        (MemoryError("Unable to allocate 10 TiB"), 2, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "not enough memory"),
        (RecursionError("deep"), 4, "a fault of mixbct: RecursionError: deep"),
        (KeyError("mAP"), 4, "a fault of mixbct: KeyError: 'mAP'"),
        (SystemExit(0), 4, "a fault of mixbct: SystemExit: 0"),
        (SystemExit(1), 4, "a fault of mixbct: SystemExit: 1"),
        (SystemExit("text"), 4, "a fault of mixbct: SystemExit: text"),
        (GeneratorExit("panic"), 4, "a fault of mixbct: GeneratorExit: panic"),
        (DataError("a\x1b[2Jb\u202ec\n\td"), 2, "error: a\\x1b[2Jb\\u202ec\n\td"),
        (typer.BadParameter("a\x1bb"), 2, "a\\x1bb"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a\x1bb"), 2, "a\\x1bb: No such file"),
    ],
)
def test_every_ending(
    ended: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    says: str,
) -> None:
    assert ended(raising(error)) == code
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said


@pytest.mark.parametrize("made", [DataError("does not load"), RuntimeError("no shape of object")])
def test_a_stop_that_a_library_made_an_error_of_is_a_stop(
    ended: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    made: Exception,
) -> None:
    monkeypatch.setattr(cli, "_interrupted", 0)

    def verb() -> None:
        try:
            cli._interrupt(signal.SIGTERM, None)
        except KeyboardInterrupt:
            raise made from None

    assert ended(verb) == 3
    assert capsys.readouterr().err.startswith("stopped: run the same command again")


SWALLOWED = """
import os, signal, time
from mixbct import cli
from mixbct.cli import verbs

class Ends:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

def run(ready):
    ready()
    ends = Ends()
    del ends  # what is raised in there is not
    time.sleep(50)
    return 0

verbs.run = run
cli.main()
"""


def test_a_stop_that_python_swallows_comes_again() -> None:
    command = [sys.executable, "-c", SWALLOWED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
    assert done.returncode == 3
    assert done.stderr == "stopped: run the same command again, with --resume where it has that\n"


def test_a_name_moves_no_cursor_in_a_note_a_result_or_a_warning(
    ended: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "a\x1b[2J\u202eb"
    monkeypatch.setattr(logging.root, "handlers", [])

    def verb() -> None:
        output.name_skipped([name])
        logging.getLogger("mixbct.some").warning("%s is odd", name)
        output.tell("{}", name, then=["data", "info", name])

    assert ended(verb) == 0
    said = capsys.readouterr()
    assert said.err.count("a\\x1b[2J\\u202eb") == 2
    assert said.out.count("a\\x1b[2J\\u202eb") == 2
    assert not {"\x1b", "\u202e"} & {*said.err, *said.out}


def test_a_fault_leaves_what_to_report(
    ended: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert ended(raising(ZeroDivisionError("by zero"))) == 4
    (report,) = tmp_path.glob("mixbct-fault-*.txt")
    assert str(report) in capsys.readouterr().err
    text = report.read_text(encoding="utf-8")
    assert "command: mixbct denoise" in text
    assert "ZeroDivisionError: by zero" in text


def test_a_verb_that_does_what_it_should_ends_with_0(ended: Callable[..., int]) -> None:
    assert ended(lambda: None) == 0


def test_every_verb_is_there_and_says_what_it_does() -> None:
    context = typer.Context(typer.main.get_command(verbs.app))
    for name in verbs.VERBS:
        command = verbs.Verbs(name="mixbct").get_command(context, name)
        assert command.name == name
        assert command.help
    assert verbs.Verbs(name="mixbct").get_command(context, "nothing") is None


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['mixbct', '--help']\n"
        "try:\n    from mixbct.cli import main; main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'faiss', 'rich.progress'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "rollback" not in done.stdout
    assert all(name in done.stdout for name in verbs.VERBS)


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from mixbct.cli import main; main()", *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("wait", [0.3, 0.9])
def test_a_signal_while_libraries_are_imported_is_a_stop(
    number: signal.Signals, wait: float
) -> None:
    process = start("extract", "none", "--data", "none", "--out", "none")
    time.sleep(wait)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    # on a fast machine the verb may have refused its input by then
    assert process.returncode in (3, 2), said
    assert "Traceback" not in said
    assert ("stopped: run the same command again" in said) == (process.returncode == 3)


def test_a_reader_that_went_away_is_no_failed_gate() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", "from mixbct.cli import main; main()", "--help"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("--version", 0),
        ("--help", 0),
        ("data info nothing", 2),
        ("nonsense", 2),
        ("recipes list", 0),
    ],
)
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_closed_streams_change_no_ending(
    words: str, code: int, closed: str, tmp_path: Path
) -> None:
    command = f"exec {sys.executable} -c 'from mixbct.cli import main; main()' {words} {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert "fault" not in done.stderr
    assert "Traceback" not in done.stderr
    assert not [*tmp_path.iterdir()]


def test_a_name_that_the_terminal_cannot_show_ends_nothing(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", "from mixbct.cli import main; main()", "train"]
    done = subprocess.run(
        [*command, "\u5c71.toml", "--out", "x"], capture_output=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 2
    assert b"there is no recipe at" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("joined", [False, True])
def test_one_process_of_several_ends_without_the_interpreters_end(joined: bool) -> None:
    """Threads of its process group may wait for the interpreter's lock, and abort it by then."""
    script = (
        "import atexit, sys; atexit.register(print, 'the interpreter ends')\n"
        "from mixbct import distributed\n"
        "from mixbct.cli import main\n"
        f"distributed.was_joined = {joined}\n"
        "sys.argv = ['mixbct', '--version']\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert mixbct.__version__ in done.stdout
    assert ("the interpreter ends" in done.stdout) != joined
