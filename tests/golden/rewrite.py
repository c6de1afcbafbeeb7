"""Rewrite curves.json: `python tests/golden/rewrite.py`.

For a change that is meant to move the losses; the commit says why they moved. Prints how far
each curve went from the one before.
"""

import json
import tempfile
from pathlib import Path

from curves import GOLDEN, all_curves, read_golden


def main() -> None:
    """Run every curve and write what came out."""
    before = read_golden() if GOLDEN.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        found = all_curves(Path(folder))
    for name, losses in found.items():
        old = before.get(name, [])
        moved = max((abs(a - b) / abs(b) for a, b in zip(losses, old, strict=False)), default=None)
        print(f"{name}: {'new' if moved is None else f'moved by {moved:.1e} at most'}")
    GOLDEN.write_text(json.dumps({k: [round(v, 8) for v in c] for k, c in found.items()}, indent=1))


if __name__ == "__main__":
    main()
