"""RecordIO: reads with decoding beside decoding from memory; the index of 5.2 million records.

One core: one worker, which decodes in the thread that asks. The reference decodes the same bytes,
already in a list, with the same decoder in a plain loop.
"""

import io
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import Figure, in_turn, rate_figure
from mixbct.data.images import decode_bytes
from mixbct.data.record_index import record_writer, write_index
from mixbct.data.recordio import MAGIC
from mixbct.data.records import SETTLED, RecordSource
from mixbct.schemas.model import Preprocessing

IMAGES = 4_096
SIZE = 112
BATCH = 128
RECORDS = 5_179_510 + 93_431 + 1  # MS1Mv3: images, one record a person, the header
MOST_SECONDS = 2.0
MOST_MEGABYTES = 300.0
# little enough to be written: a header's 32 bytes and 4 for the image
_SHORTEST = 36


def run(folder: Path) -> list[Figure]:
    """Return read rates (sequential, shuffled) and what opening a large index takes."""
    return [*_reads(folder / "reads"), *_opening(folder / "index")]


def _reads(folder: Path) -> list[Figure]:
    folder.mkdir()
    with record_writer(folder / "train.rec") as writer:
        for key in range(IMAGES):
            writer.write(key, [key % 100], photograph(key))
    preprocessing = Preprocessing(size=SIZE, channels=3)
    source = RecordSource(folder, preprocessing)
    source.workers = 1
    orders = {
        "recordio sequential": np.arange(IMAGES),
        "recordio shuffled": np.random.default_rng(0).permutation(IMAGES),
    }
    figures = []
    for name, order in orders.items():
        encoded = [source.encoded(int(row)) for row in order]
        # both go round in the same batches, each at its own call
        starts = [cycle(range(0, IMAGES, BATCH)) for _ in range(2)]

        def from_records(order: np.ndarray = order, starts: Iterator[int] = starts[0]) -> None:
            start = next(starts)
            source.read(order[start : start + BATCH])

        def from_memory(encoded: list[bytes] = encoded, starts: Iterator[int] = starts[1]) -> None:
            start = next(starts)
            for data in encoded[start : start + BATCH]:
                decode_bytes(data, preprocessing, "")

        pairs = in_turn(from_records, from_memory, for_seconds=15)
        figures.append(rate_figure(name, "images/s", pairs, BATCH))
    return figures


def photograph(seed: int) -> bytes:
    """Return a JPEG of about the size of an aligned face's: smooth shapes and a little noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    noisy = smooth + rng.normal(0, 6, smooth.shape)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=92)
    return file.getvalue()


def _opening(folder: Path) -> list[Figure]:
    """Open in processes of their own, so that the peak of memory is that of opening.

    The first one looks at every record's head and keeps what it found; the others read that. The
    records are as short as records can be, and the file is warm.
    """
    folder.mkdir()
    _write_shortest(folder)
    time.sleep(SETTLED)  # of files that may still change nothing is kept
    command = [sys.executable, "-c", f"import {__name__} as b; b.open_and_tell({str(folder)!r})"]
    runs = []
    for _ in range(6):
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        runs.append([float(word) for word in out.split()])
    later = np.median(runs[1:], axis=0).tolist()
    return [
        Figure(name, value, unit, most, value / most)
        for name, found in (("recordio first open", runs[0]), ("recordio open", later))
        for value, unit, most in zip(
            found, ("s", "MB"), (MOST_SECONDS, MOST_MEGABYTES), strict=True
        )
    ]


def _write_shortest(folder: Path) -> None:
    words = np.zeros((RECORDS, _SHORTEST // 4), "<u4")
    words[:, 0] = MAGIC
    words[:, 1] = _SHORTEST - 8
    words[:, 3] = (np.arange(RECORDS) % 93_431).astype("<f4").view("<u4")
    words.tofile(folder / "train.rec")
    keys = np.arange(RECORDS)
    write_index(folder / "train.idx", keys, keys * _SHORTEST)


def open_and_tell(folder: str) -> None:
    """Print seconds to open, and the process's peak memory in MB by then."""
    before = time.perf_counter()
    RecordSource(Path(folder), Preprocessing(size=SIZE, channels=3))
    opened = time.perf_counter()
    # getrusage would give the parent's peak where that is larger
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024
    print(opened - before, peak)
