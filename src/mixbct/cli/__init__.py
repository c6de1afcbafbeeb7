"""The command line: parsing, printing and exit codes, nothing else.

Exit codes: 0 done or passed, 1 a gate failed, 2 bad usage or bad input, 3 stopped and resumable,
4 a fault of mixbct itself.

What is imported before a verb is known is little, so that help and a stop come at once.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_STOPPED = "stopped: run the same command again, with --resume where it has that"
_STOPS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
_interrupted = 0  # or the signal that did
_report = sys.unraisablehook


def main() -> None:
    """Run the command line; whatever ends it becomes one line and an exit code."""
    _open_streams()
    # before a verb runs there is nothing to save, and libraries that are being imported may swallow
    # an exception
    _on_stop(_leave)
    sys.unraisablehook = _again
    from mixbct.cli.verbs import run

    try:
        code = run(lambda: _on_stop(_interrupt))
        _on_stop(signal.SIG_IGN)  # what is done is done
    except KeyboardInterrupt:
        code = stopped()
    distributed = sys.modules.get("mixbct.distributed")
    if distributed is not None and distributed.was_joined:
        _end(code)
    sys.exit(code)


def interrupted() -> bool:
    """Return whether a stop interrupted the verb, whatever a library made of the exception."""
    return bool(_interrupted)


def stopped() -> int:
    """Say that the run was stopped and return its exit code."""
    with telling():
        print(_STOPPED, file=sys.stderr, flush=True)
    return 3


@contextlib.contextmanager
def telling() -> Iterator[None]:
    """Let what is told to standard error be lost where that is full, or nobody reads it."""
    try:
        yield
    except (OSError, SystemExit):  # the second is rich's answer to a pipe that nobody reads
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # nothing is left to flush


def rank() -> str:
    """Return which process of several this is, as torchrun says it; "0" where there is one."""
    alone = os.environ.get("WORLD_SIZE", "1") in ("", "1")
    return "0" if alone else os.environ.get("RANK", "0")


def _end(code: int) -> None:
    """End a process that was one of several, without an end of the interpreter.

    Threads of its process group live on and now and then hold an object of Python's: one that waits
    for the interpreter's lock to let go of it aborts the process once the interpreter ends.
    """
    for stream in (sys.stdout, sys.stderr):
        with telling():
            stream.flush()
    os._exit(code)


def _open_streams() -> None:
    """Open the null device for closed streams, whose numbers the next files would get."""
    for name, mode in {"stdin": "r", "stdout": "w", "stderr": "w"}.items():
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123


def _on_stop(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in _STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and a shell's & set it
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{_STOPPED}\n".encode())
    os._exit(3)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _interrupted
    _interrupted = number
    raise KeyboardInterrupt


def _again(swallowed: "sys.UnraisableHookArgs") -> None:
    """Send a stop once more that came where Python lets nothing be raised, as in a destructor."""
    if not isinstance(swallowed.exc_value, KeyboardInterrupt):
        _report(swallowed)
        return
    # to the process, so that a call of the main thread is broken off
    later = threading.Timer(0.05, os.kill, [os.getpid(), _interrupted or signal.SIGINT])
    later.daemon = True
    later.start()
