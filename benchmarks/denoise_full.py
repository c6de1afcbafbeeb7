"""Denoising a bank of MS1Mv3's size, beside reading, converting and normalising its rows once.

5,179,510 × 512 float16 (5.3 GB of disk, and of page cache to stay warm) with 93,431 labels in
random order: the class means do not fit into the processor's cache, as they do in `denoise`. The
work runs in a process of its own, so that its memory is its own.
"""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.denoise import read_once
from benchmarks.measure import Figure, in_turn, time_figure
from mixbct.features.denoise import credible_rows

ROWS = 5_179_510
DIM = 512
CLASSES = 93_431
MOST_GB = 1.5
# rows that are written together
_BLOCK = 1 << 14


def run(folder: Path) -> list[Figure]:
    """Return seconds to denoise the bank, and the most private memory in GB."""
    _write(folder)
    command = [sys.executable, "-m", __name__, str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [Figure(**figure) for figure in json.loads(done.stdout)]


def _write(folder: Path) -> None:
    """Write features around one centre a class, and their labels.

    The noise is drawn once and cut out at another place for each block: to draw 2.7 billion
    numbers takes longer than all else.
    """
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(ROWS) % CLASSES)
    centres, noise = (
        torch.from_numpy(rng.standard_normal((rows, DIM), np.float32))
        for rows in (CLASSES, 2 * _BLOCK)
    )
    written = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float16, (ROWS, DIM))
    for start in range(0, ROWS, _BLOCK):
        part = torch.from_numpy(labels[start : start + _BLOCK])
        shift = int(rng.integers(_BLOCK))
        block = noise[shift : shift + len(part)] + centres[part]
        written[start : start + len(part)] = block.half().numpy()
    written.flush()
    np.save(folder / "labels.npy", labels)


def measure(folder: Path) -> list[Figure]:
    """Measure in this process: memory first, then the time beside the reference."""
    torch.set_flush_denormal(True)
    features = np.load(folder / "features.npy", mmap_mode="r")
    labels = np.load(folder / "labels.npy")
    peak = most_private_gigabytes(lambda: credible_rows(features, labels))
    pairs = in_turn(
        lambda: credible_rows(features, labels),
        lambda: read_once(features),
        for_seconds=30,
        warm_up=1,
    )
    return [
        time_figure("denoise_full", "s/bank", pairs),
        Figure("denoise_full memory", peak, "GB", MOST_GB, peak / MOST_GB),
    ]


def most_private_gigabytes(action: Callable[[], object]) -> float:
    """Return the most anonymous memory that the process has while `action` runs.

    Pages of mapped files are not counted: the system takes them back when it wants to.
    """
    done = threading.Event()
    found: list[float] = []

    def look() -> None:
        while not found or not done.wait(0.005):
            status = Path("/proc/self/status").read_text(encoding="ascii")
            found.append(int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0]) * 1024 / 1e9)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        action()
    finally:
        done.set()
        looker.join()
    return max(found)


if __name__ == "__main__":
    json.dump([figure.to_dict() for figure in measure(Path(sys.argv[1]))], sys.stdout)
