"""Extraction: a source through a model, into memory or, resumable, into a feature bank."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from mixbct.backbones.model import EmbeddingModel
from mixbct.data.bank import FeatureBank
from mixbct.data.bank_source import root_digest
from mixbct.data.bank_writer import BankWriter, plan_of
from mixbct.data.loader import read_ahead
from mixbct.data.source import Progress, Source, pieces, unseen
from mixbct.distributed import ALONE, World
from mixbct.features.stored import Embedder, StoredVectors
from mixbct.schemas.data import BankManifest


def extract(
    model: EmbeddingModel,
    source: Source,
    out: Path,
    *,
    dtype: Literal["float16", "float32"] = "float16",
    batch: int = 512,
    resume: bool = False,
    progress: Progress = unseen,
    world: World = ALONE,
) -> FeatureBank:
    """Embed every image of `source`, in order and without augmentation, into a bank at `out`.

    Chunks of 8,192 rows are written and marked one by one; after a kill the same call with
    `resume` goes on with the first chunk that has no mark. With `resume`, a finished bank of
    the same model and data is returned as it is, and an unfinished one of more rows (of which some
    could not be read) hands over what is finished. Several processes take turns at the chunks, of
    whichever number of them the bank was begun.

    Raises:
        BankError: see `BankWriter`.
        FeatureError: the model gave NaN, infinity, a zero vector or one that `dtype` cannot hold;
            it names the images.
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
    if world.rank == 0:
        writer = BankWriter(out, manifest, source.labels(), keys, resume)
    world.wait()
    if world.rank:
        writer = BankWriter(out, manifest, source.labels(), keys, resume=True)
    missing = writer.missing()
    world.wait()  # until all have seen what is missing
    done, missing = len(source) - sum(map(len, missing)), missing[world.rank :: world.size]
    features = _embedded(source, [p for c in missing for p in pieces(c, batch)], model.embed)
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
    model: Embedder, source: Source, batch: int = 512, progress: Progress = unseen
) -> Float32[np.ndarray, "n d"]:
    """Embed every image of `source` in order, and return the raw features in memory.

    Stored vectors are looked up instead; see `StoredVectors`.
    """
    if isinstance(model, StoredVectors):
        return model.embed_source(source)
    return _in_memory(source, model.contract.dim, batch, model.embed, progress)


def embed_with_flip(
    model: EmbeddingModel, source: Source, batch: int = 256, progress: Progress = unseen
) -> Float32[np.ndarray, "n w"]:
    """Embed every image of `source` and its mirror image, read once.

    Returns:
        [n, 2 · dim] raw features: of the image, then of the mirror image. Evaluation sums them.

    Raises:
        BadImageError: an image cannot be read.
    """

    def both(images: Tensor) -> Tensor:
        return torch.cat([model.embed(images), model.embed(images.flip(2))], dim=1)

    return _in_memory(source, 2 * model.contract.dim, batch, both, progress)


def _in_memory(
    source: Source,
    width: int,
    batch: int,
    embed: Callable[[Tensor], Tensor],
    progress: Progress,
) -> Float32[np.ndarray, "n w"]:
    features = np.empty((len(source), width), dtype=np.float32)
    every = pieces(range(len(source)), batch)
    for piece, some in zip(every, _embedded(source, every, embed), strict=True):
        features[piece.start : piece.stop] = some
        progress(piece.stop, len(source))
    return features


def _embedded(
    source: Source, every: list[range], embed: Callable[[Tensor], Tensor]
) -> Iterator[Float32[np.ndarray, "n w"]]:
    """Yield the features of each piece of rows; the next images are read meanwhile."""
    for images in read_ahead(every, lambda piece: source.read(np.array(piece))):
        yield embed(torch.from_numpy(images)).cpu().numpy()
