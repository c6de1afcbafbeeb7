"""Opening what others wrote: text, TOML and arrays, each in one place and with named errors.

Foreign files lie: a byte order mark, a header that promises more than the file holds, objects in an
array. Whatever is read here is checked against the file's size before memory is taken for it, and
nothing of it is ever executed.
"""

import contextlib
import io
import math
import re
import stat
import tomllib
import warnings
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Int64

from mixbct.errors import DataError, Error, MixbctError

_NPY = b"\x93NUMPY"
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_LONGEST_HEADER = 2**16
_LONGEST_TOML = 2**22
_LONGEST_KEY = 64
_LONGEST_NUMBER = re.compile(r"\d{400}")
_MOST_DIGITS = 18  # that int64 is sure to hold


def read_bytes(path: Path, what: str, error: Error, most: int | None = None) -> bytes:
    """Return a file's content.

    Args:
        path: a regular file.
        what: what it should be, for errors ("recipe", "list of pairs").
        error: raised where it cannot be read.
        most: bytes; a longer file is refused.
    """
    size = file_size(path, what, error)
    if most is not None and size > most:
        raise error(f"{path} has {size:,} bytes, too many for a {what} ({most:,})")
    with failing_as(error, f"{path} cannot be read as a {what}", OSError):
        return path.read_bytes()


def file_size(path: Path, what: str, error: Error) -> int:
    """Return the bytes of a regular file; nothing else is ever opened, since a pipe may hang."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise error(f"there is no {what} at {path}") from None
    except (OSError, ValueError) as problem:
        raise error(f"{shown(path)} cannot be read as a {what}: {reason(problem)}") from problem
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise error(f"{path} cannot be read as a {what}: it is {kind}")
    return found.st_size


def read_lines_of(path: Path, what: str, error: Error = DataError) -> list[str]:
    """Return the lines of a foreign text file in UTF-8, without their ends.

    Byte order marks (of each file that was put behind another), carriage returns and blanks at the
    ends of lines, and blank lines at the end of the file are not part of what somebody meant. A
    line is what a line feed ends, so that a name may hold any other character. Blank lines in
    between stay, as "".

    Args:
        path: the file.
        what: what it should hold, for errors ("list of labels").
        error: raised where it is missing, is not UTF-8 (the line is named), or holds a NUL.
    """
    content = read_bytes(path, what, error)
    try:
        text = content.decode()
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        raise error(
            f"{path}, line {line}: expected a {what} in UTF-8, found the byte "
            f"0x{content[problem.start]:02x}; save the file as UTF-8"
        ) from problem
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise error(f"{path}, line {line}: expected a {what} as text, found a NUL character")
    lines = list(map(meant, text.split("\n")))
    while lines and not lines[-1]:
        lines.pop()
    return lines


def meant(name: str) -> str:
    """Return a foreign line or name without the blanks and byte order marks at its ends."""
    return name.strip(" \t\r\ufeff")


def expected_instead(name: str, what: str) -> str | None:
    """Return what is expected where a foreign name stands for none; None: it says something.

    Args:
        name: as it was meant; an empty one stands for none, and so does a label −1.
        what: "key", "label" or the like.
    """
    none = ("", "-1") if what == "label" else ("",)
    return f"a {what} (leave out rows that have none)" if name in none else None


def read_integers(
    path: Path, columns: int, what: str, error: Error = DataError, skipped: list[str] | None = None
) -> Int64[np.ndarray, "c n"]:
    """Read lines of `columns` non-negative whole numbers.

    A byte order mark, carriage returns, blanks at the ends of lines and blank lines at the end of
    the file are not part of what somebody meant.

    Args:
        path: of the table.
        columns: how many numbers a line has.
        what: what they are, for errors ("a key and an offset").
        error: raised where the file cannot be read or a line holds something else; it is named.
        skipped: takes a message for each run of such lines, which are left out then.
    """
    file_size(path, f"table of {what}", error)
    plain = _plain_table(path, columns)
    if plain is not None:
        return plain.T
    text = read_bytes(path, f"table of {what}", error).decode("utf-8-sig", "backslashreplace")
    rows: list[list[int]] = []
    sound = True
    for number, line in enumerate(text.rstrip().split("\n") if text.strip() else [], start=1):
        words = line.split()
        good = len(words) == columns and all(map(is_whole, words))
        if good:
            rows.append(list(map(int, words)))
        elif sound:  # of a run of other lines the first is named
            expected = f"{what} as whole numbers parted by blanks"
            problem = wrong_line(path, number, expected, line.strip())
            if skipped is None:
                raise error(problem)
            skipped.append(problem)
        sound = good
    return np.array(rows, np.int64).reshape(-1, columns).T


def _plain_table(path: Path, columns: int) -> Int64[np.ndarray, "n c"] | None:
    """Read a table without a flaw; None for one that has to be looked at line by line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an empty file
            values = np.loadtxt(path, np.int64, comments=None, ndmin=2, encoding="utf-8-sig")
        with path.open("rb") as file:
            lines = sum(part.count(b"\n") for part in iter(lambda: file.read(2**20), b""))
            file.seek(-1, 2)
            lines += file.read() != b"\n"
    except (OSError, ValueError):
        return None
    fits = values.shape == (lines, columns)  # blank lines are passed over
    return values if fits and values.min() >= 0 and values.max() < 10**_MOST_DIGITS else None


