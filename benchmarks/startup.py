"""How long `mixbct --help` takes, beside the time that a person does not notice."""

import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import Figure, seconds

LIMIT, TIMES = 0.3, 20


def run(folder: Path) -> list[Figure]:
    """Return the median of so many runs, in seconds."""
    command = [sys.executable, "-c", "from mixbct.cli import main; main()", "--help"]

    def once() -> None:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)

    once()
    value = statistics.median(seconds(once) for _ in range(TIMES))
    return [Figure("startup", value, "s", LIMIT, value / LIMIT)]
