"""The gallery: rows of several contracts, searched by one query model at a time.

Two rules hold at every commit, so that every score that a search returns was allowed by a gate:
each row's contract is the query model's or is reached by a recorded edge from it; and vectors
are compared under no other model than the query model.
"""

import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mixbct.data.bank import normalise
from mixbct.errors import ContractError, FeatureError, GalleryError
from mixbct.files import disk_full_as_error
from mixbct.gallery.database import faults_of
from mixbct.gallery.records import (
    ContractRows,
    EdgeStatus,
    EnrolReport,
    GalleryStatus,
    Hits,
    QueryModel,
)
from mixbct.gallery.search import Searcher
from mixbct.gallery.sqlite import SqliteStore
from mixbct.reading import reason, shown
from mixbct.schemas.gate import Edge
from mixbct.schemas.model import Contract

DATABASE = "gallery.sqlite"
_NOT_IN_NAMES = re.compile(r"[\0\n\ud800-\udfff]")


class Gallery(contextlib.AbstractContextManager["Gallery"]):
    """A gallery over a store; for one thread.

    Args:
        store: holds the rows.
        folder: holds the cache files of the search indexes.
    """

    def __init__(self, store: SqliteStore, folder: Path) -> None:
        self.folder = folder
        self._store = store
        self._searcher = Searcher(store, folder)

    @classmethod
    def create(cls, path: Path, contract: Contract, model: Path | None = None) -> "Gallery":
        """Make an empty gallery in the folder `path`.

        Args:
            path: the folder; it is made where it is missing.
            contract: of the query model.
            model: the folder of that model, for whoever embeds images later.

        Raises:
            GalleryError: a gallery is already there, or no folder can be made at `path`.
        """
        try:
            if path.exists() and not path.is_dir():
                raise GalleryError(f"{path} is a file; name a folder for the gallery")
            with disk_full_as_error(path):
                path.mkdir(parents=True, exist_ok=True)
                store = SqliteStore.create(
                    path / DATABASE, QueryModel(contract, model and model.resolve())
                )
        except (OSError, ValueError) as problem:
            raise GalleryError(
                f"a gallery cannot be made at {shown(path)}: {reason(problem)}"
            ) from problem
        return cls(store, path)

    @classmethod
    def open(cls, path: Path) -> "Gallery":
        """Open the gallery in the folder `path`.

        Raises:
            GalleryError: there is none, or not one that this version can read.
        """
        return cls(SqliteStore.open(path / DATABASE), path)

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def __exit__(self, *error: object) -> None:
        self.close()

    def query_model(self) -> QueryModel:
        """Return the model that queries are embedded with."""
        with self._store.reading():
            return self._store.query_model()

    def enrol(
        self,
        keys: Sequence[str],
        labels: Sequence[str],
        vectors: Float[np.ndarray, "n d"],
        contract: Contract,
        replace: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> EnrolReport:
        """Store a batch, all of it or nothing.

        Args:
            keys: n names, each of one item in the whole gallery.
            labels: n class names.
            vectors: any scale; they are stored normalised.
            contract: what the vectors were embedded under.
            replace: a key that is there already takes the new label, vector and contract
                (its backfill); without this it is an error.
            progress: called with (rows stored, rows in all).

        Raises:
            GalleryError: a key is there already, or twice in the batch; the counts differ; a name
                holds a line break, a NUL or half a character.
            FeatureError: a vector is NaN, infinite or zero, or has the wrong dimension.
            ContractError: the query model cannot be compared with `contract`.
            DiskFullError: nothing of the batch is stored.
        """
        _check_batch(keys, labels, len(vectors))
        _check_dimension(vectors, contract)
        rows = normalise(vectors, list(keys))
        with self._store.writing():
            query = self._store.query_model().contract
            if contract.id != query.id and contract.id not in self._edges_from(query):
                raise ContractError(
                    f"vectors of {contract} cannot be enrolled: no recorded edge leads to them "
                    f"from the query model {query}; embed the items with that, or give the edge of "
                    "`mixbct gate` on it against them to `mixbct gallery use-model`"
                )
            held = [] if replace else self._store.held(keys)
            if held:
                raise GalleryError(
                    f"{len(held)} of {len(keys)} keys are in the gallery already "
                    f"({', '.join(held[:5])}); leave them out, or replace these items (--replace)"
                )
            replaced = self._store.put(keys, labels, contract, rows, progress) if len(keys) else 0
            total = sum(stored.rows for stored in self._store.contracts())
        return EnrolReport(
            gallery=str(self.folder),
            contract=contract,
            added=len(keys) - replaced,
            replaced=replaced,
            rows=total,
        )

    def search(self, vectors: Float[np.ndarray, "q d"], contract: Contract, k: int = 5) -> Hits:
        """Return the k nearest rows of each query, over all contracts.

        Args:
            vectors: embeddings of any scale.
            contract: what they were embedded under. Only the query model's is accepted, so that
                a service that missed a switch gets an error, not wrong neighbours.
            k: hits a query, at least 1.

        Raises:
            ContractError: `contract` is not the query model's, or it is not tied to a stored one.
            FeatureError: a vector is NaN, infinite or zero, or becomes so behind an edge's
                bridge, or has the wrong dimension.
        """
        if k < 1:
            raise GalleryError(f"k is {k}; ask for at least 1 hit")
        _check_dimension(vectors, contract)
        queries = normalise(vectors)
        with self._store.reading():
            query = self._store.query_model().contract
            if contract.id != query.id:
                raise ContractError(
                    f"the queries were embedded by {contract}, but the gallery's query model is "
                    f"{query}; embed them with that one, or switch with `mixbct gallery use-model`"
                )
            edges = self._require_tied(query)
            bridges = {id: edge.bridge for id, edge in edges.items() if edge.bridge}
            scores, ids = self._searcher.search(queries, k, bridges)
            items = self._store.items(np.unique(ids))
            contracts = {stored.contract.id: stored.contract for stored in self._store.contracts()}
        self._searcher.save()
        return Hits(scores, ids, items, contracts, edges)

    def use_model(self, contract: Contract, *edges: Edge, model: Path | None = None) -> None:
        """Switch the query model. No stored vector is touched.

        Args:
            contract: of the new query model.
            edges: from `contract` to stored contracts, as the gate wrote them; they are
                recorded if the switch succeeds.
            model: the folder of that model.

        Raises:
            ContractError: rows of a contract are stored that no recorded or given edge ties to
                the new query model; or an edge starts elsewhere, its bridge is one of other
                contracts, or its dimensions differ and it has none.
        """
        for edge in edges:
            _check_edge(edge, contract)
        with self._store.writing():
            for edge in edges:
                self._store.add_edge(edge)
            self._require_tied(contract)
            self._store.set_query_model(QueryModel(contract, model and model.resolve()))

    def status(self) -> GalleryStatus:
        """Return what the gallery holds, and how far its index files are."""
        with self._store.reading():
            query = self._store.query_model()
            edges = self._edges_from(query.contract)
            contracts = []
            for stored in self._store.contracts():
                edge = edges.get(stored.contract.id)
                contracts.append(
                    ContractRows(
                        contract=stored.contract,
                        rows=stored.rows,
                        threshold=edge.threshold if edge else None,
                        cached_rows=self._searcher.cached_rows(stored, edge),
                    )
                )
            return GalleryStatus(
                gallery=str(self.folder),
                query_model=query.contract,
                model_folder=str(query.folder) if query.folder else None,
                rows=sum(stored.rows for stored in contracts),
                contracts=tuple(contracts),
                edges=tuple(_edge_status(edge) for edge in self._store.edges()),
                size_bytes=_size_of(self.folder),
            )

    def faults(self, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Read every row and record, and return all that is wrong with them, a line each.

        `progress` is called with (rows read, rows in all).
        """
        changed: list[str] = []
        with self._store.reading():
            found = faults_of(self._store.connection)
            contracts, done = self._store.contracts(), 0
            self._require_tied(self._store.query_model().contract)
            for stored in contracts:
                for ids, _ in self._store.blocks(stored.contract, 0, changed):
                    done += len(ids)
                    if progress:
                        progress(done, sum(stored.rows for stored in contracts))
        return found + [f"the item {key!r} is not as it was enrolled" for key in changed]

    def vectors_digest(self) -> str:
        """Return the SHA-256 of every stored vector with its id and contract, in order."""
        digest = hashlib.sha256()
        with self._store.reading():
            for stored in self._store.contracts():
                digest.update(stored.contract.id.encode())
                for ids, vectors in self._store.blocks(stored.contract, 0):
                    digest.update(ids.tobytes())
                    digest.update(vectors.tobytes())
        return digest.hexdigest()

    def _edges_from(self, query: Contract) -> dict[str, Edge]:
        """Return the edges from the query model, by the id of the contract that they reach."""
        edges = [edge for edge in self._store.edges() if edge.from_contract.id == query.id]
        return {edge.to_contract.id: edge for edge in edges}

    def _require_tied(self, query: Contract) -> dict[str, Edge]:
        """Return the edges from `query`; refuse it where one to a stored contract is missing."""
        reached = self._edges_from(query)
        stored = self._store.contracts()
        untied = [s for s in stored if s.contract.id not in (query.id, *reached)]
        if not untied:
            return reached
        rows = " and ".join(f"{s.rows:,} rows of {s.contract}" for s in untied)
        raise ContractError(
            f"{query} cannot be the query model: the gallery holds {rows}, and no passed gate "
            f"ties {query} to them. Run `mixbct gate` on an evaluation of {query} against "
            f"{' and against '.join(str(s.contract) for s in untied)} and give the edge that it "
            "writes (--edge), or embed those rows again with a model that is tied (enrol --replace)"
        )


def _edge_status(edge: Edge) -> EdgeStatus:
    known = edge.model_dump(include=EdgeStatus.model_fields.keys() - {"bridge"})
    return EdgeStatus(**known, bridge=str(edge.bridge) if edge.bridge else None)


def _size_of(folder: Path) -> int:
    """Return the bytes of a folder's files; another process may delete one any time."""
    size = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            size += file.lstat().st_size if file.is_file() else 0
    return size


def _check_dimension(vectors: Float[np.ndarray, "n d"], contract: Contract) -> None:
    if vectors.shape[1] != contract.dim:
        raise FeatureError(
            f"the vectors have {vectors.shape[1]} dimensions, those of {contract} have "
            f"{contract.dim}: were they embedded by another model?"
        )


def _check_batch(keys: Sequence[str], labels: Sequence[str], vectors: int) -> None:
    if not len(keys) == len(labels) == vectors:
        raise GalleryError(
            f"{len(keys)} keys, {len(labels)} labels and {vectors} vectors do not go together; "
            "give one of each an item"
        )
    for name in (*keys, *labels):
        if _NOT_IN_NAMES.search(name):
            raise GalleryError(
                f"{name!r} cannot be a key or a label: it holds a line break, a NUL or half of a "
                "surrogate pair; name the item otherwise"
            )
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise GalleryError(
            f"{len(twice)} keys stand twice or more in the batch ({', '.join(twice[:5])}); a "
            "key names one item"
        )


def _check_edge(edge: Edge, query: Contract) -> None:
    if edge.from_contract.id != query.id:
        raise ContractError(
            f"the edge leads from {edge.from_contract} to {edge.to_contract}, but the new query "
            f"model is {query}; give the edge that `mixbct gate` wrote for that model"
        )
    dims = edge.from_contract.dim, edge.to_contract.dim
    if edge.bridge is None and dims[0] != dims[1]:
        raise ContractError(
            f"the edge ties {edge.from_contract} of {dims[0]} dimensions to {edge.to_contract} of "
            f"{dims[1]}, which cannot be compared without a bridge: fit one with `mixbct adapt`, "
            "or train the model with method.query_map"
        )
    if edge.bridge is not None:
        edge.bridge.check(edge.from_contract, edge.to_contract)
