"""The vectors of a FAISS index file: flat, IVF, HNSW, with an id map, behind a transform.

What was quantised comes back as the quantiser's approximation, and the notes say so.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from mixbct.data.foreign_bank import names_in
from mixbct.errors import DataError, GalleryError
from mixbct.gallery.foreign import index_reader
from mixbct.gallery.foreign.rows import NO_KEY, ForeignRows, VectorSource, contract_of
from mixbct.reading import file_size

_LONGEST_LINE = 2**16
_ID = re.compile(r"-?[0-9]{1,19}")


def open_index(
    path: Path, contract: str | None, keys: str | None, labels: str | None
) -> VectorSource:
    """Open an index file.

    Args:
        path: the file, as `faiss.write_index` makes it.
        contract: the declared name of the model.
        keys: a text file with the key of id 0, 1, … a line, or with lines of an id, a tab and its
            key. Without it the id is the key.
        labels: the same for labels; an empty one is none.

    Raises:
        GalleryError: it is none, is damaged, or its vectors cannot be had back.
        ContractError: no name was declared.
    """
    size = file_size(path, "FAISS index", GalleryError)
    named, labelled = (_by_id(file, what) for file, what in ((keys, "keys"), (labels, "labels")))
    with _reading(path, size, 0) as (head, _):
        known = head

    def read(count: int) -> Iterator[ForeignRows]:
        with _reading(path, size, count) as (head, stream):
            dim, left = head["dim"], head["rows"]
            while left:
                rows = min(count, left)
                ids = np.frombuffer(stream.read(8 * rows), np.int64, rows).tolist()
                numbers = np.frombuffer(stream.read(4 * rows * dim), np.float32, rows * dim)
                found = [str(id) if named is None else named.get(id) for id in ids]
                kept = [row for row, key in enumerate(found) if key]
                without = [f"id {id}" for id, key in zip(ids, found, strict=True) if not key]
                yield ForeignRows(
                    [found[row] or "" for row in kept],
                    [labelled.get(ids[row]) or None if labelled else None for row in kept],
                    numbers.reshape(rows, dim)[kept],
                    {NO_KEY: without} if without else {},
                )
                left -= rows

    notes = [f"{path} is {known['kind']}, searched by {known['metric']}; mixbct compares by cosine"]
    if known["lost"]:
        notes.append(
            f"its vectors are not what the model gave: {known['lost']}. What is imported are the "
            "approximations: judge a new model on vectors that came this way, too"
        )
    return VectorSource(
        str(path), contract_of(contract, known["dim"], str(path)), known["rows"], read, tuple(notes)
    )


@contextlib.contextmanager
def _reading(path: Path, size: int, batch: int) -> Iterator[tuple[dict[str, Any], IO[bytes]]]:
    """Start the child, and yield what it says of the index and what it goes on to print."""
    words = [sys.executable, "-I", index_reader.__file__, str(path), str(size), str(batch)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the end, as the child is
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, env=env)
    assert child.stdout is not None
    try:
        yield json.loads(child.stdout.readline(_LONGEST_LINE)), child.stdout
    except ValueError as problem:  # it said nothing, or stopped in the middle
        code = child.wait()
        errors.seek(0)
        said = errors.read(_LONGEST_LINE).decode("utf-8", "replace").strip().splitlines()
        why = said[-1] if said and code > 0 else f"FAISS ended with {abs(code)}"
        raise GalleryError(
            f"{path} cannot be read as a FAISS index: {why[:300]}. Either it is damaged, or of a "
            "kind that cannot give its vectors back; write it again with faiss.write_index, or "
            "give the vectors as .npy"
        ) from problem
    finally:
        child.kill()
        child.stdout.close()
        errors.close()
        child.wait()


def _by_id(file: str | None, what: str) -> dict[int, str] | None:
    """Return id → name of a file that has one a line, or lines of id, tab and name."""
    if file is None:
        return None
    names = names_in(Path(file), what)
    pairs = [name.partition("\t") for name in names]
    # an empty name at the end of a line has lost its tab
    if not any(tab for _, tab, _ in pairs) or not all(map(_ID.fullmatch, (id for id, *_ in pairs))):
        return dict(enumerate(names))
    found = {int(id): name for id, _, name in pairs}
    if len(found) != len(pairs):
        raise DataError(f"{file}, a file of {what}, has an id twice: each has one line")
    return found
