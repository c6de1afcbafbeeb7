"""A check-up of a gallery, or of whatever vectors lie in, which is only read."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mixbct.adapters.whiten import SHRINKAGE
from mixbct.backbones.model import load_model
from mixbct.data import open_source as open_images
from mixbct.data.bank import normalise
from mixbct.data.source import Selection
from mixbct.distributed import row_rng
from mixbct.errors import FeatureError, NoGalleryError
from mixbct.evaluation import checkup
from mixbct.features.extract import embed_source
from mixbct.gallery.foreign import UNDECLARED, Columns, open_source
from mixbct.gallery.records import Stored
from mixbct.gallery.store import Snapshot, Store
from mixbct.gallery.stores import open_store
from mixbct.schemas.bridge import IDENTITY
from mixbct.schemas.checkup import Checkup, CheckupReport, FreeGain
from mixbct.schemas.contract import Contract
from mixbct.workflows.choose import MOST, Pairs, choose
from mixbct.workflows.progress import Stage, silent

_BLOCK = 8192
_TIMED = 256

Rows = Iterator[tuple[Sequence[str], Sequence[str | None], np.ndarray, Mapping[str, Sequence[str]]]]
"""Keys, labels, vectors, and what is no vector at all: see `ForeignRows`."""


@dataclass(frozen=True)
class _Looked:
    """Vectors of one contract, as they are looked at: `read` starts anew at every call."""

    contract: Contract
    rows: int
    read: Callable[[], Rows]


def check_up(
    place: str,
    *,
    contract: str | None = None,
    columns: Columns | None = None,
    preset: str | None = None,
    keys: str | None = None,
    labels: str | None = None,
    images: Path | None = None,
    model: Path | None = None,
    device: str = "cpu",
    stage: Stage = silent,
) -> CheckupReport:
    """Look at every contract of a gallery, or at the vectors of a file or a table.

    Args:
        place: of a gallery, or of what `gallery.foreign.open_source` opens.
        contract: for foreign vectors, as the others up to `labels`; see there.
        columns: of a table.
        preset: the product whose tables they are.
        keys: where they stand.
        labels: where they stand.
        images: of the stored items, which are known by their keys.
        model: the new model, whose rate of embedding is measured on some of the images.
        device: where it embeds.
        stage: opens a stage of the progress display.

    Raises:
        MixbctError: nothing that can be read is there.
    """
    told = contract or preset or keys or labels or any(columns or ())
    store = None if told else _store(place)
    wanted = None if images is None else frozenset(open_images(images).keys())
    notes: tuple[str, ...] = ()
    if store is None:
        source = open_source(place, contract or UNDECLARED, columns, preset, keys, labels)
        notes = source.notes

        def batches() -> Rows:
            for batch in source.read(_BLOCK):
                yield batch.keys, batch.labels, batch.vectors, batch.bad

        found = [_one(_Looked(source.contract, source.rows, batches), wanted, stage)]
    else:
        with store.read() as snapshot:
            found = [
                _one(
                    _Looked(each.contract, each.rows, partial(_rows, snapshot, each)), wanted, stage
                )
                for each in snapshot.contracts()
            ]
        store.close()
    return CheckupReport(
        place=place,
        gallery=store is not None,
        notes=notes,
        found=tuple(found),
        rate=None if images is None or model is None else _rate(images, model, device),
    )


def _store(place: str) -> Store | None:
    """Return the store of the gallery at a place; None where there is none."""
    try:
        return open_store(place)
    except NoGalleryError:
        return None


def _rows(snapshot: Snapshot, stored: Stored) -> Rows:
    for block in snapshot.blocks(stored.contract):
        yield block.keys, block.labels, block.vectors, {}


def _one(looked: _Looked, wanted: frozenset[str] | None, stage: Stage) -> Checkup:
    """Look at the vectors of one contract."""
    labels: list[str | None] = []
    wrong: Counter[str] = Counter()
    with_images = 0
    with stage(f"look at {looked.contract.name}") as tick:

        def blocks() -> Iterator[checkup.Block]:
            nonlocal with_images
            for keys, names, vectors, bad in looked.read():
                labels.extend(names)
                wrong.update({why: len(rows) for why, rows in bad.items()})
                with_images += 0 if wanted is None else len(wanted.intersection(keys))
                yield keys, vectors
                tick(min(len(labels), looked.rows), looked.rows)

        readings = checkup.read(blocks(), looked.rows)
    near = checkup.nearest(readings)
    return Checkup(
        contract=looked.contract,
        rows=readings.rows,
        unreadable=dict(wrong),
        not_finite=readings.not_finite,
        zero=readings.zero,
        faulty=tuple(readings.faulty),
        exact_duplicates=readings.exact_duplicates,
        norms=checkup.norms_of(readings),
        space=checkup.space_of(readings, near),
        labels=checkup.labels_of(labels, readings, near),
        mixture=checkup.mixture_of(readings),
        whitening=_free_gain(looked, readings, labels),
        with_images=None if wanted is None else with_images,
    )


def _free_gain(
    looked: _Looked, readings: checkup.Readings, labels: list[str | None]
) -> FreeGain | None:
    """Return what whitening gives on labels that it was not fitted on; None where it is not known.

    Whole labels are taken, in random order, up to as many items as a choice needs.
    """
    known = np.array([label or "" for label in labels], dtype=object)
    names, of, counts = np.unique(known.astype(str), return_inverse=True, return_counts=True)
    usable = (counts > 1) & (names != "")
    order = row_rng(0, len(names)).permutation(len(names))
    order = order[usable[order]]
    taken = np.zeros(len(names), dtype=bool)
    taken[order[np.cumsum(counts[order]) <= MOST]] = True
    picked = taken[of] & readings.fine
    parts, start = [], 0
    for _, _, vectors, _ in looked.read():
        parts.append(vectors[picked[start : start + len(vectors)]])
        start += len(vectors)
    if not picked.any():
        return None
    vectors = normalise(np.concatenate(parts))
    kinds = ((IDENTITY, None), ("whiten", SHRINKAGE))
    try:
        _, tried = choose(Pairs(vectors, vectors, of[picked]), kinds=kinds)
    except FeatureError:
        return None
    as_it_lies, whitened = tried[:2]
    return FreeGain(
        mean_average_precision=(
            as_it_lies.mean_average_precision,
            whitened.mean_average_precision,
        ),
        true_accept_rate=(as_it_lies.true_accept_rate, whitened.true_accept_rate),
        labels=int(taken.sum()),
    )


def _rate(images: Path, model: Path, device: str) -> float:
    """Return how many images a second the model embeds, decoding included."""
    loaded = load_model(model, device)
    source = open_images(images, loaded.takes)
    some = Selection(source, np.arange(min(len(source), _TIMED)))
    embed_source(loaded, some)  # so that what is only done once is done
    began = time.perf_counter()
    embed_source(loaded, some)
    return len(some) / (time.perf_counter() - began)
