"""Vectors back into the product that they came from: a new column, or a table, in the new space.

Rows are mapped into the new model's own space, so that an application that knows nothing of mixbct
compares new queries with old items by plain cosine. Nothing that was there is changed: the column
is new, or made by an earlier export (its comment says so), or empty. Rows are written in batches,
and only where they differ, so that an export that was stopped goes on when it is run again.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float32

from mixbct.data.postgresql import Server
from mixbct.data.source import unseen
from mixbct.errors import ContractError, GalleryError
from mixbct.features.bridged import through
from mixbct.gallery.foreign.tables import parts_of
from mixbct.gallery.records import Tick
from mixbct.gallery.rules import require_tied, rows_in, side_of, with_edges
from mixbct.gallery.snapshot import Snapshot
from mixbct.schemas.contract import Contract
from mixbct.schemas.record import Record

if TYPE_CHECKING:
    from psycopg import Connection, Cursor

_Do = Callable[[str], Any]
"""Runs a statement; gives its cursor."""
_COLUMNS: Final = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), col_description(a.attrelid, a.attnum),
    EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisprimary
        AND i.indnkeyatts = 1 AND a.attnum = i.indkey[0]),
    obj_description(a.attrelid, 'pg_class')
FROM pg_attribute a WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""


class TableExport(Record):
    """What was written into a table."""

    place: str
    table: str
    column: str
    dim: int
    rows: int
    written: int
    unchanged: int
    missing: int


def export_table(
    snapshot: Snapshot,
    url: str,
    table: str,
    column: str,
    key: str | None = None,
    progress: Tick = unseen,
) -> TableExport:
    """Write every row, as the query model's own space has it, into a column.

    Args:
        snapshot: of the gallery.
        url: of the product's database.
        table: its table, with its schema where needed; one that is not there is made, with the
            columns `key` and `column`.
        column: to be added.
        key: the column of the table that holds the gallery's keys [its primary key].
        progress: called with (rows done, rows in all).

    Raises:
        GalleryError: the column holds something of another origin, the table has no such key, or
            the database refuses.
        ContractError: queries would have to be mapped to meet some of the rows.
    """
    query = snapshot.query_model().contract
    require_tied(snapshot, query)
    for (contract, rows), edge in with_edges(snapshot, query):
        if edge and edge.bridge and edge.bridge.query:
            raise ContractError(
                f"{rows:,} rows of {contract} meet queries of {query} only where "
                f"these are mapped too ({edge.bridge}), which no other program does: fit a bridge "
                "that maps stored rows alone (`mixbct adapt`, a kind whose query side stays as it "
                "is), gate it, and switch over its edge"
            )
    server = Server(url)
    with server.connect() as connection, server.named_errors():
        do, made = _columns(connection, server.place, query, table, column, key)
        total, done, found, written = rows_in(snapshot), 0, 0, 0
        for (contract, _), edge in with_edges(snapshot, query):
            for block in snapshot.blocks(contract):
                mapped = through(side_of(edge), block.vectors, block.keys)
                there, changed = _write(connection, do, made, block.keys, mapped)
                found, written, done = found + there, written + changed, done + len(mapped)
                progress(done, total)
    return TableExport(
        place=server.place,
        table=table,
        column=column,
        dim=query.dim,
        rows=total,
        written=written,
        unchanged=found - written,
        missing=total - found,
    )


def _columns(
    connection: "Connection",
    place: str,
    query: Contract,
    table: str,
    column: str,
    key: str | None,
) -> tuple[_Do, bool]:
    """Make the column, and the table where there is none.

    Returns:
        What runs a statement with the names of table, column, key and the key's type in it; and
        whether the table is mixbct's own.
    """
    from psycopg import sql

    ours, kind = f"mixbct export, in the space of {query.id}", f"vector({query.dim})"
    into = sql.SQL(".").join(map(sql.Identifier, parts_of(table)))
    names = {"table": into, "column": sql.Identifier(column), "ours": ours, "kind": sql.SQL(kind)}

    def do(text: str) -> "Cursor[Any]":
        return connection.execute(sql.SQL(text).format(**names))

    with connection.transaction():
        connection.execute("SET LOCAL lock_timeout = '10s'")
        found = connection.execute(_COLUMNS, (into.as_string(connection),)).fetchall()
        if not found:
            do("CREATE TABLE {table} (key text PRIMARY KEY)")
            do("COMMENT ON TABLE {table} IS {ours}")
            found = connection.execute(_COLUMNS, (into.as_string(connection),)).fetchall()
        there = {name: (type, comment) for name, type, comment, *_ in found}
        key = key or next((name for name, *_, primary, _ in found if primary), None)
        if key is None or key not in there:
            what = "no primary key of one column" if key is None else f"no column {key!r}"
            raise GalleryError(
                f"{place}: {table} has {what}; name the column of the gallery's keys (--key), "
                f"of {', '.join(there)}"
            )
        if column not in there:
            do("ALTER TABLE {table} ADD COLUMN {column} {kind}")
            do("COMMENT ON COLUMN {table}.{column} IS {ours}")
        elif there[column] != (kind, ours):
            full = "SELECT EXISTS (SELECT FROM {table} WHERE {column} IS NOT NULL)"
            if there[column][0] != kind or do(full).fetchone() != (False,):
                raise GalleryError(
                    f"{place}: the column {column!r} of {table} is there already, as "
                    f"{there[column][0]}, and is not an export for {query}; name a new column"
                )
            do("COMMENT ON COLUMN {table}.{column} IS {ours}")
    names |= {"key": sql.Identifier(key), "type": sql.SQL(there[key][0])}
    return do, found[0][4] == ours


def _write(
    connection: "Connection",
    do: _Do,
    made: bool,
    keys: list[str],
    rows: Float32[np.ndarray, "n d"],
) -> tuple[int, int]:
    """Write a batch; return how many of the keys are there, and how many rows were changed."""
    with connection.transaction():
        do(
            "CREATE TEMP TABLE IF NOT EXISTS mixbct_rows (key text, vector vector) "
            "ON COMMIT DELETE ROWS"
        )
        with connection.cursor().copy("COPY mixbct_rows FROM STDIN BINARY") as copy:
            copy.set_types(["text", "vector"])
            for pair in zip(keys, rows, strict=True):
                copy.write_row(pair)
        if made:
            do("INSERT INTO {table} (key) SELECT key FROM mixbct_rows ON CONFLICT DO NOTHING")
        same = "t.{key} = CAST(r.key AS {type})"
        counted = do(f"SELECT count(*) FROM {{table}} t JOIN mixbct_rows r ON {same}").fetchone()
        changed = do(
            "UPDATE {table} t SET {column} = r.vector FROM mixbct_rows r "
            f"WHERE {same} AND t.{{column}} IS DISTINCT FROM r.vector"
        )
        return int(counted[0]) if counted else 0, changed.rowcount