def is_whole(word: str) -> bool:
    """Return whether a word is a whole number, from 0, that fits into an int64."""
    return word.isascii() and word.isdigit() and len(word) <= _MOST_DIGITS


def wrong_line(path: Path, number: int, expected: str, found: str) -> str:
    """Return the one message about a line of a foreign table; lines count from 1."""
    return f"{path}, line {number}: expected {expected}, found {found[:80]!r}"


def read_toml(path: Path, what: str, error: Error) -> dict[str, Any]:
    """Return the content of a TOML file."""
    with failing_as(error, f"{path} is not valid TOML, which a {what} must be", ValueError):
        return parse_toml(read_bytes(path, what, error, most=_LONGEST_TOML).decode("utf-8-sig"))


def parse_toml(text: str) -> dict[str, Any]:
    """Return the content of TOML text.

    Raises:
        ValueError: it is no TOML, is nested too deep, or holds NUL, a number of over 400 digits or
            a key of over 64 parts.
    """
    if "\\u0000" in text or "\\U00000000" in text:
        raise ValueError("a NUL character")
    # the time that they take to read grows with the square of their length
    for line in text.split("\n"):
        if line.partition("=")[0].count(".") > _LONGEST_KEY and not line.lstrip().startswith("#"):
            raise ValueError(f"a key of more than {_LONGEST_KEY} parts")
    if _LONGEST_NUMBER.search(text):
        raise ValueError("a number of more than 400 digits")
    try:
        return tomllib.loads(text.replace("\r\n", "\n"))
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def open_array(
    path: Path,
    what: str,
    error: Error,
    dtypes: Collection[str] | None = None,
    ndim: int | None = None,
    shape: tuple[int, ...] | None = None,
) -> np.memmap:
    """Open a .npy file memory-mapped and read-only; its header is held against the file's size.

    Args:
        path: the file.
        what: what it should hold, for errors ("features").
        error: raised where it is missing, damaged or something else.
        dtypes: names of the types that are expected, in this machine's byte order; none: any but
            objects.
        ndim: the number of dimensions that is expected.
        shape: the shape that is expected, exactly.
    """
    # NumPy parses the header as Python text, which fails in many ways
    with failing_as(error, f"{shown(path)} cannot be read as {what}"):
        opened = _mapped(path, file_size(path, f"file of {what}", error))
    found, dtype = opened.shape, opened.dtype
    if (
        (dtypes is not None and not (dtype.name in dtypes and dtype.isnative))
        or (ndim is not None and len(found) != ndim)
        or (shape is not None and found != shape)
    ):
        wanted = " or ".join(dtypes) if dtypes else "numbers"
        form = f" {shape}" if shape is not None else f" in {ndim} dimensions" if ndim else ""
        raise error(f"{path} holds {dtype} {found}; expected {what} as {wanted}{form}")
    return opened


