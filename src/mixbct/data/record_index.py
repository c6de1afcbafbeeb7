"""The index of a record file: text lines `key<TAB>offset`, parsed without a loop over lines."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8, UInt32

from mixbct.errors import RecordError
from mixbct.files import file_written_whole

_BLOCK = 1 << 20
# 18 digits always fit into 64 bits
_LINE = re.compile(rb"(\d{1,18})\t(\d{1,18})\r?")
_LONGEST_LINE = 2 * 18 + 3
_POWERS = 10 ** np.arange(9)


class RecordIndex(NamedTuple):
    """Where each record begins.

    Attributes:
        keys: [n] ascending, no two alike.
        offsets: [n] in bytes from the beginning of the record file.
        problems: what was left out, a line each; empty unless `skip_bad` was given.
    """

    keys: Int64[np.ndarray, " n"]
    offsets: Int64[np.ndarray, " n"]
    problems: list[str]


def read_index(path: Path, skip_bad: bool = False) -> RecordIndex:
    """Read an index file in blocks; memory is 16 bytes a record and a few blocks.

    Args:
        path: of the `.idx` file.
        skip_bad: leave out lines that are not `key<TAB>offset`, and all but the first of lines
            with the same key, and list them in `problems`.

    Raises:
        RecordError: the file cannot be read, or holds such a line, and `skip_bad` is not given.
            It names the file, and the key or the byte offset of the line.
    """
    problems: list[str] = []
    try:
        with path.open("rb") as file:
            lines = sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK), b""))
        # the shortest line has four bytes
        count = min(lines, path.stat().st_size // 4) + 1
        keys, offsets = np.empty((2, count), np.int64)
        filled = 0
        for at, block in _whole_lines(path):
            some = _parse(block)
            if some is None:
                some = _parse_slowly(path, at, block, skip_bad, problems)
            keys[filled : filled + len(some[0])], offsets[filled : filled + len(some[0])] = some
            filled += len(some[0])
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}", []) from error
    return _in_order(path, keys[:filled], offsets[:filled], skip_bad, problems)


def write_index(
    path: Path, keys: Int64[np.ndarray, " n"], offsets: Int64[np.ndarray, " n"]
) -> None:
    """Write an index file, whole or not at all."""
    with file_written_whole(path) as file:
        for start in range(0, len(keys), 1 << 16):
            part = slice(start, start + (1 << 16))
            lines = zip(keys[part].tolist(), offsets[part].tolist(), strict=True)
            file.write("".join(f"{key}\t{offset}\n" for key, offset in lines).encode())


def _whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (byte offset, block) where each block ends with a line break."""
    at, rest = 0, b""
    with path.open("rb") as file:
        while read := file.read(_BLOCK):
            end = read.rfind(b"\n") + 1
            # a block without a line break is no index; it goes on as it is, and is refused
            block, rest = (rest + read[:end], read[end:]) if end else (rest + read, b"")
            yield at, block
            at += len(block)
    if rest:
        yield at, rest + b"\n"


def _parse(block: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (keys, offsets) of a block of lines, None where one of them is not as it should be."""
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
    characters = np.frombuffer(block, np.uint8)
    digits = characters - np.uint8(ord("0"))
    ends = np.flatnonzero(digits > 9)
    tabs, breaks = ends[0::2], ends[1::2]
    if len(tabs) != len(breaks) or len(breaks) == 0 or breaks[-1] != len(characters) - 1:
        return None
    if (characters[tabs] != ord("\t")).any() or (characters[breaks] != ord("\n")).any():
        return None
    key_lengths = tabs - np.concatenate(([0], breaks[:-1] + 1))
    offset_lengths = breaks - tabs - 1
    if min(key_lengths.min(), offset_lengths.min()) < 1:
        return None
    if max(key_lengths.max(), offset_lengths.max()) > 18:
        return None
    eights = _eights(digits)
    return _numbers(eights, tabs, key_lengths), _numbers(eights, breaks, offset_lengths)


def _eights(digits: UInt8[np.ndarray, " c"]) -> UInt32[np.ndarray, " _"]:
    """Return, at i + 16, the number that the eight characters before i make; 0 for no digit."""
    padded = np.zeros(24 + len(digits), np.uint8)
    np.multiply(digits, digits <= 9, out=padded[24:])
    pairs = padded[:-1] * np.uint8(10) + padded[1:]
    fours = pairs[:-2].astype(np.uint16) * np.uint16(100) + pairs[2:]
    eights: np.ndarray = fours[:-4].astype(np.uint32) * np.uint32(10_000) + fours[4:]
    return eights


def _numbers(
    eights: UInt32[np.ndarray, " _"],
    ends: Int64[np.ndarray, " n"],
    lengths: Int64[np.ndarray, " n"],
) -> Int64[np.ndarray, " n"]:
    """Return the decimal numbers of `lengths` digits whose last digits stand before `ends`."""
    values = np.zeros(len(ends), np.int64)
    for done in range(0, int(lengths.max()), 8):
        # what stands to the left of a number's first digit is cut off again
        kept = _POWERS[np.clip(lengths - done, 0, 8)]
        values += eights[ends + (16 - done)] % kept * 10**done
    return values


def _parse_slowly(
    path: Path, at: int, block: bytes, skip_bad: bool, problems: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return (keys, offsets) of the lines of a block that are as they should be."""
    found: list[tuple[int, int]] = []
    for line in block.removesuffix(b"\n").split(b"\n"):
        match = _LINE.fullmatch(line)
        if match:
            found.append((int(match[1]), int(match[2])))
        else:
            shown = line[:_LONGEST_LINE].decode("ascii", "backslashreplace")
            problem = f"{path}, byte {at}: {shown!r} is not a key, a tab and an offset"
            if not skip_bad:
                raise RecordError(f"{problem}; {_REPAIR}", [])
            problems.append(problem)
        at += len(line) + 1
    keys, offsets = np.array(found, np.int64).reshape(-1, 2).T
    return keys, offsets


_REPAIR = (
    "leave such lines out with --skip-bad, or delete the index: it is rebuilt from the record file"
)


def _in_order(
    path: Path,
    keys: Int64[np.ndarray, " n"],
    offsets: Int64[np.ndarray, " n"],
    skip_bad: bool,
    problems: list[str],
) -> RecordIndex:
    """Bring the lines into the order of the keys, and look for keys that occur twice."""
    if not (keys[1:] > keys[:-1]).all():
        order = np.argsort(keys, kind="stable")
        keys, offsets = keys[order], offsets[order]
        again = np.concatenate(([False], keys[1:] == keys[:-1]))
        if again.any() and not skip_bad:
            row = int(np.flatnonzero(again)[0])
            raise RecordError(
                f"{path}: key {keys[row]} occurs more than once (offsets {offsets[row - 1]} and "
                f"{offsets[row]}); {_REPAIR}",
                [str(keys[row])],
            )
        problems += [
            f"{path}: key {key} occurs again, with offset {offset}"
            for key, offset in zip(keys[again].tolist(), offsets[again].tolist(), strict=True)
        ]
        keys, offsets = keys[~again], offsets[~again]
    return RecordIndex(keys, offsets, problems)
