"""The gallery's store in a PostgreSQL database with pgvector: any number of clients at once.

Readers see one committed state (repeatable read); writers take the one row of the table `gallery`
in turn, so that ids become visible in the order in which they are handed out.

Exact search scans a contract's table. What a bridge maps stored rows to lies in a table of its own,
which is filled some thousand rows at a time beside all that goes on, and from then on followed by
whoever writes. An approximate index (HNSW, or Milvus: `milvus.py`) is built on request alone, since
a gate has judged exact search.
"""

from mixbct.gallery.postgres.database import Postgres

__all__ = ["Postgres"]
