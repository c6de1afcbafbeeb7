"""Other people's vectors, read batch by batch: arrays, FAISS files, tables, feature banks."""

from mixbct.gallery.foreign.opening import open_source
from mixbct.gallery.foreign.rows import UNDECLARED, ForeignRows, VectorSource
from mixbct.gallery.foreign.tables import Columns

__all__ = ["UNDECLARED", "Columns", "ForeignRows", "VectorSource", "open_source"]
