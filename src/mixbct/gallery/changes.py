"""What changes a gallery: batches on their way into its store, and the undoing of a switch."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from mixbct.data.bank import normalise
from mixbct.data.loader import ahead_of
from mixbct.errors import ContractError, GalleryError, SwitchedError
from mixbct.gallery import rules
from mixbct.gallery.records import Batch, ImportReport, Item, Rollback, Switch, Tick
from mixbct.gallery.snapshot import Snapshot
from mixbct.gallery.store import Store
from mixbct.gallery.transaction import Transaction
from mixbct.schemas.contract import Contract
from mixbct.schemas.gate import Edge
from mixbct.schemas.record import now


def normalised(batch: Batch) -> Batch:
    """Return a batch as it is stored; refuse one that cannot be."""
    keys, labels, vectors, contract = batch
    if not len(keys) == len(labels) == len(vectors):
        raise GalleryError(
            f"{len(keys)} keys, {len(labels)} labels and {len(vectors)} vectors do not go "
            "together; give one of each an item"
        )
    for name in rules.no_names([*keys, *labels]):
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
    rules.check_dimension(vectors, contract)
    return batch._replace(vectors=normalise(vectors, list(keys)))


def put_batch(
    transaction: Transaction, batch: Batch, replace: bool, progress: Tick | None = None
) -> int:
    """Store a batch that is as it is stored; return how many rows it replaced."""
    keys, labels, vectors, contract = batch
    rules.check_enrolled(transaction, contract)
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


def put_batches(store: Store, batches: Iterable[Batch], replace: bool) -> ImportReport:
    """Store batches, a transaction each; see `Gallery.import_rows`."""
    added = replaced = unchanged = 0
    for batch in ahead_of(map(normalised, batches)):
        with store.write() as transaction:
            wanted = without_same(transaction, batch)
            again = put_batch(transaction, wanted, replace)
        unchanged += len(batch.keys) - len(wanted.keys)
        added, replaced = added + len(wanted.keys) - again, replaced + again
    with store.read() as snapshot:
        rows = rules.rows_in(snapshot)
    return ImportReport(
        gallery=store.place, added=added, replaced=replaced, unchanged=unchanged, rows=rows
    )


def without_same(snapshot: Snapshot, batch: Batch) -> Batch:
    """Return a batch without the rows that are there already to the bit."""
    there, contract = snapshot.ids(batch.keys), batch.contract.id
    if not there:
        return batch
    items, vectors = snapshot.items(there.values()), snapshot.vectors(there.values())

    def same(row: int) -> bool:
        id, item = there.get(batch.keys[row], 0), Item(batch.keys[row], batch.labels[row], contract)
        return items.get(id) == item and np.array_equal(vectors[id], batch.vectors[row])

    return batch.part([row for row in range(len(batch.keys)) if not same(row)])


def undo(
    transaction: Transaction, edges: Sequence[Edge], leave_out: bool, seen: int | None
) -> Rollback:
    """Undo the last switch that is not undone; see `Gallery.rollback`."""
    switches = transaction.switches()
    last, back = switches[-1], rules.led_back(switches, transaction.database.place)
    if seen not in (None, last.number):
        raise SwitchedError(
            f"switch {last.number} came since, at {last.time}: look at what it changed, and ask "
            "again"
        )
    query = back.model.contract
    given_back, damaged = transaction.restore(last.stands_for, keep=query)
    for edge in edges:
        rules.check_edge(edge, query)
        transaction.add_edge(edge)
    lost = [
        key
        for stored in rules.untied(transaction, query)
        for block in transaction.blocks(stored.contract)
        for key in block.keys
    ]
    if lost and not leave_out:
        raise ContractError(
            f"{len(lost)} items that came since {last.time} cannot be searched by {query} "
            f"({', '.join(lost[:5])}{', …' if len(lost) > 5 else ''}): enrol them with it "
            "(--replace), give the edge of `mixbct gate` on it against their model "
            "(--edge), or leave them out (--leave-out)"
        )
    transaction.remove(lost)
    number, restores = last.number + 1, back.stands_for
    transaction.switch(Switch(number, back.model, now(), back.before, restores))
    return Rollback(
        gallery=transaction.database.place,
        query_model=query,
        before=last.model.contract,
        given_back=len(given_back),
        left_out=tuple(lost),
        damaged=tuple(damaged),
    )
