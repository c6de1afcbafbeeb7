"""Whether a file may be read in any order, from what a machine and its container say."""

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


@pytest.mark.parametrize(
    ("machine", "limits", "available"),
    [
        (MEMINFO, (None, None), 1_024_000_000),
        (MEMINFO, ("max\n", None), 1_024_000_000),
        (MEMINFO, ("500000000\n", None), 500_000_000),
        (MEMINFO, (None, "9223372036854771712\n"), 1_024_000_000),
        (MEMINFO, (None, "400000000\n"), 400_000_000),
        (None, (None, "400000000\n"), 400_000_000),
        # kernels before 3.14 do not say it
        ("MemTotal: 24607460 kB\nMemFree: 812344 kB\n", ("300000000\n", None), 300_000_000),
    ],
)
def test_the_least_that_is_said_counts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: str | None,
    limits: tuple[str | None, str | None],
    available: int,
) -> None:
    names = ["meminfo", "memory.max", "memory.limit_in_bytes"]
    for name, text in zip(names, [machine, *limits], strict=True):
        if text is not None:
            (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "_MACHINE", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_LIMITS", tuple(tmp_path / name for name in names[1:]))
    assert available_memory() == available
    assert fits_in_memory(available // 2)
    assert not fits_in_memory(available // 2 + 1)


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
