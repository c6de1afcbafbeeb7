"""Fitting bridges between two banks, and applying one, beside the products that they cannot spare.

    MIXBCT_BRIDGE_ROWS=200000 python -m benchmarks bridge

5,000,000 × 512 new vectors against 5,000,000 × 128 old ones of 100,000 classes in random order,
float16 as banks have them (6.4 GB of disk), unless MIXBCT_BRIDGE_ROWS says another number of rows.
`cca` (like ridge) takes one pass over both, `whiten` one over the old ones. The reference of a fit
is its matrix products over the same blocks, converted and no more, as float64 as the fit's are. The
work runs in a process of its own, so that its memory is its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from benchmarks.denoise_full import most_private_gigabytes
from benchmarks.measure import Figure, in_turn, time_figure
from mixbct.adapters import cca, whiten
from mixbct.adapters.moments import CHUNK, Pairs
from mixbct.data.bank import normalise
from mixbct.features.bridged import through

ROWS = int(os.environ.get("MIXBCT_BRIDGE_ROWS") or 5_000_000)
NEW, OLD = 512, 128
APPLIED = 1_000_000
MOST_GB = 1.0


def run(folder: Path) -> list[Figure]:
    """Return seconds to fit and to apply, and the most private memory of the fits in GB."""
    _write(folder)
    command = [sys.executable, "-m", __name__, str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [Figure(**figure) for figure in json.loads(done.stdout)]


def _write(folder: Path) -> None:
    """Write the vectors of both models and their labels; the noise is drawn once."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(ROWS) % max(2, ROWS // 50))
    for name, dim in (("new", NEW), ("old", OLD)):
        centres = rng.standard_normal((labels.max() + 1, dim), np.float32)
        noise = rng.standard_normal((2 * CHUNK, dim), np.float32)
        file = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, (ROWS, dim))
        for start in range(0, ROWS, CHUNK):
            part = labels[start : start + CHUNK]
            shift = int(rng.integers(CHUNK))
            file[start : start + len(part)] = noise[shift : shift + len(part)] + centres[part]
        file.flush()
    np.save(folder / "labels.npy", labels)


def measure(folder: Path) -> list[Figure]:
    """Measure in this process: memory first, then the times beside the references."""
    new, old = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("new", "old"))
    labels = np.load(folder / "labels.npy")

    def fit_cca() -> object:
        return cca.fit(Pairs(new, old))

    def fit_whiten() -> object:
        return whiten.fit(Pairs(old, old, labels))

    figures = []
    for name, fit, bare in (
        ("cca", fit_cca, lambda: _products(new, old)),
        ("whiten", fit_whiten, lambda: _products(old)),
    ):
        peak = most_private_gigabytes(fit)
        pairs = in_turn(fit, bare, for_seconds=10, warm_up=0, at_least=2)
        figures += [
            time_figure(f"bridge/{name}", "s/fit", pairs),
            Figure(f"bridge/{name} memory", peak, "GB", MOST_GB, peak / MOST_GB),
        ]
    side = whiten.fit(Pairs(old, old, labels))[1]
    rows = normalise(old[: min(ROWS, APPLIED)])
    matrix, _ = side.arrays
    pairs = in_turn(lambda: through(side, rows), lambda: rows @ matrix, for_seconds=10)
    return [*figures, time_figure("bridge/apply", "s", pairs)]


def _products(*sides: Float[np.ndarray, "n d"]) -> None:
    """Multiply every side with itself and with the next, block by block."""
    pairs = [(a, b) for a in range(len(sides)) for b in range(a, len(sides))]
    totals = [np.zeros((sides[a].shape[1], sides[b].shape[1])) for a, b in pairs]
    for start in range(0, len(sides[0]), CHUNK):
        # torch converts float16 ten times as fast as NumPy
        read = [torch.from_numpy(np.array(side[start : start + CHUNK])) for side in sides]
        blocks = [block.float().double().numpy() for block in read]
        for total, (a, b) in zip(totals, pairs, strict=True):
            total += blocks[a].T @ blocks[b]


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    json.dump([figure.to_dict() for figure in measure(Path(sys.argv[1]))], sys.stdout)
