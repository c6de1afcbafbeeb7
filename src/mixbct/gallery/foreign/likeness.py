"""Whether a source's vectors can be of the model whose rows a gallery has under the same name."""

import logging
from collections.abc import Sequence

import numpy as np

from mixbct.data.bank import normalise
from mixbct.data.foreign_bank import LEAST_COSINE, LEAST_MEAN_COSINE, LEAST_MEAN_NORM, alike
from mixbct.data.source import unseen
from mixbct.errors import ContractError
from mixbct.gallery.foreign.rows import VectorSource
from mixbct.gallery.foreign.screening import Screening
from mixbct.gallery.records import Batch
from mixbct.gallery.snapshot import Snapshot

_LOG = logging.getLogger(__name__)
_SAMPLE = 4096
# the mean of fewer vectors is long by chance
_FEWEST = round(LEAST_MEAN_NORM**-2)
_MANY = 1000  # a day's few people lie where they lie


def refuse_another_model(snapshot: Snapshot, source: VectorSource, replace: bool) -> None:
    """Refuse vectors that cannot be of the model that a gallery knows by the same name alone.

    The first rows of both are looked at: those of an item that both hold, or else, of many rows and
    classes, where they lie. Few say nothing.

    Args:
        snapshot: of the gallery.
        source: whose vectors are to be imported.
        replace: items may have changed: their vectors need not be near to those that are there.

    Where labels are missing, a warning says so instead.

    Raises:
        ContractError: the vectors differ.
        MixbctError: the source is damaged, or cannot be reached.
    """
    contract = source.contract
    known = snapshot.known(contract)
    if contract.preprocessing is not None or known is None or known.rows < _FEWEST:
        return
    if (ours := _first_rows(source)) is None or len(ours.keys) < _FEWEST:
        return
    ids = snapshot.ids(ours.keys)
    items = snapshot.items(ids.values())
    ids = {key: id for key, id in ids.items() if items[id].contract_id == contract.id}
    sure, advice = True, "choose another --contract, or give --same-model if they are that model's"
    if len(ids) >= _FEWEST:
        there = snapshot.vectors(ids.values())
        theirs = np.stack([there[id] for id in ids.values()])
        shared = normalise(ours.vectors[[key in ids for key in ours.keys]])
        # an item that changed, or some of them, make no other model
        cosine = float(np.median(np.sum(shared * theirs, axis=1)))
        fits = cosine >= (LEAST_MEAN_COSINE if replace else LEAST_COSINE)
        found = f"the median cosine over {len(ids):,} items that both hold is {cosine:.3f}"
        advice = f"if the same keys name other items, give them others; {advice}"
    else:
        block = next(snapshot.blocks(contract))
        sides = ours.labels, block.labels[:_SAMPLE]
        if not all(map(_varied, sides)):
            return
        # rows of nobody knows whom may be of one, and lie where that one lies
        sure = not any(None in labels for labels in sides)
        fits, found = alike(normalise(ours.vectors), block.vectors[:_SAMPLE])
    if fits:
        return
    place = f"{snapshot.database.place} holds other vectors under the name {contract.name!r}"
    if sure:
        raise ContractError(f"{place}: {found}; nothing was imported: {advice}")
    _LOG.warning("perhaps %s: %s; if these are another model's, stop, and %s", place, found, advice)


def _varied(labels: Sequence[str | None]) -> bool:
    """Return whether the rows are many, and of many classes where all of them have one."""
    return len(labels) >= _MANY and (None in labels or len(set(labels)) >= _FEWEST)


def _first_rows(source: VectorSource) -> Batch | None:
    """Return the good ones of a source's first rows, if there are any."""
    return next(Screening(source, skip_bad=True).batches(_SAMPLE, unseen), None)
