"""Omniglot's zip files as an image array: `python examples/omniglot.py OUT ZIP [ZIP ...]`.

A class is a character of an alphabet, an instance one person's drawing. The zip files hold
`SET/ALPHABET/characterNN/ID_PERSON.png`, 105 × 105, black on white; a drawing that is in several
of them is taken once. Drawings become 32 × 32, the strokes' grey kept.

Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic program
induction", Science 2015 (MIT licence).
"""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from mixbct.data.array import write_array
from mixbct.files import sha256_file

SIZE = 32


def drawings(zips: list[Path]) -> dict[tuple[str, str], np.ndarray]:
    """Return each drawing [32, 32, 1] by its class and file name, in order."""
    found: dict[tuple[str, str], np.ndarray] = {}
    for path in zips:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if not name.endswith(".png"):
                    continue
                _, alphabet, character, file = name.split("/")
                key = (f"{alphabet}-{character.removeprefix('character')}", file)
                if key not in found:
                    picture = Image.open(io.BytesIO(archive.read(name))).convert("L")
                    small = picture.resize((SIZE, SIZE), Image.Resampling.BOX)
                    found[key] = np.asarray(small)[..., None]
    return dict(sorted(found.items()))


def main() -> None:
    """Write the array and say what is in it."""
    out, *zips = map(Path, sys.argv[1:])
    found = drawings(zips)
    classes = sorted({name for name, _ in found})
    index = {name: i for i, name in enumerate(classes)}
    write_array(
        out,
        np.stack(list(found.values())),
        np.array([index[name] for name, _ in found], dtype=np.int64),
        classes,
        [f"{name}/{file}" for name, file in found],
        [],
        "Omniglot, small background sets",
        {path.name: sha256_file(path) for path in zips},
    )
    print(f"{len(found):,} drawings of {len(classes)} characters in {out}")


if __name__ == "__main__":
    main()
