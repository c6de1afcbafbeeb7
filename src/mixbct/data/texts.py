"""Texts from a table as a source: CSV, JSON lines or Parquet, a row a text with its key."""

import contextlib
import csv
import hashlib
import json
import sys
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TextIO

import numpy as np

from mixbct.data.source import Rows, Source, Texts, check_names, digest_rows
from mixbct.errors import DataError
from mixbct.reading import expected_instead, file_size, meant, needing_extra, reason

Row = tuple[str, object]
"""The place of a row, for people, and what stands there: values by column, or an error."""


class TextSource(Source):
    """The texts of a table, which an encoder turns into vectors.

    A text is kept as it is; keys and labels are read as in any foreign list, without blanks and
    byte order marks at their ends.

    Args:
        path: of a .csv, .tsv, .jsonl, .ndjson or .parquet file.
        key: the column (or JSON name) of the keys, no two alike.
        text: that of the texts.
        label: that of the labels; None: `label` where the first row has it, else there are none.
        skip_bad: leave out rows without a key, a text or, where there are labels, a label (−1 is
            none); with a key that was there before; or that are damaged. `skipped` names them.

    Raises:
        DataError: the file cannot be read, has no such column or several of that name, or has
            such rows.
    """

    def __init__(
        self,
        path: Path,
        key: str = "key",
        text: str = "text",
        label: str | None = None,
        skip_bad: bool = False,
    ) -> None:
        self.skipped: list[str] = []
        self._texts: list[str] = []
        named: dict[str, str] = {}
        columns: dict[str, str] | None = None
        for place, row in _rows(path, {key, text, label or "label"}):
            if columns is None and isinstance(row, dict):
                columns = _columns(path, row, key, text, label)
            try:
                if isinstance(row, DataError):
                    raise row
                if columns is None or not isinstance(row, dict):
                    raise DataError(f"expected names and values, found {str(row)[:80]!r}")
                item, written, *of = (_value(row, *column) for column in columns.items())
                check_names([item, *of], "key or label")
                if item in named:
                    raise DataError(f"the key {item!r} was there before")
            except DataError as problem:
                self.skipped.append(f"{place}: {problem}")
                continue
            named[item] = of[0] if of else ""
            self._texts.append(written)
        if self.skipped and not skip_bad:
            more = f"; and {len(self.skipped) - 5} more" if len(self.skipped) > 5 else ""
            raise DataError(
                f"{len(self.skipped)} rows of {path} cannot be embedded: "
                f"{'; '.join(self.skipped[:5])}{more}. Mend them, or leave them out (--skip-bad)"
            )
        if not named:
            raise DataError(f"{path} holds no text")
        classes = sorted(set(named.values()) - {""})
        number_of = {name: number for number, name in enumerate(classes)}
        labels = np.array([number_of.get(name, 0) for name in named.values()], np.int64)
        self._named = named
        super().__init__(f"texts of {path}", list(named), labels, tuple(classes))

    def read(self, rows: Rows) -> Texts:
        """Return the texts of `rows`, in that order."""
        return np.array([self._texts[row] for row in rows], dtype=object)

    def digest(self) -> str:
        """Return the digest of the keys, the labels and the texts."""
        prints = (hashlib.sha256(text.encode()).hexdigest() for text in self._texts)
        pairs = zip(self._named.items(), prints, strict=True)
        return digest_rows((*names, each) for names, each in pairs)


def _columns(
    path: Path, row: Mapping[str, object], key: str, text: str, label: str | None
) -> dict[str, str]:
    """Return the columns that are read, by what they hold, as the first row has them."""
    for option, name in (("key", key), ("text", text), ("label", label)):
        if name is not None and name not in row:
            raise DataError(
                f"{path} has no column {name!r}, but {', '.join(map(str, row))[:200]}: name that "
                f"of the {option}s with --{option}"
            )
    label = label or ("label" if "label" in row else None)
    return {"key": key, "text": text, **({"label": label} if label else {})}


def _value(row: Mapping[str, object], what: str, column: str) -> str:
    """Return the key, text or label that a row has in a column, as text that says something."""
    found = row.get(column)
    if None in row:  # fields beyond the columns
        raise DataError("it has more fields than there are columns")
    if isinstance(found, int) and not isinstance(found, bool):
        found = str(found)
    value = found if isinstance(found, str) else ""
    if expected := expected_instead(meant(value).strip(), what):
        raise DataError(f"expected {expected}, found {found!r:.40} in column {column!r}")
    try:
        value.encode()
    except UnicodeEncodeError as problem:
        raise DataError(f"{column!r} is no UTF-8") from problem
    return value if what == "text" else meant(value)


def _rows(path: Path, columns: set[str]) -> Iterator[Row]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} is no table of texts: expected one of {', '.join(_READERS)}")
    file_size(path, "table of texts", DataError)
    try:
        yield from reader(path, columns)
    except DataError:
        raise
    except Exception as problem:  # a table can be damaged in many ways
        raise DataError(f"{path} cannot be read as texts: {reason(problem)}") from problem


def _separated(path: Path, columns: set[str]) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    header: list[str] = []
    end = 0  # of the last row
    with _opened(path, newline="") as file:
        # where a row begins another file may have been put behind; a text's own lines stay
        lines = (
            line.removeprefix("\ufeff") if number == end else line
            for number, line in enumerate(file)
        )
        between = "\t" if path.suffix.lower() == ".tsv" else ","
        reader = csv.reader(lines, strict=True, delimiter=between)
        for row in reader:
            end = reader.line_num
            if row and header:
                yield f"line {end}", dict(zip_longest(header, row))
            elif row:
                header = row
                if repeated := _repeated(header, columns):
                    raise DataError(f"{path}, line {end}: {repeated}")


def _json_lines(path: Path, columns: set[str]) -> Iterator[Row]:
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            written = meant(line.removesuffix("\n"))
            row: object = written
            with contextlib.suppress(ValueError, RecursionError):
                # an object becomes a tuple of names and values, unlike an array
                row = json.loads(written, object_pairs_hook=tuple)
            if isinstance(row, tuple):
                repeated = _repeated([name for name, _ in row], columns)
                row = DataError(repeated) if repeated else dict(row)
            if written and row is not None:
                yield f"line {number}", row


def _parquet(path: Path, columns: set[str]) -> Iterator[Row]:
    with needing_extra("parquet", str(path), DataError):
        from pyarrow.parquet import ParquetFile
    with ParquetFile(path) as file:
        if repeated := _repeated(file.schema_arrow.names, columns):
            raise DataError(f"{path}: {repeated}")
        batches = file.iter_batches(8192, columns=sorted(columns))
        rows = (row for batch in batches for row in batch.to_pylist())
        yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def _opened(path: Path, newline: str | None = None) -> TextIO:
    """Open a table as text.

    Raises:
        DataError: it is UTF-16, or another encoding with zeros between the characters.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or 0 in start:
        raise DataError(
            f"{path}, line 1: expected a table of texts in UTF-8, found UTF-16; save the file as "
            "UTF-8 (and not as Unicode text)"
        )
    # a byte that is no UTF-8 becomes half a character, which its row is refused for
    return path.open(encoding="utf-8", errors="surrogateescape", newline=newline)


def _repeated(names: Sequence[str], columns: set[str]) -> str | None:
    """Return what is wrong where a column that is read stands there more than once."""
    for column in sorted(columns):
        if (count := names.count(column)) > 1:
            return f"the column {column!r} is there {count} times: leave one, or rename the others"
    return None


_READERS: dict[str, Callable[[Path, set[str]], Iterator[Row]]] = {
    ".csv": _separated,
    ".tsv": _separated,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
