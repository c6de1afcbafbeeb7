"""What memory can hold of a file that is mapped: whether its rows may be read in any order."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")
_PAGE = 4096  # bytes; where pages are larger, each is read at several places
_ROWS = 1 << 14


def fits_in_memory(size: int) -> bool:
    """Return whether a file stays in memory while it is read: it takes half of it at most.

    Args:
        size: of the file, in bytes.
    """
    return 2 * size <= available_memory()


def available_memory() -> int:
    """Return how many bytes this process can still use, what files take of the cache included.

    The least of what the machine has left and of what is left of each limit of a control group
    that the process is in.
    """
    left = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError):  # a system that has no such file
        said = _numbers(_PROC / "meminfo")
        left.append(said.get("MemAvailable", left[0] // 1024) * 1024)
    for group in _groups():
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            with suppress(OSError, ValueError):  # no such file; "max"
                most, now = (int((group / name).read_text("ascii")) for name in (limit, used))
                cached = _numbers(group / "memory.stat")
                files = sum(cached.get(f"{kind}_file", 0) for kind in ("active", "inactive"))
                left.append(most - now + files)
    return max(0, min(left))


def _groups() -> Iterator[Path]:
    """Yield the folders of the control groups that rule this process's memory."""
    with suppress(OSError):
        for line in (_PROC / "self" / "cgroup").read_text("utf-8").splitlines():
            _, controllers, name = line.split(":", 2)
            if not controllers or "memory" in controllers.split(","):
                root = _GROUPS / "memory" if controllers else _GROUPS
                folder = root / name.lstrip("/")
                # a container that is not shown the folders above it has its limit at the root
                yield from (
                    part for part in (folder, *folder.parents) if root in (part, *part.parents)
                )


def _numbers(path: Path) -> dict[str, int]:
    """Read lines of a name and a number."""
    lines = re.findall(r"^(\w+):?\s+(\d+)", path.read_text("ascii"), re.MULTILINE)
    return {name: int(number) for name, number in lines}


def bring_in(array: np.ndarray) -> Iterator[int]:
    """Read an array from front to end, which a disk does fastest: what is mapped is in memory then.

    Yields:
        How many more rows are in memory.
    """
    step = max(1, _PAGE // array.itemsize)
    for start in range(0, len(array), _ROWS):
        rows = array[start : start + _ROWS]
        rows.reshape(-1)[::step].copy()
        yield len(rows)
