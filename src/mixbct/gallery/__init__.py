"""The gallery in service: enrol, search, and switch the query model over stored vectors."""

from mixbct.gallery.gallery import Gallery
from mixbct.gallery.records import Hits

__all__ = ["Gallery", "Hits"]
