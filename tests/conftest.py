"""Shapes and dtypes in signatures are checked while the tests run; handlers are put back."""

import signal
from collections.abc import Iterator

import pytest
from jaxtyping import install_import_hook

# before anything of the package is imported
install_import_hook("mixbct", "beartype.beartype")


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """A command ends by ignoring signals; the next test, and what it starts, must not."""
    stops = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in stops}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
