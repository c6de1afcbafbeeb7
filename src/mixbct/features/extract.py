"""Extraction: a source through a model, into memory or, resumable, into a feature bank.

Stored vectors stand in the place of a model that is gone, or too slow to run again.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from mixbct.backbones.model import EmbeddingModel, load_model
from mixbct.data import holds_vectors
from mixbct.data.bank import FeatureBank, refuse_other_items, root_digest
from mixbct.data.bank_writer import BankWriter, plan_of
from mixbct.data.loader import read_ahead
from mixbct.data.source import Items, Progress, Source, pieces, unseen
from mixbct.distributed import ALONE, World
from mixbct.errors import BankError
from mixbct.features.encoder import TextEncoder
from mixbct.schemas.data import BankManifest


def extract(
    model: EmbeddingModel | TextEncoder,
    source: Source,
    out: Path,
    *,
    dtype: Literal["float16", "float32"] = "float16",
    batch: int = 512,
    resume: bool = False,
    progress: Progress = unseen,
    world: World = ALONE,
) -> FeatureBank:
    """Embed every image or text of `source`, in order, without augmentation, into a bank at `out`.

    Chunks of 8,192 rows are written and marked one by one; after a kill the same call with
    `resume` goes on with the first chunk that has no mark. With `resume`, a finished bank of
    the same model and data is returned as it is, and an unfinished one of more rows (of which some
    could not be read) hands over what is finished. Several processes take turns at the chunks, of
    whichever number of them the bank was begun.

    Raises:
        BankError: see `BankWriter`.
        FeatureError: the model gave NaN, infinity, a zero vector or one that `dtype` cannot hold;
            it names them.
        BadImageError: an image cannot be read.
    """
    manifest = BankManifest(
        contract=model.contract,
        data_digest=source.digest(),
        source_digest=root_digest(source),
        rows=len(source),
        dim=model.contract.dim,
        dtype=dtype,
        classes=source.classes(),
    )
    if resume and (out / "manifest.json").exists():
        bank = FeatureBank(out)
        if plan_of(bank.manifest) == plan_of(manifest):
            return bank
    keys = source.keys()
    labels = source.labels() if manifest.classes else None
    if world.rank == 0:
        writer = BankWriter(out, manifest, labels, keys, resume)
    world.wait()
    if world.rank:
        writer = BankWriter(out, manifest, labels, keys, resume=True)
    missing = writer.missing()
    world.wait()  # until all have seen what is missing
    done, missing = len(source) - sum(map(len, missing)), missing[world.rank :: world.size]
    embed = model.embed if isinstance(model, TextEncoder) else _of_arrays(model.embed)
    features = _embedded(source, [p for c in missing for p in pieces(c, batch)], embed)
    for chunk in missing:
        rows: list[np.ndarray] = []
        while sum(map(len, rows)) < len(chunk):
            rows.append(next(features))
            done += len(rows[-1]) * world.size
            progress(min(done, len(source)), len(source))
        writer.write(chunk, np.concatenate(rows), keys[chunk.start : chunk.stop])
    world.wait()
    if world.rank == 0:
        writer.finish()
    world.wait()
    return FeatureBank(out)


class StoredVectors:
    """What a model gave for some items, looked up by their keys.

    Attributes:
        contract: of the vectors.
        takes: None: any source of the items will do, since it is asked for keys alone.
        bridge: None: they are compared as they are.
    """

    takes = None
    bridge = None

    def __init__(self, bank: FeatureBank) -> None:
        self.contract = bank.manifest.contract
        self._bank = bank
        self._rows = {key: row for row, key in enumerate(bank.keys())}

    def holds(self, source: Source) -> bool:
        """Return whether there is a vector of every item."""
        return self._rows.keys() >= set(source.keys())

    def embed_source(self, source: Source) -> Float32[np.ndarray, "n d"]:
        """Return the normalised vectors of the items of `source`, in its order.

        Raises:
            BankError: an item has no vector (it names the first of them), or the bank is of other
                items with the same keys.
        """
        keys = source.keys()
        missing = [key for key in keys if key not in self._rows]
        if missing:
            raise BankError(
                f"the bank {self._bank.path} has no vector of {len(missing)} of {len(keys)} items "
                f"of {source} ({', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}): "
                "name a bank that was made of the same items"
            )
        rows = np.array([self._rows[key] for key in keys], dtype=np.int64)
        refuse_other_items(self._bank, rows, source, np.arange(len(rows)), lambda: keys)
        return self._bank.read(rows)


Embedder = EmbeddingModel | StoredVectors
"""Whatever can say where the items of a source lie in one space."""


def open_embedder(path: Path, device: str = "cpu") -> Embedder:
    """Open a model folder, the `model/` folder of a run, or a feature bank in its place.

    Raises:
        ModelError: see `load_model`.
        BankError: the bank is damaged.
    """
    return StoredVectors(FeatureBank(path)) if holds_vectors(path) else load_model(path, device)


def embed_source(
    model: Embedder,
    source: Source,
    batch: int = 512,
    progress: Progress = unseen,
    flip: bool = False,
) -> Float32[np.ndarray, "n d"]:
    """Embed every image of `source` in order, and return the raw features in memory.

    Stored vectors are looked up instead; see `StoredVectors`. With `flip` the features of each
    image and of its mirror image are summed.
    """
    if isinstance(model, StoredVectors):
        return model.embed_source(source)

    def both(images: Tensor) -> Tensor:
        return model.embed(images) + model.embed(images.flip(2))

    features = np.empty((len(source), model.contract.dim), dtype=np.float32)
    every = pieces(range(len(source)), batch)
    found = _embedded(source, every, _of_arrays(both if flip else model.embed))
    for piece, some in zip(every, found, strict=True):
        features[piece.start : piece.stop] = some
        progress(piece.stop, len(source))
    return features


def _of_arrays(embed: Callable[[Tensor], Tensor]) -> Callable[[Items], np.ndarray]:
    return lambda items: embed(torch.from_numpy(items)).cpu().numpy()


def _embedded(
    source: Source, every: list[range], embed: Callable[[Items], np.ndarray]
) -> Iterator[Float32[np.ndarray, "n w"]]:
    """Yield the features of each piece of rows; the next images are read meanwhile."""
    for items in read_ahead(every, lambda piece: source.read(np.array(piece))):
        yield embed(items)
