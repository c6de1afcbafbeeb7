"""The tables that every database of a gallery has.

The present rows of the contract numbered n are in `rows_n`, names and vector together: where they
lie apart, a database takes an eighth longer to store them.
"""

import zlib
from typing import Final

_NAME: Final = 'text COLLATE "C" NOT NULL'
# as PostgreSQL writes them, and it may have been given them: never to be edited, only added to
TABLES: Final = {
    "gallery": "version integer NOT NULL, last_id bigint NOT NULL, searched_by text NOT NULL",
    "changes": "revision bigint PRIMARY KEY, time text NOT NULL, first_id bigint NOT NULL, "
    "token text NOT NULL",
    "contracts": f"number integer PRIMARY KEY, id {_NAME} UNIQUE, json text NOT NULL, "
    "rows bigint NOT NULL",
    "switches": "number integer PRIMARY KEY, revision bigint NOT NULL, contract integer NOT NULL, "
    "folder text, time text NOT NULL, before integer, restores integer",
    "edges": "source integer NOT NULL, target integer NOT NULL, since bigint NOT NULL, "
    "until bigint, json text NOT NULL, digest integer NOT NULL, "
    "PRIMARY KEY (source, target, since)",
    "past": f"id bigint PRIMARY KEY, key {_NAME}, label text, contract integer NOT NULL, "
    "digest integer NOT NULL, until bigint NOT NULL, vector vector NOT NULL",
    "hits": f"key {_NAME} PRIMARY KEY, count bigint NOT NULL",
}
INDEXES: Final = {"past_by_key": "past (key)", "past_by_end": "past (until, contract)"}
ROWS: Final = (
    f"id bigint PRIMARY KEY, key {_NAME} UNIQUE, label text, digest integer NOT NULL, "
    "vector {} NOT NULL"
)
VECTORS: Final = "id bigint PRIMARY KEY, vector {} NOT NULL"
"""Rows as a bridge maps them; in earlier versions of all tables those of every contract too."""
ITEMS: Final = {
    "items": f"id bigint PRIMARY KEY, key {_NAME} UNIQUE, label text, contract integer NOT NULL, "
    "digest integer NOT NULL"
}
"""What stood beside those vectors in earlier versions."""
TO_ROWS: Final = (
    "INSERT INTO rows_{0} SELECT i.id, key, label, digest, vector FROM items i "
    "JOIN vectors_{0} v ON v.id = i.id WHERE contract = {0} ORDER BY i.id"
)
"""What makes rows of both."""


def digest_of(one: str, two: str | None, three: str, content: bytes) -> int:
    """Return the checksum of a stored row; each length counts, so that no two rows run together."""
    names = f"{len(one)} {'-' if two is None else len(two)} {one}{two or ''}{three}"
    return zlib.crc32(content, zlib.crc32(names.encode("utf-8", "surrogatepass")))
