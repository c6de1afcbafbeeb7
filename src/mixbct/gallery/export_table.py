"""Vectors back into the product that they came from: a new column, or a table, in the new space.

Rows are mapped into the new model's own space, so that an application that knows nothing of mixbct
compares new queries with old items by plain cosine. Nothing that was there is changed: the column
is new, or made by an earlier export (its comment says so), or empty. Rows are written in batches,
and only where they differ, so that an export that was stopped goes on when it is run again.
"""

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float32

from mixbct.data.postgresql import Server
from mixbct.errors import ContractError, GalleryError
from mixbct.features.bridged import through
from mixbct.gallery.foreign.tables import parts_of
from mixbct.gallery.records import Tick
from mixbct.gallery.rules import edges_from, require_tied, side_of
from mixbct.gallery.snapshot import Snapshot
from mixbct.schemas.contract import Contract
from mixbct.schemas.record import Record

if TYPE_CHECKING:
    from psycopg import Connection

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
    progress: Tick | None = None,
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
    edges = edges_from(snapshot, query)
    sides = {}
    for stored in snapshot.contracts():
        edge = edges.get(stored.contract.id)
        if edge and edge.bridge and edge.bridge.query:
            raise ContractError(
                f"{stored.rows:,} rows of {stored.contract} meet queries of {query} only where "
                f"these are mapped too ({edge.bridge}), which no other program does: fit a bridge "
                "that maps stored rows alone (`mixbct adapt`, a kind whose query side stays as it "
                "is), gate it, and switch over its edge"
            )
        sides[stored.contract] = side_of(edge)
    server = Server(url)
    with server.connect() as connection, server.named_errors():
        names, made = _columns(connection, server.place, query, table, column, key)
        done = written = found = 0
        total = sum(stored.rows for stored in snapshot.contracts())
        for contract, side in sides.items():
            for block in snapshot.blocks(contract):
                rows = through(side, block.vectors, block.keys)
                counts = _write(connection, names, made, block.keys, rows)
                found, written, done = found + counts[0], written + counts[1], done + len(rows)
                if progress:
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
) -> tuple[dict[str, Any], bool]:
    """Make the column, and the table where there is none.

    Returns:
        Table, column, key and the key's type, as SQL; and whether the table is mixbct's own.
    """
    from psycopg import sql

    ours, kind = f"mixbct export, in the space of {query.id}", f"vector({query.dim})"
    into = sql.SQL(".").join(map(sql.Identifier, parts_of(table)))
    names = {"table": into, "column": sql.Identifier(column), "ours": ours, "kind": sql.SQL(kind)}

    def do(text: str) -> None:
        connection.execute(sql.SQL(text).format(**names))

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
            full = sql.SQL("SELECT EXISTS (SELECT FROM {table} WHERE {column} IS NOT NULL)")
            if there[column][0] != kind or connection.execute(full.format(**names)).fetchone() != (
                False,
            ):
                raise GalleryError(
                    f"{place}: the column {column!r} of {table} is there already, as "
                    f"{there[column][0]}, and is not an export for {query}; name a new column"
                )
            do("COMMENT ON COLUMN {table}.{column} IS {ours}")
    names |= {"key": sql.Identifier(key), "type": sql.SQL(there[key][0])}
    return names, found[0][4] == ours


def _write(
    connection: "Connection",
    names: dict[str, Any],
    made: bool,
    keys: list[str],
    rows: Float32[np.ndarray, "n d"],
) -> tuple[int, int]:
    """Write a batch; return how many of the keys are there, and how many rows were changed."""
    from psycopg import sql

    join = "{table} t JOIN mixbct_rows r ON t.{key} = CAST(r.key AS {type})"
    add = "INSERT INTO {table} (key) SELECT key FROM mixbct_rows ON CONFLICT DO NOTHING"
    update = (
        "UPDATE {table} t SET {column} = r.vector FROM mixbct_rows r WHERE "
        "t.{key} = CAST(r.key AS {type}) AND t.{column} IS DISTINCT FROM r.vector"
    )
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(
            "CREATE TEMP TABLE IF NOT EXISTS mixbct_rows (key text, vector vector) "
            "ON COMMIT DELETE ROWS"
        )
        with cursor.copy("COPY mixbct_rows FROM STDIN BINARY") as copy:
            copy.set_types(["text", "vector"])
            for pair in zip(keys, rows, strict=True):
                copy.write_row(pair)
        if made:
            cursor.execute(sql.SQL(add).format(**names))
        counted = cursor.execute(sql.SQL(f"SELECT count(*) FROM {join}").format(**names)).fetchone()
        cursor.execute(sql.SQL(update).format(**names))
        return int(counted[0]) if counted else 0, cursor.rowcount
