"""The source: what every data set looks like to the rest; encoded images, and some rows of one."""

import functools
import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64, Shaped, UInt8

from mixbct.data.images import Pixels, decode_bytes
from mixbct.data.threads import started
from mixbct.errors import BadImageError, DataError, Error
from mixbct.reading import failing_as, read_bytes
from mixbct.schemas.model import Preprocessing

Images = UInt8[np.ndarray, "n h w c"]
Texts = Shaped[np.ndarray, " n"]
"""Python's strings, as objects."""
Items = Images | Float32[np.ndarray, "n d"] | Texts
"""Images, or vectors or texts in their place."""
Rows = Int64[np.ndarray, " n"]
Progress = Callable[[int, int], None]
"""Called with how many are done and how many there are."""
_NO_LINE = re.compile("[\n\r\0\ud800-\udfff]")
# few enough for all workers to have some, enough for a hand-over to cost nothing
_LEAST_A_TASK = 8
_TASKS_A_WORKER = 4
_ADVICE = (
    "\n`mixbct data verify` finds all of them; repair or delete them, or leave them out with "
    "--skip-bad: given to `data split`, it holds for all that follows"
)


@dataclass(eq=False, repr=False)
class Source(ABC):
    """A labelled set of images of one size, or of vectors in their place (`FeatureBank`).

    Labels are indices into `classes()`; they may have gaps (a class without an image).
    `str(source)` says what it is and where, for manifests and errors. `read` and `digest` are each
    source's own; a source that looks up its keys or groups when asked gives none here.
    """

    _name: str
    _keys: list[str]
    _labels: Int64[np.ndarray, " n"]
    _classes: tuple[str, ...]
    _groups: list[str] | None = None

    def __len__(self) -> int:
        return len(self._labels)

    def __str__(self) -> str:
        return self._name

    def labels(self) -> Int64[np.ndarray, " n"]:
        """Return the label of every row."""
        return self._labels

    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes; `labels()` point into it."""
        return self._classes

    def keys(self) -> list[str]:
        """Return a name of every row, unique within the source."""
        return self._keys

    def groups(self) -> list[str]:
        """Return the family of every row that a split must keep on one side ('' for none)."""
        return self._groups or [""] * len(self)

    @abstractmethod
    def read(self, rows: Rows) -> Items:
        """Return the images, or normalised vectors, of `rows`, in that order.

        Raises:
            BadImageError: an image cannot be decoded; it names each.
        """

    def encoded(self, row: int) -> bytes | None:
        """Return the bytes of a row's image as they are stored, where that is a file each."""
        return None

    @abstractmethod
    def digest(self) -> str:
        """Return what changes when the keys, the labels or the images change.

        Vectors are known by the images that they were extracted from, so that banks of several
        models can be told to be of the same images, row by row.
        """


