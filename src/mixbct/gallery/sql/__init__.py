"""The gallery's store over a relational database, written once for SQLite and PostgreSQL.

The SQL is what both understand, with `%s` for a value and `= ANY(%s)` for one of many; a state is
what a transaction of theirs shows. What truly differs stands behind a dialect: `sqlite/` (one file,
FAISS beside it) and `postgres/` (pgvector, Milvus). A dialect opens, checks and brings up its
tables, locks, takes rows in bulk, and finds the nearest of them.

Every transaction that changes something has a revision of its own, ascending in the order of their
commits, under the one lock of whoever writes; so are ids. What was present just before a switch is
what had a lower id then, and ended with it or later.
"""
