"""Ctrl-C and SIGTERM as a request: the loop finishes its step, saves, and stops."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether a stop was asked for.

    The first signal is a request; a second one acts at once, as if this were not here. Outside
    the main thread, where signals cannot be caught, nothing is asked for.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def on_signal(number: int, frame: FrameType | None) -> None:
        asked.set()
        restore()

    for number in signals:
        signal.signal(number, on_signal)
    try:
        yield asked.is_set
    finally:
        restore()