def digest_rows(rows: Iterable[tuple[str, str, str]]) -> str:
    """Return the SHA-256 over (key, class name, fingerprint of the image) of every row.

    No two lists of rows are written alike: a row is a line of three fields, and one with a tab or
    a line break in a field is an empty line, then each field behind its length.
    """
    digest = hashlib.sha256()
    for row in rows:
        line = "\t".join(row) + "\n"
        if line.count("\t") != 2 or line.count("\n") != 1:
            line = "\n" + "".join(f"{len(field)}:{field}" for field in row)
        digest.update(line.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


@functools.cache
def _pool(workers: int, process: int) -> ThreadPoolExecutor:
    """Return the threads of a process: they do not live on in one that is forked from it."""
    return started("decode", workers)


@dataclass(eq=False, repr=False)
class EncodedSource(Source):
    """Base of the sources whose images are stored as JPEG, PNG or the like.

    Args:
        preprocessing: the size and number of channels that images are brought to.

    Attributes:
        workers: number of threads that decode; one decodes in the thread that asks; None for one
            a processor, eight at most.
    """

    preprocessing: Preprocessing = field(kw_only=True)
    workers: int | None = field(default=None, init=False)

    @abstractmethod
    def encoded(self, row: int) -> bytes:
        """Return the stored bytes of a row's image.

        Raises:
            BadImageError: they cannot be read.
        """

    def _key(self, row: int) -> str:
        return self._keys[row]

    def _pixels(self, row: int) -> Pixels:
        return decode_bytes(self.encoded(row), self.preprocessing, self._key(row))

    def read(self, rows: Rows) -> Images:
        """Decode the images of `rows`, in that order.

        Raises:
            BadImageError: it counts and names every image of `rows` that cannot be decoded.
        """
        size, channels = self.preprocessing.size, self.preprocessing.channels
        images = np.empty((len(rows), size, size, channels), np.uint8)
        wanted = rows.tolist()

        def decode(places: range) -> dict[str, BadImageError]:
            bad = {}
            for place in places:
                try:
                    images[place] = self._pixels(wanted[place])
                except BadImageError as error:
                    bad[self._key(wanted[place])] = error
            return bad

        workers = self.workers or min(8, os.cpu_count() or 1)
        least = max(_LEAST_A_TASK, -(-len(rows) // (_TASKS_A_WORKER * workers)))
        tasks, many = pieces(range(len(rows)), least), workers > 1 and len(rows) > least
        spread = _pool(workers, os.getpid()).map if many else map
        problems = {key: error for bad in spread(decode, tasks) for key, error in bad.items()}
        if problems:
            lines = "\n".join(f"  {problem}" for problem in problems.values())
            said = f"{self}: {len(problems)} of {len(rows)} images cannot be read"
            raise BadImageError(f"{said}:\n{lines}{_ADVICE}", list(problems))
        return images


class Selection(Source):
    """Some rows of a source, as a source: labels have no gaps, classes without a row disappear.

    Rows chosen from a selection are rows of the source that it was chosen from.

    Attributes:
        source: what the rows are chosen from; never a selection itself.
        rows: [n] by their position in it.
    """

    def __init__(self, source: Source, rows: Rows) -> None:
        if len(rows) and (rows.min() < 0 or rows.max() >= len(source)):
            raise DataError(
                f"rows {int(rows.min())} to {int(rows.max())} were chosen, but {source} has "
                f"{len(source)}: was the choice made from other data?"
            )
        if isinstance(source, Selection):
            rows = source.rows[rows]
        self.source: Source = root_of(source)
        self.rows: Rows = rows
        present, labels = np.unique(self.source.labels()[rows], return_inverse=True)
        names = self.source.classes()
        chosen = tuple(names[i] for i in present)
        # keys and groups are looked up when they are asked for
        super().__init__(f"{len(rows)} rows of {self.source}", [], labels.astype(np.int64), chosen)

    def keys(self) -> list[str]:
        """Return the keys of the selected rows."""
        keys = self.source.keys()
        return [keys[i] for i in self.rows]

    def groups(self) -> list[str]:
        """Return the groups of the selected rows."""
        groups = self.source.groups()
        return [groups[i] for i in self.rows]

    def read(self, rows: Rows) -> Items:
        """Return images, or vectors, by their position in the selection."""
        return self.source.read(self.rows[rows])

    def encoded(self, row: int) -> bytes | None:
        """Return what the source has stored of a row, by its position in the selection."""
        return self.source.encoded(int(self.rows[row]))

    def digest(self) -> str:
        """Return the digest of the source and of the rows chosen from it.

        That of all rows in order is the source's, so that a bank extracted from all images stands
        for them: a part of one and the same part of the other have one digest.
        """
        if np.array_equal(self.rows, np.arange(len(self.source))):
            return self.source.digest()
        return digest_rows([("selection", self.source.digest(), self.rows.tobytes().hex())])


def unseen(done: int, total: int) -> None:
    """Show no progress."""


def pieces(rows: range, size: int) -> list[range]:
    """Return the rows in pieces of `size`; the last one may be shorter."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def readable_rows(
    source: Source, chunk: int = 1024, progress: Progress = unseen
) -> tuple[Rows, list[str]]:
    """Decode every image once and return the rows that can be read, and the keys of the rest.

    `progress` is called with (images decoded, images in all).
    """
    bad: set[str] = set()
    for piece in pieces(range(len(source)), chunk):
        try:
            source.read(np.array(piece))
        except BadImageError as error:
            bad.update(error.keys)
        progress(piece.stop, len(source))
    rows = np.array([i for i, key in enumerate(source.keys()) if key not in bad], dtype=np.int64)
    return rows, sorted(bad)


def left_out(source: Source) -> Sequence[str]:
    """Return what a source left out when it was opened: a line a damaged record."""
    return getattr(source, "skipped", ())


def root_of(source: Source) -> Source:
    """Return what a selection's rows were chosen from; any other source is its own root."""
    return source.source if isinstance(source, Selection) else source


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """Write one string a line, for keys. A key must not hold a line break."""
    check_names(lines, "key")
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")


def check_names(names: Iterable[str], what: str) -> None:
    """Refuse names that are no line of UTF-8 text.

    Raises:
        DataError: it quotes the first of them; `what` says what it should be ("key").
    """
    for name in names:
        if _NO_LINE.search(name):
            raise DataError(
                f"the {what} {name[:80]!r} holds a line break, a NUL or half a character: rename it"
            )


def read_lines(path: Path, error: Error = DataError) -> list[str]:
    """Return what `write_lines` wrote; raise `error` where it is missing or damaged."""
    with failing_as(error, f"{path} is damaged: it is not UTF-8", UnicodeDecodeError):
        # splitlines() would also split at characters that a file's name may hold
        return read_bytes(path, "list of keys", error).decode().split("\n")[:-1]
