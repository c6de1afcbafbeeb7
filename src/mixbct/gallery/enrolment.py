"""Batches of rows on their way into a store: checked, normalised, held against what is there."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float

from mixbct.data.bank import normalise
from mixbct.data.loader import ahead_of
from mixbct.errors import GalleryError
from mixbct.gallery.records import Batch, Item, Tick
from mixbct.gallery.rules import check_dimension, check_enrolled
from mixbct.gallery.snapshot import Snapshot
from mixbct.gallery.store import Store
from mixbct.gallery.transaction import Transaction
from mixbct.schemas.contract import Contract

_NOT_IN_NAMES = re.compile(r"[\0\n\ud800-\udfff]")


def normalised(batch: Batch) -> Batch:
    """Return a batch as it is stored; refuse one that cannot be."""
    keys, labels, vectors, contract = batch
    if not len(keys) == len(labels) == len(vectors):
        raise GalleryError(
            f"{len(keys)} keys, {len(labels)} labels and {len(vectors)} vectors do not go "
            "together; give one of each an item"
        )
    together = " ".join([*keys, *filter(None, labels)])
    for name in (*keys, *labels) if _NOT_IN_NAMES.search(together) else ():
        if name is not None and _NOT_IN_NAMES.search(name):
            raise GalleryError(
                f"{name!r} cannot be a key or a label: it holds a line break, a NUL or half of a "
                "surrogate pair; name the item otherwise"
            )
    if len(set(keys)) < len(keys):
        twice = [key for key, count in Counter(keys).items() if count > 1]
        raise GalleryError(
            f"{len(twice)} keys stand twice or more in the batch ({', '.join(twice[:5])}); a "
            "key names one item"
        )
    check_dimension(vectors, contract)
    return batch._replace(vectors=normalise(vectors, list(keys)))


def rows_in(snapshot: Snapshot) -> int:
    """Return how many rows a gallery has."""
    return sum(stored.rows for stored in snapshot.contracts())


def put_batch(
    transaction: Transaction, batch: Batch, replace: bool, progress: Tick | None = None
) -> int:
    """Store a batch that is as it is stored; return how many rows it replaced."""
    keys, labels, vectors, contract = batch
    check_enrolled(transaction, contract)
    held = transaction.put(keys, labels, contract, vectors, progress) if len(keys) else []
    if held and not replace:
        raise GalleryError(
            f"{len(held)} of {len(keys)} keys are in the gallery already "
            f"({', '.join(held[:5])}); leave them out, or replace these items (--replace)"
        )
    return len(held)


def refresh(
    transaction: Transaction,
    ids: Mapping[str, int],
    vectors: Float[np.ndarray, "n d"],
    contract: Contract,
) -> int:
    """Replace the vectors of those rows that are still there; see `Gallery.refresh`."""
    there = transaction.ids(ids)
    places = {key: row for row, (key, id) in enumerate(ids.items()) if there.get(key) == id}
    keys = sorted(places, key=ids.__getitem__)  # as they lie: in any order it takes twice as long
    rows = [places[key] for key in keys]
    items = transaction.items([ids[key] for key in keys])
    labels = [items[ids[key]].label for key in keys]
    if keys:
        batch = normalised(Batch(keys, labels, vectors[rows], contract))
        put_batch(transaction, batch, replace=True)
    return len(keys)


def put_batches(store: Store, batches: Iterable[Batch], replace: bool) -> dict[str, int]:
    """Store batches, a transaction each; return what came of them, as `ImportReport` counts it."""
    added = replaced = unchanged = 0
    for batch in ahead_of(map(normalised, batches)):
        with store.write() as transaction:
            wanted = without_same(transaction, batch)
            again = put_batch(transaction, wanted, replace)
        unchanged += len(batch.keys) - len(wanted.keys)
        added, replaced = added + len(wanted.keys) - again, replaced + again
    with store.read() as snapshot:
        rows = rows_in(snapshot)
    return {"added": added, "replaced": replaced, "unchanged": unchanged, "rows": rows}


def without_same(snapshot: Snapshot, batch: Batch) -> Batch:
    """Return a batch without the rows that are there already to the bit."""
    there = snapshot.ids(batch.keys)
    if not there:
        return batch
    items, vectors = snapshot.items(there.values()), snapshot.vectors(there.values())

    def same(row: int) -> bool:
        id, item = there.get(batch.keys[row], 0), Item(batch.keys[row], batch.labels[row], contract)
        return items.get(id) == item and np.array_equal(vectors[id], batch.vectors[row])

    contract = batch.contract.id
    rows = [row for row in range(len(batch.keys)) if not same(row)]
    return batch._replace(
        keys=[batch.keys[row] for row in rows],
        labels=[batch.labels[row] for row in rows],
        vectors=batch.vectors[rows],
    )
