"""Ctrl-C and SIGTERM as a request: the loop finishes its step, saves, and stops."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from mixbct.errors import StoppedError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], None]


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether a stop was asked for.

    The first signal is a request; a second one acts at once, as if this were not here. Outside
    the main thread, where signals cannot be caught, nothing is asked for.
    """
    asked = threading.Event()
    with contextlib.ExitStack() as stack:

        def on_signal(number: int, frame: FrameType | None) -> None:
            asked.set()
            stack.close()

        stack.enter_context(_handled_by(on_signal))
        yield asked.is_set


@contextlib.contextmanager
def signals_as_stopped(message: str) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM act at once, and end in a `StoppedError` that says `message`.

    So does whatever a library makes of the exception that interrupts it.
    """
    asked = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        asked.set()
        raise KeyboardInterrupt

    try:
        with _handled_by(on_signal):
            yield
    except (KeyboardInterrupt, Exception) as error:
        if asked.is_set() or isinstance(error, KeyboardInterrupt):
            raise StoppedError(message) from None
        raise


@contextlib.contextmanager
def _handled_by(handler: Handler) -> Iterator[None]:
    """Handle the signals for a while, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
