"""A check-up of a gallery, or of whatever vectors lie in, which is only read."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mixbct.adapters import SHRUNK
from mixbct.adapters.moments import Pairs
from mixbct.backbones.model import load_model
from mixbct.data import open_source as open_images
from mixbct.data.bank import normalise
from mixbct.data.source import Selection
from mixbct.distributed import row_rng
from mixbct.errors import FeatureError, NoGalleryError
from mixbct.evaluation import checkup
from mixbct.features.extract import embed_source
from mixbct.gallery.foreign import Columns, ForeignRows, VectorSource, open_source
from mixbct.gallery.records import Stored
from mixbct.gallery.store import Snapshot, Store
from mixbct.gallery.stores import open_store
from mixbct.schemas.bridge import IDENTITY, Candidate
from mixbct.schemas.checkup import Checkup, CheckupReport
from mixbct.workflows.choose import MOST, choose
from mixbct.workflows.progress import Stage, silent

_BLOCK = 8192
_TIMED = 256

How = tuple[str | None, Columns | None, str | None, str | None, str | None]
"""Contract, columns, preset, keys and labels, as `gallery.foreign.open_source` takes them."""


def check_up(
    place: str,
    how: How,
    images: Path | None = None,
    model: Path | None = None,
    device: str = "cpu",
    stage: Stage = silent,
) -> CheckupReport:
    """Look at every contract of a gallery, or at the vectors of a file or a table.

    Args:
        place: of a gallery, or of what `gallery.foreign.open_source` opens.
        how: foreign vectors are to be read; where nothing is said of that it may be a gallery.
        images: of the stored items, which are known by their keys.
        model: the new model, whose rate of embedding is measured on some of the images.
        device: where it embeds.
        stage: opens a stage of the progress display.

    Raises:
        MixbctError: nothing that can be read is there.
    """
    wanted = None if images is None else frozenset(open_images(images).keys())
    store: Store | None = None
    with contextlib.suppress(NoGalleryError):
        store = None if any(how) else open_store(place)
    with contextlib.ExitStack() as opened:
        if store is None:
            sources = [open_source(place, how[0] or "undeclared", *how[1:])]
        else:
            opened.callback(store.close)
            snapshot = opened.enter_context(store.read())
            sources = [_stored(snapshot, each) for each in snapshot.contracts()]
        found = tuple(_one(source, wanted, stage) for source in sources)
    return CheckupReport(
        place=place,
        gallery=store is not None,
        notes=tuple(note for source in sources for note in source.notes),
        found=found,
        rate=None if images is None or model is None else _rate(images, model, device),
    )


def _stored(snapshot: Snapshot, stored: Stored) -> VectorSource:
    """Return a gallery's vectors of one contract, as they would come from elsewhere."""

    def read(_: int) -> Iterator[ForeignRows]:
        for block in snapshot.blocks(stored.contract):
            yield ForeignRows(block.keys, block.labels, block.vectors, {})

    return VectorSource(stored.contract.name, stored.contract, stored.rows, read)


def _one(source: VectorSource, wanted: frozenset[str] | None, stage: Stage) -> Checkup:
    """Look at the vectors of one contract."""
    labels: list[str | None] = []
    wrong: Counter[str] = Counter()
    with_images = 0
    with stage(f"look at {source.contract.name}") as tick:

        def blocks() -> Iterator[checkup.Block]:
            nonlocal with_images
            for batch in source.read(_BLOCK):
                labels.extend(batch.labels)
                wrong.update({why: len(rows) for why, rows in batch.bad.items()})
                with_images += len(wanted.intersection(batch.keys)) if wanted else 0
                yield batch.keys, batch.vectors
                tick(min(len(labels), source.rows), source.rows)

        readings = checkup.read(blocks(), source.rows, source.contract.dim)
    near = checkup.nearest(readings)
    return Checkup(
        contract=source.contract,
        rows=len(readings.norms),
        unreadable=dict(wrong),
        not_finite=int((~np.isfinite(readings.norms)).sum()),
        zero=int((readings.norms == 0).sum()),
        faulty=readings.faulty,
        exact_duplicates=readings.exact_duplicates,
        norms=checkup.norms_of(readings),
        space=checkup.space_of(readings, near),
        labels=checkup.labels_of(labels, readings, near),
        mixture=checkup.mixture_of(readings),
        whitening=_whitened(source, readings, labels),
        with_images=None if wanted is None else with_images,
    )


def _whitened(
    source: VectorSource, readings: checkup.Readings, labels: Sequence[str | None]
) -> tuple[Candidate, ...]:
    """Return the figures of the vectors as they lie and whitened; none where they are not known.

    Whole labels are taken, in random order, up to as many items as a choice needs.
    """
    known = np.array([label or "" for label in labels], dtype=object).astype(str)
    names, of, counts = np.unique(known, return_inverse=True, return_counts=True)
    order = row_rng(0, len(names)).permutation(len(names))
    order = order[(counts[order] > 1) & (names[order] != "")]
    picked = np.isin(of, order[np.cumsum(counts[order]) <= MOST]) & readings.fine
    if not picked.any():
        return ()
    parts, start = [], 0
    for batch in source.read(_BLOCK):
        parts.append(batch.vectors[picked[start : start + len(batch.vectors)]])
        start += len(batch.vectors)
    vectors = normalise(np.concatenate(parts))
    kinds = ((IDENTITY, None), ("whiten", SHRUNK["whiten"]))
    try:
        return choose(Pairs(vectors, vectors, of[picked]), kinds=kinds)[1][:2]
    except FeatureError:
        return ()


def _rate(images: Path, model: Path, device: str) -> float:
    """Return how many images a second the model embeds, decoding included."""
    loaded = load_model(model, device)
    source = open_images(images, loaded.takes)
    some = Selection(source, np.arange(min(len(source), _TIMED)))
    embed_source(loaded, some)  # so that what is only done once is done
    began = time.perf_counter()
    embed_source(loaded, some)
    return len(some) / (time.perf_counter() - began)
