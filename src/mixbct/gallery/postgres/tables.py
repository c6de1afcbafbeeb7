"""The tables of a gallery in PostgreSQL: how they are made, and held to what mixbct makes.

All lie in one schema: those of every database, and what a bridge maps vectors to, in a `mapped_…`
that can be thrown away. Nothing with code in it is ours: no trigger, rule, view,
default or policy, so that none of another's ever runs with the rights of whoever opens a gallery.
"""

import re
from typing import TYPE_CHECKING, Final

from mixbct.errors import GalleryError, NoGalleryError
from mixbct.gallery.postgres.search import HNSW, indexed
from mixbct.gallery.tables import INDEXES, ITEMS, ROWS, TABLES, TO_ROWS, VECTORS

if TYPE_CHECKING:
    from psycopg import Connection

VERSION: Final = 3
INLINE: Final = 2000
"""Dimensions up to which a vector fits into its row; longer ones are kept aside by the server."""

_TABLES: Final = TABLES | {
    "derived": "name text PRIMARY KEY, contract integer NOT NULL, side text NOT NULL, "
    "json text, filled bigint NOT NULL, last bigint NOT NULL, rows bigint NOT NULL",
}
_TABLES_2: Final = _TABLES | ITEMS
_TABLES_1: Final = {name: columns for name, columns in _TABLES_2.items() if name != "hits"} | {
    "gallery": "version integer, revision bigint, token text, last_id bigint, index text",
    "changes": "revision bigint, time text, first_id bigint",
}
_FROM_1_TO_2: Final = f"""
ALTER TABLE changes ADD token text NOT NULL DEFAULT '';
ALTER TABLE changes ALTER token DROP DEFAULT;
UPDATE changes c SET token = g.token FROM gallery g WHERE g.revision = c.revision;
ALTER TABLE gallery DROP revision, DROP token;
ALTER TABLE gallery RENAME index TO searched_by;
CREATE TABLE hits ({TABLES["hits"]});
CREATE INDEX past_by_end ON {INDEXES["past_by_end"]}
"""
# what every table of the schema is: columns and types, and code that hangs on it; and all other
# code there but an extension's. It is found by built-in functions and operators alone: those win
# over the schema's where types are the same
_FOUND: Final = r"""
WITH place AS (SELECT to_regnamespace(quote_ident(%s::text))::oid AS id)
SELECT c.relname::text, c.relkind::text, c.relhastriggers OR c.relhasrules OR c.relrowsecurity
    OR c.relchecks > 0 OR EXISTS (
        SELECT FROM pg_catalog.pg_index x WHERE x.indrelid = c.oid AND (x.indpred IS NOT NULL OR
        pg_get_expr(x.indexprs, c.oid) !~ '^\(?vector\)?::halfvec\(\d+\)$')),
    string_agg(a.attname::text || ' ' || CASE
        WHEN a.atthasdef OR a.attgenerated <> '' THEN 'computed'
        ELSE format_type(a.atttypid, a.atttypmod) END, ', ' ORDER BY a.attnum)
FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_attribute a
    ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = (SELECT id FROM place) AND c.relkind <> 'i'
GROUP BY c.oid, c.relname, c.relkind, c.relhastriggers, c.relhasrules, c.relrowsecurity, c.relchecks
UNION ALL SELECT name, '', true, '' FROM (
    SELECT tableoid, oid, oprnamespace, 'operator ' || oprname::text FROM pg_catalog.pg_operator
    UNION ALL
    SELECT tableoid, oid, pronamespace, 'function ' || proname::text FROM pg_catalog.pg_proc
    UNION ALL
    SELECT tableoid, oid, typnamespace, 'type ' || typname::text FROM pg_catalog.pg_type
    WHERE typtype <> 'c' AND typcategory <> 'A') AS code (kind, id, within, name)
WHERE within = (SELECT id FROM place) AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
    WHERE d.classid = code.kind AND d.objid = code.id AND d.deptype = 'e')
"""


def create_table(connection: "Connection", table: str, dim: int, columns: str = VECTORS) -> None:
    """Make a table with vectors, which are kept in their rows where they fit.

    Kept aside, as the server does with rows of more than 2 kB, they take twice as long to scan.
    """
    connection.execute(f"CREATE TABLE {table} ({columns.format(f'vector({dim})')})".encode())
    storage = "PLAIN" if dim <= INLINE else "EXTERNAL"
    connection.execute(f"ALTER TABLE {table} ALTER vector SET STORAGE {storage}".encode())


def create_rows(connection: "Connection", table: str, dim: int, searched_by: str) -> None:
    """Make a table of rows, whose names stay beside their vector, with its index."""
    create_table(connection, table, dim, ROWS)
    for column in ("key", "label"):
        connection.execute(f"ALTER TABLE {table} ALTER {column} SET STORAGE MAIN".encode())
    index(connection, table, dim, searched_by)


