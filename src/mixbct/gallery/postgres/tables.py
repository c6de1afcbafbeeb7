"""The tables of a gallery in PostgreSQL: how they are made, and held to what mixbct makes.

All lie in one schema. The stored vectors of the contract numbered n are in `vectors_n`, beside
`items`, so that a scan reads vectors and nothing else; what a bridge maps them to is in a
`mapped_…`, which can be thrown away. Nothing with code in it is ours: no trigger, rule, view,
default or policy, so that none of another's ever runs with the rights of whoever opens a gallery.
"""

from typing import TYPE_CHECKING, Final

from mixbct.errors import GalleryError, NoGalleryError

if TYPE_CHECKING:
    from psycopg import Connection

VERSION: Final = 2
INLINE: Final = 2000
"""Dimensions up to which a vector fits into its row; longer ones are kept aside by the server."""

_NAME: Final = 'text COLLATE "C" NOT NULL'
_TABLES: Final = {
    "gallery": "version integer NOT NULL, revision bigint NOT NULL, token text NOT NULL, "
    "last_id bigint NOT NULL, index text NOT NULL",
    "changes": "revision bigint PRIMARY KEY, time text NOT NULL, first_id bigint NOT NULL",
    "contracts": f"number integer PRIMARY KEY, id {_NAME} UNIQUE, json text NOT NULL, "
    "rows bigint NOT NULL",
    "switches": "number integer PRIMARY KEY, revision bigint NOT NULL, contract integer NOT NULL, "
    "folder text, time text NOT NULL, before integer, restores integer",
    "edges": "source integer NOT NULL, target integer NOT NULL, since bigint NOT NULL, "
    "until bigint, json text NOT NULL, digest integer NOT NULL, "
    "PRIMARY KEY (source, target, since)",
    "items": f"id bigint PRIMARY KEY, key {_NAME} UNIQUE, label text, contract integer NOT NULL, "
    "digest integer NOT NULL",
    "past": f"id bigint PRIMARY KEY, key {_NAME}, label text, contract integer NOT NULL, "
    "digest integer NOT NULL, until bigint NOT NULL, vector vector NOT NULL",
    "hits": f"key {_NAME} UNIQUE, count bigint NOT NULL",
    "derived": "name text PRIMARY KEY, contract integer NOT NULL, side text NOT NULL, "
    "json text, filled bigint NOT NULL, last bigint NOT NULL, rows bigint NOT NULL",
}
_VECTORS: Final = "id bigint PRIMARY KEY, vector vector({}) NOT NULL"
# what every table of the schema is: columns and types, and code that hangs on it
_FOUND: Final = r"""
SELECT c.relname, c.relkind::text, c.relhastriggers OR c.relhasrules OR c.relrowsecurity
    OR c.relchecks > 0 OR EXISTS (
        SELECT FROM pg_catalog.pg_index x WHERE x.indrelid = c.oid AND (x.indpred IS NOT NULL OR
        pg_get_expr(x.indexprs, c.oid) !~ '^\(?vector\)?::halfvec\(\d+\)$')),
    string_agg(a.attname || ' ' || CASE WHEN a.atthasdef OR a.attgenerated <> '' THEN 'computed'
        ELSE format_type(a.atttypid, a.atttypmod) END, ', ' ORDER BY a.attnum)
FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_attribute a
    ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = to_regnamespace(quote_ident(%s)) AND c.relkind <> 'i'
GROUP BY c.oid, c.relname, c.relkind, c.relhastriggers, c.relhasrules, c.relrowsecurity, c.relchecks
"""


def create_vectors(connection: "Connection", table: str, dim: int) -> None:
    """Make a table of vectors, which are kept in their rows where they fit.

    Kept aside, as the server does with rows of more than 2 kB, they take twice as long to scan.
    """
    connection.execute(f"CREATE TABLE {table} ({_VECTORS.format(dim)})".encode())
    storage = "PLAIN" if dim <= INLINE else "EXTERNAL"
    connection.execute(f"ALTER TABLE {table} ALTER vector SET STORAGE {storage}".encode())


def create_tables(connection: "Connection", schema: str, place: str) -> None:
    """Make the schema's tables, in a transaction of the caller's.

    Raises:
        GalleryError: something is there already, or the database does not hold every text.
    """
    from psycopg import sql

    found = connection.execute(_FOUND, (schema,)).fetchall()
    if found:
        raise GalleryError(
            f"{place}: the schema {schema!r} holds {len(found)} tables already, {found[0][0]!r} "
            "among them; open the gallery there, or choose another schema (?schema=NAME)"
        )
    if connection.info.parameter_status("server_encoding") != "UTF8":
        raise GalleryError(f"{place} does not hold every text: make a database in UTF8")
    there = connection.execute("SELECT to_regnamespace(quote_ident(%s))", (schema,)).fetchone()
    if there == (None,):
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    for table, columns in _TABLES.items():
        connection.execute(f"CREATE TABLE {table} ({columns})".encode())
    connection.execute("CREATE INDEX past_by_key ON past (key)")
    connection.execute("INSERT INTO gallery VALUES (%s, 0, '', 0, 'exact')", (VERSION,))


def check_tables(connection: "Connection", schema: str, place: str) -> None:
    """Refuse a schema that is not in all as mixbct makes it.

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
    if "gallery" in found and "version" in found["gallery"][2]:
        version = connection.execute("SELECT max(version) FROM gallery").fetchone()
        if version and version[0] != VERSION:
            raise GalleryError(
                f"the gallery at {place} has schema version {version[0]}, this version of mixbct "
                f"reads {VERSION}; use the version that wrote it"
            )
    for name in sorted(_TABLES.keys() | found.keys()):
        if problem := _problem(name, *found.get(name, ("", False, ""))):
            raise GalleryError(
                f"the schema {schema!r} of {place} is not as mixbct makes a gallery: {name!r} "
                f"{problem}. Use the gallery as it was before that, or a schema of its own"
            )


def _problem(name: str, kind: str, code: bool, columns: str) -> str | None:
    vectors = name.startswith(("vectors_", "mapped_"))
    if not kind or (name not in _TABLES and not vectors):
        return "was added or taken away"
    if kind != "r":
        return "is no table"
    if code:
        return "has code: a trigger, a rule, a policy, a check or an index over it"
    if vectors:
        inside = columns.removeprefix("id bigint, vector vector(").removesuffix(")")
        return None if inside.isdigit() else f"has the columns {columns}"
    parts = [part.split() for part in _TABLES[name].split(", ") if part[0].islower()]
    wanted = ", ".join(" ".join(part[:2]) for part in parts if len(part) > 1)
    return None if columns == wanted else f"has the columns {columns}, not {wanted}"
