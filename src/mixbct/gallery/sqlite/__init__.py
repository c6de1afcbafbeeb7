"""The gallery's store in one SQLite file, the source of truth, with FAISS beside it.

Write-ahead logging: readers go on while one process writes, and a process that is killed leaves the
last committed state. Vectors are little-endian float32, L2-normalised. A contract is searched by a
FAISS index (`index.py`), held in memory for all of a process (`indexes.py`), with a cache file.
"""

from mixbct.gallery.sqlite.database import Sqlite

__all__ = ["Sqlite"]
