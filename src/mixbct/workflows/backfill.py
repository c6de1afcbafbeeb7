"""A gallery's old rows embedded again by the query model, in an order, while others search.

What is done stands in the rows themselves: a row under the query model's contract is done. So
nothing is kept beside them, a batch is there whole or not at all, and a run that was stopped or
killed at any moment is taken up by the next one.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float32
from pydantic import Field

from mixbct.backbones.model import EmbeddingModel
from mixbct.data.loader import ahead_of, read_ahead
from mixbct.data.source import Source, pieces, unseen
from mixbct.distributed import row_rng
from mixbct.errors import BadImageError, ContractError, GalleryError
from mixbct.features.ordering import Order, highest_first, least_credible, most_items
from mixbct.gallery import Gallery
from mixbct.gallery.rules import rows_in
from mixbct.gallery.store import Snapshot, Tick
from mixbct.schemas.contract import Contract
from mixbct.schemas.record import Count, Record

AT_ONCE = 512
"""Images that are embedded at once: of fewer, each takes longer."""
BETWEEN = 2.0
"""Seconds between two transactions at least, since each waits for the disk."""


class BackfillReport(Record):
    """What one run embedded again, and what is left."""

    gallery: str
    contract: Contract
    order: Order
    replaced: Count = Field(description="rows that this run embedded again")
    missing: tuple[str, ...] = Field(description="keys of old rows of which there is no image")
    unreadable: tuple[str, ...] = Field(description="keys of images that could not be read")
    own_rows: Count = Field(description="rows of the query model's own")
    rows: Count
    seconds: float


def backfill(
    gallery: Gallery,
    model: EmbeddingModel,
    images: Source,
    order: Order = "random",
    seed: int = 0,
    limit: int | None = None,
    share: float = 1.0,
    rate: float | None = None,
    progress: Tick = unseen,
) -> BackfillReport:
    """Embed rows of other models than the query model again, and put its vectors in their place.

    An item without an image, or with one that cannot be read, stays as it is and is named. One
    that was enrolled anew or removed meanwhile is left alone.

    Args:
        gallery: its history keeps what the rows were.
        model: the query model.
        images: of the items, which are known by their keys.
        order: which rows come first.
        seed: of the random order.
        limit: rows that this run may replace at most; None: any number.
        share: of all rows, which the query model's own are to reach.
        rate: images a second at most; None: as fast as it goes.
        progress: called with (rows replaced, rows to replace).

    Raises:
        ContractError: `model` is not the query model.
        GalleryError: the order is by hits, and none were counted.
    """
    began = time.perf_counter()
    with gallery.read() as snapshot:
        query = snapshot.query_model().contract
        if model.contract.id != query.id:
            raise ContractError(f"{model.contract} is not the query model, {query}")
        ids = _in_order(snapshot, query, order, seed)
        rows = rows_in(snapshot)
    at = {key: row for row, key in enumerate(images.keys())}
    missing = tuple(key for key in ids if key not in at)
    places = {key: at[key] for key in ids if key in at}
    wanted = min(len(places), round(share * rows) - (rows - len(ids)))
    wanted = max(0, wanted if limit is None else min(limit, wanted))
    places = places if wanted else {}
    size = max(1, min(AT_ONCE, wanted, round(rate or AT_ONCE)))
    unreadable: list[str] = []
    done = tried = 0
    paced = time.perf_counter()
    between = 0.0 if rate else BETWEEN
    for keys, vectors in ahead_of(_embedded(model, images, places, size, between, unreadable)):
        some = {key: ids[key] for key in keys[: wanted - done]}
        done += gallery.refresh(some, vectors[: len(some)], query)
        tried += len(keys)
        progress(done, wanted)
        if done >= wanted:
            break
        if rate:
            time.sleep(max(0.0, paced + tried / rate - time.perf_counter()))
    status = gallery.status()
    return BackfillReport(
        gallery=gallery.place,
        contract=query,
        order=order,
        replaced=done,
        missing=missing,
        unreadable=tuple(unreadable),
        own_rows=status.own_rows,
        rows=status.rows,
        seconds=time.perf_counter() - began,
    )


def _in_order(snapshot: Snapshot, query: Contract, order: Order, seed: int) -> dict[str, int]:
    """Return key and id of the rows of other models, those first that are to be first."""
    numbers: dict[str | None, int] = {None: -1}
    ids: dict[str, int] = {}
    labels: list[int] = []
    own: list[int] = []
    distances = [np.empty(0, np.float32)]
    for contract, _ in snapshot.contracts():
        old = contract.id != query.id
        here, vectors = (labels if old else own), [np.empty((0, contract.dim), np.float32)]
        start = len(here)
        for block in snapshot.blocks(contract) if old or order == "items" else ():
            here += [numbers.setdefault(name, len(numbers) - 1) for name in block.labels]
            if old:
                ids.update(zip(block.keys, block.ids.tolist(), strict=True))
                vectors += [block.vectors] if order == "credible" else []
        if order == "credible" and old:
            distances.append(least_credible(np.concatenate(vectors), np.array(here[start:])))
    hits = snapshot.hits() if order == "hits" else {}
    if order == "hits" and not hits:
        raise GalleryError(
            "no hit was ever counted: let searches count them (`mixbct gallery search "
            "--count-hits`), or choose another --order"
        )
    figures: dict[Order, Callable[[], np.ndarray]] = {
        "random": lambda: row_rng(seed, len(ids)).random(len(ids)),
        "credible": lambda: np.concatenate(distances),
        "items": lambda: most_items(np.array([*labels, *own], np.int64))[: len(ids)],
        "hits": lambda: np.array([hits.get(key, 0) for key in ids]),
    }
    keys = list(ids)
    return {keys[row]: ids[keys[row]] for row in highest_first(figures[order]())}


def _embedded(
    model: EmbeddingModel,
    images: Source,
    places: Mapping[str, int],
    size: int,
    between: float,
    unreadable: list[str],
) -> Iterator[tuple[list[str], Float32[np.ndarray, "n d"]]]:
    """Yield keys and vectors of the images at some places; those that cannot be read are named."""
    every = list(places)

    def read(piece: range) -> tuple[list[str], np.ndarray]:
        keys = every[piece.start : piece.stop]
        while keys:
            try:
                return keys, images.read(np.array([places[key] for key in keys], np.int64))
            except BadImageError as error:
                bad = set(error.keys).intersection(keys)
                if not bad:
                    raise
                unreadable.extend(key for key in keys if key in bad)
                keys = [key for key in keys if key not in bad]
        return [], np.empty(0)

    some: list[str] = []
    vectors: list[np.ndarray] = []
    began = time.perf_counter()
    for keys, found in chain(read_ahead(pieces(range(len(every)), size), read), [([], None)]):
        if keys:
            some += keys
            vectors.append(model.embed(torch.from_numpy(found)).cpu().numpy())
        if some and (found is None or time.perf_counter() - began > between):
            yield some, np.concatenate(vectors)
            some, vectors, began = [], [], time.perf_counter()
