"""Texts from a table as a source: CSV, JSON lines or Parquet, a row a text with its key."""

import csv
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from mixbct.data.source import Rows, Source, Texts, check_names, digest_rows
from mixbct.errors import DataError
from mixbct.reading import file_size, needing_extra, reason

Row = tuple[str, object]
"""The place of a row, for people, and what stands there."""


class TextSource(Source):
    """The texts of a table, which an encoder turns into vectors.

    Args:
        path: of a .csv, .tsv, .jsonl, .ndjson or .parquet file.
        key: the column (or JSON name) of the keys, no two alike.
        text: that of the texts.
        label: that of the labels; None: `label` where the first row has it, else there are none.
        skip_bad: leave out rows without a key, a text or, where there are labels, a label; with a
            key that was there before; or that are damaged. `skipped` names them.

    Raises:
        DataError: the file cannot be read, has no such column, or has such rows.
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
        columns: list[str] | None = None
        for place, row in _rows(path, {key, text, label or "label"}):
            if columns is None and isinstance(row, dict):
                columns = _columns(path, row, key, text, label)
            try:
                if columns is None or not isinstance(row, dict):
                    raise DataError(f"expected names and values, found {str(row)[:80]!r}")
                item, written, *of = (_value(row, column) for column in columns)
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
) -> list[str]:
    """Return the names of the columns that are read, those of the first row."""
    for option, name in (("key", key), ("text", text), ("label", label)):
        if name is not None and name not in row:
            raise DataError(
                f"{path} has no column {name!r}, but {', '.join(map(str, row))[:200]}: name that "
                f"of the {option}s with --{option}"
            )
    label = label or ("label" if "label" in row else None)
    return [key, text, *([label] if label else [])]


def _value(row: Mapping[str, object], column: str) -> str:
    """Return what a row has in a column, as text that says something."""
    value = row.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if None in row:  # what `csv` calls fields beyond the columns
        raise DataError("it has more fields than there are columns")
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{column!r} is {value!r:.40}, expected a text")
    try:
        value.encode()
    except UnicodeEncodeError as problem:
        raise DataError(f"{column!r} is no UTF-8") from problem
    return value


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
    # a byte that is no UTF-8 becomes half a character, which its row is refused for
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        between = "\t" if path.suffix.lower() == ".tsv" else ","
        reader = csv.DictReader(file, strict=True, delimiter=between)
        for row in reader:
            yield f"line {reader.line_num}", row


def _json_lines(path: Path, columns: set[str]) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line) if line.strip() else None
            except (ValueError, RecursionError):
                row = line
            if row is not None:
                yield f"line {number}", row


def _parquet(path: Path, columns: set[str]) -> Iterator[Row]:
    with needing_extra("parquet", str(path), DataError):
        from pyarrow.parquet import ParquetFile
    with ParquetFile(path) as file:
        batches = file.iter_batches(8192, columns=sorted(columns))
        rows = (row for batch in batches for row in batch.to_pylist())
        yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))


_READERS: dict[str, Callable[[Path, set[str]], Iterator[Row]]] = {
    ".csv": _separated,
    ".tsv": _separated,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
