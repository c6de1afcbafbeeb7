"""What memory can hold of a file that is mapped: whether its rows may be read in any order."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

_MACHINE = Path("/proc/meminfo")
# of a container, by the second and by the first version of control groups
_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
_PAGE = 4096  # bytes; where pages are larger, each is read at several places
_ROWS = 1 << 14


def fits_in_memory(size: int) -> bool:
    """Return whether a file stays in memory while it is read: it takes half of it at most.

    Args:
        size: of the file, in bytes.
    """
    return 2 * size <= available_memory()


def available_memory() -> int:
    """Return how many bytes the system can give out still; cached files count as free."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError):  # a system that has no such file
        said = re.findall(r"^MemAvailable:\s+(\d+) kB", _MACHINE.read_text("ascii"), re.MULTILINE)
        found += [1024 * int(kilobytes) for kilobytes in said]
    for limit in _LIMITS:
        with suppress(OSError, ValueError):  # no such file; "max"
            found.append(int(limit.read_text("ascii")))
    return min(found)


def bring_in(array: np.ndarray) -> Iterator[int]:
    """Have a mapped array read from front to end, which a disk does fastest.

    Yields:
        How many more rows are in memory.
    """
    step = max(1, _PAGE // array.itemsize)
    for start in range(0, len(array), _ROWS):
        rows = array[start : start + _ROWS]
        rows.reshape(-1)[::step].copy()
        yield len(rows)