def index(connection: "Connection", table: str, dim: int, searched_by: str) -> None:
    """Build the HNSW index of a table, or take it away, as the gallery is searched."""
    query = f"DROP INDEX IF EXISTS {table}_hnsw"
    if searched_by == HNSW:
        expression, kind = indexed(dim)[0], "halfvec" if dim > 2000 else "vector"
        query = (
            f"CREATE INDEX IF NOT EXISTS {table}_hnsw ON {table} "
            f"USING hnsw ({expression} {kind}_ip_ops)"
        )
    connection.execute(query.encode())


def create_tables(connection: "Connection", schema: str, place: str) -> None:
    """Make the schema's tables, in a transaction of the caller's.

    Raises:
        GalleryError: something is there already, or the database does not hold every text.
    """
    from psycopg import sql

    found = connection.execute(_FOUND, (schema,)).fetchall()
    if found:
        raise GalleryError(
            f"{place}: the schema {schema!r} holds {len(found)} tables or functions already, "
            f"{found[0][0]!r} among them; open the gallery there, or choose another schema "
            "(?schema=NAME)"
        )
    if connection.info.parameter_status("server_encoding") != "UTF8":
        raise GalleryError(f"{place} does not hold every text: make a database in UTF8")
    there = connection.execute("SELECT to_regnamespace(quote_ident(%s))", (schema,)).fetchone()
    if there == (None,):
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    for table, columns in _TABLES.items():
        connection.execute(f"CREATE TABLE {table} ({columns})".encode())
    for name, columns in INDEXES.items():
        connection.execute(f"CREATE INDEX {name} ON {columns}".encode())
    connection.execute("INSERT INTO gallery VALUES (%s, 0, 'exact')", (VERSION,))


def bring_up_to_date(connection: "Connection", version: int) -> None:
    """Make the present version of a gallery of an earlier one."""
    if version == 1:
        connection.execute(_FROM_1_TO_2.encode())
    [(searched_by,)] = connection.execute("SELECT searched_by FROM gallery").fetchall()
    dims = "SELECT number, (json::json->>'dim')::int FROM contracts"
    for number, dim in connection.execute(dims).fetchall():
        create_rows(connection, f"rows_{number}", dim, searched_by)
        connection.execute(TO_ROWS.format(number).encode())
        connection.execute(f"DROP TABLE vectors_{number}".encode())
    connection.execute("DROP TABLE items")
    connection.execute("UPDATE gallery SET version = %s", (VERSION,))


def checked_version(connection: "Connection", schema: str, place: str) -> int:
    """Return the version of a schema that is in all as mixbct makes it, and not a later one.

    Raises:
        NoGalleryError: there is none.
        GalleryError: it is of a later version, or with something else in it.
    """
    found = {name: rest for name, *rest in connection.execute(_FOUND, (schema,)).fetchall()}
    if not found:
        raise NoGalleryError(
            f"there is no gallery at {place} (schema {schema!r}); make one with "
            f"`mixbct gallery init {place} --model OLD_MODEL`"
        )
    version = VERSION
    kind, code, columns = found.get("gallery", ("", True, ""))
    if kind == "r" and not code and "version integer" in columns:
        version = (connection.execute("SELECT max(version) FROM gallery").fetchone() or [0])[0]
        if version not in range(1, VERSION + 1):
            raise GalleryError(
                f"the gallery at {place} has schema version {version}, this version of mixbct "
                f"reads 1 to {VERSION}; use the version that wrote it"
            )
    tables = {1: _TABLES_1, 2: _TABLES_2}.get(version, _TABLES)
    for name in sorted(tables.keys() | found.keys()):
        table = tables.get(name) or _of_vectors(name, version)
        if problem := _problem(table, *found.get(name, ("", False, ""))):
            raise GalleryError(
                f"the schema {schema!r} of {place} is not as mixbct makes a gallery: {name!r} "
                f"{problem}. Use the gallery as it was before that, or a schema of its own"
            )
    return version


def _of_vectors(name: str, version: int) -> str | None:
    if re.fullmatch(r"rows_[0-9]+", name) and version >= 3:
        return ROWS.format("vector(d)")
    if re.fullmatch(r"mapped_[0-9a-f]{12}" + r"|vectors_[0-9]+" * (version < 3), name):
        return VECTORS.format("vector(d)")
    return None


def _problem(table: str | None, kind: str, code: bool, columns: str) -> str | None:
    if not (kind and table):
        return "was added or taken away"
    if kind != "r":
        return "is no table"
    if code:
        return "has code: a trigger, a rule, a policy, a check or an index over it"
    parts = [part.split() for part in table.split(", ") if part[0].islower()]
    wanted = ", ".join(" ".join(part[:2]) for part in parts if len(part) > 1)
    same = re.sub(r"vector\([0-9]+\)", "vector(d)", columns) == wanted
    return None if same else f"has the columns {columns}, not {wanted}"