def _mapped(path: Path, size: int) -> np.memmap:
    """Map a .npy file of version 1 or 2, whose header must fit its size in bytes."""
    with path.open("rb") as file:
        start = file.read(len(_NPY))
        if start != _NPY:
            kind = "no .npy file, as np.save writes them" if start else "empty"
            if start.startswith(b"PK"):
                kind = "a zip archive (.npz): np.save each array by itself"
            raise ValueError(f"it is {kind}")
        file.seek(0)
        shape, columns, dtype = _header(file, size)
        offset = file.tell()
    return np.memmap(path, dtype, "r", offset, shape, "F" if columns else "C")


def _header(
    file: IO[bytes] | io.BufferedIOBase, size: int
) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read the header of a .npy file of so many bytes: shape, whether by columns, and dtype."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f".npy of version {version}; expected 1.0 or 2.0")
    shape, columns, dtype = _HEADERS[version](file, max_header_size=_LONGEST_HEADER)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded")
    takes, follow = math.prod(shape) * dtype.itemsize, size - file.tell()
    if follow != takes:
        found = f"{dtype} {shape} takes {takes:,} bytes, but {follow:,} follow"
        raise ValueError(f"it is damaged: {found} the header")
    return shape, columns, dtype


class ZippedArrays:
    """The arrays of a .npz file, whose rows are read a block at a time, compressed or not.

    Args:
        path: the file.
        what: what it should hold, for errors ("vectors").
        error: raised where it is missing, damaged or something else.
    """

    def __init__(self, path: Path, what: str, error: Error) -> None:
        self.path, self.error = path, error
        self._said = f"{shown(path)} cannot be read as {what}"
        file_size(path, f"file of {what}", error)
        self.headers: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        # zip, compression and NumPy's header fail in many ways
        with failing_as(error, self._said), zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    shape, columns, dtype = _header(file, entry.file_size)
                if columns and len(shape) > 1:
                    raise ValueError(f"{entry.filename} lies by columns: save it in C order")
                self.headers[entry.filename.removesuffix(".npy")] = shape, dtype

    def blocks(self, name: str, rows: int) -> Iterator[np.ndarray]:
        """Yield an array's blocks of so many rows; its checksum is looked at on the way."""
        shape, dtype = self.headers[name]
        takes = math.prod(shape[1:]) * dtype.itemsize
        with (
            failing_as(self.error, self._said),
            zipfile.ZipFile(self.path) as archive,
            archive.open(f"{name}.npy") as file,
        ):
            _header(file, archive.getinfo(f"{name}.npy").file_size)
            for start in range(0, shape[0], rows):
                count = min(rows, shape[0] - start)
                yield np.frombuffer(file.read(count * takes), dtype).reshape(count, *shape[1:])
            file.read(1)  # at the end the checksum is held


def shown(path: Path) -> str:
    """Return a path as it can be printed: shortened, and whatever its name holds."""
    text = str(path).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 300 else f"{text[:140]} … {text[-140:]}"


@contextlib.contextmanager
def failing_as(error: Error, said: str, *kinds: type[Exception]) -> Iterator[None]:
    """Raise as `error` what goes wrong inside; it says so, and why.

    Args:
        error: what is raised.
        said: what failed, for the message.
        kinds: of what goes wrong; none: whatever is no named error yet, told on one line.
    """
    try:
        yield
    except Exception as problem:
        if isinstance(problem, kinds or MixbctError) != bool(kinds):
            raise
        why = reason(problem)
        if not kinds:
            why = " ".join(why.split())[:400]
            if not isinstance(problem, ValueError | OSError):
                why = f"{type(problem).__name__}: {why}"
        raise error(f"{said}: {why}") from problem


def needing_extra(extra: str, what: str, error: Error) -> contextlib.AbstractContextManager[None]:
    """Raise as `error`, with the command that helps, that a package of an extra is missing."""
    said = f"{what} needs a package that is missing (pip install 'mixbct[{extra}]')"
    return failing_as(error, said, ImportError)


def reason(problem: BaseException) -> str:
    """Return why something failed, in words: the system's own where it has some."""
    return getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
