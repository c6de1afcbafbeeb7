import os
import signal
import threading

import pytest

from mixbct.errors import StoppedError
from mixbct.training.run import signals_as_stopped, stop_on_signal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_the_second_acts(number: signal.Signals) -> None:
    acted = []
    before = signal.signal(number, lambda *_: acted.append(1))
    try:
        with stop_on_signal() as asked:
            assert not asked()
            os.kill(os.getpid(), number)
            assert asked()
            assert acted == []
            os.kill(os.getpid(), number)
            assert acted == [1]
        os.kill(os.getpid(), number)
        assert acted == [1, 1]
    finally:
        signal.signal(number, before)


def test_the_handlers_come_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def fail() -> None:
        with stop_on_signal():
            assert signal.getsignal(signal.SIGTERM) is not before
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_nothing_is_asked() -> None:
    found = []

    def run() -> None:
        with stop_on_signal() as asked:
            found.append(asked())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False]


def test_a_stop_that_a_library_made_an_error_of_is_a_stop() -> None:
    def load() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise RuntimeError("no shape of object") from None

    with pytest.raises(StoppedError, match="again"), signals_as_stopped("run it again"):
        load()
    with pytest.raises(RuntimeError, match="other"), signals_as_stopped("run it again"):
        raise RuntimeError("other")
