"""How a workflow tells a person where it is, without knowing how that is shown."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

Tick = Callable[[int, int], None]
"""Called with (done, in all)."""

Stage = Callable[[str], AbstractContextManager[Tick]]
"""Opens a stage by its name and gives what reports its progress."""


def silent(name: str) -> AbstractContextManager[Tick]:
    """Open a stage that shows nothing."""
    return nullcontext(lambda done, total: None)
