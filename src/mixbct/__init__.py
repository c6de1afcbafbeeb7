"""Upgrade an embedding model without re-indexing."""

from importlib.metadata import version

__version__ = version("mixbct")
__all__ = ["__version__"]
