"""The gallery: rows of several contracts, searched by one query model at a time."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32

from mixbct.data.bank import normalise
from mixbct.errors import GalleryError
from mixbct.gallery import rules
from mixbct.gallery.changes import normalised, put_batch, put_batches, refresh, undo
from mixbct.gallery.records import (
    Batch,
    EnrolReport,
    GalleryStatus,
    Hits,
    ImportReport,
    QueryModel,
    Rollback,
    Switch,
    UpgradePlan,
)
from mixbct.gallery.search import own_vectors, search
from mixbct.gallery.status import plan_of, status_of, to_build
from mixbct.gallery.store import Snapshot, Store, Tick
from mixbct.gallery.stores import create_store, open_store
from mixbct.schemas.contract import Contract
from mixbct.schemas.gate import Edge
from mixbct.schemas.record import now


class Gallery(contextlib.AbstractContextManager["Gallery"]):
    """A gallery over a store; safe for threads.

    Args:
        store: keeps the rows, and finds the nearest of them.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @classmethod
    def create(cls, place: Path | str, contract: Contract, model: Path | None = None) -> "Gallery":
        """Make an empty gallery.

        Args:
            place: a folder, which is made where it is missing, or a URL.
            contract: of the query model.
            model: the folder of that model, for whoever embeds images later.

        Raises:
            GalleryError: a gallery is already there, or none can be made at `place`.
        """
        return cls(create_store(place, QueryModel(contract, model and model.resolve())))

    @classmethod
    def open(cls, place: Path | str) -> "Gallery":
        """Open the gallery in a folder or at a URL.

        Raises:
            GalleryError: there is none, or not one that this version can read.
        """
        return cls(open_store(place))

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return self._store.place

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def __exit__(self, *error: object) -> None:
        self.close()

    def read(self) -> contextlib.AbstractContextManager[Snapshot]:
        """Enclose reads of one state of the rows, edges and switches."""
        return self._store.read()

    def query_model(self) -> QueryModel:
        """Return the model that queries are embedded with."""
        with self._store.read() as snapshot:
            return snapshot.query_model()

    def contract(self, name: str | None = None) -> Contract:
        """Return the contract of a name or id, or else the query model's; see `named_contract`."""
        with self._store.read() as snapshot:
            return rules.named_contract(snapshot, name)

    def vectors(self, keys: Sequence[str]) -> Float32[np.ndarray, "n d"]:
        """Return the vectors of the query model's own items, to search with; see `own_vectors`."""
        with self._store.read() as snapshot:
            return own_vectors(snapshot, keys)

    def enrol(
        self,
        keys: Sequence[str],
        labels: Sequence[str | None],
        vectors: Float[np.ndarray, "n d"],
        contract: Contract,
        replace: bool = False,
        progress: Tick | None = None,
    ) -> EnrolReport:
        """Store a batch, all of it or nothing.

        Args:
            keys: n names, each of one item in the whole gallery.
            labels: n class names; None: not known.
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
        batch = normalised(Batch(keys, labels, vectors, contract))
        with self._store.write() as transaction:
            replaced = put_batch(transaction, batch, replace, progress)
            rows = rules.rows_in(transaction)
        added = len(keys) - replaced
        return EnrolReport(
            gallery=self.place, contract=contract, added=added, replaced=replaced, rows=rows
        )

    def import_rows(self, batches: Iterable[Batch], replace: bool = False) -> ImportReport:
        """Store many batches, each of them whole or not at all.

        A row that is there already as it comes, with its contract, label and vector to the bit, is
        left alone: an import that was interrupted is run again, and goes on. Batches are asked for
        in a thread of its own, while those before are stored.

        Raises:
            GalleryError: as for `enrol`, which see; what came before is stored.
        """
        return put_batches(self._store, batches, replace)

    def refresh(
        self, ids: Mapping[str, int], vectors: Float[np.ndarray, "n d"], contract: Contract
    ) -> int:
        """Give items the query model's vectors, all of them or none: their backfill.

        Keys and labels stay as they are, and what the items were becomes history.

        Args:
            ids: of the rows, by key; what was enrolled or removed meanwhile is left alone.
            vectors: n vectors of any scale, in the order of `ids`.
            contract: what they were embedded under.

        Returns:
            How many were replaced.

        Raises:
            SwitchedError: `contract` is not the query model's (any more).
            FeatureError: a vector is NaN, infinite or zero, or has the wrong dimension.
            DiskFullError: nothing of the batch is stored.
        """
        with self._store.write() as transaction:
            rules.check_query(transaction, contract)
            return refresh(transaction, ids, vectors, contract)

    def hits(self) -> dict[str, int]:
        """Return how often present items were found, by key, of those that were counted."""
        with self._store.read() as snapshot:
            return snapshot.hits()

    def count_hits(self, counts: Mapping[str, int]) -> None:
        """Add to how often items were found, by key."""
        with self._store.write() as transaction:
            transaction.count_hits(counts)

    def forget_hits(self) -> None:
        """Forget all of that."""
        with self._store.write() as transaction:
            transaction.forget_hits()

    def search(
        self,
        vectors: Float[np.ndarray, "q d"],
        contract: Contract,
        k: int = 5,
        far: float | None = None,
        old: tuple[Float[np.ndarray, "p e"], Contract | None] | None = None,
    ) -> Hits:
        """Return the k nearest rows of each query; of several contracts, by their calibrations.

        Args:
            vectors: embeddings of any scale.
            contract: what they were embedded under. Only the query model's is accepted, so that
                a service that missed a switch gets an error, not wrong neighbours.
            k: hits a query, at least 1.
            far: the false-accept rate that hits are accepted at; None: that of each edge.
            old: the old model's vectors of the same queries, and its contract (None: the one that
                there is an edge for), to be mixed in where its rows are searched.

        Raises:
            SwitchedError: `contract` is not the query model's.
            ContractError: it is not tied to a stored one, or not to be mixed with the old model's.
            GalleryError: `far` cannot be decided at.
            FeatureError: a vector is NaN, infinite or zero, or becomes so behind an edge's
                bridge, or has the wrong dimension.
        """
        if k < 1:
            raise GalleryError(f"k is {k}; ask for at least 1 hit")
        with self._store.read() as snapshot:
            rules.check_query(snapshot, contract)
            rules.check_dimension(vectors, contract)
            queries = normalise(vectors)
            older = normalise(old[0]) if old else queries
            if len(older) != len(queries):
                raise GalleryError(f"{len(queries)} queries, but {len(older)} by the old model")
            rules.require_tied(snapshot, contract)
            return search(snapshot, queries, contract, k, far, (older, old[1]) if old else None)

    def switch(self, contract: Contract, *edges: Edge, model: Path | None = None) -> Switch:
        """Change which model queries and enrols, in one transaction. No stored vector is touched.

        Searches see the state before it or the one after it. Where an edge's bridge has a side for
        stored rows, the next search builds its index, unless `prepare` has.

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
            rules.check_edge(edge, contract)
        with self._store.write() as transaction:
            for edge in edges:
                transaction.add_edge(edge)
            rules.require_tied(transaction, contract)
            last = transaction.switches()[-1]
            query = QueryModel(contract, model and model.resolve())
            switch = Switch(last.number + 1, query, now(), last.number)
            if not edges and contract.id == last.model.contract.id:
                # only its folder is told anew: the way back is as it was
                switch = dataclasses.replace(switch, before=last.before, restores=last.stands_for)
            transaction.switch(switch)
        return switch

    def plan(self, contract: Contract, *edges: Edge) -> UpgradePlan:
        """Return what `switch` would change; see there."""
        with self._store.read() as snapshot:
            return plan_of(snapshot, contract, edges)

    def prepare(self, contract: Contract, *edges: Edge, progress: Tick | None = None) -> None:
        """Build what the first search after such a switch will need, while all goes on as before.

        Raises:
            FeatureError: a bridge's side for stored rows sends one of them to zero.
        """
        with self._store.read() as snapshot:
            missing = to_build(snapshot, contract, edges)
        for each, side in missing:
            self._store.prepare(each, side, progress)

    def rollback(self, *edges: Edge, leave_out: bool = False, seen: int | None = None) -> Rollback:
        """Undo the last switch that is not undone, in one transaction: a new switch that restores.

        Items that were replaced since get back what they were before it, unless they were
        replaced under the contract that is gone back to. Rows that came since stay searchable
        where a recorded or given edge allows it.

        Args:
            edges: from the model that is gone back to, to rows that came since.
            leave_out: take away what no edge ties to that model; without this it is an error.
            seen: the number of the switch that is undone, as whoever asks has seen it.

        Raises:
            GalleryError: there is nothing to go back to.
            SwitchedError: `seen` is not the last switch.
            ContractError: rows would no longer be searchable; it names them.
        """
        with self._store.write() as transaction:
            return undo(transaction, edges, leave_out, seen)

    def remove(self, keys: Collection[str]) -> int:
        """Take items out, all of them or none, and return how many; history until `prune`.

        Raises:
            GalleryError: one of them is not in the gallery.
        """
        with self._store.write() as transaction:
            gone = transaction.remove(keys)
            if missing := [*dict.fromkeys(keys).keys() - set(gone)]:
                raise GalleryError(
                    f"{len(missing)} of {len(keys)} keys are not in the gallery "
                    f"({', '.join(sorted(missing)[:5])}); nothing was removed"
                )
        return len(gone)

    def prune(self) -> int:
        """Forget what items were and earlier switches; return how many versions went.

        After that, no switch can be undone.
        """
        with self._store.write() as transaction:
            gone = transaction.prune()
        self._store.database.after_pruning(self._store)
        return gone

    def status(self) -> GalleryStatus:
        """Return what the gallery holds, and how far its index files are."""
        with self._store.read() as snapshot:
            return status_of(snapshot)

    def faults(self, progress: Tick | None = None) -> list[str]:
        """Read every row and record, and return all that is wrong with them, a line each.

        `progress` is called with (rows read, rows in all).
        """
        with self._store.read() as snapshot:
            rules.require_tied(snapshot, snapshot.query_model().contract)
            return snapshot.faults(progress)

    def vectors_digest(self) -> str:
        """Return the SHA-256 of every stored vector with its id and contract, in order."""
        digest = hashlib.sha256()
        with self._store.read() as snapshot:
            for stored in snapshot.contracts():
                digest.update(stored.contract.id.encode())
                for block in snapshot.blocks(stored.contract):
                    digest.update(block.ids.tobytes())
                    digest.update(block.vectors.tobytes())
        return digest.hexdigest()
