"""Vectors in Milvus: an index for galleries that have outgrown one machine.

Records stay where they are. A collection holds ids and vectors, is only ever added to, and can be
thrown away: whoever searches it says which ids count. `milvus://HOST:PORT` is a server, whose token
is taken from MIXBCT_MILVUS_TOKEN; `milvus:/FILE.db` is Milvus Lite, in one process, for trials. The
index is HNSW unless `?index=FLAT` is said, which compares every row. It is an optional extra:
`pip install 'mixbct[milvus]'`.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Final

import numpy as np
from jaxtyping import Float32

from mixbct.errors import GalleryError, without_passwords
from mixbct.gallery.records import Found, Ids
from mixbct.reading import needing_extra

_PARAMETERS: Final = {"HNSW": {"M": 16, "efConstruction": 200}, "FLAT": {}}
MOST: Final = 16_384
"""Hits that Milvus gives a query at the most."""


class Milvus:
    """Collections of vectors under one place.

    Args:
        place: as above.

    Raises:
        GalleryError: it is no such place, or pymilvus is not installed.
    """

    def __init__(self, place: str) -> None:
        self.place = without_passwords(place)
        where, _, options = place.partition("?")
        self._kind = options.removeprefix("index=") or "HNSW"
        if self._kind not in _PARAMETERS or "@" in where or not where.startswith("milvus:/"):
            raise GalleryError(
                f"{self.place} is no place for an index; write milvus://HOST:PORT (its token in "
                "MIXBCT_MILVUS_TOKEN) or milvus:/FILE.db, and ?index=FLAT for exact search"
            )
        self._uri = where.replace("milvus://", "http://").removeprefix("milvus:")
        self.exact = self._kind == "FLAT"

    @cached_property
    def _client(self) -> Any:
        with needing_extra("milvus", "Milvus", GalleryError):
            from pymilvus import MilvusClient
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # what fails is said in one line
        token = os.environ.get("MIXBCT_MILVUS_TOKEN", "")
        return MilvusClient(self._uri, token=token, timeout=60)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[Any]:
        try:
            yield self._client
        except GalleryError:
            raise
        except Exception as problem:  # pymilvus, gRPC and Milvus Lite each have their own
            raise GalleryError(
                f"the index at {self.place} cannot be used: {type(problem).__name__}: "
                f"{without_passwords(str(problem))[:300]}; start it again, or search without it "
                "(`mixbct gallery reindex GALLERY --index exact`)"
            ) from None

    def create(self, name: str, dim: int) -> None:
        """Make an empty collection."""
        with self._named_errors() as client:
            from pymilvus import DataType

            schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("id", DataType.INT64, is_primary=True)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
            index = client.prepare_index_params()
            index.add_index(
                "vector", index_type=self._kind, metric_type="IP", params=_PARAMETERS[self._kind]
            )
            client.create_collection(
                name, schema=schema, index_params=index, consistency_level="Strong"
            )

    def add(self, name: str, ids: Ids, vectors: Float32[np.ndarray, "n d"]) -> None:
        """Add rows; those that are there already are written again."""
        with self._named_errors() as client:
            pairs = zip(ids.tolist(), vectors, strict=True)
            client.upsert(name, [{"id": id, "vector": vector} for id, vector in pairs])

    def count(self, name: str) -> int:
        """Return how many rows a collection has; -1: there is none."""
        with self._named_errors() as client:
            if not client.has_collection(name):
                return -1
            return int(client.query(name, output_fields=["count(*)"])[0]["count(*)"])

    def search(self, name: str, queries: Float32[np.ndarray, "q d"], k: int) -> Found:
        """Return the k nearest rows of each query, of all that were ever added.

        Where fewer were found for some, their scores end with minus infinity.
        """
        with self._named_errors() as client:
            found = client.search(
                name,
                data=list(queries),
                limit=k,
                output_fields=["id"],
                search_params={"params": {"ef": max(2 * k, 100)}} if not self.exact else {},
            )
        scores = np.full((len(queries), k), -np.inf, np.float32)
        ids = np.zeros((len(queries), k), np.int64)
        for row, hits in enumerate(found):
            scores[row, : len(hits)] = [hit["distance"] for hit in hits]
            ids[row, : len(hits)] = [hit["id"] for hit in hits]
        return Found(scores, ids, self.exact)

    def drop(self, name: str) -> None:
        """Throw a collection away."""
        with self._named_errors() as client:
            client.drop_collection(name)

    def close(self) -> None:
        """Close the connection, where one was opened."""
        if "_client" in self.__dict__:
            self._client.close()
