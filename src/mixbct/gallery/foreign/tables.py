"""A table of vectors, in the words of its database: what every SQL reader asks with."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mixbct.errors import DataError

Catalogue = Mapping[tuple[str, str], Mapping[str, str]]
"""(schema, table or view) → column → its type, of all that can be read."""


class Columns(NamedTuple):
    """The names that a person gave, as they stand in the database."""

    table: str | None = None
    """Of a schema or not: `faces`, `app.faces`, `app."odd.name"`."""
    key: str | None = None
    vector: str | None = None
    label: str | None = None
    contract: str | None = None


@dataclass(frozen=True)
class Relation:
    """Rows of vectors, as expressions of SQL in which every name is quoted.

    Attributes:
        name: for people.
        rows: what stands behind FROM.
        key: an expression of text.
        vector: an expression of one of the types that hold vectors.
        label: an expression of text; empty where there are none.
        contract: an expression of text; empty where the rows do not say.
        where: which rows.
    """

    name: str
    rows: str
    key: str
    vector: str
    label: str = ""
    contract: str = ""
    where: str = "true"

    def select(self, parameter: str | None) -> str:
        """Return the query for keys, labels and vectors, of the contract that is given to it."""
        of = f"coalesce({self.contract}, '') = {parameter}"
        condition = f"({self.where}) AND {of}" if parameter else self.where
        label = self.label or "NULL"
        return f"SELECT {self.key}, {label}, {self.vector} FROM {self.rows} WHERE {condition}"

    def count(self) -> str:
        """Return the query for how many rows each contract has."""
        what = f"coalesce({self.contract}, '')" if self.contract else "''"
        return f"SELECT {what}, count(*) FROM {self.rows} WHERE {self.where} GROUP BY 1 ORDER BY 1"


def quoted(name: str) -> str:
    """Return a name as SQL takes it, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


def parts_of(name: str) -> list[str]:
    """Return schema and table of `app.faces`, the table alone of `faces`; with "…" or without."""
    one = '"(?:[^"]|"")+"'
    parts = re.fullmatch(f'(?:({one}|[^."][^.]*)[.])?({one}|.+)', name, re.DOTALL)
    return [
        part[1:-1].replace('""', '"') if re.fullmatch(one, part) else part
        for part in (parts.groups() if parts else (name,))
        if part
    ]


def as_text(expression: str) -> str:
    """Return an expression of the same as text."""
    return f"CAST({expression} AS text)"


def relation_of(columns: Columns, catalogue: Catalogue) -> Relation:
    """Return the table that a person named, once all its columns are found in the catalogue.

    Raises:
        DataError: the table or a column is not there, is there several times, or was not named.
    """
    if not (columns.table and columns.key and columns.vector):
        raise DataError(
            "a table of vectors needs --table, --key and --vector, the names of the table and of "
            "its columns (or --preset, for a product whose tables are known)"
        )
    schema, table = table_named(columns.table, catalogue)
    there = catalogue[schema, table]
    for name in columns[1:]:
        if name is not None and name not in there:
            raise DataError(
                f"{schema}.{table} has no column {name!r}, but {', '.join(map(repr, there))}"
            )
    return Relation(
        name=f"{schema}.{table}",
        rows=f"{quoted(schema)}.{quoted(table)}",
        key=as_text(quoted(columns.key)),
        vector=quoted(columns.vector),
        label=as_text(quoted(columns.label)) if columns.label else "",
        contract=as_text(quoted(columns.contract)) if columns.contract else "",
    )


def table_named(name: str, catalogue: Catalogue) -> tuple[str, str]:
    """Return the schema and the table that a name, with a schema or not, can only mean."""
    found = [
        (schema, table)
        for schema, table in catalogue
        if name == table or parts_of(name) in ([table], [schema, table])
    ]
    if len(found) != 1:
        which = found or list(catalogue)
        listed = ", ".join(f"{schema}.{table}" for schema, table in which[:20])
        what = "is there several times" if found else "is no table that can be read"
        raise DataError(f"{name!r} {what}; there are {listed or 'none'}: name one with --table")
    return found[0]
