"""Whether a file may be read in any order, from what a machine and its container say."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mixbct.data import memory
from mixbct.data.memory import available_memory, bring_in, fits_in_memory

MEMINFO = """MemTotal:       24607460 kB
MemFree:          812344 kB
MemAvailable:    1000000 kB
Buffers:           44460 kB
"""


STAT = """anon 300000000
file 999999999
active_file 30000000
inactive_file 70000000
workingset_refault_file 5
"""
V1, V2 = "4:memory:/job/7\n3:cpu,cpuacct:/job\n", "0::/job/7\n"


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Write what a system says of memory, in place of this one's."""
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    return write


@pytest.mark.parametrize(
    ("files", "available"),
    [
        ({}, 1_024_000_000),
        # in a container that sees its own folder alone
        (
            {"self/cgroup": "0::/\n", "memory.max": "500000000\n", "memory.current": "0\n"},
            500_000_000,
        ),
        ({"self/cgroup": "0::/\n", "memory.max": "max\n", "memory.current": "5\n"}, 1_024_000_000),
        # what is used is gone, but for files
        (
            {
                "self/cgroup": V2,
                "job/memory.max": "800000000",
                "job/memory.current": "400000000",
                "job/memory.stat": STAT,
            },
            500_000_000,
        ),
        # the least of all above, of the first version, where more than the limit may be used
        (
            {
                "self/cgroup": V1,
                "memory/job/7/memory.limit_in_bytes": "9223372036854771712",
                "memory/job/7/memory.usage_in_bytes": "700000000",
                "memory/job/7/memory.stat": STAT,
                "memory/memory.limit_in_bytes": "600000000",
                "memory/memory.usage_in_bytes": "700000000",
                "memory/memory.stat": STAT,
            },
            0,
        ),
        # a group of the processor's rules no memory
        (
            {
                "self/cgroup": "3:cpu,cpuacct:/\n",
                "memory.max": "500000000\n",
                "memory.current": "0\n",
            },
            1_024_000_000,
        ),
    ],
)
def test_the_least_that_is_left_counts(
    system: Callable[[dict[str, str]], None], files: dict[str, str], available: int
) -> None:
    def place(name: str) -> str:
        return f"proc/{name}" if name.startswith("self") else f"groups/{name}"

    groups = {place(name): text for name, text in files.items()}
    stats = {
        f"{Path(name).parent}/memory.stat": "anon 0\n"
        for name in groups
        if name.endswith(("current", "usage_in_bytes"))
    }
    system({"proc/meminfo": MEMINFO, **stats, **groups})
    assert available_memory() == available
    assert fits_in_memory(available // 2)
    assert not fits_in_memory(available // 2 + 1)


@pytest.mark.parametrize("files", [{}, {"proc/meminfo": "MemTotal: 24607460 kB\nMemFree: 8 kB\n"}])
def test_a_system_that_says_nothing_has_its_memory(
    system: Callable[[dict[str, str]], None], files: dict[str, str]
) -> None:
    """Kernels before 3.14 do not say what is available; other systems have no such file."""
    system(files)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert machine - 1024 < available_memory() <= machine


def test_what_this_machine_says_is_likely() -> None:
    assert 1 << 26 < available_memory() < 1 << 50


def test_every_page_is_read_from_front_to_end(tmp_path: Path) -> None:
    pages = 50
    rows, dim = 8 * 1024 * pages // 64, 64
    array = np.memmap(tmp_path / "array", np.float16, "w+", shape=(rows, dim))
    assert array.nbytes == 4 * 4096 * pages
    touched: list[int] = []

    class Watched(np.ndarray):
        def copy(self, *args: object, **named: object) -> np.ndarray:  # type: ignore[override]
            address = self.__array_interface__["data"][0] - array.__array_interface__["data"][0]
            touched.extend(address + self.strides[0] * i for i in range(len(self)))
            return np.array(self)

    counts = list(bring_in(array.view(Watched)))
    assert sum(counts) == rows
    assert touched == sorted(touched)
    assert {at // 4096 for at in touched} == set(range(4 * pages))
