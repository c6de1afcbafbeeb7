"""Extraction: a source through a model, into memory or, resumable, into a feature bank."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from mixbct.backbones.model import EmbeddingModel
from mixbct.data.bank import FeatureBank, root_digest
from mixbct.data.bank_writer import BankWriter, plan_of
from mixbct.data.loader import read_ahead
from mixbct.data.source import Items, Progress, Source, pieces, unseen
from mixbct.distributed import ALONE, World
from mixbct.features.encoder import TextEncoder
from mixbct.features.stored import Embedder, StoredVectors
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
